//! What holds the records of a job's target while it runs.

use std::sync::Arc;

use serde_json::json;
use weir_crds::{
    TopicFloor,
    backfill_job::{Phase, RunHolds},
};

use super::{fixture::waits, world::World};
use crate::backfill_job::{observed::Ledger, wait::Wait};

/// A governed topic; the window began almost two days before, so that a little less than three are needed.
fn floor(retention: &str, maximum: Option<&str>, held: bool) -> Vec<Arc<TopicFloor>> {
    let holds = if held { json!([{"job": "growth/gap", "until": "2026-11-08T00:00:00Z"}]) } else { json!([]) };
    let value = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicFloor", "metadata": {"name": "f"},
        "spec": {"clusterRef": {"name": "main"}, "topic": "app_events"},
        "status": {"state": "Healthy", "retention": retention, "why": "", "headroom": "", "timeToLoss": "", "maximum": maximum, "holds": holds},
    });
    vec![Arc::new(serde_json::from_value(value).unwrap())]
}

fn held(world: &World) -> (String, String) {
    let conditions = &world.job.status.as_ref().unwrap().conditions;
    let found = conditions.iter().find(|c| c.type_ == "RetentionHeld").unwrap();
    (found.status.clone(), found.reason.clone())
}

#[test]
fn planning_waits_until_the_target_is_held() {
    let mut world = World::new(4);
    world.floors = floor("24h", None, false);
    world.turn();
    assert_eq!(waits(&world.turn()), [Wait::RetentionNotHeld]);
    assert!(world.run.is_some() && world.created.is_empty());
    assert_eq!(held(&world), ("False".into(), "NotHeldYet".into()));
    world.floors = floor("24h", None, true);
    assert_eq!(waits(&world.turn()), [Wait::RetentionNotHeld], "it is not raised yet");
    world.floors = floor("66h", None, true);
    let decision = world.turn();
    assert_eq!((decision.phase, world.created.len()), (Phase::Planning, 1));
    assert_eq!(held(&world), ("True".into(), "Held".into()));
}

#[test]
fn where_nothing_is_raised_planning_goes_on_after_a_minute() {
    let mut world = World::new(4);
    world.floors = floor("24h", None, true);
    world.turn();
    world.turn();
    world.pass(60);
    world.turn();
    assert_eq!(world.created.len(), 1, "the plan says whether the topic keeps its records for long enough");
    assert_eq!(held(&world), ("False".into(), "NotHeldYet".into()));
}

#[test]
fn a_topic_that_nobody_governs_is_not_held_and_not_waited_for() {
    let mut world = World::new(4);
    world.turn();
    world.turn();
    assert_eq!((world.created.len(), held(&world)), (1, ("False".into(), "NotGoverned".into())));
}

#[test]
fn a_hold_beyond_the_maximum_does_not_begin() {
    let mut world = World::new(4);
    world.floors = floor("24h", Some("48h"), false);
    let decision = world.turn();
    let (reason, message) = decision.failed.unwrap();
    assert_eq!((decision.phase, reason.as_str()), (Phase::Failed, "HoldBeyondMaximum"));
    for part in ["spec.window.start", "app_events", "66h", "48h", "raise floor.maximum"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert!(world.run.is_none());
    // Its owner lets it be held.
    world.floors = floor("24h", Some("66h"), false);
    assert_eq!(world.turn().phase, Phase::Planning);
}

#[test]
fn a_hold_that_nobody_renews_ends_and_says_how_to_renew_it() {
    let mut world = World::new(4);
    world.floors = floor("66h", None, true);
    world.turn();
    world.turn();
    world.floors = floor("66h", None, false);
    world.pass(72 * 3600);
    world.turn();
    assert_eq!(held(&world), ("False".into(), "HoldEnded".into()));
    let now = world.now.to_string();
    world.job.metadata.annotations.get_or_insert_default().insert("weir.dev/hold-renewed-at".into(), now);
    world.floors = floor("168h", None, true);
    world.turn();
    assert_eq!(held(&world), ("True".into(), "Held".into()));
}

fn run_holds(world: &World) -> Option<RunHolds> {
    world.job.status.as_ref().unwrap().run.as_ref()?.holds.clone()
}

fn away() -> Option<Ledger> {
    Some(Ledger::Unreadable { denied: false, message: "no answer".into() })
}

/// As a reverted commit brings it, with what was to be recovered then.
#[test]
fn what_is_held_is_what_the_run_was_begun_with_where_the_spec_goes_back() {
    let mut world = World::new(4);
    (world.job.spec.run_generation, world.floors) = (2, floor("66h", None, true));
    world.turn();
    world.make_plan();
    world.workers.clear();
    world.turn();
    let before = run_holds(&world).unwrap();
    assert_eq!(before.window_start, world.job.spec.window.start);
    assert_eq!((before.topics[0].cluster.as_str(), before.topics[0].topic.as_str()), ("main", "app_events"));
    world.job.spec.run_generation = 1;
    world.job.spec.window.start = world.job.spec.window.end.clone();
    world.job.spec.sinks[0].kafka.as_mut().unwrap().topic = "other".into();
    for ledger in [None, away()] {
        world.broken_ledger = ledger;
        assert_eq!(world.turn().phase, Phase::Running);
        assert_eq!((run_holds(&world).as_ref(), held(&world)), (Some(&before), ("True".into(), "Held".into())));
    }
}

#[test]
fn without_a_store_a_run_goes_on_and_holds_until_its_workers_have_ended_though_the_next_is_asked_for() {
    let mut world = World::planned(4);
    world.turn();
    let before = run_holds(&world);
    assert!(before.is_some() && !world.workers.is_empty());
    (world.job.spec.run_generation, world.broken_ledger) = (2, away());
    for _ in 0..2 {
        world.turn();
        assert_eq!(run_holds(&world), before);
    }
    world.workers.clear();
    world.turn();
    assert_eq!(run_holds(&world), None);
}

/// What was lost of it is all that its `TopicFloor` says.
#[test]
fn a_topic_that_nobody_governs_any_more_is_not_waited_for() {
    let mut world = World::new(4);
    let mut left = (*floor("Unknown", None, false)[0]).clone();
    left.status.as_mut().unwrap().state = "NotGoverned".into();
    world.floors = vec![Arc::new(left)];
    world.turn();
    world.turn();
    assert_eq!((world.created.len(), held(&world)), (1, ("False".into(), "NotGoverned".into())));
}
