//! Tests of the whole decision: tables, a simulated world, and the exact calls.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod attempts;
mod calls;
mod claims;
mod drafts;
mod fixture;
mod holds;
mod simulation;
mod size;
mod table;
mod workers;
mod world;
