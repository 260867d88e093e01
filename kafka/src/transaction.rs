//! Transactions of one bucket: data and the progress record in the same one, the progress last.
//!
//! A [`Session`] is the right to publish to a bucket: opening it takes the bucket over ([`crate::takeover`]). Each
//! transaction then has a producer epoch of its own ([`crate::pool`]), which users do not see: they see [`Session::begin`]
//! and [`Transaction`]. Synchronous: calls block their thread, each within a stated bound.
//!
//! Order across transactions is strict although they use different transactional ids, because one begins only after the
//! commit of the one before was acknowledged: from then on it is decided, whatever dies, and its records lie before the next
//! one's in every partition, its progress record before the next one's. Markers that are written later change neither. If the
//! commit is *not* acknowledged, the session is of no further use: nothing begins on a doubt. Opening the next session ends
//! the transaction one way or the other, and the progress that is read then says which.

use std::{collections::BTreeMap, sync::Arc};

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use weir_crds::contract::{manifest::OffsetRange, names::RunId, progress::RecordError};
use weir_failpoints::Guard;

pub use crate::producer::TRANSACTION_TIMEOUT;
use crate::{
    config::{ConfigError, KafkaConfig},
    failure::{self, Consequence},
    pool::Pool,
    producer::{Bounds, Producer, Settings},
    range::{RangeError, Reader},
    takeover::{self, Holder},
};

#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    #[error("the Kafka client cannot be configured")]
    Config(#[from] ConfigError),
    #[error("the producer cannot be made")]
    Client(#[source] KafkaError),
    #[error("the end offsets of the target cannot be read")]
    Offsets(#[source] RangeError),
    #[error(
        "a record of {topic}, partition {partition}, was given offset {offset}, though its log had reached {end} before: the log was cut, or the topic deleted and made again"
    )]
    LogCut { topic: String, partition: i32, offset: i64, end: i64 },
    #[error("the progress topic cannot be read")]
    Progress(#[source] RangeError),
    #[error("the record {key} is damaged")]
    Holder {
        key: String,
        #[source]
        source: RecordError,
    },
    #[error("attempt {attempt} of run {by} holds the bucket")]
    Taken { by: RunId, attempt: u32 },
    #[error("the thread that initialises producers cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("the thread that initialises producers has ended")]
    NoProducer,
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

impl Operation {
    /// The failpoints before and after it.
    pub(crate) fn points(self) -> (&'static str, &'static str) {
        match self {
            Self::Init => ("kafka.init.send", "kafka.init.done"),
            Self::Begin => ("kafka.begin.send", "kafka.begin.done"),
            Self::Send => ("kafka.records.send", "kafka.records.done"),
            Self::Deliver => ("kafka.deliver.send", "kafka.deliver.done"),
            Self::Commit => ("kafka.commit.send", "kafka.commit.done"),
            Self::Abort => ("kafka.abort.send", "kafka.abort.done"),
        }
    }
}

impl TransactionError {
    /// What to do next: of a call what [`failure::consequence`] says. What is wrong with the configuration stays wrong.
    pub fn consequence(&self) -> Consequence {
        match self {
            Self::Config(_) | Self::Client(_) | Self::Holder { .. } => Consequence::Refused,
            Self::Offsets(error) | Self::Progress(error) if error.is_denied() => Consequence::Refused,
            // Whether it is still the same topic is looked at when starting.
            Self::LogCut { .. } | Self::Offsets(_) | Self::Progress(_) | Self::Thread(_) | Self::NoProducer => Consequence::StartOver,
            Self::Taken { .. } => Consequence::Yield,
            Self::Call { consequence, .. } => *consequence,
        }
    }

    /// Whether the cluster said that this identity may not.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Offsets(error) | Self::Progress(error) => error.is_denied(),
            Self::Call { source, .. } => source.rdkafka_error_code().is_some_and(failure::is_denied),
            Self::Config(_)
            | Self::Client(_)
            | Self::LogCut { .. }
            | Self::Holder { .. }
            | Self::Taken { .. }
            | Self::Thread(_)
            | Self::NoProducer => false,
        }
    }

    /// The code that the library gave, where it gave one.
    pub fn code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            Self::Call { source, .. } | Self::Client(source) => source.rdkafka_error_code(),
            Self::Config(_)
            | Self::Offsets(_)
            | Self::LogCut { .. }
            | Self::Progress(_)
            | Self::Holder { .. }
            | Self::Taken { .. }
            | Self::Thread(_)
            | Self::NoProducer => None,
        }
    }
}

