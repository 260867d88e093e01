//! weir's own kinds: the checks of their controllers, before the object is there. A fault that was there before the change
//! does not hold it up.

use jiff::Timestamp;
use kube::{Resource, ResourceExt as _, runtime::reflector::ObjectRef};
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_crds::{
    BackfillClass, BackfillJob, KafkaCluster, RetentionException, TopicRetentionPolicy,
    kafka_cluster::GrantVerb,
    validate::{self, FieldError},
};
use weir_floors::{
    policy::Policy,
    policy_change::{Governed, judge_policy},
    spec,
};

use super::{
    caches::Caches,
    exceptions, overlaps,
    review::{Judged, Request},
};
use crate::{backfill_class, text::qualified_name};

/// Kinds that are judged here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BackfillJob,
    BackfillClass,
    KafkaCluster,
    RetentionException,
    TopicRetentionPolicy,
}

impl Kind {
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        let all = [Self::BackfillJob, Self::BackfillClass, Self::KafkaCluster, Self::RetentionException, Self::TopicRetentionPolicy];
        all.into_iter().find(|own| group == weir_crds::GROUP && own.as_str() == kind)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackfillJob => "BackfillJob",
            Self::BackfillClass => "BackfillClass",
            Self::KafkaCluster => "KafkaCluster",
            Self::RetentionException => "RetentionException",
            Self::TopicRetentionPolicy => "TopicRetentionPolicy",
        }
    }
}

/// Judges what is to be there after a change.
pub fn judge_own(kind: Kind, request: &Request, caches: &Caches, now: Timestamp) -> Judged {
    match kind {
        Kind::BackfillJob => warned(checked::<BackfillJob>(request, |job| self::job(job, caches)), request, |job| {
            if moves(request) { overlaps::of(job, caches) } else { Vec::new() }
        }),
        Kind::BackfillClass => checked::<BackfillClass>(request, |class| self::class(class, caches)),
        Kind::KafkaCluster => checked::<KafkaCluster>(request, |cluster| validate::kafka_cluster(&cluster.spec)),
        Kind::RetentionException => {
            let judged = checked::<RetentionException>(request, |it| exceptions::faults(it, caches, now));
            warned(judged, request, |it| exceptions::idle(it, caches))
        }
        Kind::TopicRetentionPolicy => {
            let mut judged =
                checked::<TopicRetentionPolicy>(request, |p| spec::policy(&qualified_name(p), &p.spec).err().unwrap_or_default());
            if judged.refusals.is_empty() {
                policy_change(request, caches, now, &mut judged);
            }
            judged
        }
    }
}

/// Refuses the faults that the old object did not have.
fn checked<K>(request: &Request, faults: impl Fn(&K) -> Vec<FieldError>) -> Judged
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let Some(new) = &request.object else { return Judged::default() };
    let new: K = match read(new) {
        Ok(object) => object,
        Err(error) => return Judged::refuse(format!("{} cannot be read: {error}", K::kind(&()))),
    };
    let before = request.old_object.as_ref().and_then(|old| read::<K>(old).ok()).map(|old| faults(&old)).unwrap_or_default();
    let fresh = faults(&new).into_iter().filter(|fault| !before.contains(fault));
    Judged { refusals: fresh.map(|fault| fault.to_string()).collect(), warnings: Vec::new() }
}

/// Adds what is worth saying of an object that passes.
fn warned<K: DeserializeOwned>(judged: Judged, request: &Request, warnings: impl Fn(&K) -> Vec<String>) -> Judged {
    match request.object.as_ref().and_then(|object| read(object).ok()) {
        Some(new) if judged.refusals.is_empty() => Judged { warnings: warnings(&new), ..judged },
        Some(_) | None => judged,
    }
}

fn read<K: DeserializeOwned>(object: &Value) -> Result<K, serde_json::Error> {
    K::deserialize(object)
}

