//! What was observed of a topic in one round. Plain data; whoever asks the cluster fills it in.

use std::collections::BTreeMap;

use crate::config::TopicConfig;

/// One topic. The configuration may be newer than the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub topic_id: String,
    /// `None`: it could not be described.
    pub config: Option<TopicConfig>,
    /// It was read after the offsets were, just now.
    pub config_is_fresh: bool,
    /// When offsets and groups were asked for, which is before they were answered.
    pub offsets_at_ms: i64,
    /// Every partition; `None` where no leader answered.
    pub partitions: BTreeMap<i32, Option<Log>>,
    /// Every group with committed offsets or members on the topic, and each of [`crate::History::expected_groups`] that did not
    /// answer: the broker has forgotten those that are missing. `None`: groups could not be listed.
    pub groups: Option<BTreeMap<String, GroupSeen>>,
    /// The broker's `offsets.retention.minutes`, where it was observed.
    pub offsets_retention_ms: Option<i64>,
    pub storage: Storage,
    /// Records that were read, or found by their time, since the last round.
    pub reads: Vec<Read>,
}

/// What a partition's leader has. `end` is the high watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub start: i64,
    pub end: i64,
    /// The size of the leader's log; `None`: not observed.
    pub bytes: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSeen {
    pub state: GroupState,
    /// By partition, where there is one; `None`: the coordinator did not say.
    pub committed: Option<BTreeMap<i32, i64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Members, with their partitions.
    Stable,
    /// Members that are being given their partitions, however often.
    Rebalancing,
    /// Offsets, no members.
    Empty,
    /// It was not described.
    Unknown,
}

/// The first record with data at or after an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub partition: i32,
    /// Where reading began.
    pub offset: i64,
    /// `None`: up to `end` there were control records only.
    pub found: Option<Stamp>,
    /// The end of the log as the reader saw it.
    pub end: i64,
}

/// A record's offset and timestamp, as Kafka has it: negative where the record has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    pub offset: i64,
    pub timestamp_ms: i64,
}

/// How full the brokers' disks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Of the fullest; `None`: not observed.
    pub used_percent: Option<u32>,
    /// Above it weir extends nothing.
    pub max_used_percent: u32,
}

impl Storage {
    pub fn is_above(self) -> bool {
        self.used_percent.is_some_and(|used| used > self.max_used_percent)
    }

    pub fn is_known_below(self) -> bool {
        self.used_percent.is_some_and(|used| used <= self.max_used_percent)
    }
}
