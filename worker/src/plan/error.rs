//! Why there is no plan.

use thiserror::Error;
use weir_crds::contract::plan::CHUNKS_MAX;
use weir_crds::contract::result::FailureCode;
use weir_kafka::range::RangeError;
use weir_ledger::{ClientError, LedgerError};

use super::objects::OBJECTS_MAX;
use crate::extract::ExtractError;
use crate::publish::PublishError;
use crate::run::{RunError, store_code};
use crate::select::SelectError;
use crate::source::SourceError;
use crate::source::object_list::ObjectListError;
use crate::source::template::TemplateError;
use crate::target::TargetError;
use crate::termination::Explain;

/// What ends planning.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A declaration or a select.
    #[error(transparent)]
    Compile(#[from] ExtractError),
    /// A column that another field names.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The source store.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source store's client.
    #[error("the source store's client cannot be made")]
    Client(#[from] ClientError),
    /// A prefix.
    #[error("source {origin}: prefix")]
    Template {
        /// The source's name.
        origin: String,
        /// What is wrong.
        #[source]
        source: TemplateError,
    },
    /// A source of another kind than this version reads.
    #[error("source {origin} names no S3 bucket")]
    NoBucket {
        /// The source's name.
        origin: String,
    },
    /// Nothing to do.
    #[error("the whole window is excluded")]
    NoSlices,
    /// Nothing to read.
    #[error("no source ({sources}) has an object that may hold events of the window")]
    NoObjects {
        /// Their names.
        sources: String,
    },
    /// Too much for one run.
    #[error("source {origin} has more than {OBJECTS_MAX} objects for the window")]
    TooManyObjects {
        /// The source's name.
        origin: String,
    },
    /// Too much for one run.
    #[error("the sources need {chunks} chunks, more than {CHUNKS_MAX}")]
    TooManyChunks {
        /// As laid out.
        chunks: usize,
    },
    /// The list of objects.
    #[error(transparent)]
    ObjectList(#[from] ObjectListError),
    /// The artifact store.
    #[error("the artifact store failed")]
    Store(#[from] LedgerError),
    /// Reading the run or an earlier plan.
    #[error(transparent)]
    Run(Box<RunError>),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Reading the target.
    #[error("reading the target failed")]
    Read(#[from] RangeError),
    /// Taking a bucket over from an earlier generation, or reading what that one published.
    #[error(transparent)]
    Publish(Box<PublishError>),
    /// A thread ended early.
    #[error("a thread of planning ended early")]
    Thread,
    /// The target would refuse or lose the events.
    #[error("topic {topic} cannot take the events: {problem}")]
    Unsuitable {
        /// Of the spec, that asks for what cannot be.
        field: String,
        /// Its name.
        topic: String,
        /// Why.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The target is not what an earlier generation published to.
    #[error("topic {topic} has {found} partitions; generation {generation} published to it when it had {planned} (PartitionCountChanged)")]
    PartitionCountChanged {
        /// Its name.
        topic: String,
        /// Now.
        found: u32,
        /// Then.
        planned: u32,
        /// Which.
        generation: u32,
    },
}

impl From<RunError> for PlanError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl From<PublishError> for PlanError {
    fn from(error: PublishError) -> Self {
        Self::Publish(Box::new(error))
    }
}

impl Explain for PlanError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Compile(error) => error.code(),
            Self::Select(error) => error.code(),
            Self::Source(error) => error.code(),
            Self::Run(error) => error.code(),
            Self::Publish(error) => error.code(),
            Self::Target(error) => error.code(),
            Self::Store(error) => store_code(error),
            Self::Client(_) => FailureCode::SourceDenied,
            Self::Template { source: TemplateError::TooMany, .. } | Self::TooManyObjects { .. } | Self::TooManyChunks { .. } => {
                FailureCode::TooLarge
            }
            // Only another spec cures these; admission refuses them where it is asked.
            Self::Template { .. } | Self::NoBucket { .. } => FailureCode::InvalidSelect,
            Self::NoObjects { .. } => FailureCode::SourceMissing,
            Self::NoSlices => FailureCode::InvalidResult,
            Self::ObjectList(_) | Self::Thread => FailureCode::Internal,
            Self::Read(error) if error.is_denied() => FailureCode::KafkaDenied,
            Self::Read(_) => FailureCode::KafkaUnavailable,
            Self::Unsuitable { .. } => FailureCode::TargetUnsuitable,
            Self::PartitionCountChanged { .. } => FailureCode::TargetChanged,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Compile(error) => error.field(),
            Self::Select(error) => error.field(),
            Self::Target(error) => error.field(),
            Self::Publish(error) => error.field(),
            Self::Template { origin, .. } => Some(format!("spec.sources[{origin}].s3.prefix")),
            Self::NoBucket { origin } => Some(format!("spec.sources[{origin}].s3")),
            Self::NoSlices => Some("spec.window.exclude".to_owned()),
            Self::Unsuitable { field, .. } => Some(field.clone()),
            Self::PartitionCountChanged { .. } => Some("spec.sinks[].kafka.topic".to_owned()),
            Self::NoObjects { .. } | Self::TooManyObjects { .. } => Some("spec.sources".to_owned()),
            Self::Source(_)
            | Self::Run(_)
            | Self::Store(_)
            | Self::Client(_)
            | Self::TooManyChunks { .. }
            | Self::Read(_)
            | Self::Thread
            | Self::ObjectList(_) => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Compile(error) => error.remedy(),
            Self::Select(error) => error.remedy(),
            Self::Source(error) => error.remedy(),
            Self::Target(error) => error.remedy(),
            Self::Publish(error) => error.remedy(),
            Self::Unsuitable { remedy, .. } => Some(remedy.clone()),
            Self::NoSlices => Some("exclude less, or leave the job out".to_owned()),
            Self::NoObjects { .. } => {
                Some("check bucket and prefix against the store, and the window against the prefix's times".to_owned())
            }
            Self::PartitionCountChanged { .. } => {
                Some("publish to another topic; keys have moved between partitions, so a higher generation cannot go on here".to_owned())
            }
            Self::Run(_)
            | Self::Store(_)
            | Self::Client(_)
            | Self::Template { .. }
            | Self::NoBucket { .. }
            | Self::TooManyObjects { .. }
            | Self::TooManyChunks { .. }
            | Self::Read(_)
            | Self::Thread
            | Self::ObjectList(_) => None,
        }
    }
}
