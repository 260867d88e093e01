//! Retention floors: a turn per KafkaCluster every few seconds. It looks at the topics that policies are about, computes
//! their floors, raises what is below, and says so.
//!
//! `observe` reads Kafka, `plan` (over `weir-floors`), `status` and `events` are pure, `apply` and `write` write. Offsets and
//! groups are looked at beside the turns, so that a coordinator that does not answer holds up no repair.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{
    Client, ResourceExt as _,
    runtime::{
        controller::Action,
        events::Recorder,
        reflector::{ObjectRef, Store},
    },
};
use weir_crds::{BackfillJob, KafkaCluster, RetentionException, TopicFloor, TopicRetentionPolicy, contract::result::error_chain};
use weir_ledger::Ledger;

mod apply;
mod drafts;
mod events;
mod exceptions;
mod governance;
mod histories;
pub mod holds;
mod kafka;
mod keeping;
mod lower;
mod memory;
pub mod metrics;
mod observe;
mod owned;
mod plan;
mod series;
mod show;
mod status;
#[cfg(test)]
mod tests;
mod told;
mod turn;
mod write;

use crate::{credentials::Credentials, metrics::Metrics, stores::Stores, text::qualified_name};
use kafka::Connection;
use keeping::Kept;
use memory::Memory;
use status::Stall;
pub use write::floor_name;

