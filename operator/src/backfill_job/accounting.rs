//! The conservation ledger of a run: its sums, and whether they hold. Pure.

use std::collections::BTreeMap;

use weir_crds::{
    backfill_job::{Accounting, EventTypeAccounting},
    contract::{
        manifest::{Extracted, Published, Staged},
        plan::Plan,
    },
};

use super::observed::Manifests;

/// Event types that status shows.
const EVENT_TYPES_MAX: usize = 20;

/// A sum that does not hold, with its numbers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Mismatch {
    #[error(
        "chunk {chunk}: read {read} + expanded {expanded} is not filteredOut {filtered_out} + invalid {invalid} + outsideWindow {outside_window} + late {late} + selected {selected}"
    )]
    Extracted { chunk: String, read: u64, expanded: u64, filtered_out: u64, invalid: u64, outside_window: u64, late: u64, selected: u64 },
    #[error("chunk {chunk}: its slices hold {indexed} rows, but it selected {selected}")]
    Indexed { chunk: String, indexed: u64, selected: u64 },
    #[error(
        "slice {slice}, source {source_name}, event type {event_type}: selected {selected} is not duplicates {duplicates} + quarantined {quarantined} + staged {staged}"
    )]
    Staged { slice: String, source_name: String, event_type: String, selected: u64, duplicates: u64, quarantined: u64, staged: u64 },
    #[error("slice {slice}: its chunks selected {selected} rows for it, but {assembled} were assembled")]
    Assembled { slice: String, selected: u64, assembled: u64 },
    #[error("slice {slice}: {counted} rows are counted as staged, but its parts hold {held}")]
    Parts { slice: String, counted: u64, held: u64 },
    #[error(
        "slice {slice}, bucket {bucket}, partition {partition}: staged {staged} is not published {published} + already present {present}"
    )]
    Published { slice: String, bucket: String, partition: i32, staged: u64, published: u64, present: u64 },
    #[error("slice {slice}: {published} records were published, but {verified} verified")]
    Verified { slice: String, published: u64, verified: u64 },
}

/// Whether every sum holds over what has been done.
pub fn check(plan: &Plan, manifests: &Manifests) -> Result<(), Mismatch> {
    let mut selected: BTreeMap<&str, u64> = BTreeMap::new();
    for chunk in manifests.extracted.values().map(|m| &m.body) {
        extracted(chunk)?;
        for part in &chunk.index {
            *selected.entry(part.slice.as_str()).or_default() += part.rows;
        }
    }
    for (slice, staged) in &manifests.staged {
        staged_slice(&staged.body, selected.get(slice.as_str()).copied().unwrap_or(0))?;
    }
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    for ((slice, bucket), published) in &manifests.published {
        if let Some(staged) = manifests.staged.get(slice) {
            published_bucket(&staged.body, bucket, &published.body)?;
        }
        *sent.entry(slice).or_default() += published.body.partitions.values().map(|p| p.sent.records).sum::<u64>();
    }
    for slice in &plan.slices {
        if let Some(verified) = manifests.verified.get(slice.id.as_str()) {
            let (published, verified) = (sent.get(slice.id.as_str()).copied().unwrap_or(0), verified.body.records);
            if published != verified {
                return Err(Mismatch::Verified { slice: slice.id.to_string(), published, verified });
            }
        }
    }
    Ok(())
}

fn extracted(chunk: &Extracted) -> Result<(), Mismatch> {
    let (read, expanded) = (chunk.read, chunk.expanded);
    let Extracted { filtered_out, invalid, outside_window, late, selected, .. } = *chunk;
    if read + expanded != filtered_out + invalid + outside_window + late + selected {
        let chunk = chunk.chunk.clone();
        return Err(Mismatch::Extracted { chunk, read, expanded, filtered_out, invalid, outside_window, late, selected });
    }
    let indexed: u64 = chunk.index.iter().map(|s| s.rows).sum();
    if indexed == selected { Ok(()) } else { Err(Mismatch::Indexed { chunk: chunk.chunk.clone(), indexed, selected }) }
}

fn staged_slice(slice: &Staged, selected: u64) -> Result<(), Mismatch> {
    let id = || slice.slice.to_string();
    for by in &slice.by {
        if by.selected != by.duplicates + by.quarantined + by.staged {
            return Err(Mismatch::Staged {
                slice: id(),
                source_name: by.source.clone(),
                event_type: by.event_type.clone(),
                selected: by.selected,
                duplicates: by.duplicates,
                quarantined: by.quarantined,
                staged: by.staged,
            });
        }
    }
    let assembled: u64 = slice.by.iter().map(|by| by.selected).sum();
    if assembled != selected {
        return Err(Mismatch::Assembled { slice: id(), selected, assembled });
    }
    let counted: u64 = slice.by.iter().map(|by| by.staged).sum();
    let held: u64 = slice.buckets.iter().flat_map(|b| b.partitions.values()).map(|p| p.records).sum();
    if counted == held { Ok(()) } else { Err(Mismatch::Parts { slice: id(), counted, held }) }
}

fn published_bucket(staged: &Staged, bucket: &str, published: &Published) -> Result<(), Mismatch> {
    let parts = staged.buckets.iter().find(|b| b.bucket == bucket).map(|b| &b.partitions);
    let staged_in = |partition: i32| parts.and_then(|p| p.get(&partition)).map_or(0, |p| p.records);
    let partitions = published.partitions.keys().chain(parts.into_iter().flat_map(|p| p.keys()));
    for &partition in partitions {
        let found = published.partitions.get(&partition).copied().unwrap_or_default();
        let (staged, sent) = (staged_in(partition), found.sent.records);
        if found.staged.records != staged || sent > staged {
            let present = found.staged.records.saturating_sub(sent);
            let slice = published.slice.to_string();
            return Err(Mismatch::Published { slice, bucket: bucket.to_owned(), partition, staged, published: sent, present });
        }
    }
    Ok(())
}

/// The sums that status shows.
pub fn totals(manifests: &Manifests) -> Accounting {
    let mut sum = Accounting::default();
    for chunk in manifests.extracted.values().map(|m| &m.body) {
        sum.bytes_read += chunk.bytes_read;
        sum.read += chunk.read;
        sum.expanded += chunk.expanded;
        sum.filtered_out += chunk.filtered_out;
        sum.invalid += chunk.invalid;
        sum.outside_window += chunk.outside_window;
        sum.late += chunk.late;
        sum.selected += chunk.selected;
    }
    sum.quarantined = sum.invalid;
    let mut types: BTreeMap<&str, EventTypeAccounting> = BTreeMap::new();
    for by in manifests.staged.values().flat_map(|m| &m.body.by) {
        sum.duplicates += by.duplicates;
        sum.quarantined += by.quarantined;
        sum.staged += by.staged;
        let of =
            types.entry(&by.event_type).or_insert_with(|| EventTypeAccounting { event_type: by.event_type.clone(), ..Default::default() });
        of.selected += by.selected;
        of.duplicates += by.duplicates;
        of.quarantined += by.quarantined;
        of.staged += by.staged;
    }
    for partition in manifests.published.values().flat_map(|m| m.body.partitions.values()) {
        sum.published += partition.sent.records;
        sum.already_present += partition.present();
    }
    sum.verified = manifests.verified.values().map(|m| m.body.records).sum();
    sum.by_event_type = types.into_values().collect();
    sum.by_event_type.sort_by(|a, b| b.selected.cmp(&a.selected).then_with(|| a.event_type.cmp(&b.event_type)));
    sum.by_event_type.truncate(EVENT_TYPES_MAX);
    sum
}
