//! What all reconciliations share. Everything in memory here can be lost at any time: it saves reads and holds back
//! writes, and nothing is decided by it that the cluster and the artifact store do not say as well.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use kube::{
    Client, ResourceExt as _,
    runtime::{events::Recorder, reflector::Store},
};
use weir_crds::{BackfillClass, BackfillJob, KafkaCluster, TopicFloor, backfill_job::BackfillJobStatus};

use crate::{
    backfill_job::{ledger_view::RunCache, progress::Pace},
    credentials::Credentials,
    metrics::Metrics,
    stores::Stores,
};

/// Who writes, as server-side apply notes it.
pub const FIELD_MANAGER: &str = "weir-operator";

pub struct Context {
    pub client: Client,
    /// What workers of new plans run.
    pub worker_image: String,
    pub credentials: Credentials,
    pub stores: Stores,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    pub classes: Store<BackfillClass>,
    pub clusters: Store<KafkaCluster>,
    pub jobs: Store<BackfillJob>,
    pub floors: Store<TopicFloor>,
    memories: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Memory>>>>,
    /// Cluster id and topic of the progress topics that were seen to be fit.
    progress_topics: Mutex<BTreeSet<(String, String)>>,
}

/// What is remembered of one BackfillJob between two looks.
#[derive(Default)]
pub struct Memory {
    pub cache: RunCache,
    pub pace: Pace,
    /// The status that was written last.
    pub written: Option<Written>,
    /// Records that were published when this process first looked: not counted as published by it.
    pub published_before: Option<(u64, u64)>,
}

pub struct Written {
    pub at: Instant,
    pub status: BackfillJobStatus,
    /// The object's `resourceVersion` with it; `None`: the object was gone.
    pub version: Option<u64>,
}

impl Context {
    #[expect(clippy::too_many_arguments, reason = "the parts are made by main alone")]
    pub fn new(
        client: Client,
        worker_image: String,
        credentials: Credentials,
        recorder: Recorder,
        metrics: Arc<Metrics>,
        classes: Store<BackfillClass>,
        clusters: Store<KafkaCluster>,
        jobs: Store<BackfillJob>,
        floors: Store<TopicFloor>,
    ) -> Self {
        let stores = Stores::new(credentials.clone());
        let (memories, progress_topics) = (Mutex::default(), Mutex::default());
        Self { client, worker_image, credentials, stores, recorder, metrics, classes, clusters, jobs, floors, memories, progress_topics }
    }

    /// The memory of a job; those of jobs that are gone are dropped on the way.
    pub fn memory(&self, uid: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut memories = lock(&self.memories);
        if !memories.contains_key(uid) {
            let present: HashSet<String> = self.jobs.state().iter().filter_map(|j| j.uid()).collect();
            memories.retain(|uid, _| present.contains(uid));
            self.metrics.retain(&present);
        }
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    pub fn has_progress_topic(&self, cluster_id: &str, topic: &str) -> bool {
        lock(&self.progress_topics).contains(&(cluster_id.to_owned(), topic.to_owned()))
    }

    pub fn note_progress_topic(&self, cluster_id: String, topic: String) {
        lock(&self.progress_topics).insert((cluster_id, topic));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
