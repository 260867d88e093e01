//! Something that a run rests on is not what its digest says. Status names it, and nothing is guessed from it.

use weir_crds::{
    backfill_job::Phase,
    contract::{
        keys::RunKeys,
        manifest::{Extracted, Manifest},
        names::{progress_key, transactional_id},
        plan::Plan,
        progress::BucketProgress,
        result::{Failure, FailureCode, Outcome, WorkerResult, error_chain},
    },
};

use super::{
    fixture::{run_id, waits},
    world::World,
};
use crate::backfill_job::{
    decision::{Action, Decision},
    ledger_view::ViewError,
    observed::{Ending, Ledger},
    wait::Wait,
};

/// Of a condition: its status, its reason and its message.
fn condition(world: &World, kind: &str) -> (String, String, String) {
    let conditions = world.job.status.clone().unwrap().conditions;
    conditions.into_iter().find(|c| c.type_ == kind).map(|c| (c.status, c.reason, c.message)).unwrap()
}

/// A manifest in which one number is another, as it is read.
fn damaged_manifest(world: &World) -> ViewError {
    let file = world.plan.as_ref().unwrap();
    let whole = Manifest::new(run_id(1), file.hash, 1, 1.0, world.extracted(0)).to_bytes();
    let text = String::from_utf8(whole).unwrap();
    let damaged = text.replacen("\"selected\":", "\"selected\":1", 1);
    assert_ne!(text, damaged);
    let source = Manifest::<Extracted>::parse(damaged.as_bytes(), &run_id(1), file.hash).unwrap_err();
    ViewError::Manifest { key: RunKeys::new("runs", &run_id(1)).extracted("logs-00000"), source }
}

#[test]
fn what_the_operator_reads_is_named_and_nothing_goes_on_until_it_is_restored() {
    let mut world = World::planned(4);
    world.turn();
    world.work("extract-0000");
    world.turn();
    let (before, created) = (world.job.status.clone().unwrap(), world.created.len());
    let keys = RunKeys::new("runs", &run_id(1));
    let faults = [
        (damaged_manifest(&world), keys.extracted("logs-00000"), "it was damaged or edited"),
        (
            ViewError::Decode { key: keys.plan(), source: serde_json::from_str::<Plan>("{").unwrap_err() },
            keys.plan(),
            "is not the JSON that was expected",
        ),
        (ViewError::Foreign { key: keys.run() }, keys.run(), "belongs to another run"),
    ];
    for (fault, key, why) in faults {
        assert!(fault.cause().is_none(), "the store itself is fine");
        world.broken_ledger = Some(Ledger::Corrupt { message: error_chain(&fault) });
        let decision = world.turn();
        assert_eq!((decision.phase, waits(&decision)), (Phase::Running, vec![Wait::ArtifactCorrupt]), "{key}");
        let (is_stalled, reason, message) = condition(&world, "Stalled");
        assert_eq!((is_stalled.as_str(), reason.as_str()), ("True", "ArtifactCorrupt"), "{key}");
        assert!([key.as_str(), why, "restore the object"].iter().all(|part| message.contains(part)), "{key} is not in {message}");
        let status = world.job.status.clone().unwrap();
        assert!(status.message.contains(&key), "{}", status.message);
        assert_eq!((status.partitions, status.run, status.plan), (before.partitions.clone(), before.run.clone(), before.plan.clone()));
        assert_eq!((world.created.len(), world.outcome.is_some()), (created, false), "{key}");
    }
    // Stopping needs no look at the store.
    world.job.spec.suspend = true;
    let actions = world.decide().actions;
    assert!(!actions.is_empty() && actions.iter().all(|a| matches!(a, Action::DeleteJob { .. })), "{actions:?}");
    world.job.spec.suspend = false;
    world.broken_ledger = None;
    assert_eq!((world.turn().phase, condition(&world, "Stalled").0.as_str()), (Phase::Running, "False"));
}

