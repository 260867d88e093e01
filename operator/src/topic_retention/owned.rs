//! Topics that another operator's resources describe: Strimzi, Redpanda, Crossplane. weir raises such a topic on Kafka, says
//! what to change in the resource, and never writes to the resource.
//!
//! The other operator may set the topic back again and again. A floor is a floor, so weir raises it again and again as
//! well: at once a few times, and then at intervals that are short beside the five minutes in which a broker looks for
//! what to delete.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
    core::Selector,
};
use serde_json::Value;
use weir_crds::{
    KafkaCluster,
    contract::result::error_chain,
    kafka_cluster::{TopicResource, TopicResourceKind},
};
use weir_floors::{
    Assessment, HOUR_MS,
    config::{RETENTION_BYTES, RETENTION_MS},
    findings::Finding,
    policy::Mode,
    wanted::{Cause, Wanted},
};

use super::{status::has_passed, turn::LOOK_INTERVAL_MS};
use crate::topic_resource::{self, Layout, layout};

/// A page of a list.
const LIST_PAGE: u32 = 500;
/// Raised so often within [`OVER_MS`] without a pause.
const AT_ONCE: usize = 3;
const OVER_MS: i64 = HOUR_MS;
/// Between two raises of a topic that is set back again and again: doubled from the first to the second.
const INTERVAL_MIN_MS: i64 = 10_000;
const INTERVAL_MAX_MS: i64 = 60_000;

/// A resource that describes a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    kind: TopicResourceKind,
    namespace: Option<String>,
    name: String,
    /// What it sets of the topic's configuration.
    declared: BTreeMap<String, String>,
}

/// By topic, as of the last look that was answered.
#[derive(Debug, Default)]
pub struct Owners {
    looked_ms: Option<i64>,
    by_topic: BTreeMap<String, Owner>,
}

impl Owners {
    pub fn of(&self, topic: &str) -> Option<&Owner> {
        self.by_topic.get(topic)
    }

    /// Looks again, if it is time to.
    pub async fn look(&mut self, client: &Client, cluster: &KafkaCluster, now_ms: i64) {
        if self.looked_ms.is_some_and(|at_ms| !has_passed(at_ms, LOOK_INTERVAL_MS, now_ms)) {
            return;
        }
        self.looked_ms = Some(now_ms);
        match resources(client, cluster).await {
            Ok(by_topic) => self.by_topic = by_topic,
            // Those that were known serve on.
            Err(error) => tracing::warn!(error = error_chain(&error), "the resources of other operators cannot be listed"),
        }
    }
}

/// The resources of a cluster's topics. A kind that is not installed has none.
async fn resources(client: &Client, cluster: &KafkaCluster) -> Result<BTreeMap<String, Owner>, kube::Error> {
    let mut owners = BTreeMap::new();
    for declared in &cluster.spec.topic_resources {
        for object in list(client, declared).await? {
            let value = serde_json::to_value(&object).map_err(kube::Error::SerdeError)?;
            let (topic, owner) = owner(declared.kind, &value);
            owners.insert(topic, owner);
        }
    }
    Ok(owners)
}

