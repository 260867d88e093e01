//! Starts the operator: a TLS provider, settings, logs, and then whatever [`weir_operator::controllers::serve`] does. Or
//! looks at an audit log.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use weir_operator::{audit, controllers, settings::Settings};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Before anything that could make a TLS client: there is one provider in this process.
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| anyhow::anyhow!("there is a TLS provider already"))?;
    if std::env::args().nth(1).as_deref() == Some("audit") {
        return Ok(audit::cli::run(std::env::args().skip(1)).await);
    }
    let settings = Settings::parse();
    let filter = EnvFilter::try_new(&settings.log).context("the log filter cannot be read")?;
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    controllers::serve(settings).await.context("the operator ends")?;
    Ok(ExitCode::SUCCESS)
}
