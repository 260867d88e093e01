//! What the guards are for: with one of them taken out, the matrix finds harm where it finds none otherwise. An epoch for
//! each transaction and reading back are taken out beside the faults that they are against.

use std::time::Duration;

use anyhow::ensure;
use weir_crds::contract::units::Verb;
use weir_e2e::faults::Error;
use weir_e2e::faults::attempt::{self, Fault, Harm};
use weir_e2e::faults::inject::{Always, Undisturbed};
use weir_e2e::faults::job::create_target;
use weir_e2e::faults::matrix::{Matrix, Outcome};
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::novashop::Settings;
use weir_e2e::supervisor::Signal;
use weir_failpoints::Guard;

const SETTINGS: Settings = Settings { seed: 9, events: 30_000 };
/// Attempts that we start ourselves have numbers that the driver does not come to.
const OWN_NUMBER: u32 = 900;
/// On a busy machine a fault may come too late to do what it is to do.
const TRIES: u32 = 4;

fn fault(point: &str, hit: u64, action: &'static str) -> Fault {
    Fault { point: point.to_owned(), hit, action }
}

/// A publisher that dies when the broker has just committed, in its first attempts.
fn dies_after_committing(guards_out: Vec<Guard>) -> Always {
    let fault = fault("kafka.commit.done", 6, "kill");
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

        let guard = Guard::FenceBeforeReading;
        let with = replaced_in_a_transaction(&mut matrix, Vec::new()).await?;
        ensure!(with.is_none(), "{with:?}");
        let (mut without, mut tries) = (None, 0);
        while without.is_none() && tries < TRIES {
            without = replaced_in_a_transaction(&mut matrix, vec![guard]).await?;
            tries += 1;
        }
        judge(&mut table, guard, "nothing", without)?;

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

/// A publisher is held up within a transaction while its replacement reads how far it came, and dies as soon as it has
/// committed, before it can say so anywhere else. If the replacement fences it only then, what it committed comes twice.
async fn replaced_in_a_transaction(matrix: &mut Matrix<'_>, guards_out: Vec<Guard>) -> anyhow::Result<Option<String>> {
    let (job, unit) = matrix.up_to(Verb::Publish).await?;
    let start = |number, harm| attempt::start(&job, &unit, Verb::Publish, number, harm);
    let held_up = vec![fault("kafka.begin.done", 6, "pause=1000"), fault("kafka.commit.done", 6, "kill")];
    let mut first = start(OWN_NUMBER, Harm { faults: held_up, ..Harm::default() })?;
    ensure!(first.until_fired().await?, "it never began the transaction that it was to be held up in");
    first.signal(Signal::STOP)?;
    // Both of its buckets' threads.
    let reads = vec![fault("kafka.progress-read", 1, "pause=5000"), fault("kafka.progress-read", 2, "pause=5000")];
    let is_out = !guards_out.is_empty();
    let mut replacement = start(OWN_NUMBER + 1, Harm { faults: reads, guards_out, ..Harm::default() })?;
    ensure!(replacement.until_fired().await?, "the replacement never read progress");
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.signal(Signal::CONT)?;
    let (_, replaced) = (first.end().await?, replacement.end().await?);
    ensure!(!is_out || replaced.fired.iter().any(|fired| fired.point.starts_with("guard:")), "the guard was asked nothing");
    let found = harm(matrix.the_rest(&job, &mut Undisturbed::default()).await)?;
    job.remove(&matrix.site).await?;
    Ok(found)
}

/// In the middle of publishing the topic is deleted, and another one takes its name.
async fn onto_another_topic(matrix: &mut Matrix<'_>, guards_out: Vec<Guard>) -> anyhow::Result<(Option<String>, Always)> {
    let (job, unit) = matrix.up_to(Verb::Publish).await?;
    let harm_once = Harm { faults: vec![fault("kafka.commit.done", 8, "kill")], ..Harm::default() };
    attempt::run(job.clone(), unit, Verb::Publish, OWN_NUMBER, harm_once).await?;
    let kafka = &matrix.site.fixture.cluster.kafka;
    kafka.delete_topics(|topic| topic == job.topic).await?;
    weir_e2e::wait::until("the topic can be made again", Duration::from_secs(30), async || create_target(kafka, &job.topic).await).await?;
    let mut injector = Always { verb: Verb::Publish, harm: Harm::default(), until: 0, guards_out, fired: Vec::new() };
    let found = harm(matrix.the_rest(&job, &mut injector).await)?;
    job.remove(&matrix.site).await?;
    Ok((found, injector))
}
