//! One bucket: taken over, published slice by slice in sequence, started over when the brokers leave it in doubt.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::OnceCell};
use tokio_util::sync::CancellationToken;
use weir_crds::{
    backfill_job::{KafkaSink, Ordering},
    contract::{
        manifest::{Published, Staged},
        names::transactional_id,
        plan::Bucket,
    },
};
use weir_kafka::{Admin, Consequence, Holder, KafkaConfig};

use super::{
    error::PublishError,
    ids::Ids,
    pace::Pace,
    present::{Generations, Present},
    progress::Identity,
    slice::SliceJob,
    start::{self, Started},
};
use crate::{progress::Counters, run::PlannedRun, target, target::kafka_sink};

/// How long a bucket is tried without anything being committed. Then the brokers count as away, and the operator decides
/// when to try again: a waiting worker holds a place that another could use.
const OUTAGE_MAX: Duration = Duration::from_secs(300);
/// Between two attempts: the brokers need a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// Publishes some slices of one bucket. Its methods block.
pub struct BucketPublisher {
    identity: Identity,
    config: KafkaConfig,
    spec: Arc<KafkaSink>,
    shared: Shared,
    slices: Vec<usize>,
    counters: Counters,
    stop: CancellationToken,
}

/// What the buckets of a process have in common.
pub struct Shared {
    pub admin: Admin,
    pub planned_ids: Arc<OnceCell<Ids>>,
    /// By slice, as far as they are staged.
    pub staged: Arc<BTreeMap<usize, Staged>>,
}

impl BucketPublisher {
    pub fn new(
        planned: PlannedRun,
        bucket: Bucket,
        shared: Shared,
        slices: Vec<usize>,
        counters: Counters,
        stop: CancellationToken,
    ) -> Result<Self, PublishError> {
        let sink = planned.plan.sinks.get(bucket.sink).cloned().ok_or(PublishError::NoSink)?;
        let (_, declared) = kafka_sink(&planned.run.spec, &sink.name).ok_or(PublishError::NoSink)?;
        let spec = Arc::new(declared.clone());
        let config = planned.run.kafka(&sink.cluster)?;
        let run = &planned.run.context.run;
        let transactional_id = transactional_id(&run.namespace, &run.name, &bucket.id);
        let identity = Identity::new(planned, bucket, sink, transactional_id);
        Ok(Self { identity, config, spec, shared, slices, counters, stop })
    }

