//! `publish`: staged records of consecutive slices into the target, each bucket by its own transactional producer.
//!
//! What is published is what the bucket's committed progress record says, and nothing else: it is written in the same
//! transaction as the records. Everything here is arranged so that dying at any point leaves that record true.

pub mod bucket;
pub mod error;
pub mod generations;
pub mod ids;
pub mod pace;
pub mod part;
pub mod present;
pub mod progress;
pub mod slice;
pub mod start;

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use weir_crds::contract::{manifest::Staged, plan::Bucket};
use weir_kafka::Admin;

use bucket::{BucketPublisher, Shared};
pub use error::PublishError;
use ids::Ids;

use crate::{progress::Counters, run::PlannedRun, target::TargetError};

/// Publishes some slices, by index and in order, of some buckets side by side. `stop` asks to end what is open and go.
/// What became of each bucket is told apart.
pub async fn publish(
    planned: &PlannedRun,
    buckets: Vec<Bucket>,
    slices: &[usize],
    counters: &Counters,
    stop: &CancellationToken,
) -> Vec<(String, Result<(), PublishError>)> {
    let staged = match staged(planned, slices).await {
        Ok(staged) => Arc::new(staged),
        Err(error) => return buckets.into_iter().next().map(|bucket| (bucket.id, Err(error))).into_iter().collect(),
    };
    // Of each sink, once for all of its buckets; of each cluster, one client.
    let planned_ids: Vec<Arc<OnceCell<Ids>>> = planned.plan.sinks.iter().map(|_| Arc::default()).collect();
    let mut admins = BTreeMap::new();
    let tasks: Vec<_> = buckets
        .into_iter()
        .map(|bucket| {
            let id = bucket.id.clone();
            let publisher = admin(planned, &bucket, &mut admins).and_then(|admin| {
                let planned_ids = planned_ids.get(bucket.sink).map(Arc::clone).unwrap_or_default();
                let shared = Shared { admin, planned_ids, staged: Arc::clone(&staged) };
                BucketPublisher::new(planned.clone(), bucket, shared, slices.to_vec(), counters.clone(), stop.clone())
            });
            // librdkafka's calls block: each bucket has a thread of its own.
            (id, tokio::task::spawn_blocking(move || publisher?.run()))
        })
        .collect();
    let mut results = Vec::new();
    for (id, task) in tasks {
        results.push((id, task.await.unwrap_or(Err(PublishError::Thread))));
    }
    results
}

/// What is staged of each of the slices; one that is not has failed.
async fn staged(planned: &PlannedRun, slices: &[usize]) -> Result<BTreeMap<usize, Staged>, PublishError> {
    let mut staged = BTreeMap::new();
    for slice in slices {
        if let Some(manifest) = planned.manifest(&planned.run.keys.staged(&planned.plan.slices[*slice].id)).await? {
            staged.insert(*slice, manifest);
        }
    }
    Ok(staged)
}

/// The client for questions about the bucket's cluster.
fn admin(planned: &PlannedRun, bucket: &Bucket, admins: &mut BTreeMap<String, Admin>) -> Result<Admin, PublishError> {
    let cluster = &planned.plan.sinks.get(bucket.sink).ok_or(PublishError::NoSink)?.cluster;
    if let Some(admin) = admins.get(cluster) {
        return Ok(admin.clone());
    }
    let admin = Admin::new(&planned.run.kafka(cluster)?).map_err(TargetError::Admin)?;
    Ok(admins.entry(cluster.clone()).or_insert(admin).clone())
}
