//! A plan and the approval of it.

use weir_crds::backfill_job::{ApprovalMode, Phase};

use super::{fixture::waits, world::World};
use crate::backfill_job::{
    decision::Action,
    observed::{Claimed, Ending},
    wait::Wait,
};

#[test]
fn approval_is_of_this_very_plan() {
    let mut world = World::new(4);
    world.job.spec.approval.mode = ApprovalMode::Manual;
    world.turn();
    assert_eq!(world.created, ["gap-".to_owned() + &world.created[0][4..12] + "-g1-plan-a1"]);
    world.make_plan();
    world.end(&world.created[0].clone(), Ending::Succeeded);
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::AwaitingApproval, vec![Wait::Approval]));
    let hash = world.plan.as_ref().unwrap().hash_text();
    let plan = world.job.status.clone().unwrap().plan.unwrap();
    assert!(plan.approve_command.is_some_and(|c| c.contains(&hash) && c.contains("gap") && c.contains("growth")));
    world.job.spec.approval.plan_hash = Some(format!("sha256:{}", "0".repeat(64)));
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::AwaitingApproval, vec![Wait::PlanHashMismatch]));
    assert!(decision.waits[0].message.contains(&hash) && decision.waits[0].message.contains("sha256:0000"));
    world.job.spec.approval.plan_hash = Some(hash);
    let decision = world.turn();
    assert_eq!(decision.phase, Phase::Running);
    assert!(world.topics.contains("main"), "publishers need their progress topic");
    assert_eq!(world.workers.len(), 2, "two extract units: {:?}", world.created);
    assert!(world.job.status.clone().unwrap().plan.unwrap().approve_command.is_none());
}

#[test]
fn an_approval_that_is_taken_back_stops_the_workers() {
    let mut world = World::planned(4);
    world.job.spec.approval.mode = ApprovalMode::Manual;
    world.job.spec.approval.plan_hash = Some(world.plan.as_ref().unwrap().hash_text());
    world.turn();
    let running = world.workers.len();
    world.workers.keys().cloned().collect::<Vec<_>>().iter().for_each(|name| world.start(name));
    world.job.spec.approval.plan_hash = None;
    let decision = world.decide();
    assert_eq!((decision.phase, waits(&decision)), (Phase::AwaitingApproval, vec![Wait::Draining]));
    let deleted = decision.actions.iter().filter(|a| matches!(a, Action::DeleteJob { .. })).count();
    assert!(running > 0 && deleted == running, "{:?}", decision.actions);
    let decision = world.turn();
    assert_eq!((waits(&decision), world.workers.len()), (vec![Wait::Approval], 0));
}

/// As a reverted commit brings it, with the hash that was approved then.
#[test]
fn an_approval_that_was_given_stands_where_the_spec_goes_back() {
    let mut world = World::new(4);
    world.job.spec.approval.mode = ApprovalMode::Manual;
    world.job.spec.run_generation = 2;
    world.turn();
    world.make_plan();
    world.workers.clear();
    let (hash, earlier) = (world.plan.as_ref().unwrap().hash_text(), format!("sha256:{}", "0".repeat(64)));
    (world.job.spec.run_generation, world.job.spec.approval.plan_hash) = (1, Some(earlier.clone()));
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::AwaitingApproval, vec![Wait::PlanHashMismatch, Wait::GenerationLowered]));
    (world.job.spec.run_generation, world.job.spec.approval.plan_hash) = (2, Some(hash));
    world.turn();
    let running = world.workers.len();
    assert!(world.claims == Claimed::Taken && running > 0, "{:?}", world.created);
    (world.job.spec.run_generation, world.job.spec.approval.plan_hash) = (1, Some(earlier));
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Running, vec![Wait::GenerationLowered]));
    assert_eq!(world.workers.len(), running);
}
