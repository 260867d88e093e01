//! Reading stretches of partitions, without a consumer group: what a `read_committed` reader of the topic sees.
//!
//! Synchronous: it blocks the calling thread. A read either sees everything up to the end it was asked for or fails; it
//! never returns early because a broker was slow.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
    types::RDKafkaErrorCode,
};

use crate::{
    config::{ConfigError, KafkaConfig},
    context::Logged,
    failure,
};

/// One request for offsets; a healthy broker answers within milliseconds.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long open transactions may hold back a reader: they end within their `transaction.timeout.ms` of 10 s, and a broker
/// that is restarted takes some seconds more.
const STABLE_TIMEOUT: Duration = Duration::from_secs(60);
const STABLE_POLL: Duration = Duration::from_millis(50);
/// A read that brings nothing for this long has failed: longer than a broker's restart.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
/// How long an end is doubted that lies before a range's: a new leader learns how far its log is committed from its
/// followers, who ask it every half second (`replica.fetch.wait.max.ms`).
const DOUBTED_FOR: Duration = Duration::from_secs(3);
/// Fetched ahead of the caller, over all partitions: what bounds a reader's memory.
const QUEUED_KILOBYTES_MAX: &str = "16384";
/// A reader that is at its end is told so after this long.
const FETCH_WAIT_MS: &str = "20";
/// librdkafka's consumers want the name of a group to be assigned partitions; it is never joined nor committed to.
pub(crate) const GROUP: &str = "weir";

#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    #[error("the Kafka client cannot be configured")]
    Config(#[from] ConfigError),
    #[error("the Kafka client cannot be made")]
    Client(#[source] KafkaError),
    #[error("the offsets of {topic}/{partition} cannot be read")]
    Offsets {
        topic: String,
        partition: i32,
        #[source]
        source: KafkaError,
    },
    #[error("{topic}/{partition}: open transactions hold readers back at {stable}, before {wanted}, for {STABLE_TIMEOUT:?}")]
    HeldBack { topic: String, partition: i32, stable: i64, wanted: i64 },
    #[error("{topic}/{partition}: records from {wanted} on were asked for, and the log begins at {start}: they are gone")]
    Gone { topic: String, partition: i32, wanted: i64, start: i64 },
    #[error("{topic} cannot be read")]
    Read {
        topic: String,
        #[source]
        source: KafkaError,
    },
    #[error("{topic}: nothing was read for {STALL_TIMEOUT:?}")]
    Stalled { topic: String },
}

impl RangeError {
    /// Whether the cluster said that this identity may not.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Offsets { source, .. } | Self::Read { source, .. } => source.rdkafka_error_code().is_some_and(failure::is_denied),
            Self::Config(_) | Self::Client(_) | Self::HeldBack { .. } | Self::Gone { .. } | Self::Stalled { .. } => false,
        }
    }

    /// Whether it may be gone when it is tried again.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Offsets { .. } | Self::Read { .. } => !self.is_denied(),
            Self::HeldBack { .. } | Self::Stalled { .. } => true,
            Self::Config(_) | Self::Client(_) | Self::Gone { .. } => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// What transactional readers see: committed records, up to the first open transaction.
    Committed,
    /// Everything in the log.
    Uncommitted,
}

/// Offsets `first..end` of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub partition: i32,
    pub first: i64,
    pub end: i64,
}

/// A record that was read; alive until the next one.
pub struct RecordRef<'a>(&'a BorrowedMessage<'a>);

impl RecordRef<'_> {
    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// `None`: a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    pub fn timestamp_ms(&self) -> Option<i64> {
        self.0.timestamp().to_millis()
    }

    /// The value of the last header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let [value] = self.headers_of([name]);
        value
    }

    /// The values of the last headers of these names, in one pass over all.
    pub fn headers_of<const N: usize>(&self, names: [&str; N]) -> [Option<&[u8]>; N] {
        let mut values = [None; N];
        for header in self.0.headers().iter().flat_map(|headers| headers.iter()) {
            if let Some(place) = names.iter().position(|name| header.key == *name) {
                values[place] = header.value;
            }
        }
        values
    }
}

/// What is left to be read of a partition.
struct Open {
    /// Behind the last record that was given.
    next: i64,
    end: i64,
    /// Since when its end seems to lie before the range's.
    doubted: Option<Instant>,
}

