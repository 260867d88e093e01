//! Resources of other operators that describe topics: Strimzi, Redpanda, Crossplane. Where they are, and what lies where in
//! them.

use serde_json::Value;
use weir_crds::kafka_cluster::TopicResourceKind;
use weir_floors::config::Overrides;

const ALL: [TopicResourceKind; 4] = [
    TopicResourceKind::StrimziKafkaTopic,
    TopicResourceKind::RedpandaTopic,
    TopicResourceKind::CrossplaneTopic,
    TopicResourceKind::CrossplaneClusterTopic,
];

/// Where a kind's resources are, and what lies where in them.
pub struct Layout {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// A pointer to the topic's name, where it is not the resource's.
    pub topic: &'static str,
    pub config: &'static [&'static str],
}

const CROSSPLANE_CONFIG: &[&str] = &["spec", "forProvider", "config"];
const CROSSPLANE_NAME: &str = "/metadata/annotations/crossplane.io~1external-name";

pub const fn layout(kind: TopicResourceKind) -> Layout {
    match kind {
        TopicResourceKind::StrimziKafkaTopic => Layout {
            group: "kafka.strimzi.io",
            version: "v1beta2",
            kind: "KafkaTopic",
            plural: "kafkatopics",
            topic: "/spec/topicName",
            config: &["spec", "config"],
        },
        TopicResourceKind::RedpandaTopic => Layout {
            group: "cluster.redpanda.com",
            version: "v1alpha2",
            kind: "Topic",
            plural: "topics",
            topic: "/spec/overwriteTopicName",
            config: &["spec", "additionalConfig"],
        },
        TopicResourceKind::CrossplaneTopic => Layout {
            group: "topic.kafka.m.crossplane.io",
            version: "v1alpha1",
            kind: "Topic",
            plural: "topics",
            topic: CROSSPLANE_NAME,
            config: CROSSPLANE_CONFIG,
        },
        TopicResourceKind::CrossplaneClusterTopic => Layout {
            group: "topic.kafka.crossplane.io",
            version: "v1alpha1",
            kind: "Topic",
            plural: "topics",
            topic: CROSSPLANE_NAME,
            config: CROSSPLANE_CONFIG,
        },
    }
}

/// The kind of a resource, if it is a topic of an operator that weir knows.
pub fn kind(group: &str, kind: &str) -> Option<TopicResourceKind> {
    ALL.into_iter().find(|known| (layout(*known).group, layout(*known).kind) == (group, kind))
}

/// Where the configuration's keys stand in a resource, as people write it.
pub fn path(kind: TopicResourceKind) -> String {
    layout(kind).config.join(".")
}

/// The topic's name, where the resource says another than its own.
pub fn topic(kind: TopicResourceKind, resource: &Value) -> Option<String> {
    resource.pointer(layout(kind).topic).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// What the resource sets of the topic's configuration.
pub fn config(kind: TopicResourceKind, resource: &Value) -> Overrides {
    let found = layout(kind).config.iter().try_fold(resource, |value, field| value.get(field));
    let set = found.and_then(Value::as_object).into_iter().flatten();
    set.filter_map(|(key, value)| Some((key.clone(), setting(value)?))).collect()
}

/// As its operator hands it to Kafka. `None`: as if the key were not there.
fn setting(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(setting).collect::<Vec<_>>().join(",")),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}
