//! Drills about records that are lost, or are about to be: A1 with both verdicts, A2 up to the draft, A3 after the jump, C1,
//! C9, C12, C14. Each has a control: what happens to a topic that weir does not enforce, or does not look at.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, number, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::retention::{ago_ms, bounds, commit, drafts, forget, govern, policy, produce_each, set_retention, setting, until_shown};
use weir_e2e::wait;

const WEEK_MS: &str = "604800000";
const HOUR_MS: &str = "3600000";
const THREE_HOURS: Duration = Duration::from_secs(3 * 3600);
const RECORDS: i64 = 20;
const READ: i64 = 5;
/// Topics of drill A1, each lowered at a phase of its own of the broker's check, which is every five seconds here.
const TOPICS: usize = 24;
/// Topics and lags are known: two looks, and a write.
const KNOWN: Duration = Duration::from_secs(120);
/// A verdict takes half a minute to a minute, and the writes of all of them their time.
const JUDGED: Duration = Duration::from_secs(180);
/// A loss settles in two minutes.
const DRAFTED: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(60);

/// A topic of records that are three hours old.
async fn old_topic(fixture: &Fixture, topic: &str, retention_ms: &str) -> anyhow::Result<()> {
    fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", retention_ms)]).await?;
    produce_each(fixture, topic, ago_ms(THREE_HOURS)?, RECORDS).await
}

fn policy_yaml(name: &str, cluster: &str, topics: &[String], minimum: &str, mode: &str, rest: &Value) -> String {
    let mut policy = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": name},
        "spec": {
            "clusterRef": {"name": cluster}, "topics": {"names": topics}, "floor": {"minimum": minimum},
            "enforcement": {"mode": mode}, "owners": {"team": "growth-data", "contacts": ["#growth-data"]},
        },
    });
    for (key, value) in rest.as_object().into_iter().flatten() {
        policy["spec"][key] = value.clone();
    }
    policy.to_string()
}

fn is_known(floor: &Value) -> bool {
    !text(floor, "/status/limitingGroup").is_empty() && text(floor, "/status/behind").contains('h')
}

