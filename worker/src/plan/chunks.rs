//! Objects to chunks, and the work to Jobs of minutes. Pure.

use weir_crds::contract::plan::{CHUNKS_MAX, Plan, PlannedChunk, Sizing};
use weir_crds::contract::run::RunSpec;
use weir_crds::window::Interval;

use super::error::PlanError;
use crate::source::{SourceObject, arrival};

/// A chunk is read again wholly when its worker dies, and its selected rows must fit the scratch disk.
const CHUNK_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Below this the cost of a manifest and two parts outweighs what is gained by reading side by side.
const CHUNK_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Chunks for each worker that runs at once, so that none waits long for the last one.
const CHUNKS_PER_WORKER: u64 = 4;
/// A chunk that has this part of its size ends where the arrival changes, so that its slices wait for less.
const EARLY_END_DIVISOR: u64 = 4;
/// Compressed bytes that a worker reads in minutes.
const EXTRACT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// A run has at most 2,000 Jobs: so many read,
const EXTRACT_UNITS_MAX: u64 = 900;
/// and so many groups of slices are assembled, published by up to eight lanes, and verified.
const SLICE_GROUPS_MAX: u64 = 100;
/// Source bytes whose events make minutes of assembling and publishing.
const SLICE_GROUP_BYTES: u64 = 1024 * 1024 * 1024;
/// Groups of slices for each worker that runs at once.
const SLICE_GROUPS_PER_WORKER: u64 = 2;

/// How the sources are read.
#[derive(Debug)]
pub struct Layout {
    /// All chunks, source by source.
    pub chunks: Vec<PlannedChunk>,
    /// Extraction's part of it; see [`size_by_target`] for the rest.
    pub sizing: Sizing,
}

/// Groups the objects of each source, in their order, to chunks of whole objects.
pub fn lay_out(spec: &RunSpec, lists: &[Vec<SourceObject>], parallelism: u32) -> Result<Layout, PlanError> {
    let total: u64 = lists.iter().flatten().map(|object| object.size).sum();
    let workers = u64::from(parallelism.max(1));
    // Two neighbours have more than a chunk's early end together, so this keeps their number within the bound.
    let floor = 2 * EARLY_END_DIVISOR * total / (CHUNKS_MAX as u64 - lists.len() as u64).max(1);
    let target = (total / (workers * CHUNKS_PER_WORKER)).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).max(floor);
    let mut chunks = Vec::new();
    let mut first_object = 0;
    for (index, (source, objects)) in spec.sources.iter().zip(lists).enumerate() {
        let event_times = |object: &SourceObject| object.arrival.map(|arrived| arrival::event_times(source, arrived));
        for (number, group) in group(objects, target).into_iter().enumerate() {
            let members = &objects[group.clone()];
            chunks.push(PlannedChunk {
                id: format!("{}-{:05}", source.name, number + 1),
                source: u16::try_from(index).unwrap_or(u16::MAX),
                first_object: first_object + u32::try_from(group.start).unwrap_or(u32::MAX),
                objects: u32::try_from(members.len()).unwrap_or(u32::MAX),
                bytes: members.iter().map(|object| object.size).sum(),
                event_times: members.iter().map(event_times).reduce(hull).flatten(),
            });
        }
        first_object += u32::try_from(objects.len()).unwrap_or(u32::MAX);
    }
    if chunks.len() > CHUNKS_MAX {
        return Err(PlanError::TooManyChunks { chunks: chunks.len() });
    }
    let per_unit = (total / (workers * 2)).clamp(target, EXTRACT_BYTES_MAX.max(target)).max(2 * total / EXTRACT_UNITS_MAX);
    Ok(Layout { chunks, sizing: Sizing { extract_bytes: per_unit, slices_per_unit: 1, buckets_per_unit: 1 } })
}

/// The rest of the sizing, which needs the targets' buckets.
pub fn size_by_target(plan: &Plan, parallelism: u32) -> Sizing {
    let workers = u64::from(parallelism.max(1));
    let slices = plan.slices.len() as u64;
    let buckets = plan.buckets().len() as u64;
    let groups = (plan.estimates.bytes / SLICE_GROUP_BYTES).max(workers * SLICE_GROUPS_PER_WORKER).clamp(1, SLICE_GROUPS_MAX);
    let lanes = buckets.clamp(1, workers);
    Sizing {
        slices_per_unit: u32::try_from(slices.div_ceil(groups)).unwrap_or(u32::MAX).max(1),
        buckets_per_unit: u32::try_from(buckets.div_ceil(lanes)).unwrap_or(u32::MAX).max(1),
        ..plan.sizing
    }
}

fn hull(a: Option<Interval>, b: Option<Interval>) -> Option<Interval> {
    let (a, b) = (a?, b?);
    Some(Interval { start_us: a.start_us.min(b.start_us), end_us: a.end_us.max(b.end_us) })
}

fn group(objects: &[SourceObject], target: u64) -> Vec<std::ops::Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (index, object) in objects.iter().enumerate() {
        let is_full = bytes + object.size > target;
        let arrives_later = index > start && object.arrival != objects[index - 1].arrival;
        if index > start && (is_full || (arrives_later && bytes >= target / EARLY_END_DIVISOR)) {
            groups.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += object.size;
    }
    if start < objects.len() {
        groups.push(start..objects.len());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn object(n: i64, hour: i64, size: u64) -> SourceObject {
        SourceObject {
            bucket: "b".into(),
            key: format!("{hour:02}/{n:05}"),
            version: None,
            etag: "e".into(),
            size,
            arrival: Some(Interval { start_us: hour * 100, end_us: hour * 100 + 100 }),
        }
    }

    #[test]
    fn groups_are_whole_in_order_and_of_the_size_asked_for() {
        let objects: Vec<_> = (0..100).map(|n| object(n, n / 10, 3 * MIB)).collect();
        let groups = group(&objects, 8 * MIB);
        let covered: Vec<usize> = groups.iter().cloned().flatten().collect();
        assert_eq!(covered, (0..100).collect::<Vec<_>>());
        assert!(groups.iter().all(|g| g.len() <= 2));
        // None spans two hours, since even one object is past the early end.
        assert!(groups.iter().all(|g| objects[g.start].arrival == objects[g.end - 1].arrival));
    }

    #[test]
    fn small_hours_go_together_and_a_large_object_alone() {
        let small: Vec<_> = (0..20).map(|n| object(n, n, MIB / 10)).collect();
        let groups = group(&small, 8 * MIB);
        assert_eq!((groups.len(), &groups[0]), (1, &(0..20)));
        let mixed = [object(0, 0, MIB), object(1, 0, 100 * MIB), object(2, 0, MIB)];
        assert_eq!(group(&mixed, 8 * MIB), [0..1, 1..2, 2..3]);
        assert!(group(&[], 8 * MIB).is_empty());
    }

    #[test]
    fn one_object_without_arrival_makes_its_chunk_cover_all_slices() {
        let interval = |s, e| Some(Interval { start_us: s, end_us: e });
        assert_eq!(hull(interval(5, 9), interval(1, 6)), interval(1, 9));
        assert_eq!(hull(interval(5, 9), None), None);
    }
}
