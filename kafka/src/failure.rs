//! What follows from a failed transactional call: the one place where librdkafka's classes of errors are mapped.

use rdkafka::{
    error::KafkaError,
    types::RDKafkaErrorCode::{self, *},
};

/// What a publisher does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// The same call again: it has had no effect yet, or goes on where it was.
    Retry,
    /// The transaction cannot be committed: abort it and go back to the last committed progress.
    AbortAndRewind,
    /// The producer is of no further use, or what became of the transaction is not known: throw it away and begin with
    /// `init_transactions`, which settles it, and with reading the progress.
    StartOver,
    /// The producer's epoch is over: another session has the bucket, or the coordinator ended a transaction that took too
    /// long. The brokers do not say which; starting over finds it out, before anything is taken from anybody.
    Fenced,
    /// Another session has the bucket: leave it to that one.
    Yield,
    /// The cluster will not take it whoever tries: rights, limits or settings must change first.
    Refused,
}

/// What librdkafka says about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub code: Option<RDKafkaErrorCode>,
    pub fatal: bool,
    pub abortable: bool,
    pub retriable: bool,
}

impl Facts {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum: an error of another kind has a code and nothing else")]
    pub fn of(error: &KafkaError) -> Self {
        let code = error.rdkafka_error_code();
        match error {
            KafkaError::Transaction(inner) => {
                Self { code, fatal: inner.is_fatal(), abortable: inner.txn_requires_abort(), retriable: inner.is_retriable() }
            }
            // Sending in a transaction that has already failed is refused with this code: the transaction must go.
            KafkaError::MessageProduction(State) => Self { code, fatal: false, abortable: true, retriable: false },
            // Waiting for deliveries has no effect of its own.
            KafkaError::Flush(OperationTimedOut) => Self { code, fatal: false, abortable: false, retriable: true },
            _ => Self::of_code(code),
        }
    }

    /// Of a code that came without librdkafka's classes: it tells nothing about the transaction.
    pub fn of_code(code: Option<RDKafkaErrorCode>) -> Self {
        Self { code, fatal: false, abortable: false, retriable: false }
    }
}

/// Maps every error to its consequence. What is not known to be harmless ends in `StartOver`, which is always right.
pub fn consequence(facts: Facts) -> Consequence {
    match (facts.code.map(group), facts) {
        (Some(Group::Fenced), _) => Consequence::Fenced,
        (Some(Group::Refused), _) => Consequence::Refused,
        (_, Facts { fatal: true, .. }) => Consequence::StartOver,
        (_, Facts { abortable: true, .. }) => Consequence::AbortAndRewind,
        (_, Facts { retriable: true, .. }) => Consequence::Retry,
        (Some(Group::Other) | None, _) => Consequence::StartOver,
    }
}

/// Whether a code says that this identity may not, or that it is not who it says.
pub fn is_denied(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        TopicAuthorizationFailed
            | TransactionalIdAuthorizationFailed
            | ClusterAuthorizationFailed
            | GroupAuthorizationFailed
            | Authentication
            | SaslAuthenticationFailed
            | UnsupportedSASLMechanism
    )
}

enum Group {
    Fenced,
    Refused,
    Other,
}

fn group(code: RDKafkaErrorCode) -> Group {
    if matches!(code, Fenced | ProducerFenced | InvalidProducerEpoch) {
        return Group::Fenced;
    }
    let refused = matches!(
        code,
        UnsupportedVersion
            | UnsupportedFeature
            | UnsupportedForMessageFormat
            | UnsupportedCompressionType
            | InvalidTransactionTimeout
            | MessageSizeTooLarge
            | InvalidMessageSize
            | InvalidRecord
            | InvalidTimestamp
            | PolicyViolation
            | InvalidConfig
            | InvalidArgument
    );
    if refused || is_denied(code) { Group::Refused } else { Group::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Facts = Facts { code: None, fatal: false, abortable: false, retriable: false };

    #[test]
    fn every_class_has_its_consequence() {
        let cases = [
            (NOTHING, Consequence::StartOver),
            (Facts { retriable: true, ..NOTHING }, Consequence::Retry),
            (Facts { abortable: true, ..NOTHING }, Consequence::AbortAndRewind),
            (Facts { fatal: true, ..NOTHING }, Consequence::StartOver),
            (Facts { fatal: true, abortable: true, retriable: true, ..NOTHING }, Consequence::StartOver),
            (Facts { code: Some(ProducerFenced), fatal: true, ..NOTHING }, Consequence::Fenced),
            (Facts { code: Some(InvalidProducerEpoch), abortable: true, ..NOTHING }, Consequence::Fenced),
            (Facts { code: Some(TopicAuthorizationFailed), abortable: true, ..NOTHING }, Consequence::Refused),
            (Facts { code: Some(MessageSizeTooLarge), ..NOTHING }, Consequence::Refused),
            (Facts { code: Some(InvalidTransactionalState), fatal: true, ..NOTHING }, Consequence::StartOver),
            (Facts { code: Some(OutOfOrderSequenceNumber), abortable: true, ..NOTHING }, Consequence::AbortAndRewind),
            (Facts { code: Some(OperationTimedOut), retriable: true, ..NOTHING }, Consequence::Retry),
            (Facts { code: Some(OperationTimedOut), ..NOTHING }, Consequence::StartOver),
        ];
        for (facts, expected) in cases {
            assert_eq!(consequence(facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn sending_into_a_failed_transaction_means_to_abort_it() {
        assert_eq!(consequence(Facts::of(&KafkaError::MessageProduction(State))), Consequence::AbortAndRewind);
        assert_eq!(consequence(Facts::of(&KafkaError::Flush(OperationTimedOut))), Consequence::Retry);
        assert_eq!(consequence(Facts::of(&KafkaError::MessageProduction(UnknownTopic))), Consequence::StartOver);
    }
}