/// Whether a job is about another time or target after the change, or begins.
fn moves(request: &Request) -> bool {
    let at = |object: &Option<Value>, pointer: &str| object.as_ref().and_then(|object| object.pointer(pointer)).cloned();
    ["/spec/window", "/spec/sinks", "/spec/suspend"].iter().any(|pointer| at(&request.object, pointer) != at(&request.old_object, pointer))
}

/// What is missing may come, and the job waits for it; what is there and does not allow it is said at once.
fn job(job: &BackfillJob, caches: &Caches) -> Vec<FieldError> {
    let mut faults = validate::backfill_job(&job.spec);
    let class = match &job.spec.class_name {
        Some(name) => caches.classes.get(&ObjectRef::new(name)),
        None => caches.classes.find(|class| class.spec.default),
    };
    // A draft, which weir makes of a loss, names what it is to be granted, and may be of a longer loss than its class allows. What
    // has begun is no draft: suspended and resumed, it has the faults that it had.
    if job.spec.suspend && job.status.as_ref().is_none_or(|status| status.run.is_none()) {
        return faults;
    }
    if let Some(class) = class {
        faults.extend(validate::within_class(&job.spec, &class.name_any(), &class.spec));
    }
    let namespace = job.namespace().unwrap_or_default();
    for (index, kafka) in job.spec.sinks.iter().enumerate().filter_map(|(index, sink)| Some((index, sink.kafka.as_ref()?))) {
        let Some(cluster) = caches.cluster(&kafka.cluster_ref.name) else { continue };
        if let Err(verb) = validate::granted(&cluster.spec, &namespace, &kafka.topic, &[GrantVerb::Write, GrantVerb::Read]) {
            faults.push(FieldError {
                field: format!("spec.sinks[{index}].kafka.topic"),
                message: format!(
                    "KafkaCluster {} does not grant {verb:?} on topic {} to namespace {namespace}",
                    cluster.name_any(),
                    kafka.topic
                ),
                remedy: "add it to spec.grants of the cluster, or name another topic".into(),
            });
        }
    }
    faults
}

fn class(class: &BackfillClass, caches: &Caches) -> Vec<FieldError> {
    let mut faults = backfill_class::malformed(&class.spec);
    let other = caches.classes.find(|other| other.spec.default && other.name_any() != class.name_any());
    if let Some(other) = other.filter(|_| class.spec.default) {
        faults.push(FieldError {
            field: "spec.default".into(),
            message: format!("BackfillClass {} is the default already", other.name_any()),
            remedy: "set default to false in one of them".into(),
        });
    }
    faults
}

/// Judges the change of a policy for every topic that the old one governs.
fn policy_change(request: &Request, caches: &Caches, now: Timestamp, judged: &mut Judged) {
    let parsed = |object: &Option<Value>| {
        let object: TopicRetentionPolicy = read(object.as_ref()?).ok()?;
        let policy = spec::policy(&qualified_name(&object), &object.spec).ok()?;
        Some((object, policy))
    };
    let (Some((object, old)), Some((_, new))) = (parsed(&request.old_object), parsed(&request.object)) else { return };
    let Some(cluster) = caches.cluster(&old.cluster) else { return };
    let namespace = object.namespace().unwrap_or_default();
    for floor in caches.floors.state().into_iter().filter(|floor| !floor.is_left()) {
        let topic = &floor.spec.topic;
        if !old.matches(&floor.spec.cluster_ref.name, topic) {
            continue;
        }
        let Some(authority) = spec::authority(&cluster.spec, &namespace, topic) else { continue };
        let others: Vec<Policy> = caches.governing(&cluster, topic).into_iter().filter(|p| p.name != old.name).collect();
        let standing = floor.status.as_ref().and_then(|s| s.standing.as_ref());
        judged.add(judge_policy(&old, &new, &Governed { topic, standing, authority, others: &others }, now.as_millisecond()));
    }
}
