//! The operator dies at each of its writes, has a rival that slept, and an apiserver that is bad to it: the topic is the same,
//! and no Job was made that an undisturbed run does not make.

mod faults_operator {
    pub mod failing;
}

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use faults_operator::failing;
use serde_json::{Value, json};
use weir_crds::contract::claims::ClaimDocument;
use weir_crds::contract::manifest::to_bytes;
use weir_e2e::demo::scene::{JOB, Job, PARTITIONS, Scene, TOPIC_SETTINGS};
use weir_e2e::demo::watch::{Watched, is_complete, number, phase};
use weir_e2e::faults::attempt::Fault;
use weir_e2e::faults::http::{HttpProxy, Trouble, Weather};
use weir_e2e::faults::inject::actions;
use weir_e2e::faults::made::Made;
use weir_e2e::faults::operator::{Operator, Place, in_its_place};
use weir_e2e::faults::table::Table;
use weir_e2e::faults::turns::{SWAP, Turns, is_of_the_store, kills, kind};
use weir_e2e::fixture::Fixture;
use weir_e2e::handles::{Component, Handles, Signal};
use weir_e2e::novashop::Settings;
use weir_e2e::wait;

const SETTINGS: Settings = Settings { seed: 10, events: 10_000 };
const SEED: u64 = 10;
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// A fault that an operator does not come to within this time is left for another run.
const PATIENCE: Duration = Duration::from_secs(25);
/// After a fault that it survives an operator is left to itself for so long.
const AFTERMATH: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const RUNS_MAX: u32 = 20;
const IDENTITY: &str = "fault-operator";
const AUTO: Job<'_> = Job { generation: 1, approval: "Auto", parallelism: 2 };
/// Beyond the lease's 20 seconds.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(30);
/// As it says it in its log.
const LEADS_NO_MORE: &str = "\"leads no more\"";
const LATE_WORDS_MAX: u32 = 4;
/// One that wakes looks at the lease at once.
const STANDS_BY_WITHIN: Duration = Duration::from_secs(10);

fn trace() -> Vec<Fault> {
    vec![Fault { point: "*".to_owned(), hit: 0, action: "trace" }]
}

/// How a run ends.
#[derive(Clone, Copy, Debug)]
enum Course {
    Completes,
    Fails,
}

/// One run of the job, by its generation, with operators that suffer.
struct Run<'a> {
    fixture: &'a Fixture,
    watched: Watched,
    made: Made,
    generation: u32,
    course: Course,
}

impl<'a> Run<'a> {
    fn first(fixture: &'a Fixture, course: Course) -> Self {
        Self { fixture, watched: Watched::new(fixture, JOB), made: Made::watch(fixture), generation: 1, course }
    }

    async fn is_over(&self) -> anyhow::Result<bool> {
        let job = self.watched.look().await;
        match self.course {
            Course::Completes => Ok(is_complete(&job, self.generation)),
            Course::Fails => failing::has_failed(self, &job).await,
        }
    }

    /// Whether it puts nothing more into the store that a fault could meet. One that completes claims before it makes more Jobs than
    /// the one that plans, and puts no more until its end.
    fn has_put(&self) -> bool {
        match self.course {
            Course::Completes => self.made.of(self.generation).len() > 1,
            Course::Fails => false,
        }
    }

    /// The Jobs of this run: of each unit one.
    fn jobs(&self) -> anyhow::Result<BTreeSet<String>> {
        let jobs = self.made.of(self.generation);
        ensure!(jobs.contains("plan-a1") && jobs.iter().all(|job| job.ends_with("-a1")), "{jobs:?}");
        Ok(jobs)
    }

