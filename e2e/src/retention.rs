//! What drills about retention do: topics of old records, groups that stand still, changes behind weir's back; and what weir
//! shows of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::{Value, json};

use crate::environment::names;
use crate::fixture::{Fixture, LABEL};
use crate::kafka::Listener;
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

/// What the broker does itself once a group was away for long enough.
pub async fn forget(fixture: &Fixture, group: &str, topic: &str) -> anyhow::Result<()> {
    let bootstrap = fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?;
    let arguments = ["--bootstrap-server", bootstrap, "--group", group, "--topic", topic, "--delete-offsets"];
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

/// What weir shows of a topic.
pub async fn floor(fixture: &Fixture, topic: &str) -> anyhow::Result<Value> {
    let api: Api<DynamicObject> = Api::all_with(fixture.cluster.kube.clone(), &kind("TopicFloor"));
    let listed = api.list(&ListParams::default()).await?;
    let found = listed.items.into_iter().find(|f| f.data.pointer("/spec/topic").and_then(Value::as_str) == Some(topic));
    Ok(serde_json::to_value(found.with_context(|| format!("there is no TopicFloor of {topic}"))?)?)
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