#[tokio::test]
async fn a1_a2_every_verdict_is_what_the_broker_says_and_a_loss_is_drafted() {
    fixture::run("verdicts", async |fixture| {
        let cluster = govern(fixture).await?;
        let topics: Vec<String> = (0..TOPICS).map(|n| fixture.name(&format!("t{n}"))).collect();
        let control = fixture.name("control");
        for topic in topics.iter().chain([&control]) {
            old_topic(fixture, topic, WEEK_MS).await?;
        }
        let group = fixture.name("lake-sink");
        let names: Vec<&str> = topics.iter().chain([&control]).map(String::as_str).collect();
        commit(fixture, &group, &names, &["--to-offset", &READ.to_string()]).await?;
        fixture.apply(&policy_yaml("events", &cluster, &topics, "168h", "Enforce", &json!({}))).await?;
        for topic in &topics {
            until_shown(fixture, topic, "the topic and its lag are known", KNOWN, is_known).await?;
        }
        for topic in topics.iter().chain([&control]) {
            set_retention(fixture, topic, HOUR_MS).await?;
        }
        let (mut intact, mut lost) = (0, 0);
        for topic in &topics {
            let is_judged = |floor: &Value| matches!(text(floor, "/status/repair/verdict"), "Intact" | "Lost");
            let floor = until_shown(fixture, topic, "the repair is judged", JUDGED, is_judged).await?;
            ensure!(setting(fixture, topic, "retention.ms").await? == WEEK_MS, "{topic} was not put back");
            let (begins, ends) = bounds(fixture, topic).await?;
            ensure!(ends == RECORDS, "{topic} ends at {ends}");
            let said = (text(&floor, "/status/repair/verdict"), number(&floor, "/status/repair/deleted/0/to"));
            if begins == 0 {
                intact += 1;
                ensure!(said.0 == "Intact", "{topic} is whole, and weir says {}", floor["status"]);
            } else {
                lost += 1;
                ensure!(said == ("Lost", u64::try_from(begins)?), "{topic} begins at {begins}, and weir says {}", floor["status"]);
                let missed = &floor["status"]["losses"][0]["missed"][0];
                ensure!(missed["from"] == READ && missed["to"] == begins && missed["group"] == group.as_str(), "{missed}");
            }
        }
        ensure!(intact > 0 && lost > 0, "{intact} intact, {lost} lost: both should have happened");
        // Without weir: it stays lowered, and everything goes.
        let is_gone = async || {
            let (begins, _) = bounds(fixture, &control).await?;
            ensure!(begins == RECORDS, "it begins at {begins}");
            Ok(())
        };
        wait::until("the broker deletes what nobody keeps", SOON, is_gone).await?;

        let is_drafted = async || {
            let found = drafts(fixture).await?;
            ensure!(found.len() == lost, "{} drafts for {lost} losses", found.len());
            let lacks = condition(&found[0], "Stalled");
            ensure!((lacks.0, lacks.1) == ("True", "Incomplete") && lacks.2.contains("spec.sources"), "{lacks:?}");
            Ok(found)
        };
        let found = wait::until("each loss is drafted once", DRAFTED, is_drafted).await?;
        let draft = &found[0];
        ensure!(draft["spec"]["suspend"] == true && draft["metadata"].get("ownerReferences").is_none(), "{draft}");
        // It cannot be let run as it is.
        let name = text(draft, "/metadata/name");
        let refused = fixture.patch_job(name, json!({"suspend": false})).await.err().context("an empty draft may not run")?;
        ensure!(format!("{refused:?}").contains("sources"), "{refused:?}");
        fixture.kubectl(&["delete", "backfilljob", name]).await?;
        tokio::time::sleep(SOON).await;
        ensure!(drafts(fixture).await?.len() == lost - 1, "a draft that was deleted came back");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a3_a_group_that_jumps_over_its_backlog_has_skipped_records() {
    fixture::run("skipped", async |fixture| {
        let (cluster, topic, group) = (govern(fixture).await?, fixture.name("events"), fixture.name("lake-sink"));
        old_topic(fixture, &topic, WEEK_MS).await?;
        commit(fixture, &group, &[&topic], &["--to-offset", &READ.to_string()]).await?;
        fixture.apply(&policy_yaml("events", &cluster, std::slice::from_ref(&topic), "168h", "Enforce", &json!({}))).await?;
        until_shown(fixture, &topic, "the topic and its lag are known", KNOWN, is_known).await?;
        forget(fixture, &group, &topic).await?;
        // Two looks at least: the broker knows nothing of the group any more.
        tokio::time::sleep(Duration::from_secs(70)).await;
        commit(fixture, &group, &[&topic], &["--to-latest"]).await?;
        let is_told = |floor: &Value| text(floor, "/status/losses/0/cause") == "Skipped";
        let floor = until_shown(fixture, &topic, "what was skipped is shown", SOON * 2, is_told).await?;
        let missed = &floor["status"]["losses"][0]["missed"][0];
        ensure!(missed["from"] == READ && missed["to"] == RECORDS && missed["group"] == group.as_str(), "{missed}");
        // The control: the broker has lost nothing, and by its lag the group is well.
        ensure!(bounds(fixture, &topic).await? == (0, RECORDS), "records are gone");
        ensure!(text(&floor, "/status/behind") == "0s", "{}", floor["status"]);
        let is_drafted = async || {
            let found = drafts(fixture).await?;
            ensure!(found.len() == 1, "{} drafts", found.len());
            Ok(found)
        };
        let found = wait::until("a BackfillJob is drafted", DRAFTED, is_drafted).await?;
        let sink = &found[0]["spec"]["sinks"][0]["kafka"];
        ensure!(sink["mode"] == "SideTopic" && sink["topic"] == format!("{topic}.backfill"), "{sink}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn c1_a_group_that_is_about_to_lose_records_gets_more_time() {
    fixture::run("emergency", async |fixture| {
        const THREE_HOURS_MS: &str = "10800000";
        const SIX_HOURS_MS: &str = "21600000";
        /// Until the oldest records are deleted: a few looks.
        const LEFT: Duration = Duration::from_secs(240);
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [topic, control] = ["events", "control"].map(|part| fixture.name(part));
        for topic in [&topic, &control] {
            fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", THREE_HOURS_MS)]).await?;
            produce_each(fixture, topic, ago_ms(THREE_HOURS - LEFT)?, RECORDS).await?;
        }
        commit(fixture, &group, &[&topic, &control], &["--to-offset", &READ.to_string()]).await?;
        let extend = json!({"whenHeadroomBelowPercent": 20, "factorPercent": 200, "maximum": "12h"});
        // The floor alone asks for nothing.
        let rest = json!({
            "floor": {"minimum": "1h", "lagMultiplierPercent": 0}, "enforcement": {"mode": "Enforce", "emergencyExtend": extend},
        });
        fixture.apply(&policy_yaml("events", &cluster, std::slice::from_ref(&topic), "1h", "Enforce", &rest)).await?;
        let is_raised = |floor: &Value| {
            let raised = &floor["status"]["raised"]["retention.ms"];
            raised["before"] == THREE_HOURS_MS && raised["set"] == SIX_HOURS_MS && raised["extended"] == true
        };
        until_shown(fixture, &topic, "the extension is shown", LEFT, is_raised).await?;
        ensure!(setting(fixture, &topic, "retention.ms").await? == SIX_HOURS_MS, "it is shown and not done");
        // Without weir the records go when their time has come.
        let is_gone = async || {
            let (begins, _) = bounds(fixture, &control).await?;
            ensure!(begins == RECORDS, "it begins at {begins}");
            Ok(())
        };
        wait::until("the broker deletes what is too old", LEFT + SOON, is_gone).await?;
        ensure!(bounds(fixture, &topic).await? == (0, RECORDS), "records of the extended topic are gone");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn c12_a_consumer_that_stands_still_while_its_topic_grows_is_dead_and_an_idle_topic_is_not() {
    fixture::run("dead-consumer", async |fixture| {
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [grows, idle, control] = ["grows", "idle", "control"].map(|part| fixture.name(part));
        for topic in [&grows, &idle, &control] {
            fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", WEEK_MS)]).await?;
            produce_each(fixture, topic, ago_ms(Duration::ZERO)?, RECORDS).await?;
        }
        commit(fixture, &group, &[&grows, &idle, &control], &["--to-latest"]).await?;
        let detect = json!({"detectors": {"deadConsumer": {"after": "1m"}}});
        fixture.apply(&policy_yaml("watched", &cluster, &[grows.clone(), idle.clone()], "168h", "Audit", &detect)).await?;
        fixture.apply(&policy_yaml("control", &cluster, std::slice::from_ref(&control), "168h", "Audit", &json!({}))).await?;
        for topic in [&grows, &idle, &control] {
            let is_healthy = |floor: &Value| text(floor, "/status/state") == "Healthy" && text(floor, "/status/behind") == "0s";
            until_shown(fixture, topic, "nothing is wrong", KNOWN, is_healthy).await?;
        }
        let is_dead = async || {
            for topic in [&grows, &control] {
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
        let events = fixture.kubectl(&["get", "events", "--output", "json"]).await?;
        ensure!(events.contains("DeadConsumer"), "{events}");
        // Who did not ask learns nothing, though the same has happened.
        let control = policy(fixture, "control").await?;
        ensure!(condition(&control, "LagWithinSLO").0 == "True", "{}", control["status"]);
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "a trend takes a quarter of an hour"]
async fn c9_a_lag_that_grows_slowly_is_told_with_the_day_on_which_records_are_lost() {
    fixture::run("trend", async |fixture| {
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [slow, control] = ["slow", "control"].map(|part| fixture.name(part));
        for topic in [&slow, &control] {
            fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", WEEK_MS)]).await?;
            produce_each(fixture, topic, ago_ms(Duration::ZERO)?, RECORDS).await?;
        }
        commit(fixture, &group, &[&slow, &control], &["--to-latest"]).await?;
        let detect = json!({"detectors": {"lagTrend": {"over": "10m"}}});
        for (name, topic) in [("slow", &slow), ("control", &control)] {
            fixture.apply(&policy_yaml(name, &cluster, std::slice::from_ref(topic), "168h", "Audit", &detect)).await?;
        }
        let mut read = RECORDS;
        let is_trend = async || {
            for topic in [&slow, &control] {
                produce_each(fixture, topic, ago_ms(Duration::ZERO)?, 4).await?;
            }
            read += 1;
            commit(fixture, &group, &[&slow], &["--to-offset", &read.to_string()]).await?;
            commit(fixture, &group, &[&control], &["--to-latest"]).await?;
            let policy = policy(fixture, "slow").await?;
            let (status, reason, message) = condition(&policy, "LagWithinSLO");
            ensure!((status, reason) == ("False", "LagTrend") && message.contains("loses records from"), "{status} {reason} {message}");
            Ok(())
        };
        wait::until("the trend is told", Duration::from_secs(1200), is_trend).await?;
        let control = policy(fixture, "control").await?;
        ensure!(condition(&control, "LagWithinSLO").0 == "True", "a consumer that keeps up has no trend: {}", control["status"]);
        Ok(())
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
