//! How weir talks to Kafka: one client configuration, safe administration, transactions and bounded reads.
//!
//! Everything here is synchronous or says so; callers choose the thread. Nothing here decides what to publish, and no
//! call that resets what it does not name (the non-incremental alteration of configs) is reachable from here.

pub mod admin;
pub mod config;
mod context;
mod delivery;
mod diagnosis;
pub mod failure;
#[cfg(test)]
mod failure_tests;
pub mod log_dirs;
#[cfg(test)]
mod mock;
pub mod murmur2;
mod native;
mod pool;
mod producer;
mod progress;
pub mod range;
mod takeover;
pub mod transaction;
#[cfg(test)]
mod transaction_tests;

pub use admin::{Admin, AdminError, BrokerConfig, BrokerNode, ClusterDescription, PartitionDescription, TopicConfig, TopicDescription};
pub use config::{ConfigError, KafkaConfig};
pub use failure::Consequence;
pub use log_dirs::{LogDir, LogDirs, LogDirsError};
pub use native::RequestError;
pub use producer::RECORD_BYTES_MAX;
pub use takeover::Holder;
