//! Reads a run from the artifact store. It writes nothing and decides nothing.
//!
//! What lies in the store never changes, so each object is read once; listings tell which are there. A store that cannot
//! be read is an error, never an empty run.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Serialize, de::DeserializeOwned};
use weir_crds::contract::{
    FORMAT,
    digest::Sha256Digest,
    keys::{Folder, RunKeys},
    manifest::{Extracted, Manifest, ManifestError},
    names::RunId,
    plan::Plan,
    progress::UnitProgress,
    result::{FailureRecord, Outcome, OutcomeRecord},
    run::RunSpec,
    units::units,
};
use weir_ledger::{Cause, Ledger, LedgerError};

use super::observed::{Claimed, LedgerView, Manifests, PlanFile, RunFile, Timed};

/// Requests at a time for one run: many times what a store answers within a poll, few enough for it not to mind.
const READS_MAX: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error(transparent)]
    Store(#[from] LedgerError),
    #[error("{key} cannot be used")]
    Manifest {
        key: String,
        #[source]
        source: ManifestError,
    },
    #[error("{key} is not the JSON that was expected")]
    Decode {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{key} has format {found}, this program knows {FORMAT}: use the version of weir that wrote it")]
    Format { key: String, found: u32 },
    #[error("{key} belongs to another run, or to another run.json than the one beside it")]
    Foreign { key: String },
}

impl ViewError {
    /// `None`: the store is fine, what it holds is not.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Store(error) => error.cause(),
            Self::Manifest { .. } | Self::Decode { .. } | Self::Format { .. } | Self::Foreign { .. } => None,
        }
    }
}

/// What has been read of one run.
#[derive(Debug, Default)]
pub struct RunCache {
    run: Option<Arc<RunFile>>,
    plan: Option<Arc<PlanFile>>,
    manifests: Manifests,
    failures: BTreeMap<(String, u32), Arc<FailureRecord>>,
    claims: Claimed,
}

/// Which run is meant, and what of it is of interest.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    /// As the spec has it; a higher one in the store takes precedence.
    pub generation: u32,
    pub prefix: &'a str,
    /// Units whose progress is to be read.
    pub running: &'a BTreeSet<String>,
    /// A generation that is known to be over, of which nothing but that is to be read.
    pub settled: Option<u32>,
}

pub async fn read(ledger: &Ledger, wanted: &Wanted<'_>, cache: &mut RunCache) -> Result<LedgerView, ViewError> {
    let at = |generation| RunId { namespace: wanted.namespace.into(), name: wanted.name.into(), generation };
    let highest = highest_generation(ledger, RunKeys::new(wanted.prefix, &at(wanted.generation)).job()).await?;
    let run_id = at(wanted.generation.max(highest.unwrap_or(0)));
    let keys = RunKeys::new(wanted.prefix, &run_id);
    let (run_key, outcome_key) = (keys.run(), keys.outcome());
    let (run, outcome) = futures::try_join!(ledger.get(&run_key), ledger.get_json::<OutcomeRecord>(&outcome_key))?;
    let run = run.map(|bytes| run_file(&run_key, &run_id, bytes.to_vec())).transpose()?;
    // Another run.json under the same key: the store was emptied and filled again. Nothing that was read still holds.
    if cache.run.as_ref().map(|r| r.digest) != run.as_ref().map(|r| r.digest) {
        *cache = RunCache { run: run.map(Arc::new), ..RunCache::default() };
    }
    claims(ledger, &keys, outcome.as_ref(), cache).await?;
    // A run that is over and still has something to give back is looked at as a whole: what it published it keeps.
    let gives_back = outcome.as_ref().is_some_and(|o| o.outcome != Outcome::Completed)
        && match cache.claims {
            Claimed::Taken => true,
            Claimed::Nothing => run_id.generation > 1 || ledger.head(&keys.plan()).await?.is_some(),
            Claimed::Released => false,
        };
    let settled = outcome.is_some() && wanted.settled == Some(run_id.generation) && !gives_back;
    if let Some(run) = cache.run.clone().filter(|_| !settled) {
        refresh(ledger, &keys, &run, cache).await?;
    }
    let progress = progress(ledger, &keys, wanted.running).await?;
    Ok(LedgerView {
        uri: format!("s3://{}/{}", ledger.bucket(), keys.root()),
        run_id,
        keys,
        highest,
        run: cache.run.clone(),
        outcome,
        claims: cache.claims,
        plan: cache.plan.clone(),
        manifests: cache.manifests.clone(),
        failures: cache.failures.clone(),
        progress,
    })
}

