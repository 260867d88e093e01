//! Two teams rebuild the same events: only one of them may, and the other is told who does.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use weir_e2e::demo::scene::{JOB, Job, PARTITIONS, Scene, TOPIC_SETTINGS};
use weir_e2e::demo::watch::{Watched, condition, number, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::novashop::Settings;
use weir_e2e::wait;

const SETTINGS: Settings = Settings { seed: 3, events: 10_000 };
/// The job of the other team.
const OTHER: &str = "the-same-gap";
const PLANNED: Job<'_> = Job { generation: 1, approval: "Manual", parallelism: 2 };
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// For what the operator does at once.
const SOON: Duration = Duration::from_secs(60);
const POOL_NODE: &str = "node-1";

/// Waits until this generation's plan is there to be approved, and not the one before's.
async fn planned(job: &Watched, generation: u64) -> anyhow::Result<Value> {
    let is_planned = |job: &Value| text(job, "/status/phase") == "AwaitingApproval" && number(job, "/status/run/generation") == generation;
    Ok(job.until("the generation is planned", RUN_LIMIT, is_planned, |_| {}).await?)
}

/// Approves this generation's plan.
async fn approve(fixture: &Fixture, job: &Watched, name: &str, generation: u64) -> anyhow::Result<()> {
    let planned = planned(job, generation).await?;
    Ok(fixture.patch_job(name, json!({"approval": {"mode": "Manual", "planHash": text(&planned, "/status/plan/hash")}})).await?)
}

/// Does something while no worker finds a place, so that what is claimed is not published.
async fn without_workers(fixture: &Fixture, meanwhile: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    fixture.cluster.kubectl(&["cordon", POOL_NODE]).await?;
    let outcome = meanwhile().await;
    // Whatever came of it, the next test needs the node.
    fixture.cluster.kubectl(&["uncordon", POOL_NODE]).await?;
    outcome
}

/// Waits until the job says that another one is in its way, and names both runs.
async fn until_refused(job: &Watched, own: &str, other: &str) -> anyhow::Result<()> {
    let refused = |job: &Value| condition(job, "Stalled").1 == "ClaimedByOther";
    let stalled = job.until("it is refused", RUN_LIMIT, refused, |_| {}).await?;
    let message = condition(&stalled, "Stalled").2;
    ensure!(message.contains(own) && message.contains(other), "{message}");
    ensure!(number(&stalled, "/status/accounting/published") == 0, "{stalled}");
    Ok(())
}

/// How many hours of the topic are claimed.
async fn claimed_hours(fixture: &Fixture, topic: &str) -> anyhow::Result<usize> {
    let (s3, bucket, mut claimed) = (&fixture.cluster.s3, &fixture.bucket, 0);
    let listed = s3.list_objects_v2().bucket(bucket).send().await?;
    let is_claim = |key: &&str| key.contains("_claims/") && key.contains(&format!("/{topic}/"));
    for key in listed.contents().iter().filter_map(|object| object.key()).filter(is_claim) {
        let bytes = s3.get_object().bucket(bucket).key(key).send().await?.body.collect().await?.into_bytes();
        let document: Value = serde_json::from_slice(&bytes)?;
        claimed += usize::from(document["claims"].as_array().is_some_and(|claims| !claims.is_empty()));
    }
    Ok(claimed)
}

async fn until_claimed(fixture: &Fixture, topic: &str, expected: usize) -> anyhow::Result<()> {
    let are_claimed = async || {
        let hours = claimed_hours(fixture, topic).await?;
        ensure!(hours == expected, "{hours} are");
        Ok(())
    };
    Ok(wait::until(&format!("{expected} hours of {topic} are claimed"), SOON, are_claimed).await?)
}

/// The first claims and cannot start; the second waits for it, and goes on by itself once the first is canceled. The first,
/// run again, then finds what the second has published.
#[tokio::test]
async fn of_two_jobs_over_the_same_events_one_publishes() {
    fixture::run("claims", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let (own, other) = (Watched::new(fixture, JOB), Watched::new(fixture, OTHER));
        fixture.apply(&scene.job(PLANNED)).await?;
        fixture.apply(&scene.job(PLANNED).replace(JOB, OTHER)).await?;
        let run_of = |name: &str, generation: u32| format!("{}/{name}/{generation}", fixture.namespace);
        planned(&other, 1).await?;
        planned(&own, 1).await?;
        without_workers(fixture, async || {
            approve(fixture, &other, OTHER, 1).await?;
            until_claimed(fixture, &scene.topic, 9).await?;
            approve(fixture, &own, JOB, 1).await?;
            until_refused(&own, &run_of(JOB, 1), &run_of(OTHER, 1)).await?;

            fixture.patch_job(OTHER, json!({"cancel": true})).await?;
            other.phase("Canceled", SOON, |_| {}).await?;
            let goes_on = |job: &Value| condition(job, "Stalled").1 != "ClaimedByOther";
            own.until("it goes on by itself", SOON, goes_on, |_| {}).await?;
            Ok(())
        })
        .await?;
        let complete = own.phase("Complete", RUN_LIMIT, |_| {}).await?;
        scene.must_agree(None, Some(&complete), &[1]).await?;

        // What is complete stays claimed: a second run of the other job would publish all of it again.
        fixture.patch_job(OTHER, json!({"cancel": false, "runGeneration": 2, "approval": {"mode": "Auto", "planHash": null}})).await?;
        until_refused(&other, &run_of(OTHER, 2), &run_of(JOB, 1)).await?;
        Ok(scene.must_agree(None, None, &[1]).await?)
    })
    .await;
}

