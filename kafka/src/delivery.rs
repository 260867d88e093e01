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

/// What a message was, and in which transaction: reports of an aborted transaction may arrive in the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub transaction: usize,
    /// Only records count towards the ranges; progress does not.
    pub is_record: bool,
}

impl Mark {
    /// As the library carries it along with a message.
    pub fn to_opaque(self) -> usize {
        self.transaction << 1 | usize::from(self.is_record)
    }

    fn from_opaque(opaque: usize) -> Self {
        Self { transaction: opaque >> 1, is_record: opaque & 1 == 1 }
    }
}

/// A producer's context. librdkafka calls it from the thread that polls.
#[derive(Default)]
pub(crate) struct Deliveries {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts the transactions of the producer.
    transaction: usize,
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
    /// Forgets the last transaction; reports on it that are still to come do not count. Returns the number of the next.
    pub fn next_transaction(&self) -> usize {
        let mut state = self.lock();
        *state = State { transaction: state.transaction + 1, ..State::default() };
        state.transaction
    }

    pub fn delivered(&self) -> BTreeMap<i32, Delivered> {
        self.lock().partitions.clone()
    }

    /// The first delivery that failed.
    pub fn failure(&self) -> Option<RDKafkaErrorCode> {
        self.lock().failure
    }

    /// `delivered`: partition and offset, or why not.
    fn report(&self, mark: Mark, delivered: Result<(i32, i64), RDKafkaErrorCode>) {
        let mut state = self.lock();
        if mark.transaction != state.transaction {
            return;
        }
        match delivered {
            Err(code) => _ = state.failure.get_or_insert(code),
            Ok(_) if !mark.is_record => {}
            Ok((partition, offset)) => {
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

    fn delivery(&self, result: &DeliveryResult<'_>, mark: usize) {
        let delivered = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        self.report(Mark::from_opaque(mark), delivered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(transaction: usize) -> Mark {
        Mark { transaction, is_record: true }
    }

    #[test]
    fn a_range_holds_all_offsets_and_remembers_unknown_ones() {
        let deliveries = Deliveries::default();
        let first = deliveries.next_transaction();
        for (partition, offset) in [(0, 7), (0, 5), (1, 3), (0, 9), (2, -1)] {
            deliveries.report(record(first), Ok((partition, offset)));
        }
        deliveries.report(Mark { transaction: first, is_record: false }, Ok((0, 99)));
        let delivered = deliveries.delivered();
        assert_eq!(delivered[&0], Delivered { range: Some(OffsetRange { first: 5, last: 9 }), unknown: false });
        assert_eq!(delivered[&1], Delivered { range: Some(OffsetRange { first: 3, last: 3 }), unknown: false });
        assert!(delivered[&2].unknown);
    }

    #[test]
    fn reports_on_an_aborted_transaction_say_nothing_about_the_next() {
        let deliveries = Deliveries::default();
        let aborted = deliveries.next_transaction();
        deliveries.report(record(aborted), Err(RDKafkaErrorCode::MessageTimedOut));
        assert_eq!(deliveries.failure(), Some(RDKafkaErrorCode::MessageTimedOut));
        let next = deliveries.next_transaction();
        deliveries.report(record(aborted), Err(RDKafkaErrorCode::PurgeQueue));
        deliveries.report(record(aborted), Ok((0, 1)));
        assert_eq!((deliveries.failure(), deliveries.delivered().len()), (None, 0));
        deliveries.report(record(next), Ok((0, 1)));
        assert_eq!(deliveries.delivered().len(), 1);
    }

    #[test]
    fn marks_come_back_as_they_went() {
        for mark in [record(0), record(7), Mark { transaction: 7, is_record: false }] {
            assert_eq!(Mark::from_opaque(mark.to_opaque()), mark);
        }
    }
}
