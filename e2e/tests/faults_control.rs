//! What the guards are for: with one of them taken out, the matrix finds harm where it finds none otherwise. Fencing first,
//! an epoch for each transaction and reading back are taken out beside the faults that they are against.

use anyhow::ensure;
use weir_crds::contract::units::Verb;
use weir_e2e::faults::Error;
use weir_e2e::faults::attempt::{Fault, Harm};
use weir_e2e::faults::inject::Always;
use weir_e2e::faults::job::create_target;
use weir_e2e::faults::matrix::{Matrix, Outcome};
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::novashop::Settings;
use weir_failpoints::Guard;

const SETTINGS: Settings = Settings { seed: 9, events: 30_000 };

/// A publisher that dies when the broker has just committed, in its first attempts.
fn dies_after_committing(guards_out: Vec<Guard>) -> Always {
    let fault = Fault { point: "kafka.commit.done".to_owned(), hit: 6, action: "kill" };
    Always { verb: Verb::Publish, harm: Harm { faults: vec![fault], ..Harm::default() }, until: 2, guards_out, fired: Vec::new() }
}

fn was_asked(injector: &Always, guard: Guard) -> bool {
    injector.fired.iter().any(|fired| fired.point == format!("guard:{}", guard.name()))
}

/// What the matrix finds; `None`: nothing.
fn harm(outcome: Result<Outcome, Error>) -> Result<Option<String>, Error> {
    match outcome {
        Err(Error::RunFailed { failures, .. }) => Ok(Some(format!("the run fails: {failures}"))),
        Err(error) => Err(error),
        Ok(outcome) => Ok((!outcome.is_right()).then(|| outcome.differences.to_string())),
    }
}

#[tokio::test]
async fn each_guard_keeps_a_promise() {
    fixture::run("control", async |fixture| {
        let mut matrix = Matrix::set(Site::set(fixture, SETTINGS).await?).await?;
        let about = "The same fault, with all guards in place and with one of them taken out.";
        let columns = ["guard", "with all guards", "without it"];
        let mut table = Table::new("a-control", "What the guards are for", about, &columns);

        let guard = Guard::ProgressInTransaction;
        let with = harm(matrix.run(&mut dies_after_committing(Vec::new())).await)?;
        let mut without_it = dies_after_committing(vec![guard]);
        let without = harm(matrix.run(&mut without_it).await)?;
        ensure!(with.is_none() && was_asked(&without_it, guard), "{with:?}");
        judge(&mut table, guard, "nothing", without)?;

        let guard = Guard::Pins;
        let (with, _) = onto_another_topic(&mut matrix, Vec::new()).await?;
        let with = with.unwrap_or_default();
        ensure!(with.contains("TargetChanged"), "it published to a topic that it was not planned for: {with}");
        let (without, without_it) = onto_another_topic(&mut matrix, vec![guard]).await?;
        ensure!(was_asked(&without_it, guard), "the guard was asked nothing");
        let is_right = without.as_deref().is_some_and(|harm| harm.contains("lost") || harm.contains("VerifyMismatch"));
        judge(&mut table, guard, "the run stops before it writes: TargetChanged", without.filter(|_| is_right))
    })
    .await;
}

fn judge(table: &mut Table, guard: Guard, with: &str, without: Option<String>) -> anyhow::Result<()> {
    let Some(harm) = without else { anyhow::bail!("nothing notices the absence of {}: it needs a better test", guard.name()) };
    Ok(table.row(&[guard.name(), with, &harm])?)
}

/// In the middle of publishing the topic is deleted, and another one takes its name.
async fn onto_another_topic(matrix: &mut Matrix<'_>, guards_out: Vec<Guard>) -> anyhow::Result<(Option<String>, Always)> {
    let (job, unit) = matrix.up_to(Verb::Publish).await?;
    let fault = Fault { point: "kafka.commit.done".to_owned(), hit: 8, action: "kill" };
    let harm_once = Harm { faults: vec![fault], ..Harm::default() };
    weir_e2e::faults::attempt::run(job.clone(), unit, Verb::Publish, 900, harm_once).await?;
    let kafka = &matrix.site.fixture.cluster.kafka;
    kafka.delete_topics(|topic| topic == job.topic).await?;
    weir_e2e::wait::until("the topic can be made again", std::time::Duration::from_secs(30), async || {
        create_target(kafka, &job.topic).await
    })
    .await?;
    let mut injector = Always { verb: Verb::Publish, harm: Harm::default(), until: 0, guards_out, fired: Vec::new() };
    let found = harm(matrix.the_rest(&job, &mut injector).await)?;
    job.remove(&matrix.site).await?;
    Ok((found, injector))
}
