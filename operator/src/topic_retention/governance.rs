//! Who asks for what of which topics: policies, as far as the cluster grants what they ask for. Pure, but for the look at
//! the topics that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt as _;
use weir_crds::{KafkaCluster, TopicRetentionPolicy, kafka_cluster::KafkaClusterSpec};
use weir_floors::{Policy, spec};
use weir_kafka::{AdminError, TopicDescription};

use super::kafka::Kafka;

/// Made anew when a policy or the cluster changes, and now and then for topics that come and go.
pub struct Governance {
    pub made_ms: i64,
    /// The generations of what it was made of, by uid.
    made_of: BTreeMap<String, i64>,
    pub policies: Vec<PolicyView>,
    pub topics: BTreeMap<String, Topic>,
    /// Topics that are there, and could not be described yet.
    pub unknown: BTreeSet<String>,
}

/// A policy of the cluster, and the topics that it matches.
pub struct PolicyView {
    pub object: Arc<TopicRetentionPolicy>,
    /// What is wrong with its spec.
    pub error: Option<String>,
    pub topics: Vec<String>,
    /// Those that the cluster does not let it look at.
    pub not_granted: Vec<String>,
}

/// A topic that is looked at.
#[derive(Clone, Debug)]
pub struct Topic {
    pub description: TopicDescription,
    /// As they stand for this topic; none where only an earlier one's floor lives on.
    pub policies: Vec<Policy>,
}

/// What a governance is made of, to know whether it is still the same.
pub fn made_of(cluster: &KafkaCluster, policies: &[Arc<TopicRetentionPolicy>]) -> BTreeMap<String, i64> {
    let of = |uid: Option<String>, generation: Option<i64>| (uid.unwrap_or_default(), generation.unwrap_or(0));
    let cluster = of(cluster.uid(), cluster.metadata.generation);
    policies.iter().map(|p| of(p.uid(), p.metadata.generation)).chain([cluster]).collect()
}

/// `namespace/name`
pub fn name(policy: &TopicRetentionPolicy) -> String {
    format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any())
}

impl Governance {
    /// Looks at the topics that there are. `lives_on`: topics of which earlier policies still ask for something. A topic
    /// that cannot be described now stays as it was in `before`.
    pub async fn look<K: Kafka>(
        kafka: &K,
        cluster: &KafkaCluster,
        objects: &[Arc<TopicRetentionPolicy>],
        lives_on: &BTreeSet<String>,
        before: Option<&Self>,
        now_ms: i64,
    ) -> Result<Self, AdminError> {
        let names = kafka.topic_names().await?;
        let (policies, mut asked) = match_topics(&cluster.spec, objects, &names);
        for topic in names.intersection(lives_on) {
            asked.entry(topic.clone()).or_default();
        }
        let (mut topics, mut unknown) = (BTreeMap::new(), BTreeSet::new());
        if !asked.is_empty() {
            let mut answers = kafka.topics(asked.keys().cloned().collect()).await?;
            for (name, policies) in asked {
                let known = before.and_then(|b| b.topics.get(&name)).map(|t| t.description.clone());
                match (answers.remove(&name), known) {
                    (Some(Ok(Some(description))), _) | (Some(Err(_)) | None, Some(description)) => {
                        topics.insert(name, Topic { description, policies });
                    }
                    // It was deleted just now.
                    (Some(Ok(None)), _) => {}
                    (Some(Err(_)) | None, None) => {
                        unknown.insert(name);
                    }
                }
            }
        }
        Ok(Self { made_ms: now_ms, made_of: made_of(cluster, objects), policies, topics, unknown })
    }

    /// How many policies and clusters are new, or of another generation.
    pub fn changes(&self, made_of: &BTreeMap<String, i64>) -> usize {
        made_of.iter().filter(|(uid, generation)| self.made_of.get(*uid) != Some(generation)).count()
    }

    pub fn is_of(&self, made_of: &BTreeMap<String, i64>) -> bool {
        self.made_of == *made_of
    }
}

/// The policies, and by topic what they ask for together.
fn match_topics(
    cluster: &KafkaClusterSpec,
    objects: &[Arc<TopicRetentionPolicy>],
    names: &BTreeSet<String>,
) -> (Vec<PolicyView>, BTreeMap<String, Vec<Policy>>) {
    let mut asked: BTreeMap<String, Vec<Policy>> = BTreeMap::new();
    let mut views = Vec::new();
    for object in objects {
        let mut view = PolicyView { object: Arc::clone(object), error: None, topics: Vec::new(), not_granted: Vec::new() };
        match spec::policy(&name(object), &object.spec) {
            Err(errors) => view.error = Some(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(". ")),
            Ok(policy) => {
                let namespace = object.namespace().unwrap_or_default();
                for topic in names.iter().filter(|topic| policy.topics.matches(topic)) {
                    match spec::authority(cluster, &namespace, topic) {
                        Some(authority) => {
                            view.topics.push(topic.clone());
                            asked.entry(topic.clone()).or_default().push(policy.with_authority(authority));
                        }
                        None => view.not_granted.push(topic.clone()),
                    }
                }
            }
        }
        views.push(view);
    }
    (views, asked)
}
