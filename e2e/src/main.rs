//! `weir-e2e`: the local cluster from the command line. What it prints on its standard output is for scripts; what happens
//! meanwhile goes to standard error.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use weir_e2e::access::Cluster;
use weir_e2e::environment::Environment;
use weir_e2e::layout::Layout;
use weir_e2e::novashop::Settings;
use weir_e2e::{cluster, demo, deploy, faults, images};

/// A two-node Kubernetes cluster with Kafka, S3 and PostgreSQL, from package registries alone.
#[derive(Debug, Parser)]
#[command(name = "weir-e2e")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring the cluster up and print the path of its env file.
    Up,
    /// Take the cluster down and leave nothing behind.
    Down,
    /// Build the images of operator and worker, load them on both nodes, and print their names.
    Images,
    /// Put the operator into the cluster and wait until it is ready.
    Deploy,
    /// Print what the tests of the fault matrix have written down, for the book.
    FaultTables,
    /// Lose events, and get them back.
    Demo {
        /// How many events.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// From which the log follows.
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// Workers at a time.
        #[arg(long, default_value_t = 2)]
        parallelism: u32,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The client tells each failed call; while a component starts, that is all of them.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr).init();
    let layout = Layout::from_environment();
    match Arguments::parse().verb {
        Verb::Up => {
            let path = cluster::up(&layout).await?;
            writeln!(std::io::stdout(), "{}", path.display()).context("cannot print the path")?;
        }
        Verb::Down => cluster::down(&layout).await?,
        // Another's cluster gets its images by another's hand; the environment names them.
        Verb::Images if Environment::load()?.is_external() => {}
        Verb::Images => {
            for reference in images::load(&layout).await? {
                writeln!(std::io::stdout(), "{reference}").context("cannot print an image's name")?;
            }
        }
        Verb::FaultTables => {
            let tables = faults::table::collect(&faults::table::folder(&layout))?;
            write!(std::io::stdout(), "{tables}").context("cannot print the tables")?;
        }
        Verb::Deploy => deploy::deploy(&layout, &Cluster::connect().await?).await?,
        Verb::Demo { events, seed, parallelism } => {
            demo::run(&layout, demo::Options { settings: Settings { seed, events }, parallelism }).await?;
        }
    }
    Ok(())
}
