//! What a cluster and a team do to a run: nodes are lost during each verb, workers have too little memory or disk, and people
//! change their minds at random.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::{Watched, is_complete, number, phase, text};
use weir_e2e::faults::is_full;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::handles::{Handles, Signal};
use weir_e2e::novashop::Settings;
use weir_e2e::novashop::random::Random;
use weir_e2e::wait;

const SETTINGS: Settings = Settings { seed: 14, events: 30_000 };
/// Long enough that each verb is seen at work, and that there is work left after each node that was lost.
const LONG: Settings = Settings { seed: 14, events: 300_000 };
const RUN_LIMIT: Duration = Duration::from_secs(900);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const VERBS: [&str; 5] = ["plan", "extract", "assemble", "publish", "verify"];
/// For the end of a worker that wakes.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The pool's node.
const NODE: u8 = 1;
const AUTO: Job<'_> = Job { generation: 1, approval: "Auto", parallelism: 2 };

fn pods(fixture: &Fixture) -> Api<Pod> {
    Api::namespaced(fixture.cluster.kube.clone(), &fixture.namespace)
}

/// Waits until a worker of a verb runs.
async fn until_worker(fixture: &Fixture, verb: &str) -> anyhow::Result<Pod> {
    let workers = ListParams::default().labels(&format!("weir.dev/verb={verb}")).fields("status.phase=Running");
    let (watched, deadline) = (Watched::new(fixture, JOB), Instant::now() + RUN_LIMIT);
    loop {
        if let Some(pod) = pods(fixture).list(&workers).await?.items.into_iter().next() {
            return Ok(pod);
        }
        ensure!(Instant::now() < deadline, "no {verb} worker runs");
        ensure!(phase(&watched.look().await) != "Complete", "the run was complete before a {verb} worker was seen");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[tokio::test]
async fn a_node_is_lost_during_each_verb() {
    fixture::run("node-loss", async |fixture| {
        let scene = Scene::set(fixture, LONG, None).await?;
        let (watched, handles) = (Watched::new(fixture, JOB), Handles::of(&fixture.cluster)?);
        let columns = ["during", "back after (s)"];
        let about = "The pool's only node loses its power, with every worker on it, and comes back. One run.";
        let mut table = Table::new("e-nodes", "A node is lost during each verb", about, &columns);
        fixture.apply(&scene.job(AUTO)).await?;
        for verb in VERBS {
            until_worker(fixture, verb).await?;
            let lost = Instant::now();
            handles.stop_node(NODE)?;
            // Whatever is found, the next test needs the node.
            handles.start_node(&fixture.cluster, NODE).await?;
            table.row(&[verb, &lost.elapsed().as_secs().to_string()])?;
        }
        let job = watched.phase("Complete", RUN_LIMIT, |_| {}).await?;
        Ok(scene.must_agree(None, Some(&job), &[1]).await?)
    })
    .await;
}

/// A publisher is stopped, and its node's kubelet too, so that nobody stops or removes it; both go on when everything is
/// published. The pool has one node: the class gets another.
#[tokio::test]
async fn a_worker_sleeps_under_a_stopped_kubelet() {
    fixture::run("zombie-node", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let handles = Handles::of(&fixture.cluster)?;
        fixture.apply(&scene.job(AUTO)).await?;
        let sleeper = asleep(fixture, &handles).await?;
        let selector = json!({"spec": {"workers": {"nodeSelector": {"weir.dev/pool": "general"}}}}).to_string();
        fixture.kubectl(&["patch", "backfillclass", &fixture.name("isolated"), "--type", "merge", "--patch", &selector]).await?;
        handles.freeze_kubelet(NODE)?;
        let woken = sleep_through(fixture, &scene, &handles, &sleeper).await;
        // Whatever came of it, the next test needs the node.
        handles.thaw_kubelet(NODE)?;
        let ended = woken?;
        ensure!(ended.contains("Fenced"), "the sleeper ended with {ended}");
        let about = "A worker is stopped (SIGSTOP) under a kubelet that is stopped too; both go on when everything is published.";
        let mut table = Table::new("i-stopped-kubelet", "A worker sleeps under a stopped kubelet", about, &["asleep", "its log ends with"]);
        table.row(&[label(&sleeper, "weir.dev/unit"), "Fenced"])?;
        Ok(scene.must_agree(None, Some(&Watched::new(fixture, JOB).look().await), &[1]).await?)
    })
    .await;
}

/// A publisher, stopped in the middle of its work.
async fn asleep(fixture: &Fixture, handles: &Handles) -> anyhow::Result<Pod> {
    loop {
        let pod = until_worker(fixture, "publish").await?;
        // One that has just ended cannot be stopped.
        if handles.signal_pod(&pod, "worker", Signal::STOP).is_ok() {
            return Ok(pod);
        }
    }
}

/// Wakes the worker when the run is complete, and returns the last line that it writes.
async fn sleep_through(fixture: &Fixture, scene: &Scene<'_>, handles: &Handles, sleeper: &Pod) -> anyhow::Result<String> {
    let job = Watched::new(fixture, JOB).phase("Complete", RUN_LIMIT, |_| {}).await?;
    scene.must_agree(None, Some(&job), &[1]).await.context("while the worker sleeps")?;
    handles.signal_pod(sleeper, "worker", Signal::CONT)?;
    let ended = async || {
        let log = handles.pod_log(NODE, sleeper, "worker")?;
        let line = log.lines().rfind(|line| line.contains("\"ended\"")).context("it goes on")?;
        anyhow::Ok(line.to_owned())
    };
    Ok(wait::until("the worker that slept ends", ENDS_WITHIN, ended).await?)
}

fn label<'a>(pod: &'a Pod, name: &str) -> &'a str {
    pod.labels().get(name).map_or("", String::as_str)
}

