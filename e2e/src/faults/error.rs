//! What can go wrong with a run of the matrix, beside what the run is there to find.

use std::path::PathBuf;

use super::topic::Differences;
use crate::demo::{scene, truth};
use crate::{environment, kafka, novashop};

/// Why a run was not done, or what it found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log could not be written.
    #[error("cannot generate the log")]
    Generate(#[from] novashop::Error),
    /// The generator's task died.
    #[error("the generator died")]
    Died,
    /// The log could not be uploaded.
    #[error("cannot upload the log")]
    Upload(#[from] scene::Error),
    /// A file could not be written or read.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The demo's YAML is no job.
    #[error("the demo's YAML cannot be read")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// The environment lacks something.
    #[error("the cluster is not known well enough")]
    Environment(#[from] environment::Error),
    /// The broker could not be used.
    #[error("the broker cannot be used")]
    Kafka(#[from] kafka::Error),
    /// The independent truth could not be told.
    #[error("cannot ask the truth")]
    Truth(#[from] truth::Error),
    /// The undisturbed run is wrong already.
    #[error("the undisturbed run is not right: {text}")]
    Untrue {
        /// What the comparison said.
        text: String,
    },
    /// What a run was there to find.
    #[error("{what}: {differences} {wrong_sums}")]
    Harm {
        /// Which run.
        what: String,
        /// What is wrong with the topic.
        differences: Differences,
        /// What does not add up.
        wrong_sums: String,
    },
    /// There is no worker to run.
    #[error("there is no {path}: build the worker first, as `just deploy` does")]
    NoWorker {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The store could not be used.
    #[error("cannot {what} in the store")]
    Store {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<aws_sdk_s3::Error>,
    },
    /// An object of the run is not what it should be.
    #[error("{key} is not what it should be: {why}")]
    Object {
        /// Which.
        key: String,
        /// Why not.
        why: String,
    },
    /// kubectl refused.
    #[error("kubectl failed")]
    Kubectl(#[source] Box<crate::command::Error>),
    /// A disk could not be mounted.
    #[error("cannot mount a disk")]
    Mount(#[source] Box<crate::command::Error>),
    /// A worker could not be started or waited for.
    #[error("cannot run a worker")]
    Worker(#[source] std::io::Error),
    /// A worker ended with what another attempt cannot cure.
    #[error("the run has failed at {unit}: {failures}")]
    RunFailed {
        /// The unit.
        unit: String,
        /// What it said.
        failures: String,
    },
    /// Nothing can go on, and the run is not done.
    #[error("nothing is ready and the run is not done: {open}")]
    Stuck {
        /// Units that are not done.
        open: String,
    },
    /// The run did not end.
    #[error("the run did not end within {attempts} attempts and {seconds} s; the last one was {last}")]
    NoEnd {
        /// How many there were.
        attempts: u32,
        /// The time.
        seconds: u64,
        /// The last attempt.
        last: String,
    },
}
