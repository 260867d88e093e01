//! What follows from a failed transactional call: the one place where librdkafka's classes of errors are mapped.

use rdkafka::{
    error::KafkaError,
    types::RDKafkaErrorCode::{self, *},
};

use crate::transaction::Operation;

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
            // The queue drains; and waiting for deliveries has no effect of its own.
            KafkaError::MessageProduction(QueueFull) | KafkaError::Flush(OperationTimedOut) => {
                Self { code, fatal: false, abortable: false, retriable: true }
            }
            _ => Self { code, fatal: false, abortable: false, retriable: false },
        }
    }

    /// Of a record that was not delivered: its transaction cannot be committed, whatever else the code means.
    pub fn of_undelivered(code: RDKafkaErrorCode) -> Self {
        Self { code: Some(code), fatal: false, abortable: true, retriable: false }
    }

    /// The same error of a producer that has had a fatal one, which explains every other.
    pub fn with_fatal(self, fatal: Option<RDKafkaErrorCode>) -> Self {
        fatal.map_or(self, |code| Self { code: Some(code), fatal: true, ..self })
    }
}

/// Whether a call may still be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Left,
    Up,
}

/// Maps every error of every call to its consequence. What is not known to be harmless ends in `StartOver`, which is
/// always right.
pub fn consequence(operation: Operation, facts: Facts, time: Time) -> Consequence {
    use Operation::{Abort, Begin, Commit, Deliver, Init, Send};
    match class(facts) {
        Class::Fenced => Consequence::Fenced,
        Class::Refused => Consequence::Refused,
        Class::Fatal | Class::Unknown => Consequence::StartOver,
        Class::Abortable => match operation {
            // It may have ended: then it can be neither aborted nor filled anew.
            Commit => Consequence::StartOver,
            Init | Begin | Send | Deliver | Abort => Consequence::AbortAndRewind,
        },
        Class::Retriable => match (time, operation) {
            (Time::Left, _) => Consequence::Retry,
            // What is in a queue that does not drain will not be delivered within the transaction's time.
            (Time::Up, Send) => Consequence::AbortAndRewind,
            (Time::Up, Init | Begin | Deliver | Commit | Abort) => Consequence::StartOver,
        },
    }
}

/// The classes of errors: librdkafka's three, which it gives to the errors of transactional calls, and what the code of
/// any error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// By its code: the producer's epoch is over.
    Fenced,
    /// By its code: nobody's repetition helps.
    Refused,
    Fatal,
    Abortable,
    Retriable,
    /// It tells nothing about the transaction.
    Unknown,
}

/// A code that says more than librdkafka's class goes first; of several classes the worst counts.
fn class(facts: Facts) -> Class {
    match facts {
        Facts { code: Some(code), .. } if is_fenced(code) => Class::Fenced,
        Facts { code: Some(code), .. } if is_refused(code) => Class::Refused,
        Facts { fatal: true, .. } => Class::Fatal,
        Facts { abortable: true, .. } => Class::Abortable,
        Facts { retriable: true, .. } => Class::Retriable,
        Facts { fatal: false, abortable: false, retriable: false, .. } => Class::Unknown,
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

fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(code, Fenced | ProducerFenced | InvalidProducerEpoch)
}

fn is_refused(code: RDKafkaErrorCode) -> bool {
    let unfit = matches!(
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
    unfit || is_denied(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Facts = Facts { code: None, fatal: false, abortable: false, retriable: false };
    const OPERATIONS: [Operation; 6] =
        [Operation::Init, Operation::Begin, Operation::Send, Operation::Deliver, Operation::Commit, Operation::Abort];

    #[test]
    fn every_error_has_its_class() {
        let of = |code, facts: Facts| Facts { code: Some(code), ..facts };
        let (fatal, abortable) = (Facts { fatal: true, ..NOTHING }, Facts { abortable: true, ..NOTHING });
        let retriable = Facts { retriable: true, ..NOTHING };
        let cases = [
            (NOTHING, Class::Unknown),
            (retriable, Class::Retriable),
            (abortable, Class::Abortable),
            (fatal, Class::Fatal),
            (Facts { retriable: true, ..abortable }, Class::Abortable),
            (Facts { abortable: true, retriable: true, ..fatal }, Class::Fatal),
            (of(ProducerFenced, fatal), Class::Fenced),
            (of(InvalidProducerEpoch, abortable), Class::Fenced),
            (of(Fenced, NOTHING), Class::Fenced),
            (of(TopicAuthorizationFailed, abortable), Class::Refused),
            (of(MessageSizeTooLarge, NOTHING), Class::Refused),
            (of(InvalidTransactionTimeout, fatal), Class::Refused),
            (of(InvalidTransactionalState, fatal), Class::Fatal),
            (of(OutOfOrderSequenceNumber, abortable), Class::Abortable),
            (of(NotCoordinator, retriable), Class::Retriable),
            (of(OperationTimedOut, retriable), Class::Retriable),
            (of(OperationTimedOut, NOTHING), Class::Unknown),
        ];
        for (facts, expected) in cases {
            assert_eq!(class(facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn the_same_class_may_mean_another_thing_to_another_call() {
        let (abortable, retriable) = (Facts { abortable: true, ..NOTHING }, Facts { retriable: true, ..NOTHING });
        for operation in OPERATIONS {
            let (failed, overdue) = match operation {
                Operation::Commit => (Consequence::StartOver, Consequence::StartOver),
                Operation::Send => (Consequence::AbortAndRewind, Consequence::AbortAndRewind),
                Operation::Init | Operation::Begin | Operation::Deliver | Operation::Abort => {
                    (Consequence::AbortAndRewind, Consequence::StartOver)
                }
            };
            assert_eq!(consequence(operation, retriable, Time::Left), Consequence::Retry, "{operation:?}");
            assert_eq!(consequence(operation, retriable, Time::Up), overdue, "{operation:?}");
            for time in [Time::Left, Time::Up] {
                assert_eq!(consequence(operation, abortable, time), failed, "{operation:?}");
                assert_eq!(consequence(operation, NOTHING, time), Consequence::StartOver, "{operation:?}");
                for (code, expected) in [
                    (ProducerFenced, Consequence::Fenced),
                    (PolicyViolation, Consequence::Refused),
                    (InvalidTransactionalState, Consequence::StartOver),
                ] {
                    let facts = abortable.with_fatal(Some(code));
                    assert_eq!(consequence(operation, facts, time), expected, "{operation:?} {code:?}");
                }
            }
        }
    }

    #[test]
    fn errors_without_librdkafkas_classes_have_what_follows_from_their_kind() {
        let production = |code| Facts::of(&KafkaError::MessageProduction(code));
        assert_eq!(class(production(State)), Class::Abortable);
        assert_eq!(class(production(QueueFull)), Class::Retriable);
        assert_eq!(class(production(UnknownTopic)), Class::Unknown);
        assert_eq!(class(Facts::of(&KafkaError::Flush(OperationTimedOut))), Class::Retriable);
        assert_eq!(class(Facts::of_undelivered(MessageTimedOut)), Class::Abortable);
        assert_eq!(class(Facts::of_undelivered(TopicAuthorizationFailed)), Class::Refused);
    }
}