/// Everything is done but one unit, whose workers end with this; until `is_there`.
fn run_into(world: &mut World, unit: &str, failure: &Failure, is_there: impl Fn(&World) -> bool) -> Decision {
    for _ in 0..20 {
        let decision = world.turn();
        if is_there(world) {
            return decision;
        }
        for worker in world.workers.values().filter(|w| w.is_open()).cloned().collect::<Vec<_>>() {
            let how = if worker.unit == unit {
                let (unit, attempt, failures) = (unit.to_owned(), worker.attempt, vec![failure.clone()]);
                Ending::Reported(WorkerResult { unit, attempt, items_done: 0, failures })
            } else {
                while !world.work(&worker.unit) {}
                Ending::Succeeded
            };
            world.end(&worker.name, how);
        }
    }
    panic!("it never comes to that; the run waits for {:?}", world.decide().waits);
}

fn failure(code: FailureCode, item: &str, cause: String) -> Failure {
    Failure { code, item: Some(item.to_owned()), field: None, cause, remedy: "restore it".into() }
}

fn created_of(world: &World, unit: &str) -> usize {
    world.created.iter().filter(|name| name.contains(unit)).count()
}

#[test]
fn an_artifact_that_a_worker_does_not_believe_fails_the_run_at_its_first_attempt_and_is_named() {
    let planned = World::planned(1);
    let slice = planned.plan.as_ref().unwrap().plan.slices[0].id.clone();
    let keys = RunKeys::new("runs", &run_id(1));
    for (unit, key) in [("assemble-0000", keys.extracted_part("logs-00000", "0123456789ab")), ("verify-0000", keys.staged(&slice))] {
        let cause = format!("{key}, from byte 8 on, has the digest of something else");
        let mut world = planned.clone();
        let decision = run_into(&mut world, unit, &failure(FailureCode::ArtifactCorrupt, slice.as_str(), cause), |w| w.outcome.is_some());
        assert_eq!((decision.phase, world.outcome.as_ref().map(|o| o.outcome)), (Phase::Failed, Some(Outcome::Failed)), "{unit}");
        let (is_failed, said, message) = condition(&world, "Failed");
        assert_eq!((is_failed.as_str(), said.as_str()), ("True", "ArtifactCorrupt"), "{unit}");
        assert!(message.contains(&key) && message.contains("restore it"), "{unit}: {key} is not in {message}");
        let status = world.job.status.clone().unwrap();
        assert!(status.message.contains(&key), "{unit}: {}", status.message);
        let [row] = &status.partitions[..] else { panic!("{unit}: {:?}", status.partitions) };
        assert_eq!((row.reason.as_deref(), row.attempts), (Some("ArtifactCorrupt"), Some(1)), "{unit}");
        assert!(row.message.as_ref().is_some_and(|m| m.contains(&key)), "{unit}: {:?}", row.message);
        assert_eq!(created_of(&world, unit), 1, "another attempt would end alike");
        world.broken_ledger = Some(Ledger::Unreadable { denied: false, message: "it does not answer".into() });
        world.turn();
        assert_eq!(condition(&world, "Failed"), (is_failed, said, message), "{unit}: what is known stays known");
    }
}

#[test]
fn a_progress_record_that_is_not_believed_is_named_and_the_run_goes_on_once_it_is_restored() {
    let (unit, mut world) = ("publish-0000-0", World::planned(1));
    let record = progress_key(&transactional_id("growth", "gap", "events-0"), 1);
    let not_believed = BucketProgress::parse(b"{}").unwrap_err();
    let cause = format!("the progress record {record} is not believed: {not_believed}");
    let decision = run_into(&mut world, unit, &failure(FailureCode::ProgressCorrupt, "events-0", cause), |w| {
        created_of(w, unit) > 0 && w.workers.values().filter(|w| w.is_open()).count() == 0
    });
    assert_eq!((decision.phase, world.outcome.is_some()), (Phase::Running, false));
    let (is_stalled, reason, message) = condition(&world, "Stalled");
    assert_eq!((is_stalled.as_str(), reason.as_str()), ("True", "ProgressCorrupt"));
    assert!(message.contains(&record) && message.contains("restore it"), "{record} is not in {message}");
    // It is restored.
    for _ in 0..20 {
        world.pass(60);
        world.turn();
        for worker in world.workers.values().filter(|w| w.is_open()).cloned().collect::<Vec<_>>() {
            while !world.work(&worker.unit) {}
            world.end(&worker.name, Ending::Succeeded);
        }
    }
    assert_eq!(world.outcome.as_ref().map(|o| o.outcome), Some(Outcome::Completed), "{:?}", world.decide().waits);
    assert!(created_of(&world, unit) > 1);
}
