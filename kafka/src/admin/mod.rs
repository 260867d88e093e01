//! Administration: what a cluster, its topics and its consumer groups are.
//!
//! This wraps the library's admin client, which is not handed out. Two things can be changed through here: a progress
//! topic can be created, the one kind of topic that weir owns, and the configuration of a topic can be altered key by key
//! ([`Admin::alter_topic_configs`]). Nothing touches a key that was not named.
//!
//! What is asked about many things at once is sent in as few requests as the protocol and the library allow, side by
//! side, and answered about each by itself ([`Answers`]): one topic, partition or group that fails harms no other.
//! Each such call takes `within` as the time until when what has not been answered has failed; it returns at most a few
//! seconds later.

mod configs;
mod groups;
mod offsets;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::Client,
    error::KafkaError,
};

use crate::{
    config::{ConfigError, KafkaConfig},
    context::Logged,
    diagnosis, failure,
    native::{self, RequestError},
};

pub use configs::{BrokerConfig, ConfigChange, ConfigSource, ConfigValue, TopicConfig};
pub use groups::{CommittedOffsets, GroupDescription, GroupList, GroupMember, GroupState};
pub use offsets::{OffsetSpec, PartitionOffset, TopicPartition};
/// What brokers say when they refuse something.
pub use rdkafka::types::RDKafkaErrorCode;

/// An answer about each thing that was asked about, by its name.
pub type Answers<T> = BTreeMap<String, Result<T, RequestError>>;

/// An answer to an administrative question; a healthy cluster gives it within milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const APPEARING_POLL: Duration = Duration::from_millis(100);
/// Readers of a progress partition are ordered by it being one.
const PROGRESS_PARTITIONS: usize = 1;
/// The broker's `default.replication.factor`, which is 1 unless somebody has set it.
const REPLICATION_OF_THE_BROKER: i32 = -1;
/// On clusters that have as many brokers: what is lost with one of them is not known any more.
const PROGRESS_REPLICAS: i32 = 3;
const PROGRESS_IN_SYNC_MIN: &str = "2";

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("the Kafka client cannot be configured")]
    Config(#[from] ConfigError),
    #[error("the Kafka client cannot be made")]
    Client(#[source] KafkaError),
    #[error("the cluster does not describe itself")]
    DescribeCluster(#[source] RequestError),
    #[error("topic {topic} cannot be described")]
    DescribeTopic {
        topic: String,
        #[source]
        source: RequestError,
    },
    #[error("the configuration of {of} cannot be read")]
    DescribeConfig {
        of: String,
        #[source]
        source: RequestError,
    },
    #[error("the configuration of {of} was refused: {code}")]
    ConfigRefused { of: String, code: RDKafkaErrorCode },
    #[error("topic {topic} cannot be created")]
    CreateTopic {
        topic: String,
        #[source]
        source: KafkaError,
    },
    #[error("creation of topic {topic} was refused: {code}")]
    CreationRefused { topic: String, code: RDKafkaErrorCode },
    #[error("topic {topic} was created but is not there yet")]
    NotYetThere { topic: String },
    #[error(
        "topic {topic} is there but cannot hold progress: it has {partitions} partitions and cleanup.policy {cleanup_policy}, and needs one partition and compact; move it away, or give it that policy if it has one partition"
    )]
    Unfit { topic: String, partitions: usize, cleanup_policy: String },
    #[error("the brokers turn this client away: {reason}")]
    TurnedAway { reason: String },
    #[error("an administrative call did not end")]
    Interrupted,
}

impl AdminError {
    /// Whether the cluster said that this identity may not.
    pub fn is_denied(&self) -> bool {
        let code = match self {
            Self::TurnedAway { .. } => return true,
            Self::DescribeCluster(source) | Self::DescribeTopic { source, .. } | Self::DescribeConfig { source, .. } => source.code(),
            Self::CreateTopic { source, .. } => source.rdkafka_error_code(),
            Self::ConfigRefused { code, .. } | Self::CreationRefused { code, .. } => Some(*code),
            Self::Config(_) | Self::Client(_) | Self::NotYetThere { .. } | Self::Unfit { .. } | Self::Interrupted => None,
        };
        code.is_some_and(failure::is_denied)
    }
}

/// A topic as the brokers see it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// The broker's id of this very topic: one that is deleted and created again has another.
    pub id: String,
    /// In order of their numbers.
    pub partitions: Vec<PartitionDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    pub partition: i32,
    pub leader: Option<i32>,
    pub replicas: usize,
    pub in_sync: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    pub id: String,
    pub brokers: Vec<BrokerNode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerNode {
    pub id: i32,
    pub host: String,
    pub port: u16,
}

/// A client for administrative questions. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    client: Arc<AdminClient<Logged>>,
    config: Arc<KafkaConfig>,
}

impl Admin {
    /// Makes a client; nothing is sent yet.
    pub fn new(config: &KafkaConfig) -> Result<Self, AdminError> {
        use rdkafka::config::FromClientConfigAndContext as _;
        let client = AdminClient::from_config_and_context(&config.client()?, Logged).map_err(AdminError::Client)?;
        Ok(Self { client: Arc::new(client), config: Arc::new(config.clone()) })
    }

    pub(crate) fn settings(&self) -> &KafkaConfig {
        &self.config
    }

    pub async fn cluster(&self) -> Result<ClusterDescription, AdminError> {
        match self.ask(REQUEST_TIMEOUT, native::topics::describe_cluster).await? {
            Ok(cluster) => Ok(cluster),
            Err(source) => Err(self.explained(AdminError::DescribeCluster(source)).await),
        }
    }

