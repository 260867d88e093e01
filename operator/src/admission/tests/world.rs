//! What a replica has in its caches, and a request as the apiserver makes it.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use jiff::Timestamp;
use kube::{
    Resource,
    runtime::{
        reflector::{self, Store},
        watcher::Event,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use weir_crds::TopicFloor;

use crate::{
    admission::{Webhooks, caches::Caches, judge, review::Review},
    metrics::Metrics,
    topic_retention::floor_name,
};

pub const HOUR_MS: i64 = 3_600_000;
pub const TOPIC: &str = "app_events";

/// The objects of a replica's caches.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub floors: Vec<Value>,
    pub policies: Vec<Value>,
    pub clusters: Vec<Value>,
    pub classes: Vec<Value>,
    pub jobs: Vec<Value>,
}

fn store<K>(objects: &[Value]) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + 'static,
    K::DynamicType: Eq + Hash,
{
    let (reader, mut writer) = reflector::store();
    writer.apply_watcher_event(&Event::Init);
    for object in objects {
        writer.apply_watcher_event(&Event::InitApply(serde_json::from_value(object.clone()).unwrap()));
    }
    writer.apply_watcher_event(&Event::InitDone);
    reader
}

/// A cluster that grants all of it, with topics of every kind under a label.
pub fn cluster(name: &str) -> Value {
    let kinds = ["StrimziKafkaTopic", "RedpandaTopic", "CrossplaneTopic", "CrossplaneClusterTopic"];
    let resources: Vec<Value> = kinds.iter().map(|kind| json!({"kind": kind, "matchLabels": {"strimzi.io/cluster": name}})).collect();
    json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {
            "bootstrapServers": ["kafka:9092"], "topicResources": resources,
            "grants": [{"namespaces": ["growth"], "topics": ["^.*$"], "verbs": ["Govern", "Read", "Write"]}],
        },
    })
}

/// A topic of cluster `main`.
pub fn floor(topic: &str, standing: Option<Value>) -> Value {
    let mut status = json!({
        "state": "Healthy", "retention": "168h", "floor": "168h", "headroom": "90%", "timeToLoss": "Never",
        "why": "group lake-sink is 8h12m behind (peak 3d12h, 2026-11-02), twice that is needed",
    });
    if let Some(standing) = standing {
        status["standing"] = standing;
    }
    json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicFloor", "metadata": {"name": floor_name("main", topic)},
        "spec": {"clusterRef": {"name": "main"}, "topic": topic}, "status": status,
    })
}

/// A floor of 168 h by `Enforce`, over what brokers give by default.
pub fn standing() -> Value {
    json!({
        "floorMs": 168 * HOUR_MS, "mode": "Enforce", "protect": {"retentionBytes": true, "cleanupPolicy": true, "deletion": true},
        "inherited": {
            "retention.ms": "604800000", "retention.bytes": "-1", "cleanup.policy": "delete", "remote.storage.enable": "false",
            "remote.log.delete.on.disable": "false", "local.retention.ms": "-2", "local.retention.bytes": "-2",
        },
        "bytesPerSecond": 1000, "owners": ["data-lake (#data-lake)"],
        "consumers": [{"group": "lake-sink", "tables": ["raw.app_events"]}],
    })
}

impl World {
    /// One cluster, with one topic that has a floor.
    pub fn governed() -> Self {
        Self { clusters: vec![cluster("main")], floors: vec![floor(TOPIC, Some(standing()))], ..Self::default() }
    }

    pub fn caches(&self) -> Caches {
        let floors = store::<TopicFloor>(&self.floors);
        Caches::new(floors, store(&self.policies), store(&self.clusters), store(&self.classes), store(&self.jobs))
    }

    pub fn webhooks(&self, is_draining: watch::Receiver<bool>) -> Arc<Webhooks> {
        Arc::new(Webhooks { caches: self.caches(), metrics: Arc::<Metrics>::default(), is_draining })
    }

    /// The response to a request at `2026-11-07T00:00:00Z`.
    pub fn ask(&self, request: &Value) -> Answered {
        let review: Review = serde_json::from_value(json!({"request": request})).unwrap();
        let now: Timestamp = "2026-11-07T00:00:00Z".parse().unwrap();
        let (_, judged) = judge(&review, &self.caches(), now);
        Answered { message: (!judged.refusals.is_empty()).then(|| judged.refusals.join("; ")), warnings: judged.warnings }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Of the refusal, if it is refused.
    pub message: Option<String>,
    pub warnings: Vec<String>,
}

impl Answered {
    pub fn is_refused_for(&self, says: &[String], name: &str) {
        let message = self.message.as_deref().unwrap_or_else(|| panic!("{name}: it passes: {self:?}"));
        for said in says {
            assert!(message.contains(said.as_str()), "{name}: {said:?} is not in {message:?}");
        }
    }

    pub fn passes(&self, name: &str) {
        assert_eq!(self.message, None, "{name}");
    }

    pub fn passes_in_silence(&self, name: &str) {
        assert_eq!((&self.message, &self.warnings), (&None, &vec![]), "{name}");
    }
}

/// A request about an object: without `old` it is made, without `new` deleted.
pub fn request(group: &str, kind: &str, old: Option<&Value>, new: Option<&Value>) -> Value {
    let operation = match (old, new) {
        (None, _) => "CREATE",
        (Some(_), Some(_)) => "UPDATE",
        (Some(_), None) => "DELETE",
    };
    let metadata = &new.or(old).unwrap()["metadata"];
    json!({
        "uid": "review-uid", "kind": {"group": group, "version": "v1", "kind": kind}, "operation": operation,
        "name": metadata["name"], "namespace": metadata["namespace"], "object": new, "oldObject": old,
        "resource": {"group": group, "version": "v1", "resource": "things"}, "userInfo": {"username": "somebody"}, "options": null,
    })
}
