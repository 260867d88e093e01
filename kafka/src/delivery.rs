//! What became of the records of the open transaction, as the delivery reports say.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{DeliveryResult, ProducerContext},
    types::RDKafkaErrorCode,
};
use weir_crds::contract::manifest::OffsetRange;

use crate::context;

/// What a message is. Only records count towards the ranges; progress does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Record,
    Progress,
}

impl Kind {
    /// As the library carries it along with a message.
    pub const fn to_opaque(self) -> usize {
        match self {
            Self::Record => 1,
            Self::Progress => 0,
        }
    }

    const fn from_opaque(opaque: usize) -> Self {
        if opaque == 0 { Self::Progress } else { Self::Record }
    }
}

/// The context of a producer, which has one transaction. librdkafka calls it from the thread that polls.
#[derive(Default)]
pub(crate) struct Deliveries {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<i32, Delivered>,
    failure: Option<RDKafkaErrorCode>,
}

/// The delivered records of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub range: Option<OffsetRange>,
    /// At least one report came without an offset.
    pub unknown: bool,
}

impl Deliveries {
    /// What was delivered since this was asked before: a producer may serve one transaction after another.
    pub fn take_delivered(&self) -> BTreeMap<i32, Delivered> {
        std::mem::take(&mut self.lock().partitions)
    }

    /// The first delivery that failed by itself, if one did.
    pub fn failure(&self) -> Option<RDKafkaErrorCode> {
        self.lock().failure
    }

    /// `delivered`: partition and offset, or why not.
    fn report(&self, kind: Kind, delivered: Result<(i32, i64), RDKafkaErrorCode>) {
        let mut state = self.lock();
        match (delivered, kind) {
            (Err(code), _) if state.failure.is_none_or(follows_another) => state.failure = Some(code),
            (Err(_), _) => {}
            (Ok(_), Kind::Progress) => {}
            (Ok((partition, offset)), Kind::Record) => {
                let delivered = state.partitions.entry(partition).or_default();
                if offset < 0 {
                    delivered.unknown = true;
                } else {
                    delivered.range = Some(OffsetRange::including(delivered.range, offset));
                }
            }
        }
    }

    /// The state is whole whenever the lock is free, so a thread that panicked with it has not harmed it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a record was not delivered only because another was not.
fn follows_another(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight | RDKafkaErrorCode::InvalidDifferentRecord)
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::log_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, kind: usize) {
        let delivered = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        self.report(Kind::from_opaque(kind), delivered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_all_offsets_and_remembers_unknown_ones() {
        let deliveries = Deliveries::default();
        for (partition, offset) in [(0, 7), (0, 5), (1, 3), (0, 9), (2, -1)] {
            deliveries.report(Kind::Record, Ok((partition, offset)));
        }
        deliveries.report(Kind::Progress, Ok((0, 99)));
        let delivered = deliveries.take_delivered();
        assert_eq!(delivered[&0], Delivered { range: Some(OffsetRange { first: 5, last: 9 }), unknown: false });
        assert_eq!(delivered[&1], Delivered { range: Some(OffsetRange { first: 3, last: 3 }), unknown: false });
        assert!(delivered[&2].unknown);
        assert_eq!(deliveries.take_delivered(), BTreeMap::new(), "of the next transaction");
    }

    #[test]
    fn the_first_failure_stays_whatever_it_was_of() {
        for kind in [Kind::Record, Kind::Progress] {
            let deliveries = Deliveries::default();
            deliveries.report(Kind::Record, Ok((0, 1)));
            assert_eq!(deliveries.failure(), None);
            deliveries.report(kind, Err(RDKafkaErrorCode::MessageTimedOut));
            deliveries.report(kind, Err(RDKafkaErrorCode::PurgeQueue));
            assert_eq!(deliveries.failure(), Some(RDKafkaErrorCode::MessageTimedOut));
        }
    }

    #[test]
    fn what_follows_from_another_failure_is_not_the_reason() {
        let deliveries = Deliveries::default();
        for (code, told) in [
            (RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::PurgeQueue),
            (RDKafkaErrorCode::InvalidDifferentRecord, RDKafkaErrorCode::InvalidDifferentRecord),
            (RDKafkaErrorCode::InvalidRecord, RDKafkaErrorCode::InvalidRecord),
            (RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::InvalidRecord),
        ] {
            deliveries.report(Kind::Record, Err(code));
            assert_eq!(deliveries.failure(), Some(told), "{code:?}");
        }
    }

    #[test]
    fn kinds_come_back_as_they_went() {
        for kind in [Kind::Record, Kind::Progress] {
            assert_eq!(Kind::from_opaque(kind.to_opaque()), kind);
        }
    }
}
