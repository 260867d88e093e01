//! A cluster at size: a thousand topics, a hundred groups, traffic on all of them; and what weir costs there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use serde_json::Value;

use crate::fixture::{Fixture, LABEL, OPERATOR_NAMESPACE};
use crate::kafka::Listener;
use crate::retention::kind;
use crate::wait;

pub mod broker;
pub mod measures;
pub mod traffic;

use broker::{Broker, LATEST, Of};

/// Of its heap the broker keeps a quarter free for compaction, and twelve thousand logs need that.
const COMPACTION_BUFFER: (&str, &str) = ("log.cleaner.dedupe.buffer.size", "4194304");

/// Of a request, which the broker takes whole or not at all.
const TOPICS_A_REQUEST: usize = 50;
/// Twelve thousand logs take the broker a minute or two.
const MADE_LIMIT: Duration = Duration::from_secs(600);
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// What a thousand of weir's objects take to go after their cluster.
const GONE_LIMIT: Duration = Duration::from_secs(300);
/// Between two looks at a thousand objects.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
const PAGE: u32 = 500;

fn admin(fixture: &Fixture) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(fixture.cluster.kafka.client(Listener::Plaintext)?.create()?)
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(CALL_TIMEOUT)).operation_timeout(Some(CALL_TIMEOUT))
}

/// Makes topics of as many partitions each, and returns once all of these have logs.
pub async fn create_topics(fixture: &Fixture, topics: &[String], partitions: usize, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let admin = admin(fixture)?;
    for batch in topics.chunks(TOPICS_A_REQUEST) {
        let mut new = Vec::new();
        for topic in batch {
            let bare = NewTopic::new(topic, i32::try_from(partitions)?, TopicReplication::Fixed(1));
            new.push(settings.iter().fold(bare, |new, (key, value)| new.set(key, value)));
        }
        for made in admin.create_topics(&new, &options()).await? {
            made.map_err(|(topic, code)| anyhow::anyhow!("{topic} cannot be made: {code}"))?;
        }
    }
    let are_there = async || {
        let mut broker = Broker::connect(&fixture.cluster.environment).await?;
        for batch in topics.chunks(TOPICS_A_REQUEST) {
            broker.offsets(batch.iter().map(String::as_str), partitions, LATEST).await?;
        }
        anyhow::Ok(())
    };
    Ok(wait::until("every partition has a log", MADE_LIMIT, are_there).await?)
}

/// Runs the body on a broker that has room for many logs, and removes what it made, whatever came of it.
pub async fn at_size<F>(fixture: &Fixture, body: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce() -> anyhow::Result<()>,
{
    let (key, size) = COMPACTION_BUFFER;
    Broker::connect(&fixture.cluster.environment).await?.set(Of::Brokers, key, Some(size)).await?;
    let outcome = body().await;
    let removed = remove(fixture).await;
    let reset = async { Broker::connect(&fixture.cluster.environment).await?.set(Of::Brokers, key, None).await };
    outcome.and(removed).and(reset.await)
}

/// Deletes the test's clusters and then its topics, so that weir does not take these for lost ones, and returns once what weir
/// wrote of them is gone.
async fn remove(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.kubectl(&["delete", "topicretentionpolicies", "--all"]).await?;
    let selector = format!("{LABEL}={}", fixture.namespace);
    fixture.cluster.kubectl(&["delete", "kafkaclusters", "--namespace", OPERATOR_NAMESPACE, "--selector", &selector]).await?;
    let admin = admin(fixture)?;
    let metadata = admin.inner().fetch_metadata(None, CALL_TIMEOUT)?;
    let topics: Vec<&str> = metadata.topics().iter().map(|t| t.name()).filter(|name| name.contains(&fixture.namespace)).collect();
    for batch in topics.chunks(TOPICS_A_REQUEST) {
        for deleted in admin.delete_topics(batch, &options()).await? {
            match deleted {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => anyhow::bail!("{topic} cannot be deleted: {code}"),
            }
        }
    }
    let are_gone = async || {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let left = floors(fixture).await?.len();
        ensure!(left == 0, "{left} TopicFloors are left");
        Ok(())
    };
    Ok(wait::until("what weir wrote is gone", GONE_LIMIT, are_gone).await?)
}

/// What weir shows of the test's topics.
pub async fn floors(fixture: &Fixture) -> anyhow::Result<BTreeMap<String, Value>> {
    let api: Api<DynamicObject> = Api::all_with(fixture.cluster.kube.clone(), &kind("TopicFloor"));
    let mut page = ListParams::default().limit(PAGE);
    let mut found = BTreeMap::new();
    loop {
        let listed = api.list(&page).await?;
        for floor in listed.items {
            let topic = floor.data.pointer("/spec/topic").and_then(Value::as_str).unwrap_or_default().to_owned();
            if topic.starts_with(&fixture.namespace) {
                found.insert(topic, floor.data);
            }
        }
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Waits until weir shows of each of so many topics what is awaited.
pub async fn until_all_shown(
    fixture: &Fixture,
    count: usize,
    what: &str,
    limit: Duration,
    is: impl Fn(&str, &Value) -> bool,
) -> anyhow::Result<BTreeMap<String, Value>> {
    let are_shown = async || {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let floors = floors(fixture).await?;
        let missing: Vec<_> = floors.iter().filter(|(topic, floor)| !is(topic, floor)).collect();
        ensure!(floors.len() == count, "{} of {count} are there", floors.len());
        ensure!(missing.is_empty(), "{} are not so, as {}", missing.len(), missing[0].1["status"]);
        Ok(floors)
    };
    Ok(wait::until(what, limit, are_shown).await?)
}

/// The value at a percentile of many, the greatest that it may be.
pub fn percentile<T: Copy + Ord>(values: &[T], percent: usize) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

/// Says what was measured, captured or not.
pub fn say(line: &str) {
    use std::io::Write as _;
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_value_that_so_many_do_not_exceed() {
        let values: Vec<u32> = (1..=200).rev().collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [Some(100), Some(198), Some(200)]);
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile::<u32>(&[], 99), None);
    }
}
