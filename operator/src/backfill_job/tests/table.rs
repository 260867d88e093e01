//! What is decided in which situation.

use std::{sync::Arc, time::Duration};

use weir_crds::{
    backfill_class::Limits,
    backfill_job::{ApprovalMode, Phase},
    contract::result::{Failure, FailureCode, Outcome, WorkerResult},
    window::Slicing,
};

use super::{
    fixture::{self, stalled, waits},
    world::World,
};
use crate::backfill_job::{
    decision::{Action, IDLE_INTERVAL},
    observed::{Account, Claimed, Ending, Ledger},
    progress::Pace,
    status::status,
    wait::Wait,
};

type Case = (&'static str, fn(&mut World), Phase, Option<Wait>);

/// Nothing is begun in any of these.
#[test]
fn what_is_missing_before_the_run_begins() {
    let cases: [Case; 13] = [
        ("no class", |w| w.job.spec.class_name = Some("other".into()), Phase::Pending, Some(Wait::ClassMissing)),
        ("no default", |w| w.job.spec.class_name = None, Phase::Pending, Some(Wait::NoDefaultClass)),
        ("class not ready", |w| w.class.status = None, Phase::Pending, Some(Wait::ClassNotReady)),
        ("class changed", |w| w.class.metadata.generation = Some(2), Phase::Pending, Some(Wait::ClassNotReady)),
        ("cluster not ready", |w| w.cluster.status = None, Phase::Pending, Some(Wait::ClusterNotReady)),
        ("no grant", |w| w.cluster.spec.grants[0].namespaces = vec!["others".into()], Phase::Pending, Some(Wait::GrantMissing)),
        ("grant to write only", |w| w.cluster.spec.grants[0].verbs.truncate(1), Phase::Pending, Some(Wait::GrantMissing)),
        ("no account", |w| w.account = Account::Missing, Phase::Pending, Some(Wait::ServiceAccountMissing)),
        ("account not allowed", |w| w.account = Account::NotAllowed, Phase::Pending, Some(Wait::ServiceAccountNotAllowed)),
        ("too early", |w| w.now = fixture::time("2026-11-03T08:00:00Z"), Phase::Pending, Some(Wait::SourceIncomplete)),
        ("invalid", |w| w.job.spec.sources[0].columns = "ts nonsense".into(), Phase::Failed, None),
        (
            "longer than allowed",
            |w| w.class.spec.limits = Limits { max_window: "1m".parse().unwrap(), ..w.class.spec.limits.clone() },
            Phase::Failed,
            None,
        ),
        ("suspended", |w| w.job.spec.suspend = true, Phase::Suspended, None),
    ];
    for (name, change, phase, wait) in cases {
        let mut world = World::new(4);
        change(&mut world);
        let decision = world.turn();
        assert_eq!((decision.phase, decision.waits.first().map(|w| w.wait)), (phase, wait), "{name}");
        assert!(world.run.is_none() && world.created.is_empty(), "{name}: something was begun");
        assert_eq!(decision.failed.is_some(), phase == Phase::Failed, "{name}");
    }
}

/// Planning begins in the second in which the last row can have arrived, and is looked for by then.
#[test]
fn planning_waits_for_the_sources() {
    let mut world = World::new(4);
    // Folders of a day: rows of the window's last minute and its lateness are complete at midnight.
    world.now = fixture::time("2026-11-03T23:59:59Z");
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision), decision.again.as_secs()), (Phase::Pending, vec![Wait::SourceIncomplete], 1));
    assert!(decision.waits[0].message.contains("2026-11-04T00:00:00Z"), "{}", decision.waits[0].message);
    assert!(world.run.is_none() && world.created.is_empty());
    let status = world.job.status.clone().unwrap();
    let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.as_str(), c.reason.as_str()));
    assert_eq!(condition("SourcesAvailable"), Some(("False", "SourceIncomplete")));
    assert_eq!(condition("Stalled"), Some(("False", "NotStalled")));
    world.pass(1);
    assert_eq!(world.turn().phase, Phase::Planning);
    assert!(Slicing::new(&world.job.spec.window).window().end_us < world.now.as_microsecond());
}

