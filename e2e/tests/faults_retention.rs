//! The operator dies at each of its writes about a topic's retention, has a rival that slept, and neither broker nor apiserver
//! for a while: the topic is at its floor again, and each change is in the audit log once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weir_e2e::audit::{WEEK_MS, anchor, download, set, until_kept, until_retention, verify};
use weir_e2e::demo::watch::{number, text};
use weir_e2e::faults::attempt::Fault;
use weir_e2e::faults::inject::actions;
use weir_e2e::faults::operator::{Place, in_its_place};
use weir_e2e::faults::table::Table;
use weir_e2e::fixture::Fixture;
use weir_e2e::handles::{Component, Handles, Signal};
use weir_e2e::retention::{floor, set_retention};

const IDENTITY: &str = "fault-operator";
/// Each lowering has a value of its own, by which the log is read.
const HOUR_MS: u64 = 3_600_000;
/// A turn comes every five seconds, and the first one of a process after it leads.
const REPAIRED: Duration = Duration::from_secs(40);
/// Histories are written by turns, each after two minutes.
const TRACED: Duration = Duration::from_secs(150);
/// A fault that an operator does not come to within this time is left for another one.
const PATIENCE: Duration = Duration::from_secs(25);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Beyond the lease's 20 seconds.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(30);
const OUTAGE: Duration = Duration::from_secs(30);
const ROUNDS_MAX: usize = 4;

fn trace() -> Vec<Fault> {
    vec![Fault { point: "*".to_owned(), hit: 0, action: "trace" }]
}

/// A governed topic that is lowered again and again.
struct Target<'a> {
    fixture: &'a Fixture,
    topic: String,
    lowered: u64,
}