/// With too little of something a run ends, soon, and says what is missing.
#[tokio::test]
async fn too_little_memory_or_disk_is_a_reason_and_no_loop() {
    fixture::run("too-little", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let mut table = Table::new(
            "f-too-little",
            "Workers with too little memory or disk",
            "The class gives workers less than the work needs, whatever is cut smaller.",
            &["what is too little", "the run", "it says"],
        );
        let cases =
            [("memory", json!({"memory": "16Mi"}), "OOMKilled"), ("scratch", json!({"memory": "768Mi", "scratch": "64Ki"}), "scratch")];
        for (generation, (what, workers, says)) in (1..).zip(cases) {
            let patch = json!({"spec": {"workers": workers}}).to_string();
            fixture.cluster.kubectl(&["patch", "backfillclass", &fixture.name("isolated"), "--type", "merge", "--patch", &patch]).await?;
            fixture.apply(&scene.job(Job { generation, ..AUTO })).await?;
            let watched = Watched::new(fixture, JOB);
            let failed = |job: &Value| phase(job) == "Failed" && number(job, "/status/run/generation") == u64::from(generation);
            let job = watched.until("the run has failed", RUN_LIMIT, failed, |_| {}).await.with_context(|| what.to_owned())?;
            let message = text(&job, "/status/message");
            table.row(&[what, "Failed", message])?;
            ensure!(message.contains(says), "{what}: {message}");
        }
        Ok(())
    })
    .await;
}

/// What a team does to a job.
#[derive(Clone, Copy, Debug)]
enum Act {
    Suspend,
    Resume,
    CancelAndRaise,
    Raise,
    Lower,
    DeleteAndCreate,
    EditMutable,
    EditImmutable,
}

const ACTS: [Act; 8] =
    [Act::Suspend, Act::Resume, Act::CancelAndRaise, Act::Raise, Act::Lower, Act::DeleteAndCreate, Act::EditMutable, Act::EditImmutable];

