//! The targets as they are now, pinned; and whether they can take the events and keep them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use weir_crds::backfill_job::{KafkaMode, KafkaSink};
use weir_crds::contract::names::{RunId, progress_topic};
use weir_crds::contract::plan::PlannedSink;
use weir_crds::window::Slicing;
use weir_kafka::range::{Isolation, Range, RangeError, Reader};
use weir_kafka::{Admin, BrokerConfig, BrokerNode, KafkaConfig, RECORD_BYTES_MAX, TopicConfig, TopicDescription};

use super::error::PlanError;
use super::sample::Samples;
use super::{live, preflight, preflight::Copies};
use crate::headers;
use crate::publish::generations;
use crate::run::Run;
use crate::select::ResultShape;
use crate::target::{TargetError, age, copies, kafka_sink, replicas};

/// The brokers' own default of `max.message.bytes`, where a cluster does not say.
const MAX_MESSAGE_BYTES_DEFAULT: u64 = 1_048_588;
/// Records at either end of each partition of a side topic that are looked at.
const RECORDS_LOOKED_AT: i64 = 100;
/// Brokers that are asked at a time.
const BROKERS_AT_ONCE: usize = 16;

/// A target as the brokers see it now.
struct Described<'a> {
    /// Of the sink.
    index: usize,
    kafka: &'a KafkaSink,
    topic: TopicDescription,
    config: TopicConfig,
    /// By id; `None`: this identity may not read its settings.
    brokers: BTreeMap<i32, Option<BrokerConfig>>,
    /// `None`: it is made later, by the operator.
    progress: Option<Copies>,
}

/// Describes all sinks.
pub async fn describe(run: &Run, slicing: &Slicing, shape: &ResultShape) -> Result<Vec<PlannedSink>, PlanError> {
    let mut sinks = Vec::new();
    for (index, sink) in run.spec.sinks.iter().enumerate() {
        let Some(kafka) = &sink.kafka else { continue };
        let admin = Admin::new(&run.kafka(&kafka.cluster_ref.name)?).map_err(TargetError::from)?;
        let cluster = admin.cluster().await.map_err(TargetError::from)?;
        let topic = admin.topic(&kafka.topic).await.map_err(TargetError::from)?;
        let topic = topic.ok_or_else(|| TargetError::Missing(kafka.topic.clone()))?;
        let config = admin.topic_config(&kafka.topic).await.map_err(TargetError::from)?;
        let brokers = broker_configs(&admin, &cluster.brokers).await?;
        let progress_topic = progress_topic(&run.context.run.namespace);
        let progress = match admin.topic(&progress_topic).await.map_err(TargetError::from)? {
            Some(found) => Some(copies(&admin, &progress_topic, &found).await?),
            None => None,
        };
        let described = Described { index, kafka, topic, config, brokers, progress };
        check(run, &described, slicing, shape).await?;
        sinks.push(PlannedSink {
            name: sink.name.clone(),
            cluster: kafka.cluster_ref.name.clone(),
            cluster_id: cluster.id,
            topic: kafka.topic.clone(),
            partitions: partitions(&described.topic),
            topic_id: described.topic.id,
            max_message_bytes: described.config.max_message_bytes().unwrap_or(MAX_MESSAGE_BYTES_DEFAULT).min(RECORD_BYTES_MAX),
            present: None,
        });
    }
    compare_with_earlier(run, &sinks).await?;
    Ok(sinks)
}

/// The settings of each broker: any of them may lead a partition, or end a transaction.
async fn broker_configs(admin: &Admin, brokers: &[BrokerNode]) -> Result<BTreeMap<i32, Option<BrokerConfig>>, TargetError> {
    let ids = brokers.iter().map(|broker| broker.id);
    let ask = |id| async move { Ok::<_, TargetError>((id, admin.broker_config(id).await?)) };
    let configs: BTreeMap<i32, _> = futures::stream::iter(ids).map(ask).buffer_unordered(BROKERS_AT_ONCE).try_collect().await?;
    let unread: Vec<&i32> = configs.iter().filter(|(_, config)| config.is_none()).map(|(id, _)| id).collect();
    if !unread.is_empty() {
        tracing::warn!(
            brokers = ?unread,
            "whether these brokers verify transactions is not known: this identity has no DescribeConfigs on the cluster"
        );
    }
    Ok(configs)
}

