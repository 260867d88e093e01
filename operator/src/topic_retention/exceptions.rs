//! Breaking the glass: which exceptions are in force for which topics, what the log and their status say of it.
//!
//! Where there is a log, a status follows it, a turn later: what a status tells of is in the log. So of a beginning or an end
//! - that is not in the log when the process dies the status says nothing, and the next leader has it written;
//! - that is in the log the next leader has read the entry, and only the status is left to be written;
//! - whose status is written there is nothing left to do.
//!
//! Each has an id that follows from the status before it, and no two statuses of an exception that tell of a beginning or an
//! end are of the same second. What becomes of one that is deleted while nobody leads is in no status, and not recorded.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use weir_crds::{
    KafkaCluster, RetentionException,
    conditions::{self, ConditionType, Wanted},
    contract::digest::Sha256Digest,
    duration::KubeDuration,
    retention_exception::{REQUESTED_BY_ANNOTATION, RetentionExceptionStatus},
};
use weir_floors::{exceptions::Exception, spec};

use super::{
    Retention, Scene,
    memory::Memory,
    write::{self, WriteError},
};
use crate::audit::{
    entry::{self, Event, exception_operation},
    log::Log,
};
use crate::text::qualified_name;

/// What was told of exceptions, by uid.
pub type Told = BTreeMap<String, Record>;

/// What the log says of an exception, and how far its status has followed.
#[derive(Debug)]
pub struct Record {
    /// Since when its status says what it does; `None`: it says nothing yet.
    since_seconds: Option<i64>,
    /// Beginnings and ends that are in the log or wait for it, and of which the status does not tell yet.
    untold: u32,
    /// The last of them that this process has handed to the log.
    pushed: Option<Sha256Digest>,
    /// Whether it is in force, as the log has it with what waits.
    is_in_force: bool,
    recorded: entry::Exception,
}

/// The reason of one that is in force no more.
const ENDED: &str = "Ended";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    InForce {
        until: Timestamp,
    },
    Ended {
        at: Timestamp,
    },
    /// Its namespace may not govern this topic.
    NotGranted {
        topic: String,
    },
}

impl Standing {
    fn is_in_force(&self) -> bool {
        match self {
            Self::InForce { .. } => true,
            Self::Ended { .. } | Self::NotGranted { .. } => false,
        }
    }

    fn condition(&self) -> Wanted {
        let (status, reason, message) = match self {
            Self::InForce { until } => (true, "InForce", format!("until {until}")),
            Self::Ended { at } => (false, ENDED, format!("since {at}")),
            Self::NotGranted { topic } => {
                let message =
                    format!("the KafkaCluster grants this namespace no Govern on topic {topic}; nothing of this exception is in force");
                (false, "GrantMissing", message)
            }
        };
        Wanted { kind: ConditionType::Active, status: Some(status), reason: reason.to_owned(), message }
    }
}

fn parsed(cluster: &KafkaCluster, object: &RetentionException) -> Exception {
    let created_ms = object.creation_timestamp().map_or(0, |at| at.0.as_millisecond());
    spec::exception(&qualified_name(object), &object.spec, created_ms, spec::exception_max_ms(&cluster.spec))
}

fn standing(cluster: &KafkaCluster, object: &RetentionException, now: Timestamp) -> Standing {
    let until = Timestamp::from_millisecond(parsed(cluster, object).until_ms).unwrap_or(Timestamp::MIN);
    let namespace = object.namespace().unwrap_or_default();
    match object.spec.topics.iter().find(|topic| !spec::governs(&cluster.spec, &namespace, topic)) {
        _ if now >= until => Standing::Ended { at: until },
        Some(topic) => Standing::NotGranted { topic: topic.clone() },
        None => Standing::InForce { until },
    }
}

/// Those in force for each topic.
pub fn by_topic(scene: &Scene, now: Timestamp) -> BTreeMap<String, Vec<Exception>> {
    let mut found: BTreeMap<String, Vec<Exception>> = BTreeMap::new();
    for object in &scene.exceptions {
        if standing(&scene.cluster, object, now).is_in_force() {
            let exception = parsed(&scene.cluster, object);
            object.spec.topics.iter().for_each(|topic| found.entry(topic.clone()).or_default().push(exception.clone()));
        }
    }
    found
}

/// Whether none is in force, or can come to be, and all that there is to tell of them was told.
pub fn are_over(scene: &Scene, memory: &Memory, now: Timestamp) -> bool {
    let is_shown = |object: &RetentionException| {
        let status = object.status.as_ref().filter(|status| status.observed_generation == object.metadata.generation);
        status.and_then(active).is_some_and(|active| active.reason == ENDED)
    };
    let is_over = |object: &RetentionException| match standing(&scene.cluster, object, now) {
        Standing::Ended { .. } => is_shown(object),
        Standing::InForce { .. } | Standing::NotGranted { .. } => false,
    };
    // Without a place for it nothing is written any more.
    let is_written = scene.cluster.spec.audit.is_none() || memory.keeping.is_written();
    is_written && scene.exceptions.iter().all(|object| is_over(object))
}

