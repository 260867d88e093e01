//! `assemble`: the rows of one slice, from all chunks that may hold some, to records in the order of publishing.
//!
//! Duplicates are dropped by precedence, what the target would refuse is set aside, the rest is staged in a part for each
//! bucket. The result depends on the extracted rows alone. It writes parts; the manifest comes last and is the caller's.

pub mod accounts;
pub mod error;
pub mod record;
pub mod render;
#[cfg(test)]
mod render_tests;
pub mod row;
pub mod share;
pub mod slice;
pub mod spill;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use weir_crds::contract::manifest::{PartRef, Staged, StagedBucket};

pub use error::AssembleError;
use row::Buffer;
use share::{ChunkShare, Shares};
use slice::{Assembled, SliceWork};

use crate::{progress::Counters, run::PlannedRun, staged::Content};

/// Segments that are fetched ahead of the one that is decoded; each has some 8 MiB, and one batch more at most.
const SEGMENTS_IN_FLIGHT: usize = 4;
/// Of a worker's memory, the part that rows are sorted in. The rest is for segments, parts and the program.
const BUFFER_MEMORY_DIVISOR: u64 = 4;
/// A row becomes about so much longer than it is in its segment, in per cent.
const RENDERED_PERCENT: u64 = 150;

/// Assembles slices of one plan.
pub struct Assembler {
    planned: PlannedRun,
    counters: Counters,
    shares: Shares,
    /// From slice to slice: fresh memory costs as much as filling it.
    buffer: Mutex<Buffer>,
}

/// A segment that was fetched and is what the manifest says.
struct Fetched {
    source: u16,
    bytes: bytes::Bytes,
}

impl Assembler {
    /// For some slices of the plan, by index: reads what extracting has left for them.
    pub async fn new(planned: PlannedRun, counters: Counters, slices: &[usize]) -> Result<Self, AssembleError> {
        let shares = Shares::read(&planned, slices).await?;
        Ok(Self { planned, counters, shares, buffer: Mutex::default() })
    }

    /// Assembles one slice and puts its parts. Without the manifest that the caller puts next, none of it exists. `None`: a chunk
    /// of it is not extracted. It has failed then, and this slice with it; others of the unit have not.
    pub async fn assemble(&self, slice: usize) -> Result<Option<Staged>, AssembleError> {
        let Some(shares) = self.shares.of(slice) else { return Ok(None) };
        let budget_bytes = usize::try_from(self.planned.run.memory_bytes / BUFFER_MEMORY_DIVISOR).unwrap_or(usize::MAX);
        let mut buffer = std::mem::take(&mut *self.buffer.lock().unwrap_or_else(PoisonError::into_inner));
        let (rows, bytes) = expected(shares, budget_bytes);
        buffer.reserve(rows, bytes);
        let mut work = SliceWork::new(&self.planned, slice, budget_bytes, buffer)?;
        let (sender, mut receiver) = mpsc::channel::<Fetched>(1);
        // Decoding, rendering and sorting take a thread of their own; the channel holds back the fetching.
        let worker = tokio::task::spawn_blocking(move || {
            while let Some(segment) = receiver.blocking_recv() {
                work.add(segment.source, &segment.bytes)?;
            }
            Ok::<_, AssembleError>(work)
        });
        let fetched = self.fetch(shares, sender).await;
        // A worker that failed has closed the channel; its own error is the one that counts.
        let work = worker.await.map_err(|_| AssembleError::Thread)??;
        fetched?;
        let shares = shares.to_vec();
        let finished = tokio::task::spawn_blocking(move || work.finish(&shares)).await.map_err(|_| AssembleError::Thread)?;
        let (assembled, buffer) = finished?;
        *self.buffer.lock().unwrap_or_else(PoisonError::into_inner) = buffer;
        self.put(slice, assembled).await.map(Some)
    }

    /// Fetches the slice's segments in the plan's order, some ahead.
    async fn fetch(&self, shares: &[ChunkShare], sender: mpsc::Sender<Fetched>) -> Result<(), AssembleError> {
        let segments = shares.iter().flat_map(|share| share.segments.iter().map(move |segment| (share, *segment)));
        let mut fetches = futures::stream::iter(segments)
            .map(|(share, segment)| async move {
                let key = share.data.as_deref().ok_or_else(|| AssembleError::NoData { chunk: share.chunk.clone() })?;
                let bytes = self.planned.run.ledger.get_range(key, segment.offset..segment.offset + segment.length).await?;
                let found = segment.digest.of_same_kind(&bytes);
                if found != segment.digest {
                    return Err(AssembleError::Segment { key: key.to_owned(), offset: segment.offset, said: segment.digest, found });
                }
                self.counters.add(segment.rows, segment.length);
                Ok(Fetched { source: share.source, bytes })
            })
            .buffered(SEGMENTS_IN_FLIGHT);
        while let Some(segment) = fetches.try_next().await? {
            if sender.send(segment).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn put(&self, slice: usize, assembled: Assembled) -> Result<Staged, AssembleError> {
        let PlannedRun { run, plan, .. } = &self.planned;
        let slice = &plan.slices[slice].id;
        let quarantine = match assembled.quarantine {
            Some(written) => {
                let key = run.keys.quarantine_part(slice.as_str(), &written.sha256.short());
                run.ledger.put_part_file(&key, written.file.path()).await?;
                Some(PartRef { key, digest: written.sha256.into(), bytes: written.bytes, rows: written.rows })
            }
            None => None,
        };
        if let Some(error) = assembled.over_limit {
            return Err(match quarantine {
                Some(part) => AssembleError::Refused { rows: part.rows, key: part.key, source: Box::new(error) },
                None => error,
            });
        }
        let mut buckets = Vec::new();
        for part in assembled.buckets {
            let key = run.keys.staged_part(slice, &part.bucket, &part.written.digest.short());
            let written = part.written;
            match written.content {
                Content::Memory(bytes) => run.ledger.put_part(&key, bytes).await?,
                Content::File(file) => run.ledger.put_part_file(&key, file.path()).await?,
            }
            let part_ref = PartRef { key, digest: written.digest, bytes: written.bytes, rows: written.rows };
            buckets.push(StagedBucket { bucket: part.bucket, part: part_ref, partitions: part.partitions });
        }
        Ok(Staged { slice: slice.clone(), by: assembled.by, buckets, quarantine, reasons: assembled.reasons })
    }
}

/// Rows that will be held at a time, and about as many bytes as they will have.
fn expected(shares: &[ChunkShare], budget_bytes: usize) -> (usize, usize) {
    let segments = || shares.iter().flat_map(|share| &share.segments);
    let rows: u64 = segments().map(|segment| segment.rows).sum();
    let bytes = segments().map(|segment| segment.length).sum::<u64>().saturating_mul(RENDERED_PERCENT) / 100;
    let held = bytes.min(budget_bytes as u64);
    let held_rows = u128::from(rows) * u128::from(held) / u128::from(bytes.max(1));
    (usize::try_from(held_rows).unwrap_or(0), usize::try_from(held).unwrap_or(0))
}

/// The one sink of a run, as it was declared and as it was planned.
pub fn sink(
    planned: &PlannedRun,
) -> Result<(Arc<weir_crds::backfill_job::KafkaSink>, weir_crds::contract::plan::PlannedSink), AssembleError> {
    let declared = planned.run.spec.sinks.first().and_then(|sink| sink.kafka.clone());
    let pinned = planned.plan.sinks.first().cloned();
    declared.map(Arc::new).zip(pinned).ok_or(AssembleError::NoSink)
}
