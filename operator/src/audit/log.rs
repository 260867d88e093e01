//! The log of one cluster as its leader writes it.
//!
//! Raises wait in memory until they are written; they are done whatever becomes of the log. A lowering is only done after
//! its intent was written as the next entry: who is not the last to have begun to lead does not get that far.
//!
//! Each operation is in the log once, and each raise that was noted is in the log or in the note, whenever a process dies:
//! - The note says behind which entry its raises stand; none of them is in an entry up to there. Whoever opens the log reads back
//!   to it, so that a raise that is neither known then nor written by another since is in no entry.
//! - Before it is written a raise may be done all the same, where the store is slow: that is taken for somebody else's.
//! - Between it and the raise: the topic is found as it was, and nothing is recorded.
//! - Between raise and entry: the note has it. Those that wait for a store that is away are in each later note as well.
//! - Between the entry and emptying the note: the entry is among those that are read back.
//! - A note that is written late, or not emptied, says at worst what is far back; then nothing of it is taken.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{BuildHasher as _, Hasher as _, RandomState},
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

/// Entries that are read back when a term begins, and as many may stand behind a note. More than are written in two turns, so
/// that it is found what has become of the last intent, and what no status tells of yet.
pub const TAIL_MAX: u64 = 64;
/// Entries that are read back for what is noted: a note is overwritten long before, unless that fails again and again, and so
/// many can be read within a step's time.
pub const READ_BACK_MAX: u64 = 256;
/// Entries that are written in one go: less than the tail, so that the note and exceptions' statuses come after them in time.
pub const FLUSHED_MAX: usize = 32;
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
pub struct Raising {
    /// None of the changes is in an entry up to this one.
    #[serde(default)]
    after: u64,
    changes: Vec<Noted>,
}

impl Raising {
    /// How many entries are read back: all that may have one of the changes. Of a note that is too far back nothing is taken.
    fn read_back(&mut self, newest: u64) -> u64 {
        let back = newest.saturating_sub(self.after);
        if back > READ_BACK_MAX && !self.changes.is_empty() {
            tracing::warn!(after = self.after, newest, "what is noted of raises is too old to tell which of them are in the audit log");
            self.changes.clear();
        }
        if self.changes.is_empty() { TAIL_MAX } else { back.max(TAIL_MAX) }
    }
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
    /// Of this process.
    unread: u64,
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
    /// Behind which entry the note stands at least; `None`: it has no changes.
    noted_after: Option<u64>,
    /// Another replica has begun to lead since.
    fenced: bool,
}

