//! Transactions of one bucket: data and the progress record in the same one, the progress last.
//!
//! A [`Session`] stands for the right to publish to a bucket: opening it fences every earlier session of the same
//! transactional id. How many producers it keeps, and how it takes turns among them, is its own affair: users see
//! [`Session::begin`] and [`Transaction`]. Synchronous: calls block their thread, each within a stated bound.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
    types::RDKafkaErrorCode,
};
use weir_crds::contract::manifest::OffsetRange;

use crate::{
    config::{ConfigError, KafkaConfig},
    delivery::{Deliveries, Mark},
    failure::{self, Consequence, Facts, consequence},
    range::{Isolation, RangeError, Reader},
};

/// A transaction that its producer leaves open is aborted by the coordinator after this long; until then it holds back
/// every `read_committed` reader of its partitions.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The coordinator may first have to end what an earlier producer left, and to load its log after a restart.
const INIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than a transaction lives: whatever has not ended by then is found out by starting over.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// One call; between two the deliveries are served.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// An abort waits for the reports on purged messages to be served, which only happens between two calls.
const ABORT_CALL_TIMEOUT: Duration = Duration::from_millis(200);
/// Messages that were sent and not acknowledged yet: enough for a few round trips, and what bounds memory.
const QUEUE_KILOBYTES_MAX: u64 = 32 * 1024;
const QUEUE_MESSAGES_MAX: u64 = 100_000;
/// Records wait this long for others to share a request.
const LINGER_MS: u64 = 5;
/// Uncompressed bytes of one batch, unless the topic's limit is lower.
const BATCH_BYTES_MAX: u64 = 1_000_000;
/// librdkafka's bounds of `message.max.bytes`.
const MESSAGE_BYTES_BOUNDS: (u64, u64) = (1_000, 1_000_000_000);
/// Deliveries are served every so many records: often enough for the queue to drain, rarely enough to cost nothing.
const SERVE_EVERY: u64 = 256;
/// Reports are served for so long while a queue is full or a call is to be made again. Polling takes all of the time that
/// it is given, so this bounds by how much a transaction is later than it could be.
const SERVE: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    #[error("the Kafka client cannot be configured")]
    Config(#[from] ConfigError),
    #[error("the producer cannot be made")]
    Client(#[source] KafkaError),
    #[error("the end offsets of the target cannot be read")]
    Offsets(#[source] RangeError),
    #[error("{operation} failed")]
    Call {
        operation: Operation,
        consequence: Consequence,
        #[source]
        source: KafkaError,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Init,
    Begin,
    Send,
    Deliver,
    Commit,
    Abort,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Init => "initialising the transactional id",
            Self::Begin => "beginning a transaction",
            Self::Send => "sending a record",
            Self::Deliver => "delivering the records",
            Self::Commit => "committing the transaction",
            Self::Abort => "aborting the transaction",
        })
    }
}

impl TransactionError {
    /// What to do next. What is wrong with the configuration stays wrong.
    pub fn consequence(&self) -> Consequence {
        match self {
            Self::Config(_) | Self::Client(_) => Consequence::Refused,
            Self::Offsets(error) if error.is_denied() => Consequence::Refused,
            Self::Offsets(_) => Consequence::StartOver,
            Self::Call { consequence, .. } => *consequence,
        }
    }

    /// Whether the cluster said that this identity may not.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Config(_) | Self::Client(_) => false,
            Self::Offsets(error) => error.is_denied(),
            Self::Call { source, .. } => source.rdkafka_error_code().is_some_and(failure::is_denied),
        }
    }
}

/// What is published to, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub config: &'a KafkaConfig,
    pub transactional_id: &'a str,
    pub topic: &'a str,
    /// The partitions of the bucket.
    pub partitions: &'a [i32],
    /// The topic's `max.message.bytes`.
    pub max_message_bytes: u64,
}

/// A record to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub partition: i32,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    /// `None`: the time of sending.
    pub timestamp_ms: Option<i64>,
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// The progress record that ends a transaction.
#[derive(Clone, Copy, Debug)]
pub struct ProgressRecord<'a> {
    pub topic: &'a str,
    pub key: &'a str,
    pub value: &'a [u8],
}

/// The right to publish to a bucket, until somebody else takes it.
pub struct Session {
    producer: BaseProducer<Deliveries>,
    topic: String,
    /// Reads end offsets where a delivery report has none.
    ends: Reader,
    /// By partition: no record of the next transaction lies before this offset.
    floors: BTreeMap<i32, i64>,
    open: bool,
}