    /// Publishes what is missing. Returns when everything is published, or with the reason why it is not.
    pub fn run(&self) -> Result<(), PublishError> {
        let context = &self.identity.planned.run.context;
        let mut holder = Holder::new(context.run.clone(), context.attempt);
        let (mut pace, mut last_commit) = (Pace::default(), (Instant::now(), 0));
        loop {
            let mut transactions = last_commit.1;
            let error = match self.attempt(&mut holder, &mut transactions, &mut pace) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if transactions > last_commit.1 {
                last_commit = (Instant::now(), transactions);
            }
            if !starts_over(&error) || last_commit.0.elapsed() > OUTAGE_MAX {
                return Err(error);
            }
            if self.stop.is_cancelled() {
                return Err(PublishError::Interrupted);
            }
            tracing::warn!(bucket = self.identity.bucket.id, error = &error as &dyn std::error::Error, "starting over");
            std::thread::sleep(PAUSE);
            // A topic that was deleted or made anew looks like an outage to a producer.
            match Handle::current().block_on(target::check(&self.shared.admin, &self.identity.sink)) {
                Ok(()) | Err(target::TargetError::Admin(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// From taking the bucket over to the end of its slices. `transactions` is left at the number of committed ones.
    fn attempt(&self, holder: &mut Holder, transactions: &mut u64, pace: &mut Pace) -> Result<(), PublishError> {
        let mut started = start::start(&self.identity, &self.config, &self.shared.admin, holder, &self.slices)?;
        let generations = Generations::read(&self.identity, &mut started.records, &self.shared.planned_ids)?;
        *transactions = (*transactions).max(started.own.transactions);
        let result = self.slices(&mut started, &generations, pace);
        *transactions = (*transactions).max(started.own.transactions);
        result
    }

    fn slices(&self, started: &mut Started, generations: &Generations, pace: &mut Pace) -> Result<(), PublishError> {
        for slice in self.work(started)? {
            if self.stop.is_cancelled() {
                return Err(PublishError::Interrupted);
            }
            // A slice that is not staged has failed. Where order counts, the later ones may not overtake it.
            if !self.slice(started, generations, slice, pace)? && self.spec.ordering == Ordering::PerKey {
                break;
            }
        }
        Ok(())
    }

    /// The slices that have no manifest, in order. A slice that was left in the middle comes first, whoever's unit it is
    /// in: its progress is in the bucket's one record, which the next slice's first transaction overwrites.
    fn work(&self, started: &Started) -> Result<Vec<usize>, PublishError> {
        let plan = &self.identity.planned.plan;
        let mut work = Vec::new();
        let last = started.own.at.as_ref().and_then(|at| plan.slices.iter().position(|slice| slice.id == at.slice));
        if let Some(last) = last
            && !self.is_published(last)?
        {
            work.push(last);
        }
        for slice in self.slices.iter().copied().filter(|slice| Some(*slice) != last) {
            if self.is_published(slice)? {
                self.counters.item_done();
                continue;
            }
            let is_overtaken = last.is_some_and(|last| slice < last);
            match self.spec.ordering {
                // Progress has left the slice behind, which is only done once its manifest is there.
                Ordering::PerKey if is_overtaken => {
                    return Err(PublishError::ManifestGone {
                        slice: plan.slices[slice].id.to_string(),
                        bucket: self.identity.bucket.id.clone(),
                    });
                }
                Ordering::PerKey | Ordering::None => work.push(slice),
            }
        }
        Ok(work)
    }

    fn is_published(&self, slice: usize) -> Result<bool, PublishError> {
        let planned = &self.identity.planned;
        let key = planned.run.keys.published(&planned.plan.slices[slice].id, &self.identity.bucket.id);
        Ok(Handle::current().block_on(planned.manifest::<Published>(&key))?.is_some())
    }

    /// Publishes a slice; `false` if it is not staged.
    fn slice(&self, started: &mut Started, generations: &Generations, index: usize, pace: &mut Pace) -> Result<bool, PublishError> {
        let planned = &self.identity.planned;
        let (slice, bucket) = (&planned.plan.slices[index], &self.identity.bucket);
        let since = Instant::now();
        // One that was left in the middle may be another unit's.
        let read = match self.shared.staged.get(&index) {
            Some(_) => None,
            None => Handle::current().block_on(planned.manifest::<Staged>(&planned.run.keys.staged(&slice.id)))?,
        };
        let Some(staged) = self.shared.staged.get(&index).or(read.as_ref()) else { return Ok(false) };
        let mut partitions = BTreeMap::new();
        // A bucket without rows of the slice needs no transaction. It is taken over all the same: somebody who slept may hold it.
        if let Some(staged) = staged.buckets.iter().find(|staged| staged.bucket == bucket.id) {
            let present: Present = generations.present(&self.identity, &self.config, slice.interval)?;
            let job = SliceJob {
                identity: &self.identity,
                run: &planned.run.context.run.to_string(),
                slice: &slice.id,
                staged,
                timestamps: self.spec.timestamps,
                present: &present,
                counters: &self.counters,
                stop: &self.stop,
            };
            job.run(started, pace)?;
            if let Some(at) = &started.own.at {
                partitions = at.partitions.clone();
            }
        }
        // If we die here, the progress record has all that the manifest says. It must be there before the next slice's
        // first transaction overwrites that record.
        let published = Published { slice: slice.id.clone(), bucket: bucket.id.clone(), partitions };
        let key = planned.run.keys.published(&slice.id, &bucket.id);
        Handle::current().block_on(planned.put_manifest(&key, since.elapsed().as_secs_f64(), published))?;
        self.counters.item_done();
        tracing::info!(slice = %slice.id, bucket = bucket.id, "published");
        Ok(true)
    }
}

/// Whether an error leaves nothing better than to take the bucket over again. One that only asks for an abort comes here
/// when aborting did not help; one that says "fenced" is told by taking over whether somebody else has the bucket.
fn starts_over(error: &PublishError) -> bool {
    match error {
        PublishError::Transaction { source, .. } => match source.consequence() {
            Consequence::Retry | Consequence::AbortAndRewind | Consequence::StartOver | Consequence::Fenced => true,
            Consequence::Yield | Consequence::Refused => false,
        },
        PublishError::ReadPresent(error) => error.is_passing(),
        PublishError::Target(target::TargetError::Admin(error)) => !error.is_denied(),
        PublishError::Run(_)
        | PublishError::Target(_)
        | PublishError::ProgressLost { .. }
        | PublishError::ProgressCorrupt { .. }
        | PublishError::ProgressForeign { .. }
        | PublishError::Superseded { .. }
        | PublishError::Part { .. }
        | PublishError::Staged(_)
        | PublishError::ManifestGone { .. }
        | PublishError::SinkRenamed { .. }
        | PublishError::NoSink
        | PublishError::Interrupted
        | PublishError::Over { .. }
        | PublishError::Thread => false,
    }
}
