//! Producers and consumers on all topics, in one process: what a cluster of that size does while weir looks at it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::task::JoinHandle;

use super::broker::{Broker, LATEST};
use crate::environment::Environment;
use crate::fixture::Fixture;
use crate::kafka::Listener;
use crate::wait;

/// Each topic gets so many records at once, into one partition after the other: a record a second. The client sends each
/// partition's by a request of its own, of which the broker shall have no more than it must.
const RECORDS: u64 = 4;
const ROUND: Duration = Duration::from_secs(4);
/// A round goes over the topics in so many steps.
const STEPS: usize = 20;
/// Between two commits of a group, which reads to the end at once.
const COMMIT_INTERVAL: Duration = Duration::from_secs(20);
/// The group that reads all topics, as one that fills a lake does.
const READS_ALL: usize = 0;
/// Of topics, the second group that reads them is so many groups after the first.
const SECOND_READER: usize = 37;
/// Of a commit, whose records the broker writes at once.
const TOPICS_A_COMMIT: usize = 100;
/// On a machine that is busy otherwise the last records take their time.
const FLUSH_LIMIT: Duration = Duration::from_secs(180);
/// The broker makes the topic for offsets when the first group comes.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// While the client holds as many records as it takes.
const FULL_WAIT: Duration = Duration::from_millis(5);
/// Of records that are counted and not looked at.
const SMALL: &[u8] = b"{}";
const VALUE: &[u8] = br#"{"event_type":"product_view","user":"4be1c09d77","product":42,"at":"2026-11-03T06:00:00Z"}"#;

/// What there is, and who reads it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Names of topics.
    pub topics: Vec<String>,
    /// Of each.
    pub partitions: usize,
    /// Names of groups; the first reads all topics, and each topic is read by two others.
    pub groups: Vec<String>,
    /// Topics whose first group has read nothing and does not move.
    pub standing: Range<usize>,
}

/// Counts what the broker took, and what it did not.
#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    failed: AtomicU64,
}

struct Counting(Arc<Counts>);

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.0.taken } else { &self.0.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

type Counted = ThreadedProducer<Counting>;

fn producer(fixture: &Fixture, counts: &Arc<Counts>) -> anyhow::Result<Counted> {
    let mut config = fixture.cluster.kafka.client(Listener::Plaintext)?;
    config.set("acks", "1").set("linger.ms", "20");
    Ok(Counted::from_config_and_context(&config, Counting(Arc::clone(counts)))?)
}

/// So many records of a time in each of the partitions of topics.
pub async fn produce_old(fixture: &Fixture, topics: Vec<String>, partitions: Range<i32>, records: usize, at_ms: i64) -> anyhow::Result<()> {
    let counts = Arc::<Counts>::default();
    let producer = producer(fixture, &counts)?;
    let expected = topics.len() * partitions.len() * records;
    let produce = move || {
        for (topic, partition) in topics.iter().flat_map(|topic| partitions.clone().map(move |partition| (topic, partition))) {
            for _ in 0..records {
                let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).timestamp(at_ms).payload(VALUE);
                producer.send(record).map_err(|(error, _)| error)?;
            }
        }
        producer.flush(FLUSH_LIMIT)
    };
    tokio::task::spawn_blocking(produce).await??;
    let taken = counts.taken.load(Ordering::Relaxed);
    ensure!(taken == u64::try_from(expected)?, "the broker took {taken} of {expected} old records");
    Ok(())
}

/// So many small records of a time in each partition of a topic, more than the client holds at once; returns when the broker has them.
pub async fn produce_many(fixture: &Fixture, topic: &str, records: &[usize], at_ms: i64) -> anyhow::Result<()> {
    let counts = Arc::<Counts>::default();
    let producer = producer(fixture, &counts)?;
    let expected: usize = records.iter().sum();
    let (topic, records) = (topic.to_owned(), records.to_vec());
    let produce = move || {
        for (partition, records) in (0..).zip(records) {
            for _ in 0..records {
                send(&producer, BaseRecord::to(&topic).partition(partition).timestamp(at_ms).payload(SMALL))?;
            }
        }
        producer.flush(FLUSH_LIMIT)
    };
    tokio::task::spawn_blocking(produce).await??;
    let taken = counts.taken.load(Ordering::Relaxed);
    ensure!(taken == u64::try_from(expected)?, "the broker took {taken} of {expected} records");
    Ok(())
}

