//! What the owners of topics ask for, parsed, and what several of them ask for together.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{DAY_MS, HOUR_MS, MINUTE_MS, Retention};

/// A policy of one namespace for some topics of one cluster.
#[derive(Clone, Debug)]
pub struct Policy {
    /// As `namespace/name`.
    pub name: String,
    /// The `KafkaCluster`'s name.
    pub cluster: String,
    pub topics: Topics,
    pub floor: FloorRule,
    pub groups: GroupRule,
    pub authority: Authority,
    pub mode: Mode,
    pub protect: Protect,
    pub emergency: Option<Emergency>,
    pub decreases: Decreases,
    pub slo: Slo,
    pub detectors: Detectors,
    pub owners: Owners,
}

/// Which topics: by name or pattern, unless a pattern excludes them. A pattern matches any part of a name.
#[derive(Clone, Debug, Default)]
pub struct Topics {
    pub names: BTreeSet<String>,
    pub patterns: Vec<Regex>,
    pub exclude: Vec<Regex>,
}

impl Topics {
    pub fn matches(&self, topic: &str) -> bool {
        let named = self.names.contains(topic) || self.patterns.iter().any(|p| p.is_match(topic));
        named && !self.exclude.iter().any(|p| p.is_match(topic))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloorRule {
    pub minimum_ms: i64,
    /// Of the peak of behind; 0: lag does not count.
    pub lag_multiplier_percent: u32,
    pub look_back_ms: i64,
    pub downtime_allowance_ms: i64,
    /// No floor is above it.
    pub maximum: Retention,
}

/// Which groups count: all with committed offsets, unless excluded or retired.
#[derive(Clone, Debug)]
pub struct GroupRule {
    /// Never retired, and missed where they have no committed offset.
    pub required: BTreeSet<String>,
    pub exclude: Vec<Regex>,
    /// After so long without members and progress a group does not count any more.
    pub retire_after_ms: i64,
}

/// What the cluster's grants let the policy's namespace do with the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Look, and say; its floor binds nobody.
    Observe,
    /// Hold a floor of at most `max_floor`.
    Govern { max_floor: Retention },
}

/// From the weakest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// Only records.
    Audit,
    /// Warns.
    Warn,
    /// Repairs and refuses.
    Enforce,
}

/// Which ways of lowering retention are guarded, beside `retention.ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protect {
    pub retention_bytes: bool,
    pub cleanup_policy: bool,
    pub broker_defaults: bool,
    pub deletion: bool,
}

impl Protect {
    pub const ALL: Self = Self { retention_bytes: true, cleanup_policy: true, broker_defaults: true, deletion: true };
    pub const NONE: Self = Self { retention_bytes: false, cleanup_policy: false, broker_defaults: false, deletion: false };

    const fn or(self, other: Self) -> Self {
        Self {
            retention_bytes: self.retention_bytes || other.retention_bytes,
            cleanup_policy: self.cleanup_policy || other.cleanup_policy,
            broker_defaults: self.broker_defaults || other.broker_defaults,
            deletion: self.deletion || other.deletion,
        }
    }
}

/// More time for a group that is about to lose records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Emergency {
    pub below_headroom_percent: u32,
    /// Of the present retention.
    pub factor_percent: u32,
    pub maximum_ms: i64,
}

/// How weir takes back what it raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decreases {
    pub max_step_ms: i64,
    pub every_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slo {
    /// Behind, of the effective retention.
    pub warning_percent: u32,
    pub critical_percent: u32,
    pub min_time_to_loss_ms: i64,
    /// Of the time for which the broker keeps the offsets of a group without members.
    pub offsets_expiry_percent: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detectors {
    /// No progress for so long while the log grows.
    pub dead_consumer_after_ms: Option<i64>,
    /// Consumption below production for so long.
    pub lag_trend_over_ms: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    pub team: String,
    pub contacts: Vec<String>,
    /// By group.
    pub consumers: BTreeMap<String, Consumer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    pub team: String,
    pub contact: Option<String>,
    /// What the group fills.
    pub tables: Vec<String>,
}

/// What all policies of a topic come to, as far as it is one answer: the strictest of each. The floor is the greatest of
/// each policy's own, and not in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    pub mode: Mode,
    pub protect: Protect,
    pub look_back_ms: i64,
    pub maximum: Retention,
    pub emergency: Option<Emergency>,
    pub decreases: Decreases,
    pub slo: Slo,
    pub detectors: Detectors,
}

impl Policy {
    pub fn matches(&self, cluster: &str, topic: &str) -> bool {
        self.cluster == cluster && self.topics.matches(topic)
    }

    /// As it stands for a topic on which the cluster grants this.
    pub fn with_authority(&self, authority: Authority) -> Self {
        Self { authority, ..self.clone() }
    }

