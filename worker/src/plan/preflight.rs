//! Whether a target can take the events and keep them, by its settings. Pure.

use std::time::Duration;

use weir_crds::backfill_job::{KafkaMode, KafkaSink, RecordTimestamps};
use weir_kafka::{BrokerConfig, TopicConfig};

/// Events must survive at least until their readers have seen them.
const RETENTION_MARGIN: Duration = Duration::from_secs(24 * 3600);
/// How far ahead of a broker's clock ours may be.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);

/// What a target would refuse, lose or change: the field of the sink that asks for it, what is wrong, what helps.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsuitable {
    pub field: &'static str,
    pub problem: String,
    pub remedy: &'static str,
}

/// What is known of a target.
#[derive(Debug)]
pub struct Target<'a> {
    pub config: &'a TopicConfig,
    /// `None`: this identity may not read it.
    pub broker: Option<&'a BrokerConfig>,
    /// Of the partition that has the fewest.
    pub replicas: usize,
    /// The age of the window's start.
    pub oldest: Duration,
}

/// The first thing that is in the way.
pub fn check(kafka: &KafkaSink, target: &Target<'_>) -> Result<(), Unsuitable> {
    brokers(target)?;
    replicas(target)?;
    if kafka.mode == KafkaMode::InPlace && target.config.cleans_up_by("compact") {
        return Err(Unsuitable {
            field: "mode",
            problem: "cleanup.policy contains compact and mode is InPlace, so an old event would replace its key's newest one".into(),
            remedy: "publish to a side topic (mode: SideTopic)",
        });
    }
    match kafka.timestamps {
        RecordTimestamps::ReplayTime => Ok(()),
        RecordTimestamps::EventTime => event_times(target),
    }
}

/// The brokers' version is not in the protocol. What tells it are settings that came with it: of topics in 3.6, and the
/// guard against hanging transactions, which is what the version matters for.
fn brokers(target: &Target<'_>) -> Result<(), Unsuitable> {
    let field = "clusterRef";
    if !target.config.knows_timestamp_before_max() {
        return Err(Unsuitable {
            field,
            problem: "its brokers are older than 3.6: topics have no message.timestamp.before.max.ms. They let a record that is \
                      late join a transaction that has ended, which then never ends"
                .into(),
            remedy: "upgrade the brokers to 3.6.1 or later",
        });
    }
    match target.broker.and_then(BrokerConfig::verifies_transactions) {
        Some(false) => Err(Unsuitable {
            field,
            problem: "transaction.partition.verification.enable is false on its brokers: a record that is late could join a \
                      transaction that has ended, which then never ends"
                .into(),
            remedy: "set transaction.partition.verification.enable=true on the brokers",
        }),
        Some(true) | None => Ok(()),
    }
}

fn replicas(target: &Target<'_>) -> Result<(), Unsuitable> {
    match target.config.min_insync_replicas() {
        Some(min) if target.replicas < min => Err(Unsuitable {
            field: "topic",
            problem: format!("a partition has {} replicas and min.insync.replicas is {min}: no record would be taken", target.replicas),
            remedy: "add replicas, or lower min.insync.replicas",
        }),
        Some(_) | None => Ok(()),
    }
}

fn event_times(target: &Target<'_>) -> Result<(), Unsuitable> {
    let field = "timestamps";
    let Target { config, oldest, .. } = target;
    if config.stamps_on_arrival() {
        return Err(Unsuitable {
            field,
            problem: "timestamps is EventTime and message.timestamp.type is LogAppendTime, so event times would be replaced".into(),
            remedy: "set timestamps: ReplayTime, or publish to a topic with CreateTime",
        });
    }
    if config.cleans_up_by("delete")
        && let Some(retention) = config.retention()
        && retention < *oldest + RETENTION_MARGIN
    {
        return Err(Unsuitable {
            field,
            problem: format!(
                "events are up to {} old and retention.ms is {} ({}): they would expire at once or within a day",
                days(*oldest),
                retention.as_millis(),
                days(retention)
            ),
            remedy: "raise retention.ms first, publish to a side topic, or set timestamps: ReplayTime",
        });
    }
    if let Some((name, limit)) = config.timestamp_before_max()
        && limit < *oldest + CLOCK_MARGIN
    {
        return Err(Unsuitable {
            field,
            problem: format!("events are up to {} old and {name} is {} ({})", days(*oldest), limit.as_millis(), days(limit)),
            remedy: "raise that limit of the topic, or set timestamps: ReplayTime",
        });
    }
    // A limit on times ahead of the brokers' clock is no matter: planning waits until the window is over.
    Ok(())
}