#[test]
fn a_store_that_is_away_is_never_an_empty_one() {
    let mut world = World::planned(4);
    world.turn();
    let before = world.job.status.clone();
    world.broken_ledger = Some(Ledger::Unreadable { denied: false, message: "no answer".into() });
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Running, vec![Wait::StoreUnavailable]));
    let (before, after) = (before.unwrap(), world.job.status.clone().unwrap());
    assert_eq!((before.partitions, before.plan, before.run), (after.partitions, after.plan, after.run), "the numbers stand");
    // It comes back by itself, unless it refuses.
    assert_eq!((stalled(&world).0.as_str(), after.message.as_str()), ("False", "no answer"));
    world.broken_ledger = Some(Ledger::Unreadable { denied: true, message: "no right".into() });
    world.turn();
    assert_eq!(stalled(&world), ("True".to_owned(), "StoreDenied".to_owned()));
    world.broken_ledger = Some(Ledger::Unreadable { denied: false, message: "no answer".into() });
    // Stopping needs no store.
    world.job.spec.suspend = true;
    let decision = world.decide();
    assert_eq!(decision.actions.len(), 2, "{:?}", decision.actions);
    assert!(decision.actions.iter().all(|a| matches!(a, Action::DeleteJob { .. })));
}

#[test]
fn a_plan_that_cannot_be_made_fails_the_run() {
    let mut world = World::new(4);
    world.turn();
    let failure = Failure {
        code: FailureCode::InvalidSelect,
        item: None,
        field: Some("spec.sources[0].select".into()),
        cause: "no column idd".into(),
        remedy: "did you mean id?".into(),
    };
    let result = WorkerResult { unit: "plan".into(), attempt: 1, items_done: 0, failures: vec![failure] };
    world.end(&world.created[0].clone(), Ending::Reported(result));
    let decision = world.turn();
    assert_eq!(decision.phase, Phase::Failed);
    assert_eq!(decision.failed.unwrap(), ("InvalidSelect".into(), "spec.sources[0].select: no column idd; did you mean id?".into()));
    assert_eq!(world.created.len(), 1, "another attempt would end alike");
    world.job.spec.run_generation = 2;
    (world.run, world.outcome, world.highest) = (None, None, Some(1));
    world.failures.clear();
    let decision = world.turn();
    assert_eq!(decision.phase, Phase::Planning, "{decision:?}");
    assert!(world.created.last().unwrap().ends_with("-g2-plan-a1"));
}

#[test]
fn suspending_drains_and_resuming_goes_on() {
    let mut world = World::planned(4);
    world.turn();
    let running: Vec<String> = world.workers.keys().cloned().collect();
    running.iter().for_each(|name| world.start(name));
    world.job.spec.suspend = true;
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Running, vec![Wait::Draining]), "pods are still there");
    assert!(world.workers.is_empty() && world.pods_ending == 2);
    world.pods_ending = 0;
    assert_eq!(world.turn().phase, Phase::Suspended);
    let suspended = world.job.status.clone().unwrap().conditions.into_iter().find(|c| c.type_ == "Suspended").unwrap();
    assert_eq!(suspended.status, "True");
    world.job.spec.suspend = false;
    assert_eq!(world.turn().phase, Phase::Running);
    assert_eq!(world.workers.len(), 2);
}

/// A store that does not answer holds up neither the end of the workers nor the word that they have ended.
#[test]
fn what_is_suspended_without_a_store_says_so() {
    let mut world = World::planned(4);
    world.turn();
    let running: Vec<String> = world.workers.keys().cloned().collect();
    running.iter().for_each(|name| world.start(name));
    world.job.spec.suspend = true;
    world.broken_ledger = Some(Ledger::Unreadable { denied: false, message: "no answer".into() });
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Running, vec![Wait::StoreUnavailable, Wait::Draining]));
    let suspended = |world: &World| {
        let found = world.job.status.clone().unwrap().conditions.into_iter().find(|c| c.type_ == "Suspended").unwrap();
        (found.status, found.reason)
    };
    assert_eq!(suspended(&world), ("False".into(), "Draining".into()));
    world.pods_ending = 0;
    assert_eq!(world.turn().phase, Phase::Suspended);
    assert_eq!(suspended(&world), ("True".into(), "Suspended".into()));
    world.job.spec.suspend = false;
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Pending, vec![Wait::StoreUnavailable]));
    assert_eq!(suspended(&world), ("False".into(), "NotAsked".into()));
    world.broken_ledger = None;
    assert_eq!(world.turn().phase, Phase::Running);
}

