//! One slice of one bucket: its staged part in transactions, from where the progress is.

use std::{collections::BTreeMap, time::Instant};

use tokio_util::sync::CancellationToken;
use weir_crds::{
    backfill_job::RecordTimestamps,
    contract::{
        manifest::{OffsetRange, PublishedPartition, RecordsDigest, StagedBucket, to_bytes},
        progress::{BucketProgress, SliceProgress},
    },
    window::SliceId,
};
use weir_kafka::{
    Consequence,
    transaction::{ProgressRecord, Record, Transaction},
};

use super::{
    error::PublishError,
    pace::Pace,
    part::{self, Rows},
    present::Present,
    progress::Identity,
    start::{Started, failed},
};
use crate::{headers, progress::Counters, run::RunError, staged::StagedRecord};

/// Transactions that are aborted one after the other; then the producer is not trusted any more either.
const ABORTS_MAX: u32 = 3;

/// What does not change while a slice is published.
pub struct SliceJob<'a> {
    pub identity: &'a Identity,
    /// The value of the run's header.
    pub run: &'a str,
    pub slice: &'a SliceId,
    pub staged: &'a StagedBucket,
    pub timestamps: RecordTimestamps,
    pub present: &'a Present,
    pub counters: &'a Counters,
    pub stop: &'a CancellationToken,
}

impl SliceJob<'_> {
    /// Publishes what is missing of the slice, and leaves `started.own` at its end.
    pub fn run(&self, started: &mut Started, pace: &mut Pace) -> Result<(), PublishError> {
        let mut at = self.resume(&started.own)?;
        if at.rows < self.staged.part.rows {
            let part = part::fetch(&self.identity.planned.run, &self.staged.part)?;
            let mut rows = Rows::open(&part, at.rows)?;
            let mut aborted = 0;
            while at.rows < self.staged.part.rows {
                // A transaction that fails leaves `at` as it was: at the last committed progress.
                let result = self.transaction(started, &mut rows, at.clone(), pace);
                if result.is_err() {
                    pace.failed(Instant::now());
                }
                match result {
                    Ok(next) => (at, aborted) = (next, 0),
                    Err(error) if aborted < ABORTS_MAX && is_to_be_aborted(&error) => {
                        tracing::warn!(
                            bucket = self.identity.bucket.id,
                            error = &error as &dyn std::error::Error,
                            "aborting and going back"
                        );
                        started.session.abort().map_err(|source| failed(self.identity, source))?;
                        rows = Rows::open(&part, at.rows)?;
                        aborted += 1;
                    }
                    Err(error) => return Err(error),
                }
                if self.stop.is_cancelled() {
                    return Err(PublishError::Interrupted);
                }
            }
        }
        self.check(&at)
    }

    /// Where to go on: the last record is of this slice, or of one before.
    fn resume(&self, own: &BucketProgress) -> Result<SliceProgress, PublishError> {
        let part = self.staged.part.digest.to_string();
        match &own.at {
            Some(at) if at.slice == *self.slice && at.part == part && at.rows <= self.staged.part.rows => Ok(at.clone()),
            Some(at) if at.slice == *self.slice => {
                Err(self.part_error(format!("progress was made in the part {} with {} rows", at.part, at.rows)))
            }
            Some(_) | None => Ok(SliceProgress { slice: self.slice.clone(), part, rows: 0, partitions: BTreeMap::new() }),
        }
    }

    fn part_error(&self, what: String) -> PublishError {
        PublishError::Part { key: self.staged.part.key.clone(), what }
    }

    /// One transaction: records until it is full, then the progress that they make.
    fn transaction(
        &self,
        started: &mut Started,
        rows: &mut Rows,
        mut at: SliceProgress,
        pace: &mut Pace,
    ) -> Result<SliceProgress, PublishError> {
        let fail = |source| failed(self.identity, source);
        let mut transaction = started.session.begin().map_err(fail)?;
        // Only now: one may have waited for a producer.
        pace.begin(Instant::now());
        while at.rows < self.staged.part.rows && !pace.is_full(Instant::now()) {
            let passed = rows.next(|record| self.pass(&mut transaction, &mut at, record))?;
            match passed {
                Some(length) => pace.passed(length?),
                None => return Err(self.part_error(format!("it has {} rows and not {}", at.rows, self.staged.part.rows))),
            }
            if self.stop.is_cancelled() {
                break;
            }
        }
        let delivered = transaction.delivered().map_err(fail)?;
        pace.delivered(Instant::now());
        for (partition, offsets) in delivered {
            let published = at.partitions.entry(partition).or_default();
            let range = OffsetRange::including(published.offsets, offsets.first);
            published.offsets = Some(OffsetRange::including(Some(range), offsets.last));
        }
        let record = self.identity.record(started.own.transactions + 1, Some(at.clone()));
        let value = to_bytes(&record);
        transaction.commit(ProgressRecord { topic: &started.progress_topic, key: &self.identity.key, value: &value }).map_err(fail)?;
        started.own = record;
        self.counters.add(pace.records(), pace.bytes());
        Ok(at)
    }

    /// Counts one staged record, and sends it unless it is there already. Returns its length.
    fn pass(&self, transaction: &mut Transaction<'_>, at: &mut SliceProgress, record: &StagedRecord<'_>) -> Result<u64, PublishError> {
        let published = at.partitions.entry(record.partition).or_insert_with(|| {
            // Digested as an earlier version may have begun to.
            let nothing = self.staged.partitions.get(&record.partition).map(RecordsDigest::start).unwrap_or_default();
            PublishedPartition { staged: nothing, sent: nothing, offsets: None }
        });
        let before = published.staged;
        published.staged.count(record.view());
        at.rows += 1;
        if self.present.contains(record.event_id).map_err(RunError::Scratch)? {
            return Ok(0);
        }
        if published.sent == before {
            // All that was staged so far was sent, so both digests go on alike, and one computation is enough.
            published.sent = published.staged;
        } else {
            published.sent.count(record.view());
        }
        let headers = [
            (headers::RUN, self.run.as_bytes()),
            (headers::SLICE, self.slice.as_str().as_bytes()),
            (headers::EVENT_ID, record.event_id.as_bytes()),
            (headers::SOURCE, record.source.as_bytes()),
        ];
        let timestamp_ms = match self.timestamps {
            RecordTimestamps::EventTime => Some(record.timestamp_ms),
            RecordTimestamps::ReplayTime => None,
        };
        transaction
            .send(Record { partition: record.partition, key: record.key, value: record.value, timestamp_ms, headers: &headers })
            .map_err(|source| failed(self.identity, source))?;
        Ok(record.value.len() as u64)
    }

    /// That what was gone through is what was staged.
    fn check(&self, at: &SliceProgress) -> Result<(), PublishError> {
        let gone_through: BTreeMap<_, _> = at.partitions.iter().map(|(partition, published)| (*partition, published.staged)).collect();
        if gone_through == self.staged.partitions {
            Ok(())
        } else {
            Err(self.part_error("the digests of its records are not those of the manifest".to_owned()))
        }
    }
}

fn is_to_be_aborted(error: &PublishError) -> bool {
    matches!(error, PublishError::Transaction { source, .. } if source.consequence() == Consequence::AbortAndRewind)
}
