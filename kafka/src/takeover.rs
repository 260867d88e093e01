//! Taking a bucket over from whoever had it, and finding out that somebody else has.
//!
//! A bucket has its own transactional id, under which only the holder's record is ever written, and some others that the
//! holder's transactions use in rotation ([`crate::pool`]). A session takes the bucket over in one order:
//!
//! 1. initialise the bucket's own id, which fences every session that is at this point;
//! 2. read who holds the bucket; one of a higher generation, or one that came after this very session, means to yield;
//! 3. commit a holder's record of its own;
//! 4. initialise the rotating ids, its own and all that the last holder recorded;
//! 5. read the progress up to the log's end, and who holds the bucket by then; another one means to yield.
//!
//! What a session commits after that follows on what it has read. *Claim:* once another session has been through step 4,
//! the first commits nothing any more, although it initialises ids again as it goes on. For each id, either its last
//! initialisation came before the other's step 4, and then the brokers refuse what it sends; or it came after, and so after
//! the other's record of step 3 was in the log. If it was that of step 4, then step 5 sees that record: the other one may have
//! committed something since, may go on with another id, and must not be joined. If it was a later one, [`Watch::check`], which
//! reads the log up to its end as it is after the initialisation, sees it, and the producer is never used. It reads uncommitted,
//! so it need not wait for markers; that it may see the record of a session which then died in step 3 costs an attempt and nothing else.
//!
//! Whatever the first session had open when it was fenced has ended when step 4 returns, so step 5 misses nothing.
//!
//! A producer is also fenced when the coordinator ended its transaction for being open too long. The brokers do not tell
//! the two apart; step 2 does: if the record is still this session's, nobody has come after it, and it goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicBool},
};

use weir_crds::contract::{
    manifest::to_bytes,
    names::{RunId, holder_key, rotating_ids},
    progress::BucketHolder,
};
use weir_failpoints::Guard;

use crate::{
    producer::{Producer, Settings},
    progress::{PARTITION, ProgressLog},
    range::{Isolation, Range, Reader},
    transaction::{ProgressRecord, Target, TransactionError},
};

/// Who wants to publish to a bucket: one process at one attempt, over all of the sessions that it opens.
#[derive(Clone, Debug)]
pub struct Holder {
    run: RunId,
    attempt: u32,
    session: String,
    /// Whether this process has held the bucket: whoever holds it now instead came later.
    has_held: bool,
}

impl Holder {
    pub fn new(run: RunId, attempt: u32) -> Self {
        // Two processes at the same attempt must differ, which is all that is asked of this number.
        let session = format!("{:016x}", RandomState::new().build_hasher().finish());
        Self { run, attempt, session, has_held: false }
    }

    /// Whether this one may take over from the last holder.
    fn admit(&self, last: Option<&BucketHolder>) -> Result<(), TransactionError> {
        let Some(last) = last else { return Ok(()) };
        let is_later = last.run.generation > self.run.generation || (self.has_held && last.session != self.session);
        if is_later { Err(taken(last)) } else { Ok(()) }
    }
}

fn taken(by: &BucketHolder) -> TransactionError {
    TransactionError::Taken { by: by.run.clone(), attempt: by.attempt }
}

/// What taking over gives.
pub(crate) struct TakenOver {
    pub producers: Vec<Producer>,
    /// The bucket's records, by key, without the holder's.
    pub records: BTreeMap<String, Vec<u8>>,
    pub watch: Watch,
    /// For the ends of logs, whatever is committed; only the watch reads records with it.
    pub ends: Arc<Reader>,
}

/// Takes the bucket over, in the order that this module's head gives.
pub(crate) fn take_over(target: Target<'_>, settings: &Settings, holder: &mut Holder) -> Result<TakenOver, TransactionError> {
    let signed_in = begin(target, settings, holder)?;
    // If we die here, the bucket has a holder that is no more: the next one finds all ids in its record.
    weir_failpoints::reached("kafka.signed-in");
    signed_in.go_on(settings)
}

