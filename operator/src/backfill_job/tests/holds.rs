//! What holds the records of a job's target while it runs.

use std::sync::Arc;

use serde_json::json;
use weir_crds::{TopicFloor, backfill_job::Phase};

use super::{fixture::waits, world::World};
use crate::backfill_job::wait::Wait;

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
