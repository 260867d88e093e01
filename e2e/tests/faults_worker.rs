//! The fault matrix of the worker: it dies at each of its steps and at random, and the topic is the same.
//!
//! With `WEIR_E2E_FAULTS=full` every fault there is, 500 kills at random among them; otherwise what CI has time for.

use anyhow::{Context as _, ensure};
use weir_e2e::faults::inject::{AtRandom, EachStep};
use weir_e2e::faults::is_full;
use weir_e2e::faults::matrix::Matrix;
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::novashop::Settings;

/// Everything random follows from it.
const SEED: u64 = 4;
/// Faults that did not come up in one run come up in the next; a run has room for dozens.
const RUNS_MAX: u32 = 40;

fn settings() -> Settings {
    Settings { seed: SEED, events: if is_full() { 100_000 } else { 30_000 } }
}

#[tokio::test]
async fn wherever_the_worker_dies_each_event_is_there_once() {
    fixture::run("steps", async |fixture| {
        let mut matrix = Matrix::set(Site::set(fixture, settings()).await?).await?;
        each_step(&mut matrix).await?;
        at_random(&mut matrix).await
    })
    .await;
}

/// Before and after each step of each verb, and with the answer lost.
async fn each_step(matrix: &mut Matrix<'_>) -> anyhow::Result<()> {
    let mut steps = EachStep::of(&matrix.undisturbed, if is_full() { 3 } else { 1 }, SEED);
    let all = steps.open().len();
    let about = format!(
        "An undisturbed run comes to {} failpoints of its five verbs. Each attempt suffers one fault at one of them, {all} in all; \
         every one of them fired. Seed {SEED}.",
        matrix.undisturbed.hits.len()
    );
    let mut table = Table::of_runs("1-steps", "The worker dies, fails or loses an answer at each step", &about, &["run", "faults fired"]);
    for run in 1..=RUNS_MAX {
        let before = steps.fired.len();
        let outcome = matrix.run(&mut steps).await.with_context(|| format!("run {run}"))?;
        table.run(&[&run.to_string(), &(steps.fired.len() - before).to_string()], &outcome)?;
        if steps.open().is_empty() {
            break;
        }
    }
    ensure!(steps.open().is_empty(), "{} of {all} faults never fired: {:?}", steps.open().len(), steps.open());
    let mut fired = steps.fired.clone();
    fired.sort();
    fired.dedup();
    let about = "Hits count the times that one process comes to a point.";
    let columns = ["verb", "failpoint", "hit", "what happened"];
    let mut points = Table::new("2-points", "The faults at each step, one by one", about, &columns);
    for (verb, fault) in fired {
        points.row(&[verb.as_str(), &fault.point, &fault.hit.to_string(), fault.action])?;
    }
    Ok(())
}

async fn at_random(matrix: &mut Matrix<'_>) -> anyhow::Result<()> {
    let (kills, a_run) = if is_full() { (500, 50) } else { (30, 40) };
    let about = "SIGKILL after a random part of the time that such an attempt takes when nothing happens.";
    let mut table = Table::of_runs("3-random", "The worker is killed at random times", about, &["run", "seed"]);
    let mut killed = 0;
    for run in 1.. {
        let seed = SEED + run;
        let mut random = AtRandom::new(seed, &matrix.undisturbed.took, a_run);
        let outcome = matrix.run(&mut random).await.with_context(|| format!("seed {seed}"))?;
        table.run(&[&run.to_string(), &seed.to_string()], &outcome)?;
        killed += random.killed;
        if killed >= kills {
            break;
        }
        ensure!(random.killed > 0, "nothing was killed with seed {seed}");
    }
    Ok(())
}
