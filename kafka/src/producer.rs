//! One producer: initialised once, for one transaction. Each step of a transaction is a function of its own here.

use std::{
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
    failure::{Consequence, Facts, consequence},
    transaction::{Operation, ProgressRecord, Record, TransactionError},
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
/// The pause between two looks at reports while a queue is full or a call is to be made again: this bounds by how much a
/// transaction is later than it could be.
const SERVE: Duration = Duration::from_millis(1);

/// What all producers of a bucket have in common.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub config: KafkaConfig,
    pub topic: String,
    /// The topic's `max.message.bytes`.
    pub max_message_bytes: u64,
}

/// A producer and its one transaction.
pub(crate) struct Producer {
    client: BaseProducer<Deliveries>,
    transactional_id: String,
    topic: String,
    sent: u64,
}

impl Producer {
    /// Makes a producer; nothing is sent yet.
    pub fn new(settings: &Settings, transactional_id: &str) -> Result<Self, TransactionError> {
        let message_bytes_max = settings.max_message_bytes.clamp(MESSAGE_BYTES_BOUNDS.0, MESSAGE_BYTES_BOUNDS.1);
        let mut config = settings.config.client()?;
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
            .set("compression.type", "lz4")
            .set("linger.ms", LINGER_MS.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KILOBYTES_MAX.to_string())
            .set("queue.buffering.max.messages", QUEUE_MESSAGES_MAX.to_string())
            // A batch is limited before compression, so that none is refused for its size.
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("batch.size", BATCH_BYTES_MAX.min(message_bytes_max).to_string());
        let client = BaseProducer::from_config_and_context(&config, Deliveries::default()).map_err(TransactionError::Client)?;
        Ok(Self { client, transactional_id: transactional_id.to_owned(), topic: settings.topic.clone(), sent: 0 })
    }

    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Takes the transactional id: whatever an earlier producer of it left open has ended, one way or the other, when this
    /// returns, and nothing that one sends is taken any more. `given_up` ends the waiting.
    pub fn init(&self, given_up: &AtomicBool) -> Result<(), TransactionError> {
        // So that the first record does not wait for them; and a library that has no connection yet when it is asked to
        // initialise looks again after half a second. What is wrong with the topic is told by sending to it.
        if let Err(error) = self.client.client().fetch_metadata(Some(&self.topic), CALL_TIMEOUT) {
            tracing::debug!(%error, topic = self.topic, "metadata were not fetched ahead");
        }
        self.call(Operation::Init, INIT_TIMEOUT, |client| {
            if given_up.load(Ordering::Relaxed) { Err(KafkaError::Canceled) } else { client.init_transactions(CALL_TIMEOUT) }
        })
    }

    pub fn begin(&self) -> Result<(), TransactionError> {
        self.call(Operation::Begin, CALL_TIMEOUT, |client| client.begin_transaction())
    }

    /// Hands a record to the library; waits while its queue is full.
    pub fn send(&mut self, record: Record<'_>) -> Result<(), TransactionError> {
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
        if self.sent.is_multiple_of(SERVE_EVERY) {
            self.client.poll(Duration::ZERO);
            weir_failpoints::reached(Operation::Send.points().1);
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
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            let Err((source, refused)) = self.client.send(message) else { return Ok(()) };
            let facts = self.facts(&source);
            let full = facts.code == Some(RDKafkaErrorCode::QueueFull);
            if full && Instant::now() < deadline {
                self.serve();
                message = refused;
                continue;
            }
            // A queue that does not drain: what is in it will not be delivered within the transaction's time.
            let consequence = if full { Consequence::AbortAndRewind } else { consequence(facts) };
            return Err(TransactionError::Call { operation: Operation::Send, consequence, source });
        }
    }