/// Between the beginnings of two turns: with a turn's own time, what is lowered is back well within 10 s.
const TURN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cluster cannot be reached")]
    Connect(#[from] kafka::ConnectError),
    #[error(transparent)]
    Turn(#[from] turn::TurnError),
    #[error(transparent)]
    Write(#[from] write::WriteError),
}

/// Between two looks at whether a policy's cluster is there.
const ORPHAN_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at whether clusters are gone: sooner than what is not looked at any more pages somebody.
const GONE_INTERVAL: Duration = Duration::from_secs(15);

/// What all clusters' turns share.
pub struct Retention {
    pub client: Client,
    pub credentials: Credentials,
    pub stores: Stores,
    /// The name of this replica, as the audit log has it.
    pub replica: String,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    pub clusters: Store<KafkaCluster>,
    pub policies: Store<TopicRetentionPolicy>,
    pub floors: Store<TopicFloor>,
    pub jobs: Store<BackfillJob>,
    pub exceptions: Store<RetentionException>,
    /// By the cluster's uid.
    pub memories: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
}

/// What is known of one cluster: how it is reached, and what was seen.
#[derive(Default)]
pub struct Known {
    connection: Option<Arc<Connection>>,
    memory: Memory,
}

/// The objects that a turn is about.
pub struct Scene {
    pub cluster: Arc<KafkaCluster>,
    /// Those that name the cluster, by name.
    pub policies: Vec<Arc<TopicRetentionPolicy>>,
    pub floors: Vec<Arc<TopicFloor>>,
    /// All BackfillJobs, whichever clusters they are about.
    pub jobs: Vec<Arc<BackfillJob>>,
    pub exceptions: Vec<Arc<RetentionException>>,
}

pub async fn reconcile(cluster: Arc<KafkaCluster>, ctx: Arc<Retention>) -> Result<Action, Error> {
    let begun = Instant::now();
    let known = ctx.known(&cluster.uid().unwrap_or_default());
    let mut known = known.lock().await;
    let scene = ctx.scene(cluster);
    let is_idle = scene.policies.is_empty() && scene.floors.iter().all(|floor| floor.is_left()) && known.memory.topics.is_empty();
    let now = Timestamp::now();
    if is_idle && exceptions::are_over(&scene, &known.memory, now) {
        // Nobody asks for anything, so Kafka is not asked either.
        ctx.metrics.topics.forget(&scene.cluster);
        show::let_go(&ctx, &scene, now).await?;
        return Ok(Action::requeue(TURN));
    }
    ctx.metrics.topics.expect(&scene.cluster);
    let store = store(&ctx, &scene.cluster).await;
    let kept = match &store {
        Ok(None) => Kept::Nowhere,
        Ok(Some(store)) => Kept::At(store),
        Err(failure) => Kept::Unreachable(failure.clone()),
    };
    match connection(&mut known, &scene.cluster, &ctx.credentials).await {
        Ok(kafka) => turn::turn(&ctx, &kafka, &kept, &scene, &mut known.memory, now).await?,
        Err(error) => {
            show::blind(&ctx, &scene, &mut known.memory, &Stall::unreachable(&error), now).await?;
            return Err(error.into());
        }
    }
    Ok(Action::requeue(TURN.saturating_sub(begun.elapsed())))
}

/// Says of a policy that its cluster is not there; the cluster's turns say everything else.
pub async fn reconcile_policy(policy: Arc<TopicRetentionPolicy>, ctx: Arc<Retention>) -> Result<Action, Error> {
    let name = &policy.spec.cluster_ref.name;
    if ctx.clusters.get(&ObjectRef::new(name)).is_none() {
        let message = format!("spec.clusterRef: there is no KafkaCluster {name}; create it, or name another");
        show::orphan(&ctx, &policy, Stall { reason: "ClusterMissing", message }, Timestamp::now()).await?;
    }
    Ok(Action::requeue(ORPHAN_INTERVAL))
}

/// The store that a cluster names for its audit log.
async fn store(ctx: &Retention, cluster: &KafkaCluster) -> Result<Option<Ledger>, String> {
    let Some(store) = &cluster.spec.audit else { return Ok(None) };
    ctx.stores.named_by(cluster, store).await.map(Some).map_err(|error| error_chain(&error))
}

async fn connection(known: &mut Known, cluster: &KafkaCluster, credentials: &Credentials) -> Result<Arc<Connection>, kafka::ConnectError> {
    if let Some(connection) = &known.connection
        && connection.serves(cluster, credentials).await
    {
        return Ok(Arc::clone(connection));
    }
    let made = Arc::new(Connection::make(cluster, credentials).await?);
    known.connection = Some(Arc::clone(&made));
    Ok(made)
}

impl Retention {
    /// Writes what is remembered, as the process ends.
    pub async fn end(&self) {
        let memories: Vec<_> = self.memories.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect();
        let clusters = self.clusters.state();
        let ends = memories.into_iter().map(|(uid, known)| {
            let cluster = clusters.iter().find(|cluster| cluster.uid().as_ref() == Some(&uid)).cloned();
            async move {
                let Some(cluster) = cluster else { return };
                let Ok(Some(store)) = store(self, &cluster).await else { return };
                let known = known.lock().await;
                if let Err(error) = keeping::end(&store, &known.memory, Timestamp::now()).await {
                    tracing::warn!(
                        cluster = cluster.name_any(),
                        error = error_chain(&error),
                        "what is remembered of topics cannot be written"
                    );
                }
            }
        });
        futures::future::join_all(ends).await;
    }

    /// What is known of a cluster.
    fn known(&self, uid: &str) -> Arc<tokio::sync::Mutex<Known>> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets clusters and policies that are gone, again and again: nothing else wakes anybody for them, and what was last seen of
    /// them would grow old and page, or be told of for ever.
    pub async fn forget_gone(&self) {
        loop {
            tokio::time::sleep(GONE_INTERVAL).await;
            self.keep_present();
        }
    }

    fn keep_present(&self) {
        let clusters: BTreeSet<String> = self.clusters.state().iter().filter_map(|c| c.uid()).collect();
        let policies: BTreeSet<String> = self.policies.state().iter().filter_map(|p| p.uid()).collect();
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| clusters.contains(uid));
        self.metrics.topics.retain(&clusters, &policies);
    }

    fn scene(&self, cluster: Arc<KafkaCluster>) -> Scene {
        let name = cluster.name_any();
        let mut policies: Vec<_> = self.policies.state().into_iter().filter(|p| p.spec.cluster_ref.name == name).collect();
        policies.sort_by_key(|p| qualified_name(&**p));
        let floors = self.floors.state().into_iter().filter(|f| f.spec.cluster_ref.name == name).collect();
        let exceptions = self.exceptions.state().into_iter().filter(|e| e.spec.cluster_ref.name == name).collect();
        Scene { cluster, policies, floors, jobs: self.jobs.state(), exceptions }
    }
}
