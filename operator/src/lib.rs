//! weir's operator: it decides, and starts workers. It never moves data and never reads a tenant's.

mod backfill_class;
pub mod backfill_job;
mod client;
mod context;
pub mod controllers;
mod credentials;
mod kafka_cluster;
pub mod leader;
pub mod metrics;
mod quantity;
mod reconcile;
pub mod server;
pub mod settings;
mod stores;

use std::error::Error;

/// An error with its sources, as one sentence.
pub(crate) fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some libraries' errors repeat their source's text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
