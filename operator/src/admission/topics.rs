//! Topics that other operators own by resources of their own: what they declare, and whether a change of it may pass.
//! Resources that no KafkaCluster names in `topicResources`, and topics that no policy governs, pass.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::Value;
use weir_crds::{
    KafkaCluster,
    kafka_cluster::{TopicResource, TopicResourceKind},
};
use weir_floors::{
    config::Overrides,
    judge::{Edit, Standing, judge, judge_deletion},
    standing,
};

use super::{
    caches::Caches,
    review::{Judged, Operation, Request},
};
use crate::topic_resource;

/// As it is called in `topicResources`, and in metrics.
pub const fn name(kind: TopicResourceKind) -> &'static str {
    match kind {
        TopicResourceKind::StrimziKafkaTopic => "StrimziKafkaTopic",
        TopicResourceKind::RedpandaTopic => "RedpandaTopic",
        TopicResourceKind::CrossplaneTopic => "CrossplaneTopic",
        TopicResourceKind::CrossplaneClusterTopic => "CrossplaneClusterTopic",
    }
}

/// What a resource declares of its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub topic: String,
    labels: BTreeMap<String, String>,
    pub config: Overrides,
    /// Deleting it deletes the topic.
    owns: bool,
    is_going: bool,
}

impl Declared {
    /// `name`: as the request says, since an object that is being made may have none yet.
    pub fn read(kind: TopicResourceKind, name: &str, object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let spec = &object["spec"];
        let owns = match kind {
            TopicResourceKind::StrimziKafkaTopic => metadata["annotations"]["strimzi.io/managed"] != "false",
            TopicResourceKind::RedpandaTopic => true,
            TopicResourceKind::CrossplaneTopic | TopicResourceKind::CrossplaneClusterTopic => deletes_by_crossplane(spec),
        };
        let name = text(&metadata["name"]).unwrap_or_else(|| name.to_owned());
        let labels = metadata["labels"].as_object().into_iter().flatten();
        Self {
            topic: topic_resource::topic(kind, object).unwrap_or(name),
            labels: labels.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect(),
            config: topic_resource::config(kind, object),
            owns,
            is_going: metadata["deletionTimestamp"].is_string(),
        }
    }
}

fn deletes_by_crossplane(spec: &Value) -> bool {
    let policies = spec["managementPolicies"].as_array();
    let may = policies.is_none_or(|p| p.iter().any(|p| p == "*" || p == "Delete"));
    may && spec["deletionPolicy"] != "Orphan"
}

/// Judges a change for every cluster that the resource is tied to.
pub fn judge_topic(kind: TopicResourceKind, request: &Request, caches: &Caches) -> Judged {
    let read = |object: &Value| Declared::read(kind, &request.name, object);
    let (old, new) = (request.old_object.as_ref().map(read), request.object.as_ref().map(read));
    let mut judged = Judged::default();
    match (request.operation, old, new) {
        (Operation::Create, _, Some(new)) => {
            for standing in standings(kind, request, &new, caches, Unseen::Passes) {
                // What the topic sets itself now is what this would be laid over.
                judged.add(verdict(kind, &standing.own, &new.config, standing.judged));
            }
        }
        (Operation::Update, Some(old), Some(new)) if !new.is_going => {
            let same_topic = old.topic == new.topic;
            if same_topic && old.config == new.config {
                return judged;
            }
            for standing in standings(kind, request, &new, caches, if same_topic { Unseen::Held } else { Unseen::Passes }) {
                let before = if same_topic { &old.config } else { &standing.own };
                judged.add(verdict(kind, before, &new.config, standing.judged));
            }
        }
        (Operation::Delete, Some(old), _) if old.owns && !old.is_going => {
            for standing in standings(kind, request, &old, caches, Unseen::Held) {
                judged.add(judge_deletion(&standing.judged));
            }
        }
        (Operation::Create | Operation::Update | Operation::Delete | Operation::Connect, ..) => {}
    }
    judged
}

fn verdict(kind: TopicResourceKind, old: &Overrides, new: &Overrides, mut judged: Standing) -> weir_floors::judge::Verdict {
    standing::assume_same(&mut judged.inherited, old, new);
    judge(&Edit { path: &topic_resource::path(kind), old, new }, &judged)
}

/// What becomes of topics that policies govern, and of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unseen {
    /// It may not be there yet.
    Passes,
    Held,
}

struct Found {
    judged: Standing,
    /// What the topic sets itself.
    own: Overrides,
}

fn standings(kind: TopicResourceKind, request: &Request, it: &Declared, caches: &Caches, unseen: Unseen) -> Vec<Found> {
    let clusters = caches.clusters();
    let tied = clusters.iter().filter(|c| c.spec.topic_resources.iter().any(|r| ties(r, kind, request.namespace.as_deref(), it)));
    tied.filter_map(|cluster| found(cluster, &it.topic, caches, unseen)).collect()
}

fn ties(resource: &TopicResource, kind: TopicResourceKind, namespace: Option<&str>, it: &Declared) -> bool {
    let lies_there = resource.namespaces.is_empty() || namespace.is_some_and(|n| resource.namespaces.iter().any(|own| own == n));
    resource.kind == kind && lies_there && resource.match_labels.iter().all(|(key, value)| it.labels.get(key) == Some(value))
}

fn found(cluster: &KafkaCluster, topic: &str, caches: &Caches, unseen: Unseen) -> Option<Found> {
    let name: Cow<'_, str> = cluster.metadata.name.as_deref().unwrap_or_default().into();
    if let Some(status) = caches.floor(&name, topic).as_ref().and_then(|f| f.status.as_ref())
        && let Some(judged) = standing::of_floor(topic, status)
    {
        let own = status.standing.as_ref().map(|s| s.own.clone()).unwrap_or_default();
        return Some(Found { judged, own });
    }
    let policies = caches.governing(cluster, topic);
    if policies.is_empty() || unseen == Unseen::Passes {
        return None;
    }
    let judged = standing::unseen(topic, &policies.iter().collect::<Vec<_>>());
    Some(Found { judged, own: Overrides::new() })
}
