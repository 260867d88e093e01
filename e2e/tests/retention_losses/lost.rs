//! Retention that is lowered while a group is behind: A1, where weir puts it back, and A2, where nobody noticed for days.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, number, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::retention::{
    Found, Range, ago_ms, bounds, commit, drafts, floor, govern, must_be_silent, policy, ranges, set_retention, setting, until_shown,
    until_told,
};
use weir_e2e::scale::broker::{Broker, EARLIEST, LATEST};
use weir_e2e::scale::traffic::produce_many;
use weir_e2e::wait;

use crate::{
    DRAFTED, HOUR_MS, JUDGED, KNOWN, LOOK_SECONDS, READ, RECORDS, SOON, WEEK_MS, is_dated, is_known, is_watched, old_topic, policy_yaml,
    until_drafted,
};

/// Topics of drill A1, each lowered at a phase of its own of the broker's check, which is every five seconds here.
const TOPICS: usize = 24;

#[tokio::test]
async fn a1_every_verdict_is_what_the_broker_says_and_a_loss_is_drafted() {
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

/// Of drill A2: how far the group has read, by partition, and how many old records there are behind that, which come in two
/// bursts; the rest is young.
const READ_BEFORE: [i64; 3] = [500, 1000, 1500];
const FIRST_BURST: [usize; 3] = [2500, 3000, 3500];
const SECOND_BURST: [usize; 3] = [2000; 3];
const YOUNG: [usize; 3] = [121_666, 121_667, 121_667];
const ALL_RECORDS: i64 = 380_000;
const LOST_RECORDS: i64 = 12_000;
const THREE_DAYS: Duration = Duration::from_secs(3 * 24 * 3600);
/// Between the bursts, so that their arrivals are told apart.
const APART: Duration = Duration::from_secs(2 * LOOK_SECONDS.unsigned_abs());

/// When the bursts arrived, in milliseconds since the epoch.
struct Bursts {
    first_ms: i64,
    second_ms: i64,
}

/// Topics with records of three days ago, of which the group has read a few, and many more of today.
async fn fill(fixture: &Fixture, broker: &mut Broker, topics: &[&String], group: &str) -> anyhow::Result<Bursts> {
    let old_ms = ago_ms(THREE_DAYS)?;
    let produce = async |records: &[usize], stamp_ms: i64| {
        let arrived_ms = ago_ms(Duration::ZERO)?;
        for topic in topics {
            produce_many(fixture, topic, records, stamp_ms).await?;
        }
        anyhow::Ok(arrived_ms)
    };
    let first_ms = produce(&FIRST_BURST, old_ms).await?;
    broker.coordinates(group).await?;
    broker.commit(group, topics.iter().map(|topic| (topic.as_str(), READ_BEFORE.to_vec()))).await?;
    tokio::time::sleep(APART).await;
    let second_ms = produce(&SECOND_BURST, old_ms).await?;
    produce(&YOUNG, ago_ms(Duration::ZERO)?).await?;
    Ok(Bursts { first_ms, second_ms })
}

/// What the group has lost of a topic, by partition, as the broker has it; nothing until all old records are gone.
async fn lost(broker: &mut Broker, topic: &str) -> anyhow::Result<BTreeMap<u64, (i64, i64)>> {
    let begin = broker.offsets([topic], READ_BEFORE.len(), EARLIEST).await?.remove(topic).context("the topic is gone")?;
    let end = broker.offsets([topic], READ_BEFORE.len(), LATEST).await?.remove(topic).context("the topic is gone")?;
    ensure!(end.iter().sum::<i64>() == ALL_RECORDS, "it ends at {end:?}");
    let lost: BTreeMap<u64, (i64, i64)> = (0..).zip(READ_BEFORE.into_iter().zip(begin)).collect();
    let count: i64 = lost.values().map(|(from, to)| to - from).sum();
    ensure!(count == LOST_RECORDS, "{count} records are lost: {lost:?}");
    Ok(lost)
}

fn offsets(ranges: &BTreeMap<u64, Range>) -> BTreeMap<u64, (i64, i64)> {
    ranges.iter().map(|(partition, range)| (*partition, (range.from, range.to))).collect()
}

/// The loss as the `TopicFloor` and the policy tell it, held against what the broker has and when its records came.
async fn must_tell(fixture: &Fixture, topic: &str, group: &str, truth: &BTreeMap<u64, (i64, i64)>, bursts: &Bursts) -> anyhow::Result<()> {
    let is_whole = |floor: &Value| number(floor, "/status/losses/0/recordsMax") == LOST_RECORDS.unsigned_abs();
    let floor = until_shown(fixture, topic, "what is lost is shown", SOON, is_whole).await?;
    let loss = &floor["status"]["losses"][0];
    let missed = ranges(&loss["missed"])?;
    ensure!(offsets(&missed) == *truth && loss["cause"] == "Deleted", "{truth:?} is lost, and weir says {loss}");
    ensure!(text(&floor, "/status/state") == "Lost", "{}", floor["status"]);
    for range in missed.values() {
        ensure!(is_dated(range.first, bursts.first_ms) && is_dated(range.last, bursts.second_ms), "{range:?} arrived at other times");
    }
    let found = Found { policy: "events", condition: "DataLossDetected", status: "True", topic, group, finding: "RecordsLost" };
    let series = until_told(fixture, &found, SOON).await?;
    ensure!(series.severity == "critical" && series.value == LOST_RECORDS as f64, "{series:?}");
    let first = &loss["missed"][0];
    let (from, to) = truth[&number(first, "/partition")];
    let words = format!("offsets {from} to {} of partition {}, at most {} records", to - 1, first["partition"], to - from);
    let policy = policy(fixture, "events").await?;
    let (_, _, message) = condition(&policy, "DataLossDetected");
    for words in [words.as_str(), text(first, "/firstAtInterpolated"), text(first, "/lastAtInterpolated")] {
        ensure!(message.contains(words), "{words} is not in: {message}");
    }
    Ok(())
}

#[tokio::test]
async fn a2_what_expired_unnoticed_is_told_to_the_offset_and_drafted_once() {
    fixture::run("unnoticed", async |fixture| {
        let (cluster, group) = (govern(fixture).await?, fixture.name("lake-sink"));
        let [topic, control] = ["events", "control"].map(|part| fixture.name(part));
        for topic in [&topic, &control] {
            // Old records and young ones lie in segments of their own.
            let settings = [("retention.ms", WEEK_MS), ("segment.ms", HOUR_MS)];
            fixture.cluster.kafka.create_topic(topic, i32::try_from(READ_BEFORE.len())?, &settings).await?;
        }
        let topics = std::slice::from_ref(&topic);
        fixture.apply(&policy_yaml("events", &cluster, topics, "168h", "Audit", &json!({}))).await?;
        until_shown(fixture, &topic, "the topic is watched", KNOWN, is_watched).await?;
        let mut broker = Broker::connect(&fixture.cluster.environment).await?;
        let bursts = fill(fixture, &mut broker, &[&topic, &control], &group).await?;

        // In `Audit` it stays as somebody lowered it.
        for topic in [&topic, &control] {
            set_retention(fixture, topic, HOUR_MS).await?;
        }
        let truth = wait::until("old records are deleted", SOON, async || lost(&mut broker, &topic).await).await?;
        must_tell(fixture, &topic, &group, &truth, &bursts).await?;
        ensure!(setting(fixture, &topic, "retention.ms").await? == HOUR_MS, "it was put back in Audit");

        let enforced = json!({"spec": {"enforcement": {"mode": "Enforce"}}}).to_string();
        fixture.kubectl(&["patch", "topicretentionpolicy", "events", "--type", "merge", "--patch", &enforced]).await?;
        let is_judged = |floor: &Value| text(floor, "/status/repair/verdict") == "Lost";
        let shown = until_shown(fixture, &topic, "what was deleted before the repair is shown", JUDGED, is_judged).await?;
        let deleted = truth.iter().map(|(partition, (_, to))| (*partition, (0, *to))).collect::<BTreeMap<_, _>>();
        ensure!(offsets(&ranges(&shown["status"]["repair"]["deleted"])?) == deleted, "{deleted:?} is gone: {}", shown["status"]["repair"]);
        ensure!(setting(fixture, &topic, "retention.ms").await? == WEEK_MS, "it was not put back");

        let draft = until_drafted(fixture, &topic).await?;
        let sink = &draft["spec"]["sinks"][0]["kafka"];
        ensure!(sink["mode"] == "InPlace" && sink["topic"] == topic.as_str(), "{sink}");
        tokio::time::sleep(SOON).await;
        let losses = floor(fixture, &topic).await?["status"]["losses"].clone();
        ensure!(drafts(fixture).await?.len() == 1 && losses.as_array().is_some_and(|it| it.len() == 1), "drafted again: {losses}");

        // Without weir as many are lost, and nobody says so.
        wait::until("the control's records are deleted", SOON, async || lost(&mut broker, &control).await).await?;
        must_be_silent(fixture, &control).await?;
        ensure!(setting(fixture, &control, "retention.ms").await? == HOUR_MS, "the control was put back");
        Ok(())
    })
    .await;
}
