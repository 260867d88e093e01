//! What a worker says of a target that cannot take the events, as whoever asked for the run sees it.

use weir_crds::{
    backfill_job::Phase,
    contract::{
        result::{Outcome, WorkerResult},
        units::Verb,
    },
};

use super::world::World;
use crate::backfill_job::observed::Ending;

/// As a worker leaves it behind.
fn message(unit: &str, item: &str) -> WorkerResult {
    let text = format!(
        r#"{{"unit": "{unit}", "attempt": 1, "itemsDone": 0, "failures": [{{
            "code": "TargetUnsuitable", {item} "field": "spec.sinks[0].kafka.timestamps",
            "cause": "topic app_events cannot take the events: they would expire at once",
            "remedy": "raise retention.ms first; then raise runGeneration"
        }}]}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// The condition that says why the run has failed.
fn failed(world: &World) -> (String, String, String) {
    let conditions = world.job.status.clone().unwrap().conditions;
    conditions.into_iter().find(|c| c.type_ == "Failed").map(|c| (c.status, c.reason, c.message)).unwrap()
}

const SENTENCE: &str = "spec.sinks[0].kafka.timestamps: topic app_events cannot take the events: they would expire at once; \
                        raise retention.ms first; then raise runGeneration";

#[test]
fn a_target_that_planning_refuses_is_told_with_its_remedy() {
    let mut world = World::new(4);
    world.turn();
    world.end(&world.created[0].clone(), Ending::Reported(message("plan", "")));
    let decision = world.turn();
    assert_eq!((decision.phase, world.outcome.as_ref().map(|o| o.outcome)), (Phase::Failed, Some(Outcome::Failed)));
    assert_eq!(failed(&world), ("True".into(), "TargetUnsuitable".into(), SENTENCE.into()));
    assert_eq!(world.created.len(), 1, "another attempt would end alike");
}

/// After the approval, when the clock has gone on.
#[test]
fn a_target_that_publishing_refuses_is_told_with_its_remedy() {
    let mut world = World::planned(2);
    for _ in 0..50 {
        let decision = world.turn();
        if decision.phase == Phase::Failed {
            break;
        }
        for worker in world.workers.values().filter(|w| w.is_open()).cloned().collect::<Vec<_>>() {
            world.start(&worker.name);
            let how = if worker.verb == Verb::Publish {
                Ending::Reported(message(&worker.unit, r#""item": "events-0","#))
            } else {
                while !world.work(&worker.unit) {}
                Ending::Succeeded
            };
            world.end(&worker.name, how);
        }
        world.pods_ending = 0;
        world.pass(1);
    }
    let (status, reason, text) = failed(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "TargetUnsuitable"), "{text}");
    assert_eq!(text, format!("2 of 2 slices failed; the first: {SENTENCE}"));
    assert!(world.manifests.published.is_empty());
    let rows = world.job.status.unwrap().partitions;
    assert!(
        rows.iter().all(|row| row.reason.as_deref() == Some("TargetUnsuitable") && row.message.as_deref() == Some(SENTENCE)),
        "{rows:?}"
    );
}
