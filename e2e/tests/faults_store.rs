//! A store that is bad to its clients: errors, slow-downs, answers that are lost or never come, and nobody there at all.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Method;
use weir_crds::contract::result::FailureCode;
use weir_crds::contract::units::Verb;
use weir_e2e::faults::attempt::Harm;
use weir_e2e::faults::control;
use weir_e2e::faults::http::{HttpProxy, Trouble, Weather};
use weir_e2e::faults::inject::{Always, Undisturbed};
use weir_e2e::faults::is_full;
use weir_e2e::faults::job::Endpoints;
use weir_e2e::faults::matrix::Matrix;
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::novashop::Settings;
use weir_failpoints::Guard;

const SETTINGS: Settings = Settings { seed: 7, events: 30_000 };
const SEED: u64 = 7;
/// A tenth of all requests.
const TENTH: u64 = 100;

fn tenth(troubles: &[Trouble]) -> Weather {
    Weather { per_mille: TENTH, troubles: troubles.to_vec(), ..Weather::default() }
}

#[tokio::test]
async fn a_bad_store_costs_time_and_nothing_else() {
    fixture::run("store", async |fixture| {
        let mut matrix = Matrix::set(Site::set(fixture, SETTINGS).await?).await?;
        let about = "A proxy before the S3 server, for source and artifacts alike, for the whole run.";
        let columns = ["what it does", "requests", "of them troubled"];
        let mut table = Table::of_runs("7-store", "A store that is bad to its clients", about, &columns);
        let mut weathers = vec![
            ("500, 503 and slow-downs to a tenth", tenth(&[Trouble::Refuse(500), Trouble::Refuse(503)])),
            ("a tenth take effect and are answered 500", tenth(&[Trouble::RefuseAfter(500)])),
            ("answers to a tenth are lost", tenth(&[Trouble::LoseAnswer])),
        ];
        if is_full() {
            // Each costs the client's patience, a minute.
            let hang = Weather { per_mille: 20, troubles: vec![Trouble::Hang], most: Some(4), ..Weather::default() };
            weathers.push(("four requests are never answered", hang));
        }
        for (name, weather) in weathers {
            bad(&mut matrix, &mut table, name, weather, None).await.context(name)?;
        }
        let away = Duration::from_secs(if is_full() { 120 } else { 20 });
        let name = format!("it is away for {} s", away.as_secs());
        bad(&mut matrix, &mut table, &name, Weather::default(), Some(away)).await.context(name)?;
        without_reading_back(&mut matrix).await
    })
    .await;
}

/// A run through a bad store; `away`: in its middle nobody is there for so long.
async fn bad(matrix: &mut Matrix<'_>, table: &mut Table, name: &str, weather: Weather, away: Option<Duration>) -> anyhow::Result<()> {
    let endpoints = Endpoints::real(&matrix.site)?;
    let proxy = HttpProxy::before(&endpoints.store, SEED).await?;
    proxy.set(weather);
    let endpoints = Endpoints { store: proxy.endpoint.clone(), source: proxy.endpoint.clone(), ..endpoints };
    let middle = matrix.took / 3;
    let outage = async {
        let Some(away) = away else { return };
        tokio::time::sleep(middle).await;
        proxy.set(Weather { is_away: true, ..Weather::default() });
        tokio::time::sleep(away).await;
        proxy.set(Weather::default());
    };
    let mut undisturbed = Undisturbed::default();
    let (outcome, ()) = tokio::join!(matrix.run_through(&endpoints, &mut undisturbed), outage);
    let outcome = outcome?;
    let (requests, troubled) = proxy.told();
    ensure!(!troubled.is_empty(), "no request got into trouble");
    let troubled = troubled.iter().map(|(trouble, count)| format!("{trouble}: {count}")).collect::<Vec<_>>().join(", ");
    Ok(table.run(&[name, &requests.to_string(), &troubled], &outcome)?)
}

/// With the guard taken out, a write whose answer was lost meets its own traces and takes them for somebody else's.
async fn without_reading_back(matrix: &mut Matrix<'_>) -> anyhow::Result<()> {
    let endpoints = Endpoints::real(&matrix.site)?;
    let proxy = HttpProxy::before(&endpoints.store, SEED).await?;
    proxy.set(Weather { method: Some(Method::PUT), ..tenth(&[Trouble::LoseAnswer]) });
    let endpoints = Endpoints { store: proxy.endpoint.clone(), ..endpoints };
    let guard = Guard::ReadBack;
    let mut always = Always { verb: Verb::Plan, harm: Harm::default(), until: 0, guards_out: vec![guard], fired: Vec::new() };
    let outcome = matrix.run_through(&endpoints, &mut always).await;
    let mut table = control::table("7-store-control", "What reading back is for");
    control::must_harm(&mut table, guard, &always.fired, outcome, FailureCode::ArtifactCorrupt)
}
