//! What extracting has left for some slices: of each chunk's manifest, the part that concerns them.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use weir_crds::{
    contract::manifest::{Extracted, Segment},
    window::SliceId,
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
    /// Rows of the chunk that are selected, or invalid and known to be of a slice, whichever that is.
    pub placed: u64,
    /// Invalid rows of the chunk that have no event time, or no type: they may belong to any slice it has rows of.
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
            let covered =
                slices.iter().copied().filter(|slice| chunk.event_times.is_none_or(|times| times.overlaps(&plan.slices[*slice].interval)));
            let covered: Vec<usize> = covered.collect();
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
                let share = ChunkShare::of(source, &manifest, &plan.slices[slice].id);
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
    fn of(source: u16, manifest: &Extracted, slice: &SliceId) -> Self {
        let mine = manifest.index.iter().find(|entry| entry.slice == *slice);
        let placed: u64 = manifest.invalid_by.iter().map(|count| count.rows).sum();
        let mut invalid = BTreeMap::new();
        for count in manifest.invalid_by.iter().filter(|count| count.slice == *slice) {
            *invalid.entry(count.event_type.clone()).or_default() += count.rows;
        }
        Self {
            chunk: manifest.chunk.clone(),
            source,
            data: manifest.data.as_ref().map(|part| part.key.clone()),
            segments: mine.map(|entry| entry.segments.clone()).unwrap_or_default(),
            selected: mine.map_or(0, |entry| entry.rows),
            invalid,
            placed: manifest.selected + placed,
            unplaced: manifest.invalid.saturating_sub(placed + manifest.invalid_outside),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_known_to_lie_elsewhere_may_not_belong_to_the_slice() {
        let slice = "20261103T060000Z";
        let manifest: Extracted = serde_json::from_value(json!({
            "chunk": "logs-00001", "source": "logs", "bytesRead": 1, "read": 20, "expanded": 0, "filteredOut": 0,
            "invalid": 6, "invalidOutside": 3, "outsideWindow": 0, "late": 0, "selected": 14,
            "invalidBy": [{"slice": slice, "eventType": "click", "rows": 1}, {"slice": "20261103T061500Z", "eventType": "click", "rows": 1}],
            "unknownFields": {}, "index": [], "reasons": [],
        }))
        .unwrap();
        let share = ChunkShare::of(0, &manifest, &manifest.invalid_by[0].slice);
        assert_eq!((share.placed, share.unplaced, share.invalid), (16, 1, BTreeMap::from([("click".to_owned(), 1)])));
    }
}
