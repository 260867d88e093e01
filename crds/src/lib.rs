//! weir's API types (`weir.dev/v1alpha1`), their pure validation, and the contract between operator and worker.
//!
//! Nothing here touches a network, a clock or a file: what this crate decides, everyone who links it decides alike.

pub mod backfill_class;
pub mod backfill_job;
pub mod columns;
pub mod conditions;
pub mod contract;
pub mod duration;
pub mod kafka_cluster;
pub mod refs;
pub mod retention_exception;
pub mod schema;
pub mod topic_floor;
pub mod topic_loss;
pub mod topic_retention_policy;
pub mod validate;
pub mod window;

pub use backfill_class::BackfillClass;
pub use backfill_job::BackfillJob;
pub use kafka_cluster::KafkaCluster;
pub use retention_exception::RetentionException;
pub use topic_floor::TopicFloor;
pub use topic_retention_policy::TopicRetentionPolicy;

/// The API group of every kind.
pub const GROUP: &str = "weir.dev";
/// A ServiceAccount without this annotation set to `"true"` runs no backfill.
pub const ALLOW_BACKFILLS_ANNOTATION: &str = "weir.dev/allow-backfills";
/// An annotation of a BackfillJob: when somebody last renewed the holds on its topics, as RFC 3339. They last 72 hours.
pub const RENEW_HOLD_ANNOTATION: &str = "weir.dev/hold-renewed-at";
/// A label of BackfillJobs that weir drafted: the incident.
pub const DRAFT_LABEL: &str = "weir.dev/draft";
/// At most this many slices a job: status, gates and the unit graph are sized by it.
pub const SLICES_MAX: usize = 1000;
