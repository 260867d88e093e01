//! What a job waits for. Each becomes the reason of a condition; nothing here decides anything.

use weir_crds::contract::result::{Disposition, FailureCode};

/// Why nothing, or not everything, goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A draft that nobody has completed.
    Incomplete,
    /// The target's retention is about to be raised.
    RetentionNotHeld,
    /// `spec.className` names no class.
    ClassMissing,
    NoDefaultClass,
    SeveralDefaultClasses,
    ClassNotReady,
    ClusterMissing,
    ClusterNotReady,
    GrantMissing,
    ServiceAccountMissing,
    ServiceAccountNotAllowed,
    /// The artifact store does not answer: it is never taken for an empty one.
    StoreUnavailable,
    /// The artifact store refuses: the credentials, or a bucket that is not there.
    StoreDenied,
    /// An object of the run is not what its digest says.
    ArtifactCorrupt,
    /// The run that status shows is not where its class has its artifacts.
    RunNotInStore,
    SpecDiffersFromRun,
    /// `approval.planHash` is another plan's.
    PlanHashMismatch,
    /// The cluster does not answer when it is asked for the progress topic.
    ProgressTopicUnavailable,
    /// The progress topic may not be made, or is not fit for it.
    ProgressTopicRefused,
    /// Another job has claimed some of the time and event types.
    ClaimedByOther,
    /// A worker's pod cannot start.
    WorkerCannotStart,
    /// The last worker said so.
    Worker(FailureCode),
    /// Nothing is ready, nothing runs, and nothing has failed: weir's own mistake, said rather than hidden.
    NothingCanGoOn,
    /// The window's last rows may not have arrived.
    SourceIncomplete,
    Approval,
    /// Workers of an earlier generation, or of an object of the same name that was deleted, must end first.
    EarlierWorkers,
    /// Workers end what is open.
    Draining,
    /// The time between two attempts.
    Backoff,
    /// `spec.runGeneration` is lower than that of the last run.
    GenerationLowered,
}

impl Wait {
    pub fn reason(self) -> String {
        match self {
            Self::Incomplete => "Incomplete",
            Self::RetentionNotHeld => "RetentionNotHeld",
            Self::ClassMissing => "ClassMissing",
            Self::NoDefaultClass => "NoDefaultClass",
            Self::SeveralDefaultClasses => "SeveralDefaultClasses",
            Self::ClassNotReady => "ClassNotReady",
            Self::ClusterMissing => "ClusterMissing",
            Self::ClusterNotReady => "ClusterNotReady",
            Self::GrantMissing => "GrantMissing",
            Self::ServiceAccountMissing => "ServiceAccountMissing",
            Self::ServiceAccountNotAllowed => "ServiceAccountNotAllowed",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::StoreDenied => "StoreDenied",
            Self::ArtifactCorrupt => "ArtifactCorrupt",
            Self::RunNotInStore => "RunNotInStore",
            Self::SpecDiffersFromRun => "SpecDiffersFromRun",
            Self::PlanHashMismatch => "PlanHashMismatch",
            Self::ProgressTopicUnavailable => "ProgressTopicUnavailable",
            Self::ProgressTopicRefused => "ProgressTopicRefused",
            Self::ClaimedByOther => "ClaimedByOther",
            Self::WorkerCannotStart => "WorkerCannotStart",
            Self::Worker(code) => return format!("{code:?}"),
            Self::NothingCanGoOn => "NothingCanGoOn",
            Self::SourceIncomplete => "SourceIncomplete",
            Self::Approval => "AwaitingApproval",
            Self::EarlierWorkers => "EarlierWorkers",
            Self::Draining => "Draining",
            Self::Backoff => "Backoff",
            Self::GenerationLowered => "GenerationLowered",
        }
        .to_owned()
    }

    /// Whether it needs somebody: only these make `Stalled` true. The others pass by themselves, or are asked for.
    pub const fn stalls(self) -> bool {
        match self {
            Self::Incomplete
            | Self::ClassMissing
            | Self::NoDefaultClass
            | Self::SeveralDefaultClasses
            | Self::ClassNotReady
            | Self::ClusterMissing
            | Self::ClusterNotReady
            | Self::GrantMissing
            | Self::ServiceAccountMissing
            | Self::ServiceAccountNotAllowed
            | Self::StoreDenied
            | Self::ArtifactCorrupt
            | Self::RunNotInStore
            | Self::SpecDiffersFromRun
            | Self::PlanHashMismatch
            | Self::ProgressTopicRefused
            | Self::ClaimedByOther
            | Self::WorkerCannotStart
            | Self::NothingCanGoOn => true,
            // What is away comes back by itself; what was refused needs somebody.
            Self::Worker(code) => match code.disposition() {
                Disposition::Stalled => true,
                Disposition::Wait | Disposition::Yielded | Disposition::UsesAttempt | Disposition::Final => false,
            },
            Self::StoreUnavailable
            | Self::RetentionNotHeld
            | Self::ProgressTopicUnavailable
            | Self::SourceIncomplete
            | Self::Approval
            | Self::EarlierWorkers
            | Self::Draining
            | Self::Backoff
            | Self::GenerationLowered => false,
        }
    }
}

/// A wait, and what to tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub wait: Wait,
    /// What is awaited and, where somebody must act, what to do.
    pub message: String,
}

impl Waiting {
    /// Whether what lies in the store is this object's.
    pub fn concerns_another_run(&self) -> bool {
        matches!(self.wait, Wait::SpecDiffersFromRun | Wait::RunNotInStore)
    }

    pub fn new(wait: Wait, message: impl Into<String>) -> Self {
        Self { wait, message: message.into() }
    }
}
