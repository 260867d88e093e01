//! What can go wrong with the source store, told apart by what a person would do about it.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use thiserror::Error;
use weir_crds::contract::result::FailureCode;
use weir_ledger::Cause;

use crate::decode::decompress::DecompressError;
use crate::termination::Explain;

/// A failed operation on a source.
#[derive(Debug, Error)]
pub enum SourceError {
    /// An object is not the one that was planned with.
    #[error("{object} is not what was planned with: pinned was {pinned}, found {found}")]
    Changed {
        /// `s3://bucket/key`.
        object: String,
        /// Version or ETag.
        pinned: String,
        /// What is there now.
        found: String,
    },
    /// The store says no.
    #[error("{operation} {target} was denied: {problem}")]
    Denied {
        /// `reading`, `listing`.
        operation: &'static str,
        /// Object or prefix.
        target: String,
        /// The store's words.
        problem: String,
    },
    /// There is no such bucket.
    #[error("{operation} {target} failed: {problem}")]
    Missing {
        /// `reading`, `listing`.
        operation: &'static str,
        /// Object or prefix.
        target: String,
        /// The store's words.
        problem: String,
    },
    /// The store does not know such requests.
    #[error("{operation} {target} is not supported: {problem}")]
    Unsupported {
        /// `reading`, `listing`.
        operation: &'static str,
        /// Object or prefix.
        target: String,
        /// The store's words.
        problem: String,
    },
    /// The store cannot be reached, or fails by itself.
    #[error("{operation} {target} failed: {problem}")]
    Unavailable {
        /// `reading`, `listing`.
        operation: &'static str,
        /// Object or prefix.
        target: String,
        /// The chain of causes.
        problem: String,
    },
    /// An object's compressed data are damaged or cut off.
    #[error("{object} cannot be decompressed")]
    Corrupt {
        /// `s3://bucket/key`.
        object: String,
        /// Where and how.
        #[source]
        source: DecompressError,
    },
    /// An object's own types do not fit the declaration.
    #[error("{object} does not fit the declared columns: {problem}")]
    Mismatch {
        /// `s3://bucket/key`.
        object: String,
        /// Which column, and why.
        problem: String,
    },
    /// A row group would not leave the worker the memory for its work.
    #[error("a row group of {object} has {bytes} bytes of declared columns; a worker with this much memory can hold {max}")]
    RowGroup {
        /// `s3://bucket/key`.
        object: String,
        /// Of its declared columns, as they are stored.
        bytes: u64,
        /// Half of the worker's memory.
        max: u64,
    },
    /// An object is not what its format says.
    #[error("{object} cannot be read as {format}: {problem}")]
    Unreadable {
        /// `s3://bucket/key`.
        object: String,
        /// `Csv`, `Parquet`.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl SourceError {
    /// Sorts an SDK error by what would cure it.
    pub fn from_sdk<E>(operation: &'static str, target: String, error: SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().unwrap_or_default().to_owned();
        let problem = describe(&error);
        match (status, code.as_str()) {
            (_, "NoSuchBucket" | "NoSuchKey" | "NoSuchVersion") | (Some(404), _) => Self::Missing { operation, target, problem },
            (Some(405 | 501), _) => Self::Unsupported { operation, target, problem },
            _ => match weir_ledger::cause(&error) {
                Cause::Denied | Cause::Refused => Self::Denied { operation, target, problem },
                Cause::Unavailable => Self::Unavailable { operation, target, problem },
            },
        }
    }
}

impl Explain for SourceError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Changed { .. } => FailureCode::SourceChanged,
            Self::Denied { .. } => FailureCode::SourceDenied,
            Self::Missing { .. } => FailureCode::SourceMissing,
            Self::Unavailable { .. } => FailureCode::SourceUnavailable,
            // No store that can be read from answers so.
            Self::Unsupported { .. } => FailureCode::Internal,
            Self::Corrupt { .. } | Self::Unreadable { .. } => FailureCode::SourceCorrupt,
            Self::Mismatch { .. } => FailureCode::InvalidColumns,
            Self::RowGroup { .. } => FailureCode::TooLarge,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::RowGroup { .. } => {
                Some("raise workers.memory of the class, declare fewer columns, or write smaller row groups".to_owned())
            }
            Self::Changed { .. }
            | Self::Denied { .. }
            | Self::Missing { .. }
            | Self::Unavailable { .. }
            | Self::Unsupported { .. }
            | Self::Corrupt { .. }
            | Self::Unreadable { .. }
            | Self::Mismatch { .. } => None,
        }
    }
}

/// An error and its causes in one line.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some libraries print their source themselves.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
