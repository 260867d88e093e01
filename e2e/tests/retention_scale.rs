//! Drill A1 at size: a thousand topics, a hundred groups, traffic on all of them, and retention that is lowered at every phase
//! of the broker's check. Repairs come in time, every verdict is what the broker says, and weir stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weir_e2e::audit;
use weir_e2e::demo::watch::{condition, number, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::novashop::random::Random;
use weir_e2e::retention::{ago_ms, policy};
use weir_e2e::scale::broker::{Broker, EARLIEST, Of};
use weir_e2e::scale::measures::{Costs, Counters, Leader};
use weir_e2e::scale::traffic::{self, Traffic};
use weir_e2e::scale::{at_size, create_topics, percentile, say, until_all_shown};
use weir_e2e::wait;

const WEEK_MS: &str = "604800000";
const HOUR_MS: &str = "3600000";
const KEY: &str = "retention.ms";
const PARTITIONS: usize = 12;
const GROUPS: usize = 100;
/// Topics that no policy is about: what becomes of the others without weir.
const CONTROLS: usize = 3;
/// Records that a retention of an hour would delete, in each of so many partitions.
const OLD: Duration = Duration::from_secs(3 * 3600);
const OLD_PARTITIONS: usize = 4;
const OLD_RECORDS: usize = 3;
/// Every partition gets a record within it, which closes the segment of the old ones.
const CLOSED: Duration = Duration::from_secs(60);
const KNOWN: Duration = Duration::from_secs(600);
/// A rate is known after ten minutes, and headroom when some records of each topic were read; each topic is written once more with
/// them. What was lost is drafted before.
const SETTLED: Duration = Duration::from_secs(1800);
/// The last of these writes.
const WRITTEN: Duration = Duration::from_secs(60);
const SEED: u64 = 5;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A change that the broker took is seen on it within milliseconds, unless weir was faster.
const VISIBLE: Duration = Duration::from_millis(500);
const REPAIR_LIMIT: Duration = Duration::from_secs(10);
/// When a repair that does not come is given up.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// A verdict takes half a minute to a minute, and the writes of all of them their time.
const JUDGED: Duration = Duration::from_secs(240);
const VERDICTS_MIN: usize = 5;
/// Of the leader.
const CORES_MAX: f64 = 0.3;
const MEMORY_MAX: u64 = 200_000_000;
/// With traffic on all topics and no change of state; beside the lease.
const WRITES_A_MINUTE_MAX: f64 = 6.0;

/// How large all of it is.
struct Size {
    topics: usize,
    lowered: usize,
    /// Of those that are lowered, the first so many have old records.
    old: usize,
    /// Of those, the first so many have a group that has read nothing.
    standing: usize,
    /// Over which they are lowered.
    phases: Duration,
    /// How long weir is measured while nothing happens.
    quiet: Duration,
}

impl Size {
    /// At full size; `WEIR_E2E_TOPICS` makes it smaller, `WEIR_E2E_QUIET_SECONDS` shorter.
    fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
        let topics = variable("WEIR_E2E_TOPICS").unwrap_or(1000);
        let part = |of: usize| topics * of / 1000;
        let seconds = |of: usize| Duration::from_secs(of as u64);
        let quiet = seconds(variable("WEIR_E2E_QUIET_SECONDS").unwrap_or(600));
        Self { topics, lowered: part(240), old: part(160), standing: part(20), phases: seconds(part(240)), quiet }
    }
}

/// A topic whose retention was lowered.
struct Lowered {
    topic: String,
    /// Where its logs began just before.
    began: Vec<i64>,
    at: Instant,
    /// How long it took until it was seen to be back.
    back: Option<Duration>,
}

fn topic(fixture: &Fixture, number: usize) -> String {
    fixture.name(&format!("t{number:04}"))
}

fn group(fixture: &Fixture, number: usize) -> String {
    fixture.name(&format!("group-{number:03}"))
}

