//! Who asks for what of which topics: policies, as far as the cluster grants what they ask for. Pure, but for the look at
//! the topics that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt as _;
use weir_crds::{KafkaCluster, TopicRetentionPolicy, kafka_cluster::KafkaClusterSpec};
use weir_floors::{Policy, spec};
use weir_kafka::{AdminError, TopicDescription, admin::Answers};

use super::kafka::Kafka;
use crate::text::qualified_name;

/// Made anew when a policy or the cluster changes, and now and then for topics that come and go.
pub struct Governance {
    pub made_ms: i64,
    /// The generations of what it was made of, by uid.
    made_of: BTreeMap<String, i64>,
    pub policies: Vec<PolicyView>,
    pub topics: BTreeMap<String, Topic>,
    /// Topics that could not be described yet; those that may not be described may be gone.
    pub unknown: BTreeSet<String>,
    /// Topics that weir's user may not describe, whether they were ever described or not.
    pub denied: BTreeSet<String>,
    /// Topics that were asked about, and are not there.
    pub gone: BTreeSet<String>,
}

/// A policy of the cluster, and the topics that it matches.
pub struct PolicyView {
    pub object: Arc<TopicRetentionPolicy>,
    /// What is wrong with its spec.
    pub error: Option<String>,
    pub topics: Vec<String>,
    /// Those that are not there: it names them, or they were deleted.
    pub gone: Vec<String>,
    /// Those that the cluster does not let it look at.
    pub not_granted: Vec<String>,
    /// Those that the brokers do not let weir describe.
    pub denied: Vec<String>,
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

impl Governance {
    /// Looks at the topics that there are. `lives_on`: topics of which earlier policies still ask for something; `shown`:
    /// those that a `TopicFloor` says more of than what was lost. A topic that cannot be described now stays as it was in `before`.
    pub async fn look<K: Kafka>(
        kafka: &K,
        cluster: &KafkaCluster,
        objects: &[Arc<TopicRetentionPolicy>],
        lives_on: &BTreeSet<String>,
        shown: &BTreeSet<String>,
        before: Option<&Self>,
        now_ms: i64,
    ) -> Result<Self, AdminError> {
        let listed = kafka.topic_names().await?;
        let mut names = by_name(objects, shown, before);
        names.extend(lives_on.iter().chain(&listed).cloned());
        let (policies, mut asked) = match_topics(&cluster.spec, objects, &names);
        for topic in lives_on {
            asked.entry(topic.clone()).or_default();
        }
        let answers = if asked.is_empty() { Answers::new() } else { kafka.topics(asked.keys().cloned().collect()).await? };
        let (topics, unknown, denied, gone) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut it = Self { made_ms: now_ms, made_of: made_of(cluster, objects), policies, topics, unknown, denied, gone };
        it.take_in(asked, answers, before);
        for view in &mut it.policies {
            view.gone = view.topics.extract_if(.., |topic| it.gone.contains(topic)).collect();
            view.not_granted.retain(|topic| listed.contains(topic));
            view.denied = view.topics.iter().filter(|topic| it.denied.contains(*topic)).cloned().collect();
        }
        Ok(it)
    }

    /// Sorts topics by what the brokers said of them.
    fn take_in(&mut self, asked: BTreeMap<String, Vec<Policy>>, mut answers: Answers<Option<TopicDescription>>, before: Option<&Self>) {
        for (name, policies) in asked {
            let answer = answers.remove(&name);
            if answer.as_ref().is_some_and(|answer| answer.as_ref().is_err_and(|error| error.is_denied())) {
                self.denied.insert(name.clone());
            }
            let known = before.and_then(|b| b.topics.get(&name)).map(|t| t.description.clone());
            match (answer, known) {
                (Some(Ok(Some(description))), _) | (Some(Err(_)) | None, Some(description)) => {
                    self.topics.insert(name, Topic { description, policies });
                }
                (Some(Ok(None)), _) => {
                    self.gone.insert(name);
                }
                (Some(Err(_)) | None, None) => {
                    self.unknown.insert(name);
                }
            }
        }
    }

    /// Topics whose offsets and groups can be looked at. Of others brokers leave out what groups have committed, which would be
    /// taken for forgotten.
    pub fn described(&self) -> BTreeMap<String, Topic> {
        let described = self.topics.iter().filter(|(name, _)| !self.denied.contains(*name));
        described.map(|(name, topic)| (name.clone(), topic.clone())).collect()
    }

    /// How many policies and clusters are new, or of another generation.
    pub fn changes(&self, made_of: &BTreeMap<String, i64>) -> usize {
        made_of.iter().filter(|(uid, generation)| self.made_of.get(*uid) != Some(generation)).count()
    }

    pub fn is_of(&self, made_of: &BTreeMap<String, i64>) -> bool {
        self.made_of == *made_of
    }
}

/// Topics that are asked about even if they are not listed: brokers leave out what this identity may not describe, and do not
/// say so. Asked by name they do.
fn by_name(objects: &[Arc<TopicRetentionPolicy>], shown: &BTreeSet<String>, before: Option<&Governance>) -> BTreeSet<String> {
    let named = objects.iter().flat_map(|object| &object.spec.topics.names);
    let known = before.into_iter().flat_map(|b| b.topics.keys().chain(&b.unknown));
    named.chain(known).chain(shown).cloned().collect()
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
        let (topics, gone, not_granted, denied) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut view = PolicyView { object: Arc::clone(object), error: None, topics, gone, not_granted, denied };
        match spec::policy(&qualified_name(&**object), &object.spec) {
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
