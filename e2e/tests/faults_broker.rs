//! Requests that reach the broker late, and a broker that dies, restarts or is away.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use weir_crds::contract::names::{progress_topic, transactional_id};
use weir_crds::contract::units::Verb;
use weir_e2e::demo::scene::JOB;
use weir_e2e::faults::Error;
use weir_e2e::faults::attempt::{Fault, Harm};
use weir_e2e::faults::inject::{Always, Undisturbed};
use weir_e2e::faults::is_full;
use weir_e2e::faults::job::Endpoints;
use weir_e2e::faults::kafka_proxy::{Api, Held, Hold, KafkaProxy};
use weir_e2e::faults::matrix::{Matrix, Outcome};
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::handles::{Component, Handles};
use weir_e2e::novashop::Settings;
use weir_failpoints::Guard;

const SETTINGS: Settings = Settings { seed: 8, events: 30_000 };

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
    let mut injector = Always { guards_out: vec![Guard::EpochPerTransaction], ..none() };
    let (outcome, held) = held_back(matrix, Api::Commit, 8, &mut injector).await?;
    ensure!(matches!(held, Held::Delivered { .. }), "the request was not delivered: {held:?}");
    let harmed = match outcome {
        Err(Error::RunFailed { .. }) => true,
        outcome => !outcome?.is_right(),
    };
    ensure!(harmed, "one epoch for all transactions did no harm: the guard needs a better test");
    Ok(())
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
        let about = "Done to the broker while every publisher has committed some transactions.";
        let columns = ["what is done"];
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
        weir_e2e::wait::until("publishers have committed", Duration::from_secs(120), async || {
            let records = kafka.read_committed(&progress).await.map_err(anyhow::Error::from)?;
            ensure!(records.len() > 12, "{} records of progress", records.len());
            Ok(())
        })
        .await?;
        match outage {
            Outage::Restart => handles.stop(Component::Kafka)?,
            Outage::Kill => handles.kill(Component::Kafka)?,
            Outage::Away(time) => {
                handles.kill(Component::Kafka)?;
                tokio::time::sleep(time).await;
            }
        }
        handles.start(Component::Kafka).await?;
        anyhow::Ok(())
    };
    let mut undisturbed = Undisturbed::default();
    let (outcome, broken) = tokio::join!(matrix.run_through(&endpoints, &mut undisturbed), break_it);
    broken?;
    Ok(table.run(&[&format!("{outage:?}")], &outcome?)?)
}
