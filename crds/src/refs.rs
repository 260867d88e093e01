//! References to other objects, and where an S3 store lies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An object by name: in the same namespace, or cluster-wide, as the field says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
}

/// How an S3 service is reached. Who may use it is a matter of credentials, never of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Service {
    /// The service's URL; absent: AWS's own for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^\s/]+/?$"))]
    pub endpoint: Option<String>,
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-z0-9-]+$"))]
    pub region: String,
    /// `https://host/bucket/key` instead of `https://bucket.host/key`; most servers that are not AWS need it.
    #[serde(default)]
    pub path_style: bool,
}
