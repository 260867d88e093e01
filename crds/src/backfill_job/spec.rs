//! The spec of a `BackfillJob`: what was lost, what it is rebuilt from, where it goes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackfillJobStatus, Sink, Source};
use crate::{duration::KubeDuration, refs::ObjectRef};

/// What decides a run's result may change with a new `runGeneration` only. A lowered one is let in, since it is what
/// reverting a commit does; it changes nothing and status says so.
const FIXED_BY_GENERATION: &str = "self.spec.runGeneration != oldSelf.spec.runGeneration || !has(oldSelf.status) || !has(oldSelf.status.run) || \
(self.spec.window == oldSelf.spec.window && \
has(self.spec.sources) == has(oldSelf.spec.sources) && (!has(self.spec.sources) || self.spec.sources == oldSelf.spec.sources) && self.spec.reconstruct == oldSelf.spec.reconstruct && \
self.spec.sinks == oldSelf.spec.sinks && has(self.spec.className) == has(oldSelf.spec.className) && \
(!has(self.spec.className) || self.spec.className == oldSelf.spec.className) && \
has(self.spec.serviceAccountName) == has(oldSelf.spec.serviceAccountName) && \
(!has(self.spec.serviceAccountName) || self.spec.serviceAccountName == oldSelf.spec.serviceAccountName) && \
has(self.spec.credentialsSecretRef) == has(oldSelf.spec.credentialsSecretRef) && \
(!has(self.spec.credentialsSecretRef) || self.spec.credentialsSecretRef == oldSelf.spec.credentialsSecretRef))";

/// One recovery: the events of a time window, rebuilt from what still exists, published once each.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "BackfillJob",
    plural = "backfilljobs",
    shortname = "bfj",
    category = "weir",
    namespaced,
    status = "BackfillJobStatus",
    derive = "PartialEq",
    validation = Rule::new("size(self.metadata.name) <= 200").message("metadata.name is longer than 200 characters; choose a shorter one, since artifacts and transactional ids are named after it"),
    validation = Rule::new(FIXED_BY_GENERATION).message("spec.window, sources, reconstruct, sinks, className, serviceAccountName and credentialsSecretRef are fixed once the run has begun: raise spec.runGeneration to run again with other content"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.percent"),
    printcolumn(name = "Recovered", type_ = "integer", json_path = ".status.accounting.published"),
    printcolumn(name = "Quarantined", type_ = "integer", json_path = ".status.accounting.quarantined"),
    printcolumn(name = "ETA", type_ = "string", json_path = ".status.progress.eta"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.sinks.all(s, !has(s.kafka) || s.kafka.ordering != 'PerKey' || !has(self.window.order) || self.window.order == 'OldestFirst')")
        .message("sinks[].kafka.ordering: PerKey needs window.order: OldestFirst; set the order, or ordering: None"),
    validation = Rule::new("!has(self.sources) || self.sources.all(a, self.sources.exists_one(b, b.name == a.name))")
        .message("sources[].name: two sources have the same name; names must differ"),
    validation = Rule::new("(has(self.suspend) && self.suspend) || (has(self.sources) && size(self.sources) > 0)")
        .message("sources: there is none; name what the events can be rebuilt from, or leave the job suspended until then"),
    validation = Rule::new("(has(self.suspend) && self.suspend) || has(self.serviceAccountName)")
        .message("serviceAccountName: there is none; name the ServiceAccount that workers run as, or leave the job suspended until then"),
)]
pub struct BackfillJobSpec {
    /// Why: for the audit log, and for whoever finds this job later.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// The `BackfillClass`; absent: the default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// The ServiceAccount that workers run as. It must carry the annotation `weir.dev/allow-backfills: "true"`. Absent in
    /// drafts only, which are suspended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub service_account_name: String,
    /// A Secret of this namespace, mounted as files: `aws-access-key-id`, `aws-secret-access-key`, `kafka-username`,
    /// `kafka-password`, `kafka-ca.crt`, `kafka-tls.crt`, `kafka-tls.key`, each optional. Absent: the ServiceAccount's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<ObjectRef>,
    /// Raise it to run again; the new run publishes only what is not there yet.
    #[schemars(range(min = 1, max = 999))]
    pub run_generation: u32,
    /// Drains: workers end what is open, nothing new begins. Set it back to go on.
    #[serde(default)]
    pub suspend: bool,
    /// Ends this generation for good.
    #[serde(default)]
    pub cancel: bool,
    pub window: Window,
    /// Empty in drafts only, which are suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub sources: Vec<Source>,
    pub reconstruct: Reconstruct,
    #[schemars(length(min = 1, max = 1))]
    pub sinks: Vec<Sink>,
    pub approval: Approval,
    #[serde(default)]
    pub execution: Execution,
}

