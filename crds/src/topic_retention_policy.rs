//! `TopicRetentionPolicy`: how long topics must keep their records, as a floor that follows the slowest consumer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::KubeDuration, refs::ObjectRef};

/// How long some topics must keep their records: a floor that follows the slowest consumer, and what becomes of changes
/// below it. Of several policies on a topic the greatest floor, the strictest mode and the strictest protection count.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "TopicRetentionPolicy",
    plural = "topicretentionpolicies",
    shortname = "trp",
    category = "weir",
    namespaced,
    status = "TopicRetentionPolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.enforcement.mode"),
    printcolumn(name = "Minimum", type_ = "string", json_path = ".spec.floor.minimum"),
    printcolumn(name = "Topics", type_ = "integer", json_path = ".status.topics.matched"),
    printcolumn(name = "At risk", type_ = "integer", json_path = ".status.topics.atRisk"),
    printcolumn(name = "Violated", type_ = "integer", json_path = ".status.topics.violated"),
    printcolumn(name = "Lost", type_ = "integer", json_path = ".status.topics.lost"),
    printcolumn(name = "Unknown", type_ = "integer", json_path = ".status.topics.unknown"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TopicRetentionPolicySpec {
    /// The `KafkaCluster`. It must grant this namespace `Govern` on the topics; with `Observe` alone weir only looks.
    pub cluster_ref: ObjectRef,
    pub topics: TopicSelector,
    pub floor: FloorSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_groups: Option<ConsumerGroups>,
    /// Which ways of lowering retention are guarded beside the topic's own `retention.ms`. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protect: Option<ProtectSpec>,
    pub enforcement: Enforcement,
    /// How weir returns from what it raised, once nothing needs it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decreases: Option<DecreasesSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloSpec>,
    pub owners: OwnersSpec,
    /// A detector that is absent is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectors: Option<DetectorsSpec>,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("size(self.names) + size(self.patterns) > 0").message("topics: no topic is named; give names or patterns"))]
pub struct TopicSelector {
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 249), regex(pattern = r"^[A-Za-z0-9._-]+$")))]
    pub names: Vec<String>,
    /// Regular expressions; each matches any part of a name, so anchor it with `^` and `$` where that matters.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub patterns: Vec<String>,
    /// Regular expressions of topics that are left alone, whatever else matches them.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub exclude: Vec<String>,
}

/// The floor: the greatest of `minimum`, the multiple of the worst lag over the look-back and `downtimeAllowance`; at most
/// `maximum`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.minimum) >= duration('1m')").message("floor.minimum must be at least 1m"),
    validation = Rule::new("!has(self.lagLookback) || (duration(self.lagLookback) >= duration('1h') && duration(self.lagLookback) <= duration('2160h'))")
        .message("floor.lagLookback must be between 1h and 2160h"),
    validation = Rule::new("!has(self.maximum) || duration(self.maximum) >= duration(self.minimum)")
        .message("floor.maximum is less than floor.minimum; raise it, or lower the minimum"),
    validation = Rule::new("!has(self.maximum) || !has(self.downtimeAllowance) || duration(self.maximum) >= duration(self.downtimeAllowance)")
        .message("floor.maximum is less than floor.downtimeAllowance; raise it, or lower the allowance"),
)]
pub struct FloorSpec {
    pub minimum: KubeDuration,
    /// Of the peak of how far a group was behind; 0: lag does not count. Default 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub lag_multiplier_percent: Option<u32>,
    /// For how long a peak counts, and for how long a floor lives on after its reason has gone. Default 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_lookback: Option<KubeDuration>,
    /// A consumer may be down for so long. Default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_allowance: Option<KubeDuration>,
    /// No floor is above it. Absent: without limit, but for the grant's `maxFloor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<KubeDuration>,
}

