//! The session against librdkafka's own mock of a cluster.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use weir_crds::contract::{
    manifest::OffsetRange,
    names::{RunId, holder_key, rotating_ids},
    progress::BucketHolder,
};

use crate::{
    failure::Consequence,
    mock::{ID, PROGRESS, call, cluster, holder, publish},
    transaction::{Operation, ProgressRecord, Record, TransactionError},
};

#[test]
fn offsets_come_from_the_delivery_reports() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    assert_eq!(publish(&mut session, 5).unwrap(), [(0, OffsetRange { first: 0, last: 2 }), (2, OffsetRange { first: 0, last: 1 })]);
    assert_eq!(publish(&mut session, 2).unwrap(), [(0, OffsetRange { first: 3, last: 3 }), (2, OffsetRange { first: 2, last: 2 })]);
    assert_eq!(publish(&mut session, 0).unwrap(), []);
}

#[test]
fn a_transaction_that_was_left_open_is_aborted_by_the_next() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    let mut left = session.begin().unwrap();
    left.send(Record { partition: 0, key: Some(b"k"), value: b"lost", timestamp_ms: None, headers: &[] }).unwrap();
    let _ = left;
    assert_eq!(publish(&mut session, 1).unwrap().len(), 1);
}

#[test]
fn a_session_goes_round_its_ids_as_often_as_it_is_asked() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    // More than twice round: every producer was renewed.
    for _ in 0..=2 * rotating_ids(ID).len() {
        assert_eq!(publish(&mut session, 1).unwrap().len(), 1);
    }
}

#[test]
fn a_session_reads_what_the_one_before_committed() {
    let cluster = cluster();
    publish(&mut cluster.open().unwrap(), 1).unwrap();
    let (_session, records) = cluster.open_as(&mut holder(1)).unwrap();
    assert_eq!(records.into_iter().collect::<Vec<_>>(), [(PROGRESS.key.to_owned(), PROGRESS.value.to_vec())]);
}

/// The mock fences nobody, so that what stops the zombie here is the look for another holder.
#[test]
fn a_producer_that_is_renewed_behind_a_new_holder_is_never_used() {
    let cluster = cluster();
    let (mut mine, mut other) = (holder(1), holder(1));
    let (mut zombie, _) = cluster.open_as(&mut mine).unwrap();
    let _ = zombie.begin().unwrap();
    let (mut replacement, _) = cluster.open_as(&mut other).unwrap();
    // Now the zombie renews the producer of the transaction that it left open, and so takes it from its replacement.
    zombie.abort().unwrap();
    let fresh = rotating_ids(ID).len() - 1;
    let results: Vec<_> = (0..=fresh).map(|_| publish(&mut zombie, 1)).collect();
    assert!(results[..fresh].iter().all(Result::is_ok));
    assert!(matches!(&results[fresh], Err(error @ TransactionError::Taken { .. }) if error.consequence() == Consequence::Yield));
    publish(&mut replacement, 1).unwrap();
    let taken = cluster.open_as(&mut mine).err().unwrap();
    assert!(matches!(&taken, TransactionError::Taken { by, attempt: 1 } if by.generation == 1), "{taken:?}");
}

#[test]
fn one_that_the_coordinator_fenced_goes_on_and_a_lower_generation_does_not() {
    let cluster = cluster();
    let mut mine = holder(2);
    let (mut session, _) = cluster.open_as(&mut mine).unwrap();
    cluster.fail(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    assert_eq!(publish(&mut session, 1).unwrap_err().consequence(), Consequence::Fenced);
    drop(session);
    let (mut session, _) = cluster.open_as(&mut mine).unwrap();
    publish(&mut session, 1).unwrap();
    let lower = cluster.open_as(&mut holder(1)).err().unwrap();
    assert!(matches!(&lower, TransactionError::Taken { by, .. } if by.generation == 2), "{lower:?}");
    // What it did on the way took nothing from the one that holds the bucket.
    publish(&mut session, 1).unwrap();
}

#[test]
fn ids_that_an_earlier_version_used_are_fenced_too() {
    let cluster = cluster();
    let more = ["weir.n.j.events-0.4".to_owned(), "weir.n.j.events-0.5".to_owned()];
    let record = BucketHolder::new(RunId { namespace: "n".into(), name: "j".into(), generation: 1 }, 1, "s".into(), more.clone().into());
    let mut session = cluster.open().unwrap();
    let bytes = weir_crds::contract::manifest::to_bytes(&record);
    let key = holder_key(ID);
    session.begin().unwrap().commit(ProgressRecord { topic: PROGRESS.topic, key: &key, value: &bytes }).unwrap();
    drop(session);
    // The error meets the first initialisation of an id that this version would not use: the bucket's own goes first.
    cluster.fail(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED],
    );
    assert_eq!(call(&cluster.open().err().unwrap()), (Operation::Init, Consequence::Refused));
    let (_session, records) = cluster.open_as(&mut holder(1)).unwrap();
    assert!(records.is_empty());
}

#[test]
fn a_damaged_holder_is_not_guessed_from() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    let key = holder_key(ID);
    session.begin().unwrap().commit(ProgressRecord { topic: PROGRESS.topic, key: &key, value: b"{}" }).unwrap();
    drop(session);
    assert!(matches!(cluster.open(), Err(TransactionError::Holder { key, .. }) if key == holder_key(ID)));
}