/// Looks at the target's settings, and at what lies in it.
async fn check(run: &Run, described: &Described<'_>, slicing: &Slicing, shape: &ResultShape) -> Result<(), PlanError> {
    let Described { index, kafka, topic, config, brokers, progress } = described;
    let unsuitable = |field: &str, problem: String, remedy: &str| unsuitable(*index, kafka, field, problem, remedy);
    let oldest_us = slicing.slices().iter().map(|slice| slice.interval.start_us).min().unwrap_or(0);
    let target =
        preflight::Target { config, brokers, replicas: replicas(topic), progress: *progress, oldest: age(oldest_us, Timestamp::now()) };
    preflight::check(kafka, &target).map_err(|found| unsuitable(found.field, found.problem, found.remedy))?;
    match kafka.mode {
        KafkaMode::SideTopic => check_alone(run, kafka, topic.partitions.iter().map(|p| p.partition).collect(), unsuitable).await,
        KafkaMode::InPlace => {
            let (cluster, name, partitions) = (run.kafka(&kafka.cluster_ref.name)?, kafka.topic.clone(), partitions(topic));
            let sampled = tokio::task::spawn_blocking(move || live::sample(&cluster, &name, partitions)).await;
            match sampled.map_err(|_| PlanError::Thread)??.compare(kafka, &shape.schema) {
                None => Ok(()),
                Some(unlike) => Err(unsuitable(unlike.field, unlike.problem, unlike.remedy)),
            }
        }
    }
}

fn unsuitable(index: usize, kafka: &KafkaSink, field: &str, problem: String, remedy: &str) -> PlanError {
    PlanError::Unsuitable {
        field: format!("spec.sinks[{index}].kafka.{field}"),
        topic: kafka.topic.clone(),
        problem,
        remedy: format!("{remedy}; then raise runGeneration"),
    }
}

/// Whether what will be published fits into the targets. An event is taken to be as large as the row that it comes from:
/// both are compressed, and it has fewer fields, and headers.
pub async fn require_room(run: &Run, sinks: &[PlannedSink], samples: &Samples) -> Result<(), PlanError> {
    // As few as they may be: what may fit is not refused.
    let events = u128::from(samples.events) * u128::from(100 - samples.events_error_percent.min(100)) / 100;
    let bytes = events * u128::from(samples.bytes) / u128::from(samples.rows.max(1));
    for planned in sinks {
        let Some((index, kafka)) = kafka_sink(&run.spec, &planned.name) else { continue };
        let admin = Admin::new(&run.kafka(&planned.cluster)?).map_err(TargetError::from)?;
        let config = admin.topic_config(&planned.topic).await.map_err(TargetError::from)?;
        let each = u64::try_from(bytes / u128::from(planned.partitions.max(1))).unwrap_or(u64::MAX);
        preflight::room(&config, each).map_err(|found| unsuitable(index, kafka, found.field, found.problem, found.remedy))?;
    }
    Ok(())
}

fn partitions(topic: &TopicDescription) -> u32 {
    u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX)
}

/// A side topic is the backfill's alone: the ends of its partitions hold nobody else's records. `verify` looks at all that
/// lies between the backfill's own.
async fn check_alone(
    run: &Run,
    kafka: &KafkaSink,
    partitions: Vec<i32>,
    unsuitable: impl Fn(&str, String, &str) -> PlanError,
) -> Result<(), PlanError> {
    let config = run.kafka(&kafka.cluster_ref.name)?;
    let topic = kafka.topic.clone();
    let RunId { namespace, name, .. } = &run.context.run;
    // Earlier generations' records are the backfill's own.
    let own = format!("{namespace}/{name}/");
    let found = tokio::task::spawn_blocking(move || first_alien(&config, &topic, &partitions, own.as_bytes())).await;
    match found.map_err(|_| PlanError::Thread)?? {
        None => Ok(()),
        Some((partition, offset)) => Err(unsuitable(
            "mode",
            format!("mode is SideTopic, but the record at partition {partition}, offset {offset} is another producer's"),
            "publish to an empty topic of the backfill's own, or set mode: InPlace",
        )),
    }
}

fn first_alien(config: &KafkaConfig, topic: &str, partitions: &[i32], own: &[u8]) -> Result<Option<(i32, i64)>, RangeError> {
    let reader = Reader::new(config, topic, Isolation::Committed)?;
    for partition in partitions.iter().copied() {
        let (start, end) = reader.bounds(partition)?;
        let head = Range { partition, first: start, end: end.min(start + RECORDS_LOOKED_AT) };
        let tail = Range { partition, first: head.end.max(end - RECORDS_LOOKED_AT), end };
        for range in [head, tail] {
            let alien = reader.read(&[range], |record| match record.header(headers::RUN) {
                Some(owner) if owner.starts_with(own) => ControlFlow::Continue(()),
                Some(_) | None => ControlFlow::Break((record.partition(), record.offset())),
            })?;
            if alien.is_some() {
                return Ok(alien);
            }
        }
    }
    Ok(None)
}

/// An earlier generation's buckets are groups of the partitions that there were then.
async fn compare_with_earlier(run: &Run, sinks: &[PlannedSink]) -> Result<(), PlanError> {
    for earlier in generations::earlier(run).await? {
        for now in sinks {
            let then = earlier.plan.sinks.iter().find(|then| then.topic_id == now.topic_id && then.cluster_id == now.cluster_id);
            if let Some(then) = then.filter(|then| then.partitions != now.partitions) {
                return Err(PlanError::PartitionCountChanged {
                    topic: now.topic.clone(),
                    found: now.partitions,
                    planned: then.partitions,
                    generation: earlier.run.generation,
                });
            }
        }
    }
    Ok(())
}
