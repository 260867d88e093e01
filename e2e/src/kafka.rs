//! What tests do with the broker: make topics, produce, and read what a `read_committed` reader sees.
//!
//! The client's settings are made here from the cluster's environment, apart from weir's own, so that weir is tested by
//! something other than itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::environment::{self, Environment, names};

/// How long one call to the broker may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long reading a topic to its end may take; tests read megabytes at most.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// How long to wait for the next record before looking at the deadline again.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a test could not use the broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment does not say how to reach it.
    #[error("the broker is not known")]
    Environment(#[from] environment::Error),
    /// A client could not be made.
    #[error("cannot make a Kafka client")]
    Client(#[source] KafkaError),
    /// The topic could not be made.
    #[error("cannot create the topic {topic}")]
    CreateTopic {
        /// The topic.
        topic: String,
        /// Why not.
        #[source]
        source: KafkaError,
    },
    /// A topic's settings could not be read.
    #[error("cannot describe the topic {topic}")]
    Describe {
        /// The topic.
        topic: String,
        /// Why not.
        #[source]
        source: KafkaError,
    },
    /// Topics could not be listed or deleted.
    #[error("cannot delete topics")]
    DeleteTopics(#[source] KafkaError),
    /// A record was not taken.
    #[error("cannot produce to {topic}")]
    Produce {
        /// The topic.
        topic: String,
        /// Why not.
        #[source]
        source: KafkaError,
    },
    /// The topic could not be read.
    #[error("cannot read {topic}")]
    Read {
        /// The topic.
        topic: String,
        /// Why not.
        #[source]
        source: KafkaError,
    },
    /// The end of the topic was not reached: an open transaction holds it back, or it grows faster than it is read.
    #[error("the end of {topic} was not reached within {seconds} s")]
    NoEnd {
        /// The topic.
        topic: String,
        /// The limit.
        seconds: u64,
    },
    /// A blocking task was cut off.
    #[error("reading {topic} was interrupted")]
    Interrupted {
        /// The topic.
        topic: String,
    },
}

/// The broker's three doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// No encryption, no identity.
    Plaintext,
    /// TLS.
    Ssl,
    /// SCRAM-SHA-512 over TLS.
    SaslSsl,
}

/// One record, as a reader got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in epoch milliseconds.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers; where a name stands twice, the last.
    pub headers: BTreeMap<String, Vec<u8>>,
}

/// The broker, as tests use it.
#[derive(Debug, Clone)]
pub struct Kafka {
    environment: Environment,
}

impl Kafka {
    /// The broker of that environment.
    pub fn new(environment: Environment) -> Self {
        Self { environment }
    }

    /// The settings of a client that comes in by one of the doors.
    pub fn client(&self, listener: Listener) -> Result<ClientConfig, Error> {
        let get = |name| self.environment.get(name);
        let mut config = ClientConfig::new();
        match listener {
            Listener::Plaintext => {
                config.set("bootstrap.servers", get(names::KAFKA_BOOTSTRAP)?);
            }
            Listener::Ssl => {
                config.set("bootstrap.servers", get(names::KAFKA_SSL_BOOTSTRAP)?);
                config.set("security.protocol", "SSL");
                config.set("ssl.ca.location", get(names::KAFKA_CA_FILE)?);
            }
            Listener::SaslSsl => {
                config.set("bootstrap.servers", get(names::KAFKA_SASL_BOOTSTRAP)?);
                config.set("security.protocol", "SASL_SSL");
                config.set("ssl.ca.location", get(names::KAFKA_CA_FILE)?);
                config.set("sasl.mechanism", "SCRAM-SHA-512");
                config.set("sasl.username", get(names::KAFKA_USERNAME)?);
                config.set("sasl.password", get(names::KAFKA_PASSWORD)?);
            }
        }
        Ok(config)
    }

    /// Makes a topic with one replica.
    pub async fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<(), Error> {
        let create_error = |source| Error::CreateTopic { topic: topic.to_owned(), source };
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let results = self.admin()?.create_topics([&new], &admin_options()).await.map_err(create_error)?;
        for result in results {
            result.map_err(|(_, code)| create_error(KafkaError::AdminOp(code)))?;
        }
        Ok(())
    }

    /// The value in effect of a topic's setting.
    pub async fn topic_setting(&self, topic: &str, key: &str) -> Result<Option<String>, Error> {
        let failed = |source| Error::Describe { topic: topic.to_owned(), source };
        let described = self.admin()?.describe_configs(&[ResourceSpecifier::Topic(topic)], &admin_options()).await.map_err(failed)?;
        for resource in described {
            if let Some(entry) = resource.map_err(|code| failed(KafkaError::AdminOp(code)))?.get(key) {
                return Ok(entry.value.clone());
            }
        }
        Ok(None)
    }

