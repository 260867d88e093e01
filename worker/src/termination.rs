//! How a worker ends: what went wrong as a [`Failure`], the termination message, and the exit code.

use std::{error::Error, fs::OpenOptions, io::Write as _, path::Path};

use weir_crds::contract::result::{Disposition, Failure, FailureCode, WorkerResult, error_chain};

/// Where Kubernetes looks for the message.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Overrides [`TERMINATION_LOG`], for a worker that runs by hand.
pub const TERMINATION_LOG_ENV: &str = "WEIR_TERMINATION_LOG";

/// An error that knows which kind of failure it is.
pub trait Explain: Error {
    fn code(&self) -> FailureCode;

    /// The spec field that a remedy would change.
    fn field(&self) -> Option<String> {
        None
    }

    /// What to do about it, where more is known than the code tells.
    fn remedy(&self) -> Option<String> {
        None
    }
}

/// The failure of an item, or of the unit as a whole.
pub fn failure(item: Option<&str>, error: &dyn Explain) -> Failure {
    Failure {
        code: error.code(),
        item: item.map(str::to_owned),
        field: error.field(),
        cause: error_chain(error),
        remedy: error.remedy().unwrap_or_else(|| remedy(error.code()).to_owned()),
    }
}

/// What helps where nothing more is known than the kind of failure.
pub const fn remedy(code: FailureCode) -> &'static str {
    match code {
        FailureCode::InvalidColumns => "correct sources[].columns and raise runGeneration",
        FailureCode::InvalidSelect => "correct sources[].select and raise runGeneration",
        FailureCode::InvalidResult => "make all selects give the same columns, and name only such columns; then raise runGeneration",
        FailureCode::TooLarge => "cut the window or the sources into several jobs",
        FailureCode::SourceMissing => "check the bucket and the prefix of the source, or wait until the objects are there",
        FailureCode::SourceDenied => "let the job's identity list and read the source",
        FailureCode::SourceChanged => "restore the object's planned version, or raise runGeneration to plan with what is there now",
        FailureCode::SourceCorrupt => {
            "repair the object, move it out of the source's prefix, or leave its time out by window.exclude; then raise runGeneration"
        }
        FailureCode::SourceUnavailable => "none needed: it is tried again when the source answers",
        FailureCode::StoreDenied => "let the job's identity read and write the artifact store under <prefix>/<namespace>/",
        FailureCode::StoreUnavailable => "none needed: it is tried again when the artifact store answers",
        FailureCode::ArtifactCorrupt => "restore the object from a version or backup of the artifact store, then raise runGeneration",
        FailureCode::ManifestConflict => {
            "two attempts disagree, so the sources have changed or the run directory was edited: raise runGeneration"
        }
        FailureCode::QuarantineLimit => {
            "look at the quarantined rows; correct the select, or raise reconstruct.maxQuarantinedPercent, then raise runGeneration"
        }
        FailureCode::KafkaUnavailable => "none needed: it is tried again when the brokers answer",
        FailureCode::KafkaDenied => {
            "correct kafka-username and kafka-password in the Secret that spec.credentialsSecretRef names, or give that user the rights that the documentation lists for workers"
        }
        FailureCode::TopicMissing => "create the topic, or correct sinks[].kafka.topic",
        FailureCode::TargetUnsuitable => "change the target's settings, or publish to another topic",
        FailureCode::TargetChanged => "the plan was made for another topic or cluster: raise runGeneration to plan for this one",
        FailureCode::ProgressLost => {
            "restore the progress topic, or the plan that is missing from the artifact store; else what was published can only be found out by reading it back by event id"
        }
        FailureCode::ProgressCorrupt => {
            "somebody else writes to the progress topic: take that right away, and write the record's last good value again, which the topic has before it; then the run goes on"
        }
        FailureCode::Superseded => "none needed: a higher generation goes on",
        FailureCode::Fenced => "none needed: another attempt goes on",
        FailureCode::VerifyMismatch => {
            "compare the topic with the published manifests: records were lost, changed or added by another producer"
        }
        FailureCode::ScratchFull => "give workers more scratch space in the class, or make slices shorter",
        FailureCode::Interrupted => "none needed: the next attempt goes on",
        FailureCode::Internal => "report it, with the worker's log",
    }
}

/// 0: done. 1: failed. 3: nothing is wrong, but somebody else goes on.
pub fn exit_code(result: &WorkerResult) -> u8 {
    match result.failures.first() {
        None => 0,
        Some(_) if result.failures.iter().all(|f| f.code.disposition() == Disposition::Yielded) => 3,
        Some(_) => 1,
    }
}

/// Leaves the result where Kubernetes picks it up. By hand there is no such file, and none is made in `/dev`.
pub fn write(result: &WorkerResult) {
    let own = std::env::var_os(TERMINATION_LOG_ENV);
    let path = own.as_deref().map_or(Path::new(TERMINATION_LOG), Path::new);
    let file = OpenOptions::new().write(true).truncate(true).create(own.is_some()).open(path);
    let written = file.and_then(|mut file| file.write_all(result.to_message().as_bytes()));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "the termination message was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("outer")]
        Plain(#[source] Inner),
    }

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    impl Explain for Outer {
        fn code(&self) -> FailureCode {
            FailureCode::Fenced
        }
    }

    #[test]
    fn a_failure_tells_the_whole_chain_and_a_remedy() {
        let failure = failure(Some("s"), &Outer::Plain(Inner));
        assert_eq!((failure.cause.as_str(), failure.remedy.as_str()), ("outer: inner", remedy(FailureCode::Fenced)));
    }

    #[test]
    fn only_yielding_exits_with_3() {
        let result = |codes: &[FailureCode]| WorkerResult {
            unit: "u".into(),
            attempt: 1,
            items_done: 0,
            failures: codes
                .iter()
                .map(|code| Failure { code: *code, item: None, field: None, cause: String::new(), remedy: String::new() })
                .collect(),
        };
        assert_eq!(exit_code(&result(&[])), 0);
        assert_eq!(exit_code(&result(&[FailureCode::Interrupted, FailureCode::Fenced])), 3);
        assert_eq!(exit_code(&result(&[FailureCode::Interrupted, FailureCode::Internal])), 1);
    }
}
