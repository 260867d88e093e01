//! Each class of error, as librdkafka gives it when its own mock of a cluster answers so, ends in its consequence.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::{Duration, Instant};

use rdkafka::{
    mocking::MockCoordinator,
    types::{
        RDKafkaApiKey::{self, AddPartitionsToTxn, EndTxn, InitProducerId, Produce},
        RDKafkaRespErr::{self, *},
    },
};
use weir_crds::contract::names::rotating_ids;

use crate::{
    failure::Consequence::{self, AbortAndRewind, Fenced, Refused, StartOver},
    mock::{Cluster, ID, PROGRESS, call, cluster, cluster_of, holder, publish, record},
    producer::Bounds,
    transaction::{Operation, Session, TransactionError},
};

/// More than the library itself makes of one call.
const AGAIN_AND_AGAIN: usize = 1_000;
const IMPATIENT: Bounds = Bounds { init: Duration::from_millis(600), end: Duration::from_millis(600), call: Duration::from_millis(200) };

/// What becomes of a transaction, one of whose requests is answered with an error.
fn publish_against(api: RDKafkaApiKey, error: RDKafkaRespErr) -> (Cluster, Session, Result<(), TransactionError>) {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    cluster.fail(api, &[error]);
    let published = publish(&mut session, 1).map(drop);
    (cluster, session, published)
}

fn consequences(cases: &[(RDKafkaApiKey, RDKafkaRespErr, Operation)], expected: Consequence) {
    for (api, error, operation) in cases {
        let (_cluster, _session, published) = publish_against(*api, *error);
        assert_eq!(call(&published.unwrap_err()), (*operation, expected), "{api:?} {error:?}");
    }
}

fn refused_at_init(error: RDKafkaRespErr) -> TransactionError {
    let cluster = cluster();
    cluster.fail(InitProducerId, &[error]);
    cluster.open().err().unwrap()
}

#[test]
fn what_passes_is_not_seen() {
    for (api, error) in [
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS),
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS),
        (Produce, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION),
        (Produce, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS),
        (Produce, RD_KAFKA_RESP_ERR__TRANSPORT),
        (EndTxn, RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS),
        (EndTxn, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS),
        (EndTxn, RD_KAFKA_RESP_ERR__TRANSPORT),
    ] {
        let (_cluster, _session, published) = publish_against(api, error);
        assert!(published.is_ok(), "{api:?} {error:?}: {published:?}");
    }
    let cluster = cluster();
    cluster.fail(InitProducerId, &[RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS]);
    publish(&mut cluster.open().unwrap(), 1).unwrap();
}

#[test]
fn a_coordinator_that_moved_is_followed() {
    for api in [AddPartitionsToTxn, EndTxn] {
        for error in [RD_KAFKA_RESP_ERR_NOT_COORDINATOR, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE] {
            let (_cluster, _session, published) = publish_against(api, error);
            assert!(published.is_ok(), "{api:?} {error:?}: {published:?}");
        }
    }
    let cluster = cluster_of(2);
    let coordinators = |broker| {
        for id in rotating_ids(ID) {
            cluster.mock.coordinator(MockCoordinator::Transaction(id), broker).unwrap();
        }
    };
    coordinators(1);
    let mut session = cluster.open().unwrap();
    let mut transaction = session.begin().unwrap();
    transaction.send(record(0)).unwrap();
    transaction.delivered().unwrap();
    coordinators(2);
    transaction.commit(PROGRESS).unwrap();
}

#[test]
fn a_call_that_the_library_gives_up_is_made_again_while_there_is_time() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    let mut transaction = session.begin().unwrap();
    transaction.send(record(0)).unwrap();
    transaction.delivered().unwrap();
    // Longer than one call to abort waits.
    cluster.mock.broker_round_trip_time(1, Duration::from_millis(700)).unwrap();
    let begun = Instant::now();
    session.abort().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(700));
    cluster.mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    publish(&mut session, 1).unwrap();
}

/// Nobody knows what became of it.
#[test]
fn a_commit_that_does_not_end_in_time_is_settled_by_starting_over() {
    for error in [RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR__TRANSPORT] {
        let cluster = cluster();
        let (mut session, _) = cluster.open_within(&mut holder(1), IMPATIENT).unwrap();
        cluster.fail(EndTxn, &[error; AGAIN_AND_AGAIN]);
        assert_eq!(call(&publish(&mut session, 1).unwrap_err()), (Operation::Commit, StartOver), "{error:?}");
    }
}

#[test]
fn an_abort_that_does_not_end_in_time_means_to_start_over() {
    let cluster = cluster();
    let (mut session, _) = cluster.open_within(&mut holder(1), IMPATIENT).unwrap();
    let mut transaction = session.begin().unwrap();
    transaction.send(record(0)).unwrap();
    transaction.delivered().unwrap();
    cluster.fail(EndTxn, &[RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; AGAIN_AND_AGAIN]);
    assert_eq!(call(&session.abort().unwrap_err()), (Operation::Abort, StartOver));
}

