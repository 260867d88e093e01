//! What drills about retention do: topics of old records, groups that stand still, changes behind weir's back; and what weir
//! shows of them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::demo::watch::{condition, number, text};
use crate::environment::names;
use crate::fixture::{Fixture, LABEL};
use crate::kafka::Listener;
use crate::scale::measures::metrics;
use crate::wait;

/// Kafka's own tools, which know nothing of weir.
const CONFIG_TOOL: &str = "kafka.admin.ConfigCommand";
const GROUP_TOOL: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
/// The broker answers at once.
const ANSWER: Duration = Duration::from_secs(10);

/// One of weir's kinds.
pub fn kind(name: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("weir.dev", "v1alpha1", name))
}

/// Milliseconds since the epoch, some time ago.
pub fn ago_ms(length: Duration) -> anyhow::Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(length);
    Ok(i64::try_from(since.as_millis())?)
}

/// A `KafkaCluster` that lets the test's namespace govern the test's topics.
pub async fn govern(fixture: &Fixture) -> anyhow::Result<String> {
    let name = fixture.name("kafka");
    let platform = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "KafkaCluster",
        "metadata": {"name": name, "labels": {LABEL: fixture.namespace}},
        "spec": {
            "bootstrapServers": [fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?],
            "grants": [{"namespaces": [fixture.namespace], "topics": [format!("^{}-.*$", fixture.namespace)], "verbs": ["Govern"]}],
        },
    });
    fixture.apply(&platform.to_string()).await?;
    Ok(name)
}

/// Records of a time, a millisecond apart.
pub async fn produce_each(fixture: &Fixture, topic: &str, first_ms: i64, records: i64) -> anyhow::Result<()> {
    for number in 0..records {
        fixture.cluster.kafka.produce(topic, None, b"{}", first_ms + number).await?;
    }
    Ok(())
}

/// A group's committed offset on topics, by Kafka's own tool.
pub async fn commit(fixture: &Fixture, group: &str, topics: &[&str], to: &[&str]) -> anyhow::Result<()> {
    let mut arguments = vec!["--bootstrap-server", fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?, "--group", group];
    topics.iter().for_each(|topic| arguments.extend(["--topic", topic]));
    arguments.push("--reset-offsets");
    arguments.extend_from_slice(to);
    arguments.push("--execute");
    fixture.cluster.kafka_tool(GROUP_TOOL, &arguments).await?;
    Ok(())
}

/// Changes a topic's retention behind weir's back.
pub async fn set_retention(fixture: &Fixture, topic: &str, retention_ms: &str) -> anyhow::Result<()> {
    let bootstrap = fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?;
    let set = format!("retention.ms={retention_ms}");
    let arguments = ["--bootstrap-server", bootstrap, "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", &set];
    fixture.cluster.kafka_tool(CONFIG_TOOL, &arguments).await?;
    Ok(())
}

/// A topic's setting, as the broker has it.
pub async fn setting(fixture: &Fixture, topic: &str, key: &str) -> anyhow::Result<String> {
    Ok(fixture.cluster.kafka.topic_setting(topic, key).await?.unwrap_or_default())
}

/// Where the log of partition 0 begins and ends, as the broker has it.
pub async fn bounds(fixture: &Fixture, topic: &str) -> anyhow::Result<(i64, i64)> {
    let consumer: BaseConsumer = fixture.cluster.kafka.client(Listener::Plaintext)?.create()?;
    let topic = topic.to_owned();
    Ok(tokio::task::spawn_blocking(move || consumer.fetch_watermarks(&topic, 0, ANSWER)).await??)
}

/// A consumer of a group, without being its member.
fn consumer(fixture: &Fixture, group: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = fixture.cluster.kafka.client(Listener::Plaintext)?;
    Ok(config.set("group.id", group).set("enable.auto.commit", "false").create()?)
}

