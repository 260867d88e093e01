//! Workers that cannot start say why within a minute, and go on when somebody has mended it. Workers on a node that is lost
//! are not waited for.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::{Watched, condition, text};
use weir_e2e::fixture::{self, Fixture, SECRET};
use weir_e2e::handles::{Handles, Signal};
use weir_e2e::layout::Layout;
use weir_e2e::novashop::Settings;
use weir_e2e::wait;

const SMALL: Settings = Settings { seed: 11, events: 10_000 };
/// Enough for a publisher to be met at its work.
const LARGER: Settings = Settings { seed: 3, events: 60_000 };
const AUTO: Job<'_> = Job { generation: 1, approval: "Auto", parallelism: 2 };
/// What a team is promised.
const SAID_WITHIN: Duration = Duration::from_secs(60);
/// Kubelets and controllers ask again after up to two minutes when something was missing for long.
const RUN_LIMIT: Duration = Duration::from_secs(600);
const POOL_NODE: u8 = 1;
const OTHER_NODE: &str = "node-0";
/// Of a node that is not ready, before it counts as lost.
const NODE_SILENT: Duration = Duration::from_secs(60);

/// Applies the job, whose workers cannot start, and waits for status to say so with these words.
async fn must_say(fixture: &Fixture, yaml: &str, words: &[&str]) -> anyhow::Result<Watched> {
    let watched = Watched::new(fixture, JOB);
    fixture.apply(yaml).await?;
    let says = |job: &Value| {
        let (stalled, reason, message) = condition(job, "Stalled");
        let told = words.iter().all(|word| message.contains(word) && text(job, "/status/message").contains(word));
        stalled == "True" && reason == "WorkerCannotStart" && told
    };
    let job = watched.until(&format!("told of {words:?}"), SAID_WITHIN, says, |_| {}).await?;
    tracing::info!("{}", text(&job, "/status/message"));
    Ok(watched)
}

/// What hindered the workers is mended: the reason goes, the job completes, and it has cost nothing.
async fn must_complete(scene: &Scene<'_>, watched: &Watched) -> anyhow::Result<()> {
    let job = watched.phase("Complete", RUN_LIMIT, |_| {}).await?;
    ensure!(condition(&job, "Stalled").0 == "False", "{job}");
    ensure!(failed_attempts(scene.fixture).await? == 0, "attempts were used up");
    must_agree(scene, &job).await
}

/// Records of attempts that count, in the run's folder.
async fn failed_attempts(fixture: &Fixture) -> anyhow::Result<usize> {
    let folder = format!("weir/{}/{JOB}/g1/failed/", fixture.namespace);
    let listed = fixture.cluster.s3.list_objects_v2().bucket(&fixture.bucket).prefix(folder).send().await?;
    Ok(listed.contents().len())
}

async fn must_agree(scene: &Scene<'_>, job: &Value) -> anyhow::Result<()> {
    let answer = scene.truth(&Layout::from_environment(), None, Some(&job.to_string()), &[scene.run(1)]).await?;
    ensure!(answer.verdict.agrees, "{}", answer.text);
    Ok(())
}

/// Puts the class's workers on the nodes with this label.
async fn place(fixture: &Fixture, pool: &str) -> anyhow::Result<()> {
    let patch = json!({"spec": {"workers": {"nodeSelector": {"weir.dev/pool": pool}}}}).to_string();
    fixture.kubectl(&["patch", "backfillclass", &fixture.name("isolated"), "--type", "merge", "--patch", &patch]).await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_secret_is_said_and_its_coming_is_seen() {
    fixture::run("no-secret", async |fixture| {
        let scene = Scene::set(fixture, SMALL, None).await?;
        let yaml = scene.job(AUTO).replace("credentialsSecretRef: {name: backfill}", "credentialsSecretRef: {name: not-there-yet}");
        let watched = must_say(fixture, &yaml, &["secret", "not-there-yet", "not found"]).await?;
        let secret: Value = serde_json::from_str(&fixture.kubectl(&["get", "secret", SECRET, "--output", "json"]).await?)?;
        let copy = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "not-there-yet"}, "data": secret["data"]});
        fixture.apply(&copy.to_string()).await?;
        must_complete(&scene, &watched).await
    })
    .await;
}

