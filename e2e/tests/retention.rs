//! Drill A1, small: somebody lowers a topic's retention with Kafka's own tools while a consumer is behind. In `Enforce` it is
//! back at the floor within seconds; in `Audit` it stays where it was put, and is recorded.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, number, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::retention::{ago_ms, commit, govern, policy, produce_each, set_retention, setting, until_shown};
use weir_e2e::wait;

const WEEK_MS: &str = "604800000";
const HOUR_MS: &str = "3600000";
/// From a change to its repair.
const REPAIR_LIMIT: Duration = Duration::from_secs(10);
/// Topics are looked at at once, offsets every thirty seconds, and records that are needed for a lag in the look after.
const KNOWN_LIMIT: Duration = Duration::from_secs(120);
/// For what is written when something changes.
const SOON: Duration = Duration::from_secs(30);
/// Longer than a repair would take.
const STAYS: Duration = Duration::from_secs(20);
const GROUP: &str = "lake-sink";
const RECORDS: i64 = 20;
const READ: &str = "5";

/// A topic that keeps its records for a week, a group that has read a few of them, and a policy.
async fn set(fixture: &Fixture, mode: &str) -> anyhow::Result<String> {
    let topic = fixture.name("events");
    let kafka = &fixture.cluster.kafka;
    // A change that weir must not touch.
    kafka.create_topic(&topic, 1, &[("retention.ms", WEEK_MS), ("max.message.bytes", "2000000")]).await?;
    // Younger than what the retention is lowered to: whether anything is lost is not left to the broker's clock.
    produce_each(fixture, &topic, ago_ms(Duration::from_secs(30 * 60))?, RECORDS).await?;
    let group = fixture.name(GROUP);
    commit(fixture, &group, &[&topic], &["--to-offset", READ]).await?;
    let cluster = govern(fixture).await?;
    let policy = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": "events"},
        "spec": {
            "clusterRef": {"name": cluster}, "topics": {"names": [topic]}, "floor": {"minimum": "168h"},
            "consumerGroups": {"required": [group]}, "enforcement": {"mode": mode}, "owners": {"team": "growth-data"},
        },
    });
    fixture.apply(&policy.to_string()).await?;
    Ok(topic)
}

/// The first look is over: the group's lag is known, from the time of the record that it wants next.
async fn until_known(fixture: &Fixture, topic: &str) -> anyhow::Result<()> {
    let group = fixture.name(GROUP);
    let is_known = |floor: &Value| {
        let of = |pointer: &str| text(floor, pointer);
        of("/status/state") == "Healthy" && of("/status/limitingGroup") == group && of("/status/behind").contains('m')
    };
    let floor = until_shown(fixture, topic, "the topic is shown, and its lag known", KNOWN_LIMIT, is_known).await?;
    let says = ["retention", "floor", "decidedBy"].map(|field| text(&floor["status"], &format!("/{field}")).to_owned());
    ensure!(says == ["168h", "168h", "Minimum"], "{says:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_lowered_behind_weirs_back_is_at_its_floor_again_within_seconds() {
    fixture::run("retention-enforce", async |fixture| {
        let topic = set(fixture, "Enforce").await?;
        until_known(fixture, &topic).await?;
        set_retention(fixture, &topic, HOUR_MS).await?;
        let is_back = async || {
            let retention = setting(fixture, &topic, "retention.ms").await?;
            ensure!(retention == WEEK_MS, "retention.ms is {retention}");
            Ok(())
        };
        wait::until("retention is back at the floor", REPAIR_LIMIT, is_back).await?;
        ensure!(setting(fixture, &topic, "max.message.bytes").await? == "2000000", "another key was touched");

        let says_so =
            |floor: &Value| text(floor, "/status/state") == "Healthy" && text(floor, "/status/raised/retention.ms/before") == HOUR_MS;
        let floor = until_shown(fixture, &topic, "the TopicFloor says what was raised", SOON, says_so).await?;
        ensure!(text(&floor, "/status/retention") == "168h", "{floor}");
        let told = async || {
            let events = fixture.kubectl(&["get", "events", "--output", "json"]).await?;
            ensure!(events.contains("RetentionRestored") && events.contains(&topic), "{events}");
            Ok(())
        };
        wait::until("an event tells of it", SOON, told).await?;
        let records = fixture.cluster.kafka.read_committed(&topic).await?.len();
        ensure!(i64::try_from(records)? == RECORDS, "{records} records are left");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn in_audit_it_stays_lowered_and_is_recorded() {
    fixture::run("retention-audit", async |fixture| {
        let topic = set(fixture, "Audit").await?;
        until_known(fixture, &topic).await?;
        set_retention(fixture, &topic, HOUR_MS).await?;
        let is_recorded = |floor: &Value| text(floor, "/status/state") == "Violated" && text(floor, "/status/retention") == "1h";
        until_shown(fixture, &topic, "the TopicFloor records it", SOON, is_recorded).await?;
        let is_counted = async || {
            let policy = policy(fixture, "events").await?;
            let (status, reason, message) = condition(&policy, "FloorSatisfied");
            ensure!((status, reason) == ("False", "BelowFloor") && message.contains(&topic), "{}", policy["status"]);
            ensure!(number(&policy, "/status/topics/violated") == 1, "{}", policy["status"]);
            Ok(())
        };
        wait::until("the policy counts it", SOON, is_counted).await?;
        tokio::time::sleep(STAYS).await;
        let retention = setting(fixture, &topic, "retention.ms").await?;
        ensure!(retention == HOUR_MS, "retention.ms is {retention}");
        Ok(())
    })
    .await;
}
