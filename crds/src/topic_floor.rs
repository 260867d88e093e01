//! `TopicFloor`: one governed topic, as weir sees it. Written by weir alone.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    refs::ObjectRef,
    topic_loss::{HoldStatus, LossStatus, OffsetSnapshot, RepairStatus},
    topic_retention_policy::EnforcementMode,
};

/// A state: the topic was deleted, and only what was lost of it keeps its `TopicFloor`.
pub const TOPIC_DELETED: &str = "TopicDeleted";
/// A state: nobody asks for anything of the topic any more, and only what was lost keeps its `TopicFloor`.
pub const NOT_GOVERNED: &str = "NotGoverned";

/// One governed topic: its retention, its floor and why, and how far its groups are. Written by weir alone.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "TopicFloor",
    plural = "topicfloors",
    shortname = "tfl",
    category = "weir",
    status = "TopicFloorStatus",
    derive = "PartialEq",
    printcolumn(name = "Topic", type_ = "string", json_path = ".spec.topic"),
    printcolumn(name = "Retention", type_ = "string", json_path = ".status.retention"),
    printcolumn(name = "Floor", type_ = "string", json_path = ".status.floor"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.decidedBy"),
    printcolumn(name = "Limiting group", type_ = "string", json_path = ".status.limitingGroup"),
    printcolumn(name = "Behind", type_ = "string", json_path = ".status.behind"),
    printcolumn(name = "Headroom", type_ = "string", json_path = ".status.headroom"),
    printcolumn(name = "Time to loss", type_ = "string", json_path = ".status.timeToLoss"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Explanation", type_ = "string", json_path = ".status.why", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec of a TopicFloor names its topic and does not change"))]
pub struct TopicFloorSpec {
    pub cluster_ref: ObjectRef,
    #[schemars(length(min = 1, max = 249))]
    pub topic: String,
}

impl TopicFloor {
    /// Whether only what was lost keeps it: of a topic that is there and governed it says nothing.
    pub fn is_left(&self) -> bool {
        self.status.as_ref().is_some_and(|status| [TOPIC_DELETED, NOT_GOVERNED].contains(&status.state.as_str()))
    }
}

/// Lengths of time are written as people read them. What is not known is `Unknown`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicFloorStatus {
    /// `Healthy`, `AtRisk`, `Violated`, `Lost` or `Unknown`; `TopicDeleted` or `NotGoverned` where the topic is gone, or no policy asks
    /// for anything of it any more, and somebody has yet to acknowledge what was lost.
    #[schemars(length(max = 32))]
    pub state: String,
    /// The effective one.
    #[schemars(length(max = 32))]
    pub retention: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub floor: Option<String>,
    /// What decided the floor: `Minimum`, `Lag`, `DowntimeAllowance`, `Hold`, `UnknownLag` or
    /// `Remembered`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub decided_by: Option<String>,
    /// The floor's reason in a sentence.
    #[schemars(length(max = 1024))]
    pub why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub limiting_group: Option<String>,
    /// How far the limiting group is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub behind: Option<String>,
    /// The worst it was over the look-back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub peak: Option<String>,
    /// The least of all groups that count.
    #[schemars(length(max = 32))]
    pub headroom: String,
    #[schemars(length(max = 32))]
    pub time_to_loss: String,
    /// The `RetentionException` that lowers the floor now, and its reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1500))]
    pub exception: Option<String>,
    /// What weir raised, by key, as long as nobody else has changed it since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub raised: BTreeMap<String, RaisedKey>,
    /// What changes of the topic, and of its policies, are judged by at admission. Absent: not known, and then nothing may be lowered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<TopicStanding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairStatus>,
    /// The newest eight, those that nobody has acknowledged first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub losses: Vec<LossStatus>,
    /// Where to reset groups to whose offsets the broker forgets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub snapshots: Vec<OffsetSnapshot>,
    /// BackfillJobs that need the topic's records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub holds: Vec<HoldStatus>,
    /// No floor is above it; absent: without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub maximum: Option<String>,
}

/// For machines: `retention`, `floor` and `why` say it to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStanding {
    /// With exceptions, in milliseconds; -1: without limit. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_ms: Option<i64>,
    pub mode: EnforcementMode,
    pub protect: Protected,
    /// What the topic sets itself, of the keys that decide how long it keeps records.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own: BTreeMap<String, String>,
    /// What it has where it sets nothing itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inherited: BTreeMap<String, String>,
    /// Of the partition that grows fastest, rounded up. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,
    /// As `data-lake (#data-lake)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 5000)))]
    pub owners: Vec<String>,
    /// Groups that count, the one that fell behind furthest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub consumers: Vec<ConsumerStanding>,
}

/// What is protected beside `retention.ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Protected {
    pub retention_bytes: bool,
    pub cleanup_policy: bool,
    pub deletion: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStanding {
    #[schemars(length(max = 255))]
    pub group: String,
    /// What it fills.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 256)))]
    pub tables: Vec<String>,
    /// How far it was behind at worst within the look-back. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<PeakStanding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeakStanding {
    pub behind_ms: i64,
    /// The hour, as milliseconds since the epoch.
    pub hour_ms: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RaisedKey {
    /// The topic's own value before; absent: it inherited one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub before: Option<String>,
    #[schemars(length(max = 64))]
    pub set: String,
    /// For a group that was about to lose records.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub extended: bool,
}
