//! What a `TopicFloor` says of records that are gone, and of what keeps them: repairs, losses, holds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Ranges of one repair or one loss that are shown; `more` counts the rest.
pub const RANGES_MAX: usize = 256;
/// Losses of a topic that are shown, the newest.
pub const LOSSES_MAX: usize = 8;
/// Groups of a topic whose offsets are shown.
pub const SNAPSHOTS_MAX: usize = 8;
/// Holds of a topic that are shown.
pub const HOLDS_MAX: usize = 16;
/// An annotation of a `TopicFloor`: the ids of losses that somebody has seen to, with commas between them. They are no longer told of.
pub const ACKNOWLEDGED_ANNOTATION: &str = "weir.dev/acknowledged";

/// The last time that somebody lowered the retention below the floor and weir put it back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepairStatus {
    #[schemars(length(max = 32))]
    pub id: String,
    /// The topic's own id: of another incarnation it says nothing.
    #[schemars(length(max = 64))]
    pub topic_id: String,
    pub at: Time,
    #[schemars(length(max = 64))]
    pub key: String,
    /// What the key was before somebody lowered it; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub before: Option<String>,
    /// What it was lowered to; absent: the topic's own value was taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub lowered_to: Option<String>,
    #[schemars(length(max = 64))]
    pub put_back: String,
    pub verdict: RepairVerdict,
    /// What was deleted between the lowering and the repair.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub deleted: Vec<DeletedRange>,
    /// Ranges beside those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u32,
    /// At most, in all ranges: markers and compacted records have offsets as well.
    #[serde(default)]
    pub records_max: i64,
    /// While the verdict is pending: where logs began before, by partition, so that another process can judge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub began: Vec<PartitionOffset>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub acknowledged: bool,
}

/// Whether anything was deleted before the repair took effect. `Pending`: brokers are given time to take the change up.
/// `Unknown`: where some logs began before is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RepairVerdict {
    Pending,
    Intact,
    Lost,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartitionOffset {
    pub partition: i32,
    pub offset: i64,
}

/// The offsets `[from, to)`. Times are interpolated between weir's samples of the log's end; absent: before the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletedRange {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_at_interpolated: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at_interpolated: Option<Time>,
}

/// Records that groups missed: one incident. It stays until it is acknowledged, or the look-back has passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LossStatus {
    /// Derived from what was lost. To acknowledge it: `kubectl annotate --overwrite topicfloor <name>
    /// weir.dev/acknowledged=<id>`; what was acknowledged before stays so.
    #[schemars(length(max = 32))]
    pub id: String,
    #[schemars(length(max = 64))]
    pub topic_id: String,
    pub cause: LossCause,
    pub found_at: Time,
    /// When it last grew.
    pub grown_at: Time,
    #[schemars(length(max = 256))]
    pub missed: Vec<MissedRange>,
    /// Ranges beside those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u32,
    /// At most, whichever groups missed them.
    pub records_max: i64,
    /// The BackfillJob that was drafted, as `namespace/name`. It is drafted once: if it is deleted it does not come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub draft: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub acknowledged: bool,
}

/// `Deleted`: before the group read them. `TopicDeleted`: with the topic. `Skipped`: the broker had forgotten the group's
/// offset, and it came back beyond them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LossCause {
    Deleted,
    TopicDeleted,
    Skipped,
}

/// What a group missed of a partition: from its committed offset at the time to where it could read on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissedRange {
    #[schemars(length(max = 255))]
    pub group: String,
    /// Offsets in the range that are not of it: where a topic has very many ranges, several of a group and partition are shown as one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub between: i64,
    #[serde(flatten)]
    pub range: DeletedRange,
}

/// The last offsets that weir knows of a group whose offsets the broker is about to forget, or has forgotten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OffsetSnapshot {
    #[schemars(length(max = 255))]
    pub group: String,
    /// When the group last had members or made progress.
    pub active_at: Time,
    /// The broker knows nothing of it any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub forgotten: bool,
    #[schemars(length(max = 256))]
    pub committed: Vec<PartitionOffset>,
}

/// A BackfillJob that needs the topic's records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldStatus {
    /// As `namespace/name`.
    #[schemars(length(max = 512))]
    pub job: String,
    /// It ends then, unless it is renewed or the job ends before.
    pub until: Time,
}

fn is_zero<N: Default + PartialEq>(count: &N) -> bool {
    *count == N::default()
}

const fn is_false(flag: &bool) -> bool {
    !*flag
}