/// Hands a record to the client as soon as that takes it.
fn send(producer: &Counted, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
    while let Err((error, same)) = producer.send(record) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            return Err(error);
        }
        std::thread::sleep(FULL_WAIT);
        record = same;
    }
    Ok(())
}

impl Scene {
    /// Topics that a group reads, by their numbers.
    fn read_by(&self, group: usize) -> Vec<usize> {
        let groups = self.groups.len();
        let reads = |topic: &usize| group == READS_ALL || topic % groups == group || (topic + SECOND_READER) % groups == group;
        (0..self.topics.len()).filter(reads).collect()
    }

    /// Whether a group has read nothing of a topic.
    fn stands(&self, group: usize, topic: usize) -> bool {
        self.standing.contains(&topic) && topic % self.groups.len() == group
    }

    /// Each group commits where its topics end.
    async fn commit(&self, broker: &mut Broker) -> anyhow::Result<()> {
        let ends = broker.offsets(self.topics.iter().map(String::as_str), self.partitions, LATEST).await?;
        for (number, group) in self.groups.iter().enumerate() {
            for topics in self.read_by(number).chunks(TOPICS_A_COMMIT) {
                let committed = topics.iter().filter_map(|topic| {
                    let name = self.topics[*topic].as_str();
                    let read = if self.stands(number, *topic) { vec![0; self.partitions] } else { ends.get(name)?.clone() };
                    Some((name, read))
                });
                broker.commit(group, committed).await?;
            }
        }
        Ok(())
    }
}

/// What goes on as long as this is there.
#[derive(Debug)]
struct Going(Arc<AtomicBool>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Goes on until it is stopped, or dropped.
#[derive(Debug)]
pub struct Traffic {
    going: Going,
    counts: Arc<Counts>,
    begun: Instant,
    produced: JoinHandle<anyhow::Result<()>>,
    consumed: JoinHandle<anyhow::Result<()>>,
}

impl Traffic {
    /// Returns when every group has committed.
    pub async fn start(fixture: &Fixture, scene: Scene) -> anyhow::Result<Self> {
        let environment: &Environment = &fixture.cluster.environment;
        let (going, counts) = (Going(Arc::new(AtomicBool::new(true))), Arc::<Counts>::default());
        let mut broker = Broker::connect(environment).await?;
        let are_ready = async || {
            for group in &scene.groups {
                broker.coordinates(group).await?;
            }
            scene.commit(&mut broker).await
        };
        wait::until("every group has committed", READY_LIMIT, are_ready).await?;
        let producer = producer(fixture, &counts)?;
        let (topics, partitions, goes_on) = (scene.topics.clone(), scene.partitions, Arc::clone(&going.0));
        let produced = tokio::task::spawn_blocking(move || produce(&producer, &topics, partitions, &goes_on));
        let goes_on = Arc::clone(&going.0);
        let consumed = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(COMMIT_INTERVAL);
            while goes_on.load(Ordering::Relaxed) {
                ticks.tick().await;
                scene.commit(&mut broker).await?;
            }
            Ok(())
        });
        Ok(Self { going, counts, begun: Instant::now(), produced, consumed })
    }

    /// Fails if a record or a commit failed; returns how many records the broker took a second.
    pub async fn stop(self) -> anyhow::Result<f64> {
        drop(self.going);
        self.produced.await?.context("records could not be produced")?;
        self.consumed.await?.context("offsets could not be committed")?;
        let failed = self.counts.failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "the broker did not take {failed} records");
        Ok(self.counts.taken.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64())
    }
}

/// Round after round, each topic into its next partition. Blocks.
fn produce(producer: &Counted, topics: &[String], partitions: usize, goes_on: &AtomicBool) -> anyhow::Result<()> {
    let step = ROUND / u32::try_from(STEPS)?;
    let mut due = Instant::now();
    for round in 0.. {
        for (number, topics) in topics.chunks(topics.len().div_ceil(STEPS)).enumerate() {
            if !goes_on.load(Ordering::Relaxed) {
                return Ok(producer.flush(FLUSH_LIMIT)?);
            }
            for (place, topic) in topics.iter().enumerate() {
                let partition = i32::try_from((round + number + place) % partitions)?;
                for _ in 0..RECORDS {
                    let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(VALUE);
                    producer.send(record).map_err(|(error, _)| error)?;
                }
            }
            due += step;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}