    pub fn governs(&self) -> bool {
        matches!(self.authority, Authority::Govern { .. })
    }

    pub(crate) fn rules(&self) -> Rules {
        let (mode, protect, emergency) =
            if self.governs() { (self.mode, self.protect, self.emergency) } else { (Mode::Audit, Protect::NONE, None) };
        Rules {
            mode,
            protect,
            look_back_ms: self.floor.look_back_ms,
            maximum: self.maximum(),
            emergency,
            decreases: self.decreases,
            slo: self.slo,
            detectors: self.detectors,
        }
    }

    /// What caps its floor.
    pub fn maximum(&self) -> Retention {
        match self.authority {
            Authority::Observe => self.floor.maximum,
            Authority::Govern { max_floor } => self.floor.maximum.min(max_floor),
        }
    }
}

impl Rules {
    /// Of the policies that bind; where none does, of those that only look.
    pub fn of(policies: &[&Policy]) -> Option<Self> {
        binding(policies).iter().map(|p| p.rules()).reduce(Self::strictest)
    }

    pub(crate) fn strictest(self, other: Self) -> Self {
        Self {
            mode: self.mode.max(other.mode),
            protect: self.protect.or(other.protect),
            look_back_ms: self.look_back_ms.max(other.look_back_ms),
            maximum: self.maximum.max(other.maximum),
            emergency: more_help(self.emergency, other.emergency),
            decreases: Decreases {
                max_step_ms: self.decreases.max_step_ms.min(other.decreases.max_step_ms),
                every_ms: self.decreases.every_ms.max(other.decreases.every_ms),
            },
            slo: Slo {
                warning_percent: self.slo.warning_percent.min(other.slo.warning_percent),
                critical_percent: self.slo.critical_percent.min(other.slo.critical_percent),
                min_time_to_loss_ms: self.slo.min_time_to_loss_ms.max(other.slo.min_time_to_loss_ms),
                offsets_expiry_percent: self.slo.offsets_expiry_percent.min(other.slo.offsets_expiry_percent),
            },
            detectors: Detectors {
                dead_consumer_after_ms: least(self.detectors.dead_consumer_after_ms, other.detectors.dead_consumer_after_ms),
                lag_trend_over_ms: least(self.detectors.lag_trend_over_ms, other.detectors.lag_trend_over_ms),
            },
        }
    }
}

/// The policies whose floors bind; where none does, all: what they would ask for is still worth knowing.
pub fn binding<'a>(policies: &[&'a Policy]) -> Vec<&'a Policy> {
    let governing: Vec<&Policy> = policies.iter().copied().filter(|p| p.governs()).collect();
    if governing.is_empty() { policies.to_vec() } else { governing }
}

fn more_help(a: Option<Emergency>, b: Option<Emergency>) -> Option<Emergency> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Emergency {
            below_headroom_percent: a.below_headroom_percent.max(b.below_headroom_percent),
            factor_percent: a.factor_percent.max(b.factor_percent),
            maximum_ms: a.maximum_ms.max(b.maximum_ms),
        }),
        (one, other) => one.or(other),
    }
}

fn least(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// A running BackfillJob that needs a topic's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// As `namespace/name`.
    pub job: String,
    pub window_start_ms: i64,
    /// Planning, or the last renewal.
    pub renewed_ms: i64,
}

impl Hold {
    /// A hold that nobody renews ends.
    pub const LASTS_MS: i64 = 3 * DAY_MS;
    /// Beyond the window's start.
    const MARGIN_MS: i64 = DAY_MS;

    /// When it ends by itself.
    pub const fn until_ms(&self) -> i64 {
        self.renewed_ms.saturating_add(Self::LASTS_MS)
    }

    /// What it asks for, while it lasts.
    pub fn floor_ms(&self, now_ms: i64) -> Option<i64> {
        (now_ms < self.until_ms()).then(|| Self::needed_ms(self.window_start_ms, now_ms))
    }

    /// How long a topic must keep its records for those of a window to stay a day more.
    pub fn needed_ms(window_start_ms: i64, now_ms: i64) -> i64 {
        round_up_ms(now_ms.saturating_sub(window_start_ms).max(0).saturating_add(Self::MARGIN_MS))
    }
}

/// Up to a whole hour, under a day a quarter of an hour, under an hour a minute: what grows with the clock asks for a
/// change now and then, not every few seconds.
pub fn round_up_ms(length_ms: i64) -> i64 {
    let unit = match length_ms {
        ..HOUR_MS => MINUTE_MS,
        HOUR_MS..DAY_MS => 15 * MINUTE_MS,
        DAY_MS.. => HOUR_MS,
    };
    match length_ms.rem_euclid(unit) {
        0 => length_ms,
        over => length_ms.saturating_add(unit - over),
    }
}
