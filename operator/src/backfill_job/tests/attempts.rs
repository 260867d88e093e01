//! What follows from workers that do not start, go silent, fail or are refused something.

use std::collections::BTreeMap;

use weir_crds::{
    backfill_job::Phase,
    contract::result::{Failure, FailureCode, WorkerResult},
};

use super::{
    fixture::{jobs, stalled, waits},
    world::World,
};
use crate::backfill_job::{
    decision::Action,
    observed::{Ending, WorkerState},
    wait::Wait,
};

#[test]
fn a_worker_that_cannot_start_says_why() {
    let mut world = World::planned(4);
    world.turn();
    let name = world.created.last().unwrap().clone();
    world.block(&name, "FailedMount");
    let decision = world.turn();
    assert_eq!(waits(&decision), [Wait::WorkerCannotStart]);
    assert!(decision.waits[0].message.contains("FailedMount"));
    assert_eq!(stalled(&world), ("True".to_owned(), "WorkerCannotStart".to_owned()));
    let attempts = world.created.len();
    world.start(&name);
    world.turn();
    assert_eq!((stalled(&world).0.as_str(), world.created.len()), ("False", attempts), "the cured pod itself goes on");
}

/// A pod keeps its node selector and all else that its class gave it; a class that is mended cures it all the same.
#[test]
fn a_worker_that_cannot_start_is_replaced_when_another_would_be_asked_for() {
    let mut world = World::planned(4);
    world.turn();
    let names = world.created.clone();
    let (blocked, running) = (names[names.len() - 1].clone(), names[names.len() - 2].clone());
    world.block(&blocked, "Unschedulable");
    world.start(&running);
    world.class.spec.workers.node_selector = [("pool".to_owned(), "other".to_owned())].into();
    let decision = world.decide();
    let deleted: Vec<&Action> = decision.actions.iter().filter(|a| matches!(a, Action::DeleteJob { .. })).collect();
    assert!(matches!(&deleted[..], [Action::DeleteJob { name, .. }] if *name == blocked), "{deleted:?}");
    world.turn();
    assert!(world.workers.contains_key(&running), "what runs goes on");
    let (unit, next) = (blocked.trim_end_matches("-a1"), world.created.last().unwrap().clone());
    assert!(next.starts_with(unit), "{next} instead of {blocked}");
    // The new one is what would be asked for, and is left alone.
    world.block(&next, "Unschedulable");
    assert!(world.decide().actions.is_empty());
    assert!(world.failures.is_empty());
}

#[test]
fn the_next_attempt_begins_beside_a_silent_one() {
    let mut world = World::planned(1);
    world.turn();
    let name = world.created.last().unwrap().clone();
    world.start(&name);
    world.pass(599);
    assert!(jobs(&world.decide()).is_empty());
    world.pass(2);
    let decision = world.turn();
    assert_eq!(world.created.len(), 3, "{decision:?}");
    assert!(world.workers.contains_key(&name), "the silent one is left alone");
    assert!(world.created[2].ends_with("-extract-0000-a2"));
    // When the unit is done the silent one is cleaned up.
    world.work("extract-0000");
    world.turn();
    assert!(!world.workers.contains_key(&name));
}

#[test]
fn a_unit_that_takes_hours_more_than_planned_is_done_all_the_same() {
    const MINUTES: u32 = 180;
    let mut world = World::planned(1);
    world.turn();
    let mut begun: BTreeMap<String, u32> = BTreeMap::new();
    for minute in 0..10 * MINUTES {
        for name in world.workers.keys().cloned().collect::<Vec<_>>() {
            if !begun.contains_key(&name) {
                begun.insert(name.clone(), minute);
                world.start(&name);
            }
        }
        if world.workers.keys().any(|name| minute - begun[name] >= MINUTES) {
            assert!(world.created.len() <= 7, "{:?}", world.created);
            return;
        }
        world.turn();
        world.pass(60);
    }
    panic!("no attempt had the time: {:?}", world.created);
}

#[test]
fn the_next_attempt_begins_beside_one_on_a_lost_node() {
    for begun in [true, false] {
        let mut world = World::planned(1);
        world.turn();
        let name = world.created.last().unwrap().clone();
        if begun {
            world.start(&name);
        }
        world.silence(&name);
        world.turn();
        assert_eq!(world.created.len(), 3, "begun: {begun}");
        let second = world.created[2].clone();
        assert!(second.ends_with("-extract-0000-a2") && world.workers.contains_key(&name));
        // It comes back: both go on, and nothing third begins.
        world.start(&name);
        world.start(&second);
        world.turn();
        assert_eq!((world.created.len(), world.workers.len()), (3, 2));
        world.work("extract-0000");
        world.end(&second, Ending::Succeeded);
        world.end(&name, Ending::Disrupted { reason: "NodeLost".into(), message: String::new() });
        world.turn();
        assert!(world.failures.is_empty() && !world.workers.contains_key(&name) && !world.workers.contains_key(&second));
        assert!(world.created.last().unwrap().ends_with("-assemble-0000-a1"), "{:?}", world.created);
    }
}

/// The lost one was not lost, and did the work: its replacement, which never got to begin, holds nothing up.
#[test]
fn a_worker_that_has_not_begun_is_not_needed_for_what_is_done() {
    let mut world = World::planned(1);
    world.turn();
    let first = world.created.last().unwrap().clone();
    world.start(&first);
    world.silence(&first);
    world.turn();
    let second = world.created.last().unwrap().clone();
    world.block(&second, "Unschedulable");
    assert_eq!(waits(&world.turn()), [Wait::WorkerCannotStart]);
    world.work("extract-0000");
    let decision = world.turn();
    assert!(!world.workers.contains_key(&second) && waits(&decision).is_empty(), "{decision:?}");
}

