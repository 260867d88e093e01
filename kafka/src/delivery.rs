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

/// Marks of what was sent: only records count towards the ranges.
pub(crate) const RECORD: usize = 1;
pub(crate) const PROGRESS: usize = 2;

/// A producer's context. librdkafka calls it from the thread that polls.
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
    /// Forgets the last transaction.
    pub fn reset(&self) {
        *self.lock() = State::default();
    }

    pub fn delivered(&self) -> BTreeMap<i32, Delivered> {
        self.lock().partitions.clone()
    }

    /// The first delivery that failed.
    pub fn failure(&self) -> Option<RDKafkaErrorCode> {
        self.lock().failure
    }

    fn report(&self, partition: i32, offset: i64) {
        let mut state = self.lock();
        let delivered = state.partitions.entry(partition).or_default();
        if offset < 0 {
            delivered.unknown = true;
        } else {
            delivered.range = Some(OffsetRange::including(delivered.range, offset));
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
        match result {
            Ok(message) if mark == RECORD => self.report(message.partition(), message.offset()),
            Ok(_) => {}
            Err((error, _)) => {
                self.lock().failure.get_or_insert(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_all_offsets_and_remembers_unknown_ones() {
        let deliveries = Deliveries::default();
        for (partition, offset) in [(0, 7), (0, 5), (1, 3), (0, 9), (2, -1)] {
            deliveries.report(partition, offset);
        }
        let delivered = deliveries.delivered();
        assert_eq!(delivered[&0], Delivered { range: Some(OffsetRange { first: 5, last: 9 }), unknown: false });
        assert_eq!(delivered[&1], Delivered { range: Some(OffsetRange { first: 3, last: 3 }), unknown: false });
        assert!(delivered[&2].unknown);
        deliveries.reset();
        assert!(deliveries.delivered().is_empty());
    }
}
