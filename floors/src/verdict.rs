//! Repairs, and whether anything was deleted before they took effect.
//!
//! Brokers look for what is too old at a phase of their own, so both happen. Where each log began is compared with where it
//! began when the retention was last seen to be as it should; that is known from a look that was answered before the
//! configuration was read.

use serde::{Deserialize, Serialize};
use weir_crds::contract::digest::Sha256Digest;

use crate::{
    MINUTE_MS,
    config::{Keys, RETENTION_MS},
    history::History,
    observed::Observed,
    record::PartitionRecord,
    series::Arrival,
    wanted::{Cause, Change, Kept},
};

/// A broker may go on deleting by the old configuration for as long: it takes changes up within seconds, and ends what it
/// has begun.
const TAKES_EFFECT_MS: i64 = 30_000;
/// A partition without a leader is waited for, but not for ever.
const WAITS_MS: i64 = 10 * MINUTE_MS;

/// Somebody lowered the retention below the floor, and weir put it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    pub id: String,
    /// The first that the verdict is about, where one followed the other before there was a verdict.
    pub since_ms: i64,
    pub at_ms: i64,
    pub key: String,
    /// As Kafka has it, before somebody lowered it.
    pub before: Option<String>,
    /// `None`: the topic's own value was taken away.
    pub lowered_to: Option<String>,
    pub put_back: String,
    /// `None`: it may not have taken effect everywhere.
    pub verdict: Option<Verdict>,
    pub acknowledged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub judged_ms: i64,
    /// By partition; none: intact, as far as it is known.
    pub deleted: Vec<Deleted>,
    /// Partitions of which nobody knows.
    pub unknown: Vec<i32>,
}

/// The offsets `[from, to)` of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    /// When the first and the last arrived, interpolated between samples; `None`: before the samples.
    pub first_ms: Option<i64>,
    pub last_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Intact,
    Lost,
    Unknown,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Intact, Self::Lost, Self::Unknown];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intact => "Intact",
            Self::Lost => "Lost",
            Self::Unknown => "Unknown",
        }
    }
}

impl Verdict {
    pub fn outcome(&self) -> Outcome {
        match (self.deleted.is_empty(), self.unknown.is_empty()) {
            (false, _) => Outcome::Lost,
            (true, true) => Outcome::Intact,
            (true, false) => Outcome::Unknown,
        }
    }

    pub fn records_max(&self) -> i64 {
        self.deleted.iter().map(|d| d.to - d.from).sum()
    }
}

impl Repair {
    pub fn outcome(&self) -> Option<Outcome> {
        self.verdict.as_ref().map(Verdict::outcome)
    }

    /// Records that came before this were due before somebody lowered the retention.
    fn due_ms(&self) -> Option<i64> {
        let kept_ms = self.before.as_ref().filter(|_| self.key == RETENTION_MS)?.parse::<i64>().ok().filter(|ms| *ms >= 0)?;
        Some(self.since_ms.saturating_sub(kept_ms))
    }
}

impl History {
    /// The last time that weir put back what somebody lowered.
    pub fn last_repair(&self) -> Option<&Repair> {
        self.repair.as_ref()
    }

    /// Before the change is noted. If this process dies before the `TopicFloor` says so, the next one does not know of it.
    pub(crate) fn note_repair(&mut self, change: &Change, now_ms: i64) {
        let (Cause::Restore, Some(key)) = (change.cause, change.keys.first()) else { return };
        let before = self
            .kept
            .map(|kept| if key.key == RETENTION_MS { kept.retention.to_kafka().to_string() } else { kept.bytes.unwrap_or(-1).to_string() });
        let unjudged = self.repair.take().filter(|r| r.verdict.is_none());
        let since_ms = unjudged.as_ref().map_or(now_ms, |r| r.since_ms);
        let id = Sha256Digest::of(format!("{}/{since_ms}", self.topic_id).as_bytes()).short()[..10].to_owned();
        self.repair = Some(Repair {
            id,
            since_ms,
            at_ms: now_ms,
            key: key.key.to_owned(),
            before: unjudged.map_or(before, |r| r.before),
            lowered_to: key.from.clone(),
            put_back: key.to.clone().unwrap_or_default(),
            verdict: None,
            acknowledged: false,
        });
    }

