//! What can end the verification of a slice.

use weir_crds::contract::result::FailureCode;
use weir_kafka::range::RangeError;

use crate::{run::RunError, target::TargetError, termination::Explain};

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("the run has no Kafka sink")]
    NoSink,
    #[error("the target cannot be read")]
    Read(#[source] RangeError),
    #[error("slice {slice}, bucket {bucket}, partition {partition}: the manifest says that other records were published than were staged")]
    NotAsStaged { slice: String, bucket: String, partition: i32 },
    #[error(
        "slice {slice}, partition {partition}, offsets {first} to {last}: {found} records of the slice were read and {sent} were published"
    )]
    Count { slice: String, partition: i32, first: i64, last: i64, found: u64, sent: u64 },
    #[error(
        "slice {slice}, partition {partition}, offsets {first} to {last}: the records that were read are not those that were published, or not in their order"
    )]
    Content { slice: String, partition: i32, first: i64, last: i64 },
    #[error("slice {slice}: {others} records of other producers lie in the side topic between those of the backfill")]
    Aliens { slice: String, others: u64 },
    #[error("a thread of the verification ended early")]
    Thread,
}

impl Explain for VerifyError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Run(error) => error.code(),
            Self::Target(error) => error.code(),
            Self::Read(RangeError::Gone { .. }) => FailureCode::VerifyMismatch,
            Self::Read(error) if error.is_denied() => FailureCode::KafkaDenied,
            Self::Read(_) => FailureCode::KafkaUnavailable,
            Self::NotAsStaged { .. } => FailureCode::ArtifactCorrupt,
            Self::Count { .. } | Self::Content { .. } | Self::Aliens { .. } => FailureCode::VerifyMismatch,
            Self::NoSink | Self::Thread => FailureCode::Internal,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Read(RangeError::Gone { .. }) => Some(
                "the topic has deleted records of the slice before they were verified: with timestamps: EventTime its retention must reach back to the window's start; \
                 publish with timestamps: ReplayTime or to another topic, or raise the retention first"
                    .to_owned(),
            ),
            Self::Run(error) => error.remedy(),
            Self::Target(error) => error.remedy(),
            Self::Read(_)
            | Self::NoSink
            | Self::NotAsStaged { .. }
            | Self::Count { .. }
            | Self::Content { .. }
            | Self::Aliens { .. }
            | Self::Thread => None,
        }
    }
}
