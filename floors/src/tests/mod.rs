//! Stories of a topic, told round by round.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

mod changes;
mod detectors;
mod edits;
mod explain;
mod losses;
mod policies;
mod properties;
mod shown;
mod situations;
mod sizes;
mod spec;
mod verdicts;
mod world;