/// Topics with old records in some of them, and traffic on all.
async fn set(fixture: &Fixture, size: &Size, controls: &[String]) -> anyhow::Result<Traffic> {
    let topics: Vec<String> = (0..size.topics).map(|number| topic(fixture, number)).chain(controls.iter().cloned()).collect();
    let begun = Instant::now();
    create_topics(fixture, &topics, PARTITIONS, &[(KEY, WEEK_MS), ("segment.ms", HOUR_MS)]).await?;
    say(&format!("{} topics of {PARTITIONS} partitions are there after {:.0} s", topics.len(), begun.elapsed().as_secs_f64()));
    let old: Vec<String> = topics[..size.old].iter().chain(controls).cloned().collect();
    traffic::produce_old(fixture, old, 0..i32::try_from(OLD_PARTITIONS)?, OLD_RECORDS, ago_ms(OLD)?).await?;
    let groups = (0..GROUPS).map(|number| group(fixture, number)).collect();
    let traffic = Traffic::start(fixture, traffic::Scene { topics, partitions: PARTITIONS, groups, standing: 0..size.standing }).await?;
    tokio::time::sleep(CLOSED).await;
    Ok(traffic)
}

/// A cluster with an audit store, and a policy over all topics but the controls.
async fn govern(fixture: &Fixture) -> anyhow::Result<()> {
    let cluster = audit::govern(fixture, &format!("^{}-.*$", fixture.namespace)).await?;
    let policy = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": "all"},
        "spec": {
            "clusterRef": {"name": cluster}, "topics": {"patterns": [format!("^{}-t.*$", fixture.namespace)]},
            "floor": {"minimum": "168h"}, "enforcement": {"mode": "Enforce"},
            "owners": {"team": "growth-data", "contacts": ["#growth-data"]},
        },
    });
    fixture.apply(&policy.to_string()).await?;
    Ok(())
}

/// Every topic is shown at its floor, with a group whose lag is known.
async fn until_known(fixture: &Fixture, size: &Size) -> anyhow::Result<()> {
    let begun = Instant::now();
    let is_known = |_: &str, floor: &Value| {
        text(floor, "/status/state") == "Healthy"
            && !matches!(text(floor, "/status/behind"), "" | "Unknown")
            && floor["status"]["standing"].is_object()
    };
    until_all_shown(fixture, size.topics, "all topics and their lags are known", KNOWN, is_known).await?;
    say(&format!("{} topics are known after {:.0} s", size.topics, begun.elapsed().as_secs_f64()));
    let is_counted = async || {
        let policy = policy(fixture, "all").await?;
        ensure!(number(&policy, "/status/topics/healthy") == size.topics as u64, "{}", policy["status"]);
        ensure!(condition(&policy, "FloorSatisfied").0 == "True", "{}", policy["status"]);
        Ok(())
    };
    Ok(wait::until("the policy counts them", KNOWN, is_counted).await?)
}

/// Weir has said everything that there is to say: how fast each topic grows, and how much time groups have, come last.
async fn until_settled(fixture: &Fixture, size: &Size) -> anyhow::Result<()> {
    let begun = Instant::now();
    let is_known = |_: &str, floor: &Value| {
        floor.pointer("/status/standing/bytesPerSecond").is_some() && !matches!(text(floor, "/status/headroom"), "" | "Unknown")
    };
    until_all_shown(fixture, size.topics, "every topic's rate and headroom are known", SETTLED, is_known).await?;
    say(&format!("everything is known {:.0} s later", begun.elapsed().as_secs_f64()));
    tokio::time::sleep(WRITTEN).await;
    Ok(())
}

/// Lowers each topic at a time of its own, behind weir's back, and looks when it is back.
async fn lower(fixture: &Fixture, topics: &[String], within: Duration) -> anyhow::Result<Vec<Lowered>> {
    let mut random = Random::of(SEED, 0);
    let bound = u64::try_from(within.as_millis())?;
    let mut schedule: Vec<(Duration, &String)> = topics.iter().map(|topic| (Duration::from_millis(random.below(bound)), topic)).collect();
    schedule.sort();
    let mut due = schedule.into_iter().peekable();
    let mut broker = Broker::connect(&fixture.cluster.environment).await?;
    let mut lowered: Vec<Lowered> = Vec::new();
    let (begun, mut ticks) = (Instant::now(), tokio::time::interval(LOOK_INTERVAL));
    loop {
        ticks.tick().await;
        while let Some((_, topic)) = due.next_if(|(at, _)| *at <= begun.elapsed()) {
            lowered.push(lower_one(&mut broker, topic).await?);
        }
        let open: BTreeSet<String> = lowered.iter().filter(|it| it.back.is_none()).map(|it| it.topic.clone()).collect();
        if open.is_empty() && due.peek().is_none() {
            return Ok(lowered);
        }
        let found = broker.settings(open.iter().map(String::as_str), KEY).await?;
        for it in lowered.iter_mut().filter(|it| open.contains(&it.topic)) {
            if found.get(&it.topic).is_some_and(|value| value == WEEK_MS) {
                it.back = Some(it.at.elapsed());
            }
        }
        ensure!(begun.elapsed() < within + GIVEN_UP, "{open:?} are not back");
    }
}

