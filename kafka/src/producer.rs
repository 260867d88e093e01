//! One producer: initialised once, for one transaction. Each step of a transaction is a function of its own here.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    config::FromClientConfigAndContext as _,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
    types::RDKafkaErrorCode,
};

use crate::{
    config::KafkaConfig,
    delivery::{Delivered, Deliveries, Kind},
    failure::{self, Consequence, Facts, Time},
    native::flush::flush,
    transaction::{Operation, ProgressRecord, Record, TransactionError},
};

/// A transaction that its producer leaves open is aborted by the coordinator after this long; until then it holds back
/// every `read_committed` reader of its partitions.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// An abort waits for the reports on purged messages to be served, which only happens between two calls.
const ABORT_CALL_TIMEOUT: Duration = Duration::from_millis(200);
/// Messages that were sent and not acknowledged yet: enough for a few round trips, and what bounds memory.
const QUEUE_KILOBYTES_MAX: u64 = 16 * 1024;
/// The longest record that is sent, with its headers: the library never takes one that its queue does not hold.
pub const RECORD_BYTES_MAX: u64 = QUEUE_KILOBYTES_MAX * 1024;
const QUEUE_MESSAGES_MAX: u64 = 100_000;
/// Records wait for a full batch until they are asked for, which [`Producer::serve`] does. A record that has lingered long
/// enough makes the library's thread ask again and again whether it may be sent, for as long as another batch of its
/// partition is under way: on a busy machine that took ten times as much as everything else. The library wants less than the
/// transaction's timeout.
const LINGER: Duration = Duration::from_secs(9);
/// Uncompressed bytes of one batch, unless the topic's limit is lower.
const BATCH_BYTES_MAX: u64 = 1_000_000;
/// librdkafka's bounds of `message.max.bytes`.
const MESSAGE_BYTES_BOUNDS: (u64, u64) = (1_000, 1_000_000_000);
/// Deliveries are served every so many records: often enough for the queue to drain, rarely enough to cost nothing.
const SERVE_EVERY: u64 = 256;
/// The shortest and the longest pause between two looks at reports, while a queue is full or a call is to be made again: this
/// bounds by how much a transaction is later than it could be.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(32));

/// What all producers of a bucket have in common.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub config: KafkaConfig,
    pub topic: String,
    /// The topic's `max.message.bytes`.
    pub max_message_bytes: u64,
    pub bounds: Bounds,
}

/// How long a producer tries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// To initialise.
    pub init: Duration,
    /// To send, to deliver, to commit or to abort.
    pub end: Duration,
    /// One call to the library; between two the deliveries are served.
    pub call: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // The coordinator may first have to end what an earlier producer left, and to load its log after a restart.
            init: Duration::from_secs(60),
            // Longer than a transaction lives: whatever has not ended by then is found out by starting over.
            end: Duration::from_secs(15),
            call: Duration::from_secs(5),
        }
    }
}

/// A producer and its one transaction.
pub(crate) struct Producer {
    client: BaseProducer<Deliveries>,
    transactional_id: String,
    topic: String,
    bounds: Bounds,
    sent: u64,
    /// Of their keys and values.
    sent_bytes: u64,
    /// Before the next look at reports.
    pause: Cell<Duration>,
}

