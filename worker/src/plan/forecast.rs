//! How long a run will take: its units of work played through with as many workers as there may be. Pure.
//!
//! What a unit costs is known from an earlier run of the class, or else from the sample; see `rates`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use weir_crds::contract::plan::Plan;
use weir_crds::contract::units::{Items, Unit, Verb, units};

/// What work takes on the machines that it runs on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// For each byte of a source object.
    pub extract_seconds_per_byte: f64,
    /// For each selected event.
    pub assemble_seconds_per_event: f64,
    /// For each event, in one unit with all its buckets.
    pub publish_seconds_per_event: f64,
    /// For each event.
    pub verify_seconds_per_event: f64,
    /// From the end of one unit to the work of the next in its place: seeing the end, the Job, the pod, the program.
    pub unit_seconds: f64,
}

/// Seconds from the approval to the last verified slice, with `workers` at a time.
pub fn duration_seconds(plan: &Plan, workers: u32, rates: &Rates) -> f64 {
    let tasks = tasks(plan, rates);
    let mut waits_for: Vec<usize> = tasks.iter().map(|task| task.after.len()).collect();
    let mut unblocks: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    for (index, task) in tasks.iter().enumerate() {
        task.after.iter().for_each(|before| unblocks[*before].push(index));
    }
    // By their place in the plan, as the operator takes them.
    let mut ready: BinaryHeap<Reverse<usize>> = (0..tasks.len()).filter(|index| waits_for[*index] == 0).map(Reverse).collect();
    let mut running: BinaryHeap<Reverse<(Micros, usize)>> = BinaryHeap::new();
    let mut now = 0;
    loop {
        while running.len() < workers.max(1) as usize
            && let Some(Reverse(index)) = ready.pop()
        {
            running.push(Reverse((now + tasks[index].micros, index)));
        }
        let Some(Reverse((end, done))) = running.pop() else { return now as f64 / 1e6 };
        now = end;
        for next in &unblocks[done] {
            waits_for[*next] -= 1;
            if waits_for[*next] == 0 {
                ready.push(Reverse(*next));
            }
        }
    }
}

/// Whole numbers, so that they sort.
type Micros = u64;

struct Task {
    micros: Micros,
    /// What must be done before, by index.
    after: Vec<usize>,
}

fn tasks(plan: &Plan, rates: &Rates) -> Vec<Task> {
    let all = units(plan);
    let events = events_by_slice(plan);
    let buckets = plan.buckets().len().max(1) as f64;
    let of_slices = |slices: &[usize]| slices.iter().map(|slice| events[*slice]).sum::<f64>();
    let work = |unit: &Unit| match (&unit.items, unit.verb) {
        (Items::Chunks(chunks), _) => {
            chunks.iter().map(|chunk| plan.chunks[*chunk].bytes as f64).sum::<f64>() * rates.extract_seconds_per_byte
        }
        (Items::Slices(slices), Verb::Assemble) => of_slices(slices) * rates.assemble_seconds_per_event,
        (Items::Slices(slices), Verb::Plan | Verb::Extract | Verb::Publish | Verb::Verify) => {
            of_slices(slices) * rates.verify_seconds_per_event
        }
        (Items::Buckets { buckets: mine, slices }, _) => of_slices(slices) * mine.len() as f64 / buckets * rates.publish_seconds_per_event,
    };
    let seconds: Vec<f64> = all.iter().map(|unit| rates.unit_seconds + work(unit)).collect();
    let after = dependencies(plan, &all);
    seconds.into_iter().zip(after).map(|(seconds, after)| Task { micros: (seconds * 1e6) as Micros, after }).collect()
}

/// The events of each slice: those of each chunk, spread evenly over the slices that it may have events of.
fn events_by_slice(plan: &Plan) -> Vec<f64> {
    let mut events = vec![0.0; plan.slices.len()];
    let total = plan.chunks.iter().map(|chunk| chunk.bytes).sum::<u64>().max(1) as f64;
    for chunk in &plan.chunks {
        let covered: Vec<usize> = (0..plan.slices.len()).filter(|slice| chunk.may_hold(&plan.slices[*slice])).collect();
        let each = plan.estimates.events as f64 * chunk.bytes as f64 / total / covered.len().max(1) as f64;
        covered.into_iter().for_each(|slice| events[slice] += each);
    }
    events
}

