//! What every replica answers from: objects as they were last seen, and policies as they are parsed once for each of their
//! generations.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{
    Resource as _, ResourceExt as _,
    runtime::reflector::{ObjectRef, Store},
};
use weir_crds::{BackfillClass, BackfillJob, KafkaCluster, TopicFloor, TopicRetentionPolicy};
use weir_floors::{Policy, spec};

use crate::{text::qualified_name, topic_retention::floor_name};

pub struct Caches {
    pub floors: Store<TopicFloor>,
    pub policies: Store<TopicRetentionPolicy>,
    pub clusters: Store<KafkaCluster>,
    pub classes: Store<BackfillClass>,
    pub jobs: Store<BackfillJob>,
    /// By uid: the generation, and what it parses to, if it does.
    parsed: Mutex<HashMap<String, (i64, Option<Arc<Policy>>)>>,
}

impl Caches {
    pub fn new(
        floors: Store<TopicFloor>,
        policies: Store<TopicRetentionPolicy>,
        clusters: Store<KafkaCluster>,
        classes: Store<BackfillClass>,
        jobs: Store<BackfillJob>,
    ) -> Self {
        Self { floors, policies, clusters, classes, jobs, parsed: Mutex::default() }
    }

    /// Returns when all of them were filled.
    pub async fn filled(&self) -> bool {
        let all = futures::try_join!(
            self.floors.wait_until_ready(),
            self.policies.wait_until_ready(),
            self.clusters.wait_until_ready(),
            self.classes.wait_until_ready(),
            self.jobs.wait_until_ready()
        );
        all.is_ok()
    }

    pub fn clusters(&self) -> Vec<Arc<KafkaCluster>> {
        self.clusters.state()
    }

    pub fn cluster(&self, name: &str) -> Option<Arc<KafkaCluster>> {
        self.clusters.get(&ObjectRef::new(name))
    }

    pub fn floor(&self, cluster: &str, topic: &str) -> Option<Arc<TopicFloor>> {
        self.floors.get(&ObjectRef::new(&floor_name(cluster, topic)))
    }

    /// Policies that govern a topic, as they stand for it.
    pub fn governing(&self, cluster: &KafkaCluster, topic: &str) -> Vec<Policy> {
        let name = cluster.name_any();
        let of = |(object, policy): (Arc<TopicRetentionPolicy>, Arc<Policy>)| {
            let authority = spec::authority(&cluster.spec, &object.namespace()?, topic)?;
            Some(policy.with_authority(authority)).filter(Policy::governs)
        };
        self.parsed().into_iter().filter(|(_, policy)| policy.matches(&name, topic)).filter_map(of).collect()
    }

    /// All policies whose specs can be read.
    fn parsed(&self) -> Vec<(Arc<TopicRetentionPolicy>, Arc<Policy>)> {
        let objects = self.policies.state();
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if parsed.len() > objects.len() {
            let present: Vec<&String> = objects.iter().filter_map(|o| o.meta().uid.as_ref()).collect();
            parsed.retain(|uid, _| present.contains(&uid));
        }
        let mut found = Vec::with_capacity(objects.len());
        for object in objects {
            let (uid, generation) = (object.uid().unwrap_or_default(), object.metadata.generation.unwrap_or(0));
            let parse = || (generation, spec::policy(&qualified_name(&*object), &object.spec).ok().map(Arc::new));
            let entry = parsed.entry(uid).or_insert_with(parse);
            if entry.0 != generation {
                *entry = parse();
            }
            if let Some(policy) = &entry.1 {
                found.push((object, Arc::clone(policy)));
            }
        }
        found
    }
}