#[tokio::test]
async fn a_quota_that_refuses_pods_is_said() {
    fixture::run("quota", async |fixture| {
        let scene = Scene::set(fixture, SMALL, None).await?;
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}});
        fixture.apply(&quota.to_string()).await?;
        let watched = must_say(fixture, &scene.job(AUTO), &["exceeded quota", "no-pods"]).await?;
        fixture.kubectl(&["delete", "resourcequota", "no-pods"]).await?;
        must_complete(&scene, &watched).await
    })
    .await;
}

/// The pods keep the node selector that they were made with; mending the class is enough all the same.
#[tokio::test]
async fn a_class_without_nodes_is_said_and_mending_it_is_enough() {
    fixture::run("no-node", async |fixture| {
        let scene = Scene::set(fixture, SMALL, None).await?;
        place(fixture, "nowhere").await?;
        let watched = must_say(fixture, &scene.job(AUTO), &["Unschedulable", "nodes are available"]).await?;
        place(fixture, "backfill").await?;
        must_complete(&scene, &watched).await
    })
    .await;
}

fn pods(fixture: &Fixture) -> Api<Pod> {
    Api::namespaced(fixture.cluster.kube.clone(), &fixture.namespace)
}

fn is_running(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && statuses.into_iter().any(|s| s.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn attempt(pod: &Pod) -> Option<u32> {
    pod.labels().get("weir.dev/attempt")?.parse().ok()
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// A publisher, stopped in the middle of its work.
async fn frozen_publisher(fixture: &Fixture, handles: &Handles) -> anyhow::Result<Pod> {
    let one = async || {
        let listed = pods(fixture).list(&ListParams::default().labels("weir.dev/verb=publish")).await?;
        let pod = listed.items.into_iter().find(is_running).context("no publisher runs")?;
        handles.signal_pod(&pod, "worker", Signal::STOP)?;
        anyhow::Ok(pod)
    };
    Ok(wait::until("a publisher is at work", RUN_LIMIT, one).await?)
}

/// The next attempt at a unit, running elsewhere while the earlier one still counts as running.
async fn attempt_beside(fixture: &Fixture, lost: &Pod) -> anyhow::Result<Pod> {
    let unit = lost.labels().get("weir.dev/unit").context("a worker has a unit")?;
    let of_unit = ListParams::default().labels(&format!("weir.dev/unit={unit}"));
    let beside = async || {
        let all = pods(fixture).list(&of_unit).await?.items;
        ensure!(all.iter().any(|pod| pod.name_any() == lost.name_any()), "the lost pod was removed");
        all.into_iter().find(|pod| is_running(pod) && attempt(pod) > attempt(lost)).context("no later attempt runs")
    };
    Ok(wait::until("the next attempt runs beside the lost one", RUN_LIMIT, beside).await?)
}

/// The node's power is on, but nobody hears of it: its workers may be at it yet. The next attempt begins beside them and
/// fences them off; when they come back they do no harm.
#[tokio::test]
async fn a_lost_node_is_not_waited_for() {
    fixture::run("lost-node", async |fixture| {
        let handles = Handles::of(&fixture.cluster)?;
        let scene = Scene::set(fixture, LARGER, None).await?;
        let watched = Watched::new(fixture, JOB);
        fixture.apply(&scene.job(AUTO)).await?;
        let lost = frozen_publisher(fixture, &handles).await?;
        // The pool has one node; the platform team gives the class another.
        place(fixture, "general").await?;
        handles.cut_off_node(POOL_NODE).await?;
        let since = Instant::now();
        let beside = attempt_beside(fixture, &lost).await;
        let waited = since.elapsed();
        // Whatever came of it, the next test needs the node. The frozen worker awakes while the next one is at work.
        handles.reconnect_node(POOL_NODE).await?;
        let thawed = handles.signal_pod(&lost, "worker", Signal::CONT);
        let beside = beside?;
        thawed?;
        ensure!(node(&beside) == OTHER_NODE && node(&lost) != OTHER_NODE, "{} after {}", node(&beside), node(&lost));
        ensure!(waited > NODE_SILENT, "the next attempt began after {} s", waited.as_secs());
        must_complete(&scene, &watched).await
    })
    .await;
}