#[test]
fn without_brokers_everything_ends_in_time() {
    let cluster = cluster();
    let (mut session, _) = cluster.open_within(&mut holder(1), IMPATIENT).unwrap();
    let mut transaction = session.begin().unwrap();
    cluster.mock.broker_down(1).unwrap();
    transaction.send(record(0)).unwrap();
    assert_eq!(call(&transaction.delivered().unwrap_err()), (Operation::Deliver, StartOver));
    let mut sent = Ok(());
    // More than the queue holds.
    let large = [0; 512 * 1024];
    for _ in 0..100 {
        sent = sent.and_then(|()| transaction.send(crate::transaction::Record { value: &large, ..record(0) }));
    }
    assert_eq!(call(&sent.unwrap_err()), (Operation::Send, AbortAndRewind));
    // No broker has heard of it; on a busy machine what is queued may take longer to be thrown away than there is time.
    assert!(session.abort().map_or_else(|error| call(&error) == (Operation::Abort, StartOver), |()| true));
    assert_eq!(call(&cluster.open_within(&mut holder(1), IMPATIENT).err().unwrap()), (Operation::Init, StartOver));
}

#[test]
fn a_record_that_is_not_delivered_means_to_abort_and_to_go_on() {
    for (api, error) in [
        (Produce, RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS),
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_INVALID_REQUEST),
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING),
    ] {
        let (_cluster, mut session, published) = publish_against(api, error);
        assert_eq!(call(&published.unwrap_err()), (Operation::Deliver, AbortAndRewind), "{api:?} {error:?}");
        session.abort().unwrap();
        assert_eq!(publish(&mut session, 1).unwrap().len(), 1, "{api:?} {error:?}");
    }
}

#[test]
fn sending_into_a_transaction_that_has_failed_means_to_abort_it() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    cluster.fail(AddPartitionsToTxn, &[RD_KAFKA_RESP_ERR_INVALID_REQUEST]);
    let mut transaction = session.begin().unwrap();
    transaction.send(record(0)).unwrap();
    transaction.delivered().unwrap_err();
    assert_eq!(call(&transaction.send(record(0)).unwrap_err()), (Operation::Send, AbortAndRewind));
    session.abort().unwrap();
    publish(&mut session, 1).unwrap();
}

#[test]
fn a_fenced_producer_stops() {
    for error in [RD_KAFKA_RESP_ERR_PRODUCER_FENCED, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH] {
        consequences(&[(EndTxn, error, Operation::Commit), (AddPartitionsToTxn, error, Operation::Deliver)], Fenced);
        assert_eq!(call(&refused_at_init(error)), (Operation::Init, Fenced), "{error:?}");
    }
    consequences(&[(Produce, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, Operation::Deliver)], Fenced);
}

#[test]
fn who_is_denied_is_refused() {
    for error in [RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED] {
        let refused = refused_at_init(error);
        assert_eq!((call(&refused), refused.is_denied()), ((Operation::Init, Refused), true), "{error:?}");
    }
    for (api, error, operation) in [
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Operation::Deliver),
        (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Operation::Deliver),
        (Produce, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Operation::Deliver),
        (EndTxn, RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Operation::Commit),
        (EndTxn, RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, Operation::Commit),
    ] {
        let (_cluster, _session, published) = publish_against(api, error);
        let refused = published.unwrap_err();
        assert_eq!((call(&refused), refused.is_denied()), ((operation, Refused), true), "{api:?} {error:?}");
    }
}

#[test]
fn what_the_cluster_does_not_take_is_refused() {
    let refused = refused_at_init(RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT);
    assert_eq!((call(&refused), refused.is_denied()), ((Operation::Init, Refused), false));
    consequences(
        &[
            (Produce, RD_KAFKA_RESP_ERR_INVALID_RECORD, Operation::Deliver),
            (Produce, RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Operation::Deliver),
            (Produce, RD_KAFKA_RESP_ERR_POLICY_VIOLATION, Operation::Deliver),
        ],
        Refused,
    );
}

/// The library purges what is queued before it reports what was refused, and takes nothing more.
#[test]
fn what_is_refused_is_told_also_by_what_comes_behind_it() {
    for (api, error) in [(AddPartitionsToTxn, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), (Produce, RD_KAFKA_RESP_ERR_INVALID_RECORD)] {
        let cluster = cluster();
        let mut session = cluster.open().unwrap();
        cluster.fail(api, &[error]);
        let mut transaction = session.begin().unwrap();
        transaction.send(record(0)).unwrap();
        assert_eq!(call(&transaction.delivered().unwrap_err()), (Operation::Deliver, Refused), "{api:?} {error:?}");
        assert_eq!(call(&transaction.send(record(2)).unwrap_err()), (Operation::Send, Refused), "{api:?} {error:?}");
        session.abort().unwrap();
        assert_eq!(publish(&mut session, 1).unwrap().len(), 1, "{api:?} {error:?}");
    }
}

#[test]
fn a_producer_with_a_fatal_error_is_thrown_away() {
    consequences(
        &[
            (AddPartitionsToTxn, RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, Operation::Deliver),
            (Produce, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, Operation::Deliver),
            (EndTxn, RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, Operation::Commit),
        ],
        StartOver,
    );
}

#[test]
fn a_commit_that_failed_is_read_back_and_not_guessed() {
    consequences(
        &[
            (EndTxn, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING, Operation::Commit),
            (EndTxn, RD_KAFKA_RESP_ERR_UNKNOWN, Operation::Commit),
        ],
        StartOver,
    );
}

#[test]
fn what_says_nothing_about_the_transaction_means_to_start_over() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    let nowhere = crate::mock::PARTITIONS;
    assert_eq!(call(&session.begin().unwrap().send(record(nowhere)).unwrap_err()), (Operation::Send, StartOver));
}
