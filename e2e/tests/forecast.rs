//! What a plan forecasts is what comes of it: by its samples on a first run, by what that took on the next. On a machine that
//! does little else; the demo tells the same, and judges it with `WEIR_E2E_FAULTS=full`.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::{Watched, number, text};
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::novashop::Settings;

/// Enough for the work to take longer than starting the workers.
const SETTINGS: Settings = Settings { seed: 11, events: 600_000 };
const RUN_LIMIT: Duration = Duration::from_secs(1800);
/// How far a forecast of events may be off.
const EVENTS_PERCENT: f64 = 10.0;
/// The lost hours, and where two jobs of about the same size meet that rebuild them.
const START: &str = "2026-11-03T06:00:00Z";
const MIDDLE: &str = "2026-11-03T12:00:00Z";
const END: &str = "2026-11-03T15:00:00Z";

/// From the plan to the end, automatically approved.
async fn run(fixture: &Fixture, yaml: &str, name: &str) -> anyhow::Result<(Value, Duration)> {
    fixture.apply(yaml).await?;
    let watched = Watched::new(fixture, name);
    let is_planned = |job: &Value| !text(job, "/status/plan/hash").is_empty();
    watched.until("it is planned", RUN_LIMIT, is_planned, |_| {}).await?;
    let began = Instant::now();
    let job = watched.phase("Complete", RUN_LIMIT, |_| {}).await?;
    Ok((job, began.elapsed()))
}

fn must_be_near(what: &str, forecast: f64, outcome: f64, percent: f64) -> anyhow::Result<()> {
    let off = (forecast - outcome).abs() * 100.0 / outcome.max(1.0);
    ensure!(off <= percent, "{what}: {forecast} were forecast, and {outcome} it was: {off:.0} % off, more than {percent} %");
    Ok(())
}

fn must_come_true(job: &Value, took: Duration, basis: &str, percent: f64) -> anyhow::Result<()> {
    let estimate = |name: &str| format!("/status/plan/estimates/{name}");
    ensure!(text(job, &estimate("basis")) == basis, "{}", job["status"]["plan"]);
    let (events, selected) = (number(job, &estimate("events")), number(job, "/status/accounting/selected"));
    must_be_near("events", events as f64, selected as f64, EVENTS_PERCENT)?;
    let duration: kube::core::Duration = text(job, &estimate("duration")).parse()?;
    must_be_near("seconds", Duration::from(duration).as_secs_f64(), took.as_secs_f64(), percent)
}

#[tokio::test]
async fn forecasts_come_true() {
    fixture::run("forecast", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let yaml = scene.job(Job { generation: 1, approval: "Auto", parallelism: 2 });
        let first = yaml.replace(END, MIDDLE);
        let (job, took) = run(fixture, &first, JOB).await?;
        must_come_true(&job, took, "Sample", 40.0)?;
        let name = "the-other-hours";
        let second = yaml.replace(START, MIDDLE).replace(JOB, name);
        let (job, took) = run(fixture, &second, name).await?;
        must_come_true(&job, took, "EarlierRun", 20.0)
    })
    .await;
}
