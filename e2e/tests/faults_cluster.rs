//! What a cluster and a team do to a run: nodes are lost and workers evicted during each verb, workers have too little memory
//! or disk, and people change their minds at random.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::{Watched, condition, is_complete, number, phase, text};
use weir_e2e::faults::inject::shuffle;
use weir_e2e::faults::is_full;
use weir_e2e::faults::made::{self, Made};
use weir_e2e::faults::table::Table;
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::handles::{Component, Handles, Signal};
use weir_e2e::novashop::Settings;
use weir_e2e::novashop::random::Random;
use weir_e2e::supervisor::Process;
use weir_e2e::wait;

const SETTINGS: Settings = Settings { seed: 14, events: 30_000 };
/// Long enough that each verb is seen at work, and that there is work left after each node that was lost.
const LONG: Settings = Settings { seed: 14, events: 300_000 };
const RUN_LIMIT: Duration = Duration::from_secs(900);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const VERBS: [&str; 5] = ["plan", "extract", "assemble", "publish", "verify"];
/// The verb during which a lost node stays away for longer than the operator waits for it.
const AWAY_DURING: &str = "publish";
/// So long after Kubernetes has missed a node the operator gives up the workers on it.
const SILENT: Duration = Duration::from_secs(60);
/// From a worker's end, or its node's, to the next attempt at its unit.
const NEXT_WITHIN: Duration = Duration::from_secs(240);
/// Of an evicted pod.
const GRACE_SECONDS: u64 = 1;
const UNIT: &str = "weir.dev/unit";
/// From the start of a worker's process.
const AT_WORK_AFTER: Duration = Duration::from_millis(300);
/// For the end of a worker that wakes, and for news of one that sleeps.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The pool's node.
const NODE: u8 = 1;
const AUTO: Job<'_> = Job { generation: 1, approval: "Auto", parallelism: 2 };

fn pods(fixture: &Fixture) -> Api<Pod> {
    Api::namespaced(fixture.cluster.kube.clone(), &fixture.namespace)
}

