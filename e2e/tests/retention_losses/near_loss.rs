//! C1: a group's lag jumps from ten thousand records to one and a half million. That is told while nothing is lost, and the group gets
//! more time.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::retention::{Found, ago_ms, bounds, floor, govern, must_be_silent, policy, setting, stamp, until_shown, until_told};
use weir_e2e::scale::broker::Broker;
use weir_e2e::scale::traffic::produce_many;
use weir_e2e::wait;

use crate::{KNOWN, SOON, policy_yaml};

/// Records that the group has not read, before and after.
const FEW: i64 = 10_000;
const MANY: i64 = 1_500_000;
/// Of a round while all is well.
const ROUND: i64 = 2_000;
const RETENTION: Duration = Duration::from_secs(8 * 60);
const RETENTION_MS: &str = "480000";
const EXTENDED_MS: &str = "960000";
/// Of the retention, in that order, and all of it well before records are lost.
const WARNING_PERCENT: u32 = 20;
const CRITICAL_PERCENT: u32 = 40;
const MIN_TIME_TO_LOSS: Duration = Duration::from_secs(180);
const EXTENDED_BELOW_PERCENT: u32 = 15;
/// What is told is as old as the look that it is from, in whole percent.
const TOLD_SECONDS: f64 = 60.0;

/// A group that reads topics, and all that is produced to them.
struct Stream {
    broker: Broker,
    group: String,
    topics: [String; 2],
    produced: i64,
    read: i64,
}

impl Stream {
    async fn produce(&mut self, fixture: &Fixture, records: i64) -> anyhow::Result<()> {
        let at_ms = ago_ms(Duration::ZERO)?;
        for topic in &self.topics {
            produce_many(fixture, topic, &[usize::try_from(records)?], at_ms).await?;
        }
        self.produced += records;
        Ok(())
    }

    /// The group goes on, and stays a few records behind.
    async fn go_on(&mut self, fixture: &Fixture) -> anyhow::Result<()> {
        self.produce(fixture, ROUND).await?;
        self.read = (self.produced - FEW).max(0);
        self.broker.coordinates(&self.group).await?;
        self.broker.commit(&self.group, self.topics.iter().map(|topic| (topic.as_str(), vec![self.read]))).await
    }

    /// Records that the group has not read, and those of them that the broker has deleted.
    async fn unread_and_lost(&self, fixture: &Fixture, topic: &str) -> anyhow::Result<(i64, i64)> {
        let (begins, ends) = bounds(fixture, topic).await?;
        Ok((ends - self.read, (begins - self.read).max(0)))
    }
}

fn percent(headroom: &str) -> Option<u32> {
    headroom.strip_suffix('%')?.parse().ok()
}

/// The age of the next unread record, as a finding says it.
fn age(finding: &str, value: f64) -> f64 {
    let kept = RETENTION.as_secs_f64();
    if finding == "LossNear" { kept - value } else { kept * value / 100.0 }
}

/// One after the other, each with the right numbers and before anything is lost.
async fn must_warn(fixture: &Fixture, stream: &Stream, topic: &str) -> anyhow::Result<()> {
    let written_ms = stamp(fixture, topic, stream.read).await?;
    for (finding, severity) in [("LagHigh", "warning"), ("LagCritical", "critical"), ("LossNear", "critical")] {
        let found = Found { policy: "events", condition: "LagWithinSLO", status: "False", topic, group: &stream.group, finding };
        let series = until_told(fixture, &found, RETENTION / 2).await?;
        let (said, is) = (age(finding, series.value), (ago_ms(Duration::ZERO)? - written_ms) as f64 / 1000.0);
        ensure!(series.severity == severity, "{finding}: {series:?}");
        ensure!((said - is).abs() <= TOLD_SECONDS, "{finding}: the next record is {is:.0} s old, and weir says {said:.0} s");
        let (unread, lost) = stream.unread_and_lost(fixture, topic).await?;
        ensure!((unread, lost) == (MANY, 0), "{finding}: {unread} are unread, {lost} lost");
    }
    let is_near = |floor: &Value| {
        let headroom = percent(text(floor, "/status/headroom")).is_some_and(|left| (EXTENDED_BELOW_PERCENT..50).contains(&left));
        let limited = text(floor, "/status/limitingGroup") == stream.group && text(floor, "/status/behind").contains('m');
        text(floor, "/status/state") == "AtRisk" && headroom && limited && !matches!(text(floor, "/status/timeToLoss"), "Never" | "Unknown")
    };
    until_shown(fixture, topic, "lag, headroom and time to loss are shown", SOON, is_near).await.map(drop)
}

