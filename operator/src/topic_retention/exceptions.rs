//! Breaking the glass: which exceptions are in force for which topics, what the log and their status say of it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt as _;
use weir_crds::{
    KafkaCluster, RetentionException,
    conditions::{self, ConditionType, Wanted},
    duration::KubeDuration,
    retention_exception::{REQUESTED_BY_ANNOTATION, RetentionExceptionStatus},
};
use weir_floors::{exceptions::Exception, spec};

use super::{
    Retention, Scene,
    memory::Memory,
    write::{self, WriteError},
};
use crate::audit::entry::{self, Event, exception_operation};

/// How exceptions stood in the last turn, by uid, and what the log says of them.
pub type Told = BTreeMap<String, (Standing, entry::Exception)>;

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
    fn condition(&self) -> Wanted {
        let (status, reason, message) = match self {
            Self::InForce { until } => (true, "InForce", format!("until {until}")),
            Self::Ended { at } => (false, "Ended", format!("since {at}")),
            Self::NotGranted { topic } => {
                let message =
                    format!("the KafkaCluster grants this namespace no Govern on topic {topic}; nothing of this exception is in force");
                (false, "GrantMissing", message)
            }
        };
        Wanted { kind: ConditionType::Active, status: Some(status), reason: reason.to_owned(), message }
    }
}

/// Its name, as `namespace/name`.
fn name(object: &RetentionException) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn parsed(cluster: &KafkaCluster, object: &RetentionException) -> Exception {
    let created_ms = object.creation_timestamp().map_or(0, |at| at.0.as_millisecond());
    spec::exception(&name(object), &object.spec, created_ms, spec::exception_max_ms(&cluster.spec))
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
        if let Standing::InForce { .. } = standing(&scene.cluster, object, now) {
            let exception = parsed(&scene.cluster, object);
            object.spec.topics.iter().for_each(|topic| found.entry(topic.clone()).or_default().push(exception.clone()));
        }
    }
    found
}

/// Has the log say when exceptions begin and end, and writes their status.
pub async fn tell(ctx: &Retention, scene: &Scene, memory: &mut Memory, now: Timestamp) -> Result<(), WriteError> {
    let mut result = Ok(());
    let mut before = std::mem::take(&mut memory.keeping.exceptions);
    for object in &scene.exceptions {
        let uid = object.uid().unwrap_or_default();
        let standing = standing(&scene.cluster, object, now);
        let recorded = recorded(&scene.cluster, object);
        let known = before.remove(&uid).map(|(standing, _)| standing).or_else(|| shown(object, &standing));
        record(memory, &uid, known.as_ref(), &standing, &recorded, now);
        result = result.and(show(ctx, object, &standing, now).await);
        memory.keeping.exceptions.insert(uid, (standing, recorded));
    }
    // Somebody deleted them.
    for (uid, (standing, recorded)) in before {
        record(memory, &uid, Some(&standing), &Standing::Ended { at: now }, &recorded, now);
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

/// What an earlier process showed, as far as it is the same: then the log has it.
fn shown(object: &RetentionException, standing: &Standing) -> Option<Standing> {
    let conditions = &object.status.as_ref()?.conditions;
    let active = conditions.iter().find(|c| c.type_ == ConditionType::Active.as_str())?;
    let until = object.spec.until.0;
    match (active.reason.as_str(), standing) {
        (reason, standing) if reason == standing.condition().reason => Some(standing.clone()),
        ("InForce", _) => Some(Standing::InForce { until }),
        _ => None,
    }
}

fn record(memory: &mut Memory, uid: &str, before: Option<&Standing>, now_is: &Standing, recorded: &entry::Exception, now: Timestamp) {
    let was_in_force = matches!(before, Some(Standing::InForce { .. }));
    let Some(log) = memory.keeping.open_log() else { return };
    let chain = log.place().chain.clone();
    let about = |what: &str| entry::Exception { operation: exception_operation(&chain, uid, what), ..recorded.clone() };
    match now_is {
        Standing::InForce { .. } if !was_in_force => log.push(now, Event::ExceptionBegan { exception: about("began") }),
        Standing::Ended { .. } | Standing::NotGranted { .. } if was_in_force => {
            log.push(now, Event::ExceptionEnded { exception: about("ended") });
        }
        Standing::InForce { .. } | Standing::Ended { .. } | Standing::NotGranted { .. } => {}
    }
}

async fn show(ctx: &Retention, object: &Arc<RetentionException>, standing: &Standing, now: Timestamp) -> Result<(), WriteError> {
    let old = object.status.clone().unwrap_or_default();
    let conditions = conditions::merge(&old.conditions, vec![standing.condition()], object.metadata.generation, now);
    let new = RetentionExceptionStatus { observed_generation: object.metadata.generation, conditions };
    if new == old { Ok(()) } else { write::exception(&ctx.client, object, &new).await }
}
