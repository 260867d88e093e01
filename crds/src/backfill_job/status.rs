//! The status of a `BackfillJob`. Bounded: under 256 KiB with 1,000 slices that all failed with long reasons.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::KubeDuration;

/// What `kubectl get` shows. Derived from the conditions; nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    #[default]
    Pending,
    Planning,
    AwaitingApproval,
    Running,
    Verifying,
    Suspended,
    Complete,
    Failed,
    Canceled,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackfillJobStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub phase: Phase,
    /// What happens now, or what is waited for, in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<ChunkCounts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<SliceCounts>,
    /// One row a slice, in the window's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<SliceStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounting: Option<Accounting>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The generation that this status is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// `<namespace>/<name>/<generation>`, as the records' header `weir-run` has it.
    pub id: String,
    pub generation: u32,
    /// Where its artifacts lie, as `s3://bucket/prefix/…`.
    pub uri: String,
    /// SHA-256 of `run.json`, which fixes what decides the result.
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// What it holds until it is over, as `run.json` has it: a spec that names another generation is about another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<RunHolds>,
}

/// Topics that keep what came since the start of a run's window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunHolds {
    pub window_start: Time,
    /// Those that are published to with event times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub topics: Vec<HeldTopic>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldTopic {
    /// The `KafkaCluster`'s name.
    #[schemars(length(max = 253))]
    pub cluster: String,
    #[schemars(length(max = 249))]
    pub topic: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// SHA-256 of `plan.json`: what `approval.planHash` must say.
    pub hash: String,
    pub uri: String,
    pub slices: u32,
    pub chunks: u32,
    pub estimates: Estimates,
    /// The command that approves this plan; absent once it is approved or where approval is automatic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve_command: Option<String>,
}

/// What a plan expects, from samples of the sources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Estimates {
    /// Events that will be selected.
    pub events: u64,
    /// How far off `events` may be, by how much the samples differ.
    #[serde(default)]
    pub events_error_percent: u32,
    /// Bytes of the source objects, exact.
    pub bytes: u64,
    pub objects: u64,
    /// Requests to the source's store and the artifact store, about.
    #[serde(default)]
    pub requests: u64,
    /// From the approval to the last verified slice, with the parallelism that the job has while it is planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<KubeDuration>,
    /// How far off `duration` may be.
    #[serde(default)]
    pub duration_error_percent: u32,
    /// What `duration` follows from.
    #[serde(default)]
    pub basis: EstimateBasis,
}

/// `Sample`: what going through the samples took. `EarlierRun`: what the newest completed run of the same class in the same
/// namespace took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EstimateBasis {
    #[default]
    Sample,
    EarlierRun,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChunkCounts {
    pub total: u32,
    pub extracted: u32,
    pub failed: u32,
}

/// Each slice counts once, under the furthest state it has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceCounts {
    pub total: u32,
    pub pending: u32,
    pub running: u32,
    pub staged: u32,
    pub published: u32,
    pub verified: u32,
    pub failed: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SliceState {
    #[default]
    Pending,
    Assembling,
    Staged,
    Publishing,
    Published,
    Verified,
    Failed,
}

/// One slice. `reason`, `message` and `attempts` stand only where it is not trivially fine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceStatus {
    /// The slice's id: its start.
    pub slice: String,
    pub state: SliceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// The conservation ledger, in rows, over what has been done so far.
/// `read + expanded = filteredOut + invalid + outsideWindow + late + selected`;
/// `selected = duplicates + quarantined - invalid + staged` over assembled slices; `staged = published + alreadyPresent`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accounting {
    /// Bytes of source objects that were read.
    pub bytes_read: u64,
    pub read: u64,
    pub expanded: u64,
    pub filtered_out: u64,
    pub invalid: u64,
    pub outside_window: u64,
    pub late: u64,
    pub selected: u64,
    pub duplicates: u64,
    /// Invalid rows and those that the target would refuse; late rows lie in quarantine too, but are counted as late.
    pub quarantined: u64,
    pub staged: u64,
    pub published: u64,
    pub already_present: u64,
    pub verified: u64,
    /// By event type, the most frequent 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_event_type: Vec<EventTypeAccounting>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventTypeAccounting {
    pub event_type: String,
    pub selected: u64,
    pub duplicates: u64,
    pub quarantined: u64,
    pub staged: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Of the run's work, as `42%`.
    pub percent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// About how long it will take yet, as `12m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
    /// Workers that run now.
    pub workers: u32,
}

/// Where the rows lie that were set aside, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    pub uri: String,
    /// The most frequent reasons, at most 10.
    pub reasons: Vec<QuarantineReason>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineReason {
    pub source: String,
    pub reason: String,
    pub rows: u64,
}
