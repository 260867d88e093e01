//! What a turn asks of a Kafka cluster. A script stands in for the cluster in tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use weir_crds::{
    KafkaCluster,
    contract::{result::error_chain, run::KafkaConnection},
};
use weir_floors::observed::{Read, Stamp};
use weir_kafka::{
    Admin, AdminError, KafkaConfig, LogDirs, RequestError, TopicConfig, TopicDescription,
    admin::{
        Answers, BrokerConfig, CommittedOffsets, ConfigChange, GroupDescription, GroupList, OffsetSpec, PartitionOffset, TopicPartition,
    },
    range::{Isolation, Range, RangeError, Reader},
};

use crate::credentials::{Credentials, CredentialsError, Folder};

/// A healthy cluster answers within milliseconds; what has no answer by then is asked again in the next turn.
const WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at whether the Secret is still the one that the clients were made of.
const SECRET_INTERVAL: Duration = Duration::from_secs(15);

pub type Offsets = BTreeMap<TopicPartition, Result<PartitionOffset, RequestError>>;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the operator's credentials are not there")]
    Credentials(#[from] CredentialsError),
    #[error("no Kafka client can be made")]
    Client(#[from] AdminError),
}

pub trait Kafka: Send + Sync + 'static {
    fn topic_names(&self) -> impl Future<Output = Result<BTreeSet<String>, AdminError>> + Send;
    fn topics(&self, names: BTreeSet<String>) -> impl Future<Output = Result<Answers<Option<TopicDescription>>, AdminError>> + Send;
    /// The keys that decide how long records are kept.
    fn configs(&self, topics: BTreeSet<String>) -> impl Future<Output = Result<Answers<TopicConfig>, AdminError>> + Send;
    fn offsets(&self, wanted: BTreeMap<TopicPartition, OffsetSpec>) -> impl Future<Output = Result<Offsets, AdminError>> + Send;
    fn groups(&self) -> impl Future<Output = Result<GroupList, AdminError>> + Send;
    fn describe_groups(&self, groups: BTreeSet<String>) -> impl Future<Output = Result<Answers<GroupDescription>, AdminError>> + Send;
    fn committed(&self, groups: BTreeSet<String>) -> impl Future<Output = Result<Answers<CommittedOffsets>, AdminError>> + Send;
    /// The settings of one of the brokers, which are taken for those of all; `None`: this identity may not know them.
    fn broker_config(&self) -> impl Future<Output = Result<Option<BrokerConfig>, AdminError>> + Send;
    /// The first record at or after each offset of a topic; what cannot be read is left out.
    fn first_records(&self, topic: String, at: Vec<(i32, i64)>) -> impl Future<Output = Vec<Read>> + Send;
    /// How large the logs of partitions are, and how full the brokers' disks.
    fn log_dirs(&self, topics: BTreeMap<String, BTreeSet<i32>>) -> impl Future<Output = Result<LogDirs, AdminError>> + Send;
    fn alter(
        &self,
        changes: BTreeMap<String, BTreeMap<String, ConfigChange>>,
    ) -> impl Future<Output = Result<Answers<()>, AdminError>> + Send;
}

/// A cluster that is reached.
pub struct Connection {
    admin: Admin,
    config: KafkaConfig,
    generation: Option<i64>,
    looked_at_secret: Mutex<Instant>,
    /// Coordinators and disks are asked, and records read, by clients of their own, which read their credentials when they
    /// are made.
    credentials: Option<Folder>,
}

impl Connection {
    pub async fn make(cluster: &KafkaCluster, credentials: &Credentials) -> Result<Self, ConnectError> {
        let folder = credentials.folder(cluster.spec.credentials_secret_ref.as_ref()).await?;
        let KafkaConnection { bootstrap_servers, security } = (&cluster.spec).into();
        let config = KafkaConfig { bootstrap_servers, security, credentials_dir: folder.as_ref().map(|f| f.path.clone()) };
        let admin = Admin::new(&config)?;
        let (generation, looked_at_secret) = (cluster.metadata.generation, Mutex::new(Instant::now()));
        Ok(Self { admin, config, generation, looked_at_secret, credentials: folder })
    }

