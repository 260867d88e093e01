//! BackfillJobs that are about the same time of a topic. Which event types a job publishes is only known once it is planned,
//! so this is no reason to refuse one: claims decide, when it runs. Whoever creates it hears of it before.

use weir_crds::{BackfillJob, backfill_job::Phase};

use super::caches::Caches;
use crate::text::qualified_name;

pub fn of(job: &BackfillJob, caches: &Caches) -> Vec<String> {
    let mut others: Vec<_> =
        caches.jobs.state().into_iter().filter(|other| qualified_name(&**other) != qualified_name(job) && publishes(other)).collect();
    others.sort_by_key(|other| qualified_name(&**other));
    others.iter().filter_map(|other| warning(job, other)).collect()
}

fn warning(job: &BackfillJob, other: &BackfillJob) -> Option<String> {
    let (mine, theirs) = (&job.spec.window, &other.spec.window);
    let (start, end) = (mine.start.0.max(theirs.start.0), mine.end.0.min(theirs.end.0));
    let (_, topic) = targets(job).find(|target| targets(other).any(|other| other == *target))?;
    let phase = other.status.as_ref().map_or(Phase::default(), |status| status.phase);
    (start < end).then(|| {
        format!(
            "BackfillJob {} ({phase:?}) is about topic {topic} from {start} to {end} too: if both publish the same event types, this one waits \
             for what the other has claimed; to run beside it, leave that time out of spec.window",
            qualified_name(other)
        )
    })
}

/// Cluster and topic.
fn targets(job: &BackfillJob) -> impl Iterator<Item = (&str, &str)> {
    job.spec.sinks.iter().filter_map(|sink| sink.kafka.as_ref()).map(|kafka| (kafka.cluster_ref.name.as_str(), kafka.topic.as_str()))
}

/// Whether a job has published, or will: a draft that nobody has begun does not.
fn publishes(job: &BackfillJob) -> bool {
    !job.spec.suspend || job.status.as_ref().is_some_and(|status| status.run.is_some())
}
