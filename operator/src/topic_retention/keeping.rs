//! What a cluster's turns keep outside of this process: the audit log and the histories. A store that does not answer holds
//! up no repair for longer than a moment: a term's first turn waits for what earlier ones left, every raise for its note, and
//! all else comes after the raises; each step has its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::ResourceExt as _;
use weir_crds::{
    KafkaCluster,
    conditions::{self, ConditionType, Wanted as Condition},
    contract::result::error_chain,
    kafka_cluster::AuditAnchor,
};
use weir_floors::{
    config::own,
    wanted::{Cause, Change},
};

use super::{
    Retention, Scene,
    exceptions::{Record, Told},
    histories::{self, Histories},
    memory::{Memory, TopicMemory},
    turn::{Seen, Turned},
    write::{self, WriteError},
};
use crate::audit::{
    entry::{Became, Changed, Event, KeyChanged, Outcome, chain_name, operation},
    log::{Log, LogError, Noted, Place, Raising},
    objects::Objects,
};

/// Of one step with the store: with it a turn is still done well within 5 s.
pub const WITHIN: Duration = Duration::from_secs(2);

/// Where a cluster's audit log and histories lie.
#[derive(Debug)]
pub enum Kept<'a, S> {
    /// The cluster names no store.
    Nowhere,
    /// There is no client of it.
    Unreachable(String),
    At(&'a S),
}

impl<'a, S> Kept<'a, S> {
    pub fn store(&self) -> Option<&'a S> {
        if let Self::At(store) = self { Some(*store) } else { None }
    }
}

/// What is known of it in this term.
#[derive(Debug, Default)]
pub struct Keeping {
    log: Option<Log>,
    /// Why the log was not written in the last turn.
    failure: Option<String>,
    histories_failure: Option<String>,
    pub histories: Histories,
    /// Whether it was tried to read both before the term's first raise.
    recalled: bool,
    /// Raises of which it is not known whether they were done.
    unsettled: Vec<Noted>,
    pub exceptions: Told,
    shown: Option<(Option<AuditAnchor>, Vec<Condition>)>,
}

impl Keeping {
    /// Whether the log, if there is one, has all that it was told, and the end of every exception.
    pub fn is_written(&self) -> bool {
        self.log.as_ref().is_none_or(|log| log.is_written() && self.exceptions.values().all(Record::is_over))
    }

    /// The log, if the cluster has one. Another place is another log, which begins with a term of its own.
    pub fn log(&mut self, ctx: &Retention, cluster: &KafkaCluster) -> Option<&mut Log> {
        let store = cluster.spec.audit.as_ref()?;
        let chain = chain_name(&cluster.name_any(), &cluster.uid().unwrap_or_default(), store);
        let place = Place { prefix: store.prefix.clone(), chain, writer: ctx.replica.clone() };
        if self.log.as_ref().is_none_or(|log| *log.place() != place) {
            *self = Self::default();
            self.log = Some(Log::new(place));
        }
        self.log.as_mut()
    }

    pub fn open_log(&mut self) -> Option<&mut Log> {
        self.log.as_mut()
    }

    /// Whether everything is written, as far as it can be.
    pub fn is_healthy(&self) -> bool {
        self.failure.is_none()
    }

    pub fn failed(&mut self, failure: Option<String>) {
        self.failure = failure;
    }

    pub fn waiting_changes(&self) -> usize {
        self.log.as_ref().map_or(0, Log::waiting_changes)
    }
}

/// A step with the store, in its time.
pub async fn in_time<T, E: std::error::Error + 'static>(step: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(WITHIN, step).await {
        Ok(result) => result.map_err(|error| error_chain(&error)),
        Err(_) => Err(format!("the store did not answer within {} s", WITHIN.as_secs())),
    }
}

/// A change as the log has it.
pub fn changed(log: &Log, topic: &str, seen: &Seen, change: &Change, why: String) -> Changed {
    let key = |k: &weir_floors::wanted::KeyChange| KeyChanged { key: k.key.to_owned(), from: k.from.clone(), to: k.to.clone() };
    let keys: Vec<KeyChanged> = change.keys.iter().map(key).collect();
    let topic_id = seen.observed.topic_id.clone();
    let operation = operation(&log.place().chain, log.after(), &topic_id, &keys);
    Changed { operation, topic: topic.to_owned(), topic_id, cause: change.cause.as_str().to_owned(), keys, why, inferred: false }
}