    /// Waits until it has made a Job of a verb, or of any.
    async fn until_made(&self, verb: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.made.of(self.generation).iter().any(|job| job.starts_with(verb)) {
            ensure!(started.elapsed() < RUN_LIMIT, "no {verb} Job was made");
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// What the job has claimed is forgotten, so that it claims again; and its topic is made anew, so that it publishes again.
    async fn next(&mut self, scene: &Scene<'_>) -> anyhow::Result<()> {
        let kafka = &self.fixture.cluster.kafka;
        kafka.delete_topics(|name| name == scene.topic).await?;
        kafka.create_topic(&scene.topic, PARTITIONS, &TOPIC_SETTINGS).await?;
        let (s3, bucket) = (&self.fixture.cluster.s3, &self.fixture.bucket);
        let claims = s3.list_objects_v2().bucket(bucket).prefix("weir/_claims/").send().await?;
        for key in claims.contents().iter().filter_map(|object| object.key()) {
            let nothing = to_bytes(&ClaimDocument::default());
            s3.put_object().bucket(bucket).key(key).body(nothing.into()).send().await?;
        }
        self.generation += 1;
        self.fixture.patch_job(JOB, json!({"runGeneration": self.generation})).await?;
        Ok(())
    }
}

#[tokio::test]
async fn whatever_happens_to_the_operator_the_topic_is_the_same() {
    in_its_place("operator-dies", dies).await;
}

async fn dies(fixture: &Fixture, place: &Place<'_>) -> anyhow::Result<()> {
    let scene = Scene::set(fixture, SETTINGS, None).await?;
    let mut run = Run::first(fixture, Course::Completes);
    fixture.apply(&scene.job(AUTO)).await?;
    let operator = place.start(IDENTITY, trace(), None)?;
    let job = run.watched.phase("Complete", RUN_LIMIT, |_| {}).await?;
    let undisturbed = run.jobs()?;
    let mut hits = BTreeMap::<String, u64>::new();
    for fired in operator.fired() {
        let most = hits.entry(fired.point).or_default();
        *most = (*most).max(fired.hit);
    }
    operator.kill().await?;
    scene.must_agree(None, Some(&job), &[run.generation]).await?;
    ensure!(hits.contains_key("kube.create-job.send") && hits.contains_key("store.once.send"), "{hits:?}");

    let about = "The operator, as a process of its own, suffers one fault at one of its writes and is started again. A further run of the \
                 same job each, into a topic that was made anew: it has every event once, and no Job was made but those of an undisturbed run.";
    let columns = ["run", "faults fired", "operators", "Jobs", "seconds"];
    let mut table = Table::new("b-operator", "The operator dies at each of its writes", about, &columns);
    let mut turns = Turns::new(faults(&hits), leaves_more);
    for _ in 0..RUNS_MAX {
        if turns.open().is_empty() {
            break;
        }
        run.next(&scene).await?;
        let (started, before) = (Instant::now(), turns.fired.len());
        let operators = one_run(&run, place, &mut turns).await.with_context(|| format!("run {}", run.generation))?;
        let jobs = run.jobs()?;
        ensure!(jobs == undisturbed, "run {}: {jobs:?}, undisturbed {undisturbed:?}", run.generation);
        scene.must_agree(None, Some(&run.watched.look().await), &[run.generation]).await?;
        let fired = (turns.fired.len() - before).to_string();
        let seconds = started.elapsed().as_secs().to_string();
        table.row(&[&run.generation.to_string(), &fired, &operators.to_string(), &jobs.len().to_string(), &seconds])?;
    }
    ensure!(turns.open().is_empty(), "{} faults never fired: {:?}", turns.open().len(), turns.open());
    let columns = ["failpoint", "hit", "what happened"];
    let mut points = Table::new("c-operator-points", "The faults at the operator's writes, one by one", "", &columns);
    for fault in turns.fired {
        points.row(&[&fault.point, &fault.hit.to_string(), fault.action])?;
    }
    Ok(())
}

/// At each write the first hit, and a later one of those that come often. What writes the lease writes nothing else, and
/// what an operator tells comes too seldom for another hit.
fn faults(hits: &BTreeMap<String, u64>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (point, most) in hits.iter().filter(|(point, _)| !point.starts_with("kube.lease")) {
        for hit in if *most >= 4 && !point.starts_with("kube.event") { vec![1, 3] } else { vec![1] } {
            faults.extend(actions(point).iter().map(|action| Fault { point: point.clone(), hit, action }));
        }
    }
    faults
}

/// Starts operators, one after the other, until the run is over. Returns how many.
async fn one_run(run: &Run<'_>, place: &Place<'_>, turns: &mut Turns) -> anyhow::Result<u32> {
    let (deadline, mut operators) = (Instant::now() + RUN_LIMIT, 0);
    while !run.is_over().await? {
        ensure!(Instant::now() < deadline, "it is not over after {operators} operators");
        let fault = turns.next(run.has_put());
        if fault.as_ref().is_some_and(|fault| fault.point.starts_with("kube.platform-status")) {
            // Their status is written when they change.
            let patch = json!({"spec": {"limits": {"maxWindow": format!("{}h", 24 + operators)}}}).to_string();
            let class = run.fixture.name("isolated");
            run.fixture.cluster.kubectl(&["patch", "backfillclass", &class, "--type", "merge", "--patch", &patch]).await?;
        }
        let mut operator = place.start(IDENTITY, fault.clone().into_iter().collect(), None)?;
        operators += 1;
        let has_fired = until_fired(run, &mut operator, fault.as_ref(), deadline).await?;
        operator.kill().await?;
        if let Some(fault) = fault {
            turns.ended(fault, has_fired);
        }
    }
    turns.next_run();
    Ok(operators)
}

/// Claims are many; and what is put once is there unless its sender was killed before.
fn leaves_more(fault: &Fault) -> bool {
    kills(fault) && (kind(fault) == SWAP || (fault.action == "kill" && fault.point.ends_with(".send")))
}

/// Watches an operator until its fault has fired and it has died or lived with it, or the run is over.
async fn until_fired(run: &Run<'_>, operator: &mut Operator, fault: Option<&Fault>, deadline: Instant) -> anyhow::Result<bool> {
    let started = Instant::now();
    loop {
        let runs = operator.runs()?;
        if fault.is_some_and(|fault| operator.has_suffered(fault)) {
            if runs {
                operator.wait(AFTERMATH).await?;
            }
            return Ok(true);
        }
        ensure!(runs, "the operator ended by itself");
        let is_late = fault.is_some_and(|fault| if is_of_the_store(fault) { run.has_put() } else { started.elapsed() > PATIENCE });
        if is_late || Instant::now() > deadline || run.is_over().await? {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[tokio::test]
async fn a_rival_that_slept_and_a_bad_apiserver_change_nothing() {
    in_its_place("operator-rival", rivals).await;
}

async fn rivals(fixture: &Fixture, place: &Place<'_>) -> anyhow::Result<()> {
    let scene = Scene::set(fixture, SETTINGS, None).await?;
    let mut run = Run::first(fixture, Course::Completes);
    let about = "What happens to the operator's surroundings during a run.";
    let columns = ["what happens", "proof", "Jobs", "seconds"];
    let mut table = Table::new("d-surroundings", "Two leaders, and a bad apiserver", about, &columns);
    fixture.apply(&scene.job(AUTO)).await?;
    let started = Instant::now();
    let undisturbed = two_leaders(&run, place).await?;
    scene.must_agree(None, Some(&run.watched.look().await), &[run.generation]).await?;
    let seconds = started.elapsed().as_secs().to_string();
    let what = "the leader sleeps beyond its lease, another takes over, the first wakes";
    let proof = "the second leader made Jobs; the first said that it leads no more, and wrote nothing";
    table.row(&[what, proof, &undisturbed.len().to_string(), &seconds])?;

    let kube = fixture.cluster.kube.clone();
    let troubles = [
        ("a tenth of the requests take effect and are answered 429, 500 or 504", [429, 500, 504].map(Trouble::RefuseAfter)),
        ("a tenth of the requests are refused with 429, 500 or 504", [429, 500, 504].map(Trouble::Refuse)),
    ];
    for (what, troubles) in troubles {
        let proxy = HttpProxy::before_apiserver(kube.clone(), SEED).await?;
        proxy.set(Weather { per_mille: 100, troubles: troubles.to_vec(), ..Weather::default() });
        let operator = place.start(IDENTITY, Vec::new(), Some(&proxy.endpoint))?;
        let row = complete_next(&mut run, &scene, &undisturbed, what, &mut table, || {
            let (requests, troubled) = proxy.told();
            ensure!(troubled.len() == troubles.len(), "not every trouble came: {troubled:?}");
            Ok(format!("{} of {requests} requests", troubled.values().sum::<u64>()))
        });
        row.await?;
        operator.kill().await?;
    }

    let proxy = HttpProxy::before_apiserver(kube, SEED).await?;
    let operator = place.start(IDENTITY, Vec::new(), Some(&proxy.endpoint))?;
    run.next(&scene).await?;
    let started = Instant::now();
    run.until_made("").await?;
    let first = proxy.mute_watches();
    finish(&run, &scene, &undisturbed).await.context("mute watches")?;
    let what = "all watches die silently in the middle of a run";
    let mute = |since: &str| {
        let mute = proxy.told().1.get(since).copied().context("no watch had anything to tell")?;
        Ok(format!("{mute} watches"))
    };
    let seconds = started.elapsed().as_secs().to_string();
    table.row(&[what, &mute(&first)?, &undisturbed.len().to_string(), &seconds])?;
    // It hears of the next run only because it watches anew.
    let second = proxy.mute_watches();
    let what = "a run is asked for while no watch tells of it";
    complete_next(&mut run, &scene, &undisturbed, what, &mut table, || mute(&second)).await?;
    operator.kill().await?;

    let operator = place.start(IDENTITY, Vec::new(), None)?;
    let handles = Handles::of(&fixture.cluster)?;
    run.next(&scene).await?;
    let started = Instant::now();
    let runs = |job: &Value| phase(job) == "Running" && number(job, "/status/run/generation") == u64::from(run.generation);
    run.watched.until("workers are at work", RUN_LIMIT, runs, |_| {}).await?;
    handles.kill(Component::Apiserver)?;
    handles.start(Component::Apiserver).await?;
    let job = run.watched.until("the apiserver answers", RUN_LIMIT, |job| !job.is_null(), |_| {}).await?;
    ensure!(!is_complete(&job, run.generation), "the run was over before the apiserver was away");
    finish(&run, &scene, &undisturbed).await?;
    let seconds = started.elapsed().as_secs().to_string();
    table.row(&["the apiserver is killed and started again", "it was away", &undisturbed.len().to_string(), &seconds])?;
    operator.kill().await?;
    Ok(())
}

async fn complete_next(
    run: &mut Run<'_>,
    scene: &Scene<'_>,
    undisturbed: &BTreeSet<String>,
    what: &str,
    table: &mut Table,
    proof: impl Fn() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    run.next(scene).await?;
    finish(run, scene, undisturbed).await.context(what.to_owned())?;
    Ok(table.row(&[what, &proof()?, &undisturbed.len().to_string(), &started.elapsed().as_secs().to_string()])?)
}

async fn finish(run: &Run<'_>, scene: &Scene<'_>, undisturbed: &BTreeSet<String>) -> anyhow::Result<()> {
    let complete = |job: &Value| is_complete(job, run.generation);
    let job = run.watched.until("the run is complete", RUN_LIMIT, complete, |_| {}).await?;
    let jobs = run.jobs()?;
    ensure!(jobs == *undisturbed, "{jobs:?}, undisturbed {undisturbed:?}");
    Ok(scene.must_agree(None, Some(&job), &[run.generation]).await?)
}

/// Returns the run's Jobs, of each unit one.
async fn two_leaders(run: &Run<'_>, place: &Place<'_>) -> anyhow::Result<BTreeSet<String>> {
    let first = place.start("first", trace(), None)?;
    run.until_made("").await?;
    first.signal(Signal::STOP)?;
    let second = place.start("second", trace(), None)?;
    tokio::time::sleep(BEYOND_THE_LEASE).await;
    ensure!(second.fired().iter().any(|fired| fired.point == "kube.create-job.done"), "the second leader did nothing");
    ensure!(!run.is_over().await?, "the run was over before the first leader woke");
    let before = first.fired().len();
    first.signal(Signal::CONT)?;
    stands_by(&first).await?;
    run.watched.phase("Complete", RUN_LIMIT, |_| {}).await?;
    // What it had sent before it slept may still be answered; and whoever stands by asks for the lease.
    let wrote = first.fired().split_off(before);
    let wrote: Vec<_> = wrote.iter().filter(|fired| fired.point.ends_with(".send") && !fired.point.starts_with("kube.lease")).collect();
    ensure!(wrote.is_empty(), "the first leader wrote when it was one no more: {wrote:?}");
    let jobs = run.jobs()?;
    second.kill().await?;
    first.kill().await?;
    Ok(jobs)
}

#[tokio::test]
async fn what_a_leader_had_to_say_before_it_slept_is_not_the_last_word() {
    in_its_place("operator-late", late_status).await;
}

async fn late_status(fixture: &Fixture, place: &Place<'_>) -> anyhow::Result<()> {
    let scene = Scene::set(fixture, SETTINGS, None).await?;
    let mut run = Run::first(fixture, Course::Completes);
    fixture.apply(&scene.job(AUTO)).await?;
    for _ in 0..LATE_WORDS_MAX {
        let has_said = wakes_with_a_word(&run, place).await?;
        scene.must_agree(None, Some(&run.watched.look().await), &[run.generation]).await?;
        if has_said {
            return Ok(());
        }
        run.next(&scene).await?;
    }
    anyhow::bail!("none of {LATE_WORDS_MAX} leaders got to say what it had to")
}

/// It falls asleep with a status on its lips, and wakes when the run is complete. Returns whether it said it before it found out
/// that it leads no more, as soon as it wakes.
async fn wakes_with_a_word(run: &Run<'_>, place: &Place<'_>) -> anyhow::Result<bool> {
    let says = Fault { point: "kube.status.send".to_owned(), hit: 3, action: "pause=2000" };
    let first = place.start("first", [vec![says.clone()], trace()].concat(), None)?;
    let started = Instant::now();
    while !first.has_suffered(&says) {
        ensure!(started.elapsed() < RUN_LIMIT, "the first leader had little to say");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    first.signal(Signal::STOP)?;
    let second = place.start("second", Vec::new(), None)?;
    let complete = |job: &Value| is_complete(job, run.generation);
    run.watched.until("the run is complete", RUN_LIMIT, complete, |_| {}).await?;
    first.signal(Signal::CONT)?;
    stands_by(&first).await?;
    // Time enough for the second to put right what the first has said.
    tokio::time::sleep(STANDS_BY_WITHIN).await;
    let has_said = first.fired().iter().any(|fired| fired.point == "kube.status.done" && fired.hit >= says.hit);
    let job = run.watched.look().await;
    ensure!(complete(&job), "the run was complete, and is {} again", phase(&job));
    second.kill().await?;
    first.kill().await?;
    Ok(has_said)
}

/// Waits until an operator has found out that it leads no more.
async fn stands_by(operator: &Operator) -> anyhow::Result<()> {
    let said = async || if operator.has_said(LEADS_NO_MORE) { Ok(()) } else { Err("it says nothing of it") };
    Ok(wait::until("it leads no more", STANDS_BY_WITHIN, said).await?)
}
