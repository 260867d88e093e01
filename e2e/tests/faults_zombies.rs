//! Workers that sleep through their own replacement, and two workers for one item: whoever comes late commits nothing.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use weir_crds::contract::result::FailureCode;
use weir_crds::contract::units::Verb;
use weir_e2e::faults::attempt::{self, Attempt, End, Fault, Harm, Running};
use weir_e2e::faults::inject::Undisturbed;
use weir_e2e::faults::is_full;
use weir_e2e::faults::job::{Endpoints, Job};
use weir_e2e::faults::matrix::Matrix;
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::novashop::Settings;
use weir_e2e::supervisor::Signal;

const SETTINGS: Settings = Settings { seed: 6, events: 30_000 };
/// Attempts that we start ourselves have numbers that the driver does not come to.
const OWN_NUMBER: u32 = 900;
/// The pause after which a process that was stopped in it goes on at once when it is continued.
const HELD_UP: &str = "pause=1000";

/// Where a publisher of two buckets falls asleep: the point, the hit, and whether it finds out that somebody else holds the
/// bucket. One that had not taken it over yet, or had nothing left to commit, may find everything done. From the seventh
/// initialisation on it is the thread that renews producers.
const PLACES: [(&str, u64, bool); 11] = [
    ("kafka.signed-in", 1, false),
    ("kafka.init.done", 1, false),
    ("kafka.progress-read", 2, true),
    ("kafka.init.done", 8, true),
    ("kafka.init.send", 8, true),
    ("kafka.begin.done", 6, true),
    ("kafka.commit.send", 6, true),
    ("kafka.commit.done", 6, true),
    ("kafka.deliver.done", 9, true),
    ("kafka.deliver.done", 10, true),
    ("store.once.send", 5, false),
];
/// Of these, one of so many where time is short.
const PLACES_STEP: usize = 3;

fn at(point: &str, hit: u64, action: &'static str) -> Harm {
    Harm { faults: vec![Fault { point: point.to_owned(), hit, action }], ..Harm::default() }
}

fn codes(attempt: &Attempt) -> BTreeSet<String> {
    match &attempt.end {
        End::Failed(failures) => failures.iter().map(|failure| format!("{:?}", failure.code)).collect(),
        End::Done | End::Killed | End::Mute(_) => BTreeSet::new(),
    }
}

fn code(code: FailureCode) -> String {
    format!("{code:?}")
}

/// Starts a publisher that falls asleep at a point.
async fn asleep(job: &Job, unit: &str, harm: Harm) -> anyhow::Result<Running> {
    let mut sleeper = attempt::start(job, unit, Verb::Publish, OWN_NUMBER, harm)?;
    ensure!(sleeper.until_fired().await?, "it never came to where it was to fall asleep");
    sleeper.signal(Signal::STOP)?;
    Ok(sleeper)
}

#[tokio::test]
async fn whoever_comes_late_commits_nothing() {
    fixture::run("zombies", async |fixture| {
        let mut matrix = Matrix::set(Site::set(fixture, SETTINGS).await?).await?;
        sleepers(&mut matrix).await?;
        old_generation(&mut matrix).await?;
        twins(&mut matrix).await
    })
    .await;
}

