//! Why a select was refused, for people: what, where, and what to write instead.

use datafusion::error::DataFusionError;
use thiserror::Error;
use weir_crds::contract::result::FailureCode;

use super::position::Position;
use crate::termination::Explain;

/// A refused select, or one that could not be run at all.
#[derive(Debug, Error)]
pub enum SelectError {
    /// It is not SQL.
    #[error("source {origin}: select is not valid SQL{position}: {problem}")]
    Syntax {
        /// The source's name.
        origin: String,
        /// Line and column, where known.
        position: Position,
        /// The parser's words.
        problem: String,
    },
    /// It does something that depends on more than the row at hand.
    #[error("source {origin}: select uses {construct}{position}; {remedy}")]
    NotRowByRow {
        /// The source's name.
        origin: String,
        /// What it uses.
        construct: String,
        /// Line and column, where known.
        position: Position,
        /// What to write instead.
        remedy: &'static str,
    },
    /// A name or type is wrong.
    #[error("source {origin}: select cannot be planned{position}: {problem}")]
    Plan {
        /// The source's name.
        origin: String,
        /// Line and column, where known.
        position: Position,
        /// The planner's words.
        problem: String,
    },
    /// A result column cannot be what it must be.
    #[error("source {origin}: result column {column}: {problem}; {remedy}")]
    ResultColumn {
        /// The source's name.
        origin: String,
        /// Its name.
        column: String,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
    /// Two sources disagree.
    #[error("sources {first} and {second} give different results: {difference}; every select must give the same columns")]
    Different {
        /// A source.
        first: String,
        /// Another.
        second: String,
        /// The first difference.
        difference: String,
    },
    /// A column that another field names is not in the result.
    #[error("{field} names the column {column}, which no select gives; the columns are {columns}")]
    NoSuchColumn {
        /// The spec field.
        field: String,
        /// As named there.
        column: String,
        /// What there is.
        columns: String,
    },
    /// Running it failed for another reason than a row's values.
    #[error("source {origin}: running select failed")]
    Run {
        /// The source's name.
        origin: String,
        /// The engine's error.
        #[source]
        source: DataFusionError,
    },
}

impl Explain for SelectError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Syntax { .. } | Self::Plan { .. } | Self::NotRowByRow { .. } => FailureCode::InvalidSelect,
            Self::ResultColumn { .. } | Self::Different { .. } | Self::NoSuchColumn { .. } => FailureCode::InvalidResult,
            Self::Run { .. } => FailureCode::Internal,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Syntax { origin, .. }
            | Self::Plan { origin, .. }
            | Self::NotRowByRow { origin, .. }
            | Self::ResultColumn { origin, .. }
            | Self::Different { second: origin, .. } => Some(format!("spec.sources[{origin}].select")),
            Self::NoSuchColumn { field, .. } => Some(field.clone()),
            Self::Run { .. } => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NotRowByRow { remedy, .. } => Some((*remedy).to_owned()),
            Self::ResultColumn { remedy, .. } => Some(remedy.clone()),
            Self::Different { .. } => {
                Some("CAST what differs, and write NULL AS name for a column that a source lacks; then raise runGeneration".to_owned())
            }
            Self::NoSuchColumn { .. } => Some("name a column that every select gives; then raise runGeneration".to_owned()),
            Self::Syntax { .. } | Self::Plan { .. } | Self::Run { .. } => None,
        }
    }
}
