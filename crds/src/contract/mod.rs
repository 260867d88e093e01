//! Everything that operator and worker say to each other: through the artifact store, a worker's environment and
//! arguments, and its termination message.
//!
//! The store is the truth about what ran. A run lives under `<prefix>/<namespace>/<name>/g<generation>/`: `run.json` fixes
//! what decides the result, `plan.json` fixes the work, manifests say what is done, `outcome.json` ends it. Each of them is
//! put once and never changed.

pub mod claims;
pub mod digest;
pub mod keys;
pub mod manifest;
pub mod names;
pub mod plan;
pub mod progress;
pub mod result;
pub mod run;
pub mod units;

/// Of every object in the store. A reader refuses what it does not know.
pub const FORMAT: u32 = 1;