/// The raises of one turn, on their way into the log.
pub struct Recording {
    changes: Vec<Noted>,
    /// What is noted, and where: these, and those of earlier turns that are unsettled or wait to be written.
    note: Option<(Place, Raising)>,
    done: BTreeSet<String>,
}

impl Recording {
    pub fn begin(
        keeping: &Keeping,
        seen: &BTreeMap<String, Seen>,
        turned: &BTreeMap<String, Turned>,
        changes: &BTreeMap<String, Change>,
        now: Timestamp,
    ) -> Self {
        let done = BTreeSet::new();
        let Some(log) = &keeping.log else { return Self { changes: Vec::new(), note: None, done } };
        let one = |(topic, change): (&String, &Change)| {
            let why = turned.get(topic).map(|t| t.assessment.why()).unwrap_or_default();
            Some(Noted { at: now, changed: changed(log, topic, seen.get(topic)?, change, why) })
        };
        let changes: Vec<Noted> = changes.iter().filter_map(one).collect();
        // Before the log was read, what an earlier leader noted must not be written over.
        let is_noted = log.is_open() && !changes.is_empty();
        let note = is_noted.then(|| (log.place().clone(), log.raising(changes.iter().chain(&keeping.unsettled))));
        Self { changes, note, done }
    }

    /// Before the raises themselves, or beside them where the store is slow.
    pub async fn note<S: Objects>(&self, kept: &Kept<'_, S>) {
        let (Some((place, raising)), Some(store)) = (&self.note, kept.store()) else { return };
        let noted = tokio::time::timeout(WITHIN, Log::note_raising(place, store, raising)).await;
        if noted.is_err() {
            tracing::debug!("what is about to be raised is not written down in time");
        }
    }

    pub fn done(&mut self, topic: &str) {
        self.done.insert(topic.to_owned());
    }

    /// What was done goes into the log; what got no answer is looked for in the topics.
    pub fn end(self, keeping: &mut Keeping, now: Timestamp) {
        let (done, open): (Vec<_>, Vec<_>) = self.changes.into_iter().partition(|noted| self.done.contains(&noted.changed.topic));
        keeping.unsettled.extend(open);
        let Some(log) = &mut keeping.log else { return };
        if let Some((_, raising)) = &self.note {
            log.noted(raising);
        }
        if !done.is_empty() {
            log.push(now, Event::Raised { changes: done.into_iter().map(|noted| noted.changed).collect() });
        }
    }
}

/// A change as the log has it, as it was planned.
fn planned(changed: &Changed) -> Option<Change> {
    let key = |k: &KeyChanged| {
        let key = weir_floors::config::KEYS.into_iter().find(|known| *known == k.key)?;
        Some(weir_floors::wanted::KeyChange { key, from: k.from.clone(), to: k.to.clone() })
    };
    Some(Change { cause: Cause::parse(&changed.cause)?, keys: changed.keys.iter().map(key).collect::<Option<_>>()? })
}

/// How a topic stands beside a change that may have been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Before,
    After,
    Elsewhere,
}

fn stands(seen: &Seen, changed: &Changed) -> Option<Stands> {
    if seen.observed.topic_id != changed.topic_id {
        return Some(Stands::Elsewhere);
    }
    let config = seen.observed.config.as_ref().filter(|_| seen.observed.config_is_fresh)?;
    let all = |is: fn(&KeyChanged) -> Option<&str>| changed.keys.iter().all(|k| own(config, &k.key) == is(k));
    Some(if all(|k| k.to.as_deref()) {
        Stands::After
    } else if all(|k| k.from.as_deref()) {
        Stands::Before
    } else {
        Stands::Elsewhere
    })
}

