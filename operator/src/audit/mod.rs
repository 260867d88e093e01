//! The audit log: every change of a topic, as a chain of objects that are put once, each with the digest of the one before.
//!
//! `<prefix>/<chain>/<sequence>.json`; a chain is that of one `KafkaCluster`. `entry` and `chain` are pure, `log` writes and
//! reads. The store lets one object of a name come to be, so two writers cannot both write the next entry: whoever comes
//! second takes up what is there, and writes behind it.

pub mod chain;
pub mod cli;
pub mod entry;
pub mod log;
pub mod objects;
#[cfg(test)]
pub mod tests;
