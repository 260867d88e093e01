//! librdkafka's own mock of a cluster, as the tests of this crate use it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use weir_crds::{
    contract::{manifest::OffsetRange, names::RunId},
    kafka_cluster::KafkaSecurity,
};

use crate::{
    config::KafkaConfig,
    failure::Consequence,
    producer::Bounds,
    takeover::Holder,
    transaction::{Operation, ProgressRecord, Record, Session, Target, TransactionError},
};

pub const TOPIC: &str = "events";
pub const PARTITIONS: i32 = 4;
/// The transactional id of the bucket.
pub const ID: &str = "weir.n.j.events-0";
pub const PROGRESS: ProgressRecord<'static> = ProgressRecord { topic: "progress", key: "weir.n.j.events-0/g1", value: b"v" };

pub struct Cluster {
    pub mock: MockCluster<'static, DefaultProducerContext>,
    pub config: KafkaConfig,
}

/// Of one broker.
pub fn cluster() -> Cluster {
    cluster_of(1)
}

/// With the topic of the bucket and that of its progress.
pub fn cluster_of(brokers: i32) -> Cluster {
    let mock = MockCluster::new(brokers).unwrap();
    mock.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    mock.create_topic(PROGRESS.topic, 1, 1).unwrap();
    let config =
        KafkaConfig { bootstrap_servers: vec![mock.bootstrap_servers()], security: KafkaSecurity::default(), credentials_dir: None };
    Cluster { mock, config }
}

pub fn holder(generation: u32) -> Holder {
    Holder::new(RunId { namespace: "n".into(), name: "j".into(), generation }, 1)
}

impl Cluster {
    pub fn open(&self) -> Result<Session, TransactionError> {
        self.open_as(&mut holder(1)).map(|(session, _)| session)
    }

    pub fn open_as(&self, holder: &mut Holder) -> Result<(Session, BTreeMap<String, Vec<u8>>), TransactionError> {
        self.open_within(holder, Bounds::default())
    }

    pub fn open_within(&self, holder: &mut Holder, bounds: Bounds) -> Result<(Session, BTreeMap<String, Vec<u8>>), TransactionError> {
        let target = Target {
            config: &self.config,
            transactional_id: ID,
            topic: TOPIC,
            partitions: &[0, 2],
            max_message_bytes: 1_000_000,
            progress_topic: PROGRESS.topic,
        };
        Session::open_within(target, holder, bounds)
    }

    /// The next requests of this kind are answered with these errors.
    pub fn fail(&self, api: RDKafkaApiKey, errors: &[RDKafkaRespErr]) {
        self.mock.request_errors(api, errors);
    }
}

pub fn record(partition: i32) -> Record<'static> {
    Record { partition, key: None, value: b"value", timestamp_ms: Some(1), headers: &[("weir-run", b"n/j/1")] }
}

/// A transaction of so many records.
pub fn publish(session: &mut Session, records: u32) -> Result<Vec<(i32, OffsetRange)>, TransactionError> {
    let mut transaction = session.begin()?;
    for index in 0..records {
        transaction.send(record(if index % 2 == 0 { 0 } else { 2 }))?;
    }
    let delivered = transaction.delivered()?.into_iter().collect();
    transaction.commit(PROGRESS)?;
    Ok(delivered)
}

pub fn call(error: &TransactionError) -> (Operation, Consequence) {
    let TransactionError::Call { operation, consequence, .. } = error else { panic!("{error:?} is not a failed call") };
    (*operation, *consequence)
}