/// A session whose record is in the log, after steps 1 to 3.
struct SignedIn {
    /// Of the bucket's records.
    prefix: String,
    /// To be fenced.
    ids: BTreeSet<String>,
    /// Of these, those that it uses itself, in that order.
    own: Vec<String>,
    log: ProgressLog,
    watch: Watch,
    ends: Arc<Reader>,
}

fn begin(target: Target<'_>, settings: &Settings, holder: &mut Holder) -> Result<SignedIn, TransactionError> {
    let key = holder_key(target.transactional_id);
    let prefix = format!("{}/", target.transactional_id);
    let bucket = Producer::new(settings, target.transactional_id)?;
    bucket.init(&NEVER)?;
    let ends = Reader::new(target.config, target.progress_topic, Isolation::Uncommitted).map_err(TransactionError::Progress)?;
    let ends = Arc::new(ends);
    let mut log = ProgressLog::new(target.config, target.progress_topic, Arc::clone(&ends)).map_err(TransactionError::Progress)?;
    log.catch_up(|key| key.starts_with(&prefix)).map_err(TransactionError::Progress)?;
    let last = log.found().get(&key).map(|value| parse(&key, value)).transpose()?;
    holder.admit(last.as_ref())?;
    let own = rotating_ids(target.transactional_id);
    let recorded = last.map(|last| last.transactional_ids).unwrap_or_default();
    let ids: BTreeSet<String> = own.iter().cloned().chain(recorded).collect();
    let record = BucketHolder::new(holder.run.clone(), holder.attempt, holder.session.clone(), ids.clone());
    sign_in(bucket, ProgressRecord { topic: target.progress_topic, key: &key, value: &to_bytes(&record) })?;
    holder.has_held = true;
    let watch = Watch { reader: Arc::clone(&ends), key, own: record, next: log.end() };
    Ok(SignedIn { prefix, ids, own, log, watch, ends })
}

impl SignedIn {
    /// Steps 4 and 5.
    fn go_on(self, settings: &Settings) -> Result<TakenOver, TransactionError> {
        let Self { prefix, ids, own, mut log, watch, ends } = self;
        let init = || init_all(settings, &ids, &own);
        // A test takes the guard out to show that what is read before fencing may be out of date by then.
        let fenced = if weir_failpoints::stands(Guard::FenceBeforeReading) { Some(init()?) } else { None };
        log.catch_up(|key| key.starts_with(&prefix)).map_err(TransactionError::Progress)?;
        weir_failpoints::reached("kafka.progress-read");
        let producers = match fenced {
            Some(producers) => producers,
            None => init()?,
        };
        let mut records = log.found().clone();
        if let Some(value) = records.remove(&watch.key) {
            let holder = parse(&watch.key, &value)?;
            if holder.session != watch.own.session {
                return Err(taken(&holder));
            }
        }
        Ok(TakenOver { producers, records, watch, ends })
    }
}

/// Taking over is never given up half-way.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Commits the holder's record. If that fails, whatever became of it is found out by taking over again.
fn sign_in(bucket: Producer, record: ProgressRecord<'_>) -> Result<(), TransactionError> {
    bucket.begin()?;
    bucket.send_progress(record)?;
    bucket.flush()?;
    bucket.commit()
}

