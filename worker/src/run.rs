//! What a worker knows about its run: the context that it was given, `run.json`, and for all verbs but `plan` the plan.
//!
//! Everything read here is pinned by a digest or put once; nothing is ever decided by what may change.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use weir_crds::contract::{
    FORMAT,
    digest::Sha256Digest,
    keys::RunKeys,
    manifest::{Manifest, ManifestError},
    names::RunId,
    plan::Plan,
    result::FailureCode,
    run::{CONTEXT_ENV, CREDENTIALS_ENV, MEMORY_BYTES_ENV, RunSpec, SCRATCH_BYTES_ENV, SCRATCH_ENV, WorkerContext},
};
use weir_kafka::KafkaConfig;
use weir_ledger::{Cause, ClientError, Ledger, LedgerError, PutOnce};

use crate::{scratch::Scratch, termination::Explain};

/// What a worker takes itself to have where it is told no limit: by hand, on a laptop.
const MEMORY_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the environment variable {CONTEXT_ENV} is not set: it holds the worker's context as JSON")]
    NoContext,
    #[error("the environment variable {CONTEXT_ENV} does not hold a worker's context")]
    Context(#[source] serde_json::Error),
    #[error("the environment variable {0} is not a number of bytes")]
    Bytes(&'static str),
    #[error("the file with run.json cannot be read")]
    RunFile(#[source] std::io::Error),
    #[error("the scratch folder cannot be made")]
    Scratch(#[source] std::io::Error),
    #[error("the artifact store's client cannot be made")]
    Client(#[from] ClientError),
    #[error("the artifact store failed")]
    Store(#[from] LedgerError),
    #[error("{key} is not there")]
    Missing { key: String },
    #[error("{key} is not what it should be")]
    Decode {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{key} has format {found}, this program knows {FORMAT}: use the version of weir that wrote it")]
    Format { key: String, found: u32 },
    #[error("{key} belongs to run {found}, not to {wanted}")]
    OtherRun { key: String, found: RunId, wanted: RunId },
    #[error("{key} was made from another run.json ({found}, not {wanted})")]
    OtherSpec { key: String, found: Sha256Digest, wanted: Sha256Digest },
    #[error("{key} is not believed")]
    Manifest {
        key: String,
        #[source]
        source: ManifestError,
    },
    #[error("{key} is there with another result: {there}, and this attempt came to {here}")]
    Conflict { key: String, there: Sha256Digest, here: Sha256Digest },
    #[error("the context has no connection for the Kafka cluster {0}")]
    NoConnection(String),
    #[error("the plan has no unit {0}")]
    NoUnit(String),
}

impl Explain for RunError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Store(error) => store_code(error),
            Self::Client(_) => FailureCode::StoreDenied,
            Self::Missing { .. }
            | Self::Decode { .. }
            | Self::Format { .. }
            | Self::OtherRun { .. }
            | Self::OtherSpec { .. }
            | Self::Manifest { .. } => FailureCode::ArtifactCorrupt,
            Self::Conflict { .. } => FailureCode::ManifestConflict,
            Self::Scratch(_) => FailureCode::ScratchFull,
            Self::NoContext | Self::RunFile(_) | Self::Context(_) | Self::Bytes(_) | Self::NoConnection(_) | Self::NoUnit(_) => {
                FailureCode::Internal
            }
        }
    }
}

/// What a failure of the artifact store means for a worker.
pub fn store_code(error: &LedgerError) -> FailureCode {
    match error.cause() {
        Some(Cause::Unavailable) => FailureCode::StoreUnavailable,
        Some(Cause::Denied | Cause::Refused) => FailureCode::StoreDenied,
        None => match error {
            LedgerError::Decode { .. } | LedgerError::Missing { .. } => FailureCode::ArtifactCorrupt,
            LedgerError::File { .. } => FailureCode::ScratchFull,
            LedgerError::TooLarge { .. } => FailureCode::TooLarge,
            LedgerError::Request { .. } | LedgerError::Vanished { .. } | LedgerError::ShortRead { .. } => FailureCode::StoreUnavailable,
        },
    }
}

/// A worker's surroundings, and the run that it works for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Run {
    pub context: Arc<WorkerContext>,
    pub spec: Arc<RunSpec>,
    /// SHA-256 of `run.json`.
    pub spec_digest: Sha256Digest,
    pub keys: RunKeys,
    pub ledger: Ledger,
    pub scratch: Scratch,
    pub memory_bytes: u64,
    pub credentials_dir: Option<PathBuf>,
}

/// A run whose plan is made.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    pub run: Run,
    pub plan: Arc<Plan>,
    /// SHA-256 of `plan.json`.
    pub plan_hash: Sha256Digest,
}

impl Run {
    /// Reads the environment and `run.json`. By hand, `unit` overrides the context's, and `run.json` may be a file.
    pub async fn load(unit: Option<String>, run_json: Option<&Path>) -> Result<Self, RunError> {
        let context = env::var(CONTEXT_ENV).map_err(|_| RunError::NoContext)?;
        let context: WorkerContext = serde_json::from_str(&context).map_err(RunError::Context)?;
        let context = WorkerContext { unit: unit.unwrap_or_else(|| context.unit.clone()), ..context };
        let credentials_dir = env::var_os(CREDENTIALS_ENV).map(PathBuf::from);
        let scratch_dir = env::var_os(SCRATCH_ENV).map_or_else(env::temp_dir, PathBuf::from);
        let scratch = Scratch::new(&scratch_dir, bytes_from(SCRATCH_BYTES_ENV)?).map_err(RunError::Scratch)?;
        let ledger = Ledger::connect(&context.store, credentials_dir.as_deref()).await?;
        let keys = RunKeys::new(&context.store.prefix, &context.run);
        let (spec, spec_digest): (RunSpec, _) = match run_json {
            Some(path) => parse(&path.display().to_string(), &std::fs::read(path).map_err(RunError::RunFile)?)?,
            None => read(&ledger, &keys.run()).await?,
        };
        check(&keys.run(), spec.format, &spec.run, &context.run)?;
        let memory_bytes = bytes_from(MEMORY_BYTES_ENV)?.unwrap_or(MEMORY_BYTES_DEFAULT);
        Ok(Self { context: Arc::new(context), spec: Arc::new(spec), spec_digest, keys, ledger, scratch, memory_bytes, credentials_dir })
    }

    /// Reads `plan.json`, which must have been made from this `run.json`.
    pub async fn planned(self) -> Result<PlannedRun, RunError> {
        let key = self.keys.plan();
        let (plan, plan_hash): (Plan, _) = read(&self.ledger, &key).await?;
        check(&key, plan.format, &plan.run, &self.context.run)?;
        if plan.run_digest != self.spec_digest {
            return Err(RunError::OtherSpec { key, found: plan.run_digest, wanted: self.spec_digest });
        }
        Ok(PlannedRun { run: self, plan: Arc::new(plan), plan_hash })
    }

    /// How the Kafka cluster of this name is reached, with the job's credentials.
    pub fn kafka(&self, cluster: &str) -> Result<KafkaConfig, RunError> {
        let connection = self.context.kafka.get(cluster).ok_or_else(|| RunError::NoConnection(cluster.to_owned()))?;
        Ok(KafkaConfig {
            bootstrap_servers: connection.bootstrap_servers.clone(),
            security: connection.security.clone(),
            credentials_dir: self.credentials_dir.clone(),
        })
    }
}

impl PlannedRun {
    /// The manifest at `key`; `None`: the item is not done. One that is damaged or another run's is an error.
    pub async fn manifest<B: Serialize + DeserializeOwned>(&self, key: &str) -> Result<Option<B>, RunError> {
        manifest(&self.run.ledger, key, &self.run.context.run, self.plan_hash).await
    }

    /// The manifest at `key`, which must be there.
    pub async fn required<B: Serialize + DeserializeOwned>(&self, key: &str) -> Result<B, RunError> {
        self.manifest(key).await?.ok_or_else(|| RunError::Missing { key: key.to_owned() })
    }

    /// Says that an item is done. If it is said already, with the same body, that is as good; with another one, this
    /// attempt has failed.
    pub async fn put_manifest<B: Serialize + DeserializeOwned>(&self, key: &str, seconds: f64, body: B) -> Result<(), RunError> {
        self.put_manifest_like(key, seconds, body, |_, _| false).await
    }

    /// As above, where bodies may be the same without being equal: `is_same` compares the one that is there with this one.
    pub async fn put_manifest_like<B: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        seconds: f64,
        body: B,
        is_same: impl FnOnce(&B, &B) -> bool,
    ) -> Result<(), RunError> {
        let manifest = Manifest::new(self.run.context.run.clone(), self.plan_hash, self.run.context.attempt, seconds, body);
        match self.run.ledger.put_once(key, Bytes::from(manifest.to_bytes())).await? {
            PutOnce::Written | PutOnce::Same => Ok(()),
            PutOnce::Different { found } => {
                let first: Manifest<B> = parse_manifest(key, &found, &self.run.context.run, self.plan_hash)?;
                let (there, here) = (first.body_digest, manifest.body_digest);
                if there == here || is_same(&first.body, &manifest.body) {
                    Ok(())
                } else {
                    Err(RunError::Conflict { key: key.to_owned(), there, here })
                }
            }
        }
    }
}

