//! What extracting has left for some slices: of each chunk's manifest, the part that concerns them.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use weir_crds::{
    contract::manifest::{Extracted, Segment},
    window::Slice,
};

use super::error::AssembleError;
use crate::run::{PlannedRun, RunError};

/// Manifests that are read at a time: a run may have thousands.
const MANIFESTS_IN_FLIGHT: usize = 16;

/// One chunk's share in one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkShare {
    pub chunk: String,
    /// Index into the plan's sources.
    pub source: u16,
    /// The key of the chunk's data.
    pub data: Option<String>,
    pub segments: Vec<Segment>,
    /// Rows in the segments.
    pub selected: u64,
    /// Invalid rows of the slice, by event type.
    pub invalid: BTreeMap<String, u64>,
    /// Of the objects that may have rows of the slice: rows that are selected, or invalid and known to be of a slice, whichever
    /// that is.
    pub placed: u64,
    /// Of the same objects: invalid rows that have no event time, or no type, and so may be of this slice.
    pub unplaced: u64,
}

/// Shares by slice, in the plan's order of chunks.
#[derive(Debug, Default)]
pub struct Shares {
    by_slice: BTreeMap<usize, Vec<ChunkShare>>,
    /// Slices of which a chunk is not extracted.
    incomplete: BTreeSet<usize>,
}

impl Shares {
    /// Reads the manifests of all chunks that may hold rows of the slices, as far as they are there.
    pub async fn read(planned: &PlannedRun, slices: &[usize]) -> Result<Self, AssembleError> {
        let PlannedRun { run, plan, .. } = planned;
        let mut wanted: Vec<(usize, Vec<usize>)> = Vec::new();
        for (index, chunk) in plan.chunks.iter().enumerate() {
            let covered: Vec<usize> = slices.iter().copied().filter(|slice| chunk.may_hold(&plan.slices[*slice])).collect();
            if !covered.is_empty() {
                wanted.push((index, covered));
            }
        }
        let mut manifests = futures::stream::iter(wanted)
            .map(|(index, covered)| async move {
                let chunk = &plan.chunks[index];
                let manifest: Option<Extracted> = planned.manifest(&run.keys.extracted(&chunk.id)).await?;
                Ok::<_, RunError>((chunk.source, covered, manifest))
            })
            .buffered(MANIFESTS_IN_FLIGHT);
        let mut shares = Self::default();
        while let Some((source, covered, manifest)) = manifests.try_next().await? {
            let Some(manifest) = manifest else {
                shares.incomplete.extend(covered);
                continue;
            };
            for slice in covered {
                let share = ChunkShare::of(source, &manifest, &plan.slices[slice]);
                shares.by_slice.entry(slice).or_default().push(share);
            }
        }
        Ok(shares)
    }

    /// `None`: not all of them are known.
    pub fn of(&self, slice: usize) -> Option<&[ChunkShare]> {
        let known = self.by_slice.get(&slice).map_or(&[][..], Vec::as_slice);
        (!self.incomplete.contains(&slice)).then_some(known)
    }
}

impl ChunkShare {
    fn of(source: u16, manifest: &Extracted, slice: &Slice) -> Self {
        let mine = manifest.index.iter().find(|entry| entry.slice == slice.id);
        let may_be_here = || manifest.by_times.iter().filter(|count| count.times.is_none_or(|times| times.overlaps(&slice.interval)));
        let mut invalid = BTreeMap::new();
        for count in manifest.invalid_by.iter().filter(|count| count.slice == slice.id) {
            *invalid.entry(count.event_type.clone()).or_default() += count.rows;
        }
        Self {
            chunk: manifest.chunk.clone(),
            source,
            data: manifest.data.as_ref().map(|part| part.key.clone()),
            segments: mine.map(|entry| entry.segments.clone()).unwrap_or_default(),
            selected: mine.map_or(0, |entry| entry.rows),
            invalid,
            placed: may_be_here().map(|count| count.placed).sum(),
            unplaced: may_be_here().map(|count| count.unplaced).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use serde_json::json;
    use weir_crds::window::Interval;

    use super::*;

    #[test]
    fn a_broken_row_counts_for_the_slices_that_its_object_may_have_rows_of() {
        let slice = |id: &str, start_us: i64| Slice {
            id: serde_json::from_value(json!(id)).unwrap(),
            interval: Interval { start_us, end_us: start_us + 10 },
        };
        let (first, second) = (slice("20261103T060000Z", 0), slice("20261103T061500Z", 10));
        let manifest: Extracted = serde_json::from_value(json!({
            "chunk": "logs-00001", "source": "logs", "bytesRead": 1, "read": 20, "expanded": 0, "filteredOut": 0,
            "invalid": 6, "invalidOutside": 0, "outsideWindow": 0, "late": 0, "selected": 14,
            "invalidBy": [{"slice": first.id, "eventType": "click", "rows": 1}, {"slice": second.id, "eventType": "click", "rows": 1}],
            "byTimes": [
                {"times": {"startUs": -5, "endUs": 10}, "placed": 9, "unplaced": 3},
                {"times": {"startUs": 9, "endUs": 15}, "placed": 6, "unplaced": 0},
                {"placed": 1, "unplaced": 1},
            ],
            "unknownFields": {}, "index": [], "reasons": [],
        }))
        .unwrap();
        let counts = [first, second].map(|slice| {
            let share = ChunkShare::of(0, &manifest, &slice);
            (share.placed, share.unplaced, share.invalid)
        });
        let click = BTreeMap::from([("click".to_owned(), 1)]);
        assert_eq!(counts, [(16, 4, click.clone()), (7, 1, click)]);
    }
}