/// For each unit, the units that it needs, as [`weir_crds::contract::units::state`] has it for a run without failures.
fn dependencies(plan: &Plan, all: &[Unit]) -> Vec<Vec<usize>> {
    let mut extracted_by: BTreeMap<usize, usize> = BTreeMap::new();
    let mut assembled_by: BTreeMap<usize, usize> = BTreeMap::new();
    let mut published_by: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut last_of_lane: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    let mut dependencies = Vec::with_capacity(all.len());
    for (index, unit) in all.iter().enumerate() {
        let mut after: Vec<usize> = match (&unit.items, unit.verb) {
            (Items::Chunks(chunks), _) => {
                extracted_by.extend(chunks.iter().map(|chunk| (*chunk, index)));
                Vec::new()
            }
            (Items::Slices(slices), Verb::Assemble) => {
                assembled_by.extend(slices.iter().map(|slice| (*slice, index)));
                let covers = |chunk: usize| slices.iter().any(|slice| plan.chunks[chunk].may_hold(&plan.slices[*slice]));
                extracted_by.iter().filter(|(chunk, _)| covers(**chunk)).map(|(_, unit)| *unit).collect()
            }
            (Items::Slices(slices), Verb::Plan | Verb::Extract | Verb::Publish | Verb::Verify) => {
                slices.iter().filter_map(|slice| published_by.get(slice)).flatten().copied().collect()
            }
            (Items::Buckets { buckets, slices }, _) => {
                let before = last_of_lane.insert(buckets.clone(), index);
                slices.iter().for_each(|slice| published_by.entry(*slice).or_default().push(index));
                slices.iter().filter_map(|slice| assembled_by.get(slice)).copied().chain(before).collect()
            }
        };
        after.sort_unstable();
        after.dedup();
        dependencies.push(after);
    }
    dependencies
}

/// Requests to the stores: objects and their ranges, then what a run puts and reads of its own.
pub fn requests(plan: &Plan, source_ranges: u64) -> u64 {
    let (slices, buckets, chunks) = (plan.slices.len() as u64, plan.buckets().len() as u64, plan.chunks.len() as u64);
    let covering: u64 = plan.slices.iter().map(|slice| plan.covering(slice).count() as u64).sum();
    // A chunk: manifest and data. A slice of a chunk: its manifest and a segment. A slice: its own manifest; for each bucket
    // the part, twice, and the manifest, twice; the verdict.
    source_ranges + chunks * 2 + covering * 2 + slices * (2 + 4 * buckets)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// Two hours in four slices, eight chunks of 100 bytes; 4 units of extract, 2 of assemble, 4 of publish, 2 of verify.
    fn plan() -> Plan {
        let digest = "0".repeat(64);
        let slice = |n: i64| serde_json::json!({"id": format!("20261103T0{n}0000Z"), "startUs": n * 100, "endUs": n * 100 + 100});
        let chunk = |n: i64| {
            serde_json::json!({"id": format!("logs-{n:05}"), "source": 0, "firstObject": n, "objects": 1, "bytes": 100,
                "eventTimes": {"startUs": n * 50, "endUs": n * 50 + 50}})
        };
        serde_json::from_value(serde_json::json!({
            "format": 1, "run": {"namespace": "n", "name": "j", "generation": 1}, "runDigest": digest, "workerImage": "w",
            "slices": (0..4).map(slice).collect::<Vec<_>>(), "sources": [{"name": "logs", "objects": 8, "bytes": 800}],
            "objects": {"key": "o", "sha256": digest, "bytes": 0, "rows": 8}, "chunks": (0..8).map(chunk).collect::<Vec<_>>(),
            "sinks": [{"name": "e", "cluster": "k", "clusterId": "c", "topic": "t", "topicId": "i", "partitions": 4, "maxMessageBytes": 1}],
            "resultColumns": [], "sizing": {"extractBytes": 200, "slicesPerUnit": 2, "bucketsPerUnit": 2},
            "estimates": {"events": 8000, "bytes": 800, "objects": 8}, "sampledBytes": 0
        }))
        .unwrap()
    }

    const NOTHING: Rates = Rates {
        extract_seconds_per_byte: 0.0,
        assemble_seconds_per_event: 0.0,
        publish_seconds_per_event: 0.0,
        verify_seconds_per_event: 0.0,
        unit_seconds: 0.0,
    };

    fn assert_near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-3, "{found} is not {wanted}");
    }

    #[test]
    fn one_worker_does_one_unit_after_the_other() {
        let each = Rates { unit_seconds: 5.0, ..NOTHING };
        assert_near(duration_seconds(&plan(), 1, &each), 12.0 * 5.0);
        let work = Rates {
            extract_seconds_per_byte: 0.1,
            assemble_seconds_per_event: 0.01,
            publish_seconds_per_event: 0.02,
            verify_seconds_per_event: 0.03,
            unit_seconds: 0.0,
        };
        assert_near(duration_seconds(&plan(), 1, &work), 80.0 + 80.0 + 160.0 + 240.0);
    }

    #[test]
    fn workers_wait_for_what_their_unit_needs() {
        // Extract 4, assemble 2, publish 2 lanes x 2, verify 2: with workers enough, the chain of the last slices decides, in
        // which publishing waits for the earlier slices' publishing, done by then.
        let each = Rates { unit_seconds: 5.0, ..NOTHING };
        assert_near(duration_seconds(&plan(), 100, &each), 4.0 * 5.0 + 5.0);
        assert!(duration_seconds(&plan(), 2, &each) >= 6.0 * 5.0);
        let slow = Rates { publish_seconds_per_event: 0.02, ..NOTHING };
        // Each lane has half of the buckets, and its two units follow each other.
        assert_near(duration_seconds(&plan(), 100, &slow), 80.0);
    }

    #[test]
    fn requests_grow_with_what_there_is_to_do() {
        // 8 ranges, 8 chunks x 2, 4 slices of 2 chunks x 2, 4 slices x (2 + 4 x 4 buckets).
        assert_eq!(requests(&plan(), 8), 8 + 16 + 16 + 72);
    }
}