/// A generation with the wrong topic and one with too long a window have claimed them, and never publish: the next ones leave to
/// others what they do not need.
#[tokio::test]
async fn what_only_an_earlier_generation_claimed_is_given_back() {
    fixture::run("narrower", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let wrong = format!("{}-other", scene.topic);
        fixture.cluster.kafka.create_topic(&wrong, PARTITIONS, &TOPIC_SETTINGS).await?;
        let own = Watched::new(fixture, JOB);
        fixture.apply(&scene.job(PLANNED).replace(&scene.topic, &wrong)).await?;
        planned(&own, 1).await?;
        without_workers(fixture, async || {
            approve(fixture, &own, JOB, 1).await?;
            until_claimed(fixture, &wrong, 9).await
        })
        .await?;

        fixture.apply(&scene.job(Job { generation: 2, ..PLANNED })).await?;
        planned(&own, 2).await?;
        without_workers(fixture, async || {
            approve(fixture, &own, JOB, 2).await?;
            until_claimed(fixture, &scene.topic, 9).await?;
            until_claimed(fixture, &wrong, 0).await?;
            let narrower = json!({"runGeneration": 3, "window": {"start": "2026-11-03T10:00:00Z"}, "approval": {"planHash": null}});
            Ok(fixture.patch_job(JOB, narrower).await?)
        })
        .await?;
        approve(fixture, &own, JOB, 3).await?;
        own.phase("Complete", RUN_LIMIT, |_| {}).await?;
        until_claimed(fixture, &scene.topic, 5).await?;

        // What was published keeps its claim; what was only claimed elsewhere does not, though the last one has no plan.
        let mistaken = |generation| scene.job(Job { generation, ..PLANNED }).replace(&scene.topic, &wrong);
        fixture.apply(&mistaken(4)).await?;
        planned(&own, 4).await?;
        without_workers(fixture, async || {
            approve(fixture, &own, JOB, 4).await?;
            until_claimed(fixture, &wrong, 9).await?;
            fixture.apply(&mistaken(5).replace("status < 400", "no_such_column < 400")).await?;
            Ok(())
        })
        .await?;
        own.phase("Failed", RUN_LIMIT, |_| {}).await?;
        until_claimed(fixture, &wrong, 0).await?;
        until_claimed(fixture, &scene.topic, 5).await
    })
    .await;
}