impl Session {
    /// Fences every earlier session of this transactional id and ends what it left open. Once this returns, nothing of an
    /// earlier session can be committed any more, so that progress can be read.
    pub fn open(target: Target<'_>) -> Result<Self, TransactionError> {
        let producer = producer(target)?;
        call(&producer, Operation::Init, INIT_TIMEOUT, |p| p.init_transactions(CALL_TIMEOUT))?;
        let ends = Reader::new(target.config, target.topic, Isolation::Uncommitted).map_err(TransactionError::Offsets)?;
        let mut floors = BTreeMap::new();
        for partition in target.partitions {
            let (_, end) = ends.bounds(*partition).map_err(TransactionError::Offsets)?;
            floors.insert(*partition, end);
        }
        Ok(Self { producer, topic: target.topic.to_owned(), ends, floors, open: false })
    }

    /// Begins a transaction; one that was left open is aborted first.
    pub fn begin(&mut self) -> Result<Transaction<'_>, TransactionError> {
        self.abort()?;
        let number = self.producer.context().next_transaction();
        call(&self.producer, Operation::Begin, CALL_TIMEOUT, |p| p.begin_transaction())?;
        self.open = true;
        Ok(Transaction { session: self, number, sent: 0 })
    }

    /// Aborts the open transaction, if there is one. Its records are never seen.
    pub fn abort(&mut self) -> Result<(), TransactionError> {
        if self.open {
            call(&self.producer, Operation::Abort, END_TIMEOUT, |p| p.abort_transaction(ABORT_CALL_TIMEOUT))?;
            self.open = false;
        }
        Ok(())
    }

    /// Waits for the reports on everything that was sent. The library's own flush serves reports in turns of a tenth of a
    /// second, however early they come.
    fn flush(&self) -> Result<(), TransactionError> {
        let deadline = Instant::now() + END_TIMEOUT;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                let source = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(TransactionError::Call { operation: Operation::Deliver, consequence: Consequence::StartOver, source });
            }
            self.producer.poll(SERVE);
        }
        match self.producer.context().failure() {
            None => Ok(()),
            Some(code) => Err(self.undelivered(code)),
        }
    }

    /// A record that was not delivered: its transaction cannot be committed, whatever else the code means.
    fn undelivered(&self, code: RDKafkaErrorCode) -> TransactionError {
        let (code, fatal) = self.producer.client().fatal_error().map_or((code, false), |(code, _)| (code, true));
        let facts = Facts { code: Some(code), fatal, abortable: true, retriable: false };
        TransactionError::Call {
            operation: Operation::Deliver,
            consequence: consequence(facts),
            source: KafkaError::MessageProduction(code),
        }
    }

    /// Where the records of the open transaction lie, all of which are delivered.
    fn offsets(&mut self) -> Result<BTreeMap<i32, OffsetRange>, TransactionError> {
        let mut ranges = BTreeMap::new();
        for (partition, delivered) in self.producer.context().delivered() {
            let floor = self.floors.get(&partition).copied().unwrap_or(0);
            let range = match delivered.range.filter(|_| !delivered.unknown) {
                Some(range) => range,
                // A broker that recognises a repeated batch acknowledges it without an offset. Between the ends before
                // and after, the records are there, perhaps among others'.
                None => {
                    let (_, end) = self.ends.bounds(partition).map_err(TransactionError::Offsets)?;
                    OffsetRange { first: floor, last: end - 1 }
                }
            };
            self.floors.insert(partition, range.last + 1);
            ranges.insert(partition, range);
        }
        Ok(ranges)
    }
}

/// An open transaction. Dropped without a commit it is aborted by the session's next call, at the latest by the
/// coordinator after [`TRANSACTION_TIMEOUT`].
pub struct Transaction<'a> {
    session: &'a mut Session,
    number: usize,
    sent: u64,
}

