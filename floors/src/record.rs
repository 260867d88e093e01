//! What is remembered of one partition: how its end grew, and which timestamps are known.

use serde::{Deserialize, Serialize};

use crate::{
    DAY_MS, MINUTE_MS,
    observed::{Log, Read, Stamp},
    series::Series,
};

/// Samples of a partition over the look-back: enough for gaps of at most a tenth of their age over a month.
pub const SAMPLES_MAX: usize = 160;
/// Timestamps of a partition: enough for each group that lags to have one near.
const STAMPS_MAX: usize = 32;
/// Rates are means over a day, so that a quiet night does not look like a quiet topic, or over all that is remembered, so that a
/// quiet day does not either: whichever is greater. Of a day in which nothing came only the end is remembered.
const RATE_OVER_MS: i64 = DAY_MS;
/// Less than that says nothing of a rate.
const RATE_SPAN_MIN_MS: i64 = 10 * MINUTE_MS;

/// Offsets without any record that a reader would see: markers of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Blank {
    from: i64,
    to: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionRecord {
    pub samples: Series<i64>,
    /// By offset; later ones have later timestamps. An earlier record with a later timestamp says all that a later one
    /// with an earlier timestamp does: Kafka deletes a log from its start.
    stamps: Vec<Stamp>,
    blank: Option<Blank>,
    /// Where the log begins.
    start: Option<i64>,
    /// Where it began when the retention was last seen to be as it should.
    start_before: Option<i64>,
}

impl PartitionRecord {
    /// Takes in what the leader has.
    pub fn observe(&mut self, log: Log, at_ms: i64, horizon_ms: i64) {
        self.start = Some(log.start);
        if log.start == 0 {
            // Nothing was ever deleted.
            self.start_before = Some(0);
        }
        if self.samples.last().is_some_and(|(_, end)| log.end < end) {
            // The log was cut, as after an unclean election: what lay beyond never arrived.
            self.samples.retain(|end| end <= log.end);
            self.stamps.retain(|s| s.offset < log.end);
            self.blank = None;
        }
        self.samples.push(at_ms, log.end, horizon_ms, SAMPLES_MAX);
        // The newest timestamp of what is deleted goes with it.
        self.stamps.retain(|s| s.offset >= log.start);
    }

    /// Forgets samples that lie in the future.
    pub fn cut(&mut self, now_ms: i64) {
        self.samples.cut(now_ms);
    }

    /// What was deleted up to now was due.
    pub fn settle(&mut self) {
        self.start_before = self.start.or(self.start_before);
    }

    /// As another process saw it before.
    pub fn began(&mut self, start_before: i64) {
        self.start_before = Some(start_before);
    }

    pub fn start_before(&self) -> Option<i64> {
        self.start_before
    }

    /// The offsets that were deleted since the retention was as it should be, `[from, to)`; `None`: not known.
    pub fn deleted(&self) -> Option<(i64, i64)> {
        Some((self.start_before?, self.start?))
    }

    /// Where the log ended at a time, or a little before.
    pub fn end_at(&self, at_ms: i64) -> Option<i64> {
        self.samples.at(at_ms).map(|(_, end)| end)
    }

    pub fn take_read(&mut self, read: &Read) {
        match read.found {
            None => self.blank = Some(Blank { from: read.offset, to: read.end }),
            Some(stamp) => {
                if stamp.offset > read.offset {
                    self.blank = Some(Blank { from: read.offset, to: stamp.offset });
                }
                self.add_stamp(stamp);
            }
        }
    }

    fn add_stamp(&mut self, stamp: Stamp) {
        // Records of the oldest format have no timestamp.
        if stamp.timestamp_ms < 0 || self.stamps.iter().any(|s| s.offset <= stamp.offset && s.timestamp_ms >= stamp.timestamp_ms) {
            return;
        }
        self.stamps.retain(|s| s.offset < stamp.offset || s.timestamp_ms > stamp.timestamp_ms);
        let at = self.stamps.partition_point(|s| s.offset < stamp.offset);
        self.stamps.insert(at, stamp);
        if self.stamps.len() > STAMPS_MAX {
            // Its neighbour below stands in for it, which errs towards an earlier loss.
            let closest = (1..self.stamps.len()).min_by_key(|i| self.stamps[*i].timestamp_ms - self.stamps[i - 1].timestamp_ms);
            closest.map(|i| self.stamps.remove(i));
        }
    }

    /// The first offset at or after `committed` with a record that a reader would see, as far as is known.
    pub fn next_unread(&self, committed: i64) -> i64 {
        match self.blank {
            Some(blank) if blank.from <= committed && committed < blank.to => blank.to,
            _ => committed,
        }
    }

    /// The latest known timestamp at or before an offset: the record at `offset` is deleted no earlier than that one.
    pub fn stamp(&self, offset: i64) -> Option<Stamp> {
        let after = self.stamps.partition_point(|s| s.offset <= offset);
        after.checked_sub(1).map(|i| self.stamps[i])
    }

    /// When a sample was last taken of an end at or before the offset: it arrived no earlier.
    pub fn arrived_after(&self, offset: i64) -> Option<i64> {
        let points = self.samples.points();
        let later = points.partition_point(|(_, end)| *end <= offset);
        later.checked_sub(1).map(|i| points[i].0)
    }

    /// Bytes of one record, and bytes that arrive in a millisecond; `None`: not known.
    pub fn bytes(&self, log: Log) -> Option<Growth> {
        let size = log.bytes?;
        let (last, _) = self.samples.last()?;
        let rates = [last - RATE_OVER_MS, i64::MIN].map(|since_ms| self.samples.rate(since_ms, RATE_SPAN_MIN_MS));
        let rate = rates.into_iter().flatten().max_by(f64::total_cmp)?;
        let records = (log.end - log.start).max(0);
        let per_record = if records == 0 { 0.0 } else { size.max(0) as f64 / records as f64 };
        Some(Growth { per_record, per_ms: rate * per_record })
    }
}

/// How a partition grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    pub per_record: f64,
    pub per_ms: f64,
}
