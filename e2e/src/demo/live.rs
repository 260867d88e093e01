//! NovaShop's phones that work: a producer that writes other events to the same topic all the while, by the partitioner that
//! they all use. What the broker acknowledged is written down, since it must still be there in the end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::kafka::{self, Kafka, Listener};

/// A hundred records a second: enough to lie between all that is rebuilt, too little to be in its way.
const INTERVAL: Duration = Duration::from_millis(10);

/// Why the live producer did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A client could not be made.
    #[error("cannot make the live producer")]
    Client(#[source] kafka::Error),
    /// rdkafka refused the settings.
    #[error("cannot make the live producer")]
    Producer(#[source] KafkaError),
    /// A record was not taken.
    #[error("the broker did not take a live record")]
    Produce(#[source] KafkaError),
    /// The list could not be written.
    #[error("cannot write {path}")]
    List {
        /// The list.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The producer's task is gone.
    #[error("the live producer died")]
    Died,
}

/// A running producer.
#[derive(Debug)]
pub struct Live {
    list: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<u64, Error>>,
}

impl Live {
    /// Starts to produce; what is acknowledged is listed in a file.
    pub fn start(kafka: &Kafka, topic: &str, list: &Path) -> Result<Self, Error> {
        let mut config = kafka.client(Listener::Plaintext).map_err(Error::Client)?;
        // As the Java client places keys.
        config.set("partitioner", "murmur2_random").set("enable.idempotence", "true");
        let producer = config.create().map_err(Error::Producer)?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(produce(producer, topic.to_owned(), list.to_path_buf(), stopped));
        Ok(Self { list: list.to_path_buf(), stop, task })
    }

    /// Ends it when everything is acknowledged; returns the list and how many records are in it.
    pub async fn end(self) -> Result<(PathBuf, u64), Error> {
        // A producer that ended before has an error to tell.
        let _ = self.stop.send(());
        let count = self.task.await.map_err(|_| Error::Died)??;
        Ok((self.list, count))
    }
}

async fn produce(producer: FutureProducer, topic: String, path: PathBuf, mut stop: oneshot::Receiver<()>) -> Result<u64, Error> {
    let list_error = |source| Error::List { path: path.clone(), source };
    let mut list = std::io::BufWriter::new(std::fs::File::create(&path).map_err(list_error)?);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = FuturesUnordered::new();
    let (mut sent, mut listed, mut is_open) = (0u64, 0, true);
    while is_open || !open.is_empty() {
        tokio::select! {
            _ = &mut stop, if is_open => is_open = false,
            _ = ticks.tick(), if is_open => {
                sent += 1;
                open.push(send(&producer, &topic, sent));
            }
            Some(line) = open.next() => {
                writeln!(list, "{}", line?).map_err(list_error)?;
                listed += 1;
            }
        }
    }
    list.flush().map_err(list_error)?;
    Ok(listed)
}

/// Sends a record and describes it once it is acknowledged.
async fn send(producer: &FutureProducer, topic: &str, number: u64) -> Result<serde_json::Value, Error> {
    const SEND_TIMEOUT: Duration = Duration::from_secs(60);
    let timestamp = jiff::Timestamp::now().as_millisecond();
    // Keys of the shop's customers, so that live and rebuilt events of one key share a partition.
    let user = 1 + number * 7919 % 2000;
    let key = user.to_string();
    let value = json!({"event_id": format!("live-{number}"), "event_type": "app_opened", "event_time": timestamp, "user_id": user});
    let value = value.to_string();
    let record = FutureRecord::to(topic).key(&key).payload(&value).timestamp(timestamp);
    let delivered = producer.send(record, SEND_TIMEOUT).await.map_err(|(error, _)| Error::Produce(error))?;
    Ok(json!({"partition": delivered.partition, "offset": delivered.offset, "key": key, "timestamp": timestamp, "value": value}))
}
