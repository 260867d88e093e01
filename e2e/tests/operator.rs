//! What the operator's pods say of themselves while a job runs: probes, and metrics that a monitoring system can take.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::Watched;
use weir_e2e::fixture::{self, Fixture, OPERATOR_NAMESPACE};
use weir_e2e::novashop::Settings;
use weir_e2e::wait;

const SETTINGS: Settings = Settings { seed: 13, events: 10_000 };
const RUN_LIMIT: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(60);
const AUTO: Job<'_> = Job { generation: 1, approval: "Auto", parallelism: 2 };

/// What every replica answers at a path, through the apiserver.
async fn answers(fixture: &Fixture, path: &str) -> anyhow::Result<Vec<String>> {
    let kubectl = &fixture.cluster;
    let names = "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}";
    let running = ["get", "pods", "--field-selector", "status.phase=Running", "--output", names];
    let listed = kubectl.kubectl(&[["--namespace", OPERATOR_NAMESPACE].as_slice(), &running].concat()).await?;
    let mut answers = Vec::new();
    for pod in listed.split_ascii_whitespace() {
        let url = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}:8080/proxy/{path}");
        answers.push(kubectl.kubectl(&["get", "--raw", &url]).await?);
    }
    Ok(answers)
}

/// The value of a series of the leader.
fn value(metrics: &[String], series: &str) -> anyhow::Result<f64> {
    let leader = metrics.iter().find(|text| text.lines().any(|line| line == "weir_leader 1")).context("nobody leads")?;
    let line = leader.lines().find_map(|line| line.strip_prefix(series)).with_context(|| format!("there is no {series}"))?;
    Ok(line.trim().parse()?)
}

#[tokio::test]
async fn one_of_two_replicas_leads_and_counts_what_is_published() {
    fixture::run("metrics", async |fixture| {
        let one_leads = async || {
            let mut ready = answers(fixture, "readyz").await?;
            ready.sort();
            ensure!(ready == ["leads\n", "stands by\n"], "{ready:?}");
            Ok(())
        };
        wait::until("one replica leads and the other stands by", SOON, one_leads).await?;

        let published = "weir_published_records_total";
        let before = value(&answers(fixture, "metrics").await?, published)?;
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        fixture.apply(&scene.job(AUTO)).await?;
        Watched::new(fixture, JOB).phase("Complete", RUN_LIMIT, |_| {}).await?;

        let metrics = answers(fixture, "metrics").await?;
        let more = value(&metrics, published)? - before;
        ensure!(more == SETTINGS.events as f64, "{more} records were published, as the metrics say");
        ensure!(value(&metrics, "weir_published_bytes_total")? > 0.0);
        ensure!(value(&metrics, "weir_backfill_jobs{phase=\"Complete\"}")? >= 1.0);
        ensure!(value(&metrics, "weir_backfill_slices{state=\"Verified\"}")? >= 36.0);
        ensure!(value(&metrics, "weir_reconciles_total{kind=\"BackfillJob\",outcome=\"Success\"}")? > 0.0);
        for text in &metrics {
            ensure!(!text.contains("namespace="), "a label clashes with the scraper's own");
        }
        Ok(())
    })
    .await;
}
