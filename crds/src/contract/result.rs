//! How a worker ends: its termination message, and what the operator makes of each kind of failure.

use std::error::Error;

use serde::{Deserialize, Serialize};

/// Kubernetes keeps 4 KiB of a termination message.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;

/// Short JSON: the message of a worker that ended, well or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerResult {
    pub unit: String,
    pub attempt: u32,
    pub items_done: u32,
    /// Empty: done. At most [`FAILURES_MAX`], the first ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

pub const FAILURES_MAX: usize = 8;

/// What went wrong, with which item, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub code: FailureCode,
    /// The chunk, slice or bucket; absent: the unit as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The spec field that a remedy would change, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub cause: String,
    pub remedy: String,
}

/// Each becomes a condition's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureCode {
    /// `columns` does not fit what the source holds.
    InvalidColumns,
    InvalidSelect,
    /// The selects of two sources give different columns, or a column that is named elsewhere is not there.
    InvalidResult,
    /// More objects, chunks or event types than a run may have.
    TooLarge,
    SourceMissing,
    SourceDenied,
    /// An object is not the one that was planned with.
    SourceChanged,
    /// An object cannot be decompressed or parsed as its format at all.
    SourceCorrupt,
    SourceUnavailable,
    StoreDenied,
    StoreUnavailable,
    /// A manifest, plan or part is not what its digest says.
    ArtifactCorrupt,
    /// Two attempts at an item came to different results.
    ManifestConflict,
    QuarantineLimit,
    KafkaUnavailable,
    KafkaDenied,
    TopicMissing,
    /// The target cannot take the events as declared: compacted, not empty, …
    TargetUnsuitable,
    /// The target is not the one that was planned with: another cluster, topic or partition count.
    TargetChanged,
    ProgressLost,
    ProgressCorrupt,
    /// A higher generation has begun.
    Superseded,
    /// Another producer with this transactional id took over.
    Fenced,
    /// What a reader sees is not what was published.
    VerifyMismatch,
    ScratchFull,
    /// SIGTERM.
    Interrupted,
    Internal,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Uses up an attempt; tried again while there are any.
    UsesAttempt,
    /// Something outside is away: tried again, and no attempt is used up.
    Wait,
    /// Another object's change can cure it: `Stalled`, tried again, and no attempt is used up.
    Stalled,
    /// Needs another spec or plan: `Failed`.
    Final,
    /// Another attempt is at it, or this one was asked to stop: nothing is wrong.
    Yielded,
}

impl FailureCode {
    pub const fn disposition(self) -> Disposition {
        match self {
            Self::InvalidColumns
            | Self::InvalidSelect
            | Self::InvalidResult
            | Self::TooLarge
            | Self::SourceChanged
            | Self::SourceCorrupt
            | Self::ArtifactCorrupt
            | Self::ManifestConflict
            | Self::QuarantineLimit
            | Self::TargetUnsuitable
            | Self::TargetChanged
            | Self::ProgressLost
            | Self::VerifyMismatch => Disposition::Final,
            Self::SourceMissing
            | Self::SourceDenied
            | Self::StoreDenied
            | Self::KafkaDenied
            | Self::TopicMissing
            | Self::ProgressCorrupt => Disposition::Stalled,
            Self::SourceUnavailable | Self::StoreUnavailable | Self::KafkaUnavailable => Disposition::Wait,
            Self::Superseded | Self::Fenced | Self::Interrupted => Disposition::Yielded,
            Self::ScratchFull | Self::Internal => Disposition::UsesAttempt,
        }
    }
}

impl WorkerResult {
    /// JSON of at most [`TERMINATION_MESSAGE_BYTES_MAX`] bytes: causes are cut, then failures are dropped from the end.
    pub fn to_message(&self) -> String {
        let mut result = self.clone();
        result.failures.truncate(FAILURES_MAX);
        let mut cause_chars_max = 1024;
        loop {
            let text = serde_json::to_string(&result).expect("a result has string keys only");
            if text.len() <= TERMINATION_MESSAGE_BYTES_MAX {
                return text;
            }
            for failure in &mut result.failures {
                failure.cause = failure.cause.chars().take(cause_chars_max).collect();
                failure.remedy = failure.remedy.chars().take(cause_chars_max).collect();
            }
            if cause_chars_max > 64 {
                cause_chars_max /= 2;
            } else {
                result.failures.pop();
            }
        }
    }
}

/// An error with its sources, as one sentence.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some libraries' errors repeat their source's text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// `failed/<unit>/<attempt>.json`, put once by the operator: an attempt that the worker's own error ended. Only these
/// use up attempts, and only these make a unit fail for good; they outlive the Job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRecord {
    pub format: u32,
    pub unit: String,
    pub attempt: u32,
    pub failures: Vec<Failure>,
    pub at: jiff::Timestamp,
}

/// `outcome.json`, put once: the run is over for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeRecord {
    pub format: u32,
    pub outcome: Outcome,
    pub reason: String,
    pub message: String,
    pub at: jiff::Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Completed,
    Failed,
    Canceled,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_long_result_still_fits_and_still_parses() {
        let failure = |n: usize| Failure {
            code: FailureCode::Internal,
            item: Some(format!("s{n}")),
            field: None,
            cause: "ü\"".repeat(5000),
            remedy: "r".repeat(5000),
        };
        let result = WorkerResult { unit: "u".into(), attempt: 1, items_done: 0, failures: (0..40).map(failure).collect() };
        let message = result.to_message();
        assert!(message.len() <= TERMINATION_MESSAGE_BYTES_MAX);
        let back: WorkerResult = serde_json::from_str(&message).unwrap();
        assert_eq!(back.failures[0].code, FailureCode::Internal);
    }
}