#[tokio::test]
async fn people_change_their_minds_at_random() {
    let columns = ["seed", "what was done, and after how many seconds", "last generation", "seconds"];
    let mut table = Table::new("g-minds", "People change their minds", "At random moments of a run. In the end the job may run.", &columns);
    for seed in 0..if is_full() { 6 } else { 1 } {
        fixture::run("minds", async |fixture| {
            let scene = Scene::set(fixture, Settings { seed: 20 + seed, ..SETTINGS }, None).await?;
            one_mind(fixture, &scene, seed, &mut table).await.with_context(|| format!("seed {seed}"))
        })
        .await;
    }
}

async fn one_mind(fixture: &Fixture, scene: &Scene<'_>, seed: u64, table: &mut Table) -> anyhow::Result<()> {
    const ACTS_OF_A_RUN: u32 = 8;
    let (started, mut random, mut generation, mut done) = (Instant::now(), Random::of(seed, 3), 1, Vec::new());
    fixture.apply(&scene.job(AUTO)).await?;
    for _ in 0..ACTS_OF_A_RUN {
        let pause_ms = random.below(9_000);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let act = random.pick(&ACTS);
        do_it(fixture, scene, act, &mut generation).await.with_context(|| format!("{act:?} after {done:?}"))?;
        done.push(format!("{act:?} {:.1}", started.elapsed().as_secs_f64()));
    }
    generation += 1;
    fixture.patch_job(JOB, json!({"suspend": false, "cancel": false, "runGeneration": generation})).await?;
    let complete = |job: &Value| is_complete(job, generation);
    let job = Watched::new(fixture, JOB).until("the last run is complete", RUN_LIMIT, complete, |_| {}).await?;
    scene.must_agree(None, Some(&job), &(1..=generation).collect::<Vec<_>>()).await?;
    let cells = [seed.to_string(), done.join(", "), generation.to_string(), started.elapsed().as_secs().to_string()];
    Ok(table.row(&cells.each_ref().map(String::as_str))?)
}

async fn do_it(fixture: &Fixture, scene: &Scene<'_>, act: Act, generation: &mut u32) -> anyhow::Result<()> {
    match act {
        Act::Suspend => fixture.patch_job(JOB, json!({"suspend": true})).await?,
        Act::Resume => fixture.patch_job(JOB, json!({"suspend": false})).await?,
        Act::CancelAndRaise => {
            fixture.patch_job(JOB, json!({"cancel": true})).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            *generation += 1;
            fixture.patch_job(JOB, json!({"cancel": false, "runGeneration": *generation})).await?;
        }
        Act::Raise => {
            *generation += 1;
            fixture.patch_job(JOB, json!({"runGeneration": *generation})).await?;
        }
        // It does nothing and says so, and is put right again.
        Act::Lower if *generation > 1 => {
            fixture.patch_job(JOB, json!({"runGeneration": *generation - 1})).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            fixture.patch_job(JOB, json!({"runGeneration": *generation})).await?;
        }
        Act::Lower => {}
        Act::DeleteAndCreate => {
            fixture.kubectl(&["delete", "backfilljob", JOB, "--timeout=60s"]).await?;
            fixture.apply(&scene.job(Job { generation: *generation, ..AUTO })).await?;
        }
        Act::EditMutable => fixture.patch_job(JOB, json!({"reason": "somebody wrote more", "execution": {"parallelism": 1}})).await?,
        Act::EditImmutable => edit_immutable(fixture).await?,
    }
    Ok(())
}

/// Once there is a plan, the apiserver refuses it. Before, it is an edit as any other, and is taken back.
async fn edit_immutable(fixture: &Fixture) -> anyhow::Result<()> {
    let planned = Watched::new(fixture, JOB).look().await.pointer("/status/plan/hash").is_some();
    let percent = async |percent: &str| fixture.patch_job(JOB, json!({"reconstruct": {"maxQuarantinedPercent": percent}})).await;
    match percent("9").await {
        Ok(()) if planned => anyhow::bail!("what a run was planned with was changed under the same generation"),
        Ok(()) => Ok(percent("0.5").await?),
        Err(_refused) => Ok(()),
    }
}