    /// Whether it is still that of the cluster, with the credentials that its Secret has. While nobody can tell, it is.
    pub async fn serves(&self, cluster: &KafkaCluster, credentials: &Credentials) -> bool {
        if self.generation != cluster.metadata.generation {
            return false;
        }
        let mut looked = self.looked_at_secret.lock().await;
        if looked.elapsed() < SECRET_INTERVAL {
            return true;
        }
        *looked = Instant::now();
        match credentials.version(cluster.spec.credentials_secret_ref.as_ref()).await {
            Ok(version) => version == self.credentials.as_ref().and_then(|folder| folder.version.clone()),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "the Secret cannot be looked at; what was read of it serves on");
                true
            }
        }
    }
}

impl Kafka for Connection {
    async fn topic_names(&self) -> Result<BTreeSet<String>, AdminError> {
        self.admin.topic_names(WITHIN).await
    }

    async fn topics(&self, names: BTreeSet<String>) -> Result<Answers<Option<TopicDescription>>, AdminError> {
        self.admin.topics(names, WITHIN).await
    }

    async fn configs(&self, topics: BTreeSet<String>) -> Result<Answers<TopicConfig>, AdminError> {
        self.admin.topic_configs(topics, &weir_floors::config::KEYS, WITHIN).await
    }

    async fn offsets(&self, wanted: BTreeMap<TopicPartition, OffsetSpec>) -> Result<Offsets, AdminError> {
        self.admin.offsets(wanted, WITHIN).await
    }

    async fn groups(&self) -> Result<GroupList, AdminError> {
        self.admin.groups(WITHIN).await
    }

    async fn describe_groups(&self, groups: BTreeSet<String>) -> Result<Answers<GroupDescription>, AdminError> {
        self.admin.describe_groups(groups, WITHIN).await
    }

    async fn committed(&self, groups: BTreeSet<String>) -> Result<Answers<CommittedOffsets>, AdminError> {
        self.admin.committed_offsets(groups, WITHIN).await
    }

    async fn broker_config(&self) -> Result<Option<BrokerConfig>, AdminError> {
        let cluster = self.admin.cluster().await?;
        let Some(broker) = cluster.brokers.first() else { return Ok(None) };
        self.admin.broker_config(broker.id).await
    }

    async fn first_records(&self, topic: String, at: Vec<(i32, i64)>) -> Vec<Read> {
        let config = self.config.clone();
        let read = tokio::task::spawn_blocking(move || first_records(&config, &topic, &at));
        read.await.unwrap_or_default()
    }

    async fn log_dirs(&self, topics: BTreeMap<String, BTreeSet<i32>>) -> Result<LogDirs, AdminError> {
        self.admin.log_dirs(topics, WITHIN).await
    }

    async fn alter(&self, changes: BTreeMap<String, BTreeMap<String, ConfigChange>>) -> Result<Answers<()>, AdminError> {
        self.admin.alter_topic_configs(changes, WITHIN).await
    }
}

/// Blocks. A topic that cannot be read costs its time once, not once for each partition.
fn first_records(config: &KafkaConfig, topic: &str, at: &[(i32, i64)]) -> Vec<Read> {
    let mut reads = Vec::new();
    let mut read_all = || -> Result<(), RangeError> {
        let reader = Reader::new(config, topic, Isolation::Committed)?;
        for (partition, offset) in at {
            match first_record(&reader, *partition, *offset) {
                Ok(read) => reads.push(read),
                // It has just been deleted: the next look at the offsets says so.
                Err(RangeError::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    if let Err(error) = read_all() {
        tracing::debug!(topic, %error, "records whose times are wanted cannot be read");
    }
    reads
}

fn first_record(reader: &Reader, partition: i32, offset: i64) -> Result<Read, RangeError> {
    let (_, end) = reader.bounds(partition)?;
    let found = reader.read(&[Range { partition, first: offset, end }], |record| {
        ControlFlow::Break(Stamp { offset: record.offset(), timestamp_ms: record.timestamp_ms().unwrap_or(-1) })
    })?;
    Ok(Read { partition, offset, found, end })
}