/// The timestamp of a record of partition 0.
pub async fn stamp(fixture: &Fixture, topic: &str, offset: i64) -> anyhow::Result<i64> {
    let (consumer, mut place) = (consumer(fixture, "nobody")?, TopicPartitionList::new());
    place.add_partition_offset(topic, 0, Offset::Offset(offset))?;
    consumer.assign(&place)?;
    let read = move || {
        let record = consumer.poll(ANSWER).context("there is no record")??;
        ensure!(record.offset() == offset, "the first record is {}", record.offset());
        record.timestamp().to_millis().context("it has no timestamp")
    };
    tokio::task::spawn_blocking(read).await?
}

/// What the broker knows of a group's committed offset on partition 0; nothing, where it has forgotten it.
pub async fn committed(fixture: &Fixture, group: &str, topic: &str) -> anyhow::Result<Option<i64>> {
    let (consumer, mut place) = (consumer(fixture, group)?, TopicPartitionList::new());
    place.add_partition(topic, 0);
    let found = tokio::task::spawn_blocking(move || consumer.committed_offsets(place, ANSWER)).await??;
    Ok(found.elements().first().and_then(|at| at.offset().to_raw()).filter(|offset| *offset >= 0))
}

/// What weir shows of a topic, if it shows anything.
async fn find_floor(fixture: &Fixture, topic: &str) -> anyhow::Result<Option<DynamicObject>> {
    let api: Api<DynamicObject> = Api::all_with(fixture.cluster.kube.clone(), &kind("TopicFloor"));
    let listed = api.list(&ListParams::default()).await?;
    Ok(listed.items.into_iter().find(|f| f.data.pointer("/spec/topic").and_then(Value::as_str) == Some(topic)))
}

/// What weir shows of a topic.
pub async fn floor(fixture: &Fixture, topic: &str) -> anyhow::Result<Value> {
    let found = find_floor(fixture, topic).await?;
    Ok(serde_json::to_value(found.with_context(|| format!("there is no TopicFloor of {topic}"))?)?)
}

/// A series of the metric `weir_finding`.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The group that it is about.
    pub group: String,
    /// `critical` pages.
    pub severity: String,
    /// Who is to be asked.
    pub owner: String,
    /// In what the finding is measured.
    pub value: f64,
}

/// What is wrong with a topic by the operator's metrics, by finding.
pub async fn told(fixture: &Fixture, topic: &str) -> anyhow::Result<BTreeMap<String, Series>> {
    let replicas = metrics(fixture).await?;
    Ok(replicas.iter().flat_map(|(_, text)| findings(text, topic)).collect())
}

/// The series of a topic in a replica's metrics.
fn findings(metrics: &str, topic: &str) -> Vec<(String, Series)> {
    let of_line = |line: &str| {
        let (labels, value) = line.strip_prefix("weir_finding{")?.rsplit_once("} ")?;
        let label = |name: &str| Some(labels.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.to_owned());
        let series =
            Series { group: label("group")?, severity: label("severity")?, owner: label("owner")?, value: value.trim().parse().ok()? };
        (label("topic")? == topic).then_some((label("finding")?, series))
    };
    metrics.lines().filter_map(of_line).collect()
}

/// Waits until a finding is told of a topic: by the policy's condition, with topic, group and owner, and by the metric.
pub async fn until_told(fixture: &Fixture, found: &Found<'_>, limit: Duration) -> anyhow::Result<Series> {
    let Found { policy: name, condition: kind, status, topic, group, finding } = *found;
    let is_told = async || {
        let policy = policy(fixture, name).await?;
        let (is, reason, message) = condition(&policy, kind);
        ensure!((is, reason) == (status, finding), "{kind} is {is}, {reason}: {message}");
        for words in [topic, group, "#growth-data"] {
            ensure!(message.contains(words), "{words} is not in: {message}");
        }
        let mut told = told(fixture, topic).await?;
        let series = told.remove(finding).with_context(|| format!("{finding} is no series: {told:?}"))?;
        ensure!(series.group == group && series.owner.contains("#growth-data"), "{series:?}");
        let events =
            fixture.kubectl(&["get", "events", "--output", "jsonpath={range .items[*]}{.reason} {.message}{\"\\n\"}{end}"]).await?;
        let is_event = |line: &str| line.starts_with(&format!("{finding} ")) && line.contains(topic);
        ensure!(events.lines().any(is_event), "no event tells of {finding}: {events}");
        Ok(series)
    };
    Ok(wait::until(&format!("{finding} is told"), limit, is_told).await?)
}

