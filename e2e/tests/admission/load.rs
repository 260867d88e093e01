//! Changes of a policy's spec, many a second, none of which may fail. They are dry runs: the webhook is asked, and nothing
//! changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::json;
use tokio::task::JoinSet;
use weir_e2e::fixture::Fixture;

/// In all; each of the clients asks its share.
const REQUESTS_A_SECOND: u32 = 200;
const CLIENTS: u32 = 20;

/// Requests that go on until they are stopped.
pub struct Load {
    tasks: JoinSet<Result<(), String>>,
    goes_on: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    begun: Instant,
}

pub fn kind(name: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("weir.dev", "v1alpha1", name))
}

impl Load {
    pub fn start(fixture: &Fixture, policy: &str) -> Self {
        let (goes_on, answered) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for client in 0..CLIENTS {
            let resource = kind("TopicRetentionPolicy");
            let api: Api<DynamicObject> = Api::namespaced_with(fixture.cluster.kube.clone(), &fixture.namespace, &resource);
            let (goes_on, answered, policy) = (Arc::clone(&goes_on), Arc::clone(&answered), policy.to_owned());
            tasks.spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_secs(1) * CLIENTS / REQUESTS_A_SECOND);
                let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
                let mut number = 0;
                while goes_on.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    number += 1;
                    let patch = json!({"spec": {"owners": {"team": format!("team-{client}-{number}")}}});
                    let patched = api.patch(&policy, &parameters, &Patch::Merge(patch)).await;
                    patched.map_err(|error| format!("request {number} of client {client}: {error}"))?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Self { tasks, goes_on, answered, begun: Instant::now() }
    }

    /// How many were answered, and how many that were a second. Fails if one failed.
    pub async fn stop(mut self) -> anyhow::Result<(usize, f64)> {
        self.goes_on.store(false, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            failures.extend(ended?.err());
        }
        ensure!(failures.is_empty(), "{} clients had a request that failed: {}", failures.len(), failures.join("\n"));
        let answered = self.answered.load(Ordering::Relaxed);
        Ok((answered, answered as f64 / self.begun.elapsed().as_secs_f64()))
    }
}
