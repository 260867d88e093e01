//! Units of several items, some of which cannot be done: what becomes of the others, and what is said of each.

use std::sync::Arc;

use weir_crds::contract::{
    FORMAT,
    digest::Sha256Digest,
    result::{Disposition, Failure, FailureCode, FailureRecord, WorkerResult},
    units::units,
};

use super::{fixture::stalled, world::World};
use crate::backfill_job::{
    observed::{Ending, PlanFile, Timed},
    partitions,
    work::{Reason, Standing, Work},
};

const UNIT: &str = "extract-0000";

/// How a worker goes through its unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Image {
    /// What is final on record it leaves alone, what has failed comes last, and only what is away or refused ends the unit.
    Now,
    /// It knows no records, and anything but what is final ends the unit.
    Before,
}

/// All chunks are one unit, and so are all slices.
fn wide(slices: usize) -> World {
    let mut world = World::planned(slices);
    let mut plan = world.plan.as_ref().unwrap().plan.clone();
    plan.sizing.extract_bytes = 1_000_000;
    plan.sizing.slices_per_unit = 100;
    world.plan = Some(Arc::new(PlanFile { hash: Sha256Digest::of(&plan.to_bytes()), units: units(&plan), plan }));
    world
}

fn failure(code: FailureCode, item: &str) -> Failure {
    Failure { code, item: Some(item.to_owned()), field: None, cause: format!("{code:?} of {item}"), remedy: "r".into() }
}

/// Until the next attempt at the unit begins; false: there is none any more.
fn begins(world: &mut World) -> bool {
    for _ in 0..100 {
        world.turn();
        if world.workers.values().any(|w| w.is_open() && w.unit == UNIT) {
            return true;
        }
        world.pass(10);
    }
    false
}

/// An attempt at the unit, from its beginning to what the operator makes of its end.
fn attempt(world: &mut World, image: Image, fault: impl Fn(usize) -> Option<FailureCode>) {
    assert!(begins(world), "there is no further attempt after {:?}", world.created);
    let worker = world.workers.values().find(|w| w.is_open() && w.unit == UNIT).unwrap().clone();
    let chunks = world.plan.clone().unwrap().plan.chunks.clone();
    let recorded = |world: &World, chunk: usize, disposition: Disposition| {
        let failures = world.failures.values().flat_map(|record| &record.failures);
        failures.filter(|f| f.item.as_ref() == Some(&chunks[chunk].id) && f.code.disposition() == disposition).count()
    };
    let mut open: Vec<usize> = (0..chunks.len()).filter(|n| !world.manifests.extracted.contains_key(&chunks[*n].id)).collect();
    if image == Image::Now {
        open.retain(|n| recorded(world, *n, Disposition::Final) == 0);
        open.sort_by_key(|n| recorded(world, *n, Disposition::UsesAttempt));
    }
    let mut result = WorkerResult { unit: UNIT.into(), attempt: worker.attempt, items_done: 0, failures: vec![] };
    for chunk in open {
        let Some(code) = fault(chunk) else {
            let body = world.extracted(chunk);
            world.manifests.extracted.insert(body.chunk.clone(), Arc::new(Timed { body, seconds: 1.0 }));
            continue;
        };
        result.failures.push(failure(code, &chunks[chunk].id));
        let goes_on = match code.disposition() {
            Disposition::Final => true,
            Disposition::UsesAttempt => image == Image::Now,
            Disposition::Wait | Disposition::Stalled | Disposition::Yielded => false,
        };
        if !goes_on {
            break;
        }
    }
    // No more than its message holds.
    let told: WorkerResult = serde_json::from_str(&result.to_message()).unwrap();
    let how = if told.failures.is_empty() { Ending::Succeeded } else { Ending::Reported(told) };
    world.end(&worker.name, how);
    world.turn();
}

fn given_up(world: &World) -> Vec<(usize, Reason)> {
    let (seen, file) = (world.observe(), world.plan.clone().unwrap());
    Work::new(&file, seen.ledger().unwrap(), 3).failed_chunks.into_iter().collect()
}

