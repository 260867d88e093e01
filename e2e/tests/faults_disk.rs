//! A disk that is full while a worker writes to it: the kernel refuses, not the worker's own count of what it may use.

use std::path::Path;

use anyhow::{Context as _, ensure};
use weir_crds::contract::result::FailureCode;
use weir_crds::contract::run::{MEMORY_BYTES_ENV, SCRATCH_ENV};
use weir_crds::contract::units::Verb;
use weir_e2e::faults::attempt::{self, Attempt, End, Harm};
use weir_e2e::faults::disk::Disk;
use weir_e2e::faults::inject::Undisturbed;
use weir_e2e::faults::job::Job;
use weir_e2e::faults::matrix::Matrix;
use weir_e2e::faults::site::Site;
use weir_e2e::faults::table::Table;
use weir_e2e::fixture;
use weir_e2e::novashop::Settings;

const SETTINGS: Settings = Settings { seed: 12, events: 30_000 };
/// A page: less than a chunk's rows, or those of the smallest slice.
const LITTLE: &str = "4k";
const ENOUGH: &str = "64m";
/// So little that rows are sorted on the disk.
const MEMORY_BYTES: u64 = 16 * 1024;
/// Attempts that we start ourselves have numbers that the driver does not come to.
const OWN_NUMBER: u32 = 900;

#[tokio::test]
async fn a_full_disk_is_a_reason_and_the_next_attempt_goes_on() {
    fixture::run("disk", async |fixture| {
        let mut matrix = Matrix::set(Site::set(fixture, SETTINGS).await?).await?;
        let about = "The worker's scratch folder is on a file system of 4 KiB, and then of 64 MiB for the next attempt.";
        let mut table = Table::of_runs("l-disk", "A disk that is full", about, &["verb", "it said"]);
        // Those that write to it: what is published and verified of a slice this small stays in memory.
        for verb in [Verb::Extract, Verb::Assemble] {
            let (job, unit) = matrix.up_to(verb).await?;
            let disk = Disk::mount(matrix.site.path(verb.as_str()), LITTLE).await?;
            let said = must_say_so(&on_disk(&job, &unit, verb, OWN_NUMBER, &disk).await?)?;
            ensure!(is_empty(disk.path())?, "it left its files on the disk");
            disk.resize(ENOUGH).await?;
            let next = on_disk(&job, &unit, verb, OWN_NUMBER + 1, &disk).await?;
            ensure!(matches!(next.end, End::Done), "with room: {next}");
            let outcome = matrix.the_rest(&job, &mut Undisturbed::default()).await.with_context(|| format!("{verb}"))?;
            table.run(&[verb.as_str(), &said], &outcome)?;
            job.remove(&matrix.site).await?;
        }
        Ok(())
    })
    .await;
}

async fn on_disk(job: &Job, unit: &str, verb: Verb, number: u32, disk: &Disk) -> anyhow::Result<Attempt> {
    let variables = vec![(SCRATCH_ENV, disk.path().display().to_string()), (MEMORY_BYTES_ENV, MEMORY_BYTES.to_string())];
    Ok(attempt::run(job.clone(), unit.to_owned(), verb, number, Harm { variables, ..Harm::default() }).await?)
}

/// What it says: that the disk is full, which disk that is, and what to do about it.
fn must_say_so(attempt: &Attempt) -> anyhow::Result<String> {
    let End::Failed(failures) = &attempt.end else { anyhow::bail!("it did not fail: {attempt}") };
    let failure = failures.first().context("it failed and did not say why")?;
    ensure!(failure.code == FailureCode::ScratchFull && failure.remedy.contains("scratch"), "{failure:?}");
    ensure!(failure.cause.contains("scratch") && failure.cause.contains("No space left on device"), "{failure:?}");
    Ok(failure.cause.clone())
}

fn is_empty(folder: &Path) -> std::io::Result<bool> {
    Ok(std::fs::read_dir(folder)?.next().is_none())
}