impl Log {
    pub fn new(place: Place) -> Self {
        Self {
            place,
            unread: RandomState::new().build_hasher().finish() / 2,
            head: None,
            waiting: VecDeque::new(),
            waiting_changes: 0,
            omitted: None,
            known: BTreeSet::new(),
            intended: BTreeMap::new(),
            unsettled: Vec::new(),
            noted_after: None,
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

    /// Behind which entry the next operation stands; those that wait count. Before the log was read nobody knows, and each process
    /// has a number of its own: the same raise by the next one is another operation.
    pub fn after(&self) -> u64 {
        self.head.map_or(self.unread, |head| head.sequence) + self.waiting.len() as u64
    }

    /// Whether all that it was told is written.
    pub fn is_written(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn waiting_changes(&self) -> usize {
        self.waiting_changes
    }

    /// Whether an operation was found in the log, and not written there by this process.
    pub fn knows(&self, operation: &Sha256Digest) -> bool {
        self.known.contains(operation)
    }

    /// Whether an operation is still to be written.
    pub fn waits_for(&self, operation: &Sha256Digest) -> bool {
        self.waiting.iter().any(|(_, event)| event.operations().contains(operation))
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
        let mut raising = self.read_raising(store).await?;
        self.noted_after = (!raising.changes.is_empty()).then_some(raising.after);
        let count = raising.read_back(newest);
        let tail = self.tail(store, newest.saturating_sub(count - 1).max(1), newest).await?;
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
        let mut head = Head { sequence: 0, digest: BEGINNING };
        for (entry, digest) in tail {
            head = Head { sequence: entry.sequence, digest };
            self.note(&entry);
            self.known.extend(entry.event.operations());
        }
        self.unsettled = raising.changes.into_iter().filter(|noted| !self.known.contains(&noted.changed.operation)).collect();
        self.head = Some(head);
        self.waiting.push_front(leads);
        Ok(())
    }

    /// What an earlier leader noted. An object that is overwritten may be anything; what it adds is a guess at best, and marked so.
    async fn read_raising<S: Objects>(&self, store: &S) -> Result<Raising, LogError> {
        let raising = store.get(&self.place.raising_key()).await?;
        Ok(raising.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
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

    /// What is to be noted: changes that are about to be made or may have been, and those that wait. What others have written
    /// is left out, so that nothing of it is in an entry up to the newest that is known.
    pub fn raising<'a>(&'a self, open: impl IntoIterator<Item = &'a Noted>) -> Raising {
        let waiting = self.waiting.iter().flat_map(|(at, event)| {
            let changes: &[Changed] = if let Event::Raised { changes } = event { changes } else { &[] };
            changes.iter().map(move |changed| Noted { at: *at, changed: changed.clone() })
        });
        let all = open.into_iter().chain(&self.unsettled).cloned().chain(waiting);
        let changes = all.filter(|noted| !self.known.contains(&noted.changed.operation)).collect();
        Raising { after: self.head.map_or(0, |head| head.sequence), changes }
    }

    /// Writes down what is about to be raised. It holds up nothing, and whether it succeeds matters only if this process ends
    /// before the log is written.
    pub async fn note_raising<S: Objects>(place: &Place, store: &S, raising: &Raising) -> bool {
        let written = store.overwrite(&place.raising_key(), Bytes::from(to_bytes(raising))).await;
        if let Err(error) = &written {
            tracing::debug!(%error, "what is about to be raised cannot be written down");
        }
        written.is_ok()
    }

    /// It was tried to write that down: the note has it, or what it had before.
    pub fn noted(&mut self, raising: &Raising) {
        self.noted_after.get_or_insert(raising.after);
    }

    /// Empties the note once all of it is in the log or known not to have been done, and has it follow the log while some of it
    /// is not. `open`: raises of which that is not known. The note is that of whoever leads.
    pub async fn renote<S: Objects>(&mut self, store: &S, open: &[Noted]) {
        let (Some(head), Some(after), false) = (self.head, self.noted_after, self.fenced) else { return };
        let raising = self.raising(open);
        let is_due = raising.changes.is_empty() || head.sequence.saturating_sub(after) >= TAIL_MAX;
        // Raises that were given up are in neither place before it is written how many.
        if is_due && self.omitted.is_none() && Self::note_raising(&self.place, store, &raising).await {
            self.noted_after = (!raising.changes.is_empty()).then_some(raising.after);
        }
    }

    /// Writes what waits, in its order; of very much the rest is left to the next call. What was not written is tried again
    /// with the same bytes, so an answer that was lost is found out.
    pub async fn flush<S: Objects>(&mut self, store: &S) -> Result<(), LogError> {
        if self.head.is_none() {
            return Ok(());
        }
        if let Some((at, changes)) = self.omitted.take_if(|_| self.waiting.is_empty()) {
            self.waiting.push_back((at, Event::Omitted { changes }));
        }
        let (mut written, mut adopted) = (0, 0);
        while let Some((at, event)) = self.waiting.front().cloned().filter(|_| written < FLUSHED_MAX) {
            let changes = if let Event::Raised { changes } = &event { changes.len() } else { 0 };
            let event = event.without(|operation| self.known.contains(operation));
            let is_done = match event {
                None => true,
                Some(event) => self.append(store, at, event).await?,
            };
            if is_done {
                self.waiting.pop_front();
                self.waiting_changes -= changes;
                written += 1;
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
