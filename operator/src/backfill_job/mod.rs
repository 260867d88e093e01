//! The controller of BackfillJobs: observe, decide, apply, and write status.
//!
//! Only `observe` and `apply` touch the network; `decide` and `status` are pure. A decision rests on what lies in the
//! cluster and in the artifact store, never on what an earlier turn thought.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use weir_crds::{BackfillJob, backfill_job::BackfillJobStatus};

pub mod accounting;
mod apply;
mod attempts;
mod authority;
mod candidates;
mod claims;
mod conditions;
mod decide;
mod decision;
mod events;
mod holds;
pub mod job_template;
pub mod ledger_view;
mod observe;
mod observed;
mod partitions;
mod phase;
pub mod progress;
mod recovery;
mod schedule;
mod status;
mod wait;
mod work;
mod workers;

#[cfg(test)]
mod tests;

use crate::context::{Context, FIELD_MANAGER, Memory, Written};
use decision::Decision;
use observed::Observed;
use wait::Waiting;
use work::Work;

pub use authority::readiness;
pub use phase::is_over;

/// Between two writes of one job's status: the apiserver and its watchers have others to serve.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// … of a large one, where only numbers have changed: each write moves all of its rows through etcd.
const LARGE_STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Slices from which a status is a large one: some 20 kB.
const LARGE_STATUS_SLICES: usize = 100;
/// After an error, and no sooner: what failed has most often been overloaded.
pub const ERROR_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the job and its surroundings cannot be looked at")]
    Observe(#[from] observe::ObserveError),
    #[error("what was decided cannot be done")]
    Apply(#[from] apply::ApplyError),
    #[error("status cannot be written")]
    Status(#[source] kube::Error),
}

/// One turn.
pub async fn reconcile(job: Arc<BackfillJob>, ctx: Arc<Context>) -> Result<Action, Error> {
    // Its Jobs are owned, so they go with it; artifacts stay.
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let memory = ctx.memory(&job.uid().unwrap_or_default());
    let mut memory = memory.lock().await;
    let now = Timestamp::now();
    let job = with_latest_status(job, &memory);
    let seen = observe::observe(&ctx, job, &mut memory.cache, now).await?;
    let decision = decide::decide(&seen, now);
    let applied = apply::apply(&ctx, &seen, &decision.actions).await;
    let (came_up, failed) = match applied {
        Ok(waits) => (waits, None),
        Err(error) => (error.waiting().into_iter().collect(), Some(error)),
    };
    let again = if came_up.is_empty() { decision.again } else { decision.again.max(ERROR_INTERVAL) };
    let waits: Vec<Waiting> = came_up.into_iter().chain(decision.waits.iter().cloned()).collect();
    let pause = show(&ctx, &seen, &decision, &waits, &mut memory, now).await?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Action::requeue(pause.map_or(again, |pause| again.min(pause)))),
    }
}

/// The watch may not have brought our own last write yet. What came later stands, whoever wrote it: so the last word of a leader
/// that has slept is seen, and put right.
fn with_latest_status(job: Arc<BackfillJob>, memory: &Memory) -> Arc<BackfillJob> {
    let Some(written) = memory.written.as_ref().filter(|written| version(&job) < written.version) else { return job };
    let mut job = (*job).clone();
    job.status = Some(written.status.clone());
    Arc::new(job)
}

/// Of two versions of an object the higher one is the later one.
fn version(job: &BackfillJob) -> Option<u64> {
    job.resource_version()?.parse().ok()
}