async fn list(client: &Client, declared: &TopicResource) -> Result<Vec<DynamicObject>, kube::Error> {
    let Layout { group, version, kind, plural, .. } = layout(declared.kind);
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let apis: Vec<Api<DynamicObject>> = match &declared.namespaces[..] {
        [] => vec![Api::all_with(client.clone(), &resource)],
        names => names.iter().map(|namespace| Api::namespaced_with(client.clone(), namespace, &resource)).collect(),
    };
    let labels = LabelSelector { match_labels: Some(declared.match_labels.clone()), match_expressions: None };
    let selector = Selector::try_from(labels).unwrap_or_default();
    let mut found = Vec::new();
    for api in apis {
        let mut page = ListParams::default().labels_from(&selector).limit(LIST_PAGE);
        loop {
            let list = match api.list(&page).await {
                Ok(list) => list,
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) => return Err(error),
            };
            let next = list.metadata.continue_.clone().filter(|token| !token.is_empty());
            found.extend(list.items);
            match next {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(found)
}

/// The topic that a resource describes, and what it says of it.
fn owner(kind: TopicResourceKind, resource: &Value) -> (String, Owner) {
    let text = |pointer: &str| resource.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").unwrap_or_default();
    let topic = topic_resource::topic(kind, resource).unwrap_or_else(|| name.clone());
    (topic, Owner { kind, namespace: text("/metadata/namespace"), name, declared: topic_resource::config(kind, resource) })
}

impl Owner {
    /// As `KafkaTopic kafka/app-events`.
    fn says(&self) -> String {
        let name = self.namespace.iter().chain([&self.name]).cloned().collect::<Vec<_>>().join("/");
        format!("{} {name}", layout(self.kind).kind)
    }

    /// The command that makes the resource ask for what the floor asks for.
    fn patch(&self, wanted: &[(&'static str, String)]) -> String {
        let Layout { group, plural, config, .. } = layout(self.kind);
        // A number where these operators take one; Crossplane and Redpanda take strings.
        let value = |text: &str| match self.kind {
            TopicResourceKind::StrimziKafkaTopic => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
            TopicResourceKind::RedpandaTopic | TopicResourceKind::CrossplaneTopic | TopicResourceKind::CrossplaneClusterTopic => {
                text.into()
            }
        };
        let wanted: serde_json::Map<String, Value> = wanted.iter().map(|(key, to)| ((*key).to_owned(), value(to))).collect();
        let patch = config.iter().rev().fold(Value::Object(wanted), |inner, field| serde_json::json!({ *field: inner }));
        let namespace = self.namespace.as_ref().map_or_else(String::new, |n| format!(" --namespace {n}"));
        format!("kubectl patch {plural}.{group} {}{namespace} --type merge --patch '{patch}'", self.name)
    }

    /// Whether the resource asks for less than what weir enforces, and so would have it set back.
    pub fn conflict(&self, it: &Assessment, fight: &Fight) -> Option<Finding> {
        it.rules.filter(|rules| rules.mode == Mode::Enforce)?;
        let enforced = it.enforced?.to_kafka().to_string();
        let wanted = [(RETENTION_MS, Some(enforced)), (RETENTION_BYTES, raised_to(it, RETENTION_BYTES))];
        let is_below = |key: &str, wanted: &str| match self.declared.get(key) {
            Some(declared) => limit(declared) < limit(wanted),
            // What a resource does not set its operator takes away.
            None => it.raised.contains_key(key),
        };
        let too_low: Vec<(&'static str, String)> =
            wanted.into_iter().filter_map(|(key, to)| Some((key, to?))).filter(|(key, to)| is_below(key, to)).collect();
        (!too_low.is_empty()).then(|| Finding::EnforcementConflict {
            resource: self.says(),
            declared: too_low.iter().map(|(key, _)| (*key, self.declared.get(*key).cloned())).collect(),
            patch: self.patch(&too_low),
            reverted: fight.raised_ms.len().saturating_sub(1),
        })
    }
}

/// What weir has raised a key to, or is about to.
fn raised_to(it: &Assessment, key: &str) -> Option<String> {
    let about_to = match &it.wanted {
        Wanted::Now(change) if change.cause != Cause::StepDown => change.keys.iter().find(|change| change.key == key),
        Wanted::Now(_) | Wanted::HeldBack { .. } | Wanted::Nothing(_) => None,
    };
    about_to.map(|change| change.to.clone()).unwrap_or_else(|| it.raised.get(key).map(|raised| raised.set.clone()))
}

/// As Kafka counts: a negative one is none. What is no number says nothing, and is left to its owner.
fn limit(text: &str) -> i64 {
    match text.trim().parse() {
        Ok(limit @ 0..) => limit,
        Ok(_) | Err(_) => i64::MAX,
    }
}

/// How often weir has raised an owned topic that was lowered.
#[derive(Clone, Debug, Default)]
pub struct Fight {
    raised_ms: Vec<i64>,
}

impl Fight {
    /// Whether it is raised now, or in a later turn.
    pub fn may_raise(&self, now_ms: i64) -> bool {
        let recent = self.raised_ms.iter().filter(|at_ms| now_ms - **at_ms < OVER_MS).count();
        let (Some(beyond), Some(last_ms)) = (recent.checked_sub(AT_ONCE), self.raised_ms.last()) else { return true };
        let doubled = INTERVAL_MIN_MS.saturating_mul(1 << beyond.min(8));
        now_ms - last_ms >= doubled.min(INTERVAL_MAX_MS)
    }

    pub fn raised(&mut self, now_ms: i64) {
        self.raised_ms.retain(|at_ms| now_ms - *at_ms < OVER_MS);
        self.raised_ms.push(now_ms);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_says_which_topic_it_describes_and_how_to_end_the_conflict() {
        use TopicResourceKind::{CrossplaneClusterTopic, CrossplaneTopic, RedpandaTopic, StrimziKafkaTopic};
        let meta = json!({"name": "app-events", "namespace": "kafka"});
        let external = json!({"name": "x1", "annotations": {"crossplane.io/external-name": "app_events"}});
        for (kind, resource, topic, declared, patch) in [
            (
                StrimziKafkaTopic,
                json!({"metadata": meta, "spec": {"topicName": "app_events", "config": {"retention.ms": 3600000}}}),
                "app_events",
                Some("3600000"),
                r#"kubectl patch kafkatopics.kafka.strimzi.io app-events --namespace kafka --type merge --patch '{"spec":{"config":{"retention.ms":7}}}'"#,
            ),
            (
                RedpandaTopic,
                json!({"metadata": meta, "spec": {"additionalConfig": {"retention.ms": "3600000"}}}),
                "app-events",
                Some("3600000"),
                r#"kubectl patch topics.cluster.redpanda.com app-events --namespace kafka --type merge --patch '{"spec":{"additionalConfig":{"retention.ms":"7"}}}'"#,
            ),
            (
                CrossplaneTopic,
                json!({"metadata": meta, "spec": {"forProvider": {}}}),
                "app-events",
                None,
                r#"kubectl patch topics.topic.kafka.m.crossplane.io app-events --namespace kafka --type merge --patch '{"spec":{"forProvider":{"config":{"retention.ms":"7"}}}}'"#,
            ),
            (
                CrossplaneClusterTopic,
                json!({"metadata": external, "spec": {"forProvider": {"config": {"retention.ms": "1"}}}}),
                "app_events",
                Some("1"),
                r#"kubectl patch topics.topic.kafka.crossplane.io x1 --type merge --patch '{"spec":{"forProvider":{"config":{"retention.ms":"7"}}}}'"#,
            ),
        ] {
            let (found, owner) = owner(kind, &resource);
            assert_eq!((found.as_str(), owner.declared.get("retention.ms").map(String::as_str)), (topic, declared), "{kind:?}");
            assert_eq!(owner.patch(&[("retention.ms", "7".to_owned())]), patch);
        }
    }

    #[test]
    fn a_topic_that_is_set_back_again_and_again_is_raised_at_intervals() {
        let (mut fight, mut raises) = (Fight::default(), Vec::new());
        // Set back within each turn for an hour.
        for now_ms in (0..HOUR_MS).step_by(5000) {
            if fight.may_raise(now_ms) {
                fight.raised(now_ms);
                raises.push(now_ms);
            }
        }
        assert_eq!(raises[..7], [0, 5000, 10_000, 20_000, 40_000, 80_000, 140_000]);
        assert!(raises.windows(2).all(|pair| pair[1] - pair[0] <= INTERVAL_MAX_MS), "a floor is a floor");
        assert!(raises.len() < 70);
        // Once that is over it is raised at once again.
        assert!(fight.may_raise(raises.last().unwrap() + OVER_MS));
    }
}