/// Neither object changes or goes once it is there.
async fn claims(ledger: &Ledger, keys: &RunKeys, outcome: Option<&OutcomeRecord>, cache: &mut RunCache) -> Result<(), ViewError> {
    if cache.claims == Claimed::Nothing && cache.run.is_some() && ledger.head(&keys.claims()).await?.is_some() {
        cache.claims = Claimed::Taken;
    }
    if cache.claims != Claimed::Released && outcome.is_some() && ledger.head(&keys.claims_released()).await?.is_some() {
        cache.claims = Claimed::Released;
    }
    Ok(())
}

async fn highest_generation(ledger: &Ledger, job: &str) -> Result<Option<u32>, ViewError> {
    let folders = ledger.folders(job).await?;
    Ok(folders.iter().filter_map(|folder| RunKeys::generation_of(folder)).max())
}

fn run_file(key: &str, run_id: &RunId, bytes: Vec<u8>) -> Result<RunFile, ViewError> {
    let spec: RunSpec = serde_json::from_slice(&bytes).map_err(|source| ViewError::Decode { key: key.into(), source })?;
    if spec.format != FORMAT {
        return Err(ViewError::Format { key: key.into(), found: spec.format });
    }
    if spec.run != *run_id {
        return Err(ViewError::Foreign { key: key.into() });
    }
    Ok(RunFile { spec, digest: Sha256Digest::of(&bytes), bytes })
}

fn plan_file(key: &str, run: &RunFile, bytes: &[u8]) -> Result<PlanFile, ViewError> {
    let plan: Plan = serde_json::from_slice(bytes).map_err(|source| ViewError::Decode { key: key.into(), source })?;
    if plan.format != FORMAT {
        return Err(ViewError::Format { key: key.into(), found: plan.format });
    }
    if plan.run != run.spec.run || plan.run_digest != run.digest {
        return Err(ViewError::Foreign { key: key.into() });
    }
    Ok(PlanFile { hash: Sha256Digest::of(bytes), units: units(&plan), plan })
}

/// Takes up what is new in the run's folders.
async fn refresh(ledger: &Ledger, keys: &RunKeys, run: &RunFile, cache: &mut RunCache) -> Result<(), ViewError> {
    failures(ledger, keys, cache).await?;
    if cache.plan.is_none() {
        let key = keys.plan();
        let Some(bytes) = ledger.get(&key).await? else { return Ok(()) };
        cache.plan = Some(Arc::new(plan_file(&key, run, &bytes)?));
    }
    let Some(file) = cache.plan.clone() else { return Ok(()) };
    let (chunks, slices, buckets) = (file.plan.chunks.len(), file.plan.slices.len(), file.plan.buckets().len());
    let (run_id, hash) = (&run.spec.run, file.hash);
    let Manifests { extracted, staged, published, verified } = &mut cache.manifests;
    let one = |key: &str, folder: &str| Some(key.strip_prefix(folder)?.strip_suffix(".json")?.to_owned());
    let two = |key: &str, folder: &str| {
        let (slice, bucket) = key.strip_prefix(folder)?.strip_suffix(".json")?.split_once('/')?;
        Some((slice.to_owned(), bucket.to_owned()))
    };
    let at = [Folder::Extracted, Folder::Staged, Folder::Published, Folder::Verified].map(|f| keys.folder(f));
    futures::try_join!(
        folder(ledger, &at[0], extracted, chunks, run_id, hash, one, without_places),
        folder(ledger, &at[1], staged, slices, run_id, hash, one, |s| s),
        folder(ledger, &at[2], published, slices * buckets, run_id, hash, two, |p| p),
        folder(ledger, &at[3], verified, slices, run_id, hash, one, |v| v),
    )?;
    Ok(())
}