/// The manifest of a run and its plan at `key`, if it is there.
pub async fn manifest<B: Serialize + DeserializeOwned>(
    ledger: &Ledger,
    key: &str,
    run: &RunId,
    plan_hash: Sha256Digest,
) -> Result<Option<B>, RunError> {
    let Some(bytes) = ledger.get(key).await? else { return Ok(None) };
    Ok(Some(parse_manifest(key, &bytes, run, plan_hash)?.body))
}

fn parse_manifest<B: Serialize + DeserializeOwned>(
    key: &str,
    bytes: &[u8],
    run: &RunId,
    plan_hash: Sha256Digest,
) -> Result<Manifest<B>, RunError> {
    Manifest::parse(bytes, run, plan_hash).map_err(|source| RunError::Manifest { key: key.to_owned(), source })
}

/// An object of a run that must be there, and its digest.
pub async fn read<T: DeserializeOwned>(ledger: &Ledger, key: &str) -> Result<(T, Sha256Digest), RunError> {
    find(ledger, key).await?.ok_or_else(|| RunError::Missing { key: key.to_owned() })
}

/// An object of a run, and its digest, if it is there.
pub async fn find<T: DeserializeOwned>(ledger: &Ledger, key: &str) -> Result<Option<(T, Sha256Digest)>, RunError> {
    ledger.get(key).await?.map(|bytes| parse(key, &bytes)).transpose()
}

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<(T, Sha256Digest), RunError> {
    let value = serde_json::from_slice(bytes).map_err(|source| RunError::Decode { key: key.to_owned(), source })?;
    Ok((value, Sha256Digest::of(bytes)))
}

fn check(key: &str, format: u32, found: &RunId, wanted: &RunId) -> Result<(), RunError> {
    if format != FORMAT {
        return Err(RunError::Format { key: key.to_owned(), found: format });
    }
    if found != wanted {
        return Err(RunError::OtherRun { key: key.to_owned(), found: found.clone(), wanted: wanted.clone() });
    }
    Ok(())
}

fn bytes_from(name: &'static str) -> Result<Option<u64>, RunError> {
    env::var(name).ok().map(|text| text.trim().parse().map_err(|_| RunError::Bytes(name))).transpose()
}
