//! The demo's job, smaller, with everything happening to it that happens in a cluster: the topic is the same in the end. And
//! what a team does to a job: suspend, resume, cancel, delete, create again, run again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use weir_e2e::demo::live::Live;
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::{Watched, condition, is_complete, number, phase, text};
use weir_e2e::fixture::{self, Fixture, OPERATOR_NAMESPACE};
use weir_e2e::handles::{Handles, Signal};
use weir_e2e::novashop::Settings;
use weir_e2e::wait;

const SETTINGS: Settings = Settings { seed: 3, events: 60_000 };
/// Long enough for everything that happens to it: there must be a worker left to hurt.
const LONG: Settings = Settings { seed: 42, events: 500_000 };
/// One quiet run takes a minute; a drained node and workers that start again take their time.
const RUN_LIMIT: Duration = Duration::from_secs(900);
/// For what the operator does at once.
const SOON: Duration = Duration::from_secs(120);
const POOL_NODE: &str = "node-1";

fn pods(fixture: &Fixture) -> Api<Pod> {
    Api::namespaced(fixture.cluster.kube.clone(), &fixture.namespace)
}

/// A worker of a verb whose container runs now.
async fn running_worker(fixture: &Fixture, verb: &str) -> anyhow::Result<Pod> {
    let listed = pods(fixture).list(&ListParams::default().labels(&format!("weir.dev/verb={verb}"))).await?;
    let running = listed.items.into_iter().find(|pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let is_running = |status: &k8s_openapi::api::core::v1::ContainerStatus| status.state.as_ref().is_some_and(|s| s.running.is_some());
        pod.metadata.deletion_timestamp.is_none() && statuses.is_some_and(|all| all.iter().any(is_running))
    });
    running.with_context(|| format!("no {verb} worker runs"))
}

async fn until_worker(fixture: &Fixture, verb: &str) -> anyhow::Result<Pod> {
    let what = format!("a {verb} worker runs");
    Ok(wait::until(&what, RUN_LIMIT, async || running_worker(fixture, verb).await).await?)
}