/// Has the log say when exceptions begin and end, and writes their status once it does.
pub async fn tell(ctx: &Retention, scene: &Scene, memory: &mut Memory, now: Timestamp) -> Result<(), WriteError> {
    let mut result = Ok(());
    let mut before = std::mem::take(&mut memory.keeping.exceptions);
    for object in &scene.exceptions {
        let uid = object.uid().unwrap_or_default();
        let standing = standing(&scene.cluster, object, now);
        let recorded = recorded(&scene.cluster, object);
        let mut record = match before.remove(&uid) {
            Some(record) => Record { recorded, ..record },
            None => Record::found(object, recorded),
        };
        let is_written = match memory.keeping.log(ctx, &scene.cluster) {
            Some(log) => {
                record.follow(log, &uid, standing.is_in_force(), now);
                record.is_written(log)
            }
            // There is nothing to wait for.
            None => true,
        };
        if is_written {
            result = result.and(show(ctx, object, &standing, &mut record, now).await);
        }
        memory.keeping.exceptions.insert(uid, record);
    }
    // Somebody deleted them.
    for (uid, mut record) in before {
        if let Some(log) = memory.keeping.log(ctx, &scene.cluster) {
            record.follow(log, &uid, false, now);
        }
    }
    result
}

fn recorded(cluster: &KafkaCluster, object: &RetentionException) -> entry::Exception {
    let exception = parsed(cluster, object);
    entry::Exception {
        operation: Default::default(),
        name: exception.name,
        topics: object.spec.topics.clone(),
        floor: KubeDuration::to_string(&object.spec.floor),
        until: Timestamp::from_millisecond(exception.until_ms).unwrap_or(Timestamp::MIN),
        reason: exception.reason,
        requested_by: object.annotations().get(REQUESTED_BY_ANNOTATION).cloned(),
    }
}

fn active(status: &RetentionExceptionStatus) -> Option<&Condition> {
    status.conditions.iter().find(|c| c.type_ == ConditionType::Active.as_str())
}

impl Record {
    /// As an earlier process left it.
    fn found(object: &RetentionException, recorded: entry::Exception) -> Self {
        let active = object.status.as_ref().and_then(active);
        Self {
            since_seconds: active.map(|c| c.last_transition_time.0.as_second()),
            untold: 0,
            pushed: None,
            is_in_force: active.is_some_and(|c| c.status == "True"),
            recorded,
        }
    }

    /// The id of its next beginning or end.
    fn next(&self, log: &Log, uid: &str) -> Sha256Digest {
        let what = if self.is_in_force { "ended" } else { "began" };
        exception_operation(&log.place().chain, uid, what, self.since_seconds, self.untold)
    }

    fn passed(&mut self) {
        (self.is_in_force, self.untold) = (!self.is_in_force, self.untold + 1);
    }

    /// Has the log say that it has begun or ended.
    fn follow(&mut self, log: &mut Log, uid: &str, is_in_force: bool, now: Timestamp) {
        // Another process has written that, and died before the status told of it, or leads as well.
        while log.knows(&self.next(log, uid)) {
            self.passed();
        }
        if self.is_in_force == is_in_force {
            return;
        }
        let exception = entry::Exception { operation: self.next(log, uid), ..self.recorded.clone() };
        self.pushed = Some(exception.operation);
        log.push(now, if is_in_force { Event::ExceptionBegan { exception } } else { Event::ExceptionEnded { exception } });
        self.passed();
    }

    /// Whether there is nothing more to tell of it.
    pub fn is_over(&self) -> bool {
        !self.is_in_force && self.untold == 0
    }

    /// Whether the log has all of it. Before it was read, nobody knows what an earlier process wrote.
    fn is_written(&self, log: &Log) -> bool {
        log.is_open() && self.pushed.is_none_or(|pushed| !log.waits_for(&pushed))
    }

    /// When its status changes: later than ever before, whatever the clocks say.
    fn changes_at(&self, now: Timestamp) -> Timestamp {
        let next = self.since_seconds.and_then(|seconds| Timestamp::from_second(seconds + 1).ok());
        next.map_or(now, |next| next.max(now))
    }

    /// Its status tells of all that the log has. An object that is seen late says no less of what was written since.
    fn told(&mut self, status: &RetentionExceptionStatus) {
        let since = active(status).map(|c| c.last_transition_time.0.as_second());
        (self.since_seconds, self.untold, self.pushed) = (self.since_seconds.max(since), 0, None);
    }
}

async fn show(
    ctx: &Retention,
    object: &Arc<RetentionException>,
    standing: &Standing,
    record: &mut Record,
    now: Timestamp,
) -> Result<(), WriteError> {
    let old = object.status.clone().unwrap_or_default();
    // One that has begun and ended since is as it was, and yet since another time.
    let known: &[Condition] = if record.untold == 0 { &old.conditions } else { &[] };
    let conditions = conditions::merge(known, vec![standing.condition()], object.metadata.generation, record.changes_at(now));
    let new = RetentionExceptionStatus { observed_generation: object.metadata.generation, conditions };
    if new != old {
        write::exception(&ctx.client, object, &new).await?;
    }
    record.told(&new);
    Ok(())
}