#[test]
fn without_a_store_the_end_of_a_run_is_not_that_of_the_next() {
    let mut world = World::planned(4);
    world.job.spec.cancel = true;
    world.turn();
    assert_eq!(world.turn().phase, Phase::Canceled);
    world.broken_ledger = Some(Ledger::Unreadable { denied: false, message: "no answer".into() });
    assert_eq!(world.turn().phase, Phase::Canceled);
    (world.job.spec.cancel, world.job.spec.run_generation) = (false, 2);
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Pending, vec![Wait::StoreUnavailable]));
}

#[test]
fn a_deadline_is_looked_at_when_it_passes() {
    let mut world = World::new(4);
    world.job.spec.approval.mode = ApprovalMode::Manual;
    world.turn();
    world.make_plan();
    world.end(&world.created[0].clone(), Ending::Succeeded);
    assert_eq!(world.turn().again, IDLE_INTERVAL);
    let deadline = world.now + Duration::from_secs(90);
    world.job.spec.execution.deadline = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(deadline));
    let decision = world.turn();
    assert_eq!((decision.phase, decision.again), (Phase::AwaitingApproval, Duration::from_secs(90)));
    world.pass(90);
    let decision = world.turn();
    assert_eq!(decision.phase, Phase::Failed);
    assert!(decision.failed.unwrap().1.contains("set a later spec.execution.deadline"));
}

#[test]
fn canceling_is_terminal_in_every_phase() {
    let begun: [fn() -> World; 3] = [
        || World::new(4),
        || World::planned(4),
        || {
            let mut world = World::new(4);
            world.turn();
            world
        },
    ];
    for make in begun {
        let mut world = make();
        world.turn();
        world.job.spec.cancel = true;
        world.turn();
        world.pods_ending = 0;
        let decision = world.turn();
        assert_eq!(decision.phase, Phase::Canceled);
        assert_eq!(world.outcome.as_ref().map(|o| o.outcome), Some(Outcome::Canceled));
        world.job.spec.cancel = false;
        let created = world.created.len();
        assert_eq!(world.turn().phase, Phase::Canceled, "for good");
        assert_eq!(world.created.len(), created);
    }
}

#[test]
fn canceling_what_has_no_class_ends_it_without_a_record() {
    let mut world = World::new(4);
    world.job.spec.class_name = Some("other".into());
    world.broken_ledger = Some(Ledger::Unknown);
    assert_eq!(waits(&world.turn()), [Wait::ClassMissing]);
    world.job.spec.cancel = true;
    assert_eq!(world.turn().phase, Phase::Canceled);
}

#[test]
fn a_passed_deadline_stops_the_workers_and_fails() {
    let mut world = World::planned(4);
    world.turn();
    let names: Vec<String> = world.workers.keys().cloned().collect();
    names.iter().for_each(|n| world.start(n));
    let deadline = world.now;
    world.job.spec.execution.deadline = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(deadline));
    assert_eq!(waits(&world.turn()), [Wait::Draining]);
    assert!(world.outcome.is_none() && world.workers.is_empty());
    world.pods_ending = 0;
    let decision = world.turn();
    assert_eq!((decision.phase, decision.failed.unwrap().0.as_str()), (Phase::Failed, "DeadlineExceeded"));
    world.job.spec.execution.deadline = None;
    assert_eq!(world.turn().phase, Phase::Failed, "it stays until a new generation");
}

