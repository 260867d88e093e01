//! Whether a target can take the events and keep them, by its settings. Pure.

use std::{collections::BTreeMap, time::Duration};

use weir_crds::backfill_job::{KafkaMode, KafkaSink, RecordTimestamps};
use weir_kafka::{BrokerConfig, TopicConfig};

/// How far ahead of a broker's clock ours may be.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);
/// From so many brokers on there is no reason for one of them to hold the only copy of anything.
const BROKERS_FOR_COPIES: usize = 3;
const COPIES_MIN: usize = 2;

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
    /// By id; `None`: this identity may not read its settings.
    pub brokers: &'a BTreeMap<i32, Option<BrokerConfig>>,
    /// Of the partition that has the fewest.
    pub replicas: usize,
    /// `None`: the progress topic is not there yet.
    pub progress: Option<Copies>,
    /// The age of the window's start.
    pub oldest: Duration,
}

/// How often a topic keeps each record.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// Of the partition that has the fewest.
    pub replicas: usize,
    /// How many of them must have a record before it counts; `None`: not known.
    pub min_in_sync: Option<usize>,
}

/// When it is asked whether a topic keeps what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Plan,
    Publish,
}

impl Step {
    /// For how long events must survive at least, also in words: until their readers have seen them. Once that is planned the
    /// clock goes on, and what holds retention follows it in steps.
    const fn margin(self) -> (Duration, &'static str) {
        match self {
            Self::Plan => (Duration::from_secs(24 * 3600), "a day"),
            Self::Publish => (Duration::from_secs(3600), "an hour"),
        }
    }
}

/// The first thing that is in the way.
pub fn check(kafka: &KafkaSink, target: &Target<'_>) -> Result<(), Unsuitable> {
    brokers(target)?;
    replicas(target)?;
    if let Some(copies) = &target.progress {
        progress(target.brokers.len(), copies)?;
    }
    keeps(kafka, target.config, target.oldest, Step::Plan)
}

/// The brokers' version is not in the protocol. What tells it are settings that came with it: of topics in 3.6.0, and the
/// guard against hanging transactions, which is what the version matters for. Nothing tells 3.6.0 from 3.6.1, which mended
/// that guard.
fn brokers(target: &Target<'_>) -> Result<(), Unsuitable> {
    let field = "clusterRef";
    if !target.config.knows_timestamp_before_max() {
        return Err(Unsuitable {
            field,
            problem: "its brokers are older than 3.6.0: topics have no message.timestamp.before.max.ms. They let a record that is \
                      late join a transaction that has ended, which then never ends"
                .into(),
            remedy: "upgrade the brokers, and not to 3.6.0, whose guard against that has faults, but to 3.6.1 or later",
        });
    }
    let verifies = |config: &Option<BrokerConfig>| config.as_ref().and_then(BrokerConfig::verifies_transactions);
    match target.brokers.iter().find(|(_, config)| verifies(config) == Some(false)) {
        Some((id, _)) => Err(Unsuitable {
            field,
            problem: format!(
                "transaction.partition.verification.enable is false on broker {id}: a record that is late could join a transaction \
                 that has ended, which then never ends"
            ),
            remedy: "set transaction.partition.verification.enable=true on all brokers",
        }),
        None => Ok(()),
    }
}

fn replicas(target: &Target<'_>) -> Result<(), Unsuitable> {
    let (field, found, brokers) = ("topic", target.replicas, target.brokers.len());
    let min = target.config.min_insync_replicas();
    if let Some(min) = min
        && found < min
    {
        return Err(Unsuitable {
            field,
            problem: format!("a partition has {found} replicas and min.insync.replicas is {min}: no record would be taken"),
            remedy: "add replicas, or lower min.insync.replicas",
        });
    }
    if brokers < BROKERS_FOR_COPIES {
        return Ok(());
    }
    if found < COPIES_MIN {
        return Err(Unsuitable {
            field,
            problem: format!(
                "a partition has {found} replica, on a cluster of {brokers} brokers: what is published is lost with its broker"
            ),
            remedy: "add replicas: at least 2, better 3",
        });
    }
    match min {
        Some(min) if min < COPIES_MIN => Err(Unsuitable {
            field,
            problem: format!(
                "min.insync.replicas is {min}, on a cluster of {brokers} brokers: what counts as published may lie on one of them \
                 alone, and is lost with it"
            ),
            remedy: "set min.insync.replicas=2 on the topic, which needs 3 replicas to be written to while a broker is away",
        }),
        Some(_) | None => Ok(()),
    }
}

