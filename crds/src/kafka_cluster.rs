//! `KafkaCluster`: how a Kafka cluster is reached, and which namespaces may do what with which topics.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    contract::digest::Sha256Digest,
    duration::KubeDuration,
    refs::{ObjectRef, S3Store},
};

/// A Kafka cluster: how it is reached, and which namespaces may use which of its topics.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "KafkaCluster",
    plural = "kafkaclusters",
    shortname = "kfc",
    category = "weir",
    status = "KafkaClusterStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Cluster ID", type_ = "string", json_path = ".status.clusterId"),
    printcolumn(name = "Brokers", type_ = "integer", json_path = ".status.brokers"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.security.protocol == 'SaslTls') == has(self.security.mechanism)")
    .message("spec.security.mechanism belongs to protocol SaslTls, and SaslTls needs it: set mechanism to ScramSha256 or ScramSha512, or choose another protocol"))]
#[x_kube(validation = Rule::new("!has(self.exceptionMaximum) || (duration(self.exceptionMaximum) >= duration('1m') && duration(self.exceptionMaximum) <= duration('24h'))")
    .message("spec.exceptionMaximum must be between 1m and 24h"))]
pub struct KafkaClusterSpec {
    /// Where the first contact is made, as `host:port`.
    #[schemars(length(min = 1, max = 32), inner(length(min = 3, max = 260), regex(pattern = r"^[A-Za-z0-9._\[\]:-]+:[0-9]{1,5}$")))]
    pub bootstrap_servers: Vec<String>,
    #[serde(default)]
    pub security: KafkaSecurity,
    /// The operator's own credentials: a Secret in the operator's namespace with `kafka-username`, `kafka-password`,
    /// `kafka-ca.crt`, `kafka-tls.crt`, `kafka-tls.key`, as far as the protocol needs them. Workers never see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<ObjectRef>,
    /// Which namespaces may do what. Without a grant a job is `Stalled`, reason `GrantMissing`.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub grants: Vec<Grant>,
    /// Which resources of other operators are this cluster's topics: their changes are judged at admission.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub topic_resources: Vec<TopicResource>,
    /// Where every change of a topic is recorded, and what weir remembers of topics is kept. Absent: nothing is recorded,
    /// and what weir raised is never lowered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<S3Store>,
    /// Absent: however full the brokers' disks are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageGuard>,
    /// How long a `RetentionException` may last: at most 24h. Default 4h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception_maximum: Option<KubeDuration>,
}

/// Resources of one kind that are topics of a cluster: those that lie in `namespaces` and carry `matchLabels`, as far as these
/// are given.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.namespaces) || has(self.matchLabels)")
        .message("topicResources[] says neither namespaces nor matchLabels; name what ties the resources to this cluster, as matchLabels: {strimzi.io/cluster: <name>}"),
    validation = Rule::new("self.kind != 'CrossplaneClusterTopic' || !has(self.namespaces)")
        .message("topicResources[].namespaces: a CrossplaneClusterTopic lies in no namespace; use matchLabels"),
)]
pub struct TopicResource {
    pub kind: TopicResourceKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")))]
    pub namespaces: Vec<String>,
    /// As `strimzi.io/cluster: main`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
}

/// `StrimziKafkaTopic`: `KafkaTopic` of `kafka.strimzi.io`. `RedpandaTopic`: `Topic` of `cluster.redpanda.com`.
/// `CrossplaneTopic`: `Topic` of `topic.kafka.m.crossplane.io`, which lies in a namespace; `CrossplaneClusterTopic`: of
/// `topic.kafka.crossplane.io`, which does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TopicResourceKind {
    StrimziKafkaTopic,
    RedpandaTopic,
    CrossplaneTopic,
    CrossplaneClusterTopic,
}

/// When disks are too full to keep more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageGuard {
    /// Of the fullest log directory of any broker. Above it weir only puts back what somebody lowered.
    #[schemars(range(min = 1, max = 99))]
    pub max_used_percent: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSecurity {
    #[serde(default)]
    pub protocol: KafkaProtocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<SaslMechanism>,
    /// The certificates (PEM) that the brokers' are checked against; absent: the system's. A `kafka-ca.crt` in the
    /// job's own Secret takes precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_certificates: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KafkaProtocol {
    #[default]
    Plaintext,
    Tls,
    SaslTls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    ScramSha256,
    ScramSha512,
}

/// What some namespaces may do with some topics.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.maxFloor) || self.verbs.exists(v, v == 'Govern')").message("grants[].maxFloor belongs to the verb Govern; add the verb, or leave maxFloor out"))]
pub struct Grant {
    /// Names of namespaces; `"*"` alone stands for every namespace.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$")))]
    pub namespaces: Vec<String>,
    /// Regular expressions over whole topic names; each begins with `^` and ends with `$`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 2, max = 256), regex(pattern = r"^\^.*\$$")))]
    pub topics: Vec<String>,
    #[schemars(length(min = 1, max = 4))]
    pub verbs: Vec<GrantVerb>,
    /// The greatest floor that `Govern` lets a policy of these namespaces hold. Absent: without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_floor: Option<KubeDuration>,
}

/// `Write`: publish rebuilt events. `Read`: read records back, which verifying what was published needs as well.
/// `Observe`: have retention and lag watched. `Govern`: hold a floor, which includes `Observe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GrantVerb {
    Read,
    Write,
    Observe,
    Govern,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaClusterStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id that the brokers give their cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brokers: Option<i32>,
    /// The newest entry of the audit log: with it nothing can be cut from the log's end unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditAnchor>,
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The newest entry of an audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditAnchor {
    /// The folder below the store's prefix.
    #[schemars(length(max = 253))]
    pub chain: String,
    #[schemars(range(min = 1))]
    pub sequence: u64,
    /// Of the entry's bytes.
    #[schemars(schema_with = "crate::schema::sha256")]
    pub digest: Sha256Digest,
}
