//! The session against librdkafka's own mock of a cluster: each class of error ends in its consequence.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use weir_crds::{contract::manifest::OffsetRange, kafka_cluster::KafkaSecurity};

use crate::{
    config::KafkaConfig,
    failure::Consequence,
    transaction::{Operation, ProgressRecord, Record, Session, Target, TransactionError},
};

const TOPIC: &str = "events";
const PROGRESS: ProgressRecord<'static> = ProgressRecord { topic: "progress", key: "k", value: b"v" };

struct Cluster {
    mock: MockCluster<'static, DefaultProducerContext>,
    config: KafkaConfig,
}

fn cluster() -> Cluster {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 4, 1).unwrap();
    mock.create_topic(PROGRESS.topic, 1, 1).unwrap();
    let config =
        KafkaConfig { bootstrap_servers: vec![mock.bootstrap_servers()], security: KafkaSecurity::default(), credentials_dir: None };
    Cluster { mock, config }
}

impl Cluster {
    fn open(&self) -> Result<Session, TransactionError> {
        Session::open(Target {
            config: &self.config,
            transactional_id: "weir.n.j.events-0",
            topic: TOPIC,
            partitions: &[0, 2],
            max_message_bytes: 1_000_000,
        })
    }

    fn fail(&self, api: RDKafkaApiKey, error: RDKafkaRespErr) {
        self.mock.request_errors(api, &[error]);
    }
}

fn publish(session: &mut Session, records: u32) -> Result<Vec<(i32, OffsetRange)>, TransactionError> {
    let mut transaction = session.begin()?;
    for index in 0..records {
        let partition = if index % 2 == 0 { 0 } else { 2 };
        transaction.send(Record { partition, key: None, value: b"value", timestamp_ms: Some(1), headers: &[("weir-run", b"n/j/1")] })?;
    }
    let delivered = transaction.delivered()?.into_iter().collect();
    transaction.commit(PROGRESS)?;
    Ok(delivered)
}

fn call(error: &TransactionError) -> (Operation, Consequence) {
    match error {
        TransactionError::Call { operation, consequence, .. } => (*operation, *consequence),
        TransactionError::Config(_) | TransactionError::Client(_) | TransactionError::Offsets(_) => {
            panic!("{error:?} is not a failed call")
        }
    }
}

#[test]
fn offsets_come_from_the_delivery_reports() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    assert_eq!(publish(&mut session, 5).unwrap(), [(0, OffsetRange { first: 0, last: 2 }), (2, OffsetRange { first: 0, last: 1 })]);
    assert_eq!(publish(&mut session, 2).unwrap(), [(0, OffsetRange { first: 3, last: 3 }), (2, OffsetRange { first: 2, last: 2 })]);
    assert_eq!(publish(&mut session, 0).unwrap(), []);
}

#[test]
fn what_the_library_retries_is_not_seen() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    cluster.fail(RDKafkaApiKey::EndTxn, RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS);
    cluster.fail(RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION);
    assert_eq!(publish(&mut session, 1).unwrap().len(), 1);
}

#[test]
fn a_fenced_producer_stops() {
    for api in [RDKafkaApiKey::EndTxn, RDKafkaApiKey::AddPartitionsToTxn] {
        for error in [RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH] {
            let cluster = cluster();
            let mut session = cluster.open().unwrap();
            cluster.fail(api, error);
            assert_eq!(publish(&mut session, 1).unwrap_err().consequence(), Consequence::Fenced, "{api:?} {error:?}");
        }
    }
}

#[test]
fn what_is_not_allowed_is_refused() {
    let cluster = cluster();
    cluster.fail(RDKafkaApiKey::InitProducerId, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    let refused = cluster.open().err().unwrap();
    assert_eq!(call(&refused), (Operation::Init, Consequence::Refused));
    assert!(refused.is_denied());
    let mut session = cluster.open().unwrap();
    cluster.fail(RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    let refused = publish(&mut session, 1).unwrap_err();
    assert_eq!(call(&refused), (Operation::Deliver, Consequence::Refused));
    assert!(refused.is_denied());
}

#[test]
fn a_record_that_is_not_delivered_means_to_abort_and_to_go_on() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    cluster.fail(RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS);
    assert_eq!(call(&publish(&mut session, 1).unwrap_err()), (Operation::Deliver, Consequence::AbortAndRewind));
    // The library purges what is queued when the error comes, a moment later: records of the next transaction may be hit
    // as well, which means to abort that one too.
    let published = (0..3).any(|_| {
        session.abort().unwrap();
        match publish(&mut session, 1) {
            Ok(delivered) => delivered.len() == 1,
            Err(error) => {
                assert_eq!(error.consequence(), Consequence::AbortAndRewind, "{error:?}");
                false
            }
        }
    });
    assert!(published);
}

#[test]
fn a_commit_that_failed_is_read_back_and_not_guessed() {
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN,
    ] {
        let cluster = cluster();
        let mut session = cluster.open().unwrap();
        cluster.fail(RDKafkaApiKey::EndTxn, error);
        assert_eq!(call(&publish(&mut session, 1).unwrap_err()), (Operation::Commit, Consequence::StartOver), "{error:?}");
    }
}

#[test]
fn a_transaction_that_was_left_open_is_aborted_by_the_next() {
    let cluster = cluster();
    let mut session = cluster.open().unwrap();
    let mut left = session.begin().unwrap();
    left.send(Record { partition: 0, key: Some(b"k"), value: b"lost", timestamp_ms: None, headers: &[] }).unwrap();
    drop(left);
    assert_eq!(publish(&mut session, 1).unwrap().len(), 1);
}