/// Whether what is known of the progress outlives a broker.
pub fn progress(brokers: usize, copies: &Copies) -> Result<(), Unsuitable> {
    if brokers < BROKERS_FOR_COPIES {
        return Ok(());
    }
    let Copies { replicas, min_in_sync } = *copies;
    let few = if replicas < COPIES_MIN {
        format!("{replicas} replica")
    } else if min_in_sync.is_some_and(|min| min < COPIES_MIN) {
        "min.insync.replicas=1".to_owned()
    } else {
        return Ok(());
    };
    Err(Unsuitable {
        field: "clusterRef",
        problem: format!(
            "the progress topic has {few}, on a cluster of {brokers} brokers: what is published is not known any more when one of \
             them is lost"
        ),
        remedy: "give the topic weir.<namespace>.progress 3 replicas and min.insync.replicas=2",
    })
}

/// What the clock and the topic's owner may change at any time: whether events of this age stay as they are, and are kept.
pub fn keeps(kafka: &KafkaSink, config: &TopicConfig, oldest: Duration, step: Step) -> Result<(), Unsuitable> {
    if config.cleans_up_by("compact") {
        let (field, problem) = match kafka.mode {
            KafkaMode::InPlace => ("mode", "cleanup.policy contains compact, so an old event would replace its key's newest one"),
            // Which events are there is read back by verifying, and by every later generation.
            KafkaMode::SideTopic => ("topic", "cleanup.policy contains compact, so events would go that count as published"),
        };
        return Err(Unsuitable { field, problem: problem.into(), remedy: "publish to a side topic with cleanup.policy=delete" });
    }
    match kafka.timestamps {
        RecordTimestamps::ReplayTime => Ok(()),
        RecordTimestamps::EventTime => event_times(config, oldest, step),
    }
}

fn event_times(config: &TopicConfig, oldest: Duration, step: Step) -> Result<(), Unsuitable> {
    let field = "timestamps";
    if config.stamps_on_arrival() {
        return Err(Unsuitable {
            field,
            problem: "timestamps is EventTime and message.timestamp.type is LogAppendTime, so event times would be replaced".into(),
            remedy: "set timestamps: ReplayTime, or publish to a topic with CreateTime",
        });
    }
    let (margin, words) = step.margin();
    if config.cleans_up_by("delete")
        && let Some(retention) = config.retention()
        && retention < oldest + margin
    {
        return Err(Unsuitable {
            field,
            problem: format!(
                "events are up to {} old and retention.ms is {} ({}): they would expire at once or within {words}",
                days(oldest),
                retention.as_millis(),
                days(retention)
            ),
            remedy: "raise retention.ms first, publish to a side topic, or set timestamps: ReplayTime",
        });
    }
    if let Some((name, limit)) = config.timestamp_before_max()
        && limit < oldest + CLOCK_MARGIN
    {
        return Err(Unsuitable {
            field,
            problem: format!("events are up to {} old and {name} is {} ({})", days(oldest), limit.as_millis(), days(limit)),
            remedy: "raise that limit of the topic, or set timestamps: ReplayTime",
        });
    }
    // A limit on times ahead of the brokers' clock is no matter: planning waits until the window is over.
    Ok(())
}