/// Stopped, replaced, everything published, continued.
async fn sleepers(matrix: &mut Matrix<'_>) -> anyhow::Result<()> {
    let about = "A publisher is stopped (SIGSTOP) at a failpoint, replaced, and continued (SIGCONT) when everything is published.";
    let mut table = Table::of_runs("4-sleepers", "Workers that sleep through their replacement", about, &["asleep at", "it ended with"]);
    for (point, hit, is_fenced) in PLACES.into_iter().step_by(if is_full() { 1 } else { PLACES_STEP }) {
        let (job, unit) = matrix.up_to(Verb::Publish).await?;
        let sleeper = asleep(&job, &unit, at(point, hit, HELD_UP)).await.with_context(|| format!("{point}:{hit}"))?;
        let before = matrix.the_rest(&job, &mut Undisturbed::default()).await?;
        ensure!(before.is_right(), "with {point} asleep: {}", before.differences);
        sleeper.signal(Signal::CONT)?;
        let woken = sleeper.end().await?;
        ensure!(!is_fenced || codes(&woken).contains(&code(FailureCode::Fenced)), "{point}: {woken}");
        ensure!(codes(&woken).iter().all(|ended| *ended == code(FailureCode::Fenced)), "{point}: {woken}");
        let outcome = matrix.judge(&job, before.report).await?;
        let ended = if codes(&woken).is_empty() { "nothing to do".to_owned() } else { codes(&woken).into_iter().collect() };
        table.run(&[&format!("{point}:{hit}"), &ended], &outcome)?;
        job.remove(&matrix.site).await?;
    }
    Ok(())
}

/// The sleeper belongs to a generation that is over when it wakes.
async fn old_generation(matrix: &mut Matrix<'_>) -> anyhow::Result<()> {
    let about = "A publisher is stopped, `runGeneration` is raised, and the publisher is continued when the new run is done.";
    let mut table =
        Table::of_runs("5-generations", "An old generation's worker that wakes in the new one", about, &["asleep at", "it ended with"]);
    let places = [("kafka.commit.send", 6), ("kafka.signed-in", 1), ("kafka.init.done", 8), ("kafka.deliver.done", 9)];
    for (point, hit) in places.into_iter().take(if is_full() { 4 } else { 1 }) {
        let (job, unit) = matrix.up_to(Verb::Publish).await?;
        let sleeper = asleep(&job, &unit, at(point, hit, HELD_UP)).await?;
        let again = job.again(&matrix.site, &Endpoints::real(&matrix.site)?).await?;
        let before = matrix.the_rest(&again, &mut Undisturbed::default()).await?;
        ensure!(before.is_right(), "with {point} asleep: {}", before.differences);
        sleeper.signal(Signal::CONT)?;
        let woken = sleeper.end().await?;
        let (ended, over) = (codes(&woken), [code(FailureCode::Fenced), code(FailureCode::Superseded)]);
        ensure!(!ended.is_empty() && ended.iter().all(|code| over.contains(code)), "{point}: {woken}");
        let outcome = matrix.judge(&again, before.report).await?;
        let ended = ended.into_iter().collect::<Vec<_>>().join(", ");
        table.run(&[&format!("{point}:{hit}"), &ended], &outcome)?;
        job.remove(&matrix.site).await?;
    }
    Ok(())
}

/// Two workers for one unit at a time.
async fn twins(matrix: &mut Matrix<'_>) -> anyhow::Result<()> {
    let about = "Two workers are started for the first unit of a verb at once.";
    let mut table = Table::of_runs("6-twins", "Two workers for one item", about, &["verb", "they ended with"]);
    for verb in [Verb::Plan, Verb::Extract, Verb::Assemble, Verb::Publish, Verb::Verify] {
        let (job, unit) = matrix.up_to(verb).await?;
        let twin = |number| attempt::start(&job, &unit, verb, number, Harm::default());
        let (one, other) = (twin(OWN_NUMBER)?, twin(OWN_NUMBER + 1)?);
        let (one, other) = (one.end().await?, other.end().await?);
        for twin in [&one, &other] {
            let yielded = codes(twin).iter().all(|ended| *ended == code(FailureCode::Fenced));
            ensure!(yielded && !matches!(twin.end, End::Mute(_)), "{verb}: {twin}");
        }
        let outcome = matrix.the_rest(&job, &mut Undisturbed::default()).await?;
        let ended = [one, other].map(|twin| if codes(&twin).is_empty() { "done" } else { "fenced" }).join(", ");
        table.run(&[verb.as_str(), &ended], &outcome)?;
        job.remove(&matrix.site).await?;
    }
    Ok(())
}
