//! The target is the one that was planned with: cluster, topic and partitions are pinned, and looked at before each use. And
//! it still takes and keeps the events, which the clock and its owner may have changed since.

use std::time::Duration;

use jiff::Timestamp;
use weir_crds::backfill_job::{KafkaSink, Ordering};
use weir_crds::contract::{plan::PlannedSink, result::FailureCode, run::RunSpec};
use weir_failpoints::Guard;
use weir_kafka::{Admin, AdminError, TopicDescription};

use crate::{
    plan::preflight::{self, Copies, Step, Unsuitable},
    termination::Explain,
};

/// Of what is pinned, what no other plan can mend.
const PARTITION_COUNT: &str = "partition count";

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("topic {0} is not there")]
    Missing(String),
    #[error("the {what} of the target is {found}; the plan was made for {planned}")]
    Changed { what: &'static str, planned: String, found: String },
    #[error("topic {topic} cannot take the events any more: {problem}")]
    Unsuitable { field: String, topic: String, problem: String, remedy: &'static str },
}

impl Explain for TargetError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Admin(AdminError::Config(_)) => FailureCode::KafkaDenied,
            Self::Admin(error) if error.is_denied() => FailureCode::KafkaDenied,
            Self::Admin(_) => FailureCode::KafkaUnavailable,
            Self::Missing(_) => FailureCode::TopicMissing,
            Self::Changed { .. } => FailureCode::TargetChanged,
            Self::Unsuitable { .. } => FailureCode::TargetUnsuitable,
        }
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("spec.sinks[].kafka.topic".to_owned()),
            Self::Unsuitable { field, .. } => Some(field.clone()),
            Self::Admin(_) | Self::Changed { .. } => None,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Unsuitable { remedy, .. } => Some(format!("{remedy}; then raise runGeneration, which publishes what is missing")),
            Self::Changed { what, .. } if *what == PARTITION_COUNT => {
                Some("publish to another topic; keys have moved between partitions, so a higher generation cannot go on here".to_owned())
            }
            Self::Admin(_) | Self::Missing(_) | Self::Changed { .. } => None,
        }
    }
}

/// Compares what is there with what is pinned.
pub async fn check(admin: &Admin, sink: &PlannedSink) -> Result<(), TargetError> {
    if !weir_failpoints::stands(Guard::Pins) {
        return Ok(());
    }
    is_planned_cluster(sink, &admin.cluster().await?.id)?;
    is_planned_topic(sink, admin.topic(&sink.topic).await?.as_ref())
}

fn is_planned_cluster(sink: &PlannedSink, id: &str) -> Result<(), TargetError> {
    compare("cluster id", &sink.cluster_id, id)
}

fn is_planned_topic(sink: &PlannedSink, topic: Option<&TopicDescription>) -> Result<(), TargetError> {
    let topic = topic.ok_or_else(|| TargetError::Missing(sink.topic.clone()))?;
    compare("topic id", &sink.topic_id, &topic.id)?;
    compare(PARTITION_COUNT, &sink.partitions.to_string(), &topic.partitions.len().to_string())
}

fn compare(what: &'static str, planned: &str, found: &str) -> Result<(), TargetError> {
    if planned == found {
        return Ok(());
    }
    Err(TargetError::Changed { what, planned: planned.to_owned(), found: found.to_owned() })
}

/// Looks at the topic's settings again, for events that are as old as `oldest_us` now: a plan may be approved days after it
/// was made. And at what the operator has made since, which planning could not see: `progress`.
pub async fn check_settings(
    admin: &Admin,
    spec: &RunSpec,
    sink: &PlannedSink,
    (progress_topic, progress): (&str, &TopicDescription),
    oldest_us: i64,
) -> Result<(), TargetError> {
    let Some((index, kafka)) = kafka_sink(spec, &sink.name) else { return Ok(()) };
    let (config, brokers) = (admin.topic_config(&sink.topic).await?, admin.cluster().await?.brokers);
    let found = preflight::progress(brokers.len(), &copies(admin, progress_topic, progress).await?)
        .and_then(|()| preflight::keeps(kafka, &config, age(oldest_us, Timestamp::now()), Step::Publish));
    found.map_err(|Unsuitable { field, problem, remedy }| TargetError::Unsuitable {
        field: format!("spec.sinks[{index}].kafka.{field}"),
        topic: sink.topic.clone(),
        problem,
        remedy,
    })
}

/// How often what is written there is kept, as far as this identity may know.
pub async fn copies(admin: &Admin, topic: &str, found: &TopicDescription) -> Result<Copies, TargetError> {
    let min_in_sync = match admin.topic_config(topic).await {
        Ok(config) => config.min_insync_replicas(),
        Err(error) if error.is_denied() => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Copies { replicas: replicas(found), min_in_sync })
}

/// A Kafka sink by its name, with its place in the spec.
pub fn kafka_sink<'a>(spec: &'a RunSpec, name: &str) -> Option<(usize, &'a KafkaSink)> {
    let (index, sink) = spec.sinks.iter().enumerate().find(|(_, sink)| sink.name == name)?;
    Some((index, sink.kafka.as_ref()?))
}

/// Whether slices go in sequence, since a sink asks for it.
pub fn in_sequence(spec: &RunSpec) -> bool {
    spec.sinks.iter().filter_map(|sink| sink.kafka.as_ref()).all(|kafka| kafka.ordering == Ordering::PerKey)
}

/// How long ago a time is.
pub fn age(event_time_us: i64, now: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(now.as_microsecond() - event_time_us).unwrap_or(0))
}

/// Of the partition that has the fewest.
pub fn replicas(topic: &TopicDescription) -> usize {
    topic.partitions.iter().map(|partition| partition.replicas).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use weir_kafka::PartitionDescription;

    use super::*;

    fn topic(id: &str, partitions: i32) -> TopicDescription {
        let partition = |partition| PartitionDescription { partition, leader: Some(1), replicas: 2 + partition as usize, in_sync: 1 };
        TopicDescription { id: id.into(), partitions: (0..partitions).map(partition).collect() }
    }

    #[test]
    fn each_pin_is_compared() {
        let sink: PlannedSink = serde_json::from_value(serde_json::json!({
            "name": "e", "cluster": "k", "clusterId": "ci", "topic": "t", "topicId": "ti", "partitions": 3, "maxMessageBytes": 1
        }))
        .unwrap();
        is_planned_cluster(&sink, "ci").and_then(|()| is_planned_topic(&sink, Some(&topic("ti", 3)))).unwrap();
        let changed = [
            (is_planned_cluster(&sink, "other"), "the cluster id of the target is other; the plan was made for ci"),
            (is_planned_topic(&sink, Some(&topic("other", 3))), "the topic id of the target is other; the plan was made for ti"),
            (is_planned_topic(&sink, Some(&topic("ti", 4))), "the partition count of the target is 4; the plan was made for 3"),
        ];
        for (found, said) in changed {
            let error = found.unwrap_err();
            assert_eq!((error.code(), error.to_string().as_str()), (FailureCode::TargetChanged, said));
            // A higher generation helps, unless keys have moved between partitions.
            assert_eq!(error.remedy().is_some_and(|remedy| remedy.contains("another topic")), said.contains("partition"), "{said}");
        }
        let error = is_planned_topic(&sink, None).unwrap_err();
        assert_eq!((error.code(), error.field().as_deref()), (FailureCode::TopicMissing, Some("spec.sinks[].kafka.topic")));
    }

    #[test]
    fn the_partition_with_the_fewest_replicas_counts() {
        assert_eq!(replicas(&topic("ti", 3)), 2);
    }
}
