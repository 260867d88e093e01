//! Consumers that fall behind: C12, at once and in silence; C9, slowly; C14, further than the retention allows for.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::retention::{Found, ago_ms, bounds, commit, govern, must_be_silent, policy, produce_each, setting, until_shown, until_told};
use weir_e2e::wait;

use crate::{KNOWN, READ, RECORDS, SOON, WEEK_MS, old_topic, policy_yaml};

/// Of a topic that no policy is about, so that its records go before the drill ends.
const MINUTE_MS: &str = "60000";

/// The control of a drill: without weir the group loses records that it has not read, and nobody says a word.
async fn until_lost_in_silence(fixture: &Fixture, topic: &str, read: i64) -> anyhow::Result<()> {
    let is_lost = async || {
        let (begins, ends) = bounds(fixture, topic).await?;
        ensure!(begins > read, "{topic} lies from {begins} to {ends}, and the group has read {read}");
        Ok(())
    };
    wait::until("the broker deletes what the group has not read", SOON * 2, is_lost).await?;
    must_be_silent(fixture, topic).await
}

fn slow<'a>(policy: &'a str, topic: &'a str, group: &'a str, finding: &'a str) -> Found<'a> {
    Found { policy, condition: "LagWithinSLO", status: "False", topic, group, finding }
}

#[tokio::test]
async fn c12_a_consumer_that_stands_still_while_its_topic_grows_is_dead_and_an_idle_topic_is_not() {
    fixture::run("dead-consumer", async |fixture| {
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [grows, idle, control, ungoverned] = ["grows", "idle", "control", "ungoverned"].map(|part| fixture.name(part));
        for (topic, retention_ms) in [(&grows, WEEK_MS), (&idle, WEEK_MS), (&control, WEEK_MS), (&ungoverned, MINUTE_MS)] {
            fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", retention_ms)]).await?;
            produce_each(fixture, topic, ago_ms(Duration::ZERO)?, RECORDS).await?;
        }
        commit(fixture, &group, &[&grows, &idle, &control, &ungoverned], &["--to-latest"]).await?;
        let detect = json!({"detectors": {"deadConsumer": {"after": "1m"}}});
        fixture.apply(&policy_yaml("watched", &cluster, &[grows.clone(), idle.clone()], "168h", "Audit", &detect)).await?;
        fixture.apply(&policy_yaml("control", &cluster, std::slice::from_ref(&control), "168h", "Audit", &json!({}))).await?;
        for topic in [&grows, &idle, &control] {
            let is_healthy = |floor: &Value| text(floor, "/status/state") == "Healthy" && text(floor, "/status/behind") == "0s";
            until_shown(fixture, topic, "nothing is wrong", KNOWN, is_healthy).await?;
        }
        let is_dead = async || {
            for topic in [&grows, &control, &ungoverned] {
                produce_each(fixture, topic, ago_ms(Duration::ZERO)?, 1).await?;
            }
            let policy = policy(fixture, "watched").await?;
            let (status, reason, message) = condition(&policy, "LagWithinSLO");
            ensure!((status, reason) == ("False", "DeadConsumer"), "{status} {reason} {message}");
            ensure!(message.contains(&grows) && message.contains(&group) && message.contains("#growth-data"), "{message}");
            ensure!(!message.contains("more topics"), "the idle one as well: {message}");
            Ok(())
        };
        wait::until("the consumer is dead", Duration::from_secs(240), is_dead).await?;
        until_told(fixture, &slow("watched", &grows, &group, "DeadConsumer"), SOON).await?;
        // Who did not ask learns nothing, though the same has happened.
        let control = policy(fixture, "control").await?;
        ensure!(condition(&control, "LagWithinSLO").0 == "True", "{}", control["status"]);
        until_lost_in_silence(fixture, &ungoverned, RECORDS).await
    })
    .await;
}