/// Returns once the broker shows the change, so that what it showed before is not taken for a repair.
async fn lower_one(broker: &mut Broker, topic: &str) -> anyhow::Result<Lowered> {
    let began = broker.offsets([topic], PARTITIONS, EARLIEST).await?.remove(topic).context("the broker does not know it")?;
    let at = Instant::now();
    broker.set(Of::Topic(topic), KEY, Some(HOUR_MS)).await?;
    while at.elapsed() < VISIBLE && broker.settings([topic], KEY).await?.get(topic).is_none_or(|value| value != HOUR_MS) {
        tokio::task::yield_now().await;
    }
    Ok(Lowered { topic: topic.to_owned(), began, at, back: None })
}

fn say_repairs(lowered: &[Lowered]) -> anyhow::Result<Duration> {
    let took: Vec<Duration> = lowered.iter().filter_map(|it| it.back).collect();
    let [half, most, all] = [50, 99, 100].map(|percent| percentile(&took, percent).unwrap_or_default());
    say(&format!(
        "| from change to repair, {} topics | p50 {:.1} s, p99 {:.1} s, at most {:.1} s |",
        took.len(),
        half.as_secs_f64(),
        most.as_secs_f64(),
        all.as_secs_f64()
    ));
    Ok(most)
}

/// Offsets `(from, to)` by partition.
type Ranges = BTreeMap<u64, (i64, i64)>;

fn ranges<'a>(all: impl IntoIterator<Item = &'a Value>) -> Ranges {
    let one = |range: &Value| (number(range, "/partition"), (range["from"].as_i64().unwrap_or(-1), range["to"].as_i64().unwrap_or(-1)));
    all.into_iter().map(one).collect()
}

/// Between where logs began before and where they begin now.
fn deleted(before: &[i64], now: &[i64]) -> Ranges {
    let bounds = (0..).zip(before.iter().copied().zip(now.iter().copied()));
    bounds.filter(|(_, (from, to))| from != to).collect()
}

fn listed<'a>(floor: &'a Value, pointer: &str) -> &'a [Value] {
    floor.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Compares every verdict with where the broker's logs begin; the numbers of those that are intact and lost.
async fn judge(fixture: &Fixture, size: &Size, lowered: &[Lowered]) -> anyhow::Result<(usize, usize)> {
    let changed: BTreeSet<&str> = lowered.iter().map(|it| it.topic.as_str()).collect();
    let is_judged = |topic: &str, floor: &Value| {
        !changed.contains(topic) || matches!(text(floor, "/status/repair/verdict"), "Intact" | "Lost" | "Unknown")
    };
    let floors = until_all_shown(fixture, size.topics, "every repair is judged", JUDGED, is_judged).await?;
    let mut broker = Broker::connect(&fixture.cluster.environment).await?;
    let begin = broker.offsets(changed.iter().copied(), PARTITIONS, EARLIEST).await?;
    let (mut intact, mut lost, mut partitions) = (0, 0, 0);
    for it in lowered {
        let (floor, gone) = (&floors[&it.topic], deleted(&it.began, &begin[&it.topic]));
        let (verdict, said) = (text(floor, "/status/repair/verdict"), ranges(listed(floor, "/status/repair/deleted")));
        let expected = if gone.is_empty() { "Intact" } else { "Lost" };
        ensure!((verdict, &said) == (expected, &gone), "{}: {gone:?} is gone, and weir says {}", it.topic, floor["status"]["repair"]);
        *(if gone.is_empty() { &mut intact } else { &mut lost }) += 1;
        partitions += gone.len();
    }
    say(&format!("| verdicts | {intact} intact, {lost} lost in {partitions} partitions: each as the broker says |"));
    for number in 0..size.standing {
        let (topic, group) = (topic(fixture, number), group(fixture, number % GROUPS));
        let missed = listed(&floors[&topic], "/status/losses/0/missed").iter().filter(|range| text(range, "/group") == group);
        let before = vec![0; PARTITIONS];
        ensure!(
            ranges(missed) == deleted(&before, &begin[&topic]),
            "{topic}: {group} has read nothing, and missed {}",
            floors[&topic]["status"]["losses"]
        );
    }
    for (topic, floor) in floors.iter().filter(|(topic, _)| !changed.contains(topic.as_str())) {
        ensure!(floor["status"].get("repair").is_none(), "{topic} was not lowered, and weir says {}", floor["status"]);
    }
    Ok((intact, lost))
}