/// What [`until_told`] waits for.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// The type of its condition.
    pub condition: &'a str,
    /// That condition's status.
    pub status: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The group.
    pub group: &'a str,
    /// As a reason, and as a label.
    pub finding: &'a str,
}

/// The control of what is told: weir says nothing of a topic that no policy is about, whatever happens to it.
pub async fn must_be_silent(fixture: &Fixture, topic: &str) -> anyhow::Result<()> {
    let (shown, told) = (find_floor(fixture, topic).await?, told(fixture, topic).await?);
    ensure!(shown.is_none() && told.is_empty(), "of {topic}, which nobody governs, weir says {shown:?} {told:?}");
    Ok(())
}

/// Offsets that are gone or were skipped, and when the first and the last of them arrived, in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub from: i64,
    /// Behind the last.
    pub to: i64,
    /// When the first arrived.
    pub first: i64,
    /// When the last arrived.
    pub last: i64,
}

/// The ranges of a loss or a repair that is shown, by partition.
pub fn ranges(shown: &Value) -> anyhow::Result<BTreeMap<u64, Range>> {
    let all = shown.as_array().context("no range is shown")?;
    all.iter().map(|range| Ok((number(range, "/partition"), range_of(range)?))).collect()
}

fn range_of(range: &Value) -> anyhow::Result<Range> {
    let offset = |name: &str| range[name].as_i64().with_context(|| format!("{name} is not in {range}"));
    let second = |pointer: &str| {
        let at: jiff::Timestamp = text(range, pointer).parse().with_context(|| format!("{pointer} is no time in {range}"))?;
        anyhow::Ok(at.as_second())
    };
    let (first, last) = (second("/firstAtInterpolated")?, second("/lastAtInterpolated")?);
    Ok(Range { from: offset("from")?, to: offset("to")?, first, last })
}

/// Waits until weir shows of a topic what is awaited.
pub async fn until_shown(
    fixture: &Fixture,
    topic: &str,
    what: &str,
    limit: Duration,
    is: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let shown = async || {
        let floor = floor(fixture, topic).await?;
        ensure!(is(&floor), "{}", floor["status"]);
        Ok(floor)
    };
    Ok(wait::until(what, limit, shown).await?)
}

/// A policy of the test's namespace, as the API has it.
pub async fn policy(fixture: &Fixture, name: &str) -> anyhow::Result<Value> {
    let api: Api<DynamicObject> = Api::namespaced_with(fixture.cluster.kube.clone(), &fixture.namespace, &kind("TopicRetentionPolicy"));
    Ok(serde_json::to_value(api.get(name).await?)?)
}

/// The BackfillJobs that weir has drafted in the test's namespace.
pub async fn drafts(fixture: &Fixture) -> anyhow::Result<Vec<Value>> {
    let api: Api<DynamicObject> = Api::namespaced_with(fixture.cluster.kube.clone(), &fixture.namespace, &kind("BackfillJob"));
    let listed = api.list(&ListParams::default().labels("weir.dev/draft")).await?;
    Ok(listed.items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_read_from_what_a_replica_serves() {
        let line = |topic: &str, finding: &str, value: &str| {
            format!(
                "weir_finding{{cluster=\"c\",topic=\"{topic}\",group=\"g\",finding=\"{finding}\",severity=\"critical\",owner=\"a (#a)\",detail=\"\"}} {value}\n"
            )
        };
        let metrics = format!("# TYPE weir_finding gauge\n{}{}", line("events", "LossNear", "7.5"), line("others", "LagHigh", "30.0"));
        let series = Series { group: "g".to_owned(), severity: "critical".to_owned(), owner: "a (#a)".to_owned(), value: 7.5 };
        assert_eq!(findings(&metrics, "events"), [("LossNear".to_owned(), series)]);
    }
}