    /// Beside what is remembered: what was shown of it later, or done since.
    pub(crate) fn join_repair(&mut self, later: &mut Self) {
        let stands = match (&mut self.repair, &later.repair) {
            (Some(known), Some(later)) if known.id == later.id && (known.verdict.is_some() || later.verdict.is_none()) => {
                known.acknowledged |= later.acknowledged;
                later.at_ms <= known.at_ms
            }
            (Some(known), Some(later)) => known.id != later.id && later.at_ms < known.at_ms,
            (known, later) => known.is_some() || later.is_none(),
        };
        if !stands {
            self.repair = later.repair.take();
        } else if self.is_unjudged() {
            // It is judged by where logs began before it.
            return;
        }
        for (partition, record) in &later.partitions {
            if let Some(offset) = record.start_before() {
                let known = self.partitions.entry(*partition).or_default();
                known.began(known.start_before().map_or(offset, |before| before.max(offset)));
            }
        }
    }

    /// Whether the topic keeps less than it did when it was last as it should be, or may not keep it everywhere yet: then
    /// what is deleted was not due.
    pub(crate) fn is_lowered(&self, keys: Option<&Keys>) -> bool {
        let below = |(kept, keys): (Kept, &Keys)| keys.retention_ms < kept.retention || kept.is_size_above(keys);
        self.is_unjudged() || self.kept.zip(keys).is_some_and(below)
    }

    pub(crate) fn is_unjudged(&self) -> bool {
        self.repair.as_ref().is_some_and(|r| r.verdict.is_none())
    }

    /// With a configuration that was read after the offsets, and keeps what is enforced: what was deleted so far was due, or
    /// is judged.
    pub(crate) fn witness(&mut self, seen: &Observed, below_floor: bool) {
        if !seen.config_is_fresh || below_floor {
            return;
        }
        if self.is_unjudged() {
            self.judge(seen);
        } else {
            self.partitions.values_mut().for_each(PartitionRecord::settle);
        }
    }

    fn judge(&mut self, seen: &Observed) {
        let Some(repair) = &self.repair else { return };
        // By nothing but what was taken in: a look that a wrong clock has put into the future was not.
        if seen.offsets_at_ms != self.observed_ms || seen.offsets_at_ms < repair.at_ms + TAKES_EFFECT_MS {
            return;
        }
        let leaderless: Vec<i32> = seen.partitions.iter().filter(|(_, log)| log.is_none()).map(|(p, _)| *p).collect();
        if seen.partitions.is_empty() || (!leaderless.is_empty() && seen.offsets_at_ms < repair.at_ms + WAITS_MS) {
            return;
        }
        let due_ms = repair.due_ms();
        let mut verdict = Verdict { judged_ms: seen.offsets_at_ms, deleted: Vec::new(), unknown: leaderless };
        for partition in seen.partitions.iter().filter(|(_, log)| log.is_some()).map(|(p, _)| p) {
            let Some(record) = self.partitions.get(partition) else { continue };
            match record.deleted() {
                None => verdict.unknown.push(*partition),
                Some((from, to)) => verdict.deleted.extend(deleted(record, *partition, due(record, due_ms).max(from), to)),
            }
        }
        if let Some(repair) = &mut self.repair {
            repair.verdict = Some(verdict);
        }
        self.partitions.values_mut().for_each(PartitionRecord::settle);
    }

    /// Where logs began before the repair that is not judged yet, by partition.
    pub(crate) fn began(&self) -> Vec<(i32, i64)> {
        if !self.is_unjudged() {
            return Vec::new();
        }
        self.partitions.iter().filter_map(|(partition, record)| Some((*partition, record.start_before()?))).collect()
    }
}

/// The first offset that was not due.
fn due(record: &PartitionRecord, due_ms: Option<i64>) -> i64 {
    due_ms.and_then(|ms| record.end_at(ms)).unwrap_or(0)
}

fn deleted(record: &PartitionRecord, partition: i32, from: i64, to: i64) -> Option<Deleted> {
    let at = |offset: i64| match record.samples.arrival(offset) {
        Arrival::At(ms) => Some(ms),
        Arrival::Before(_) | Arrival::Unseen => None,
    };
    (from < to).then(|| Deleted { partition, from, to, first_ms: at(from), last_ms: at(to - 1) })
}
