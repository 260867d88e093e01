//! What can end the assembly of a slice.

use datafusion::arrow::error::ArrowError;
use weir_crds::contract::{digest::ContentDigest, result::FailureCode};
use weir_ledger::LedgerError;

use super::{record::RecordError, spill::SpillError};
use crate::{
    extract::ExtractError,
    run::{RunError, store_code},
    source::object_list::ObjectListError,
    staged::StagedError,
    termination::Explain,
};

#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the artifact store failed")]
    Store(#[from] LedgerError),
    #[error("the run has no Kafka sink")]
    NoSink,
    #[error("chunk {chunk} says that it has rows of the slice, but names no data")]
    NoData { chunk: String },
    #[error("{key}, from byte {offset} on, has the digest {found} and not {said}")]
    Segment { key: String, offset: u64, said: ContentDigest, found: ContentDigest },
    #[error("a segment of selected rows cannot be decoded")]
    Decode(#[source] ArrowError),
    #[error("the selected rows are not as this version of weir extracts them")]
    Record(#[from] RecordError),
    #[error("sorting the rows of the slice failed")]
    Spill(#[from] SpillError),
    #[error("a part of the slice cannot be written")]
    Staged(#[from] StagedError),
    #[error("rows cannot be set aside")]
    Quarantine(#[source] Box<ExtractError>),
    #[error("the list of source objects cannot be read")]
    Objects(#[from] ObjectListError),
    #[error(
        "of the rows of source {source_name} with event type {event_type:?}, {found} of {total} are invalid; reconstruct.maxQuarantinedPercent allows {limit} %"
    )]
    OverLimit { source_name: String, event_type: String, found: u64, total: u64, limit: String },
    #[error(
        "of {total} rows that the slice's objects of source {source_name} have for the job, {found} are so broken that nobody can tell their time or type; reconstruct.maxQuarantinedPercent allows {limit} %"
    )]
    OverLimitUnplaced { source_name: String, found: u64, total: u64, limit: String },
    #[error("{rows} rows that the target would refuse are set aside in {key}")]
    Refused {
        rows: u64,
        key: String,
        #[source]
        source: Box<Self>,
    },
    #[error("the slice has more than {max} event types; is eventType the right column?")]
    EventTypes { max: usize },
    #[error("source {source_name}, event type {event_type:?}: {sum}: rows were lost or doubled inside weir")]
    Conservation { source_name: String, event_type: String, sum: String },
    #[error("a thread of the assembly ended early")]
    Thread,
}

impl Explain for AssembleError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Run(error) => error.code(),
            Self::Store(error) => store_code(error),
            Self::NoData { .. } | Self::Segment { .. } | Self::Decode(_) | Self::Record(_) | Self::Objects(_) => {
                FailureCode::ArtifactCorrupt
            }
            Self::Spill(error) if error.is_full() => FailureCode::ScratchFull,
            Self::Staged(error) if error.is_full() => FailureCode::ScratchFull,
            Self::Quarantine(error) => error.code(),
            Self::Refused { source, .. } => source.code(),
            Self::OverLimit { .. } | Self::OverLimitUnplaced { .. } => FailureCode::QuarantineLimit,
            Self::EventTypes { .. } => FailureCode::TooLarge,
            Self::NoSink | Self::Spill(_) | Self::Staged(_) | Self::Conservation { .. } | Self::Thread => FailureCode::Internal,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::OverLimit { .. } | Self::OverLimitUnplaced { .. } => Some("spec.reconstruct.maxQuarantinedPercent".to_owned()),
            Self::EventTypes { .. } => Some("spec.reconstruct.columns.eventType".to_owned()),
            Self::Run(error) => error.field(),
            Self::Quarantine(error) => error.field(),
            Self::Refused { source, .. } => source.field(),
            Self::Store(_)
            | Self::NoSink
            | Self::NoData { .. }
            | Self::Segment { .. }
            | Self::Decode(_)
            | Self::Record(_)
            | Self::Spill(_)
            | Self::Staged(_)
            | Self::Objects(_)
            | Self::Conservation { .. }
            | Self::Thread => None,
        }
    }
}
