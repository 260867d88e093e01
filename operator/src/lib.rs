//! weir's operator: it decides, and starts workers. It never moves data and never reads a tenant's.

pub mod admission;
pub mod audit;
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
mod text;
mod topic_resource;
pub mod topic_retention;
