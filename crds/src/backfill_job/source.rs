//! What lost events are rebuilt from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::KubeDuration;

/// One source of events. Its place in the list is its precedence: of two rows with one event id the earlier source's wins.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.s3)").message("a source needs exactly one of: s3"))]
pub struct Source {
    /// The name of the source, and of the table that `select` reads.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z][a-z0-9_]*$"))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Source>,
    /// The columns to read, as `name type, …`: `string, boolean, int, bigint, double, decimal(p,s), timestamp` (RFC 3339),
    /// `timestamp(s|ms|us)` (an epoch in that unit)`, date, binary` (base64)`, struct<name: type, …>, array<type>, map<string, type>`.
    /// What does not fit its type exactly makes its row invalid; what is missing is null; what is not declared is counted.
    #[schemars(length(min = 1, max = 16384))]
    pub columns: String,
    /// How weir knows when rows reached the source. It decides which objects may hold rows of which slice.
    pub arrival: Arrival,
    /// How long after its event time a row may have reached the source; rows beyond it are late. Default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_lateness: Option<KubeDuration>,
    /// How far ahead of the source's clock an event time may be; rows beyond it are late. Default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_skew: Option<KubeDuration>,
    /// `SELECT … FROM <name> [WHERE …]`, row by row: filter, project, unnest. No joins, aggregates, sorting, subqueries,
    /// or functions whose result is not fixed by the row. Every source gives the same columns.
    #[schemars(length(min = 1, max = 16384))]
    pub select: String,
}

/// `PathTime`: by the date, hour and minute in the object's prefix. `ObjectTime`: by the object's time of last
/// modification. `None`: not at all; then every object is read before any slice is assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Arrival {
    PathTime,
    ObjectTime,
    None,
}

/// Objects under a prefix of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Source {
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$"))]
    pub bucket: String,
    /// May hold `{date}` (2026-11-03), `{hour}` (06) and `{minute}` (00), in UTC: with `arrival: PathTime` it must hold
    /// `{date}`, with the others none.
    #[serde(default)]
    #[schemars(length(max = 512))]
    pub prefix: String,
    pub format: SourceFormat,
    /// For `JsonLines` and `Csv`. Default `None`. Parquet names its own compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceFormat {
    JsonLines,
    Csv,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Source {
    pub fn lateness(&self) -> KubeDuration {
        self.allowed_lateness.unwrap_or(KubeDuration::from_secs(0))
    }

    pub fn skew(&self) -> KubeDuration {
        self.allowed_skew.unwrap_or(KubeDuration::from_secs(0))
    }
}