/// Waits until a worker of a verb runs.
async fn until_worker(fixture: &Fixture, handles: &Handles, verb: &str) -> anyhow::Result<(Pod, Process)> {
    let workers = ListParams::default().labels(&format!("weir.dev/verb={verb}"));
    let (watched, deadline) = (Watched::new(fixture, JOB), Instant::now() + RUN_LIMIT);
    loop {
        let listed = pods(fixture).list(&workers).await?.items;
        if let Some(running) = listed.into_iter().find_map(|pod| handles.worker(&pod).map(|process| (pod, process))) {
            return Ok(running);
        }
        ensure!(Instant::now() < deadline, "no {verb} worker runs");
        let job = watched.look().await;
        let is_over = matches!(phase(&job), "Complete" | "Failed");
        ensure!(!is_over, "the run was {} before a {verb} worker was seen: {}", phase(&job), text(&job, "/status/message"));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// A worker of each verb, one at a time, dies with its node. Of a job that allows a single attempt: what is lost so uses none up.
#[tokio::test]
async fn a_node_is_lost_during_each_verb() {
    fixture::run("node-loss", async |fixture| {
        let scene = Scene::set(fixture, LONG, None).await?;
        let (handles, made) = (Handles::of(&fixture.cluster)?, Made::watch(fixture));
        let about = "The pool's only node loses its power, with a worker at work on it, and comes back. One run.";
        let columns = ["during", "lost", "the next attempt was made after (s)", "back after (s)"];
        let mut table = Table::new("e-nodes", "A node is lost during each verb", about, &columns);
        single_attempt(fixture, &scene.job(Job { parallelism: 1, ..AUTO })).await?;
        let mut lost = Vec::new();
        for verb in VERBS {
            let unit = label(&asleep(fixture, &handles, verb).await?, UNIT).to_owned();
            let times = lose_node(fixture, &handles, &made, &unit, verb == AWAY_DURING).await.context(verb)?;
            let [made_after, back_after] = times.map(|time| time.as_secs().to_string());
            table.row(&[verb, &unit, &made_after, &back_after])?;
            lost.push(unit);
        }
        must_end_well(fixture, &scene, &made, &lost).await
    })
    .await;
}

/// Without a node, and with it again. `is_long`: it comes back only when the next attempt has been made. Returns how long it took
/// until that was, and until the node was back.
async fn lose_node(fixture: &Fixture, handles: &Handles, made: &Made, unit: &str, is_long: bool) -> anyhow::Result<[Duration; 2]> {
    let lost = Instant::now();
    handles.stop_node(NODE)?;
    let early = if is_long { Some(until_next(made, unit, &lost).await) } else { None };
    // Whatever is found, the next test needs the node.
    handles.start_node(&fixture.cluster, NODE).await?;
    let back_after = lost.elapsed();
    let made_after = match early {
        Some(early) => early?,
        None => until_next(made, unit, &lost).await?,
    };
    ensure!(!is_long || made_after > SILENT, "the next attempt was made after {} s already", made_after.as_secs());
    Ok([made_after, back_after])
}

/// Waits until a unit's second attempt is made, and returns how long that was after its first was lost.
async fn until_next(made: &Made, unit: &str, lost: &Instant) -> anyhow::Result<Duration> {
    let next = async || if made.has(1, unit, 2) { Ok(lost.elapsed()) } else { Err(format!("{unit} has had one attempt")) };
    Ok(wait::until("the unit's next attempt", NEXT_WITHIN, next).await?)
}

/// Applies the job of a run that fails as soon as it counts a failed attempt.
async fn single_attempt(fixture: &Fixture, job: &str) -> anyhow::Result<()> {
    let single = job.replace("  execution:\n", "  execution:\n    attempts: 1\n");
    ensure!(single != job, "the job's YAML has no execution");
    fixture.apply(&single).await?;
    Ok(())
}

/// Everything is published once, and each attempt that was lost was followed by one more Job.
async fn must_end_well(fixture: &Fixture, scene: &Scene<'_>, made: &Made, lost: &[String]) -> anyhow::Result<()> {
    let job = Watched::new(fixture, JOB).phase("Complete", RUN_LIMIT, |_| {}).await?;
    let wrong = made::wrong(&made.of(1), lost);
    ensure!(wrong.is_empty(), "{lost:?} were lost: {}", wrong.join("; "));
    Ok(scene.must_agree(None, Some(&job), &[1]).await?)
}

/// Each is stopped first: it neither ends by itself nor hears that it is to go, and is killed at the end of its grace period.
#[tokio::test]
async fn a_worker_of_each_verb_is_evicted() {
    fixture::run("evicted", async |fixture| {
        let scene = Scene::set(fixture, LONG, None).await?;
        let (handles, made) = (Handles::of(&fixture.cluster)?, Made::watch(fixture));
        let about = "A worker of each verb is evicted in the middle of its work, of a job that allows a single attempt. One run.";
        let columns = ["verb", "evicted", "its pod says", "the next attempt was made after (s)"];
        let mut table = Table::new("h-evicted", "A worker of each verb is evicted", about, &columns);
        single_attempt(fixture, &scene.job(AUTO)).await?;
        let mut lost = Vec::new();
        for verb in VERBS {
            let pod = asleep(fixture, &handles, verb).await?;
            let (evicted, unit) = (Instant::now(), label(&pod, UNIT).to_owned());
            let says = evict(fixture, &pod.name_any()).await.context(verb)?;
            let made_after = until_next(&made, &unit, &evicted).await.context(verb)?;
            table.row(&[verb, &unit, &says, &format!("{:.1}", made_after.as_secs_f64())])?;
            lost.push(unit);
        }
        must_end_well(fixture, &scene, &made, &lost).await
    })
    .await;
}

/// Evicts a pod, and returns what it says about that. Not by the client's own call, which names the options in a way that the
/// apiserver does not know.
async fn evict(fixture: &Fixture, pod: &str) -> anyhow::Result<String> {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod},
        "deleteOptions": {"gracePeriodSeconds": GRACE_SECONDS},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", fixture.namespace);
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json").body(serde_json::to_vec(&eviction)?)?;
    fixture.cluster.kube.request::<Value>(request).await?;
    let evicted = serde_json::to_value(pods(fixture).get(pod).await?)?;
    ensure!(number(&evicted, "/metadata/deletionGracePeriodSeconds") == GRACE_SECONDS, "it may take its time: {evicted}");
    let (is_so, reason, _) = condition(&evicted, "DisruptionTarget");
    ensure!(is_so == "True" && reason == "EvictionByEvictionAPI", "it was not evicted: {evicted}");
    Ok(reason.to_owned())
}

/// A publisher is stopped, and its node's kubelet too, so that nobody stops or removes it; both go on when everything is
/// published. The pool has one node: the class gets another.
#[tokio::test]
async fn a_worker_sleeps_under_a_stopped_kubelet() {
    fixture::run("zombie-node", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let handles = Handles::of(&fixture.cluster)?;
        fixture.apply(&scene.job(AUTO)).await?;
        let sleeper = asleep(fixture, &handles, "publish").await?;
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
        table.row(&[label(&sleeper, UNIT), "Fenced"])?;
        Ok(scene.must_agree(None, Some(&Watched::new(fixture, JOB).look().await), &[1]).await?)
    })
    .await;
}

/// A worker of a verb, stopped in the middle of its work. Planning is soon over: without a store it is not.
async fn asleep(fixture: &Fixture, handles: &Handles, verb: &str) -> anyhow::Result<Pod> {
    if verb != "plan" {
        return stopped(fixture, handles, verb).await;
    }
    let created = async || {
        let planners = pods(fixture).list(&ListParams::default().labels("weir.dev/verb=plan")).await?;
        ensure!(!planners.items.is_empty(), "there is no planner");
        Ok(())
    };
    wait::until("a planner", RUN_LIMIT, created).await?;
    handles.freeze(Component::S3)?;
    let planner = stopped(fixture, handles, verb).await;
    // Whatever came of it, everybody else needs the store.
    handles.thaw(Component::S3)?;
    planner
}

