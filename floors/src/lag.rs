//! How far behind a committed offset is, and when its record may be deleted. Two measures that share nothing.

use crate::{
    MINUTE_MS,
    config::Keys,
    observed::Log,
    record::{Growth, PartitionRecord},
    retention::Retention,
    series::Arrival,
};

/// Clocks of producers and brokers are this far apart at most; a timestamp further ahead is not one of an arrival.
pub const SKEW_MS: i64 = 5 * MINUTE_MS;

/// How long ago the record at the committed offset arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    Known {
        ms: i64,
        by: By,
    },
    /// It arrived before anything that weir knows of.
    AtLeast {
        ms: i64,
    },
    Unknown(LagUnknown),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Nothing is unread.
    End,
    /// Interpolated between weir's samples.
    Samples,
    /// The record's timestamp; the samples do not go back so far.
    Timestamp,
}

/// Why nothing is known of a lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LagUnknown {
    /// There are records, and the group has not said how far it is.
    NoCommittedOffset,
    NoLeader,
    CoordinatorSilent,
    /// The last offsets are too old.
    Stale,
    /// A required group that has committed nothing, anywhere on the topic.
    RequiredMissing,
}

impl Behind {
    /// What is certain of it.
    pub const fn least_ms(self) -> Option<i64> {
        match self {
            Self::Known { ms, .. } | Self::AtLeast { ms } => Some(ms),
            Self::Unknown(_) => None,
        }
    }

    pub const fn is_known(self) -> bool {
        matches!(self, Self::Known { .. })
    }

    /// Of two partitions: the further behind; what is not known goes before what is.
    pub fn worst(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown(why), _) | (_, Self::Unknown(why)) => Self::Unknown(why),
            (Self::AtLeast { ms }, other) | (other, Self::AtLeast { ms }) => Self::AtLeast { ms: ms.max(other.least_ms().unwrap_or(0)) },
            (Self::Known { ms: a, .. }, Self::Known { ms: b, .. }) => {
                if a >= b {
                    self
                } else {
                    other
                }
            }
        }
    }
}

/// The time until something happens; the least is the one to worry about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeLeft {
    Unknown,
    /// Milliseconds; 0: at any moment.
    In(i64),
    Never,
}

/// As of the moment when the offsets were asked for.
pub fn behind(record: &PartitionRecord, log: Log, committed: i64, at_ms: i64, keys: Option<&Keys>) -> Behind {
    let unread = record.next_unread(committed);
    if unread >= log.end {
        return Behind::Known { ms: 0, by: By::End };
    }
    let first = match record.samples.arrival(unread) {
        Arrival::At(arrived_ms) => return Behind::Known { ms: (at_ms - arrived_ms).max(0), by: By::Samples },
        Arrival::Before(first_ms) => first_ms.min(at_ms),
        Arrival::Unseen => at_ms,
    };
    let stamp = record.stamp(unread).filter(|s| plausible(s.timestamp_ms, first, at_ms, keys));
    match stamp {
        Some(stamp) => Behind::Known { ms: at_ms - stamp.timestamp_ms.min(first), by: By::Timestamp },
        None => Behind::AtLeast { ms: at_ms - first },
    }
}

/// Whether a timestamp may be that of an arrival before the first sample: the broker's own always; a producer's if it
/// lies before that sample and is not older than anything the topic keeps, as rebuilt events are.
fn plausible(timestamp_ms: i64, first_ms: i64, at_ms: i64, keys: Option<&Keys>) -> bool {
    let Some(keys) = keys else { return false };
    if keys.log_append_time {
        return true;
    }
    let oldest = keys.retention_ms.millis().map_or(0, |kept| at_ms.saturating_sub(kept));
    timestamp_ms > oldest.max(0) && timestamp_ms <= first_ms.saturating_add(SKEW_MS)
}

/// When the oldest unread record may be deleted: from timestamps and `retention.ms`, sizes and `retention.bytes`; whichever comes first.
pub fn expires(record: &PartitionRecord, log: Log, committed: i64, now_ms: i64, keys: &Keys) -> TimeLeft {
    let unread = record.next_unread(committed).max(log.start);
    if unread >= log.end || !keys.cleanup.delete {
        return TimeLeft::Never;
    }
    by_time(record, unread, now_ms, keys).min(by_size(record.bytes(log), log.end - unread, keys))
}

/// A segment goes when its newest timestamp is older than the retention, and those before it are gone.
fn by_time(record: &PartitionRecord, unread: i64, now_ms: i64, keys: &Keys) -> TimeLeft {
    let Retention::Millis(kept_ms) = keys.retention_ms else { return TimeLeft::Never };
    let read = record.stamp(unread).map(|s| s.timestamp_ms);
    // The broker's clock stamps records as they arrive, so there a sample of the end is as good as a timestamp.
    let appended = keys.log_append_time.then(|| record.arrived_after(unread)).flatten();
    match read.max(appended) {
        // One in the future keeps its segment for longer; nobody should count on it.
        Some(timestamp_ms) => TimeLeft::In(timestamp_ms.min(now_ms).saturating_add(kept_ms).saturating_sub(now_ms).max(0)),
        None => TimeLeft::Unknown,
    }
}

fn by_size(growth: Option<Growth>, unread: i64, keys: &Keys) -> TimeLeft {
    let Some(limit) = keys.retention_bytes else { return TimeLeft::Never };
    let Some(growth) = growth else { return TimeLeft::Unknown };
    let left = limit as f64 - unread as f64 * growth.per_record;
    match fill_ms(left, growth) {
        Retention::Millis(ms) => TimeLeft::In(ms),
        Retention::Infinite => TimeLeft::Never,
    }
}

/// The time in which so many bytes arrive.
fn fill_ms(bytes: f64, growth: Growth) -> Retention {
    if bytes <= 0.0 {
        return Retention::Millis(0);
    }
    let ms = bytes / growth.per_ms;
    // Centuries are as good as for ever; so is a topic to which nobody writes.
    if ms.is_finite() && ms < 1e13 { Retention::Millis(ms as i64) } else { Retention::Infinite }
}

/// How long records stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effective {
    Known { retention: Retention, by: Limit },
    Unknown(RetentionUnknown),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Time,
    Size,
    /// Compacted only: nothing is deleted for its age.
    Compacted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionUnknown {
    /// The topic could not be described.
    Config,
    /// A value that weir does not understand.
    Value(&'static str),
    /// `retention.bytes` is set, and size or rate of a partition are not known.
    FillTime,
}

impl Effective {
    pub const fn known(self) -> Option<Retention> {
        match self {
            Self::Known { retention, .. } => Some(retention),
            Self::Unknown(_) => None,
        }
    }
}

/// The least of `retention.ms` and the time in which `retention.bytes` fills. `bytes_per_ms` is that of the partition that
/// grows fastest. `local.retention.*` does not count: what it deletes lies in remote storage.
pub fn effective(keys: &Keys, bytes_per_ms: Option<f64>) -> Effective {
    if !keys.cleanup.delete {
        return Effective::Known { retention: Retention::Infinite, by: Limit::Compacted };
    }
    let by_time = Effective::Known { retention: keys.retention_ms, by: Limit::Time };
    let Some(limit) = keys.retention_bytes else { return by_time };
    let Some(per_ms) = bytes_per_ms else { return Effective::Unknown(RetentionUnknown::FillTime) };
    let by_size = fill_ms(limit as f64, Growth { per_record: 0.0, per_ms });
    if by_size < keys.retention_ms { Effective::Known { retention: by_size, by: Limit::Size } } else { by_time }
}
