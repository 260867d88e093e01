//! What can end the publishing of a bucket.

use weir_crds::contract::{
    names::RunId,
    progress::RecordError,
    result::{FailureCode, Outcome},
};
use weir_kafka::{Consequence, range::RangeError, transaction::TransactionError};

use crate::{run::RunError, staged::StagedError, target::TargetError, termination::Explain};

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("bucket {bucket}")]
    Transaction {
        bucket: String,
        own_generation: u32,
        #[source]
        source: TransactionError,
    },
    #[error("what an earlier generation published cannot be read back")]
    ReadPresent(#[source] RangeError),
    #[error("{what}, though bucket {bucket} has been begun: what is published is not known, and never assumed to be nothing")]
    ProgressLost { bucket: String, what: String },
    #[error("the progress record {key} is not believed")]
    ProgressCorrupt {
        key: String,
        #[source]
        source: RecordError,
    },
    #[error("the progress record {key} is that of run {run}, bucket {bucket}")]
    ProgressForeign { key: String, run: RunId, bucket: String },
    #[error("bucket {bucket} belongs to generation {generation}, which has begun")]
    Superseded { bucket: String, generation: u32 },
    #[error("{key} is not what the manifest of the slice names: {what}")]
    Part { key: String, what: String },
    #[error("a staged part cannot be read")]
    Staged(#[from] StagedError),
    #[error("the manifest of slice {slice} in bucket {bucket} is gone, though progress is at a later slice")]
    ManifestGone { slice: String, bucket: String },
    #[error(
        "generation {generation} published to this topic by a sink named {then}, which is now named {now}: its producers cannot be fenced under another name"
    )]
    SinkRenamed { generation: u32, then: String, now: String },
    #[error("the run has no Kafka sink")]
    NoSink,
    #[error("the run is over ({outcome:?}): {message}")]
    Over { outcome: Outcome, message: String },
    #[error("asked to stop")]
    Interrupted,
    #[error("a thread of the publisher ended early")]
    Thread,
}

impl Explain for PublishError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Run(error) => error.code(),
            Self::Target(error) => error.code(),
            Self::Transaction { own_generation, source, .. } => transaction_code(*own_generation, source),
            Self::ReadPresent(RangeError::Gone { .. }) => FailureCode::ProgressLost,
            Self::ReadPresent(error) if error.is_denied() => FailureCode::KafkaDenied,
            Self::ReadPresent(_) => FailureCode::KafkaUnavailable,
            Self::ProgressLost { .. } => FailureCode::ProgressLost,
            Self::ProgressCorrupt { .. } | Self::ProgressForeign { .. } => FailureCode::ProgressCorrupt,
            Self::Superseded { .. } => FailureCode::Superseded,
            Self::Part { .. } | Self::ManifestGone { .. } => FailureCode::ArtifactCorrupt,
            Self::Staged(error) if error.is_full() => FailureCode::ScratchFull,
            Self::Staged(_) => FailureCode::ArtifactCorrupt,
            Self::SinkRenamed { .. } => FailureCode::TargetChanged,
            Self::NoSink | Self::Thread => FailureCode::Internal,
            Self::Interrupted | Self::Over { .. } => FailureCode::Interrupted,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Target(error) => error.field(),
            Self::SinkRenamed { .. } => Some("spec.sinks[].name".to_owned()),
            Self::Run(_)
            | Self::Transaction { .. }
            | Self::ReadPresent(_)
            | Self::ProgressLost { .. }
            | Self::ProgressCorrupt { .. }
            | Self::ProgressForeign { .. }
            | Self::Superseded { .. }
            | Self::Part { .. }
            | Self::Staged(_)
            | Self::ManifestGone { .. }
            | Self::NoSink
            | Self::Over { .. }
            | Self::Interrupted
            | Self::Thread => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Run(error) => error.remedy(),
            Self::Target(error) => error.remedy(),
            Self::SinkRenamed { then, .. } => Some(format!("name the sink {then} again, and raise runGeneration")),
            Self::ReadPresent(RangeError::Gone { .. }) => Some(
                "what an earlier generation published is deleted already, from the topic and from the artifact store, so nobody can tell \
                 what is missing: publish that with a job of another name, whose window leaves out the slices that are published"
                    .to_owned(),
            ),
            Self::Transaction { .. }
            | Self::ReadPresent(_)
            | Self::ProgressLost { .. }
            | Self::ProgressCorrupt { .. }
            | Self::ProgressForeign { .. }
            | Self::Superseded { .. }
            | Self::Part { .. }
            | Self::Staged(_)
            | Self::ManifestGone { .. }
            | Self::NoSink
            | Self::Over { .. }
            | Self::Interrupted
            | Self::Thread => None,
        }
    }
}

fn transaction_code(own_generation: u32, error: &TransactionError) -> FailureCode {
    match (error, error.consequence()) {
        (TransactionError::Taken { by, .. }, _) if by.generation > own_generation => FailureCode::Superseded,
        (TransactionError::Holder { .. }, _) => FailureCode::ProgressCorrupt,
        // The credentials may be mended, or be in the middle of it.
        (TransactionError::Config(_), _) => FailureCode::KafkaDenied,
        (TransactionError::Client(_), _) => FailureCode::KafkaUnavailable,
        (_, Consequence::Yield) => FailureCode::Fenced,
        (_, Consequence::Refused) if error.is_denied() => FailureCode::KafkaDenied,
        (_, Consequence::Refused) => FailureCode::TargetUnsuitable,
        // Fenced for minutes, and nobody else holds the bucket: the brokers end every transaction for being too slow.
        (_, Consequence::Retry | Consequence::AbortAndRewind | Consequence::StartOver | Consequence::Fenced) => {
            FailureCode::KafkaUnavailable
        }
    }
}
