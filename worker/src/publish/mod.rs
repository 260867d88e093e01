//! `publish`: staged records of consecutive slices into the target, each bucket by its own transactional producer.
//!
//! What is published is what the bucket's committed progress record says, and nothing else: it is written in the same
//! transaction as the records. Everything here is arranged so that dying at any point leaves that record true.

pub mod bucket;
pub mod error;
pub mod generations;
pub mod present;
pub mod progress;
pub mod slice;
pub mod start;

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use weir_crds::contract::plan::Bucket;

use bucket::BucketPublisher;
pub use error::PublishError;
use present::PlannedIds;

use crate::{progress::Counters, run::PlannedRun};

/// Publishes some slices, by index and in order, of some buckets side by side. `stop` asks to end what is open and go.
/// What became of each bucket is told apart.
pub async fn publish(
    planned: &PlannedRun,
    buckets: Vec<Bucket>,
    slices: &[usize],
    counters: &Counters,
    stop: &CancellationToken,
) -> Vec<(String, Result<(), PublishError>)> {
    // Of each sink, once for all of its buckets.
    let planned_ids: Vec<Arc<OnceCell<PlannedIds>>> = planned.plan.sinks.iter().map(|_| Arc::default()).collect();
    let tasks: Vec<_> = buckets
        .into_iter()
        .map(|bucket| {
            let id = bucket.id.clone();
            let ids = planned_ids.get(bucket.sink).map(Arc::clone).unwrap_or_default();
            let publisher = BucketPublisher::new(planned.clone(), bucket, ids, slices.to_vec(), counters.clone(), stop.clone());
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
