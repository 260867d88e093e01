//! Reading what a cluster and its topics are, and creating the one kind of topic that weir owns.
//!
//! This wraps the library's admin client, which is not handed out: the only change that can be made through here is the
//! creation of a progress topic. In particular nothing alters the configuration of an existing topic.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use crate::{
    config::{ConfigError, KafkaConfig},
    context::Logged,
    diagnosis, failure,
    native::{self, ClusterDescription, NativeError, PartitionDescription},
};

/// An answer to an administrative question; a healthy cluster gives it within milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const BEFORE_MAX: &str = "message.timestamp.before.max.ms";
const DIFFERENCE_MAX: &str = "message.timestamp.difference.max.ms";
const APPEARING_POLL: Duration = Duration::from_millis(100);
/// Readers of a progress partition are ordered by it being one.
const PROGRESS_PARTITIONS: usize = 1;
/// The broker's `default.replication.factor`.
const REPLICATION_OF_THE_BROKER: i32 = -1;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("the Kafka client cannot be configured")]
    Config(#[from] ConfigError),
    #[error("the Kafka client cannot be made")]
    Client(#[source] KafkaError),
    #[error("the cluster does not describe itself")]
    DescribeCluster(#[source] NativeError),
    #[error("topic {topic} cannot be described")]
    DescribeTopic {
        topic: String,
        #[source]
        source: NativeError,
    },
    #[error("the configuration of {of} cannot be read")]
    DescribeConfig {
        of: String,
        #[source]
        source: KafkaError,
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
            Self::DescribeCluster(source) | Self::DescribeTopic { source, .. } => match source {
                NativeError::Request { code, .. } => Some(*code),
                NativeError::Name(_) | NativeError::Null(_) | NativeError::Option { .. } | NativeError::NoAnswer(_) => None,
            },
            Self::DescribeConfig { source, .. } | Self::CreateTopic { source, .. } => source.rdkafka_error_code(),
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

/// The settings in effect on a topic, the brokers' defaults included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig(BTreeMap<String, String>);

impl TopicConfig {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The largest record batch that the topic takes.
    pub fn max_message_bytes(&self) -> Option<u64> {
        self.get("max.message.bytes")?.parse().ok()
    }

    /// Whether `cleanup.policy` contains `policy`.
    pub fn cleans_up_by(&self, policy: &str) -> bool {
        self.get("cleanup.policy").unwrap_or_default().split(',').any(|p| p.trim() == policy)
    }

    /// `None`: records stay for ever.
    pub fn retention(&self) -> Option<Duration> {
        let ms: i64 = self.get("retention.ms")?.parse().ok()?;
        u64::try_from(ms).ok().map(Duration::from_millis)
    }

    /// Whether the brokers replace the records' timestamps by the time of arrival.
    pub fn stamps_on_arrival(&self) -> bool {
        self.get("message.timestamp.type") == Some("LogAppendTime")
    }

    /// How far a record's timestamp may lie before the broker's clock, and the setting that says so; `None`: any time.
    /// The older name, which brokers before 4.0 have too, counts where the newer one is not set.
    pub fn timestamp_before_max(&self) -> Option<(&'static str, Duration)> {
        [BEFORE_MAX, DIFFERENCE_MAX].into_iter().find_map(|name| {
            let ms: i64 = self.get(name)?.parse().ok()?;
            (ms != i64::MAX).then(|| (name, Duration::from_millis(ms.unsigned_abs())))
        })
    }

    /// Whether the brokers know the setting by which times that are too old are refused: they do from 3.6 on.
    pub fn knows_timestamp_before_max(&self) -> bool {
        self.0.contains_key(BEFORE_MAX)
    }

    /// How many replicas must take a record.
    pub fn min_insync_replicas(&self) -> Option<usize> {
        self.get("min.insync.replicas")?.parse().ok()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for TopicConfig {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(entries: T) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
}

/// The settings of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerConfig(BTreeMap<String, String>);

impl BrokerConfig {
    /// Whether a record is only taken into a transaction that is under way; `None`: the broker does not know of that.
    pub fn verifies_transactions(&self) -> Option<bool> {
        self.0.get("transaction.partition.verification.enable").map(|value| value == "true")
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for BrokerConfig {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(entries: T) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
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

    pub async fn cluster(&self) -> Result<ClusterDescription, AdminError> {
        let client = Arc::clone(&self.client);
        let described = tokio::task::spawn_blocking(move || native::describe_cluster(client.inner(), REQUEST_TIMEOUT));
        match described.await.map_err(|_| AdminError::Interrupted)? {
            Ok(cluster) => Ok(cluster),
            Err(source) => Err(self.explained(AdminError::DescribeCluster(source)).await),
        }
    }

    /// `None` if there is no such topic.
    pub async fn topic(&self, topic: &str) -> Result<Option<TopicDescription>, AdminError> {
        let (client, name) = (Arc::clone(&self.client), topic.to_owned());
        let found = tokio::task::spawn_blocking(move || native::describe_topic(client.inner(), &name, REQUEST_TIMEOUT));
        match found.await.map_err(|_| AdminError::Interrupted)? {
            Ok(found) => Ok(found.map(|topic| TopicDescription { id: topic.id, partitions: topic.partitions })),
            Err(source) => Err(self.explained(AdminError::DescribeTopic { topic: topic.to_owned(), source }).await),
        }
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

    pub async fn topic_config(&self, topic: &str) -> Result<TopicConfig, AdminError> {
        self.config(ResourceSpecifier::Topic(topic), || format!("topic {topic}")).await.map(TopicConfig)
    }

    /// The settings of a broker; `None`: this identity may not read them.
    pub async fn broker_config(&self, broker: i32) -> Result<Option<BrokerConfig>, AdminError> {
        match self.config(ResourceSpecifier::Broker(broker), || format!("broker {broker}")).await {
            Ok(config) => Ok(Some(BrokerConfig(config))),
            Err(error) if error.is_denied() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn config(&self, of: ResourceSpecifier<'_>, name: impl Fn() -> String) -> Result<BTreeMap<String, String>, AdminError> {
        let failed = |source| AdminError::DescribeConfig { of: name(), source };
        let results = self.client.describe_configs([&of], &options()).await.map_err(failed)?;
        let resource = results.into_iter().next().ok_or_else(|| failed(KafkaError::Canceled))?;
        let resource = resource.map_err(|code| AdminError::ConfigRefused { of: name(), code })?;
        Ok(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
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
        let new = NewTopic::new(topic, PROGRESS_PARTITIONS as i32, TopicReplication::Fixed(REPLICATION_OF_THE_BROKER))
            .set("cleanup.policy", "compact");
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
    use super::*;

    fn config(entries: &[(&str, &str)]) -> TopicConfig {
        entries.iter().copied().collect()
    }

    #[test]
    fn infinite_is_not_a_duration() {
        assert_eq!(config(&[("retention.ms", "-1")]).retention(), None);
        assert_eq!(config(&[("retention.ms", "1500")]).retention(), Some(Duration::from_millis(1500)));
        assert_eq!(config(&[("message.timestamp.before.max.ms", "9223372036854775807")]).timestamp_before_max(), None);
        assert_eq!(config(&[(BEFORE_MAX, "7")]).timestamp_before_max(), Some((BEFORE_MAX, Duration::from_millis(7))));
        assert_eq!(config(&[(DIFFERENCE_MAX, "8")]).timestamp_before_max(), Some((DIFFERENCE_MAX, Duration::from_millis(8))));
    }

    #[test]
    fn policies_are_a_list() {
        let both = config(&[("cleanup.policy", "compact, delete")]);
        assert!(both.cleans_up_by("compact") && both.cleans_up_by("delete"));
        assert!(!config(&[("cleanup.policy", "compacted")]).cleans_up_by("compact"));
    }
}
