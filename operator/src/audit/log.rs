//! The log of one cluster as its leader writes it.
//!
//! Raises wait in memory until they are written; they are done whatever becomes of the log. A lowering is only done after
//! its intent was written as the next entry: who is not the last to have begun to lead does not get that far.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weir_crds::{
    contract::{digest::Sha256Digest, manifest::to_bytes},
    kafka_cluster::AuditAnchor,
};
use weir_ledger::{LedgerError, PutOnce};

use super::{
    chain::{self, BEGINNING, Head, ParseError},
    entry::{Changed, Entry, Event, FORMAT, entry_key, folder, kept_folder, sequence_of},
    objects::Objects,
};

/// Entries that are read back when a term begins: more than can have been written since its last intent or raise.
const TAIL_MAX: u64 = 64;
/// Reads at a time.
const READS: usize = 16;
/// An intent that has no outcome by then was left behind by a leader that is gone. Longer than [`INTENT_LASTS`].
const INTENT_ABANDONED_MS: i64 = 30_000;
/// From the decision to lower to the alteration; later it is not done any more.
pub const INTENT_LASTS: Duration = Duration::from_secs(10);
/// Raises that wait to be written, of a store that is away for hours. Those beyond are counted.
const WAITING_CHANGES_MAX: usize = 10_000;
/// Other writers' entries that are taken up in one go: there is one other leader at most, and it stops soon.
const ADOPTED_MAX: u32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the audit log cannot be read or written")]
    Store(#[from] LedgerError),
    #[error("{key} of the audit log cannot be understood")]
    Entry {
        key: String,
        #[source]
        source: ParseError,
    },
    #[error("{key} of the audit log is not there, though entries up to {newest} were written: the log was cut")]
    Cut { key: String, newest: u64 },
    #[error("{key} of the audit log is not what was written behind it or into the cluster's status: the log was edited")]
    Edited { key: String },
    #[error("the audit log was written by others {ADOPTED_MAX} times while one entry was to be written")]
    Busy,
}

/// Who writes where.
#[derive(Clone, Debug)]
pub struct Place {
    pub prefix: String,
    pub chain: String,
    /// The name of this replica.
    pub writer: String,
}

impl Place {
    fn key(&self, sequence: u64) -> String {
        entry_key(&self.prefix, &self.chain, sequence)
    }

    fn raising_key(&self) -> String {
        format!("{}raising.json", kept_folder(&self.prefix, &self.chain))
    }
}

/// What was about to be raised: written at the same time as the topics are altered, so that a raise of which nobody could
/// write any more is found in the topic.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raising {
    changes: Vec<Noted>,
}

/// A raise that may have been done, and when it was about to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    pub at: Timestamp,
    #[serde(flatten)]
    pub changed: Changed,
}

#[derive(Debug)]
pub struct Log {
    place: Place,
    /// `None`: it was not read yet.
    head: Option<Head>,
    waiting: VecDeque<(Timestamp, Event)>,
    waiting_changes: usize,
    /// Raises that were given up since the log could not be written, and since when.
    omitted: Option<(Timestamp, u64)>,
    /// Operations of other writers' entries, and of the tail.
    known: BTreeSet<Sha256Digest>,
    /// Intents without an outcome, and when they were written.
    intended: BTreeMap<Sha256Digest, (Timestamp, Changed)>,
    /// Raises of which it is not known whether they were done.
    unsettled: Vec<Noted>,
    /// Another replica has begun to lead since.
    fenced: bool,
}