    /// Waits for the reports on everything that was sent. The library's own flush serves reports in turns of a tenth of a
    /// second, however early they come.
    pub fn flush(&self) -> Result<(), TransactionError> {
        weir_failpoints::reached(Operation::Deliver.points().0);
        let deadline = Instant::now() + END_TIMEOUT;
        while self.client.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                let source = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(TransactionError::Call { operation: Operation::Deliver, consequence: Consequence::StartOver, source });
            }
            self.serve();
        }
        if weir_failpoints::hit(Operation::Deliver.points().1).is_some() {
            return Err(self.undelivered(RDKafkaErrorCode::MessageTimedOut));
        }
        match self.client.context().failure() {
            None => Ok(()),
            Some(code) => Err(self.undelivered(code)),
        }
    }

    /// Serves a report, or waits where there is none. The library counts its own waiting in whole milliseconds and spends what
    /// is left of one asking again and again: for a millisecond it would do nothing else.
    fn serve(&self) {
        let before = self.client.in_flight_count();
        self.client.poll(Duration::ZERO);
        if self.client.in_flight_count() == before {
            std::thread::sleep(SERVE);
        }
    }

    /// A record that was not delivered: its transaction cannot be committed, whatever else the code means.
    fn undelivered(&self, code: RDKafkaErrorCode) -> TransactionError {
        let (code, fatal) = self.client.client().fatal_error().map_or((code, false), |(code, _)| (code, true));
        let facts = Facts { code: Some(code), fatal, abortable: true, retriable: false };
        TransactionError::Call {
            operation: Operation::Deliver,
            consequence: consequence(facts),
            source: KafkaError::MessageProduction(code),
        }
    }

    /// Where the delivered records lie.
    pub fn delivered(&self) -> BTreeMap<i32, Delivered> {
        self.client.context().delivered()
    }

    /// Commits. What became of a transaction whose commit failed is not known, unless it says `Fenced` or `Refused`: never
    /// `AbortAndRewind`.
    pub fn commit(&self) -> Result<(), TransactionError> {
        self.call(Operation::Commit, END_TIMEOUT, |client| client.commit_transaction(CALL_TIMEOUT)).map_err(TransactionError::in_doubt)
    }

    pub fn abort(&self) -> Result<(), TransactionError> {
        self.call(Operation::Abort, END_TIMEOUT, |client| client.abort_transaction(ABORT_CALL_TIMEOUT))
    }

    /// Makes a call again for as long as that is its error's consequence, within `bound`; then the call has failed for good.
    fn call(
        &self,
        operation: Operation,
        bound: Duration,
        mut attempt: impl FnMut(&BaseProducer<Deliveries>) -> Result<(), KafkaError>,
    ) -> Result<(), TransactionError> {
        let (send, done) = operation.points();
        if weir_failpoints::hit(send).is_some() {
            return Err(lost(operation));
        }
        let deadline = Instant::now() + bound;
        loop {
            let Err(source) = attempt(&self.client) else {
                return if weir_failpoints::hit(done).is_some() { Err(lost(operation)) } else { Ok(()) };
            };
            match consequence(self.facts(&source)) {
                Consequence::Retry if Instant::now() < deadline => self.serve(),
                Consequence::Retry => return Err(TransactionError::Call { operation, consequence: Consequence::StartOver, source }),
                consequence @ (Consequence::AbortAndRewind
                | Consequence::StartOver
                | Consequence::Fenced
                | Consequence::Yield
                | Consequence::Refused) => {
                    return Err(TransactionError::Call { operation, consequence, source });
                }
            }
        }
    }

    /// What is known of an error. A fatal one of the producer explains every other.
    fn facts(&self, error: &KafkaError) -> Facts {
        let facts = Facts::of(error);
        self.client.client().fatal_error().map_or(facts, |(code, _)| Facts { code: Some(code), fatal: true, ..facts })
    }
}

/// A call whose answer a failpoint kept back: nobody knows what became of it.
fn lost(operation: Operation) -> TransactionError {
    let source = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
    TransactionError::Call { operation, consequence: Consequence::StartOver, source }
}
