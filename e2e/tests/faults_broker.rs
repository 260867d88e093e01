//! Requests that reach the broker late, and a broker that dies, restarts or is away.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use weir_crds::contract::names::{progress_topic, transactional_id};
use weir_crds::contract::result::FailureCode;
use weir_crds::contract::units::Verb;
use weir_e2e::demo::scene::JOB;
use weir_e2e::faults::Error;
use weir_e2e::faults::attempt::{Fault, Harm};
use weir_e2e::faults::control;
use weir_e2e::faults::inject::{Always, Undisturbed};
use weir_e2e::faults::is_full;
use weir_e2e::faults::job::Endpoints;
use weir_e2e::faults::kafka_proxy::{Api, Held, Hold, KafkaProxy};
use weir_e2e::faults::matrix::{Matrix, Outcome};
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::handles::{Component, Handles};
use weir_e2e::kafka::Kafka;
use weir_e2e::novashop::Settings;
use weir_failpoints::Guard;

const SETTINGS: Settings = Settings { seed: 8, events: 30_000 };
/// Of the target: a publisher each.
const BUCKETS: usize = 3;

fn none() -> Always {
    Always { verb: Verb::Publish, harm: Harm::default(), until: 0, guards_out: Vec::new(), fired: Vec::new() }
}

#[tokio::test]
async fn what_reaches_the_broker_late_changes_nothing() {
    fixture::run("late", async |fixture| {
        let mut matrix = Matrix::set(Site::set(fixture, SETTINGS).await?).await?;
        let about = "A proxy before the broker holds one request back, closes its connection, and delivers it on another one in the \
                     middle of a later transaction, between its records and its progress.";
        let columns = ["request", "delivered", "the broker's code"];
        let mut table = Table::of_runs("8-late", "Requests that come late", about, &columns);
        for (api, number) in [(Api::Commit, 8), (Api::Commit, 11), (Api::Produce, 14), (Api::Produce, 17), (Api::Abort, 1)] {
            late(&mut matrix, &mut table, api, number).await.with_context(|| format!("{api:?} {number}"))?;
        }
        without_an_epoch_each(&mut matrix).await
    })
    .await;
}

/// What the worker suffers besides: nobody aborts a transaction unless something is wrong with it.
fn harm_for(api: Api) -> Harm {
    match api {
        Api::Produce | Api::Commit => Harm::default(),
        Api::Abort => Harm { faults: vec![Fault { point: "kafka.deliver.done".to_owned(), hit: 10, action: "lose" }], ..Harm::default() },
    }
}

async fn late(matrix: &mut Matrix<'_>, table: &mut Table, api: Api, number: u64) -> anyhow::Result<()> {
    let mut injector = Always { harm: harm_for(api), until: 1, ..none() };
    let (outcome, held) = held_back(matrix, api, number, &mut injector).await?;
    let outcome = outcome?;
    let Held::Delivered { code } = held else { anyhow::bail!("the request was not delivered: {held:?}") };
    let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
    Ok(table.run(&[&format!("{api:?} {number}"), "yes", &code], &outcome)?)
}

async fn held_back(
    matrix: &mut Matrix<'_>,
    api: Api,
    number: u64,
    injector: &mut Always,
) -> anyhow::Result<(Result<Outcome, Error>, Held)> {
    let real = Endpoints::real(&matrix.site)?;
    // The proxy must know whose requests to look at before the job is there.
    let namespace = matrix.next_namespace();
    let proxy = KafkaProxy::start(Hold { api, number, id: transactional_id(&namespace, JOB, "events-") }).await?;
    let outcome = matrix.run_through(&Endpoints { kafka: proxy.bootstrap(), ..real }, injector).await;
    Ok((outcome, proxy.held()))
}

/// With one epoch for all transactions of a producer, the late end of one ends another.
async fn without_an_epoch_each(matrix: &mut Matrix<'_>) -> anyhow::Result<()> {
    let guard = Guard::EpochPerTransaction;
    let mut injector = Always { guards_out: vec![guard], ..none() };
    let (outcome, held) = held_back(matrix, Api::Commit, 8, &mut injector).await?;
    ensure!(matches!(held, Held::Delivered { .. }), "the request was not delivered: {held:?}");
    let mut table = control::table("8-late-control", "What an epoch for each transaction is for");
    control::must_harm(&mut table, guard, &injector.fired, outcome, FailureCode::VerifyMismatch)
}

/// What is done to the broker in the middle of publishing.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Restart,
    Kill,
    Away(Duration),
}

#[tokio::test]
async fn a_broker_that_dies_or_is_away_costs_time_and_nothing_else() {
    fixture::run("broker", async |fixture| {
        let mut matrix = Matrix::set(Site::set(fixture, SETTINGS).await?).await?;
        let handles = Handles::of(&fixture.cluster)?;
        let about = "Done to the broker while every publisher has committed some transactions and has others to commit.";
        let columns = ["what is done", "progress records before"];
        let mut table = Table::of_runs("9-broker", "A broker that dies or is away", about, &columns);
        let away = Duration::from_secs(if is_full() { 120 } else { 20 });
        for outage in [Outage::Restart, Outage::Kill, Outage::Kill, Outage::Away(away)] {
            let name = format!("{outage:?}");
            out(&mut matrix, &handles, &mut table, outage).await.context(name)?;
        }
        Ok(())
    })
    .await;
}

async fn out(matrix: &mut Matrix<'_>, handles: &Handles, table: &mut Table, outage: Outage) -> anyhow::Result<()> {
    let namespace = matrix.next_namespace();
    let endpoints = Endpoints::real(&matrix.site)?;
    let progress = progress_topic(&namespace);
    let kafka = matrix.site.fixture.cluster.kafka.clone();
    let break_it = async {
        // Every bucket has its zero record and some more.
        let before = until_more_than(&kafka, &progress, 12, "publishers have committed").await?;
        match outage {
            Outage::Restart => handles.stop(Component::Kafka)?,
            Outage::Kill => handles.kill(Component::Kafka)?,
            Outage::Away(time) => {
                handles.kill(Component::Kafka)?;
                tokio::time::sleep(time).await;
            }
        }
        handles.start(Component::Kafka).await?;
        // Each publisher may have committed once more while the broker went.
        until_more_than(&kafka, &progress, before + BUCKETS, "publishers go on").await?;
        anyhow::Ok(before)
    };
    let mut undisturbed = Undisturbed::default();
    let (outcome, broken) = tokio::join!(matrix.run_through(&endpoints, &mut undisturbed), break_it);
    let before = broken?.to_string();
    Ok(table.run(&[&format!("{outage:?}"), &before], &outcome?)?)
}

/// Returns how many there are.
async fn until_more_than(kafka: &Kafka, progress: &str, count: usize, what: &str) -> anyhow::Result<usize> {
    let more = async || {
        let records = kafka.read_committed(progress).await.map_err(anyhow::Error::from)?;
        ensure!(records.len() > count, "{} records of progress", records.len());
        Ok(records.len())
    };
    Ok(weir_e2e::wait::until(what, Duration::from_secs(120), more).await?)
}
