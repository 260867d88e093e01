//! A3: a group was down for so long that the broker has forgotten its offsets, and jumps over its backlog when it comes back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::retention::{
    Found, ago_ms, bounds, commit, committed, floor, govern, must_be_silent, policy, produce_each, ranges, until_shown, until_told,
};
use weir_e2e::wait;

use crate::retention_losses::own_broker::OwnBroker;
use crate::{KNOWN, LOOK_SECONDS, READ, RECORDS, SOON, WEEK_MS, is_dated, is_watched, policy_yaml, until_drafted};

/// For so long the broker keeps the offsets of a group without members.
const OFFSETS_KEPT: Duration = Duration::from_secs(4 * 60);
const SETTINGS: &str = "offsets.retention.minutes=4
offsets.retention.check.interval.ms=5000";
/// Of that time; a minute after weir has seen that the group has no members.
const WARNED_AT_PERCENT: u32 = 25;

fn retained<'a>(topic: &'a str, group: &'a str, finding: &'a str) -> Found<'a> {
    Found { policy: "events", condition: "OffsetsRetained", status: "False", topic, group, finding }
}

/// What the group is set back to, as the `TopicFloor` keeps it.
async fn until_snapshot(fixture: &Fixture, topic: &str, group: &str, is_forgotten: bool) -> anyhow::Result<()> {
    let is_kept = |floor: &Value| {
        let kept = &floor["status"]["snapshots"][0];
        let forgotten = kept.get("forgotten").and_then(Value::as_bool).unwrap_or(false);
        kept["group"] == group && kept["committed"] == json!([{"partition": 0, "offset": READ}]) && forgotten == is_forgotten
    };
    until_shown(fixture, topic, &format!("the offsets are kept, forgotten: {is_forgotten}"), SOON, is_kept).await.map(drop)
}

/// While the broker still knows the group: with the time that is left.
async fn until_warned(fixture: &Fixture, topic: &str, group: &str, down_since: Instant) -> anyhow::Result<()> {
    let series = until_told(fixture, &retained(topic, group, "OffsetsExpiring"), OFFSETS_KEPT).await?;
    ensure!(committed(fixture, group, topic).await? == Some(READ), "the broker had forgotten it before the warning");
    let left = OFFSETS_KEPT.as_secs_f64() - down_since.elapsed().as_secs_f64();
    ensure!((series.value - left).abs() <= LOOK_SECONDS as f64, "{left:.0} s are left, and weir says {}", series.value);
    until_snapshot(fixture, topic, group, false).await
}

/// Once the broker has done by itself what it was set to.
async fn until_forgotten(fixture: &Fixture, topic: &str, group: &str) -> anyhow::Result<()> {
    let is_forgotten = async || {
        let found = committed(fixture, group, topic).await?;
        ensure!(found.is_none(), "the broker has {found:?}");
        Ok(())
    };
    wait::until("the broker forgets the group", OFFSETS_KEPT + SOON, is_forgotten).await?;
    until_told(fixture, &retained(topic, group, "OffsetsForgotten"), SOON).await?;
    until_snapshot(fixture, topic, group, true).await
}

/// The broker has the group's offsets again, and keeps them from their commit on.
async fn must_be_retained(fixture: &Fixture, topic: &str) -> anyhow::Result<()> {
    let policy = policy(fixture, "events").await?;
    ensure!(condition(&policy, "OffsetsRetained").0 == "True", "{}", policy["status"]);
    let floor = floor(fixture, topic).await?;
    ensure!(floor["status"].get("snapshots").is_none(), "{}", floor["status"]);
    Ok(())
}

#[tokio::test]
async fn a3_a_group_is_told_of_before_and_after_its_offsets_are_forgotten_and_once_it_has_skipped_records() {
    fixture::run("skipped", async |fixture| {
        let (_broker, fixture) = &OwnBroker::start(fixture, SETTINGS).await?;
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [topic, control] = ["events", "control"].map(|part| fixture.name(part));
        for topic in [&topic, &control] {
            fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", WEEK_MS)]).await?;
        }
        let slo = json!({"slo": {"offsetsExpiryPercent": WARNED_AT_PERCENT}});
        fixture.apply(&policy_yaml("events", &cluster, std::slice::from_ref(&topic), "168h", "Enforce", &slo)).await?;
        until_shown(fixture, &topic, "the topic is watched", KNOWN, is_watched).await?;
        let arrived_ms = ago_ms(Duration::ZERO)?;
        for topic in [&topic, &control] {
            produce_each(fixture, topic, arrived_ms, RECORDS).await?;
        }
        // It has read a few, and is down from here on.
        commit(fixture, &group, &[&topic, &control], &["--to-offset", &READ.to_string()]).await?;
        until_warned(fixture, &topic, &group, Instant::now()).await?;
        until_forgotten(fixture, &topic, &group).await?;

        // As `auto.offset.reset=latest` does.
        commit(fixture, &group, &[&topic, &control], &["--to-latest"]).await?;
        let found = Found { condition: "DataLossDetected", status: "True", ..retained(&topic, &group, "RecordsSkipped") };
        let series = until_told(fixture, &found, SOON * 2).await?;
        ensure!(series.severity == "critical" && series.value == (RECORDS - READ) as f64, "{series:?}");
        let is_told = |floor: &Value| text(floor, "/status/losses/0/cause") == "Skipped";
        let floor = until_shown(fixture, &topic, "what was skipped is shown", SOON, is_told).await?;
        let missed = &floor["status"]["losses"][0]["missed"];
        let skipped = ranges(missed)?[&0];
        ensure!((skipped.from, skipped.to) == (READ, RECORDS) && missed[0]["group"] == group.as_str(), "{missed}");
        ensure!(is_dated(skipped.first, arrived_ms) && is_dated(skipped.last, arrived_ms), "{skipped:?} did not arrive then");
        must_be_retained(fixture, &topic).await?;

        // By all that a lag can say the group is well, and the broker has lost nothing.
        ensure!(bounds(fixture, &topic).await? == (0, RECORDS), "records are gone");
        ensure!(text(&floor, "/status/behind") == "0s", "{}", floor["status"]);
        let draft = until_drafted(fixture, &topic).await?;
        let sink = &draft["spec"]["sinks"][0]["kafka"];
        ensure!(sink["mode"] == "SideTopic" && sink["topic"] == format!("{topic}.backfill"), "{sink}");

        // Without weir it has jumped just so, and nobody ever said a word.
        ensure!(committed(fixture, &group, &control).await? == Some(RECORDS), "the group stands elsewhere on the control");
        must_be_silent(fixture, &control).await
    })
    .await;
}