/// The pod as it is when Kubernetes has heard that it runs.
async fn stopped(fixture: &Fixture, handles: &Handles, verb: &str) -> anyhow::Result<Pod> {
    let pod = loop {
        let (pod, worker) = until_worker(fixture, handles, verb).await?;
        tokio::time::sleep(AT_WORK_AFTER).await;
        worker.signal(Signal::STOP)?;
        // One that has just ended cannot be stopped.
        if worker.is_alive() {
            break pod;
        }
    };
    let running = async || {
        let pod = pods(fixture).get(&pod.name_any()).await?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        ensure!(phase == Some("Running"), "{} is {phase:?}", pod.name_any());
        anyhow::Ok(pod)
    };
    Ok(wait::until("the worker that was stopped counts as running", ENDS_WITHIN, running).await?)
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
    let about = "All that can be done to a job, in random order and at random moments of a run. In the end the job may run.";
    let mut table = Table::new("g-minds", "People change their minds", about, &columns);
    let mut refused = 0;
    for seed in 0..if is_full() { 6 } else { 1 } {
        fixture::run("minds", async |fixture| {
            let scene = Scene::set(fixture, Settings { seed: 20 + seed, ..SETTINGS }, None).await?;
            refused += u32::from(one_mind(fixture, &scene, seed, &mut table).await.with_context(|| format!("seed {seed}"))?);
            Ok(())
        })
        .await;
    }
    assert!(refused > 0 || !is_full(), "no edit of a planned run was ever refused");
}

/// Returns whether an edit of what was planned was refused.
async fn one_mind(fixture: &Fixture, scene: &Scene<'_>, seed: u64, table: &mut Table) -> anyhow::Result<bool> {
    // One can be lowered from the start.
    let (started, mut random, mut generation, mut done) = (Instant::now(), Random::of(seed, 3), 2, Vec::new());
    let (mut acts, mut is_refused) = (ACTS, false);
    shuffle(&mut acts, &mut random);
    fixture.apply(&scene.job(Job { generation, ..AUTO })).await?;
    for act in acts {
        let pause_ms = random.below(9_000);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let refused = do_it(fixture, scene, act, &mut generation).await.with_context(|| format!("{act:?} after {done:?}"))?;
        is_refused |= refused;
        done.push(format!("{act:?}{} {:.1}", if refused { " (refused)" } else { "" }, started.elapsed().as_secs_f64()));
    }
    generation += 1;
    fixture.patch_job(JOB, json!({"suspend": false, "cancel": false, "runGeneration": generation})).await?;
    let complete = |job: &Value| is_complete(job, generation);
    let job = Watched::new(fixture, JOB).until("the last run is complete", RUN_LIMIT, complete, |_| {}).await?;
    scene.must_agree(None, Some(&job), &(1..=generation).collect::<Vec<_>>()).await?;
    let cells = [seed.to_string(), done.join(", "), generation.to_string(), started.elapsed().as_secs().to_string()];
    table.row(&cells.each_ref().map(String::as_str))?;
    Ok(is_refused)
}

/// Returns whether it was refused.
async fn do_it(fixture: &Fixture, scene: &Scene<'_>, act: Act, generation: &mut u32) -> anyhow::Result<bool> {
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
        Act::Lower => {
            fixture.patch_job(JOB, json!({"runGeneration": *generation - 1})).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            fixture.patch_job(JOB, json!({"runGeneration": *generation})).await?;
        }
        Act::DeleteAndCreate => {
            fixture.kubectl(&["delete", "backfilljob", JOB, "--timeout=60s"]).await?;
            fixture.apply(&scene.job(Job { generation: *generation, ..AUTO })).await?;
        }
        Act::EditMutable => fixture.patch_job(JOB, json!({"reason": "somebody wrote more", "execution": {"parallelism": 1}})).await?,
        Act::EditImmutable => return edit_immutable(fixture).await,
    }
    Ok(false)
}

/// Once there is a plan, the apiserver refuses it. Before, it is an edit as any other, and is taken back.
async fn edit_immutable(fixture: &Fixture) -> anyhow::Result<bool> {
    let planned = Watched::new(fixture, JOB).look().await.pointer("/status/plan/hash").is_some();
    let percent = async |percent: &str| fixture.patch_job(JOB, json!({"reconstruct": {"maxQuarantinedPercent": percent}})).await;
    match percent("9").await {
        Ok(()) if planned => anyhow::bail!("what a run was planned with was changed under the same generation"),
        Ok(()) => Ok(percent("0.5").await.map(|()| false)?),
        Err(_refused) => Ok(true),
    }
}