/// The time of the lost events, half-open, by event time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.start < self.end").message("window.end must be after window.start; the window is [start, end)"),
    validation = Rule::new("self.start.getMilliseconds() == 0 && self.end.getMilliseconds() == 0").message("window.start and window.end must be whole seconds"),
    validation = Rule::new("duration(self.slice) >= duration('1s') && duration(self.slice).getMilliseconds() % 1000 == 0").message("window.slice must be whole seconds, at least 1s"),
    validation = Rule::new("(self.end - self.start).getSeconds() <= 1000 * duration(self.slice).getSeconds()")
        .message("window: more than 1,000 slices; choose a longer slice or a shorter window"),
)]
pub struct Window {
    pub start: Time,
    pub end: Time,
    /// The unit of status, publishing and retry. At most 1,000 slices a job.
    pub slice: KubeDuration,
    #[serde(default)]
    pub order: SliceOrder,
    /// Parts of the window that are left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub exclude: Vec<ExcludedInterval>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SliceOrder {
    #[default]
    OldestFirst,
    NewestFirst,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.start < self.end").message("exclude[].end must be after exclude[].start; the interval is [start, end)"))]
pub struct ExcludedInterval {
    pub start: Time,
    pub end: Time,
    /// Why it is left alone.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
}

/// What the selected rows mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reconstruct {
    pub columns: EventColumns,
    /// `Quarantine`: an invalid row is set aside with its reason. `Fail`: it fails its slice.
    #[serde(default)]
    pub on_invalid: OnInvalid,
    /// The share of invalid rows, per source, event type and slice, above which the slice fails. Default `"0"`: none. Rows whose time
    /// or type nobody can tell, as of a line that cannot be read, count for each slice that they may belong to, against all rows that
    /// its objects have for the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]{1,9})?)$"))]
    pub max_quarantined_percent: Option<String>,
}

/// Which result columns of the selects carry the event's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventColumns {
    #[schemars(length(min = 1, max = 128))]
    pub event_id: String,
    #[schemars(length(min = 1, max = 128))]
    pub event_time: String,
    #[schemars(length(min = 1, max = 128))]
    pub event_type: String,
    /// The record's key; absent: no key, and the event id chooses the partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub key: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnInvalid {
    #[default]
    Quarantine,
    Fail,
}

#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == 'Manual' || !has(self.planHash)")
    .message("approval.planHash belongs to mode: Manual; leave it out, or set mode: Manual"))]
pub struct Approval {
    pub mode: ApprovalMode,
    /// The plan that may run, as `status.plan.hash` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 71), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub plan_hash: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalMode {
    Auto,
    Manual,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// The most workers at a time; at most the class's. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub parallelism: Option<u32>,
    /// How often a worker may fail by its own error: at the plan, at each chunk of the sources, at each step of a slice. Default 3. An error that would be the same again, as a select
    /// that is wrong, counts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub attempts: Option<u32>,
    /// The run is `Failed` when it is not done by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
}

impl BackfillJobSpec {
    /// Workers at a time where neither the job nor its class says less.
    pub const PARALLELISM_DEFAULT: u32 = 2;
    pub const ATTEMPTS_DEFAULT: u32 = 3;

    pub fn attempts(&self) -> u32 {
        self.execution.attempts.unwrap_or(Self::ATTEMPTS_DEFAULT)
    }

    pub fn parallelism(&self, class_max: u32) -> u32 {
        self.execution.parallelism.unwrap_or(Self::PARALLELISM_DEFAULT).min(class_max)
    }
}