#[test]
fn a_job_that_is_created_again_goes_on_or_is_over_or_is_another() {
    let mut world = World::planned(4);
    world.turn();
    // Equal content: it goes on from what is there.
    let mut again = world.clone();
    again.job.status = None;
    again.workers.clear();
    assert_eq!(again.turn().phase, Phase::Running);
    // Other content under the same generation.
    let mut other = world.clone();
    other.job.status = None;
    other.workers.clear();
    other.job.spec.sources[0].select = "SELECT 1".into();
    let decision = other.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Pending, vec![Wait::SpecDiffersFromRun]));
    assert!(decision.waits[0].message.contains("sources"), "{}", decision.waits[0].message);
    assert!(other.job.status.clone().unwrap().run.is_none(), "so that the spec can still be set back");
    other.job.spec.cancel = true;
    assert_eq!(waits(&other.turn()), [Wait::SpecDiffersFromRun], "it may not cancel another's run");
    // After the end.
    world.outcome = Some(weir_crds::contract::result::OutcomeRecord {
        format: 1,
        outcome: Outcome::Completed,
        reason: "Completed".into(),
        message: String::new(),
        at: world.now,
    });
    let reason = |world: &World| world.job.status.clone().unwrap().conditions.into_iter().find(|c| c.type_ == "Complete").unwrap().reason;
    world.turn();
    assert_eq!(reason(&world), "Completed");
    world.job.status = None;
    let created = world.created.len();
    assert_eq!(world.turn().phase, Phase::Complete);
    assert_eq!((reason(&world).as_str(), world.created.len()), ("AlreadyApplied", created));
    world.turn();
    assert_eq!(reason(&world), "AlreadyApplied");
    world.job.status = None;
    world.job.spec.window.slice = "2m".parse().unwrap();
    assert_eq!(waits(&world.turn()), [Wait::SpecDiffersFromRun]);
}

#[test]
fn generations_go_up_only_and_one_at_a_time() {
    let mut world = World::planned(4);
    world.turn();
    world.job.spec.run_generation = 2;
    let (run, plan) = (world.run.clone(), world.plan.take());
    world.highest = Some(1);
    let decision = world.decide();
    assert_eq!(waits(&decision), [Wait::EarlierWorkers]);
    assert!(decision.actions.iter().all(|a| matches!(a, Action::DeleteJob { .. })) && decision.actions.len() == 2);
    world.run = None;
    assert_eq!(world.turn().phase, Phase::Planning);
    // Set back to 1, as reverting a commit does: the run of generation 2 goes on, and status says so.
    world.job.spec.run_generation = 1;
    world.job.spec.sources[0].select = "SELECT 1".into();
    let decision = world.turn();
    assert_eq!(decision.phase, Phase::Planning);
    assert!(waits(&decision).contains(&Wait::GenerationLowered), "{:?}", decision.waits);
    assert_ne!(world.run.unwrap().digest, run.unwrap().digest);
    drop(plan);
}

#[test]
fn numbers_that_do_not_add_up_stop_the_run() {
    let mut world = World::planned(1);
    world.turn();
    world.work("extract-0000");
    let mut wrong = world.extracted(0);
    wrong.late += 1;
    let chunk = wrong.chunk.clone();
    world.manifests.extracted.insert(chunk, Arc::new(crate::backfill_job::observed::Timed { body: wrong, seconds: 1.0 }));
    world.turn();
    world.pods_ending = 0;
    let decision = world.turn();
    let (reason, message) = decision.failed.unwrap();
    assert_eq!((decision.phase, reason.as_str()), (Phase::Failed, "LedgerMismatch"));
    assert!(message.contains("late 2") && message.contains("logs-00000"), "{message}");
}

#[test]
fn every_sum_is_checked() {
    use crate::backfill_job::accounting::{Mismatch, check};
    let mut world = World::planned(1);
    for unit in ["extract-0000", "assemble-0000", "publish-0000-0", "publish-0000-0", "publish-0000-1", "verify-0000"] {
        world.work(unit);
    }
    let plan = world.plan.clone().unwrap();
    assert_eq!(check(&plan.plan, &world.manifests), Ok(()));
    let broken = |change: &dyn Fn(&mut World)| {
        let mut world = world.clone();
        change(&mut world);
        check(&plan.plan, &world.manifests).unwrap_err()
    };
    let slice = plan.plan.slices[0].id.to_string();
    let extracted = |w: &mut World| Arc::make_mut(w.manifests.extracted.get_mut("logs-00000").unwrap()).body.index[0].rows += 1;
    assert!(matches!(broken(&extracted), Mismatch::Indexed { .. }));
    let staged = |w: &mut World| Arc::make_mut(w.manifests.staged.get_mut(&slice).unwrap()).body.by[0].duplicates += 1;
    assert!(matches!(broken(&staged), Mismatch::Staged { .. }));
    let both = |w: &mut World| {
        let by = &mut Arc::make_mut(w.manifests.staged.get_mut(&slice).unwrap()).body.by[0];
        by.duplicates += 1;
        by.selected += 1;
    };
    assert!(matches!(broken(&both), Mismatch::Assembled { .. }));
    let parts = |w: &mut World| Arc::make_mut(w.manifests.staged.get_mut(&slice).unwrap()).body.buckets.clear();
    assert!(matches!(broken(&parts), Mismatch::Parts { .. }));
    let key = (slice.clone(), "events-2".to_owned());
    let published = |w: &mut World| Arc::make_mut(w.manifests.published.get_mut(&key).unwrap()).body.partitions.clear();
    assert!(matches!(broken(&published), Mismatch::Published { .. }));
    let verified = |w: &mut World| Arc::make_mut(w.manifests.verified.get_mut(&slice).unwrap()).body.records -= 1;
    assert!(matches!(broken(&verified), Mismatch::Verified { .. }));
    // The sums that are shown follow the same rules.
    let sum = crate::backfill_job::accounting::totals(&world.manifests);
    assert_eq!(sum.read + sum.expanded, sum.filtered_out + sum.invalid + sum.outside_window + sum.late + sum.selected);
    assert_eq!(sum.selected, sum.duplicates + sum.quarantined - sum.invalid + sum.staged);
    assert_eq!((sum.staged, sum.verified), (sum.published + sum.already_present, sum.published));
}

