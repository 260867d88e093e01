//! `run.json`: what decides the result of a run, resolved and fixed; and what a worker is told besides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FORMAT, names::RunId};
use crate::{
    backfill_class::BackfillClassSpec,
    backfill_job::{BackfillJobSpec, Reconstruct, Sink, Source, Window},
    kafka_cluster::{KafkaClusterSpec, KafkaSecurity},
    refs::S3Service,
};

/// The first object of a run, put once by the operator. A BackfillJob whose spec resolves to other bytes under the same
/// generation is another recovery: `SpecDiffersFromRun`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    pub format: u32,
    pub run: RunId,
    pub class: String,
    pub store: StoreLocation,
    pub source_store: S3Service,
    pub window: Window,
    pub sources: Vec<Source>,
    pub reconstruct: Reconstruct,
    pub sinks: Vec<Sink>,
}

/// Where artifacts lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreLocation {
    pub bucket: String,
    #[serde(default)]
    pub prefix: String,
    pub s3: S3Service,
}

impl RunSpec {
    pub fn resolve(run: RunId, job: &BackfillJobSpec, class_name: &str, class: &BackfillClassSpec) -> Self {
        let store = StoreLocation {
            bucket: class.artifact_store.bucket.clone(),
            prefix: class.artifact_store.prefix.clone(),
            s3: class.artifact_store.s3.clone(),
        };
        Self {
            format: FORMAT,
            run,
            class: class_name.to_owned(),
            source_store: class.source_store.clone().unwrap_or_else(|| store.s3.clone()),
            store,
            window: job.window.clone(),
            sources: job.sources.clone(),
            reconstruct: job.reconstruct.clone(),
            sinks: job.sinks.clone(),
        }
    }

    /// The bytes that are put, and whose digest names the run.
    pub fn to_bytes(&self) -> Vec<u8> {
        super::manifest::to_bytes(self)
    }
}

/// How to reach a Kafka cluster; credentials come as files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaConnection {
    pub bootstrap_servers: Vec<String>,
    #[serde(default)]
    pub security: KafkaSecurity,
}

impl From<&KafkaClusterSpec> for KafkaConnection {
    fn from(cluster: &KafkaClusterSpec) -> Self {
        Self { bootstrap_servers: cluster.bootstrap_servers.clone(), security: cluster.security.clone() }
    }
}

/// The environment variable that carries a [`WorkerContext`] as JSON.
pub const CONTEXT_ENV: &str = "WEIR_CONTEXT";
/// The environment variable that names the folder of credential files; unset: the pod's own identity.
pub const CREDENTIALS_ENV: &str = "WEIR_CREDENTIALS_DIR";
/// Where the operator mounts `credentialsSecretRef`.
pub const CREDENTIALS_DIR: &str = "/var/run/weir/credentials";
/// The environment variable that names the scratch folder, and the one with its size in bytes.
pub const SCRATCH_ENV: &str = "WEIR_SCRATCH_DIR";
pub const SCRATCH_BYTES_ENV: &str = "WEIR_SCRATCH_BYTES";
/// The environment variable with the worker's memory limit in bytes.
pub const MEMORY_BYTES_ENV: &str = "WEIR_MEMORY_BYTES";

/// What a worker must know before it can read `run.json`, and what may change between its attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerContext {
    pub run: RunId,
    pub store: StoreLocation,
    /// By the name of the `KafkaCluster`.
    pub kafka: BTreeMap<String, KafkaConnection>,
    /// `plan`, or the id of a unit of work.
    pub unit: String,
    pub attempt: u32,
    /// For `plan`: how many workers to cut the work for, and the image that the plan pins.
    pub parallelism: u32,
    pub worker_image: String,
}