impl Transaction<'_> {
    /// Hands a record to the producer; waits while its queue is full.
    pub fn send(&mut self, record: Record<'_>) -> Result<(), TransactionError> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let topic = self.session.topic.as_str();
        // librdkafka takes 0 for "now", so that the time 1970-01-01T00:00:00Z cannot be sent: it never comes this far,
        // since assembling sets such rows aside.
        let message = BaseRecord {
            topic,
            partition: Some(record.partition),
            payload: Some(record.value),
            key: record.key,
            timestamp: record.timestamp_ms,
            headers: Some(headers),
            delivery_opaque: Mark { transaction: self.number, is_record: true }.to_opaque(),
        };
        enqueue(&self.session.producer, message)?;
        self.sent += 1;
        if self.sent.is_multiple_of(SERVE_EVERY) {
            self.session.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    /// Waits until all records that were sent are delivered, and says where they lie.
    pub fn delivered(&mut self) -> Result<BTreeMap<i32, OffsetRange>, TransactionError> {
        self.session.flush()?;
        self.session.offsets()
    }

    /// Sends the progress record and commits. On any error but `Fenced` and `Refused` what became of the transaction
    /// is found out by starting over: the consequence never is `AbortAndRewind`.
    pub fn commit(self, progress: ProgressRecord<'_>) -> Result<(), TransactionError> {
        let Self { session, number, .. } = self;
        let message = BaseRecord {
            topic: progress.topic,
            partition: Some(crate::progress::PARTITION),
            payload: Some(progress.value),
            key: Some(progress.key.as_bytes()),
            timestamp: None,
            headers: None,
            delivery_opaque: Mark { transaction: number, is_record: false }.to_opaque(),
        };
        enqueue(&session.producer, message)?;
        session.flush()?;
        // If we die here, or the answer is lost, the next `init_transactions` of this id ends the transaction one way or
        // the other, and the progress record, which is part of it, says which.
        let committed = call(&session.producer, Operation::Commit, END_TIMEOUT, |p| p.commit_transaction(CALL_TIMEOUT));
        committed.map_err(|error| match error {
            TransactionError::Call { operation, consequence: Consequence::AbortAndRewind | Consequence::Retry, source } => {
                TransactionError::Call { operation, consequence: Consequence::StartOver, source }
            }
            error @ (TransactionError::Config(_)
            | TransactionError::Client(_)
            | TransactionError::Offsets(_)
            | TransactionError::Call { .. }) => error,
        })?;
        session.open = false;
        Ok(())
    }
}

fn producer(target: Target<'_>) -> Result<BaseProducer<Deliveries>, TransactionError> {
    use rdkafka::config::FromClientConfigAndContext as _;
    let message_bytes_max = target.max_message_bytes.clamp(MESSAGE_BYTES_BOUNDS.0, MESSAGE_BYTES_BOUNDS.1);
    let mut config = target.config.client()?;
    config
        .set("transactional.id", target.transactional_id)
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
        .set("compression.type", "lz4")
        .set("linger.ms", LINGER_MS.to_string())
        .set("queue.buffering.max.kbytes", QUEUE_KILOBYTES_MAX.to_string())
        .set("queue.buffering.max.messages", QUEUE_MESSAGES_MAX.to_string())
        // A batch is limited before compression, so that none is refused for its size.
        .set("message.max.bytes", message_bytes_max.to_string())
        .set("batch.size", BATCH_BYTES_MAX.min(message_bytes_max).to_string());
    BaseProducer::from_config_and_context(&config, Deliveries::default()).map_err(TransactionError::Client)
}

/// Makes a call again for as long as that is its error's consequence, within `bound`; then the call has failed for good.
fn call(
    producer: &BaseProducer<Deliveries>,
    operation: Operation,
    bound: Duration,
    mut attempt: impl FnMut(&BaseProducer<Deliveries>) -> Result<(), KafkaError>,
) -> Result<(), TransactionError> {
    let deadline = Instant::now() + bound;
    loop {
        let Err(source) = attempt(producer) else { return Ok(()) };
        let mut facts = Facts::of(&source);
        if let Some((code, _)) = producer.client().fatal_error() {
            facts = Facts { code: Some(code), fatal: true, ..facts };
        }
        match consequence(facts) {
            Consequence::Retry if Instant::now() < deadline => {
                producer.poll(SERVE);
            }
            Consequence::Retry => return Err(TransactionError::Call { operation, consequence: Consequence::StartOver, source }),
            consequence @ (Consequence::AbortAndRewind | Consequence::StartOver | Consequence::Fenced | Consequence::Refused) => {
                return Err(TransactionError::Call { operation, consequence, source });
            }
        }
    }
}

fn enqueue(producer: &BaseProducer<Deliveries>, mut message: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), TransactionError> {
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        let Err((source, refused)) = producer.send(message) else { return Ok(()) };
        let mut facts = Facts::of(&source);
        if let Some((code, _)) = producer.client().fatal_error() {
            facts = Facts { code: Some(code), fatal: true, ..facts };
        }
        let full = facts.code == Some(RDKafkaErrorCode::QueueFull);
        if full && Instant::now() < deadline {
            producer.poll(SERVE);
            message = refused;
            continue;
        }
        // A queue that does not drain: what is in it will not be delivered within the transaction's time.
        let consequence = if full { Consequence::AbortAndRewind } else { consequence(facts) };
        return Err(TransactionError::Call { operation: Operation::Send, consequence, source });
    }
}
