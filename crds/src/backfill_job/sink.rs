//! Where rebuilt events go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::refs::ObjectRef;

/// One place that rebuilt events go to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.kafka)").message("a sink needs exactly one of: kafka"))]
pub struct Sink {
    #[schemars(length(min = 1, max = 30), regex(pattern = r"^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSink>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSink {
    /// A `KafkaCluster` whose grants let this namespace `Write` and `Read` the topic.
    pub cluster_ref: ObjectRef,
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub topic: String,
    pub mode: KafkaMode,
    pub value: ValueFormat,
    #[serde(default)]
    pub key: KeyFormat,
    pub partitioner: Partitioner,
    pub timestamps: RecordTimestamps,
    pub ordering: Ordering,
}

/// `InPlace`: into the live topic, beside its other producers. `SideTopic`: into a topic that is the backfill's alone; refused
/// where another producer's records lie in it, and verified to stay so. Either is refused where the topic is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KafkaMode {
    InPlace,
    SideTopic,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueFormat {
    pub format: ValueEncoding,
    /// What becomes of a null: its field is left out, or written as `null`. Default `Omit`.
    #[serde(default)]
    pub nulls: Nulls,
    /// How timestamps inside the value are written. Default `EpochMillis`; a row with a finer time than the encoding
    /// holds is invalid, never rounded.
    #[serde(default)]
    pub timestamp_encoding: TimestampEncoding,
    /// The columns of the select that make up the value, in this order, each once.
    #[schemars(length(min = 1, max = 500), inner(length(min = 1, max = 128)))]
    pub columns: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValueEncoding {
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Nulls {
    #[default]
    Omit,
    Include,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TimestampEncoding {
    #[default]
    EpochMillis,
    EpochMicros,
    Rfc3339,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyFormat {
    #[serde(default)]
    pub encoding: KeyEncoding,
}

/// `Utf8`: text; numbers as decimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyEncoding {
    #[default]
    Utf8,
}

/// How a key chooses its partition. It must be what the live producers use, or one key's events lie in two partitions.
/// `Murmur2` is the Java client's default. Rows without a key are placed by their event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Partitioner {
    Murmur2,
}

/// The record's timestamp: when the event happened, or when weir published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecordTimestamps {
    EventTime,
    ReplayTime,
}

/// `PerKey`: rebuilt events of one key are published in the order of their event times, so a slice that fails holds back
/// the later ones. `None`: later slices go ahead of a failed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ordering {
    PerKey,
    None,
}