#[test]
fn status_is_the_same_when_nothing_has_changed() {
    let mut world = World::planned(4);
    world.turn();
    world.turn();
    let before = world.job.status.clone();
    let seen = world.observe();
    let decision = world.decide();
    let later = world.now.checked_add(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(before.as_ref(), Some(&status(&seen, &decision, &decision.waits, &Pace::default(), later)));
}

/// Does all the work that is asked for, until nothing is.
fn run_through(world: &mut World) {
    for _ in 0..20 {
        world.turn();
        for worker in world.workers.values().filter(|w| w.is_open()).cloned().collect::<Vec<_>>() {
            while !world.work(&worker.unit) {}
            world.end(&worker.name, Ending::Succeeded);
        }
    }
}

#[test]
fn a_run_that_lies_in_another_store_is_not_begun_again() {
    let mut world = World::planned(4);
    world.turn();
    let (before, plan) = (world.job.status.clone().unwrap(), world.plan.clone());
    let run = world.run.take();
    world.plan = None;
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision), decision.actions.len()), (Phase::Running, vec![Wait::RunNotInStore], 0));
    let shown = world.job.status.clone().unwrap();
    assert_eq!((shown.run, shown.plan, shown.partitions), (before.run, before.plan, before.partitions), "what was read stands");
    assert!(shown.message.contains("growth/gap/1") && shown.message.contains("s3://artifacts/"), "{}", shown.message);
    assert_eq!(stalled(&world), ("True".to_owned(), "RunNotInStore".to_owned()));
    // Stopping needs no store.
    world.job.spec.suspend = true;
    assert_eq!(world.decide().actions.len(), 2);
    world.job.spec.suspend = false;
    (world.run, world.plan) = (run, plan);
    run_through(&mut world);
    assert_eq!(world.decide().phase, Phase::Complete);
    // And once it is over nobody is asked to do anything.
    (world.run, world.plan, world.outcome) = (None, None, None);
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision), decision.actions.len()), (Phase::Complete, vec![], 0));
    // Another run may begin there.
    world.job.spec.run_generation = 2;
    world.claims = Claimed::Nothing;
    assert!(world.decide().actions.iter().any(|a| matches!(a, Action::PutRun { .. })));
}

#[test]
fn what_is_over_is_not_stalled_by_what_came_later() {
    let mut world = World::planned(1);
    run_through(&mut world);
    world.broken_ledger = Some(Ledger::Unreadable { denied: true, message: "no right".into() });
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Complete, vec![]));
    assert_eq!(stalled(&world).0, "False");
}

#[test]
fn a_deadline_that_passes_after_the_last_slice_is_no_failure() {
    let mut world = World::planned(1);
    while !world.manifests.verified.values().any(|_| true) {
        world.turn();
        for worker in world.workers.values().filter(|w| w.is_open()).cloned().collect::<Vec<_>>() {
            while !world.work(&worker.unit) {}
            world.end(&worker.name, Ending::Succeeded);
        }
    }
    assert!(world.outcome.is_none());
    world.job.spec.execution.deadline = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now));
    assert_eq!(world.turn().phase, Phase::Complete);
}
