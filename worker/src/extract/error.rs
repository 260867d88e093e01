//! What can end the extraction of a chunk.

use std::io;

use datafusion::arrow::error::ArrowError;
use datafusion::parquet::errors::ParquetError;
use thiserror::Error;
use weir_crds::columns::ColumnsError;
use weir_crds::contract::result::FailureCode;
use weir_ledger::{ClientError, LedgerError};

use crate::run::store_code;
use crate::scratch::Scratch;
use crate::select::SelectError;
use crate::source::SourceError;
use crate::source::object_list::ObjectListError;
use crate::termination::Explain;

/// Why a chunk was not extracted. Rows never are a reason.
#[derive(Debug, Error)]
pub enum ExtractError {
    /// The source store.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The artifact store.
    #[error("the artifact store failed")]
    Store(#[from] LedgerError),
    /// The client of the source store.
    #[error("the source store's client cannot be made")]
    Client(#[from] ClientError),
    /// Planned selects are checked, so this is a plan of another version.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// As above.
    #[error("source {origin}: columns")]
    Columns {
        /// The source's name.
        origin: String,
        /// Where and what.
        #[source]
        source: ColumnsError,
    },
    /// A cell holds one value.
    #[error("source {origin}: column {column} is nested, which a CSV cell cannot be")]
    NestedCsv {
        /// The source's name.
        origin: String,
        /// The column's name.
        column: String,
    },
    /// The list of objects is not what the plan names.
    #[error("the plan's list of objects is not what its digest says")]
    ObjectListDigest,
    /// The list of objects cannot be read.
    #[error(transparent)]
    ObjectList(#[from] ObjectListError),
    /// The plan and the run do not fit each other.
    #[error("the plan does not fit the run: {0}")]
    Plan(String),
    /// The scratch disk.
    #[error("writing to the scratch folder failed")]
    Scratch(#[source] io::Error),
    /// Writing Arrow failed.
    #[error("encoding rows failed")]
    Arrow(#[from] ArrowError),
    /// Writing the quarantine failed.
    #[error("encoding the quarantine failed")]
    Parquet(#[from] ParquetError),
    /// The sums do not hold: a bug, and no manifest.
    #[error("chunk {chunk}: {sum}: rows were lost or doubled inside weir")]
    Conservation {
        /// Its id.
        chunk: String,
        /// Both sides.
        sum: String,
    },
    /// Invalid rows of more event types than a manifest can name.
    #[error("the invalid rows of chunk {chunk} have more than {max} event types; is eventType the right column?")]
    EventTypes {
        /// Its id.
        chunk: String,
        /// The bound.
        max: usize,
    },
    /// A thread of the pipeline ended early.
    #[error("a thread of the extraction ended early")]
    Thread,
}

impl Explain for ExtractError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Scratch(error) if Scratch::is_full(error) => FailureCode::ScratchFull,
            Self::Parquet(error) if Scratch::is_full_beneath(error) => FailureCode::ScratchFull,
            Self::Source(error) => error.code(),
            Self::Select(error) => error.code(),
            Self::Store(error) => store_code(error),
            Self::ObjectListDigest | Self::ObjectList(_) | Self::Plan(_) => FailureCode::ArtifactCorrupt,
            Self::EventTypes { .. } => FailureCode::TooLarge,
            Self::Columns { .. } | Self::NestedCsv { .. } => FailureCode::InvalidColumns,
            Self::Client(_) => FailureCode::SourceDenied,
            Self::Scratch(_) | Self::Arrow(_) | Self::Parquet(_) | Self::Conservation { .. } | Self::Thread => FailureCode::Internal,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Select(error) => error.field(),
            Self::Columns { origin, .. } | Self::NestedCsv { origin, .. } => Some(format!("spec.sources[{origin}].columns")),
            Self::EventTypes { .. } => Some("spec.reconstruct.columns.eventType".to_owned()),
            Self::Source(_)
            | Self::Store(_)
            | Self::Client(_)
            | Self::ObjectListDigest
            | Self::ObjectList(_)
            | Self::Plan(_)
            | Self::Scratch(_)
            | Self::Arrow(_)
            | Self::Parquet(_)
            | Self::Conservation { .. }
            | Self::Thread => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Select(error) => error.remedy(),
            Self::Source(error) => error.remedy(),
            Self::Columns { source, .. } => Some(source.remedy.clone()),
            Self::NestedCsv { .. } => Some("declare it as string, or leave it out".to_owned()),
            Self::EventTypes { .. } => Some("name the column that holds the event's type".to_owned()),
            Self::Store(_)
            | Self::Client(_)
            | Self::ObjectListDigest
            | Self::ObjectList(_)
            | Self::Plan(_)
            | Self::Scratch(_)
            | Self::Arrow(_)
            | Self::Parquet(_)
            | Self::Conservation { .. }
            | Self::Thread => None,
        }
    }
}
