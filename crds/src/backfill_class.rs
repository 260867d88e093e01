//! `BackfillClass`: where and within which limits backfills run, and where their artifacts lie.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Toleration,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition},
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    duration::KubeDuration,
    refs::{S3Service, S3Store},
};

/// Where backfills run, how much they may take, and where their artifacts lie.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "BackfillClass",
    plural = "backfillclasses",
    shortname = "bfc",
    category = "weir",
    status = "BackfillClassStatus",
    derive = "PartialEq",
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Max parallelism", type_ = "integer", json_path = ".spec.limits.maxParallelism"),
    printcolumn(name = "Max window", type_ = "string", json_path = ".spec.limits.maxWindow"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackfillClassSpec {
    /// The class of jobs that name none. At most one class may say so.
    #[serde(default)]
    pub default: bool,
    /// Where every run keeps its plan, manifests and staged data.
    pub artifact_store: S3Store,
    /// How workers reach the buckets that jobs name as sources; absent: as the artifact store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_store: Option<S3Service>,
    pub workers: Workers,
    pub limits: Limits,
}

/// The nodes that workers run on, and what a worker gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workers {
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// CPU of one worker: its request and its limit.
    pub cpu: Quantity,
    /// Memory of one worker: its request and its limit. The worker keeps within it by spilling to its scratch disk.
    pub memory: Quantity,
    /// Scratch disk of one worker, for what does not fit into memory.
    pub scratch: Quantity,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The most workers that one job may have at a time.
    #[schemars(range(min = 1, max = 500))]
    pub max_parallelism: u32,
    /// The longest window of one job.
    pub max_window: KubeDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackfillClassStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