/// Sees to it that somebody was hurt: what is done to a worker that is gone already proves nothing.
async fn kill_worker(fixture: &Fixture, verb: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + RUN_LIMIT;
    loop {
        let pod = until_worker(fixture, verb).await?;
        let killed = Handles::of(&fixture.cluster)?.signal_pod(&pod, "worker", Signal::KILL);
        match killed {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn delete_job_of(fixture: &Fixture, verb: &str) -> anyhow::Result<()> {
    let pod = until_worker(fixture, verb).await?;
    let labels = pod.metadata.labels.unwrap_or_default();
    let job = labels.get("batch.kubernetes.io/job-name").context("a worker belongs to a Job")?;
    fixture.kubectl(&["delete", "job", job, "--wait=false"]).await?;
    Ok(())
}

async fn restart_operator(fixture: &Fixture) -> anyhow::Result<()> {
    let kubectl = &fixture.cluster;
    kubectl.kubectl(&["--namespace", OPERATOR_NAMESPACE, "delete", "pods", "--all", "--wait=false"]).await?;
    kubectl.kubectl(&["--namespace", OPERATOR_NAMESPACE, "rollout", "status", "deployment/weir-operator", "--timeout=120s"]).await?;
    Ok(())
}

async fn drain(fixture: &Fixture) -> anyhow::Result<()> {
    let drain = ["drain", POOL_NODE, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"];
    let drained = fixture.cluster.kubectl(&drain).await;
    // Whatever came of it, the next test needs the node.
    fixture.cluster.kubectl(&["uncordon", POOL_NODE]).await?;
    drained?;
    Ok(())
}

const AUTO: Job<'_> = Job { generation: 1, approval: "Auto", parallelism: 2 };

#[tokio::test]
async fn whatever_happens_in_the_cluster_the_topic_is_the_same() {
    fixture::run("disturbed", async |fixture| {
        let scene = Scene::set(fixture, LONG, None).await?;
        let live = Live::start(&fixture.cluster.kafka, &scene.topic, &scene.path("live"))?;
        let watched = Watched::new(fixture, JOB);
        fixture.apply(&scene.job(AUTO)).await?;
        kill_worker(fixture, "extract").await.context("killing an extracting worker")?;
        delete_job_of(fixture, "extract").await.context("deleting a Job that extracts")?;
        until_worker(fixture, "assemble").await?;
        restart_operator(fixture).await.context("restarting the operator")?;
        kill_worker(fixture, "publish").await.context("killing a publishing worker")?;
        until_worker(fixture, "publish").await?;
        drain(fixture).await.context("draining the node")?;
        delete_job_of(fixture, "publish").await.context("deleting a Job that publishes")?;
        let job = watched.phase("Complete", RUN_LIMIT, |_| {}).await?;
        let (list, _) = live.end().await?;
        Ok(scene.must_agree(Some(&list), Some(&job), &[1]).await?)
    })
    .await;
}

/// Workers that are there, and pods that are.
async fn must_be_still(fixture: &Fixture) -> anyhow::Result<()> {
    let listed = pods(fixture).list(&ListParams::default().labels("weir.dev/verb").fields("status.phase=Running")).await?;
    ensure!(listed.items.is_empty(), "{} workers still run", listed.items.len());
    Ok(())
}

#[tokio::test]
async fn a_job_is_suspended_resumed_canceled_and_run_again() {
    fixture::run("lifecycle", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let watched = Watched::new(fixture, JOB);
        fixture.apply(&scene.job(AUTO)).await?;

        until_worker(fixture, "publish").await?;
        fixture.patch_job(JOB, json!({"suspend": true})).await?;
        let suspended = watched.phase("Suspended", SOON, |_| {}).await?;
        ensure!(condition(&suspended, "Suspended").0 == "True", "{suspended}");
        must_be_still(fixture).await?;
        fixture.patch_job(JOB, json!({"suspend": false})).await?;

        let some = |job: &Value| number(job, "/status/accounting/published") > 0;
        watched.until("publishing again", RUN_LIMIT, |job| phase(job) == "Running" && some(job), |_| {}).await?;
        fixture.patch_job(JOB, json!({"cancel": true})).await?;
        let canceled = watched.phase("Canceled", SOON, |_| {}).await?;
        let first = number(&canceled, "/status/accounting/published");
        ensure!(first < SETTINGS.events, "it was canceled after everything was published");
        must_be_still(fixture).await?;

        // What the canceled run has published is not published again.
        fixture.patch_job(JOB, json!({"cancel": false, "runGeneration": 2})).await?;
        let complete = watched.until("the second run is complete", RUN_LIMIT, |job| is_complete(job, 2), |_| {}).await?;
        let (published, present) =
            (number(&complete, "/status/accounting/published"), number(&complete, "/status/accounting/alreadyPresent"));
        ensure!(present >= first && present > 0, "{present} are present, {first} were published");
        ensure!(published + present == SETTINGS.events, "{published} published, {present} present");
        scene.must_agree(None, Some(&complete), &[1, 2]).await?;

        // A third run finds everything there.
        fixture.patch_job(JOB, json!({"runGeneration": 3})).await?;
        let complete = watched.until("the third run is complete", RUN_LIMIT, |job| is_complete(job, 3), |_| {}).await?;
        ensure!(number(&complete, "/status/accounting/published") == 0, "{complete}");
        scene.must_agree(None, Some(&complete), &[1, 2]).await?;

        // A lowered generation does nothing and says so.
        fixture.patch_job(JOB, json!({"runGeneration": 2})).await?;
        let says_so = |job: &Value| text(job, "/status/message").contains("lower than 3");
        let lowered =
            watched.until("the lowered generation is told of", SOON, |job| phase(job) == "Complete" && says_so(job), |_| {}).await?;
        ensure!(number(&lowered, "/status/run/generation") == 3, "{lowered}");
        must_be_still(fixture).await
    })
    .await;
}

#[tokio::test]
async fn a_job_that_is_created_again_is_not_run_again() {
    fixture::run("again", async |fixture| {
        let scene = Scene::set(fixture, Settings { seed: 5, events: 10_000 }, None).await?;
        let watched = Watched::new(fixture, JOB);
        let yaml = scene.job(AUTO);
        fixture.apply(&yaml).await?;
        watched.phase("Complete", RUN_LIMIT, |_| {}).await?;

        let changed = yaml.replace("status < 400", "status < 300");
        ensure!(changed != yaml);
        match fixture.apply(&changed).await {
            Ok(_) => bail!("another select was taken under the same generation"),
            Err(error) => ensure!(error.to_string().contains("raise spec.runGeneration"), "{error}"),
        }

        delete(fixture).await?;
        fixture.apply(&yaml).await?;
        let complete = watched.phase("Complete", SOON, |_| {}).await?;
        ensure!(condition(&complete, "Complete").1 == "AlreadyApplied", "{complete}");

        delete(fixture).await?;
        fixture.apply(&changed).await?;
        let differs = |job: &Value| condition(job, "Stalled").1 == "SpecDiffersFromRun";
        watched.until("it is another recovery", SOON, differs, |_| {}).await?;
        // With the old content it is done.
        fixture.apply(&yaml).await?;
        watched.phase("Complete", SOON, |_| {}).await?;
        Ok(scene.must_agree(None, None, &[1]).await?)
    })
    .await;
}

/// Deletes the job in the middle of a run: its workers end, what it wrote stays.
#[tokio::test]
async fn a_job_that_is_deleted_in_the_middle_goes_on_where_it_was() {
    fixture::run("deleted", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let watched = Watched::new(fixture, JOB);
        fixture.apply(&scene.job(AUTO)).await?;
        until_worker(fixture, "publish").await?;
        delete(fixture).await?;
        wait::until("its workers end", SOON, async || must_be_still(fixture).await).await?;
        fixture.apply(&scene.job(AUTO)).await?;
        let complete = watched.phase("Complete", RUN_LIMIT, |_| {}).await?;
        Ok(scene.must_agree(None, Some(&complete), &[1]).await?)
    })
    .await;
}

async fn delete(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.kubectl(&["delete", "backfilljob", JOB, "--timeout=60s"]).await?;
    Ok(())
}