#[tokio::test]
#[ignore = "a trend takes a quarter of an hour"]
async fn c9_a_lag_that_grows_slowly_is_told_with_the_day_on_which_records_are_lost() {
    fixture::run("trend", async |fixture| {
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [behind, control, ungoverned] = ["behind", "control", "ungoverned"].map(|part| fixture.name(part));
        for (topic, retention_ms) in [(&behind, WEEK_MS), (&control, WEEK_MS), (&ungoverned, MINUTE_MS)] {
            fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", retention_ms), ("segment.ms", MINUTE_MS)]).await?;
            produce_each(fixture, topic, ago_ms(Duration::ZERO)?, RECORDS).await?;
        }
        commit(fixture, &group, &[&behind, &control, &ungoverned], &["--to-latest"]).await?;
        let detect = json!({"detectors": {"lagTrend": {"over": "10m"}}});
        for (name, topic) in [("behind", &behind), ("control", &control)] {
            fixture.apply(&policy_yaml(name, &cluster, std::slice::from_ref(topic), "168h", "Audit", &detect)).await?;
        }
        let mut read = RECORDS;
        let is_trend = async || {
            for topic in [&behind, &control, &ungoverned] {
                produce_each(fixture, topic, ago_ms(Duration::ZERO)?, 4).await?;
            }
            read += 1;
            commit(fixture, &group, &[&behind, &ungoverned], &["--to-offset", &read.to_string()]).await?;
            commit(fixture, &group, &[&control], &["--to-latest"]).await?;
            let policy = policy(fixture, "behind").await?;
            let (status, reason, message) = condition(&policy, "LagWithinSLO");
            ensure!((status, reason) == ("False", "LagTrend") && message.contains("loses records from"), "{status} {reason} {message}");
            Ok(())
        };
        wait::until("the trend is told", Duration::from_secs(1200), is_trend).await?;
        until_told(fixture, &slow("behind", &behind, &group, "LagTrend"), SOON).await?;
        let control = policy(fixture, "control").await?;
        ensure!(condition(&control, "LagWithinSLO").0 == "True", "a consumer that keeps up has no trend: {}", control["status"]);
        until_lost_in_silence(fixture, &ungoverned, read).await
    })
    .await;
}

#[tokio::test]
async fn c14_retention_that_is_shorter_than_the_worst_lag_is_raised_and_its_group_named() {
    fixture::run("short-retention", async |fixture| {
        const FOUR_HOURS_MS: &str = "14400000";
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [topic, control] = ["events", "control"].map(|part| fixture.name(part));
        for topic in [&topic, &control] {
            old_topic(fixture, topic, FOUR_HOURS_MS).await?;
        }
        commit(fixture, &group, &[&topic, &control], &["--to-offset", &READ.to_string()]).await?;
        fixture.apply(&policy_yaml("enforced", &cluster, std::slice::from_ref(&topic), "1h", "Enforce", &json!({}))).await?;
        fixture.apply(&policy_yaml("control", &cluster, std::slice::from_ref(&control), "1h", "Audit", &json!({}))).await?;
        let by_lag = |floor: &Value| text(floor, "/status/decidedBy") == "Lag" && text(floor, "/status/limitingGroup") == group;
        until_shown(fixture, &topic, "the lag decides the floor", KNOWN, by_lag).await?;
        let is_raised = async || {
            let retention: i64 = setting(fixture, &topic, "retention.ms").await?.parse()?;
            // Twice the three hours that it is behind, and a little.
            ensure!((6 * 3_600_000..7 * 3_600_000).contains(&retention), "retention.ms is {retention}");
            Ok(())
        };
        wait::until("retention follows the lag", SOON, is_raised).await?;
        let is_violated = |floor: &Value| text(floor, "/status/state") == "Violated" && text(floor, "/status/why").contains(&group);
        until_shown(fixture, &control, "without enforcement it is only recorded", KNOWN, is_violated).await?;
        ensure!(setting(fixture, &control, "retention.ms").await? == FOUR_HOURS_MS, "in Audit nothing is changed");
        Ok(())
    })
    .await;
}
