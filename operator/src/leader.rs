//! Leadership: of all replicas one reconciles, and one that loses its lease stops at once.
//!
//! The lease is renewed by `kube-lease-manager`, which tells of a lost lease but not of renewals that succeed. So requests
//! about the lease have a short timeout, and a leader whose renewals fail gives up before the lease can be another's.

use std::{future::Future, time::Duration};

use kube::Config;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError, LeaseParams};

use crate::{client::client, server::Readiness};

const LEASE: &str = "weir-operator";
/// A leader that dies is followed after this long at most.
const LEASE_SECONDS: u64 = 20;
/// So long before its end a lease is renewed.
const GRACE_SECONDS: u64 = 10;
/// Of connecting and of answering, for a request about the lease.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Two tries of twice the timeout with a pause between take 9 s, less than the grace: who cannot renew has stopped before
/// the lease ends.
const FAILURES_MAX: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    #[error("no client for the lease can be made")]
    Client(#[source] kube::Error),
    #[error("the lease cannot be set up")]
    Lease(#[source] LeaseManagerError),
}

/// Runs `term` whenever this replica leads, and drops it when it does no more; until `stop`.
pub async fn lead<Term, Run, Stop>(
    config: Config,
    namespace: &str,
    identity: &str,
    readiness: &Readiness,
    mut term: Term,
    stop: Stop,
) -> Result<(), LeaderError>
where
    Term: FnMut() -> Run,
    Run: Future<Output = ()>,
    Stop: Future<Output = ()>,
{
    let mut stop = std::pin::pin!(stop);
    loop {
        // Made anew for each term: one that has given up itself must not believe what it knew.
        let manager = tokio::select! {
            manager = manager(&config, namespace, identity) => manager?,
            () = &mut stop => return Ok(()),
        };
        let one_term = async {
            readiness.ready("stands by");
            until(&manager, true).await;
            tracing::info!(identity, "leads");
            tokio::select! {
                () = term() => tracing::warn!("the controllers have ended"),
                () = until(&manager, false) => tracing::warn!(identity, "leads no more"),
            }
        };
        tokio::select! {
            () = one_term => {}
            () = &mut stop => {
                // So that another replica need not wait for the lease's end.
                if let Err(error) = manager.release().await {
                    tracing::warn!(%error, "the lease cannot be given back");
                }
                return Ok(());
            }
        }
    }
}

async fn manager(config: &Config, namespace: &str, identity: &str) -> Result<LeaseManager, LeaderError> {
    let mut config = config.clone();
    (config.connect_timeout, config.read_timeout, config.write_timeout) =
        (Some(REQUEST_TIMEOUT), Some(REQUEST_TIMEOUT), Some(REQUEST_TIMEOUT));
    let client = client(config).map_err(LeaderError::Client)?;
    loop {
        let builder = LeaseManagerBuilder::new(client.clone(), LEASE).with_namespace(namespace).with_parameters(LeaseParams::new(
            identity,
            LEASE_SECONDS,
            GRACE_SECONDS,
        ));
        match builder.build().await {
            Ok(manager) => return Ok(manager),
            Err(LeaseManagerError::KubeError(error)) => {
                tracing::warn!(%error, "the lease cannot be looked at; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(LeaderError::Lease(error)),
        }
    }
}

/// Returns when this replica leads (`wanted`), or when it does not, or cannot be sure to, any more.
async fn until(manager: &LeaseManager, wanted: bool) {
    let mut failed = 0;
    let mut last_failure = tokio::time::Instant::now();
    loop {
        match manager.changed().await {
            Ok(leads) if leads == wanted => return,
            Ok(_) => failed = 0,
            Err(error) => {
                tracing::warn!(%error, "the lease cannot be renewed or taken");
                // A failure long after the last one is a first one: renewals in between have succeeded.
                failed = if last_failure.elapsed() > Duration::from_secs(GRACE_SECONDS) { 1 } else { failed + 1 };
                last_failure = tokio::time::Instant::now();
                if !wanted && failed >= FAILURES_MAX {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
