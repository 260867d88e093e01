//! The session against librdkafka's own mock of a cluster: each class of error ends in its consequence.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use weir_crds::{
    contract::{
        manifest::OffsetRange,
        names::{RunId, holder_key, rotating_ids},
        progress::BucketHolder,
    },
    kafka_cluster::KafkaSecurity,
};

use crate::{
    config::KafkaConfig,
    failure::Consequence,
    takeover::Holder,
    transaction::{Operation, ProgressRecord, Record, Session, Target, TransactionError},
};

const TOPIC: &str = "events";
const ID: &str = "weir.n.j.events-0";
const PROGRESS: ProgressRecord<'static> = ProgressRecord { topic: "progress", key: "weir.n.j.events-0/g1", value: b"v" };

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

fn holder(generation: u32) -> Holder {
    Holder::new(RunId { namespace: "n".into(), name: "j".into(), generation }, 1)
}

impl Cluster {
    fn open(&self) -> Result<Session, TransactionError> {
        self.open_as(&mut holder(1)).map(|(session, _)| session)
    }

    fn open_as(&self, holder: &mut Holder) -> Result<(Session, std::collections::BTreeMap<String, Vec<u8>>), TransactionError> {
        let target = Target {
            config: &self.config,
            transactional_id: ID,
            topic: TOPIC,
            partitions: &[0, 2],
            max_message_bytes: 1_000_000,
            progress_topic: PROGRESS.topic,
        };
        Session::open(target, holder)
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
    let TransactionError::Call { operation, consequence, .. } = error else { panic!("{error:?} is not a failed call") };
    (*operation, *consequence)
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
    session.abort().unwrap();
    assert_eq!(publish(&mut session, 1).unwrap().len(), 1);
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
    let _ = left;
    assert_eq!(publish(&mut session, 1).unwrap().len(), 1);
}

#[test]
fn each_transaction_has_an_epoch_of_its_own_however_many_there_are() {
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
    cluster.fail(RDKafkaApiKey::EndTxn, RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED);
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
    cluster.mock.request_errors(
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
