//! How large logs are and how full the brokers' disks: DescribeLogDirs, which librdkafka lacks, as a raw request to each
//! broker over a connection of its own, with the same settings as every other client's.
//!
//! A broker knows of its own disks only, so each is asked, side by side; one that does not answer, or does not let this
//! identity ask, is an answer about that broker. How full disks are is said by brokers from 3.3 on.

mod sasl;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use kafka_protocol::{
    error::ResponseError,
    messages::{
        DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName, describe_log_dirs_request::DescribableLogDirTopic,
        describe_log_dirs_response::DescribeLogDirsResult,
    },
    protocol::StrBytes,
};

use crate::{
    admin::{Admin, AdminError, BrokerNode, TopicPartition},
    config::{ConfigError, KafkaConfig},
};
use wire::Connection;

/// Brokers that are asked at a time: each takes a thread and a connection.
const BROKERS_AT_ONCE: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum LogDirsError {
    #[error("the connection cannot be configured")]
    Config(#[from] ConfigError),
    #[error("the certificates cannot be used: {0}")]
    Certificates(String),
    #[error("the broker cannot be reached, or does not answer in time")]
    Io(#[from] std::io::Error),
    #[error("the broker does not let this identity in: {0}")]
    Login(String),
    #[error("the broker answers what cannot be understood: {0}")]
    Protocol(String),
    #[error("the broker does not know DescribeLogDirs; it is older than Kafka 1.0, or no Kafka")]
    TooOld,
    #[error("this identity may not look at log directories; it needs Describe on the cluster")]
    Denied,
    #[error("the broker refuses: {0:?}")]
    Refused(ResponseError),
}

/// What brokers said, by their ids.
#[derive(Debug, Default)]
pub struct LogDirs {
    pub brokers: BTreeMap<i32, Result<Vec<LogDir>, LogDirsError>>,
}

/// A directory of a broker, which is on one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogDir {
    /// Of the disk; `None`: the broker does not say.
    pub total_bytes: Option<u64>,
    pub usable_bytes: Option<u64>,
    /// Of each replica that was asked about and lies here.
    pub replicas: BTreeMap<TopicPartition, u64>,
}

impl LogDirs {
    /// The size of a replica on a broker; `None`: not known.
    pub fn replica_bytes(&self, broker: i32, at: &TopicPartition) -> Option<u64> {
        self.brokers.get(&broker)?.as_ref().ok()?.iter().find_map(|dir| dir.replicas.get(at)).copied()
    }

    /// Of the fullest disk, rounded up; `None`: some disk of some broker is not known.
    pub fn used_percent(&self) -> Option<u32> {
        let used = |dir: &LogDir| {
            let (total, usable) = (dir.total_bytes?, dir.usable_bytes?);
            let used = u128::from(total.saturating_sub(usable)) * 100;
            u32::try_from(used.div_ceil(u128::from(total.max(1)))).ok()
        };
        let mut fullest = None;
        for broker in self.brokers.values() {
            for dir in broker.as_ref().ok()? {
                fullest = fullest.max(Some(used(dir)?));
            }
        }
        fullest
    }
}

impl Admin {
    /// Asks every broker about its disks, and about the replicas of these partitions.
    pub async fn log_dirs(&self, topics: BTreeMap<String, BTreeSet<i32>>, within: Duration) -> Result<LogDirs, AdminError> {
        let deadline = Instant::now() + within;
        let brokers = self.cluster().await?.brokers;
        let config = self.settings().clone();
        let asked = tokio::task::spawn_blocking(move || ask(&config, &brokers, &request(topics), deadline));
        asked.await.map_err(|_| AdminError::Interrupted)
    }
}

fn request(topics: BTreeMap<String, BTreeSet<i32>>) -> DescribeLogDirsRequest {
    let topic = |(name, partitions): (String, BTreeSet<i32>)| {
        DescribableLogDirTopic::default().with_topic(TopicName(StrBytes::from(name))).with_partitions(partitions.into_iter().collect())
    };
    DescribeLogDirsRequest::default().with_topics(Some(topics.into_iter().map(topic).collect()))
}

/// Blocks until the deadline at most.
fn ask(config: &KafkaConfig, brokers: &[BrokerNode], request: &DescribeLogDirsRequest, deadline: Instant) -> LogDirs {
    let mut found = LogDirs::default();
    for brokers in brokers.chunks(BROKERS_AT_ONCE) {
        let answers = std::thread::scope(|scope| {
            let one = |broker| (broker, scope.spawn(move || ask_one(config, broker, request, deadline)));
            let asked: Vec<(&BrokerNode, _)> = brokers.iter().map(one).collect();
            let answer = |(broker, thread): (&BrokerNode, std::thread::ScopedJoinHandle<'_, _>)| {
                let answer = thread.join().unwrap_or_else(|_| Err(LogDirsError::Protocol("the question was interrupted".into())));
                (broker.id, answer)
            };
            asked.into_iter().map(answer).collect::<Vec<_>>()
        });
        found.brokers.extend(answers);
    }
    found
}

fn ask_one(
    config: &KafkaConfig,
    broker: &BrokerNode,
    request: &DescribeLogDirsRequest,
    deadline: Instant,
) -> Result<Vec<LogDir>, LogDirsError> {
    let mut connection = Connection::open(config, broker, deadline)?;
    let version = connection.version_of::<DescribeLogDirsRequest>()?.ok_or(LogDirsError::TooOld)?;
    if let Some(login) = config.login()? {
        sasl::log_in(&mut connection, &login)?;
    }
    answered(connection.ask(request, version)?, version)
}

/// The version from which on a refusal is said, and not an empty answer.
const SAYS_REFUSAL: i16 = 3;

fn answered(response: DescribeLogDirsResponse, version: i16) -> Result<Vec<LogDir>, LogDirsError> {
    refused(response.error_code)?;
    if response.results.is_empty() && version < SAYS_REFUSAL {
        return Err(LogDirsError::Denied);
    }
    response.results.into_iter().map(log_dir).collect()
}

fn log_dir(result: DescribeLogDirsResult) -> Result<LogDir, LogDirsError> {
    refused(result.error_code)?;
    let bytes = |bytes: i64| u64::try_from(bytes).ok();
    let mut replicas = BTreeMap::new();
    for topic in &result.topics {
        // One that is being moved here is not the replica yet.
        for partition in topic.partitions.iter().filter(|p| !p.is_future_key) {
            let at = TopicPartition { topic: topic.name.0.to_string(), partition: partition.partition_index };
            replicas.extend(bytes(partition.partition_size).map(|size| (at, size)));
        }
    }
    Ok(LogDir { total_bytes: bytes(result.total_bytes), usable_bytes: bytes(result.usable_bytes), replicas })
}

fn refused(code: i16) -> Result<(), LogDirsError> {
    match ResponseError::try_from_code(code) {
        None if code == 0 => Ok(()),
        None => Err(LogDirsError::Protocol(format!("error code {code}"))),
        Some(ResponseError::ClusterAuthorizationFailed) => Err(LogDirsError::Denied),
        Some(error) => Err(LogDirsError::Refused(error)),
    }
}

#[cfg(test)]
mod tests;