/// Writes status and events where something has changed; says when to come back where it is too soon to.
async fn show(
    ctx: &Context,
    seen: &Observed,
    decision: &Decision,
    waits: &[Waiting],
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Option<Duration>, Error> {
    note_pace(seen, decision, memory, now);
    let old = seen.job.status.as_ref();
    let new = status::status(seen, decision, waits, &memory.pace, now);
    ctx.metrics.note_job(&seen.job, &new);
    note_published(ctx, seen, memory);
    if old == Some(&new) {
        return Ok(None);
    }
    let (since, interval) = (memory.written.as_ref().map(|written| written.at.elapsed()), interval(old, &new));
    if let Some(since) = since.filter(|since| *since < interval) {
        return Ok(Some(interval - since));
    }
    if let (Some(from), to) = (old.map(|s| s.phase), new.phase)
        && !phase::follows(from, to)
        && old.and_then(|s| s.run.as_ref()).map(|r| r.generation) == new.run.as_ref().map(|r| r.generation)
    {
        tracing::warn!(?from, ?to, job = %seen.name(), namespace = %seen.namespace(), "a phase that should not follow");
    }
    let version = write(ctx, seen, &new).await?;
    memory.written = Some(Written { at: Instant::now(), status: new.clone(), version });
    let reference = seen.job.object_ref(&());
    for event in events::events(old, &new) {
        tracing::info!(job = %seen.name(), namespace = %seen.namespace(), reason = %event.reason, note = event.note.as_deref(), "event");
        // An event is a courtesy: status has been written, and says the same.
        if let Err(error) = ctx.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, "an event cannot be published");
        }
    }
    Ok(None)
}

/// How long after one write the next may follow. Pure.
fn interval(old: Option<&BackfillJobStatus>, new: &BackfillJobStatus) -> Duration {
    let says = |status: &BackfillJobStatus| {
        let of = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone());
        (status.phase, status.observed_generation, status.conditions.iter().map(of).collect::<Vec<_>>())
    };
    let only_numbers = old.is_some_and(|old| says(old) == says(new));
    if only_numbers && new.partitions.len() >= LARGE_STATUS_SLICES { LARGE_STATUS_INTERVAL } else { STATUS_INTERVAL }
}

/// Returns the version of the object with it; `None`: it is gone.
async fn write(ctx: &Context, seen: &Observed, status: &BackfillJobStatus) -> Result<Option<u64>, Error> {
    let api: Api<BackfillJob> = Api::namespaced(ctx.client.clone(), seen.namespace());
    let patch = serde_json::json!({
        "apiVersion": BackfillJob::api_version(&()),
        "kind": BackfillJob::kind(&()),
        // An object of the same name that was created since is another one: its status is not this.
        "metadata": {"name": seen.name(), "uid": seen.job.uid()},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(seen.name(), &params, &Patch::Apply(&patch)).await {
        Ok(written) => Ok(version(&written)),
        Err(kube::Error::Api(gone)) if gone.code == 404 || gone.code == 409 => Ok(None),
        Err(error) => Err(Error::Status(error)),
    }
}

fn note_pace(seen: &Observed, decision: &Decision, memory: &mut Memory, now: Timestamp) {
    use weir_crds::backfill_job::Phase;
    let view = seen.ledger();
    let file = view.and_then(|v| v.plan.as_ref());
    match (decision.phase, view.zip(file)) {
        (Phase::Running | Phase::Verifying, Some((view, file))) => {
            let work = Work::new(file, view, seen.job.spec.attempts());
            memory.pace.note(now, progress::share(&work));
        }
        _ => memory.pace.pause(),
    }
}

/// Counts what was published since this process began to look.
fn note_published(ctx: &Context, seen: &Observed, memory: &mut Memory) {
    let Some(view) = seen.ledger().filter(|v| v.plan.is_some()) else { return };
    let manifests = &view.manifests;
    let mut total = (0, 0);
    for ((slice, bucket), published) in &manifests.published {
        total.0 += published.body.partitions.values().map(|p| p.sent.records).sum::<u64>();
        let staged = manifests.staged.get(slice).and_then(|s| s.body.buckets.iter().find(|b| b.bucket == *bucket));
        total.1 += staged.map_or(0, |b| b.part.bytes);
    }
    if let Some(before) = memory.published_before {
        ctx.metrics.published(total.0.saturating_sub(before.0), total.1.saturating_sub(before.1));
    }
    memory.published_before = Some(total);
}