/// Whether so many bytes fit into each partition: where a log is larger than allowed its oldest records go, whoever has not
/// read them yet.
pub fn room(config: &TopicConfig, partition_bytes: u64) -> Result<(), Unsuitable> {
    // Negative: as large as it may become.
    let limit = config.get("retention.bytes").and_then(|text| text.parse::<u64>().ok());
    match limit.filter(|limit| config.cleans_up_by("delete") && *limit < partition_bytes) {
        None => Ok(()),
        Some(limit) => Err(Unsuitable {
            field: "topic",
            problem: format!(
                "each partition would get about {partition_bytes} bytes and retention.bytes is {limit}: all other records in it would \
                 be deleted, and then those that were just published"
            ),
            remedy: "raise retention.bytes, publish to a side topic, or cut the window into several jobs",
        }),
    }
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

    fn guarded(value: &str) -> Option<BrokerConfig> {
        Some([("transaction.partition.verification.enable", value)].into_iter().collect())
    }

    /// The field that is named for events of three days ago, with a second broker that may have other settings than the first.
    fn refused(change: serde_json::Value, config: &[(&str, &str)], broker: Option<&str>) -> Option<&'static str> {
        let defaults = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
            ("min.insync.replicas", "2"),
        ];
        let config: TopicConfig = defaults.iter().chain(config).filter(|(_, value)| !value.is_empty()).copied().collect();
        let brokers = BTreeMap::from([(1, guarded("true")), (2, broker.and_then(guarded))]);
        let target = Target { config: &config, brokers: &brokers, replicas: 2, progress: None, oldest: 3 * DAY };
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
            (&json!({"mode": "SideTopic"}), &[("cleanup.policy", "compact")], None, Some("topic")),
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
        let target = Target { config: &config, brokers: &BTreeMap::new(), replicas: 1, progress: None, oldest: DAY };
        assert_eq!(check(&sink(json!({})), &target).unwrap_err().field, "clusterRef");
    }

    /// What is refused on a cluster of so many brokers, by a word of the problem.
    fn copies(brokers: i32, replicas: usize, min_insync: &str, progress: Option<(usize, usize)>) -> Option<&'static str> {
        let progress = progress.map(|(replicas, min)| Copies { replicas, min_in_sync: Some(min) });
        let config = [("message.timestamp.before.max.ms", "9223372036854775807"), ("min.insync.replicas", min_insync)];
        let (config, brokers) = (config.into_iter().collect(), (0..brokers).map(|id| (id, None)).collect());
        let target = Target { config: &config, brokers: &brokers, replicas, progress, oldest: DAY };
        let problem = check(&sink(json!({})), &target).err()?.problem;
        ["no record", "a partition has", "progress", "min.insync"].into_iter().find(|word| problem.contains(word))
    }

    #[test]
    fn one_copy_is_enough_for_small_clusters_only() {
        assert_eq!(copies(1, 1, "1", Some((1, 1))), None);
        assert_eq!(copies(2, 1, "1", Some((1, 1))), None);
        assert_eq!(copies(3, 1, "1", Some((3, 2))), Some("a partition has"));
        assert_eq!(copies(3, 1, "2", Some((3, 2))), Some("no record"));
        assert_eq!(copies(3, 3, "1", Some((3, 2))), Some("min.insync"));
        assert_eq!(copies(3, 3, "2", Some((1, 1))), Some("progress"));
        assert_eq!(copies(3, 3, "2", Some((3, 1))), Some("progress"));
        assert_eq!(copies(3, 3, "2", Some((2, 2))), None);
        assert_eq!(copies(3, 3, "2", None), None);
    }

    #[test]
    fn once_planned_the_clock_may_go_on() {
        let config = |retention: &str| [("cleanup.policy", "delete"), ("retention.ms", retention)].into_iter().collect::<TopicConfig>();
        let kept = |retention, step| keeps(&sink(json!({})), &config(retention), 3 * DAY, step).map_err(|found| found.problem);
        let (four_days, two_hours_more, half_an_hour_more) = ("345600000", "266400000", "261000000");
        assert_eq!((kept(four_days, Step::Plan), kept(two_hours_more, Step::Publish)), (Ok(()), Ok(())));
        let problem = kept(two_hours_more, Step::Plan).unwrap_err();
        assert!(problem.contains("within a day"), "{problem}");
        let problem = kept(half_an_hour_more, Step::Publish).unwrap_err();
        assert!(problem.contains("3.0 days old") && problem.contains("within an hour"), "{problem}");
    }

    #[test]
    fn a_partition_must_have_room_for_all_of_it() {
        let config = |policy, bytes| [("cleanup.policy", policy), ("retention.bytes", bytes)].into_iter().collect::<TopicConfig>();
        assert_eq!(room(&config("delete", "1000"), 1000), Ok(()));
        assert_eq!(room(&config("delete", "-1"), 1000), Ok(()));
        assert_eq!(room(&config("compact", "999"), 1000), Ok(()));
        let found = room(&config("compact,delete", "999"), 1000).unwrap_err();
        assert!(found.field == "topic" && found.problem.contains("about 1000 bytes and retention.bytes is 999"), "{found:?}");
    }
}