fn days(duration: Duration) -> String {
    format!("{:.1} days", duration.as_secs_f64() / 86_400.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use serde_json::json;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn sink(change: serde_json::Value) -> KafkaSink {
        let mut sink = json!({
            "clusterRef": {"name": "k"}, "topic": "t", "mode": "InPlace", "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey",
            "value": {"format": "Json", "columns": ["id"]}
        });
        sink.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(sink).unwrap()
    }

    /// The field that is named for events of three days ago.
    fn refused(change: serde_json::Value, config: &[(&str, &str)], broker: Option<&str>) -> Option<&'static str> {
        let defaults = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
            ("min.insync.replicas", "2"),
        ];
        let config: TopicConfig = defaults.iter().chain(config).filter(|(_, value)| !value.is_empty()).copied().collect();
        let broker: Option<BrokerConfig> = broker.map(|v| [("transaction.partition.verification.enable", v)].into_iter().collect());
        let target = Target { config: &config, broker: broker.as_ref(), replicas: 2, oldest: 3 * DAY };
        check(&sink(change), &target).err().map(|unsuitable| unsuitable.field)
    }

    /// Of the sink, of the topic, the brokers' guard; and the field that is refused.
    type Case<'a> = (&'a serde_json::Value, &'a [(&'a str, &'a str)], Option<&'a str>, Option<&'a str>);

    #[test]
    fn each_setting_that_is_in_the_way_is_named() {
        let none = json!({});
        let replay = json!({"timestamps": "ReplayTime"});
        let (before, difference) = ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms");
        let cases: [Case<'_>; 16] = [
            (&none, &[], Some("true"), None),
            (&none, &[], None, None),
            (&none, &[("cleanup.policy", "compact,delete")], None, Some("mode")),
            (&json!({"mode": "SideTopic"}), &[("cleanup.policy", "compact")], None, None),
            (&none, &[("retention.ms", "259200000")], None, Some("timestamps")),
            (&none, &[("retention.ms", "345600000")], None, None),
            (&none, &[("retention.ms", "-1")], None, None),
            (&replay, &[("retention.ms", "259200000")], None, None),
            (&none, &[("message.timestamp.type", "LogAppendTime")], None, Some("timestamps")),
            (&none, &[(before, "259200000")], None, Some("timestamps")),
            (&none, &[(before, "345600000")], None, None),
            (&none, &[(difference, "259200000")], None, Some("timestamps")),
            // What is set on the newer name counts.
            (&none, &[(before, "345600000"), (difference, "259200000")], None, None),
            (&none, &[("min.insync.replicas", "3")], None, Some("topic")),
            (&none, &[], Some("false"), Some("clusterRef")),
            (&replay, &[("min.insync.replicas", "3")], None, Some("topic")),
        ];
        for (sink, config, broker, expected) in cases {
            assert_eq!(refused(sink.clone(), config, broker), expected, "{sink} {config:?} {broker:?}");
        }
    }

    #[test]
    fn brokers_that_let_transactions_hang_are_refused() {
        let config: TopicConfig = [("cleanup.policy", "delete"), ("retention.ms", "-1")].into_iter().collect();
        let target = Target { config: &config, broker: None, replicas: 1, oldest: DAY };
        assert_eq!(check(&sink(json!({})), &target).unwrap_err().field, "clusterRef");
    }
}