impl Log {
    pub fn new(place: Place) -> Self {
        Self {
            place,
            head: None,
            waiting: VecDeque::new(),
            waiting_changes: 0,
            omitted: None,
            known: BTreeSet::new(),
            intended: BTreeMap::new(),
            unsettled: Vec::new(),
            fenced: false,
        }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether its end was read.
    pub fn is_open(&self) -> bool {
        self.head.is_some()
    }

    /// What the cluster's status should say; `None`: nothing was read or written yet.
    pub fn anchor(&self) -> Option<AuditAnchor> {
        let Head { sequence, digest } = self.head.filter(|head| head.sequence > 0)?;
        Some(AuditAnchor { chain: self.place.chain.clone(), sequence, digest })
    }

    /// Behind which entry the next operation stands; those that wait count.
    pub fn after(&self) -> u64 {
        self.head.map_or(0, |head| head.sequence) + self.waiting.len() as u64
    }

    pub fn waiting_changes(&self) -> usize {
        self.waiting_changes
    }

    /// Whether an intent may be written: everything before it is, and this replica was the last to begin to lead.
    pub fn may_intend(&self) -> bool {
        self.head.is_some() && self.waiting.is_empty() && self.intended.is_empty() && !self.fenced
    }

    /// Intents without an outcome, whoever leads.
    pub fn intended(&self) -> impl Iterator<Item = &Changed> {
        self.intended.values().map(|(_, changed)| changed)
    }

    /// Intents whose outcome nobody has written though it should be long known: whoever wrote one acts on it at once or
    /// not at all.
    pub fn abandoned(&self, now: Timestamp) -> Vec<Changed> {
        let is_old = |at: &Timestamp| now.as_millisecond() - at.as_millisecond() >= INTENT_ABANDONED_MS;
        self.intended.values().filter(|(at, _)| !self.fenced && is_old(at)).map(|(_, changed)| changed.clone()).collect()
    }

    /// Takes out the raises of which it is not known whether they were done.
    pub fn take_unsettled(&mut self) -> Vec<Noted> {
        std::mem::take(&mut self.unsettled)
    }

    /// Reads the log's end, once. `anchor`: what the cluster's status says of it.
    pub async fn open<S: Objects>(&mut self, store: &S, anchor: Option<&AuditAnchor>, leads: (Timestamp, Event)) -> Result<(), LogError> {
        if self.head.is_some() {
            return Ok(());
        }
        let anchor = anchor.filter(|a| a.chain == self.place.chain);
        let anchored = anchor.map_or(0, |a| a.sequence);
        let newest = self.newest(store, anchored).await?;
        let tail = self.tail(store, newest.saturating_sub(TAIL_MAX - 1).max(1), newest).await?;
        if let Some(AuditAnchor { sequence, digest, .. }) = anchor {
            let key = self.place.key(*sequence);
            let found = match tail.iter().find(|(entry, _)| entry.sequence == *sequence) {
                Some((_, digest)) => Some(*digest),
                None => store.get(&key).await?.map(|bytes| Sha256Digest::of(&bytes)),
            };
            match found {
                None => return Err(LogError::Cut { key, newest: *sequence }),
                Some(found) if found != *digest => return Err(LogError::Edited { key }),
                Some(_) => {}
            }
        }
        let raising = store.get(&self.place.raising_key()).await?;
        let mut head = Head { sequence: 0, digest: BEGINNING };
        for (entry, digest) in tail {
            head = Head { sequence: entry.sequence, digest };
            self.note(&entry);
            self.known.extend(entry.event.operations());
        }
        // An object that is overwritten may be anything; what it adds is a guess at best, and marked so.
        let raising: Raising = raising.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        self.unsettled = raising.changes.into_iter().filter(|noted| !self.known.contains(&noted.changed.operation)).collect();
        self.head = Some(head);
        self.waiting.push_front(leads);
        Ok(())
    }

    /// The number of the newest entry, from an anchor on.
    async fn newest<S: Objects>(&self, store: &S, anchored: u64) -> Result<u64, LogError> {
        let folder = folder(&self.place.prefix, &self.place.chain);
        let after = (anchored > 0).then(|| self.place.key(anchored));
        let keys = store.keys(&folder, after.as_deref()).await?;
        let sequences = keys.iter().filter_map(|key| sequence_of(key.strip_prefix(&folder)?));
        Ok(sequences.max().unwrap_or(0).max(anchored))
    }

    /// Entries, each of which names the one before, with their digests.
    async fn tail<S: Objects>(&self, store: &S, first: u64, newest: u64) -> Result<Vec<(Entry, Sha256Digest)>, LogError> {
        let read = |sequence: u64| async move {
            let key = self.place.key(sequence);
            match store.get(&key).await? {
                Some(bytes) => self.parse(key, &bytes),
                None => Err(LogError::Cut { key, newest }),
            }
        };
        let tail: Vec<(Entry, Sha256Digest)> = stream::iter(first..=newest).map(read).buffered(READS).try_collect().await?;
        let broken = tail.windows(2).find(|pair| pair[1].0.previous != pair[0].1);
        match broken {
            Some(pair) => Err(LogError::Edited { key: self.place.key(pair[0].0.sequence) }),
            None => Ok(tail),
        }
    }

    fn parse(&self, key: String, bytes: &Bytes) -> Result<(Entry, Sha256Digest), LogError> {
        let entry = chain::parse(bytes).map_err(|source| LogError::Entry { key, source })?;
        Ok((entry, Sha256Digest::of(bytes)))
    }

    /// What an entry that stands in the log means for the next ones.
    fn note(&mut self, entry: &Entry) {
        match &entry.event {
            Event::Leads { .. } => self.fenced = entry.writer != self.place.writer,
            Event::LowerIntent { changes } => self.intended.extend(changes.iter().map(|c| (c.operation, (entry.at, c.clone())))),
            Event::LowerOutcome { outcomes } => outcomes.iter().for_each(|o| drop(self.intended.remove(&o.operation))),
            Event::Raised { .. } | Event::ExceptionBegan { .. } | Event::ExceptionEnded { .. } | Event::Omitted { .. } => {}
        }
    }

    /// Has an event written with the next flush.
    pub fn push(&mut self, at: Timestamp, event: Event) {
        if let Event::Raised { changes } = &event {
            if self.waiting_changes + changes.len() > WAITING_CHANGES_MAX {
                self.omitted.get_or_insert((at, 0)).1 += changes.len() as u64;
                return;
            }
            self.waiting_changes += changes.len();
        }
        // What became of them is known, though it is not written yet.
        if let Event::LowerOutcome { outcomes } = &event {
            outcomes.iter().for_each(|o| drop(self.intended.remove(&o.operation)));
        }
        self.waiting.push_back((at, event));
    }

    /// Writes down what is about to be raised. It holds up nothing, and whether it succeeds matters only if this process ends
    /// before the log is written.
    pub async fn note_raising<S: Objects>(place: &Place, store: &S, changes: &[Noted]) {
        let raising = Raising { changes: changes.to_vec() };
        if let Err(error) = store.overwrite(&place.raising_key(), Bytes::from(to_bytes(&raising))).await {
            tracing::debug!(%error, "what is about to be raised cannot be written down");
        }
    }

    /// Writes what waits, in its order. What was not written is tried again by the next call with the same bytes, so an
    /// answer that was lost is found out.
    pub async fn flush<S: Objects>(&mut self, store: &S) -> Result<(), LogError> {
        if self.head.is_none() {
            return Ok(());
        }
        if let Some((at, changes)) = self.omitted.take_if(|_| self.waiting.is_empty()) {
            self.waiting.push_back((at, Event::Omitted { changes }));
        }
        let mut adopted = 0;
        while let Some((at, event)) = self.waiting.front().cloned() {
            let changes = if let Event::Raised { changes } = &event { changes.len() } else { 0 };
            let event = event.without(|operation| self.known.contains(operation));
            let is_done = match event {
                None => true,
                Some(event) => self.append(store, at, event).await?,
            };
            if is_done {
                self.waiting.pop_front();
                self.waiting_changes -= changes;
                continue;
            }
            adopted += 1;
            if adopted == ADOPTED_MAX {
                return Err(LogError::Busy);
            }
        }
        Ok(())
    }

    /// Writes an intent. Only after `true` may be done what it says; `false`: another has written meanwhile, look again.
    pub async fn intend<S: Objects>(&mut self, store: &S, at: Timestamp, changes: Vec<Changed>) -> Result<bool, LogError> {
        if !self.may_intend() {
            return Ok(false);
        }
        self.append(store, at, Event::LowerIntent { changes }).await
    }

    /// `false`: another entry was there, and is taken up.
    async fn append<S: Objects>(&mut self, store: &S, at: Timestamp, event: Event) -> Result<bool, LogError> {
        let Some(head) = self.head else { return Ok(false) };
        let Place { chain, writer, .. } = self.place.clone();
        let sequence = head.sequence + 1;
        let entry = Entry { format: FORMAT, chain, sequence, previous: head.digest, writer, at, event };
        let (key, bytes) = (self.place.key(sequence), Bytes::from(entry.to_bytes()));
        // If we die here, the next leader finds the entry as the newest, or nothing.
        match store.put_once(&key, bytes.clone()).await? {
            PutOnce::Written | PutOnce::Same => {
                self.head = Some(Head { sequence, digest: Sha256Digest::of(&bytes) });
                self.note(&entry);
                Ok(true)
            }
            PutOnce::Different { found } => {
                let (other, digest) = self.parse(key.clone(), &found)?;
                if other.previous != head.digest {
                    return Err(LogError::Edited { key: self.place.key(head.sequence) });
                }
                tracing::warn!(key, writer = other.writer, "another replica has written to the audit log");
                self.head = Some(Head { sequence, digest });
                self.note(&other);
                self.known.extend(other.event.operations());
                Ok(false)
            }
        }
    }
}