impl Target<'_> {
    async fn lower(&mut self) -> anyhow::Result<()> {
        self.lowered += 1;
        set_retention(self.fixture, &self.topic, &(HOUR_MS + self.lowered).to_string()).await
    }

    /// Some writes come once, or when something changes.
    async fn provoke(&self, fault: &Fault) -> anyhow::Result<()> {
        if fault.point.starts_with("kube.create-floor")
            && let Ok(floor) = floor(self.fixture, &self.topic).await
        {
            self.fixture.cluster.kubectl(&["delete", "topicfloor", text(&floor, "/metadata/name")]).await?;
        }
        if fault.point.starts_with("kube.policy-status") {
            let patch = json!({"spec": {"owners": {"contacts": [format!("#{}", self.lowered)]}}}).to_string();
            self.fixture.kubectl(&["patch", "topicretentionpolicy", "events", "--type", "merge", "--patch", &patch]).await?;
        }
        Ok(())
    }

    async fn must_be_repaired(&self) -> anyhow::Result<()> {
        until_retention(self.fixture, &self.topic, WEEK_MS, REPAIRED).await
    }

    /// Once nothing is under way: the log is whole, and has each repair once and nothing else.
    async fn must_be_recorded(&self) -> anyhow::Result<()> {
        let entries = |cluster: &Value| number(cluster, "/status/audit/sequence");
        let deadline = Instant::now() + REPAIRED;
        loop {
            let cluster = until_kept(self.fixture, "the log is written", 1, REPAIRED).await?;
            let folder = tempfile::tempdir()?;
            let events = download(self.fixture, folder.path()).await?;
            let outcome = self.must_have_each_once(&events);
            // The status follows the log.
            if outcome.is_ok() && entries(&cluster) == events.len() as u64 {
                let (code, said) = verify(folder.path(), Some(&anchor(&cluster))).await?;
                ensure!(code == Some(0), "{said}");
                return Ok(());
            }
            if Instant::now() > deadline {
                return outcome.and(Err(anyhow::anyhow!("the status names entry {} of {}", entries(&cluster), events.len())));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn must_have_each_once(&self, events: &[Value]) -> anyhow::Result<()> {
        let mut found = BTreeMap::<&str, u32>::new();
        for event in events.iter().filter(|event| event["kind"] != "Leads") {
            for change in event["changes"].as_array().with_context(|| format!("{event}"))? {
                let key = &change["keys"][0];
                ensure!(change["topic"] == self.topic.as_str() && key["to"] == WEEK_MS, "{change}");
                *found.entry(key["from"].as_str().unwrap_or_default()).or_default() += 1;
            }
        }
        let expected: Vec<String> = (1..=self.lowered).map(|number| (HOUR_MS + number).to_string()).collect();
        let wrong: Vec<_> = expected.iter().filter(|from| found.get(from.as_str()) != Some(&1)).collect();
        ensure!(wrong.is_empty() && found.len() == expected.len(), "not once: {wrong:?} of {found:?}");
        Ok(())
    }
}

#[tokio::test]
async fn whatever_the_operator_dies_at_each_repair_is_done_and_recorded_once() {
    in_its_place("retention-dies", dies).await;
}

async fn dies(fixture: &Fixture, place: &Place<'_>) -> anyhow::Result<()> {
    let mut target = Target { fixture, topic: set(fixture).await?, lowered: 0 };
    let operator = place.start(IDENTITY, trace(), None)?;
    until_kept(fixture, "the log is begun", 1, REPAIRED).await?;
    target.lower().await?;
    target.must_be_repaired().await?;
    tokio::time::sleep(TRACED).await;
    let points: BTreeSet<String> =
        operator.fired().into_iter().map(|fired| fired.point).filter(|point| !point.starts_with("kube.lease")).collect();
    operator.kill().await?;
    for expected in ["kafka.alter.send", "kube.floor-status.send", "store.once.send", "store.progress.send"] {
        ensure!(points.contains(expected), "{expected} is not in {points:?}");
    }

    let about = "The operator, as a process of its own, suffers one fault at one of its writes while a topic's retention lies below its floor, \
                 and is started again. The topic is put back each time, and the audit log has each repair once.";
    let columns = ["failpoint", "what happened", "seconds until it was put back"];
    let mut table = Table::new("j-retention", "The operator dies at each of its writes about retention", about, &columns);
    let faults = |point: &String| actions(point).iter().map(|action| Fault { point: point.clone(), hit: 1, action }).collect::<Vec<_>>();
    let mut open: Vec<Fault> = points.iter().flat_map(faults).collect();
    for _ in 0..ROUNDS_MAX {
        let mut left = Vec::new();
        for fault in open {
            target.provoke(&fault).await?;
            target.lower().await?;
            let started = Instant::now();
            let has_fired = suffer(place, &fault).await?;
            // What it left is somebody else's to do.
            let next = place.start(IDENTITY, Vec::new(), None)?;
            target.must_be_repaired().await.with_context(|| format!("after {fault}"))?;
            if has_fired {
                table.row(&[&fault.point, fault.action, &format!("{:.1}", started.elapsed().as_secs_f64())])?;
            } else {
                left.push(fault);
            }
            target.must_be_recorded().await?;
            next.kill().await?;
        }
        open = left;
        if open.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("{} faults never fired: {open:?}", open.len())
}

/// One operator, until its fault has fired and it has died or lived with it for a moment. Returns whether it has.
async fn suffer(place: &Place<'_>, fault: &Fault) -> anyhow::Result<bool> {
    let mut operator = place.start(IDENTITY, vec![fault.clone()], None)?;
    let started = Instant::now();
    while !operator.has_suffered(fault) && started.elapsed() < PATIENCE {
        ensure!(operator.runs()? || operator.has_suffered(fault), "the operator ended by itself before {fault}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let has_fired = operator.has_suffered(fault);
    if operator.runs()? {
        operator.wait(Duration::from_secs(2)).await?;
    }
    operator.kill().await?;
    Ok(has_fired)
}

#[tokio::test]
async fn rivals_and_outages_leave_the_topic_at_its_floor() {
    in_its_place("retention-rival", rivals).await;
}

async fn rivals(fixture: &Fixture, place: &Place<'_>) -> anyhow::Result<()> {
    let mut target = Target { fixture, topic: set(fixture).await?, lowered: 0 };
    let first = place.start("first", Vec::new(), None)?;
    until_kept(fixture, "the log is begun", 1, REPAIRED).await?;
    let columns = ["what happens", "seconds until it was put back"];
    let mut table =
        Table::new("k-retention-surroundings", "Retention with two leaders, and without a broker or an apiserver", "", &columns);

    first.signal(Signal::STOP)?;
    let second = place.start("second", Vec::new(), None)?;
    target.lower().await?;
    let started = Instant::now();
    until_retention(fixture, &target.topic, WEEK_MS, BEYOND_THE_LEASE + REPAIRED).await?;
    repaired(&mut table, "the leader sleeps beyond its lease, and another takes over", started)?;
    first.signal(Signal::CONT)?;
    for _ in 0..5 {
        target.lower().await?;
        target.must_be_repaired().await?;
    }
    target.must_be_recorded().await.context("two leaders")?;
    first.kill().await?;

    let handles = Handles::of(&fixture.cluster)?;
    out(&mut target, &handles, &mut table).await?;
    second.kill().await.map_err(Into::into)
}

/// The apiserver, and then the broker, is away for a while.
async fn out(target: &mut Target<'_>, handles: &Handles, table: &mut Table) -> anyhow::Result<()> {
    handles.kill(Component::Apiserver)?;
    target.lower().await?;
    let started = Instant::now();
    let outcome = target.must_be_repaired().await;
    repaired(table, "the apiserver is away", started)?;
    handles.start(Component::Apiserver).await?;
    outcome.context("the apiserver is away")?;
    target.must_be_recorded().await.context("the apiserver was away")?;

    handles.kill(Component::Kafka)?;
    tokio::time::sleep(OUTAGE).await;
    handles.start(Component::Kafka).await?;
    target.lower().await?;
    let started = Instant::now();
    target.must_be_repaired().await.context("the broker was away")?;
    repaired(table, "the broker was away", started)?;
    target.must_be_recorded().await.context("the broker was away")
}

fn repaired(table: &mut Table, what: &str, started: Instant) -> anyhow::Result<()> {
    Ok(table.row(&[what, &format!("{:.1}", started.elapsed().as_secs_f64())])?)
}
