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

/// Where something is kept: a bucket, a prefix in it, and the operator's credentials for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$"))]
    pub bucket: String,
    /// Before everything that is kept there; without slashes at its ends.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256), regex(pattern = r"^([A-Za-z0-9!_.*'()=-]+(/[A-Za-z0-9!_.*'()=-]+)*)?$"))]
    pub prefix: String,
    pub s3: S3Service,
    /// The operator's own credentials: a Secret in the operator's namespace with `aws-access-key-id` and
    /// `aws-secret-access-key`; absent: the operator's identity. Workers never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<ObjectRef>,
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
