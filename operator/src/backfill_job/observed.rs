//! What a look at a BackfillJob and its surroundings found. Plain facts: nothing here reads, decides or writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use weir_crds::{
    BackfillClass, BackfillJob, KafkaCluster, TopicFloor,
    contract::{
        digest::Sha256Digest,
        keys::RunKeys,
        manifest::{Extracted, Published, Staged, Verified},
        names::RunId,
        plan::Plan,
        progress::UnitProgress,
        result::{FailureRecord, OutcomeRecord, WorkerResult},
        run::RunSpec,
        units::{Unit, Verb},
    },
};

/// Everything that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed {
    pub job: Arc<BackfillJob>,
    pub classes: BTreeMap<String, Arc<BackfillClass>>,
    pub clusters: BTreeMap<String, Arc<KafkaCluster>>,
    /// Of the topics that it publishes to, and of those that its run holds.
    pub floors: Vec<Arc<TopicFloor>>,
    pub account: Account,
    /// Read before the ledger, so that a Job that has ended finds its manifests here.
    pub workers: Vec<Worker>,
    /// Pods of this job's workers that have not ended, those without a Job included.
    pub pods_left: usize,
    /// By unit of the generation that is run: the highest attempt that any pod shows.
    pub pod_attempts: BTreeMap<String, u32>,
    pub ledger: Ledger,
    /// The clusters on which this process has seen a fit progress topic.
    pub progress_topics: BTreeSet<String>,
    /// What workers of new plans run.
    pub worker_image: String,
}

/// The ServiceAccount that workers are to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    Missing,
    /// It lacks the annotation.
    NotAllowed,
    Allowed,
}

/// The artifact store, as far as it could be looked at.
#[derive(Clone, Debug)]
pub enum Ledger {
    /// No class says where it is.
    Unknown,
    /// It could not be read; this is never the same as empty.
    Unreadable {
        denied: bool,
        message: String,
    },
    /// Something in it is not what it should be.
    Corrupt {
        message: String,
    },
    Read(Box<LedgerView>),
}

/// The run of the highest generation that spec or store know.
#[derive(Clone, Debug)]
pub struct LedgerView {
    pub run_id: RunId,
    pub keys: RunKeys,
    /// The root of the run as a URI.
    pub uri: String,
    /// The highest generation in the store; `None`: none.
    pub highest: Option<u32>,
    pub run: Option<Arc<RunFile>>,
    pub outcome: Option<OutcomeRecord>,
    pub claims: Claimed,
    pub plan: Option<Arc<PlanFile>>,
    pub manifests: Manifests,
    pub failures: BTreeMap<(String, u32), Arc<FailureRecord>>,
    pub progress: BTreeMap<String, UnitProgress>,
}

impl LedgerView {
    /// The failed attempts at a unit, in their order.
    pub fn records_of(&self, unit: &str) -> impl Iterator<Item = &FailureRecord> + Clone {
        self.failures.range((unit.to_owned(), 0)..=(unit.to_owned(), u32::MAX)).map(|(_, record)| record.as_ref())
    }
}

/// What a run has claimed of its targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing, or not everything.
    #[default]
    Nothing,
    Taken,
    /// The run is over, and what it did not publish was given back.
    Released,
}

#[derive(Clone, Debug)]
pub struct RunFile {
    pub spec: RunSpec,
    pub bytes: Vec<u8>,
    pub digest: Sha256Digest,
}

#[derive(Clone, Debug)]
pub struct PlanFile {
    pub plan: Plan,
    pub hash: Sha256Digest,
    pub units: Vec<Unit>,
}

impl PlanFile {
    /// As `approval.planHash` has it.
    pub fn hash_text(&self) -> String {
        format!("sha256:{}", self.hash)
    }
}

/// The manifests of a run, by item. They never change, so each is read once and shared.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    pub extracted: BTreeMap<String, Arc<Timed<Extracted>>>,
    pub staged: BTreeMap<String, Arc<Timed<Staged>>>,
    /// By slice and bucket.
    pub published: BTreeMap<(String, String), Arc<Timed<Published>>>,
    pub verified: BTreeMap<String, Arc<Timed<Verified>>>,
}

/// What a manifest says, and how long its item took.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed<B> {
    pub body: B,
    pub seconds: f64,
}

/// A Job that runs one attempt at a unit of work, with what its pod tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: u32,
    pub unit: String,
    pub verb: Verb,
    pub attempt: u32,
    /// Whether this very BackfillJob owns it, rather than one of the same name that is gone.
    pub ours: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// Which pod it asks for, as [`super::job_template::ANNOTATION_TEMPLATE`] has it.
    pub template: Option<String>,
    pub created_at: Timestamp,
    pub state: WorkerState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// No container runs yet; what keeps it, where that is known.
    Starting {
        problem: Option<StartProblem>,
        /// It was given to a node that nothing is heard of.
        node_silent: bool,
    },
    Running {
        since: Timestamp,
        node_silent: bool,
    },
    Ended {
        at: Timestamp,
        how: Ending,
    },
}

/// Why a pod does not start, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartProblem {
    pub reason: String,
    pub message: String,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It said that all is done, or that nothing went wrong.
    Succeeded,
    /// It said what went wrong.
    Reported(WorkerResult),
    /// It ended without a word, by itself.
    Crashed { reason: String, message: String },
    /// Its container was never started.
    NotStarted(StartProblem),
    /// It was ended by the cluster: eviction, node loss, deletion.
    Disrupted { reason: String, message: String },
}

impl Worker {
    /// It runs or will run: it takes a place among the workers.
    pub fn is_open(&self) -> bool {
        match &self.state {
            WorkerState::Starting { .. } | WorkerState::Running { .. } => true,
            WorkerState::Ended { .. } => false,
        }
    }
}

impl Observed {
    pub fn name(&self) -> &str {
        self.job.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.job.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub fn ledger(&self) -> Option<&LedgerView> {
        match &self.ledger {
            Ledger::Read(view) => Some(view),
            Ledger::Unknown | Ledger::Unreadable { .. } | Ledger::Corrupt { .. } => None,
        }
    }

    /// The generation that is run: the highest known, so that a lowered `runGeneration` changes nothing.
    pub fn generation(&self) -> u32 {
        let known = self.job.status.as_ref().and_then(|s| s.run.as_ref()).map_or(0, |r| r.generation);
        self.ledger().map_or(self.job.spec.run_generation.max(known), |view| view.run_id.generation)
    }
}