/// Every group with committed offsets counts, unless it is excluded or retired.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.retireAfter) || duration(self.retireAfter) >= duration('1h')").message("consumerGroups.retireAfter must be at least 1h"))]
pub struct ConsumerGroups {
    /// Groups that are never retired, and are missed where they have committed nothing.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub required: Vec<String>,
    /// Regular expressions of groups that do not count.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub exclude: Vec<String>,
    /// After so long without members and progress a group does not count any more. Default 336h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_after: Option<KubeDuration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtectSpec {
    /// `retention.bytes`, by the time that it takes to fill. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<bool>,
    /// A compacted topic does not begin to delete below the floor. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup_policy: Option<bool>,
    /// The resource by which another operator owns the topic is not deleted. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<bool>,
    /// What the topic inherits where it sets nothing itself. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_defaults: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    pub mode: EnforcementMode,
    /// More time for a group that is about to lose records. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency_extend: Option<EmergencyExtend>,
}

/// In `Enforce` only: retention is multiplied when a group that counts has too little headroom left. It is not done while it is
/// not known how full the brokers' disks are, and not above the cluster's `storage.maxUsedPercent`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.maximum) >= duration('1m')").message("enforcement.emergencyExtend.maximum must be at least 1m"))]
pub struct EmergencyExtend {
    /// Of the effective retention.
    #[schemars(range(min = 1, max = 99))]
    pub when_headroom_below_percent: u32,
    /// Of the effective retention; 200 doubles it.
    #[schemars(range(min = 101, max = 1000))]
    pub factor_percent: u32,
    /// It is extended no further than that, however often; `floor.maximum` and a grant's `maxFloor` do not bound it.
    pub maximum: KubeDuration,
}

/// weir goes back to the floor, or to what there was before if that is more: by steps, each only while lags and disks are
/// known.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxStep) || duration(self.maxStep) >= duration('1m')").message("decreases.maxStep must be at least 1m"),
    validation = Rule::new("!has(self.every) || duration(self.every) >= duration('1m')").message("decreases.every must be at least 1m"),
)]
pub struct DecreasesSpec {
    /// Default 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_step: Option<KubeDuration>,
    /// From one step to the next. Default 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<KubeDuration>,
}

/// `Enforce` raises what is below its floor, `Warn` tells of it in an event, `Audit` only records it in status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnforcementMode {
    Enforce,
    Warn,
    Audit,
}

#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.warningPercent) || !has(self.criticalPercent) || self.warningPercent <= self.criticalPercent").message("slo.warningPercent is greater than slo.criticalPercent; lower it"))]
pub struct SloSpec {
    /// How far a group may be behind, of the effective retention. Default 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub warning_percent: Option<u32>,
    /// From here on it pages. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub critical_percent: Option<u32>,
    /// Less time than this until a group loses records is told of. Default 4h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_time_to_loss: Option<KubeDuration>,
    /// Of the time for which the broker keeps the offsets of a group without members. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub offsets_expiry_percent: Option<u32>,
}

/// Who is named in refusals and alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnersSpec {
    #[schemars(length(min = 1, max = 128))]
    pub team: String,
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub contacts: Vec<String>,
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub consumers: Vec<ConsumerSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerSpec {
    #[schemars(length(min = 1, max = 255))]
    pub group: String,
    #[schemars(length(min = 1, max = 128))]
    pub team: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub contact: Option<String>,
    /// What the group fills.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub tables: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DetectorsSpec {
    /// A consumer that makes no progress while its topic grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_consumer: Option<DeadConsumer>,
    /// A consumer that is slower than its producers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_trend: Option<LagTrend>,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.after) >= duration('1m')").message("detectors.deadConsumer.after must be at least 1m; offsets are read every 30s"))]
pub struct DeadConsumer {
    pub after: KubeDuration,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.over) >= duration('10m') && duration(self.over) <= duration('2160h')").message("detectors.lagTrend.over must be between 10m and 2160h"))]
pub struct LagTrend {
    pub over: KubeDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicRetentionPolicyStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<TopicCounts>,
    /// At most ten, the worst first; the rest is in their `TopicFloor`s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub worst: Vec<WorstTopic>,
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Each topic is counted once, by its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicCounts {
    pub matched: u32,
    pub healthy: u32,
    pub at_risk: u32,
    pub violated: u32,
    pub lost: u32,
    pub unknown: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorstTopic {
    #[schemars(length(max = 249))]
    pub topic: String,
    #[schemars(length(max = 32))]
    pub state: String,
    #[schemars(length(max = 1024))]
    pub why: String,
}
