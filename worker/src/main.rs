//! `weir-worker <verb>`: does one unit of work of a run, leaves a termination message, and ends.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use weir_crds::contract::{
    result::{Failure, FailureCode, WorkerResult},
    units::{PLAN_UNIT, Verb},
};
use weir_worker::{
    plan,
    progress::{Counters, Reporter},
    run::Run,
    termination, work,
};

/// How long a publisher that was asked to stop may take to end its transaction: longer than a commit takes to be given
/// up, shorter than Kubernetes waits before it kills.
const STOP_GRACE: Duration = Duration::from_secs(25);

#[derive(Parser)]
#[command(name = "weir-worker", version, about = "Does one unit of work of a weir run")]
struct Cli {
    #[command(subcommand)]
    verb: CliVerb,
}

#[derive(Subcommand)]
enum CliVerb {
    /// Find out and pin everything that the run will do.
    Plan {
        /// Print what would be read and written, and write nothing.
        #[arg(long)]
        dry_run: bool,
        /// With --dry-run: take run.json from this file instead of the artifact store.
        #[arg(long, requires = "dry_run")]
        run_json: Option<PathBuf>,
    },
    /// Read chunks of a source and keep the rows of the window.
    Extract(UnitArgs),
    /// Drop duplicates and stage the records of slices.
    Assemble(UnitArgs),
    /// Publish staged slices.
    Publish(UnitArgs),
    /// Compare what readers see with what was published.
    Verify(UnitArgs),
}

#[derive(clap::Args)]
struct UnitArgs {
    /// The unit of work; default: the one that WEIR_CONTEXT names.
    #[arg(long)]
    unit: Option<String>,
}

impl CliVerb {
    fn verb(&self) -> (Verb, Option<String>) {
        match self {
            Self::Plan { .. } => (Verb::Plan, Some(PLAN_UNIT.to_owned())),
            Self::Extract(args) => (Verb::Extract, args.unit.clone()),
            Self::Assemble(args) => (Verb::Assemble, args.unit.clone()),
            Self::Publish(args) => (Verb::Publish, args.unit.clone()),
            Self::Verify(args) => (Verb::Verify, args.unit.clone()),
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    // Before anything else: the first TLS client takes whatever provider there is.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before main"))?;
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    if let CliVerb::Plan { dry_run: true, run_json } = &cli.verb {
        runtime.block_on(dry_run(run_json.as_deref()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let result = runtime.block_on(run(&cli.verb))?;
    termination::write(&result);
    tracing::info!(result = result.to_message(), "ended");
    // A thread that still waits for a broker must not keep the process: whatever it has open is not committed.
    runtime.shutdown_background();
    Ok(ExitCode::from(termination::exit_code(&result)))
}

/// Shows the plan that would be made.
#[expect(clippy::print_stdout, reason = "it is what the command is for")]
async fn dry_run(run_json: Option<&Path>) -> anyhow::Result<()> {
    let run = Run::load(Some(PLAN_UNIT.to_owned()), run_json).await?;
    let draft = plan::draft(&run).await?;
    print!("{}", plan::preview(&draft.plan));
    Ok(())
}

/// Does the unit, or stops when asked to.
async fn run(cli_verb: &CliVerb) -> anyhow::Result<WorkerResult> {
    let (verb, unit) = cli_verb.verb();
    let stop = CancellationToken::new();
    watch_signals(&stop)?;
    let counters = Counters::default();
    let run = match Run::load(unit, None).await {
        Ok(run) => run,
        Err(error) => return Ok(result("", 0, &counters, vec![termination::failure(None, &error)])),
    };
    let (unit, attempt) = (run.context.unit.clone(), run.context.attempt);
    let reporter = Reporter::start(&run, &counters);
    let work = unit_of(run, verb, &counters, &stop);
    let failures = tokio::select! {
        failures = work => failures,
        () = given_up(verb, &stop) => vec![interrupted()],
    };
    reporter.stop().await;
    Ok(result(&unit, attempt, &counters, failures))
}

async fn unit_of(run: Run, verb: Verb, counters: &Counters, stop: &CancellationToken) -> Vec<Failure> {
    let unit = run.context.unit.clone();
    if verb == Verb::Plan {
        return work::plan(&run, counters).await;
    }
    let planned = match run.planned().await {
        Ok(planned) => planned,
        Err(error) => return vec![termination::failure(None, &error)],
    };
    match work::find(&planned.plan, &unit, verb) {
        Ok(unit) => work::run(&planned, &unit, counters, stop).await,
        Err(error) => vec![termination::failure(None, &error)],
    }
}

fn watch_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Returns when the work is to be left as it is. A publisher gets time to end its transaction; the other verbs have
/// nothing open that counts: what has no manifest does not exist.
async fn given_up(verb: Verb, stop: &CancellationToken) {
    stop.cancelled().await;
    match verb {
        Verb::Publish => tokio::time::sleep(STOP_GRACE).await,
        Verb::Plan | Verb::Extract | Verb::Assemble | Verb::Verify => {}
    }
}

fn interrupted() -> Failure {
    let code = FailureCode::Interrupted;
    Failure { code, item: None, field: None, cause: "asked to stop".to_owned(), remedy: termination::remedy(code).to_owned() }
}

fn result(unit: &str, attempt: u32, counters: &Counters, failures: Vec<Failure>) -> WorkerResult {
    WorkerResult { unit: unit.to_owned(), attempt, items_done: counters.items_done(), failures }
}
