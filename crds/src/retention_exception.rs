//! `RetentionException`: for a time a floor is lowered by a person.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::KubeDuration, refs::ObjectRef};

/// Who made it, as the apiserver knows them: written at admission, whatever the object said.
pub const REQUESTED_BY_ANNOTATION: &str = "weir.dev/requested-by";

/// Breaks the glass: until a time, topics may keep their records for less than their floor. Whoever may create one has the
/// authority. It ends by itself, and never goes below what a required group needs right now.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "RetentionException",
    plural = "retentionexceptions",
    shortname = "rte",
    category = "weir",
    namespaced,
    status = "RetentionExceptionStatus",
    derive = "PartialEq",
    validation = Rule::new("self.spec == oldSelf.spec").message("a RetentionException does not change; create another one"),
    printcolumn(name = "Floor", type_ = "string", json_path = ".spec.floor"),
    printcolumn(name = "Until", type_ = "string", json_path = ".spec.until"),
    printcolumn(name = "Active", type_ = "string", json_path = r#".status.conditions[?(@.type=="Active")].status"#),
    printcolumn(name = "By", type_ = "string", json_path = r".metadata.annotations.weir\.dev/requested-by"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RetentionExceptionSpec {
    pub cluster_ref: ObjectRef,
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 249), regex(pattern = r"^[A-Za-z0-9._-]+$")))]
    pub topics: Vec<String>,
    /// What stands in for the floor.
    pub floor: KubeDuration,
    /// Why: for the audit log, and in every message about the topic.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// At most 4h after its creation, or what the cluster's `exceptionMaximum` allows; whatever it says, it ends then.
    pub until: Time,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionExceptionStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Active`: whether it is in force, and if not, why.
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}