    /// Deletes every topic whose name `wanted` accepts.
    pub async fn delete_topics(&self, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        let admin = self.admin()?;
        let metadata = admin.inner().fetch_metadata(None, CALL_TIMEOUT).map_err(Error::DeleteTopics)?;
        let topics = metadata.topics().iter().map(|topic| topic.name()).filter(|name| wanted(name)).collect::<Vec<_>>();
        if topics.is_empty() {
            return Ok(());
        }
        for result in admin.delete_topics(&topics, &admin_options()).await.map_err(Error::DeleteTopics)? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((_, code)) => return Err(Error::DeleteTopics(KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }

    /// Produces one record and waits until the broker has it.
    pub async fn produce(&self, topic: &str, key: Option<&[u8]>, value: &[u8], timestamp: i64) -> Result<(), Error> {
        let producer = self.client(Listener::Plaintext)?.create::<FutureProducer>().map_err(Error::Client)?;
        let mut record = FutureRecord::<[u8], [u8]>::to(topic).payload(value).timestamp(timestamp);
        if let Some(key) = key {
            record = record.key(key);
        }
        let delivery = producer.send(record, CALL_TIMEOUT).await;
        delivery.map(drop).map_err(|(source, _)| Error::Produce { topic: topic.to_owned(), source })
    }

    /// Where each partition of a topic begins, and where it ends for a `read_committed` reader.
    pub async fn bounds(&self, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>, Error> {
        let (mut config, topic) = (self.client(Listener::Plaintext)?, topic.to_owned());
        config.set("isolation.level", "read_committed");
        let interrupted = Error::Interrupted { topic: topic.clone() };
        let bounds = tokio::task::spawn_blocking(move || {
            let read_error = |source| Error::Read { topic: topic.clone(), source };
            let consumer = config.create::<BaseConsumer>().map_err(Error::Client)?;
            let metadata = consumer.fetch_metadata(Some(&topic), CALL_TIMEOUT).map_err(read_error)?;
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
            let bounds = partitions.map(|id| Ok((id, consumer.fetch_watermarks(&topic, id, CALL_TIMEOUT).map_err(read_error)?)));
            bounds.collect::<Result<_, Error>>()
        });
        bounds.await.map_err(|_| interrupted)?
    }

    /// Reads a topic from its beginning to its end, as a `read_committed` reader sees it now. Sorted by partition and
    /// offset.
    pub async fn read_committed(&self, topic: &str) -> Result<Vec<Record>, Error> {
        self.read_committed_by(Listener::Plaintext, topic).await
    }

    /// The same, through one of the doors.
    pub async fn read_committed_by(&self, listener: Listener, topic: &str) -> Result<Vec<Record>, Error> {
        let mut config = self.client(listener)?;
        config.set("group.id", format!("weir-e2e-{topic}"));
        config.set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed");
        // Says when the last stable offset of a partition is reached.
        config.set("enable.partition.eof", "true");
        let topic = topic.to_owned();
        let interrupted = Error::Interrupted { topic: topic.clone() };
        tokio::task::spawn_blocking(move || read_to_end(&config, &topic)).await.map_err(|_| interrupted)?
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Error> {
        self.client(Listener::Plaintext)?.create().map_err(Error::Client)
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(CALL_TIMEOUT)).operation_timeout(Some(CALL_TIMEOUT))
}

fn read_to_end(config: &ClientConfig, topic: &str) -> Result<Vec<Record>, Error> {
    let read_error = |source| Error::Read { topic: topic.to_owned(), source };
    let consumer = config.create::<BaseConsumer>().map_err(Error::Client)?;
    let metadata = consumer.fetch_metadata(Some(topic), CALL_TIMEOUT).map_err(read_error)?;
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).map_err(read_error)?;
    }
    if assignment.count() == 0 {
        return Err(read_error(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)));
    }
    consumer.assign(&assignment).map_err(read_error)?;
    let mut open = assignment.count();
    let mut records = Vec::new();
    let deadline = Instant::now() + READ_TIMEOUT;
    while open > 0 {
        if Instant::now() > deadline {
            return Err(Error::NoEnd { topic: topic.to_owned(), seconds: READ_TIMEOUT.as_secs() });
        }
        match consumer.poll(POLL_TIMEOUT) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(source)) => return Err(read_error(source)),
            Some(Ok(message)) => records.push(record_of(&message)),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}

fn record_of(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.filter_map(|header| Some((header.key.to_owned(), header.value?.to_vec()))).collect(),
    }
}
