//! What is wrong with a topic or one of its groups, beside a floor that is not kept.

use serde::{Deserialize, Serialize};

use crate::{
    MINUTE_MS, Retention,
    assess::GroupLag,
    groups::{GroupRecord, LagPoint, Position},
    lag::{Behind, By, Effective, TimeLeft},
    policy::{Rules, Slo},
    retention::percent_of,
    verdict::Repair,
};

/// Records that a group will not read: offsets are exact, their number is an upper bound, since markers and compacted
/// records have offsets as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    pub topic_id: String,
    pub group: String,
    pub partition: i32,
    /// The offsets `[from, to)`.
    pub from: i64,
    pub to: i64,
    /// When the first and the last of them arrived, interpolated between samples; `None`: before the samples.
    pub first_ms: Option<i64>,
    pub last_ms: Option<i64>,
    pub cause: GapCause,
    pub found_ms: i64,
    /// When it last grew.
    #[serde(default)]
    pub grown_ms: i64,
    /// Offsets in it that are not of it: several gaps became one.
    #[serde(default)]
    pub between: i64,
    /// It counts and its group does not any more: what the group misses from then on is another gap.
    #[serde(default)]
    pub closed: bool,
    /// The id of what it belongs to.
    pub incident: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GapCause {
    /// Deleted before the group read them.
    LogStartMoved,
    /// Deleted with the topic; `topic_id` is that of the deleted one.
    TopicDeleted,
    /// The broker had forgotten the group's offset, and it came back beyond it.
    Skipped,
}

impl Gap {
    pub const fn records_max(&self) -> i64 {
        self.to - self.from - self.between
    }

    /// Whether both are the same gap, which may have grown.
    pub fn begins_as(&self, other: &Self) -> bool {
        self.topic_id == other.topic_id
            && self.group == other.group
            && self.partition == other.partition
            && self.from == other.from
            && self.cause == other.cause
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Retention is below the floor. `from`: what it was before somebody lowered it, if somebody did.
    BelowFloor {
        from: Option<Retention>,
        to: Retention,
        floor: Retention,
    },
    /// `retention.bytes` was lowered, and nobody can say what that comes to. `from`: without limit.
    SizeLowered {
        from: Option<i64>,
        to: i64,
    },
    /// The floor would be higher if the maximum let it.
    FloorCapped {
        wanted: Retention,
        maximum: Retention,
    },
    Missed(Gap),
    /// Before a repair took effect records were deleted, whoever had read them.
    Deleted(Repair),
    /// Another operator's resource asks for less than the floor, and its operator will go on to set that.
    EnforcementConflict {
        /// As `KafkaTopic kafka/app-events`.
        resource: String,
        /// What it sets of what is too low; `None`: nothing.
        declared: Vec<(&'static str, Option<String>)>,
        /// What would end the conflict.
        patch: String,
        /// How often it was reverted of late; after a few weir raises at intervals.
        reverted: usize,
    },
    /// Somebody lowered the retention not long ago, and weir put it back.
    Restored(Repair),
    /// No progress on these partitions while they grow.
    DeadConsumer {
        group: String,
        partitions: Vec<i32>,
        since_ms: i64,
    },
    /// The broker forgets the group's offsets; at the latest in `within_ms`.
    OffsetsExpiring {
        group: String,
        within_ms: i64,
    },
    /// The broker has forgotten the group's offsets, and there are records that it has not read: where it begins when it comes
    /// back is for `auto.offset.reset` to say.
    OffsetsForgotten {
        group: String,
        since_ms: i64,
    },
    /// Consumption is slower than production; at this pace the group loses records at that time.
    LagTrend {
        group: String,
        crosses_ms: i64,
    },
    LagAboveSlo {
        group: String,
        percent: u32,
        critical: bool,
    },
    /// Less time until records are lost than the SLO wants.
    LossNear {
        group: String,
        within_ms: i64,
    },
}

/// Of one group that counts.
pub(crate) struct Detect<'a> {
    pub name: &'a str,
    pub lag: &'a GroupLag,
    pub record: &'a GroupRecord,
    pub rules: &'a Rules,
    pub effective: Effective,
    pub offsets_retention_ms: Option<i64>,
    pub now_ms: i64,
}

impl Detect<'_> {
    pub fn all(&self) -> impl Iterator<Item = Finding> {
        let offsets = self.offsets_forgotten().or_else(|| self.offsets_expiring());
        [self.dead_consumer(), offsets, self.lag_trend(), self.above_slo(), self.loss_near()].into_iter().flatten()
    }

    /// An idle topic's consumer has nothing to do: only records that came after it stopped count, and only once they have
    /// waited for as long.
    fn dead_consumer(&self) -> Option<Finding> {
        let after_ms = self.rules.detectors.dead_consumer_after_ms?;
        let stuck: Vec<(i32, i64)> = self
            .lag
            .partitions
            .iter()
            .filter_map(|(partition, lag)| {
                let position = self.record.positions.get(partition)?;
                let waiting = lag.behind.least_ms().is_some_and(|ms| ms >= after_ms);
                let grew = lag.end? > position.end_when_moved;
                let still = self.now_ms - position.moved_ms >= after_ms;
                (waiting && grew && still).then_some((*partition, position.moved_ms))
            })
            .collect();
        let since_ms = stuck.iter().map(|(_, moved_ms)| *moved_ms).min()?;
        Some(Finding::DeadConsumer { group: self.name.to_owned(), partitions: stuck.into_iter().map(|(p, _)| p).collect(), since_ms })
    }