#[test]
fn silent_workers_do_not_pile_up() {
    let mut world = World::planned(1);
    world.turn();
    for attempt in 1..6 {
        let name = world.created.last().unwrap().clone();
        assert!(name.ends_with(&format!("-extract-0000-a{attempt}")), "{name}");
        world.start(&name);
        world.silence(&name);
        world.turn();
        assert!(world.workers.len() <= 3, "{:?}", world.workers.keys());
    }
    assert!(world.failures.is_empty());
}

#[test]
fn attempts_wait_longer_each_time_and_then_the_slice_fails() {
    let mut world = World::planned(4);
    world.turn();
    for attempt in 1..=3u32 {
        let name = world.workers.values().filter(|w| w.unit == "extract-0000").max_by_key(|w| w.attempt).unwrap().name.clone();
        assert!(name.ends_with(&format!("-a{attempt}")));
        world.end(&name, Ending::Crashed { reason: "Error".into(), message: "exit code 101".into() });
        let decision = world.turn();
        assert_eq!(world.failures.len() as u32, attempt);
        if attempt < 3 {
            assert!(waits(&decision).contains(&Wait::Backoff), "{decision:?}");
            assert!(
                world.workers[&name].state != WorkerState::Starting { problem: None, node_silent: false },
                "its log can be looked at meanwhile"
            );
            world.pass(if attempt == 1 { 9 } else { 19 });
            assert!(jobs(&world.decide()).is_empty());
            world.pass(2);
            world.turn();
        }
    }
    // The other chunks go on; with PerKey nothing may overtake the slices that failed.
    assert_eq!(world.decide().phase, Phase::Running);
    let other = world.workers.values().find(|w| w.is_open()).unwrap().clone();
    while !world.work(&other.unit) {}
    world.end(&other.name, Ending::Succeeded);
    let mut decision = world.turn();
    for _ in 0..20 {
        let open: Vec<_> = world.workers.values().filter(|w| w.is_open()).cloned().collect();
        for worker in open {
            while !world.work(&worker.unit) {}
            world.end(&worker.name, Ending::Succeeded);
        }
        decision = world.turn();
        if world.outcome.is_some() {
            break;
        }
    }
    assert_eq!(decision.phase, Phase::Failed, "{decision:?}");
    let rows = world.job.status.clone().unwrap().partitions;
    assert!(rows.iter().any(|r| r.reason.as_deref() == Some("Internal") && r.attempts == Some(3)), "{rows:?}");
}

/// Somebody must act, and sees it without a break until a worker gets further.
#[test]
fn what_stalls_a_worker_is_said_until_the_next_one_gets_further() {
    let mut world = World::planned(1);
    world.turn();
    let failure = |code| Failure { code, item: None, field: None, cause: "no right to read".into(), remedy: "grant it".into() };
    let result = |code| WorkerResult { unit: "extract-0000".into(), attempt: 1, items_done: 0, failures: vec![failure(code)] };
    let first = world.created.last().unwrap().clone();
    world.end(&first, Ending::Reported(result(FailureCode::SourceDenied)));
    world.turn();
    assert_eq!(stalled(&world), ("True".to_owned(), "SourceDenied".to_owned()));
    assert!(world.failures.is_empty(), "nothing is used up");
    world.pass(6);
    world.turn();
    let second = world.created.last().unwrap().clone();
    assert!(second.ends_with("-a2") && stalled(&world).0 == "True", "{second}");
    world.start(&second);
    world.pass(9);
    world.turn();
    assert_eq!(stalled(&world).0, "True");
    world.pass(1);
    world.turn();
    assert_eq!(stalled(&world).0, "False");
    assert!(!world.workers.contains_key(&first));
    // An outage is told, but it stalls nothing, and it is over as soon as the next one runs.
    world.end(&second, Ending::Reported(result(FailureCode::SourceUnavailable)));
    world.turn();
    let status = world.job.status.clone().unwrap();
    assert_eq!((stalled(&world).0.as_str(), status.message.contains("no right to read")), ("False", true));
    let available = status.conditions.into_iter().find(|c| c.type_ == "SourcesAvailable").unwrap();
    assert_eq!((available.status.as_str(), available.reason.as_str()), ("False", "SourceUnavailable"));
    world.pass(11);
    world.turn();
    let third = world.created.last().unwrap().clone();
    assert!(third.ends_with("-a3") && waits(&world.decide()) == [Wait::Worker(FailureCode::SourceUnavailable)], "{third}");
    world.start(&third);
    assert_eq!(waits(&world.turn()), []);
    let conditions = world.job.status.clone().unwrap().conditions;
    assert!(conditions.iter().any(|c| c.type_ == "SourcesAvailable" && c.status == "True"), "{conditions:?}");
    assert!(world.failures.is_empty());
}

#[test]
fn outages_never_stall() {
    for code in [FailureCode::StoreUnavailable, FailureCode::KafkaUnavailable, FailureCode::SourceUnavailable] {
        assert!(!Wait::Worker(code).stalls(), "{code:?}");
    }
    for code in [FailureCode::StoreDenied, FailureCode::KafkaDenied, FailureCode::SourceDenied, FailureCode::TopicMissing] {
        assert!(Wait::Worker(code).stalls(), "{code:?}");
    }
    assert!(!Wait::StoreUnavailable.stalls() && !Wait::ProgressTopicUnavailable.stalls() && Wait::ProgressTopicRefused.stalls());
}