impl Producer {
    /// Makes a producer; nothing is sent yet.
    pub fn new(settings: &Settings, transactional_id: &str) -> Result<Self, TransactionError> {
        let message_bytes_max = settings.max_message_bytes.clamp(MESSAGE_BYTES_BOUNDS.0, MESSAGE_BYTES_BOUNDS.1);
        let mut config = settings.config.client()?;
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
            // A topic that somebody has deleted is never made again by asking for it.
            .set("allow.auto.create.topics", "false")
            .set("compression.type", "lz4")
            .set("linger.ms", LINGER.as_millis().to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KILOBYTES_MAX.to_string())
            .set("queue.buffering.max.messages", QUEUE_MESSAGES_MAX.to_string())
            // A batch is limited before compression, so that none is refused for its size.
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("batch.size", BATCH_BYTES_MAX.min(message_bytes_max).to_string());
        let client = BaseProducer::from_config_and_context(&config, Deliveries::default()).map_err(TransactionError::Client)?;
        Ok(Self {
            client,
            transactional_id: transactional_id.to_owned(),
            topic: settings.topic.clone(),
            bounds: settings.bounds,
            sent: 0,
            sent_bytes: 0,
            pause: Cell::new(PAUSES.0),
        })
    }

    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Takes the transactional id: whatever an earlier producer of it left open has ended, one way or the other, when this
    /// returns, and nothing that one sends is taken any more. `given_up` ends the waiting.
    pub fn init(&self, given_up: &AtomicBool) -> Result<(), TransactionError> {
        // So that the first record does not wait for them; and a library that has no connection yet when it is asked to
        // initialise looks again after half a second. What is wrong with the topic is told by sending to it.
        if let Err(error) = self.client.client().fetch_metadata(Some(&self.topic), self.bounds.call) {
            tracing::debug!(%error, topic = self.topic, "metadata were not fetched ahead");
        }
        self.call(Operation::Init, self.bounds.init, |client| {
            if given_up.load(Ordering::Relaxed) { Err(KafkaError::Canceled) } else { client.init_transactions(self.bounds.call) }
        })
    }

    pub fn begin(&self) -> Result<(), TransactionError> {
        self.call(Operation::Begin, self.bounds.call, |client| client.begin_transaction())
    }

    /// Hands a record to the library; waits while its queue is full.
    pub fn send(&mut self, record: Record<'_>) -> Result<(), TransactionError> {
        let serves = (self.sent + 1).is_multiple_of(SERVE_EVERY);
        if serves {
            self.come_to(Operation::Send, Operation::Send.points().0)?;
        }
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        // librdkafka takes 0 for "now", so that the time 1970-01-01T00:00:00Z cannot be sent: it never comes this far,
        // since assembling sets such rows aside.
        self.enqueue(BaseRecord {
            topic: &self.topic,
            partition: Some(record.partition),
            payload: Some(record.value),
            key: record.key,
            timestamp: record.timestamp_ms,
            headers: Some(headers),
            delivery_opaque: Kind::Record.to_opaque(),
        })?;
        self.sent += 1;
        self.sent_bytes += (record.value.len() + record.key.map_or(0, <[u8]>::len)) as u64;
        if serves {
            self.client.poll(Duration::ZERO);
            self.come_to(Operation::Send, Operation::Send.points().1)?;
        }
        Ok(())
    }

    /// Hands over a record of the progress topic.
    pub fn send_progress(&self, progress: ProgressRecord<'_>) -> Result<(), TransactionError> {
        self.enqueue(BaseRecord {
            topic: progress.topic,
            partition: Some(crate::progress::PARTITION),
            payload: Some(progress.value),
            key: Some(progress.key.as_bytes()),
            timestamp: None,
            headers: None,
            delivery_opaque: Kind::Progress.to_opaque(),
        })
    }

    fn enqueue(&self, mut message: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), TransactionError> {
        let deadline = Instant::now() + self.bounds.end;
        while let Err((source, refused)) = self.client.send(message) {
            self.go_on_after(Operation::Send, Facts::of(&source), source, deadline)?;
            message = refused;
        }
        Ok(())
    }

    /// Waits for the reports on everything that was sent. The library's own flush serves reports in turns of a tenth of a
    /// second, however early they come.
    pub fn flush(&self) -> Result<(), TransactionError> {
        self.come_to(Operation::Deliver, Operation::Deliver.points().0)?;
        self.pause.set(PAUSES.0);
        let deadline = Instant::now() + self.bounds.end;
        while self.client.in_flight_count() > 0 {
            let waiting = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
            self.go_on_after(Operation::Deliver, Facts::of(&waiting), waiting, deadline)?;
        }
        let kept_back = weir_failpoints::hit(Operation::Deliver.points().1).map(|_| RDKafkaErrorCode::MessageTimedOut);
        match kept_back.or_else(|| self.client.context().failure()) {
            None => Ok(()),
            Some(code) => {
                let source = KafkaError::MessageProduction(code);
                self.go_on_after(Operation::Deliver, Facts::of_undelivered(code), source, deadline)
            }
        }
    }

