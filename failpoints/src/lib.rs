//! Places where a test can make weir die, fail or wait, and guards that a test can take out to see what they are for.
//!
//! They exist in builds with debug assertions alone, which development, tests and CI share. In a release every function
//! here is empty and every guard stands: nothing that a process is given, in its environment or otherwise, can switch
//! them. Nothing here decides anything by itself.
//!
//! Names of points say what can be asked of them: `<step>.send` comes before a request and can fail instead of sending
//! it; `<step>.done` comes after it took effect and can lose the answer. At any point a process can die or be held up.

#[cfg(any(debug_assertions, test))]
mod plan;
#[cfg(debug_assertions)]
mod present;
#[cfg(debug_assertions)]
use present as chosen;
#[cfg(not(debug_assertions))]
mod absent;
#[cfg(not(debug_assertions))]
use absent as chosen;

/// The variable with the faults of a process: `<point>:<hit>:<action>`, separated by commas. Hits count from 1. Actions:
/// `kill`, `kill-soon` (a millisecond later, with a request under way), `fail`, `lose`, `pause=<milliseconds>`, `trace`
/// (which does nothing, and with `*:0` is what every hit of every point does).
pub const FAULTS_ENV: &str = "WEIR_FAILPOINTS";
/// The variable with the file to which each fault that fired adds a line: `<point> <hit> <action> <pid>`.
pub const FIRED_ENV: &str = "WEIR_FAILPOINTS_FIRED";
/// The variable with the guards that are taken out, separated by commas.
pub const GUARDS_OUT_ENV: &str = "WEIR_GUARDS_OUT";

/// Whether there are failpoints in this build.
pub const PRESENT: bool = cfg!(debug_assertions);

/// What whoever has come to a point has to do about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is not sent, and counts as failed.
    Fail,
    /// The request has taken effect, and its answer is lost.
    Lose,
}

/// Something that keeps a promise, and that the fault matrix takes out to prove that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A publisher fences its predecessors before it reads how far they came.
    FenceBeforeReading,
    /// Progress is committed in the transaction of its records.
    ProgressInTransaction,
    /// Each transaction has a producer epoch of its own.
    EpochPerTransaction,
    /// A target is used only if it is the one that was planned for.
    Pins,
    /// What is there already is read back and compared before it counts as a conflict.
    ReadBack,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::FenceBeforeReading, Self::ProgressInTransaction, Self::EpochPerTransaction, Self::Pins, Self::ReadBack];

    /// As the variable has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FenceBeforeReading => "fence-before-reading",
            Self::ProgressInTransaction => "progress-in-transaction",
            Self::EpochPerTransaction => "epoch-per-transaction",
            Self::Pins => "pins",
            Self::ReadBack => "read-back",
        }
    }
}

/// Comes to a point at which a request can fail or lose its answer. The process may die here.
#[inline(always)]
#[must_use]
pub fn hit(point: &'static str) -> Option<Fault> {
    chosen::hit(point)
}

/// Comes to a point at which a process can only die or be held up.
#[inline(always)]
pub fn reached(point: &'static str) {
    let _ = chosen::hit(point);
}

/// Whether a guard stands, as it always does but in a test that has taken it out.
#[inline(always)]
#[must_use]
pub fn stands(guard: Guard) -> bool {
    chosen::stands(guard)
}
