//! How long a topic must keep its records, and what follows from it. Pure: no network, no file, no clock.
//!
//! What was observed of a topic goes into its [`History`]; [`History::assess`] says how far behind each group is, what the
//! floor is and why, what was lost, and what should be changed. [`judge::judge`] says whether somebody else's change may
//! pass. Times are milliseconds since the epoch, lengths of time are milliseconds, as Kafka has them.
//!
//! *Behind* is how long ago the record at the committed offset arrived; floors and SLOs use it. *Expires in* is when the
//! oldest unread record may be deleted, by its timestamp and the retention; headroom uses it. Neither is made of the other.

pub mod assess;
pub mod carried;
pub mod conditions;
pub mod config;
pub mod exceptions;
pub mod explain;
pub mod findings;
pub mod floor;
pub mod groups;
pub mod history;
pub mod judge;
pub mod lag;
pub mod losses;
pub mod observed;
pub mod peaks;
pub mod policy;
pub mod policy_change;
pub mod record;
pub mod retention;
pub mod series;
pub mod spec;
pub mod standing;
pub mod status;
pub mod text;
pub mod verdict;
pub mod wanted;

#[cfg(test)]
mod tests;

pub use assess::{Assessment, State};
pub use history::History;
pub use policy::Policy;
pub use retention::Retention;

pub const MINUTE_MS: i64 = 60_000;
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
pub const DAY_MS: i64 = 24 * HOUR_MS;