/// Fences the producers of all `ids`, side by side; those of `own` are kept, in that order.
fn init_all(settings: &Settings, ids: &BTreeSet<String>, own: &[String]) -> Result<Vec<Producer>, TransactionError> {
    let init = |id: &String| {
        let producer = Producer::new(settings, id)?;
        producer.init(&NEVER).map(|()| producer)
    };
    let mut producers = std::thread::scope(|scope| {
        let threads: Vec<_> = ids.iter().map(|id| scope.spawn(move || init(id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(TransactionError::NoProducer))).collect::<Result<Vec<_>, _>>()
    })?;
    producers.retain(|producer| own.iter().any(|id| id == producer.transactional_id()));
    Ok(producers)
}

fn parse(key: &str, value: &[u8]) -> Result<BucketHolder, TransactionError> {
    BucketHolder::parse(value).map_err(|source| TransactionError::Holder { key: key.to_owned(), source })
}

/// Looks out for another holder of the bucket.
pub(crate) struct Watch {
    reader: Arc<Reader>,
    key: String,
    own: BucketHolder,
    /// Everything before was looked at.
    next: i64,
}

impl Watch {
    /// Whether nobody else has begun to take the bucket over until now.
    pub fn check(&mut self) -> Result<(), TransactionError> {
        let (_, end) = self.reader.bounds(PARTITION).map_err(TransactionError::Progress)?;
        let range = Range { partition: PARTITION, first: self.next, end };
        let (key, own) = (self.key.as_bytes(), &self.own);
        let other = self.reader.read(&[range], |record| {
            let holder = record.value().filter(|_| record.key() == Some(key)).map(|value| parse(&self.key, value));
            match holder {
                Some(Ok(holder)) if holder.session == own.session => ControlFlow::Continue(()),
                Some(Ok(holder)) => ControlFlow::Break(taken(&holder)),
                Some(Err(error)) => ControlFlow::Break(error),
                None => ControlFlow::Continue(()),
            }
        });
        match other.map_err(TransactionError::Progress)? {
            Some(error) => Err(error),
            None => {
                self.next = end;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::{
        mock::{ID, PROGRESS, TOPIC, cluster},
        producer::Bounds,
    };

    fn run(generation: u32) -> RunId {
        RunId { namespace: "n".into(), name: "j".into(), generation }
    }

    fn record(holder: &Holder) -> BucketHolder {
        BucketHolder::new(holder.run.clone(), holder.attempt, holder.session.clone(), BTreeSet::new())
    }

    #[test]
    fn whoever_comes_later_holds_the_bucket() {
        let (first, second) = (Holder::new(run(1), 1), Holder::new(run(1), 1));
        assert!(first.admit(None).is_ok());
        assert!(second.admit(Some(&record(&first))).is_ok(), "an attempt that starts takes over");
        let first = Holder { has_held: true, ..first };
        assert!(first.admit(Some(&record(&first))).is_ok(), "fenced by the coordinator's timeout, it goes on");
        assert!(matches!(first.admit(Some(&record(&second))), Err(TransactionError::Taken { .. })), "one that lost it yields");
    }

    /// Between its record and the initialisations somebody else takes the bucket over, and may be publishing.
    #[test]
    fn one_that_is_overtaken_while_it_takes_over_yields() {
        let cluster = cluster();
        let target = Target {
            config: &cluster.config,
            transactional_id: ID,
            topic: TOPIC,
            partitions: &[0],
            max_message_bytes: 1_000_000,
            progress_topic: PROGRESS.topic,
        };
        let settings =
            Settings { config: cluster.config.clone(), topic: TOPIC.into(), max_message_bytes: 1_000_000, bounds: Bounds::default() };
        let first = begin(target, &settings, &mut Holder::new(run(1), 1)).unwrap();
        let second = take_over(target, &settings, &mut Holder::new(run(1), 2)).unwrap();
        let overtaken = first.go_on(&settings).err();
        assert!(matches!(&overtaken, Some(TransactionError::Taken { attempt: 2, .. })), "{overtaken:?}");
        drop(second);
        assert!(take_over(target, &settings, &mut Holder::new(run(1), 3)).is_ok(), "the next attempt takes over");
    }

    #[test]
    fn a_lower_generation_never_takes_over() {
        let (first, second) = (Holder::new(run(1), 7), Holder::new(run(2), 1));
        assert!(second.admit(Some(&record(&first))).is_ok());
        assert!(matches!(first.admit(Some(&record(&second))), Err(TransactionError::Taken { by, .. }) if by.generation == 2));
    }
}
