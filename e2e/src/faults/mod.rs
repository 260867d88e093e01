//! The fault matrix: one small job, done over and over by the worker's own binary on the real broker and the real store,
//! and every time something else goes wrong. Whatever it is, the topic must be the one of an undisturbed run.
//!
//! `site` is what all runs share, `job` one run of it. `drive` does without pods what the operator does with them: it starts
//! the next attempt at each unit that is not done. `inject` decides what each attempt has to suffer, `topic` and `sums` judge
//! what came of it, `table` writes it down. `control` is for runs without a guard, `made` and `turns` for those with an operator.

pub mod attempt;
pub mod control;
pub mod disk;
pub mod drive;
pub mod error;
pub mod http;
pub mod inject;
pub mod job;
pub mod kafka_proxy;
pub mod ledger;
pub mod made;
pub mod matrix;
pub mod operator;
pub mod ready;
pub mod site;
pub mod sums;
pub mod table;
pub mod topic;
pub mod turns;

pub use error::Error;

/// Whether everything is to be done that there is, whatever time it takes.
pub fn is_full() -> bool {
    std::env::var("WEIR_E2E_FAULTS").is_ok_and(|size| size == "full")
}