/// A reader of one topic.
pub struct Reader {
    consumer: BaseConsumer<Logged>,
    topic: String,
}

impl Reader {
    pub fn new(config: &KafkaConfig, topic: &str, isolation: Isolation) -> Result<Self, RangeError> {
        let mut config = config.client()?;
        config
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // An offset that is gone is an error, not a reason to begin elsewhere.
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("queued.max.messages.kbytes", QUEUED_KILOBYTES_MAX)
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .set(
                "isolation.level",
                match isolation {
                    Isolation::Committed => "read_committed",
                    Isolation::Uncommitted => "read_uncommitted",
                },
            );
        let consumer = BaseConsumer::from_config_and_context(&config, Logged).map_err(RangeError::Client)?;
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// Where the log begins, and its end as this reader's isolation sees it.
    pub fn bounds(&self, partition: i32) -> Result<(i64, i64), RangeError> {
        self.bounds_of(&self.topic, partition)
    }

    /// The same of another topic, over the same connections: each reader costs some threads and milliseconds.
    pub fn bounds_of(&self, topic: &str, partition: i32) -> Result<(i64, i64), RangeError> {
        self.consumer.fetch_watermarks(topic, partition, OFFSETS_TIMEOUT).map_err(|source| RangeError::Offsets {
            topic: topic.to_owned(),
            partition,
            source,
        })
    }

    /// Waits until no transaction that was open before `end` is open any more. Only then does a reader that reaches its
    /// end know that it has seen every committed record before `end`.
    pub fn wait_until_stable(&self, partition: i32, end: i64) -> Result<(), RangeError> {
        let deadline = Instant::now() + STABLE_TIMEOUT;
        loop {
            let (_, stable) = self.bounds(partition)?;
            if stable >= end {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(RangeError::HeldBack { topic: self.topic.clone(), partition, stable, wanted: end });
            }
            std::thread::sleep(STABLE_POLL);
        }
    }

    /// Gives `each` every record of the ranges, each partition's in order. Records at the ends that are not there
    /// (control records, compacted ones) are passed over; a log that begins behind a range's first offset is an error.
    pub fn read<B>(&self, ranges: &[Range], mut each: impl FnMut(RecordRef<'_>) -> ControlFlow<B>) -> Result<Option<B>, RangeError> {
        let mut open: BTreeMap<i32, Open> = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for range in ranges.iter().filter(|range| range.first < range.end) {
            let (start, _) = self.bounds(range.partition)?;
            if start > range.first {
                return Err(RangeError::Gone { topic: self.topic.clone(), partition: range.partition, wanted: range.first, start });
            }
            self.wait_until_stable(range.partition, range.end)?;
            assignment.add_partition_offset(&self.topic, range.partition, Offset::Offset(range.first)).map_err(|e| self.failed(e))?;
            open.insert(range.partition, Open { next: range.first, end: range.end, doubted: None });
        }
        if open.is_empty() {
            return Ok(None);
        }
        self.consumer.assign(&assignment).map_err(|e| self.failed(e))?;
        // A partition stays paused from an earlier read, though it was assigned anew.
        self.consumer.resume(&assignment).map_err(|e| self.failed(e))?;
        let result = self.drain(&mut open, &mut each);
        self.consumer.unassign().map_err(|e| self.failed(e))?;
        result
    }

    fn drain<B>(
        &self,
        open: &mut BTreeMap<i32, Open>,
        each: &mut impl FnMut(RecordRef<'_>) -> ControlFlow<B>,
    ) -> Result<Option<B>, RangeError> {
        // The clock is looked at only when there is nothing to do.
        let (mut last_progress, mut progressed) = (Instant::now(), false);
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(left) = open.get_mut(&partition) else { continue };
                    (left.next, left.doubted) = (offset + 1, None);
                    let end = left.end;
                    if offset < end
                        && let ControlFlow::Break(value) = each(RecordRef(&message))
                    {
                        return Ok(Some(value));
                    }
                    if offset + 1 >= end {
                        self.close(open, partition)?;
                    }
                    progressed = true;
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.at_an_end(open, partition)?,
                Some(Err(error)) if passes(&error) => {}
                Some(Err(error)) => return Err(self.failed(error)),
                None => {}
            }
            if std::mem::take(&mut progressed) {
                last_progress = Instant::now();
            } else if last_progress.elapsed() > STALL_TIMEOUT {
                return Err(RangeError::Stalled { topic: self.topic.clone() });
            }
        }
        Ok(None)
    }

    /// At the end of a partition as the broker sees it that was asked. One that has only just become the leader does not know
    /// yet how far its log is committed, and may give an end that lies before what its predecessor gave. So unless the reader
    /// has come to the range's end, over control records too, the rest is asked for again, until it was the same for long enough:
    /// then compaction has left nothing there.
    fn at_an_end(&self, open: &mut BTreeMap<i32, Open>, partition: i32) -> Result<(), RangeError> {
        let position = self.position(partition)?;
        let Some(left) = open.get_mut(&partition) else { return Ok(()) };
        let next = position.map_or(left.next, |position| position.max(left.next));
        let since = *left.doubted.get_or_insert_with(Instant::now);
        let (end, is_through) = (left.end, next >= left.end || since.elapsed() >= DOUBTED_FOR);
        if is_through {
            return self.close(open, partition);
        }
        std::thread::sleep(STABLE_POLL);
        let asked = Instant::now();
        self.wait_until_stable(partition, end)?;
        if asked.elapsed() >= DOUBTED_FOR {
            // Something was held back for so long: meanwhile nobody has told this end again.
            left.doubted = None;
        }
        // The library tells of an end once; where it begins anew it tells again.
        self.consumer.seek(&self.topic, partition, Offset::Offset(next), OFFSETS_TIMEOUT).map_err(|e| self.failed(e))
    }

    /// Behind the last record that was read, or the last control record that was passed over.
    fn position(&self, partition: i32) -> Result<Option<i64>, RangeError> {
        let positions = self.consumer.position().map_err(|e| self.failed(e))?;
        Ok(positions.find_partition(&self.topic, partition).and_then(|found| match found.offset() {
            Offset::Offset(offset) => Some(offset),
            Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
        }))
    }

    /// Stops fetching a partition that is through, so that it does not crowd out the others.
    fn close(&self, open: &mut BTreeMap<i32, Open>, partition: i32) -> Result<(), RangeError> {
        if open.remove(&partition).is_some() && !open.is_empty() {
            let mut done = TopicPartitionList::new();
            done.add_partition(&self.topic, partition);
            self.consumer.pause(&done).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn failed(&self, source: KafkaError) -> RangeError {
        RangeError::Read { topic: self.topic.clone(), source }
    }
}

/// Errors that librdkafka reports and recovers from by itself; [`STALL_TIMEOUT`] bounds how long it may take. The group
/// is never used, so not being allowed to is no error.
fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
        )
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::mock::{TOPIC, cluster_of, publish};

    /// A follower that is behind gives its own end, as a new leader does that does not know better yet.
    #[test]
    fn an_end_before_the_ranges_own_is_not_believed_at_once() {
        let cluster = cluster_of(2);
        let mut session = cluster.open().unwrap();
        for _ in 0..5 {
            // Two in each partition: the mock gives whole batches.
            publish(&mut session, 4).unwrap();
        }
        // The mock's followers know where the log ends that is committed, but not where it is stable.
        let reader = Reader::new(&cluster.config, TOPIC, Isolation::Uncommitted).unwrap();
        cluster.mock.partition_leader(TOPIC, 0, Some(1)).unwrap();
        cluster.mock.partition_follower(TOPIC, 0, 2).unwrap();
        cluster.mock.follower_watermarks(TOPIC, 0, None, Some(4)).unwrap();
        let read = std::thread::scope(|scope| {
            let read = scope.spawn(|| {
                let mut read = Vec::new();
                let each = |record: RecordRef<'_>| {
                    read.push(record.offset());
                    ControlFlow::<()>::Continue(())
                };
                reader.read(&[Range { partition: 0, first: 0, end: 10 }], each).map(|_| read)
            });
            std::thread::sleep(Duration::from_millis(700));
            cluster.mock.follower_watermarks(TOPIC, 0, None, None).unwrap();
            read.join().unwrap()
        });
        assert_eq!(read.unwrap(), (0..10).collect::<Vec<i64>>());
    }
}
