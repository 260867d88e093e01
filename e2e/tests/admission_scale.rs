//! Admission at size: a thousand topics with floors, resources of another operator for all of them, and two hundred changes of
//! those a second, each with the answer that it should have, also while certificates are replaced.

mod admission {
    pub mod rotation;
    pub mod topics;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use admission::rotation::rotate;
use admission::topics::{KINDS, must_refuse, resource, with_kinds};
use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, stream};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weir_e2e::demo::watch::number;
use weir_e2e::environment::names;
use weir_e2e::fixture::{self, Fixture, LABEL};
use weir_e2e::novashop::random::Random;
use weir_e2e::scale::measures::{metrics, value};
use weir_e2e::scale::{at_size, create_topics, percentile, say, until_all_shown};

const WEEK_MS: &str = "604800000";
const TOPICS: usize = 1000;
const KNOWN: Duration = Duration::from_secs(300);
const SEED: u64 = 6;
/// In all; each of the clients asks its share.
const REQUESTS_A_SECOND: u32 = 200;
const CLIENTS: u32 = 40;
const LASTS: Duration = Duration::from_secs(60);
/// Objects that are made at a time.
const CREATES: usize = 16;
/// Of the webhook's own time; a bucket of its histogram.
const HANDLER_P99: &str = "0.01";
const BUCKETS: [&str; 8] = ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1.0", "3.0"];

fn topic(fixture: &Fixture, number: usize) -> String {
    fixture.name(&format!("t{number:04}"))
}

/// A cluster to which resources of Strimzi are tied by a label, and a policy over all of its topics.
async fn govern(fixture: &Fixture) -> anyhow::Result<()> {
    let cluster = fixture.name("kafka");
    let platform = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": cluster, "labels": {LABEL: fixture.namespace}},
        "spec": {
            "bootstrapServers": [fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?],
            "topicResources": [{"kind": "StrimziKafkaTopic", "matchLabels": {"strimzi.io/cluster": cluster}}],
            "grants": [{"namespaces": [fixture.namespace], "topics": [format!("^{}-.*$", fixture.namespace)], "verbs": ["Govern"]}],
        },
    });
    fixture.apply(&platform.to_string()).await?;
    let policy = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": "all"},
        "spec": {
            "clusterRef": {"name": cluster}, "topics": {"patterns": [format!("^{}-.*$", fixture.namespace)]},
            "floor": {"minimum": "168h"}, "enforcement": {"mode": "Enforce"}, "owners": {"team": "growth-data"},
        },
    });
    fixture.apply(&policy.to_string()).await?;
    Ok(())
}

/// Resources of Strimzi, as the API serves them.
fn resources(fixture: &Fixture) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kafka.strimzi.io", "v1beta2", "KafkaTopic"));
    Api::namespaced_with(fixture.cluster.kube.clone(), &fixture.namespace, &kind)
}

/// A resource for each topic, each of which the webhook lets pass.
async fn create_resources(fixture: &Fixture) -> anyhow::Result<()> {
    let (api, cluster) = (resources(fixture), fixture.name("kafka"));
    let create = |number: usize| {
        let object = resource(KINDS[0].0, &format!("t{number:04}"), &topic(fixture, number), &cluster, WEEK_MS);
        let api = api.clone();
        async move { anyhow::Ok(api.create(&PostParams::default(), &serde_json::from_value(object)?).await.map(drop)?) }
    };
    let made: Vec<_> = stream::iter((0..TOPICS).map(create)).buffer_unordered(CREATES).collect().await;
    made.into_iter().collect()
}

/// What one request should come to.
#[derive(Clone, Copy)]
struct Change {
    retention_ms: u64,
    is_refused: bool,
}

/// Half of them lower a topic below its floor, each to something else; half of them raise it. None leaves it as it is: of that the
/// webhook is not asked.
fn change(random: &mut Random) -> Change {
    const HOUR_MS: u64 = 3_600_000;
    const WEEK_HOURS: u64 = 168;
    let is_refused = random.chance(500);
    let hours = 1 + if is_refused { random.below(WEEK_HOURS - 1) } else { WEEK_HOURS + random.below(WEEK_HOURS) };
    Change { retention_ms: hours * HOUR_MS, is_refused }
}

/// Asks whether a topic may be changed so, without changing it.
async fn ask(api: &Api<DynamicObject>, number: usize, change: Change) -> anyhow::Result<Duration> {
    let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"config": {"retention.ms": change.retention_ms.to_string()}}}));
    let begun = Instant::now();
    let answer = api.patch(&format!("t{number:04}"), &parameters, &patch).await;
    let took = begun.elapsed();
    match (change.is_refused, answer) {
        (false, Ok(_)) => Ok(took),
        (true, Err(kube::Error::Api(status))) if status.code == 403 && status.message.contains("is below the floor of") => Ok(took),
        (_, answer) => bail!("t{number:04} to {}: {answer:?}", change.retention_ms),
    }
}

