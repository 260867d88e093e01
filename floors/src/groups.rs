//! What is remembered of a group on a topic, and whether it counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    lag::{Behind, LagUnknown},
    observed::{GroupSeen, GroupState},
    peaks::Peaks,
    policy::Policy,
    series::{Series, Step},
};

/// Points of a group's lag: fewer than of a partition's end, since only its course is asked for. Enough for gaps of at
/// most a fifth of their age over half a year.
pub const TREND_POINTS_MAX: usize = 128;

/// The last that was heard of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupRecord {
    pub positions: BTreeMap<i32, Position>,
    /// Of behind.
    pub peaks: Peaks<i64>,
    pub trend: Series<LagPoint>,
    /// When it last had members or made progress; at first, when it was first seen.
    pub active_ms: i64,
    /// Since when it has no members, as far as that was watched.
    pub empty_since_ms: Option<i64>,
    /// It was seen with members. The broker keeps what such a group has committed from when the last one left, and what a
    /// group without them commits, as by `assign()`, from each commit.
    #[serde(default)]
    pub had_members: bool,
    /// The coordinator did not say in the last round how far it is.
    pub silent: bool,
}

/// A committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    pub committed: i64,
    /// When it last changed, and the log's end at that time.
    pub moved_ms: i64,
    pub end_when_moved: i64,
    /// Since when the broker does not know it any more.
    pub forgotten_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LagPoint {
    pub behind_ms: i64,
    /// Of all partitions.
    pub records: i64,
    /// The sum of the committed offsets.
    pub committed: i64,
}

impl Step for LagPoint {
    fn since(self, before: Self) -> Self {
        Self {
            behind_ms: self.behind_ms.since(before.behind_ms),
            records: self.records.since(before.records),
            committed: self.committed.since(before.committed),
        }
    }

    fn onto(self, before: Self) -> Self {
        Self {
            behind_ms: self.behind_ms.onto(before.behind_ms),
            records: self.records.onto(before.records),
            committed: self.committed.onto(before.committed),
        }
    }
}

/// Whether a group's lag counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Excluded,
    Retired,
    Counts,
    Required,
}

impl Standing {
    pub const fn counts(self) -> bool {
        matches!(self, Self::Counts | Self::Required)
    }

    /// For one policy.
    pub fn under(policy: &Policy, name: &str, idle_ms: i64) -> Self {
        if policy.groups.required.contains(name) {
            Self::Required
        } else if policy.groups.exclude.iter().any(|e| e.is_match(name)) {
            Self::Excluded
        } else if idle_ms > policy.groups.retire_after_ms {
            Self::Retired
        } else {
            Self::Counts
        }
    }

    /// For all of a topic's policies: it counts where it counts for one.
    pub fn of(policies: &[&Policy], name: &str, idle_ms: i64) -> Self {
        policies.iter().map(|p| Self::under(p, name, idle_ms)).max().unwrap_or(Self::Counts)
    }
}

/// Offsets from which a group jumped, and to which: between them it read nothing.
pub struct Jump {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

impl GroupRecord {
    /// Takes in what the coordinator said. `ends` are those of the same round.
    pub fn observe(&mut self, seen: &GroupSeen, ends: &BTreeMap<i32, i64>, at_ms: i64) -> Vec<Jump> {
        if self.active_ms == 0 {
            self.active_ms = at_ms;
        }
        self.state(seen.state, at_ms);
        self.silent = seen.committed.is_none();
        let Some(committed) = &seen.committed else { return Vec::new() };
        for (partition, position) in &mut self.positions {
            if !committed.contains_key(partition) {
                position.forgotten_ms.get_or_insert(at_ms);
            }
        }
        if committed.is_empty() {
            // Nothing is kept; what it commits next is kept from then on.
            self.empty_since_ms = None;
        }
        committed.iter().filter_map(|(partition, offset)| self.commit(*partition, *offset, ends, at_ms)).collect()
    }

    fn state(&mut self, state: GroupState, at_ms: i64) {
        match state {
            // However unstable: there are members.
            GroupState::Stable | GroupState::Rebalancing => {
                self.active_ms = at_ms;
                self.empty_since_ms = None;
                self.had_members = true;
            }
            GroupState::Empty => {
                self.empty_since_ms.get_or_insert(at_ms);
            }
            GroupState::Unknown => {}
        }
    }

    fn commit(&mut self, partition: i32, committed: i64, ends: &BTreeMap<i32, i64>, at_ms: i64) -> Option<Jump> {
        let end_when_moved = ends.get(&partition).copied().unwrap_or(committed);
        let now = Position { committed, moved_ms: at_ms, end_when_moved, forgotten_ms: None };
        let before = self.positions.insert(partition, now)?;
        if before.committed == committed {
            self.positions.insert(partition, Position { forgotten_ms: None, ..before });
            return None;
        }
        self.active_ms = at_ms;
        let jumped = before.forgotten_ms.is_some() && committed > before.committed;
        jumped.then_some(Jump { partition, from: before.committed, to: committed })
    }

    /// The broker has nothing of the group any more.
    pub fn forget(&mut self, at_ms: i64) {
        (self.silent, self.had_members, self.empty_since_ms) = (false, false, None);
        for position in self.positions.values_mut() {
            position.forgotten_ms.get_or_insert(at_ms);
        }
    }

    /// When the last of its offsets was forgotten.
    pub fn forgotten_ms(&self) -> Option<i64> {
        self.positions.values().filter_map(|p| p.forgotten_ms).max()
    }

    /// Whether the broker has nothing of it.
    pub fn is_forgotten(&self) -> bool {
        self.positions.values().all(|p| p.forgotten_ms.is_some())
    }

    /// Since when the broker counts the time for which it keeps its offsets.
    pub fn kept_since_ms(&self) -> Option<i64> {
        let empty_since_ms = self.empty_since_ms?;
        Some(if self.had_members { empty_since_ms } else { empty_since_ms.max(self.active_ms) })
    }

    pub fn idle_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.active_ms).max(0)
    }
}

/// How far a group is behind: its worst partition.
pub fn worst(partitions: impl IntoIterator<Item = Behind>) -> Behind {
    partitions.into_iter().reduce(Behind::worst).unwrap_or(Behind::Unknown(LagUnknown::NoCommittedOffset))
}
