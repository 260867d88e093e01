//! What is to be done, and what is to be said about it. Made by `decide`, carried out by `apply` without any choice.

use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::batch::v1::Job;
use weir_crds::{
    backfill_job::Phase,
    contract::result::{FailureRecord, OutcomeRecord},
    window::Interval,
};

use super::{
    claims::Scope,
    phase::{Hold, Stage, phase},
    wait::{Wait, Waiting},
};

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Puts `run.json`.
    PutRun {
        key: String,
        bytes: Bytes,
    },
    /// Sees to the namespace's progress topic on a cluster.
    EnsureProgressTopic {
        cluster: String,
        topic: String,
    },
    /// Claims what the run publishes over, and puts `claims.json`.
    TakeClaims {
        scope: Box<Scope>,
    },
    /// Gives back what the run claimed and did not publish over, and puts `claims-released.json`.
    ReleaseClaims {
        scope: Box<Scope>,
        kept: Vec<Interval>,
    },
    CreateJob(Box<Job>),
    /// Puts `failed/<unit>/<attempt>.json`.
    RecordFailure {
        key: String,
        record: FailureRecord,
    },
    DeleteJob {
        name: String,
        uid: String,
        resource_version: String,
    },
    /// Puts `outcome.json`.
    PutOutcome {
        key: String,
        record: OutcomeRecord,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub phase: Phase,
    /// In the order in which they are carried out; the first that fails ends the turn.
    pub actions: Vec<Action>,
    /// Why nothing, or not everything, goes on; the gravest first.
    pub waits: Vec<Waiting>,
    /// Why it is over without success, or why it cannot begin.
    pub failed: Option<(String, String)>,
    /// Look again by then, if nothing wakes before.
    pub again: Duration,
}

/// While workers run: what they put into the store is seen that soon.
pub const BUSY_INTERVAL: Duration = Duration::from_secs(3);
/// While something else is awaited that no watch tells of.
pub const WAITING_INTERVAL: Duration = Duration::from_secs(10);
/// When it is over: nothing changes but by a change of the object, which wakes.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(600);
/// Something was written that the next look builds on.
pub const AT_ONCE: Duration = Duration::from_millis(10);

impl Decision {
    pub fn new(stage: Stage, hold: Hold) -> Self {
        Self { phase: phase(stage, hold), actions: Vec::new(), waits: Vec::new(), failed: None, again: WAITING_INTERVAL }
    }

    pub fn wait(mut self, wait: Wait, message: impl Into<String>) -> Self {
        self.waits.push(Waiting::new(wait, message));
        self
    }

    pub fn waits(mut self, waits: Vec<Waiting>) -> Self {
        self.waits.extend(waits);
        self
    }

    pub fn act(mut self, actions: Vec<Action>) -> Self {
        self.actions.extend(actions);
        self
    }

    pub fn fail(mut self, reason: impl Into<String>, message: impl Into<String>) -> Self {
        self.failed = Some((reason.into(), message.into()));
        self
    }

    pub fn again(mut self, after: Duration) -> Self {
        self.again = after;
        self
    }
}