/// Judgements of all replicas: how many took at most so long, by bucket, and how many there were.
async fn judged(fixture: &Fixture) -> anyhow::Result<([f64; BUCKETS.len()], f64)> {
    let texts = metrics(fixture).await?;
    let sum = |series: &str| texts.iter().map(|(_, text)| value(text, series)).sum::<f64>();
    Ok((BUCKETS.map(|most| sum(&format!("weir_admission_seconds_bucket{{le=\"{most}\"}}"))), sum("weir_admission_seconds_count")))
}

struct Load {
    /// How long each request took to be answered, as those who asked saw it.
    took: Vec<Duration>,
    /// Requests a second.
    rate: f64,
    /// Of the judgements of the webhooks, the share that took at most so long, by bucket.
    shares: [f64; BUCKETS.len()],
}

/// Asks for as long as something takes. Fails if that fails, or a request does, or was answered wrongly.
async fn load_while(fixture: &Fixture, body: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Load> {
    let (before, judged_before) = judged(fixture).await?;
    let (begun, goes_on) = (Instant::now(), Arc::new(AtomicBool::new(true)));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (api, mut random, goes_on) = (resources(fixture), Random::of(SEED, client.into()), Arc::clone(&goes_on));
        clients.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) * CLIENTS / REQUESTS_A_SECOND);
            let mut took = Vec::new();
            while goes_on.load(Ordering::Relaxed) {
                ticks.tick().await;
                let number = usize::try_from(random.below(TOPICS as u64))?;
                took.push(ask(&api, number, change(&mut random)).await?);
            }
            anyhow::Ok(took)
        });
    }
    let outcome = body.await;
    goes_on.store(false, Ordering::Relaxed);
    let mut took = Vec::new();
    while let Some(ended) = clients.join_next().await {
        took.extend(ended??);
    }
    outcome?;
    let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
    ensure!(rate >= f64::from(REQUESTS_A_SECOND) * 0.95, "this machine asked {rate:.0} times a second only");
    let (after, judged_after) = judged(fixture).await?;
    let count = judged_after - judged_before;
    // A webhook that does not answer lets others' kinds pass.
    ensure!(count >= took.len() as f64, "{} requests, and {count} judgements", took.len());
    Ok(Load { took, rate, shares: std::array::from_fn(|bucket| (after[bucket] - before[bucket]) / count) })
}

/// What those who asked saw, as rows of a table.
fn say_answers(load: &Load, meanwhile: &str) {
    let [half, most] = [50, 99].map(|percent| percentile(&load.took, percent).unwrap_or_default().as_secs_f64() * 1000.0);
    say(&format!("| {TOPICS} TopicFloors, {meanwhile}: {} requests, {:.0} a second | none failed |", load.took.len(), load.rate));
    let shares: Vec<String> = BUCKETS.iter().zip(load.shares).map(|(most, share)| format!("{most} s {:.2} %", share * 100.0)).collect();
    say(&format!("| judged by the webhooks within | {} |", shares.join(", ")));
    say(&format!("| answered to those who asked | p50 {half:.1} ms, p99 {most:.1} ms |"));
}

async fn drill(fixture: &Fixture) -> anyhow::Result<()> {
    let topics: Vec<String> = (0..TOPICS).map(|number| topic(fixture, number)).collect();
    create_topics(fixture, &topics, 1, &[("retention.ms", WEEK_MS)]).await?;
    govern(fixture).await?;
    let is_known = |_: &str, floor: &Value| number(floor, "/status/standing/floorMs") == 604_800_000;
    until_all_shown(fixture, TOPICS, "every topic has a floor", KNOWN, is_known).await?;
    with_kinds(fixture, async || {
        create_resources(fixture).await?;
        let (kind, path) = KINDS[0];
        let low = resource(kind, "t0000", &topics[0], &fixture.name("kafka"), "3600000");
        must_refuse(fixture, &low, &[&format!("spec.{path}.\"retention.ms\": 3600000 (1h) is below the floor of 604800000 (168h)")])
            .await?;

        let lasts = async {
            tokio::time::sleep(LASTS).await;
            Ok(())
        };
        let load = load_while(fixture, lasts).await?;
        say_answers(&load, "nothing else");
        let bucket = BUCKETS.iter().position(|most| *most == HANDLER_P99).context("the histogram has no such bucket")?;
        ensure!(load.shares[bucket] >= 0.99, "only {:.2} % were judged within {HANDLER_P99} s", load.shares[bucket] * 100.0);

        let rotated = load_while(fixture, async {
            rotate(fixture, "leaf").await?;
            rotate(fixture, "authority").await
        });
        say_answers(&rotated.await.context("while certificates are replaced")?, "another leaf and another authority");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes, and all of the machine"]
async fn two_hundred_changes_a_second_are_judged_by_a_thousand_floors_within_ten_milliseconds() {
    fixture::run("admission-scale", async |fixture| at_size(fixture, async || drill(fixture).await).await).await;
}