/// What is published to, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub config: &'a KafkaConfig,
    /// The bucket's own; those that its transactions use follow from it.
    pub transactional_id: &'a str,
    pub topic: &'a str,
    /// The partitions of the bucket.
    pub partitions: &'a [i32],
    /// The topic's `max.message.bytes`.
    pub max_message_bytes: u64,
    pub progress_topic: &'a str,
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
    pool: Pool,
    /// Of the open transaction.
    producer: Option<Producer>,
    topic: String,
    /// Reads end offsets where a delivery report has none.
    ends: Arc<Reader>,
    /// By partition: no record of the next transaction lies before this offset.
    floors: BTreeMap<i32, i64>,
}

impl Session {
    /// Takes the bucket over, and says what progress records it has: those of the keys that begin with its transactional id
    /// and a slash. Nothing of an earlier session can be committed any more.
    pub fn open(target: Target<'_>, holder: &mut Holder) -> Result<(Self, BTreeMap<String, Vec<u8>>), TransactionError> {
        Self::open_within(target, holder, Bounds::default())
    }

    pub(crate) fn open_within(
        target: Target<'_>,
        holder: &mut Holder,
        bounds: Bounds,
    ) -> Result<(Self, BTreeMap<String, Vec<u8>>), TransactionError> {
        let settings =
            Settings { config: target.config.clone(), topic: target.topic.to_owned(), max_message_bytes: target.max_message_bytes, bounds };
        let taken = takeover::take_over(target, &settings, holder)?;
        let mut floors = BTreeMap::new();
        for partition in target.partitions {
            let (_, end) = taken.ends.bounds_of(target.topic, *partition).map_err(TransactionError::Offsets)?;
            floors.insert(*partition, end);
        }
        let pool = Pool::new(taken.producers, settings, taken.watch)?;
        Ok((Self { pool, producer: None, topic: target.topic.to_owned(), ends: taken.ends, floors }, taken.records))
    }

    /// Begins a transaction; one that was left open is aborted first.
    pub fn begin(&mut self) -> Result<Transaction<'_>, TransactionError> {
        self.abort()?;
        let producer = self.pool.next()?;
        if let Err(error) = producer.begin() {
            self.pool.renew(producer);
            return Err(error);
        }
        self.producer = Some(producer);
        Ok(Transaction { session: self })
    }

    /// Aborts the open transaction, if there is one. Its records are never seen.
    pub fn abort(&mut self) -> Result<(), TransactionError> {
        let Some(producer) = self.producer.take() else { return Ok(()) };
        let aborted = producer.abort();
        // Also if aborting failed: initialising its id ends the transaction, for which no commit was ever asked.
        self.pool.renew(producer);
        aborted
    }

    fn producer(&mut self) -> Result<&mut Producer, TransactionError> {
        self.producer.as_mut().ok_or(TransactionError::NoProducer)
    }

    /// Where the records of the open transaction lie, all of which are delivered.
    fn offsets(&mut self) -> Result<BTreeMap<i32, OffsetRange>, TransactionError> {
        let mut ranges = BTreeMap::new();
        for (partition, delivered) in self.producer()?.take_delivered() {
            let floor = self.floors.get(&partition).copied().unwrap_or(0);
            let range = match delivered.range.filter(|_| !delivered.unknown) {
                Some(range) => range,
                // A broker that recognises a repeated batch acknowledges it without an offset. Between the ends before
                // and after, the records are there, perhaps among others'.
                None => {
                    let (_, end) = self.ends.bounds_of(&self.topic, partition).map_err(TransactionError::Offsets)?;
                    OffsetRange { first: floor, last: end - 1 }
                }
            };
            if range.first < floor || range.last < range.first {
                let offset = range.first.min(range.last);
                return Err(TransactionError::LogCut { topic: self.topic.clone(), partition, offset, end: floor });
            }
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
}

impl Transaction<'_> {
    /// Hands a record to the producer; waits while its queue is full.
    pub fn send(&mut self, record: Record<'_>) -> Result<(), TransactionError> {
        self.session.producer()?.send(record)
    }

    /// Waits until all records that were sent are delivered, and says where those lie of which it has not said so before.
    pub fn delivered(&mut self) -> Result<BTreeMap<i32, OffsetRange>, TransactionError> {
        self.session.producer()?.flush()?;
        self.session.offsets()
    }

    /// Sends the progress record and commits. Until the commit is asked for an error may leave the transaction to be aborted; after
    /// that what became of it is found out by starting over.
    pub fn commit(self, progress: ProgressRecord<'_>) -> Result<(), TransactionError> {
        let producer = self.session.producer()?;
        if !weir_failpoints::stands(Guard::ProgressInTransaction) {
            // What a test does to show why progress belongs to the same transaction.
            producer.commit()?;
            producer.begin()?;
        }
        producer.send_progress(progress)?;
        producer.flush()?;
        // If we die here, or the answer is lost, the next session ends the transaction one way or the other, and the
        // progress record, which is part of it, says which.
        producer.commit()?;
        if let Some(producer) = self.session.producer.take() {
            self.session.pool.renew(producer);
        }
        Ok(())
    }
}