    /// A broker keeps the offsets of a group for so long after its last member left, or its last commit if it never had one.
    fn offsets_expiring(&self) -> Option<Finding> {
        let (kept_ms, since_ms) = (self.offsets_retention_ms?, self.record.kept_since_ms()?);
        if self.record.is_forgotten() {
            return None;
        }
        let passed_ms = self.now_ms - since_ms;
        (percent_of(passed_ms, kept_ms) >= self.rules.slo.offsets_expiry_percent)
            .then(|| Finding::OffsetsExpiring { group: self.name.to_owned(), within_ms: (kept_ms - passed_ms).max(0) })
    }

    /// One that has read everything skips nothing, also where markers of transactions follow.
    fn offsets_forgotten(&self) -> Option<Finding> {
        let unread = |partition: &i32, committed: i64| {
            let lag = self.lag.partitions.get(partition);
            lag.is_some_and(|p| p.end.is_some_and(|end| end > committed) && !matches!(p.behind, Behind::Known { by: By::End, .. }))
        };
        let since = |(partition, position): (&i32, &Position)| position.forgotten_ms.filter(|_| unread(partition, position.committed));
        let since_ms = self.record.positions.iter().filter_map(since).min()?;
        Some(Finding::OffsetsForgotten { group: self.name.to_owned(), since_ms })
    }

    /// The lag grew in each quarter of the time, so that no single burst makes a trend.
    fn lag_trend(&self) -> Option<Finding> {
        let over_ms = self.rules.detectors.lag_trend_over_ms?;
        let Retention::Millis(kept_ms) = self.effective.known()? else { return None };
        let start_ms = self.now_ms - over_ms;
        let trend = &self.record.trend;
        let first = trend.since(start_ms).filter(|(at, _)| *at <= start_ms + over_ms / 4)?;
        let mut points: Vec<(i64, LagPoint)> = vec![first];
        points.extend((1..=4).filter_map(|quarter| trend.at(start_ms + over_ms * quarter / 4)));
        let grew = points.windows(2).all(|pair| pair[0].1.records < pair[1].1.records);
        let (t0, p0) = first;
        let (t1, p1) = *points.last()?;
        let grown_ms = p1.behind_ms - p0.behind_ms;
        if !grew || grown_ms <= 0 {
            return None;
        }
        let left = i128::from((kept_ms - p1.behind_ms).max(0)) * i128::from(t1 - t0) / i128::from(grown_ms);
        let crosses_ms = self.now_ms.saturating_add(i64::try_from(left).unwrap_or(i64::MAX));
        Some(Finding::LagTrend { group: self.name.to_owned(), crosses_ms })
    }

    fn above_slo(&self) -> Option<Finding> {
        let Retention::Millis(kept_ms) = self.effective.known()? else { return None };
        let Slo { warning_percent, critical_percent, .. } = self.rules.slo;
        let percent = percent_of(self.lag.behind.least_ms()?, kept_ms);
        (percent >= warning_percent.min(critical_percent)).then(|| Finding::LagAboveSlo {
            group: self.name.to_owned(),
            percent,
            critical: percent >= critical_percent,
        })
    }

    fn loss_near(&self) -> Option<Finding> {
        match self.lag.time_to_loss {
            TimeLeft::In(within_ms) if within_ms < self.rules.slo.min_time_to_loss_ms => {
                Some(Finding::LossNear { group: self.name.to_owned(), within_ms })
            }
            TimeLeft::In(_) | TimeLeft::Unknown | TimeLeft::Never => None,
        }
    }
}

/// The pace of late is that of the last half hour.
const PACE_OVER_MS: i64 = 30 * MINUTE_MS;
/// Less than that says nothing of a pace; a partition that stands still for as long stands still.
const PACE_SPAN_MIN_MS: i64 = 5 * MINUTE_MS;

/// When a group loses its first record, if it goes on as of late; without a pace, as if it had stopped.
pub(crate) fn time_to_loss(lag: &GroupLag, record: &GroupRecord, now_ms: i64) -> TimeLeft {
    let pace = falls_back(record, now_ms);
    let of = |partition: &i32, expires: TimeLeft| {
        let still = record.positions.get(partition).is_none_or(|p| now_ms - p.moved_ms >= PACE_SPAN_MIN_MS);
        match expires {
            TimeLeft::In(ms) if still => TimeLeft::In(ms),
            TimeLeft::In(_) if pace <= 0.0 => TimeLeft::Never,
            TimeLeft::In(ms) => TimeLeft::In((ms as f64 / pace.min(1.0)) as i64),
            TimeLeft::Unknown | TimeLeft::Never => expires,
        }
    };
    lag.partitions.iter().map(|(partition, p)| of(partition, p.expires)).min().unwrap_or(TimeLeft::Unknown)
}

/// How much further behind in each unit of time: 1 stands still, 0 keeps up.
fn falls_back(record: &GroupRecord, now_ms: i64) -> f64 {
    let (Some((t0, p0)), Some((t1, p1))) = (record.trend.since(now_ms - PACE_OVER_MS), record.trend.last()) else { return 1.0 };
    if t1 - t0 < PACE_SPAN_MIN_MS { 1.0 } else { (p1.behind_ms - p0.behind_ms) as f64 / (t1 - t0) as f64 }
}
