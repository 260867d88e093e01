//! One row of status a slice, and how many slices are where. Pure. Bounded: however many slices failed for however long
//! reasons, the rows fit their share of status.

use std::collections::{BTreeMap, BTreeSet};

use weir_crds::{
    backfill_job::{ChunkCounts, SliceCounts, SliceState, SliceStatus},
    contract::{
        result::Disposition,
        units::{Items, Verb},
    },
};

use super::{
    attempts::Recorded,
    observed::{LedgerView, Worker},
    work::{Work, items},
};
use crate::text::cut;

/// What all slices' messages may take together. With the rows' own bytes (about 150 each, at most 1,000 of them) status
/// stays under 256 KiB.
const MESSAGES_BYTES_MAX: usize = 64 * 1024;
/// One message: enough for a cause and a remedy.
const MESSAGE_BYTES_MAX: usize = 512;

pub fn rows(work: &Work<'_>, view: &LedgerView, workers: &[Worker]) -> Vec<SliceStatus> {
    let (busy, buckets) = (busy_slices(work, workers), work.plan.buckets());
    let attempts = attempts(work, view);
    let message_bytes_max = (MESSAGES_BYTES_MAX / work.failed_slices.len().max(1)).min(MESSAGE_BYTES_MAX);
    work.plan
        .slices
        .iter()
        .enumerate()
        .map(|(index, slice)| {
            let failed = work.failed_slices.get(&index);
            let staged = view.manifests.staged.get(slice.id.as_str());
            let sent = buckets
                .iter()
                .filter_map(|b| view.manifests.published.get(&(slice.id.to_string(), b.id.clone())))
                .fold(None, |sum: Option<u64>, m| Some(sum.unwrap_or(0) + m.body.partitions.values().map(|p| p.sent.records).sum::<u64>()));
            SliceStatus {
                slice: slice.id.to_string(),
                state: state(work, index, failed.is_some(), &busy),
                staged: staged.map(|m| m.body.by.iter().map(|b| b.staged).sum()),
                published: sent,
                reason: failed.map(|f| cut(&f.reason, 64)),
                message: failed.map(|f| cut(&f.message, message_bytes_max)),
                attempts: attempts.get(&index).copied(),
            }
        })
        .collect()
}

fn state(work: &Work<'_>, slice: usize, failed: bool, busy: &BTreeSet<(Verb, usize)>) -> SliceState {
    let done = &work.done;
    if done.verified[slice] {
        SliceState::Verified
    } else if failed {
        SliceState::Failed
    } else if work.published(slice) {
        SliceState::Published
    } else if done.published[slice].iter().any(|b| *b) || done.staged[slice] && busy.contains(&(Verb::Publish, slice)) {
        SliceState::Publishing
    } else if done.staged[slice] {
        SliceState::Staged
    } else if busy.contains(&(Verb::Assemble, slice)) {
        SliceState::Assembling
    } else {
        SliceState::Pending
    }
}

fn busy_slices(work: &Work<'_>, workers: &[Worker]) -> BTreeSet<(Verb, usize)> {
    let units = workers.iter().filter(|w| w.ours && w.is_open()).filter_map(|w| work.unit(&w.unit));
    let slices = units.filter(|u| match u.items {
        Items::Chunks(_) => false,
        Items::Slices(_) | Items::Buckets { .. } => true,
    });
    slices.flat_map(|u| items(u).iter().map(|i| (u.verb, *i))).collect()
}

/// Failed attempts at a slice, of whatever step had the most; none are not listed.
fn attempts(work: &Work<'_>, view: &LedgerView) -> BTreeMap<usize, u32> {
    let mut by_slice: BTreeMap<usize, u32> = BTreeMap::new();
    for (slice, reason) in &work.failed_slices {
        by_slice.insert(*slice, reason.attempts);
    }
    for unit in work.units.iter().filter(|u| u.verb != Verb::Extract) {
        let records = view.records_of(&unit.id).collect::<Vec<_>>();
        if records.is_empty() {
            continue;
        }
        let names: BTreeSet<&str> = items(unit).iter().map(|slice| work.item_name(unit, *slice)).collect();
        let recorded = Recorded { records: &records, items: &names };
        for slice in items(unit) {
            let failed = recorded.attempts(work.item_name(unit, *slice), &[Disposition::UsesAttempt, Disposition::Final]);
            if failed > 0 {
                let most = by_slice.entry(*slice).or_default();
                *most = (*most).max(failed);
            }
        }
    }
    by_slice
}

pub fn slice_counts(rows: &[SliceStatus]) -> SliceCounts {
    let mut counts = SliceCounts { total: u32::try_from(rows.len()).unwrap_or(u32::MAX), ..Default::default() };
    for row in rows {
        let count = match row.state {
            SliceState::Pending => &mut counts.pending,
            SliceState::Assembling | SliceState::Publishing => &mut counts.running,
            SliceState::Staged => &mut counts.staged,
            SliceState::Published => &mut counts.published,
            SliceState::Verified => &mut counts.verified,
            SliceState::Failed => &mut counts.failed,
        };
        *count += 1;
    }
    counts
}

pub fn chunk_counts(work: &Work<'_>) -> ChunkCounts {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ChunkCounts {
        total: count(work.plan.chunks.len()),
        extracted: count(work.done.extracted.iter().filter(|e| **e).count()),
        failed: count(work.failed_chunks.len()),
    }
}
