//! What must hold for a job to have any worker: its class, its clusters and their grants, its ServiceAccount. Pure. What
//! is missing can be cured by another object's change, so each of these is waited for.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use weir_crds::{
    ALLOW_BACKFILLS_ANNOTATION, BackfillClass, KafkaCluster, backfill_job::Sink, conditions::ConditionType, kafka_cluster::GrantVerb,
    validate,
};

use super::{
    observed::{Account, LedgerView, Observed},
    wait::{Wait, Waiting},
};

/// Who lets a job run.
#[derive(Clone, Debug)]
pub struct Authority<'a> {
    pub class_name: &'a str,
    pub class: &'a BackfillClass,
    /// Those that the sinks name.
    pub clusters: BTreeMap<&'a str, &'a KafkaCluster>,
}

#[derive(Clone, Copy, Debug)]
pub struct Class<'a> {
    pub name: &'a str,
    pub class: &'a BackfillClass,
}

/// The class that the job names, or the one default.
pub fn class(seen: &Observed) -> Result<Class<'_>, Waiting> {
    if let Some(name) = &seen.job.spec.class_name {
        return match seen.classes.get_key_value(name) {
            Some((name, class)) => Ok(Class { name, class }),
            None => Err(Waiting::new(
                Wait::ClassMissing,
                format!("spec.className: there is no BackfillClass {name}; create it, or name another"),
            )),
        };
    }
    let mut defaults = seen.classes.iter().filter(|(_, class)| class.spec.default);
    match (defaults.next(), defaults.next()) {
        (Some((name, class)), None) => Ok(Class { name, class }),
        (None, _) => Err(Waiting::new(Wait::NoDefaultClass, "spec.className: no BackfillClass has default: true; name a class")),
        (Some((one, _)), Some((other, _))) => Err(Waiting::new(
            Wait::SeveralDefaultClasses,
            format!("spec.className: {one} and {other} are both default classes; name one, or leave one default"),
        )),
    }
}

/// `Ready` of an object, as far as it is about its present spec.
pub fn readiness(conditions: &[Condition], generation: Option<i64>) -> Result<(), String> {
    match conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str()) {
        Some(ready) if ready.status == "True" && ready.observed_generation == generation => Ok(()),
        Some(ready) if ready.status == "True" => Err("its latest spec was not looked at yet".into()),
        Some(ready) => Err(format!("{}: {}", ready.reason, ready.message)),
        None => Err("it was not looked at yet".into()),
    }
}

pub fn check<'a>(seen: &'a Observed, view: &LedgerView) -> Result<Authority<'a>, Waiting> {
    let Class { name: class_name, class } = class(seen)?;
    let begun = view.run.is_some();
    let conditions = class.status.as_ref().map_or(&[][..], |s| &s.conditions);
    if !begun && let Err(why) = readiness(conditions, class.metadata.generation) {
        return Err(Waiting::new(Wait::ClassNotReady, format!("BackfillClass {class_name} is not ready: {why}")));
    }
    // Once it has begun a run goes on with what it began with, whatever the spec says.
    let sinks: &[Sink] = view.run.as_ref().map_or(&seen.job.spec.sinks, |run| &run.spec.sinks);
    let mut clusters = BTreeMap::new();
    for kafka in sinks.iter().filter_map(|s| s.kafka.as_ref()) {
        let (name, cluster) = cluster(seen, &kafka.cluster_ref.name, begun)?;
        granted(seen, name, cluster, &kafka.topic)?;
        clusters.insert(name, cluster);
    }
    account(seen)?;
    Ok(Authority { class_name, class, clusters })
}

fn cluster<'a>(seen: &'a Observed, name: &str, begun: bool) -> Result<(&'a str, &'a KafkaCluster), Waiting> {
    let Some((name, cluster)) = seen.clusters.get_key_value(name) else {
        let message = format!("spec.sinks[].kafka.clusterRef: there is no KafkaCluster {name}; create it, or name another");
        return Err(Waiting::new(Wait::ClusterMissing, message));
    };
    let conditions = cluster.status.as_ref().map_or(&[][..], |s| &s.conditions);
    // A cluster that goes away later is the workers' to wait for: they know when it is back.
    if !begun && let Err(why) = readiness(conditions, cluster.metadata.generation) {
        return Err(Waiting::new(Wait::ClusterNotReady, format!("KafkaCluster {name} is not ready: {why}")));
    }
    Ok((name, cluster))
}

fn granted(seen: &Observed, name: &str, cluster: &KafkaCluster, topic: &str) -> Result<(), Waiting> {
    validate::granted(&cluster.spec, seen.namespace(), topic, &[GrantVerb::Write, GrantVerb::Read]).map_err(|verb| {
        let namespace = seen.namespace();
        let message = format!(
            "KafkaCluster {name} does not grant {verb:?} on topic {topic} to namespace {namespace}; add it to spec.grants of the cluster"
        );
        Waiting::new(Wait::GrantMissing, message)
    })
}

fn account(seen: &Observed) -> Result<(), Waiting> {
    let name = &seen.job.spec.service_account_name;
    match seen.account {
        Account::Allowed => Ok(()),
        Account::Missing => Err(Waiting::new(
            Wait::ServiceAccountMissing,
            format!("spec.serviceAccountName: there is no ServiceAccount {name} in this namespace; create it"),
        )),
        Account::NotAllowed => Err(Waiting::new(
            Wait::ServiceAccountNotAllowed,
            format!(
                "spec.serviceAccountName: ServiceAccount {name} may not run backfills; annotate it with {ALLOW_BACKFILLS_ANNOTATION}=\"true\""
            ),
        )),
    }
}
