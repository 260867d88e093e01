//! What earlier generations have published, settled while the plan is made: none of them commits anything any more once
//! every bucket has been taken over from them, and the later one then knows all that is there.
//!
//! Where an event may have another partition or slice than an earlier generation gave it (`Earlier::places_otherwise`), no
//! bucket alone could tell whether it is there. Then planning reads the ids of everything that is, and the plan pins them.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_crds::contract::manifest::PartRef;
use weir_crds::contract::names::progress_topic;
use weir_crds::contract::plan::{Bucket, Plan, PlannedSink};
use weir_crds::contract::progress::BucketProgress;
use weir_kafka::{Admin, Holder, KafkaConfig};

use super::error::PlanError;
use crate::publish::PublishError;
use crate::publish::generations::{self, Earlier};
use crate::publish::ids::{IdSorter, ShortId, SortedIds};
use crate::publish::present::read_ids;
use crate::publish::progress::by_generation;
use crate::publish::start;
use crate::run::{Run, RunError};
use crate::target::TargetError;

/// The last progress of each earlier generation, by bucket.
type Progress = BTreeMap<String, BTreeMap<u32, BucketProgress>>;

/// Takes every bucket over from the generations before, puts what they published, and names it in the plan.
pub async fn settle(run: &Run, plan: &mut Plan) -> Result<(), PlanError> {
    let all: Vec<_> = generations::earlier(run).await?.into_iter().map(Arc::new).collect();
    for index in 0..plan.sinks.len() {
        let sink = plan.sinks[index].clone();
        let mut earlier = Vec::new();
        for generation in &all {
            if generation.published_to(&sink)? {
                earlier.push(Arc::clone(generation));
            }
        }
        if earlier.is_empty() {
            continue;
        }
        let config = run.kafka(&sink.cluster)?;
        let progress = take_over(run, plan, index, &config).await?;
        earlier.retain(|generation| generation.places_otherwise(plan, &run.spec, &sink.name));
        if !earlier.is_empty() {
            let SortedIds { file, ids, digest } = ids(run, plan, index, &config, earlier, &progress).await?;
            let bytes = ids * size_of::<ShortId>() as u64;
            let part = PartRef { key: run.keys.present(&sink.name, &digest.short()), digest, bytes, rows: ids };
            run.ledger.put_part_file(&part.key, file.path()).await?;
            plan.sinks[index].present = Some(part);
        }
    }
    Ok(())
}

fn buckets(plan: &Plan, sink: usize) -> Vec<Bucket> {
    plan.buckets().into_iter().filter(|bucket| bucket.sink == sink).collect()
}

/// Without a progress topic nobody has published anything, and whoever finds one later finds this plan too.
async fn take_over(run: &Run, plan: &Plan, index: usize, config: &KafkaConfig) -> Result<Progress, PlanError> {
    let topic = progress_topic(&run.context.run.namespace);
    let admin = Admin::new(config).map_err(TargetError::from)?;
    if admin.topic(&topic).await.map_err(TargetError::from)?.is_none() {
        return Ok(Progress::new());
    }
    let sink = &plan.sinks[index];
    let tasks: Vec<_> = buckets(plan, index)
        .into_iter()
        .map(|bucket| {
            let (run, sink, config, topic) = (run.clone(), sink.clone(), config.clone(), topic.clone());
            tokio::task::spawn_blocking(move || take_one_over(&run, &sink, &bucket, &config, &topic).map(|found| (bucket.id, found)))
        })
        .collect();
    let mut progress = Progress::new();
    for task in tasks {
        let (bucket, found) = task.await.map_err(|_| PlanError::Thread)??;
        progress.insert(bucket, found);
    }
    Ok(progress)
}

fn take_one_over(
    run: &Run,
    sink: &PlannedSink,
    bucket: &Bucket,
    config: &KafkaConfig,
    progress_topic: &str,
) -> Result<BTreeMap<u32, BucketProgress>, PublishError> {
    let own = &run.context.run;
    let mut holder = Holder::new(own.clone(), run.context.attempt);
    let (_, found) = start::open(own, sink, bucket, config, progress_topic, &mut holder)?;
    by_generation(&found, own, &bucket.id)
}

/// All ids that these generations published to the sink's target.
async fn ids(
    run: &Run,
    plan: &Plan,
    index: usize,
    config: &KafkaConfig,
    earlier: Vec<Arc<Earlier>>,
    progress: &Progress,
) -> Result<SortedIds, PlanError> {
    let mut ids = IdSorter::new(&run.scratch);
    for generation in earlier {
        let mut done = Vec::new();
        for bucket in buckets(plan, index) {
            let last = progress.get(&bucket.id).and_then(|found| found.get(&generation.run.generation));
            // One by another plan is the publishers' to refuse, each for its bucket.
            let last = last.filter(|record| generation.has_planned(record));
            done.extend(generation.done(&run.ledger, &bucket.id, last, |_| true).await?);
        }
        let (run, config, topic) = (run.clone(), config.clone(), plan.sinks[index].topic.clone());
        let read =
            tokio::task::spawn_blocking(move || read_ids(&run, &config, &topic, &generation, &done, |id| ids.push(id)).map(|()| ids));
        ids = read.await.map_err(|_| PlanError::Thread)??;
    }
    let sorted = tokio::task::spawn_blocking(move || ids.finish()).await.map_err(|_| PlanError::Thread)?;
    Ok(sorted.map_err(RunError::Scratch)?)
}