/// Finds out what became of changes whose end nobody has seen: of raises that got no answer or that an earlier leader was
/// about to make, and of its intents.
pub fn settle(memory: &mut Memory, seen: &BTreeMap<String, Seen>, now: Timestamp) {
    let Memory { keeping, topics, governance, .. } = memory;
    let Some(log) = &mut keeping.log else { return };
    // It may be there all the same: brokers do not say so of a topic that they do not let weir describe.
    let is_unknown = |topic: &str| governance.as_ref().is_some_and(|governance| governance.unknown.contains(topic));
    keeping.unsettled.extend(log.take_unsettled());
    let (mut raised, mut left) = (Vec::new(), Vec::new());
    for noted in std::mem::take(&mut keeping.unsettled) {
        if is_unknown(&noted.changed.topic) {
            left.push(noted);
            continue;
        }
        let Noted { at, changed } = &noted;
        let (Some(seen), Some(topic)) = (seen.get(&changed.topic), topics.get_mut(&changed.topic)) else { continue };
        match (stands(seen, changed), planned(changed)) {
            (None, _) => left.push(noted),
            (Some(Stands::After), Some(change)) => {
                // Only the log may not have got to know of it: then the verdict, if there is one, stands.
                if !topic.history.has_changed_since(at.as_millisecond()) {
                    topic.history.applied(&change, now.as_millisecond());
                }
                raised.push(Changed { inferred: true, ..noted.changed });
            }
            // It was not made, or nobody can tell any more.
            (Some(Stands::After | Stands::Before | Stands::Elsewhere), _) => {}
        }
    }
    keeping.unsettled = left;
    if !raised.is_empty() {
        log.push(now, Event::Raised { changes: raised });
    }
    take_over(log, seen, topics, now);
    let mut outcomes = Vec::new();
    for changed in log.abandoned(now) {
        let stands = match seen.get(&changed.topic) {
            Some(seen) => stands(seen, &changed),
            // It is gone, or nobody asks anything of it any more.
            None if !seen.is_empty() && !is_unknown(&changed.topic) => Some(Stands::Elsewhere),
            None => None,
        };
        let Some(stands) = stands else { continue };
        let became = match stands {
            Stands::Before => Became::NotDone,
            Stands::After => Became::Done,
            Stands::Elsewhere => Became::Overtaken,
        };
        outcomes.push(Outcome { operation: changed.operation, became, message: "as the topic was found".into(), inferred: true });
    }
    if !outcomes.is_empty() {
        log.push(now, Event::LowerOutcome { outcomes });
    }
}

/// What was lowered, though nobody has said so yet, is weir's own doing: it must not be taken for somebody else's.
fn take_over(log: &Log, seen: &BTreeMap<String, Seen>, topics: &mut BTreeMap<String, TopicMemory>, now: Timestamp) {
    for changed in log.intended() {
        let (Some(seen), Some(topic), Some(change)) = (seen.get(&changed.topic), topics.get_mut(&changed.topic), planned(changed)) else {
            continue;
        };
        let raised = topic.history.raised();
        let is_before = changed.keys.iter().all(|k| raised.get(&k.key).is_some_and(|r| Some(&r.set) == k.from.as_ref()));
        if is_before && stands(seen, changed) == Some(Stands::After) {
            topic.history.applied(&change, now.as_millisecond());
        }
    }
}

/// Reads what earlier terms left, once and before this one's first raise: a topic that was lowered while nobody led is known
/// by it to have been. A store that is silent holds up that one turn, and is asked again by [`keep`].
pub async fn recall<S: Objects>(ctx: &Retention, kept: &Kept<'_, S>, scene: &Scene, memory: &mut Memory, now: Timestamp) {
    if memory.keeping.log(ctx, &scene.cluster).is_none() || std::mem::replace(&mut memory.keeping.recalled, true) {
        return;
    }
    let (Some(store), Keeping { log: Some(log), histories, .. }) = (kept.store(), &mut memory.keeping) else { return };
    let read = in_time(async {
        open(log, store, scene, now).await?;
        Ok::<(), LogError>(histories.load(store, &log.place().clone()).await?)
    });
    if let Err(failure) = read.await {
        tracing::warn!(cluster = scene.cluster.name_any(), failure, "topics are raised without what earlier terms left");
    }
    histories.take_up(&mut memory.topics, &scene.floors, now.as_millisecond());
}

async fn open<S: Objects>(log: &mut Log, store: &S, scene: &Scene, now: Timestamp) -> Result<(), LogError> {
    let cluster = &scene.cluster;
    let anchor = cluster.status.as_ref().and_then(|status| status.audit.as_ref());
    let leads = Event::Leads { cluster: cluster.name_any(), uid: cluster.uid().unwrap_or_default() };
    log.open(store, anchor, (now, leads)).await
}