    /// Serves reports. Where there are none, has sent what lingers and waits, longer each time until one comes: while the
    /// library is asked to send, its threads ask again and again whether a batch that is under way has arrived. So it is not
    /// asked as long as there are full batches, which go by themselves, unless nothing has come for long. Its poll is no way to
    /// wait either: it counts in whole milliseconds and spends what is left of one asking.
    fn serve(&self) {
        let before = self.client.in_flight_count();
        self.client.poll(Duration::ZERO);
        let left = self.client.in_flight_count();
        if left < before {
            self.pause.set(PAUSES.0);
            return;
        }
        if self.is_less_than_a_batch(left) || self.pause.get() == PAUSES.1 {
            flush(self.client.client(), PAUSES.0);
        }
        std::thread::sleep(self.pause.get());
        self.pause.set((self.pause.get() * 2).min(PAUSES.1));
    }

    /// Whether so many records, of the size that they have on average, are less than a full batch.
    fn is_less_than_a_batch(&self, records: i32) -> bool {
        u64::from(records.unsigned_abs()) * self.sent_bytes / self.sent.max(1) < BATCH_BYTES_MAX
    }

    /// Where the records lie that were delivered since this was asked before.
    pub fn take_delivered(&self) -> BTreeMap<i32, Delivered> {
        self.client.context().take_delivered()
    }

    /// Commits. What became of a transaction whose commit failed is not known, unless it says `Fenced` or `Refused`: never
    /// `AbortAndRewind`.
    pub fn commit(&self) -> Result<(), TransactionError> {
        self.call(Operation::Commit, self.bounds.end, |client| client.commit_transaction(self.bounds.call))
    }

    pub fn abort(&self) -> Result<(), TransactionError> {
        self.call(Operation::Abort, self.bounds.end, |client| client.abort_transaction(ABORT_CALL_TIMEOUT))
    }

    /// Makes a call, and makes it again for as long as that is its error's consequence, within `bound`.
    fn call(
        &self,
        operation: Operation,
        bound: Duration,
        mut attempt: impl FnMut(&BaseProducer<Deliveries>) -> Result<(), KafkaError>,
    ) -> Result<(), TransactionError> {
        let (send, done) = operation.points();
        self.come_to(operation, send)?;
        let deadline = Instant::now() + bound;
        while let Err(source) = attempt(&self.client) {
            self.go_on_after(operation, Facts::of(&source), source, deadline)?;
        }
        self.come_to(operation, done)
    }

    /// Comes to a failpoint: what fails or loses its answer there has failed as something of which nobody knows what became.
    fn come_to(&self, operation: Operation, point: &'static str) -> Result<(), TransactionError> {
        match weir_failpoints::hit(point) {
            None => Ok(()),
            Some(_) => self.go_on_after(operation, Facts::of(&LOST), LOST, Instant::now()),
        }
    }

    /// Whether to make a call again, after a moment; if not, it has failed for good. Where the producer has had a fatal
    /// error, that is the one which is told of.
    fn go_on_after(&self, operation: Operation, facts: Facts, source: KafkaError, deadline: Instant) -> Result<(), TransactionError> {
        let fatal = self.client.client().fatal_error().map(|(code, _)| code);
        let time = if Instant::now() < deadline { Time::Left } else { Time::Up };
        let consequence = failure::consequence(operation, facts.with_fatal(fatal), time);
        if consequence == Consequence::Retry {
            self.serve();
            return Ok(());
        }
        let refused = if consequence == Consequence::AbortAndRewind { self.refusal() } else { None };
        Err(match refused {
            Some(source) => TransactionError::Call { operation, consequence: Consequence::Refused, source },
            None => TransactionError::Call { operation, consequence, source: fatal.map_or(source, KafkaError::Global) },
        })
    }

    /// What the brokers refuse of a transaction that must be aborted. The library purges its queues first, so that reports and
    /// later calls may tell of that alone; another beginning, which it refuses, tells the reason.
    fn refusal(&self) -> Option<KafkaError> {
        let told = self.client.begin_transaction().err()?;
        let consequence = failure::consequence(Operation::Begin, Facts::of(&told), Time::Up);
        (consequence == Consequence::Refused).then_some(told)
    }
}

/// Of a call whose answer a failpoint kept back: nobody knows what became of it.
const LOST: KafkaError = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