/// Without weir a topic stays lowered, and its old records go; with it, every topic is as it was.
async fn compare(fixture: &Fixture, size: &Size, controls: &[String]) -> anyhow::Result<()> {
    let mut broker = Broker::connect(&fixture.cluster.environment).await?;
    let names = || controls.iter().map(String::as_str);
    ensure!(broker.settings(names(), KEY).await?.values().all(|value| value == HOUR_MS), "a control was put back");
    for (control, begins) in broker.offsets(names(), PARTITIONS, EARLIEST).await? {
        let gone = begins.iter().filter(|begin| **begin >= OLD_RECORDS as i64).count();
        ensure!(gone == OLD_PARTITIONS, "{control} begins at {begins:?}");
    }
    let topics: Vec<String> = (0..size.topics).map(|number| topic(fixture, number)).collect();
    let found = broker.settings(topics.iter().map(String::as_str), KEY).await?;
    let low: Vec<_> = found.iter().filter(|(_, value)| *value != WEEK_MS).collect();
    ensure!(found.len() == size.topics && low.is_empty(), "{low:?} are not at their floor");
    Ok(())
}

/// What the leader costs while nothing but traffic happens.
async fn quiet(fixture: &Fixture, leader: &Leader, length: Duration) -> anyhow::Result<Costs> {
    let before = Counters::read(fixture, leader).await?;
    tokio::time::sleep(length).await;
    let costs = Counters::read(fixture, leader).await?.since(&before);
    say("with traffic on all topics and no change of state:");
    costs.rows(leader)?.iter().for_each(|row| say(row));
    Ok(costs)
}

/// Lowers topics and controls while all is counted, and compares what became of them with what weir says.
async fn incident(fixture: &Fixture, size: &Size, leader: &Leader, controls: &[String]) -> anyhow::Result<()> {
    let before = Counters::read(fixture, leader).await?;
    let mut broker = Broker::connect(&fixture.cluster.environment).await?;
    for control in controls {
        broker.set(Of::Topic(control), KEY, Some(HOUR_MS)).await?;
    }
    let topics: Vec<String> = (0..size.lowered).map(|number| topic(fixture, number)).collect();
    let lowered = lower(fixture, &topics, size.phases).await?;
    let repaired = say_repairs(&lowered)?;
    let (intact, lost) = judge(fixture, size, &lowered).await?;
    compare(fixture, size, controls).await?;
    say("while topics were lowered and judged:");
    Counters::read(fixture, leader).await?.since(&before).rows(leader)?.iter().for_each(|row| say(row));
    ensure!(repaired <= REPAIR_LIMIT, "99 % were back within {:.1} s only", repaired.as_secs_f64());
    ensure!(intact.min(lost) >= VERDICTS_MIN, "{intact} intact, {lost} lost: both should have happened");
    Ok(())
}

async fn drill(fixture: &Fixture, size: &Size) -> anyhow::Result<()> {
    let controls: Vec<String> = (0..CONTROLS).map(|number| fixture.name(&format!("control-{number}"))).collect();
    let traffic = set(fixture, size, &controls).await?;
    let leader = Leader::find(fixture).await?;
    leader.forget_peak()?;
    govern(fixture).await?;
    until_known(fixture, size).await?;
    incident(fixture, size, &leader, &controls).await?;
    until_settled(fixture, size).await?;
    let costs = quiet(fixture, &leader, size.quiet).await?;
    let rate = traffic.stop().await?;
    say(&format!("| traffic | {rate:.0} records a second, of which each topic has its share |"));

    ensure!(Leader::find(fixture).await? == leader, "another replica leads now");
    ensure!(costs.cores < CORES_MAX, "{:.3} cores", costs.cores);
    ensure!(leader.peak_bytes()? < MEMORY_MAX, "{} bytes of memory", leader.peak_bytes()?);
    ensure!(costs.writes_a_minute() <= WRITES_A_MINUTE_MAX, "{:?} a minute are written", costs.writes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half an hour, and all of the machine"]
async fn a1_at_a_thousand_topics_repairs_come_in_time_verdicts_are_true_and_weir_stays_small() {
    fixture::run("retention-scale", async |fixture| {
        let size = Size::from_environment();
        at_size(fixture, async || drill(fixture, &size).await).await
    })
    .await;
}