/// The operator adds up rows; where they lie, and may lie, is the worker's to know, and much of it.
fn without_places(mut extracted: Extracted) -> Extracted {
    for slice in &mut extracted.index {
        slice.segments = Vec::new();
    }
    extracted.by_times = Vec::new();
    extracted
}

/// Reads the manifests of a folder that are not known yet. One that is complete is not looked at again.
#[expect(clippy::too_many_arguments, reason = "the four folders differ in all of them")]
async fn folder<K: Ord + Clone, B: Serialize + DeserializeOwned>(
    ledger: &Ledger,
    folder: &str,
    known: &mut BTreeMap<K, Arc<Timed<B>>>,
    complete: usize,
    run: &RunId,
    plan: Sha256Digest,
    item: impl Fn(&str, &str) -> Option<K>,
    reduce: impl Fn(B) -> B,
) -> Result<(), ViewError> {
    if known.len() >= complete {
        return Ok(());
    }
    let listed = ledger.list(folder, None).await?;
    let items: BTreeMap<K, String> = listed.into_iter().filter_map(|l| Some((item(&l.key, folder)?, l.key))).collect();
    known.retain(|k, _| items.contains_key(k));
    let new: Vec<(K, String)> = items.into_iter().filter(|(k, _)| !known.contains_key(k)).collect();
    let mut read = stream::iter(new)
        .map(|(item, key)| async move {
            let bytes = ledger.get(&key).await?;
            let Some(bytes) = bytes else { return Ok(None) };
            let manifest = Manifest::<B>::parse(&bytes, run, plan).map_err(|source| ViewError::Manifest { key, source })?;
            Ok::<_, ViewError>(Some((item, manifest)))
        })
        .buffer_unordered(READS_MAX);
    while let Some(found) = read.try_next().await? {
        if let Some((item, manifest)) = found {
            known.insert(item, Arc::new(Timed { seconds: manifest.seconds, body: reduce(manifest.body) }));
        }
    }
    Ok(())
}

async fn failures(ledger: &Ledger, keys: &RunKeys, cache: &mut RunCache) -> Result<(), ViewError> {
    let folder = keys.folder(Folder::Failed);
    let attempt = |key: &str| {
        let (unit, attempt) = key.strip_prefix(&folder)?.strip_suffix(".json")?.split_once('/')?;
        Some((unit.to_owned(), attempt.parse::<u32>().ok()?))
    };
    let listed = ledger.list(&folder, None).await?;
    let items: BTreeMap<_, _> = listed.into_iter().filter_map(|l| Some((attempt(&l.key)?, l.key))).collect();
    cache.failures.retain(|k, _| items.contains_key(k));
    let new: Vec<_> = items.into_iter().filter(|(k, _)| !cache.failures.contains_key(k)).collect();
    let read = stream::iter(new)
        .map(|(item, key)| async move { Ok::<_, ViewError>((item, ledger.get_json::<FailureRecord>(&key).await?)) })
        .buffer_unordered(READS_MAX)
        .try_collect::<Vec<_>>()
        .await?;
    cache.failures.extend(read.into_iter().filter_map(|(item, record)| Some((item, Arc::new(record?)))));
    Ok(())
}

/// Progress is only shown: one that cannot be read as such is left out.
async fn progress(ledger: &Ledger, keys: &RunKeys, running: &BTreeSet<String>) -> Result<BTreeMap<String, UnitProgress>, ViewError> {
    let read = stream::iter(running.iter().cloned())
        .map(|unit| async move {
            match ledger.get_json::<UnitProgress>(&keys.progress(&unit)).await {
                Ok(found) => Ok(found.map(|p| (unit, p))),
                Err(error) if error.cause().is_none() => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(READS_MAX)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(read.into_iter().flatten().collect())
}