/// More time, before anything is lost.
async fn must_extend(fixture: &Fixture, stream: &Stream, topic: &str) -> anyhow::Result<()> {
    let is_raised = |floor: &Value| {
        let raised = &floor["status"]["raised"]["retention.ms"];
        raised["before"] == RETENTION_MS && raised["set"] == EXTENDED_MS && raised["extended"] == true
    };
    until_shown(fixture, topic, "the extension is shown", RETENTION / 2, is_raised).await?;
    ensure!(setting(fixture, topic, "retention.ms").await? == EXTENDED_MS, "it is shown and not done");
    ensure!(stream.unread_and_lost(fixture, topic).await? == (MANY, 0), "something was lost before");
    let is_told = async || {
        let policy = policy(fixture, "events").await?;
        let (status, _, message) = condition(&policy, "EmergencyExtended");
        ensure!(status == "True" && message.contains(topic), "{}", policy["status"]);
        let events = fixture.kubectl(&["get", "events", "--output", "json"]).await?;
        ensure!(events.contains("RetentionExtended"), "{events}");
        Ok(())
    };
    Ok(wait::until("the extension is told", SOON, is_told).await?)
}

#[tokio::test]
async fn c1_a_lag_that_jumps_is_told_before_anything_is_lost_and_gets_more_time() {
    fixture::run("emergency", async |fixture| {
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [topic, control] = ["events", "control"].map(|part| fixture.name(part));
        for topic in [&topic, &control] {
            fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", RETENTION_MS)]).await?;
        }
        let extend = json!({"whenHeadroomBelowPercent": EXTENDED_BELOW_PERCENT, "factorPercent": 200, "maximum": "1h"});
        // The floor alone asks for nothing.
        let rest = json!({
            "floor": {"minimum": "1m", "lagMultiplierPercent": 0}, "enforcement": {"mode": "Enforce", "emergencyExtend": extend},
            "slo": {
                "warningPercent": WARNING_PERCENT, "criticalPercent": CRITICAL_PERCENT,
                "minTimeToLoss": format!("{}s", MIN_TIME_TO_LOSS.as_secs()),
            },
        });
        fixture.apply(&policy_yaml("events", &cluster, std::slice::from_ref(&topic), "1m", "Enforce", &rest)).await?;

        let broker = Broker::connect(&fixture.cluster.environment).await?;
        let mut stream = Stream { broker, group, topics: [topic.clone(), control.clone()], produced: 0, read: 0 };
        let is_well = async || {
            stream.go_on(fixture).await?;
            ensure!(stream.read > 0, "the group has no lag yet");
            let floor = floor(fixture, &topic).await?;
            let headroom = percent(text(&floor, "/status/headroom")).context("headroom is not known")?;
            let is_well = text(&floor, "/status/state") == "Healthy" && text(&floor, "/status/limitingGroup") == stream.group;
            ensure!(is_well && headroom > 80, "{}", floor["status"]);
            Ok(())
        };
        wait::until("a group that keeps up is well", KNOWN * 2, is_well).await?;
        ensure!(stream.unread_and_lost(fixture, &topic).await? == (FEW, 0), "its lag is another");

        // It stands still, and the jump comes.
        stream.produce(fixture, MANY - FEW).await?;
        must_warn(fixture, &stream, &topic).await?;
        must_extend(fixture, &stream, &topic).await?;

        // Without weir all of it goes when its time has come, and nobody says so.
        let is_gone = async || {
            let (unread, lost) = stream.unread_and_lost(fixture, &control).await?;
            ensure!((unread, lost) == (MANY, MANY), "{unread} are unread, {lost} lost");
            Ok(())
        };
        wait::until("the broker deletes what is too old", RETENTION, is_gone).await?;
        must_be_silent(fixture, &control).await?;
        ensure!(stream.unread_and_lost(fixture, &topic).await? == (MANY, 0), "records of the extended topic are gone");
        Ok(())
    })
    .await;
}