fn reasons(world: &World) -> Vec<(usize, String)> {
    given_up(world).into_iter().map(|(chunk, reason)| (chunk, reason.reason)).collect()
}

fn is_stalled_by(world: &World, reason: &str) {
    assert_eq!(stalled(world), ("True".to_owned(), reason.to_owned()));
}

#[test]
fn what_is_final_for_one_chunk_uses_up_nothing_of_another_that_waits_for_its_cure() {
    let mut world = wide(6);
    let corrupt = |chunk: usize| (chunk == 1).then_some(FailureCode::SourceCorrupt);
    for _ in 0..10 {
        attempt(&mut world, Image::Now, |chunk| if chunk == 3 { Some(FailureCode::SourceDenied) } else { corrupt(chunk) });
    }
    assert_eq!(world.failures.len(), 1, "it is recorded once");
    is_stalled_by(&world, "SourceDenied");
    let only = [(1, "SourceCorrupt".to_owned())];
    assert_eq!(reasons(&world), only);
    // The right is granted.
    attempt(&mut world, Image::Now, corrupt);
    assert_eq!((world.manifests.extracted.len(), world.failures.len()), (5, 1));
    assert!(!begins(&mut world), "another attempt at the corrupt one would end alike");
    assert_eq!(reasons(&world), only);
}

#[test]
fn a_chunk_that_uses_up_its_attempts_uses_up_no_others() {
    let mut world = wide(6);
    let full = |chunk: usize| (chunk == 1).then_some(FailureCode::ScratchFull);
    for _ in 0..3 {
        attempt(&mut world, Image::Now, full);
        assert_eq!(world.manifests.extracted.len(), 5, "the others have their turn at once");
    }
    assert!(!begins(&mut world));
    let given_up = given_up(&world);
    let [(1, reason)] = &given_up[..] else { panic!("{given_up:?}") };
    assert_eq!((reason.reason.as_str(), reason.message.as_str(), reason.attempts), ("ScratchFull", "ScratchFull of logs-00001; r", 3));
}

/// It neither hides what stalls the others nor is used up by it.
#[test]
fn a_chunk_that_failed_comes_after_what_stalls() {
    let mut world = wide(6);
    let full = |chunk: usize| (chunk == 1).then_some(FailureCode::ScratchFull);
    for _ in 0..10 {
        attempt(&mut world, Image::Now, |chunk| if chunk == 3 { Some(FailureCode::SourceDenied) } else { full(chunk) });
    }
    assert_eq!((world.failures.len(), reasons(&world)), (1, vec![]));
    is_stalled_by(&world, "SourceDenied");
    attempt(&mut world, Image::Now, full);
    assert_eq!((world.failures.len(), world.manifests.extracted.len(), reasons(&world)), (2, 5, vec![]));
    // It was a full disk, no more.
    attempt(&mut world, Image::Now, |_| None);
    assert_eq!((world.failures.len(), world.manifests.extracted.len(), reasons(&world)), (2, 6, vec![]));
}

#[test]
fn more_final_failures_than_a_message_holds_are_all_recorded_and_no_more() {
    let mut world = wide(20);
    let corrupt = |chunk: usize| (chunk < 19).then_some(FailureCode::SourceCorrupt);
    for recorded in [1, 2, 3, 3, 3] {
        attempt(&mut world, Image::Now, |chunk| if chunk == 19 { Some(FailureCode::SourceDenied) } else { corrupt(chunk) });
        assert_eq!(world.failures.len(), recorded);
    }
    is_stalled_by(&world, "SourceDenied");
    let expected: Vec<(usize, String)> = (0..19).map(|chunk| (chunk, "SourceCorrupt".to_owned())).collect();
    assert_eq!(reasons(&world), expected);
    for (chunk, reason) in given_up(&world) {
        assert_eq!((reason.message, reason.attempts), (format!("SourceCorrupt of logs-{chunk:05}; r"), 1));
    }
    attempt(&mut world, Image::Now, corrupt);
    assert_eq!((world.failures.len(), world.manifests.extracted.len(), reasons(&world)), (3, 1, expected));
}

