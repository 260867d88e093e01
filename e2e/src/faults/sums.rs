//! Whether a run's manifests add up: what was read is what became of it, stage by stage, down to what a reader saw.

use std::collections::BTreeMap;

use weir_crds::contract::manifest::{Extracted, Staged};

use super::ledger::Manifests;

/// Sentences about what does not add up; `events` is what the log has.
pub fn wrong(manifests: &Manifests, events: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut must = |what: &str, left: u64, right: u64| {
        if left != right {
            wrong.push(format!("{what}: {left} and {right}"));
        }
    };
    for extracted in &manifests.extracted {
        let Extracted { read, expanded, filtered_out, invalid, outside_window, late, selected, .. } = extracted;
        let fates = filtered_out + invalid + outside_window + late + selected;
        must(&format!("chunk {}: rows, and what became of them", extracted.chunk), read + expanded, fates);
        must(&format!("chunk {}: selected, and indexed", extracted.chunk), *selected, extracted.index.iter().map(|slice| slice.rows).sum());
    }
    let mut selected = BTreeMap::<&str, u64>::new();
    for slice in manifests.extracted.iter().flat_map(|extracted| &extracted.index) {
        *selected.entry(slice.slice.as_str()).or_default() += slice.rows;
    }
    for staged in &manifests.staged {
        let slice = staged.slice.as_str();
        let sum = |of: fn(&Staged) -> u64| of(staged);
        let fates = sum(|staged| staged.by.iter().map(|by| by.duplicates + by.quarantined + by.staged).sum());
        must(&format!("slice {slice}: selected, and assembled"), selected.get(slice).copied().unwrap_or(0), fates);
        let rows: u64 = staged.buckets.iter().map(|bucket| bucket.part.rows).sum();
        must(&format!("slice {slice}: staged, and rows of parts"), sum(|staged| staged.by.iter().map(|by| by.staged).sum()), rows);
        let published = manifests.published.iter().filter(|published| published.slice == staged.slice);
        let (mut passed, mut sent) = (0, 0);
        for partition in published.flat_map(|published| published.partitions.values()) {
            passed += partition.staged.records;
            sent += partition.sent.records;
        }
        must(&format!("slice {slice}: staged, and published or present"), rows, passed);
        let verified = manifests.verified.iter().find(|verified| verified.slice == staged.slice);
        must(&format!("slice {slice}: published, and verified"), sent, verified.map_or(0, |verified| verified.records));
    }
    let staged: u64 = manifests.staged.iter().flat_map(|staged| &staged.by).map(|by| by.staged).sum();
    must("events of the log, and staged", events, staged);
    wrong
}