/// Reads the log's end and what was remembered, as far as that was not done yet, and writes what waits.
pub async fn keep<S: Objects>(ctx: &Retention, kept: &Kept<'_, S>, scene: &Scene, memory: &mut Memory, now: Timestamp) {
    let cluster = &scene.cluster;
    if memory.keeping.log(ctx, cluster).is_none() {
        return;
    }
    let Some(store) = kept.store() else {
        if let Kept::Unreachable(failure) = kept {
            memory.keeping.failed(Some(failure.clone()));
        }
        return;
    };
    let begun = Instant::now();
    let written = in_time(async {
        let Some(log) = &mut memory.keeping.log else { return Ok(()) };
        open(log, store, scene, now).await?;
        log.flush(store).await
    })
    .await;
    if let Err(failure) = &written {
        tracing::warn!(cluster = cluster.name_any(), failure, "the audit log is not written");
    }
    memory.keeping.failed(written.err());
    renote(store, &mut memory.keeping, WITHIN.saturating_sub(begun.elapsed())).await;
    // A store that is silent is not waited for twice.
    if begun.elapsed() >= WITHIN {
        memory.keeping.histories_failure.clone_from(&memory.keeping.failure);
        return;
    }
    let Keeping { histories, log: Some(log), .. } = &mut memory.keeping else { return };
    let place = log.place().clone();
    let loaded = in_time(histories.load(store, &place)).await;
    histories.take_up(&mut memory.topics, &scene.floors, now.as_millisecond());
    let saved = match loaded {
        Ok(()) => in_time(histories::save_due(store, &place, memory, now)).await,
        Err(failure) => Err(failure),
    };
    memory.keeping.histories_failure = saved.err();
}

/// Lets go of what was noted and is in the log. If we die before, the next leader finds it in both.
async fn renote<S: Objects>(store: &S, keeping: &mut Keeping, within: Duration) {
    let Keeping { log: Some(log), unsettled, failure: None, .. } = keeping else { return };
    if tokio::time::timeout(within, log.renote(store, unsettled)).await.is_err() {
        tracing::debug!("what is in the audit log stays noted, since the store did not answer in time");
    }
}

/// Writes the histories as the process ends.
pub async fn end<S: Objects>(store: &S, memory: &Memory, now: Timestamp) -> Result<(), weir_ledger::LedgerError> {
    match &memory.keeping.log {
        Some(log) => histories::save_all(store, log.place(), memory, now).await,
        None => Ok(()),
    }
}

/// Says in the cluster's status how the log and the histories are, and which entry is the newest.
pub async fn show<S>(ctx: &Retention, kept: &Kept<'_, S>, scene: &Scene, memory: &mut Memory, now: Timestamp) -> Result<(), WriteError> {
    let keeping = &memory.keeping;
    let anchor = keeping.log.as_ref().and_then(Log::anchor);
    let wanted = vec![audit_healthy(kept, keeping), history_kept(kept, keeping)];
    let new = (anchor.clone(), wanted.clone());
    if keeping.shown.as_ref() == Some(&new) {
        return Ok(());
    }
    let old = scene.cluster.status.clone().unwrap_or_default();
    // Of a log that was not read yet the anchor stays: it is what the log will be checked by.
    let anchor = anchor.or(old.audit);
    let conditions = conditions::merge(&old.conditions, wanted, scene.cluster.metadata.generation, now);
    write::cluster(&ctx.client, &scene.cluster, anchor.as_ref(), &conditions).await?;
    memory.keeping.shown = Some(new);
    Ok(())
}

fn condition(kind: ConditionType, status: Option<bool>, reason: &str, message: impl Into<String>) -> Condition {
    Condition { kind, status, reason: reason.to_owned(), message: message.into() }
}

fn audit_healthy<S>(kept: &Kept<'_, S>, keeping: &Keeping) -> Condition {
    let says = |status, reason, message: String| condition(ConditionType::AuditHealthy, status, reason, message);
    match (kept, &keeping.failure) {
        (Kept::Nowhere, _) => {
            let message = "spec.audit names no store: no change is recorded, and what weir raised is not lowered again";
            says(None, "NoStore", message.to_owned())
        }
        (_, Some(failure)) => says(Some(false), "NotWritable", format!("{failure}; topics are raised, and none is lowered")),
        (_, None) => says(Some(true), "Written", String::new()),
    }
}

fn history_kept<S>(kept: &Kept<'_, S>, keeping: &Keeping) -> Condition {
    let says = |status, reason, message: String| condition(ConditionType::HistoryKept, status, reason, message);
    if let Kept::Nowhere = kept {
        let message = "spec.audit names no store: samples, peaks and the floors of deleted policies are lost when the operator restarts";
        return says(Some(false), "NoStore", message.to_owned());
    }
    if let Some((key, why)) = keeping.histories.faults.first_key_value() {
        let message = format!("{key}: {why}; its topics are watched anew, and not lowered before the look-back has been seen");
        return says(Some(false), "NotUnderstood", message);
    }
    match &keeping.histories_failure {
        Some(failure) => says(Some(false), "NotWritable", failure.clone()),
        None if keeping.histories.are_loaded() => says(Some(true), "Kept", String::new()),
        None => says(None, "NotReadYet", String::new()),
    }
}