    /// `None` if there is no such topic.
    pub async fn topic(&self, topic: &str) -> Result<Option<TopicDescription>, AdminError> {
        let mut found = self.topics([topic.to_owned()].into(), REQUEST_TIMEOUT).await?;
        match found.remove(topic).unwrap_or(Err(RequestError::NoAnswer)) {
            Ok(found) => Ok(found),
            Err(source) => Err(self.explained(AdminError::DescribeTopic { topic: topic.to_owned(), source }).await),
        }
    }

    /// Describes topics, with an answer about each; `None`: there is no such topic. Of one that this identity may not describe
    /// brokers do not say whether it is there: that is an error ([`RequestError::is_denied`]).
    pub async fn topics(&self, topics: BTreeSet<String>, within: Duration) -> Result<Answers<Option<TopicDescription>>, AdminError> {
        self.ask(within, move |client, deadline| native::topics::describe(client, &topics, deadline)).await
    }

    /// The names of all topics that this identity may describe, the brokers' own included. The others are left out without a word.
    pub async fn topic_names(&self, within: Duration) -> Result<BTreeSet<String>, AdminError> {
        let listed = self.ask(within, move |client, _| client.fetch_metadata(None, within)).await?;
        match listed {
            Ok(listed) => Ok(listed.topics().iter().map(|topic| topic.name().to_owned()).collect()),
            Err(error) => Err(AdminError::DescribeCluster(match error.rdkafka_error_code() {
                Some(code) => RequestError::Request { message: error.to_string(), code },
                None => RequestError::NoAnswer,
            })),
        }
    }

    /// Has a thread that may block ask something until a deadline.
    async fn ask<T: Send + 'static>(
        &self,
        within: Duration,
        question: impl FnOnce(&Client<Logged>, Instant) -> T + Send + 'static,
    ) -> Result<T, AdminError> {
        let (client, deadline) = (Arc::clone(&self.client), Instant::now() + within);
        let asked = tokio::task::spawn_blocking(move || question(client.inner(), deadline));
        asked.await.map_err(|_| AdminError::Interrupted)
    }

    /// Whether a call that failed did so because the brokers do not let this client in.
    async fn explained(&self, error: AdminError) -> AdminError {
        if error.is_denied() {
            return error;
        }
        let config = Arc::clone(&self.config);
        match tokio::task::spawn_blocking(move || diagnosis::turned_away(&config)).await {
            Ok(Some(reason)) => AdminError::TurnedAway { reason },
            Ok(None) | Err(_) => error,
        }
    }

    /// Sees to it that `topic` is a topic that progress can be kept in: compacted, with one partition. An existing topic
    /// is never changed: one that does not fit is an error.
    pub async fn ensure_progress_topic(&self, topic: &str) -> Result<TopicDescription, AdminError> {
        // Looked at again after it was made: somebody else may have made it, in another shape.
        let found = match self.topic(topic).await? {
            Some(found) => found,
            None => {
                self.create_progress_topic(topic).await?;
                self.appearing(topic).await?
            }
        };
        let config = self.topic_config(topic).await?;
        if found.partitions.len() == PROGRESS_PARTITIONS && config.cleans_up_by("compact") && !config.cleans_up_by("delete") {
            Ok(found)
        } else {
            let cleanup_policy = config.get("cleanup.policy").unwrap_or("unknown").to_owned();
            Err(AdminError::Unfit { topic: topic.to_owned(), partitions: found.partitions.len(), cleanup_policy })
        }
    }

    /// A topic that was just made: the brokers learn of it one after the other.
    async fn appearing(&self, topic: &str) -> Result<TopicDescription, AdminError> {
        let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
        loop {
            if let Some(found) = self.topic(topic).await? {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(AdminError::NotYetThere { topic: topic.to_owned() });
            }
            tokio::time::sleep(APPEARING_POLL).await;
        }
    }

    async fn create_progress_topic(&self, topic: &str) -> Result<(), AdminError> {
        let is_small = self.cluster().await?.brokers.len() < PROGRESS_REPLICAS as usize;
        let replicas = if is_small { REPLICATION_OF_THE_BROKER } else { PROGRESS_REPLICAS };
        let new = NewTopic::new(topic, PROGRESS_PARTITIONS as i32, TopicReplication::Fixed(replicas)).set("cleanup.policy", "compact");
        let new = if is_small { new } else { new.set("min.insync.replicas", PROGRESS_IN_SYNC_MIN) };
        let failed = |source| AdminError::CreateTopic { topic: topic.to_owned(), source };
        let results = self.client.create_topics([&new], &options()).await.map_err(failed)?;
        match results.into_iter().next().ok_or_else(|| failed(KafkaError::Canceled))? {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
            Err((topic, code)) => Err(AdminError::CreationRefused { topic, code }),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::mock::{PROGRESS, TOPIC, cluster};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_topics_that_there_are_are_listed() {
        let cluster = cluster();
        let names = Admin::new(&cluster.config).unwrap().topic_names(Duration::from_secs(10)).await.unwrap();
        assert_eq!(names, [TOPIC, PROGRESS.topic].map(str::to_owned).into());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_has_no_answer_in_time_has_failed() {
        let cluster = cluster();
        cluster.mock.broker_down(1).unwrap();
        let admin = Admin::new(&cluster.config).unwrap();
        let begun = Instant::now();
        // More than are asked about at the same time.
        let asked: BTreeSet<_> = (0..30_000).map(|number| format!("topic-{number}")).collect();
        let found = admin.topics(asked.clone(), Duration::from_secs(1)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(found.keys().eq(&asked) && found.values().all(Result::is_err));
    }
}
