//! A run that fails: the operator dies at what it puts then. These are the records of what failed, the outcome, and the claims, which
//! it gives back.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weir_crds::contract::claims::ClaimDocument;
use weir_crds::contract::keys::RunKeys;
use weir_crds::contract::names::RunId;
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::{is_complete, number, phase};
use weir_e2e::faults::attempt::Fault;
use weir_e2e::faults::inject::actions;
use weir_e2e::faults::operator::{Place, in_its_place};
use weir_e2e::faults::table::Table;
use weir_e2e::faults::turns::{ONCE, SWAP, Turns};
use weir_e2e::fixture::Fixture;

use crate::{AUTO, Course, IDENTITY, LOOK_INTERVAL, RUN_LIMIT, RUNS_MAX, Run, SETTINGS, one_run};

const ID: &str = "SELECT event_key AS event_id,";
/// Rows without an id are invalid, and all of them are more than any limit.
const NO_ID: &str = "SELECT CAST(NULL AS VARCHAR) AS event_id,";

fn keys(run: &Run<'_>) -> RunKeys {
    RunKeys::new("weir", &RunId { namespace: run.fixture.namespace.clone(), name: JOB.to_owned(), generation: run.generation })
}

async fn list(fixture: &Fixture, prefix: &str) -> anyhow::Result<BTreeSet<String>> {
    let listed = fixture.cluster.s3.list_objects_v2().bucket(&fixture.bucket).prefix(prefix).send().await?;
    Ok(listed.contents().iter().filter_map(|object| object.key()).map(str::to_owned).collect())
}

async fn read(fixture: &Fixture, key: &str) -> anyhow::Result<Vec<u8>> {
    let object = fixture.cluster.s3.get_object().bucket(&fixture.bucket).key(key).send().await.with_context(|| key.to_owned())?;
    Ok(object.body.collect().await?.to_vec())
}

/// Whether it has failed, and has put the last that it puts.
pub async fn has_failed(run: &Run<'_>, job: &Value) -> anyhow::Result<bool> {
    let is_shown = phase(job) == "Failed" && number(job, "/status/run/generation") == u64::from(run.generation);
    Ok(is_shown && !list(run.fixture, &keys(run).claims_released()).await?.is_empty())
}

/// What a run has recorded: its outcome, and of which attempts that they failed. Fails unless it has given back all that it claimed.
async fn recorded(run: &Run<'_>) -> anyhow::Result<(Value, BTreeSet<String>)> {
    let (fixture, keys) = (run.fixture, keys(run));
    for key in list(fixture, "weir/_claims/").await? {
        let document: ClaimDocument = serde_json::from_slice(&read(fixture, &key).await?)?;
        ensure!(document.claims.is_empty(), "{key}: {:?}", document.claims);
    }
    let mut outcome: Value = serde_json::from_slice(&read(fixture, &keys.outcome()).await?)?;
    outcome["at"].take();
    let folder = format!("weir/{}/{JOB}/g{}/", fixture.namespace, run.generation);
    let failed = list(fixture, &format!("{folder}failed/")).await?;
    ensure!(!failed.is_empty(), "no attempt has failed");
    Ok((outcome, failed.iter().filter_map(|key| key.strip_prefix(&folder)).map(str::to_owned).collect()))
}

#[tokio::test]
async fn a_run_that_fails_gives_its_claims_back_wherever_the_operator_dies() {
    in_its_place("operator-fails", fails).await;
}

async fn fails(fixture: &Fixture, place: &Place<'_>) -> anyhow::Result<()> {
    let scene = Scene::set(fixture, SETTINGS, None).await?;
    let yaml = scene.job(AUTO).replace(ID, NO_ID);
    ensure!(yaml.contains(NO_ID), "{yaml}");
    let mut run = Run::first(fixture, Course::Fails);
    fixture.apply(&yaml).await?;
    undisturbed_to_its_end(&run, place).await?;
    let (jobs, expected) = (run.made.of(run.generation), recorded(&run).await?);

    let about = "Every row of this job is invalid, so that it fails before it publishes. From the first Job that assembles on the operator, as a \
                 process of its own, suffers one fault at what it puts into the store, and is started again. What is recorded is what an \
                 undisturbed run records, no Job was made but its own, and every claim is given back.";
    let columns = ["run", "faults fired", "operators", "Jobs", "seconds"];
    let mut table = Table::new("d-failing", "The operator dies while a run fails", about, &columns);
    let points = [ONCE, SWAP].into_iter().flat_map(|kind| ["send", "done"].map(|when| format!("{kind}.{when}")));
    let faults =
        points.flat_map(|point| actions(&point).iter().map(|action| Fault { point: point.clone(), hit: 1, action }).collect::<Vec<_>>());
    let mut turns = Turns::new(faults.collect(), |_| true);
    for _ in 0..RUNS_MAX {
        if turns.open().is_empty() {
            break;
        }
        run.generation += 1;
        fixture.patch_job(JOB, json!({"runGeneration": run.generation})).await?;
        let (started, before) = (Instant::now(), turns.fired.len());
        let operator = place.start(IDENTITY, Vec::new(), None)?;
        run.until_made("assemble").await?;
        operator.kill().await?;
        let operators = one_run(&run, place, &mut turns).await.with_context(|| format!("run {}", run.generation))?;
        let (made, found) = (run.made.of(run.generation), recorded(&run).await?);
        ensure!(made == jobs, "run {}: {made:?}, undisturbed {jobs:?}", run.generation);
        ensure!(found == expected, "run {}: {found:?}, undisturbed {expected:?}", run.generation);
        let (fired, seconds) = (turns.fired.len() - before, started.elapsed().as_secs());
        let counts = [fired.to_string(), operators.to_string(), made.len().to_string(), seconds.to_string()];
        table.row(&[&run.generation.to_string(), &counts[0], &counts[1], &counts[2], &counts[3]])?;
    }
    ensure!(turns.open().is_empty(), "{} faults never fired: {:?}", turns.open().len(), turns.open());

    // Mended, it publishes everything.
    run.generation += 1;
    fixture.apply(&scene.job(Job { generation: run.generation, ..AUTO })).await?;
    let operator = place.start(IDENTITY, Vec::new(), None)?;
    let complete = |job: &Value| is_complete(job, run.generation);
    let job = run.watched.until("the mended run is complete", RUN_LIMIT, complete, |_| {}).await?;
    operator.kill().await?;
    Ok(scene.must_agree(None, Some(&job), &[run.generation]).await?)
}

async fn undisturbed_to_its_end(run: &Run<'_>, place: &Place<'_>) -> anyhow::Result<()> {
    let operator = place.start(IDENTITY, Vec::new(), None)?;
    let started = Instant::now();
    while !run.is_over().await? {
        ensure!(started.elapsed() < RUN_LIMIT, "it did not fail: {}", run.watched.look().await);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(operator.kill().await?)
}