/// Workers that know no records say the same each time. What they never came to does not fail for another's reason.
#[test]
fn workers_of_an_earlier_image_come_to_an_end() {
    let told = |pairs: &[(usize, &str)]| pairs.iter().map(|(chunk, reason)| (*chunk, (*reason).to_owned())).collect::<Vec<_>>();
    let cases = [
        // The first says something new, twelve do not.
        (FailureCode::SourceCorrupt, 13, told(&[(1, "SourceCorrupt"), (3, "SourceDenied"), (4, "Failed"), (5, "Failed")])),
        // Three use up the attempts.
        (FailureCode::ScratchFull, 15, told(&[(1, "ScratchFull"), (2, "Failed"), (3, "Failed"), (4, "Failed"), (5, "Failed")])),
    ];
    for (code, records, expected) in cases {
        let mut world = wide(6);
        for _ in 0..records {
            attempt(&mut world, Image::Before, |chunk| match chunk {
                1 => Some(code),
                3 => Some(FailureCode::SourceDenied),
                _ => None,
            });
        }
        assert_eq!((world.failures.len(), reasons(&world)), (records, expected), "{code:?}");
        assert!(!begins(&mut world), "{code:?}");
        let (_, last) = given_up(&world).pop().unwrap();
        assert!(last.message.contains("ended before they came to it"), "{last:?}");
    }
}

/// A slice that is published and does not read back keeps no unit going whose other slices never get so far.
#[test]
fn a_unit_ends_when_its_slices_are_given_up_or_blocked() {
    let mut world = World::planned(2);
    world.work(UNIT);
    let file = world.plan.clone().unwrap();
    let slice = file.plan.slices[0].id.to_string();
    let body = world.staged(&slice);
    world.manifests.staged.insert(slice.clone(), Arc::new(Timed { body, seconds: 1.0 }));
    for bucket in file.plan.buckets() {
        let body = world.published(&slice, &bucket.id);
        world.manifests.published.insert((slice.clone(), bucket.id.clone()), Arc::new(Timed { body, seconds: 1.0 }));
    }
    let failed = [(UNIT, FailureCode::SourceCorrupt, "logs-00001"), ("verify-0000", FailureCode::VerifyMismatch, slice.as_str())];
    for (unit, code, item) in failed {
        let failures = vec![failure(code, item)];
        let record = FailureRecord { format: FORMAT, unit: unit.into(), attempt: 1, failures, at: world.now };
        world.failures.insert((unit.into(), 1), Arc::new(record));
    }
    let seen = world.observe();
    let work = Work::new(&file, seen.ledger().unwrap(), 3);
    for unit in [UNIT, "verify-0000"] {
        assert_eq!(work.standing(work.unit(unit).unwrap()), Standing::Broken, "{unit}");
    }
    let said: Vec<&str> = work.failed_slices.values().map(|reason| reason.reason.as_str()).collect();
    assert_eq!(said, ["VerifyMismatch", "SourceCorrupt"]);
}

#[test]
fn a_slices_row_counts_what_failed_of_it_and_of_the_unit_as_a_whole() {
    const ASSEMBLE: &str = "assemble-0000";
    let mut world = wide(3);
    let slices: Vec<String> = world.plan.clone().unwrap().plan.slices.iter().map(|slice| slice.id.to_string()).collect();
    let whole = Failure { item: None, ..failure(FailureCode::Internal, "") };
    for (attempt, failure) in
        (1..).zip([failure(FailureCode::ScratchFull, &slices[1]), failure(FailureCode::ScratchFull, &slices[1]), whole])
    {
        let record = FailureRecord { format: FORMAT, unit: ASSEMBLE.into(), attempt, failures: vec![failure], at: world.now };
        world.failures.insert((ASSEMBLE.into(), attempt), Arc::new(record));
    }
    let seen = world.observe();
    let view = seen.ledger().unwrap();
    let work = Work::new(view.plan.as_ref().unwrap(), view, 5);
    let attempts: Vec<Option<u32>> = partitions::rows(&work, view, &[]).iter().map(|row| row.attempts).collect();
    assert_eq!(attempts, [Some(1), Some(3), Some(1)]);
}
