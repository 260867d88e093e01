//! Tests of the whole decision: tables, a simulated world, and the exact calls.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod approval;
mod attempts;
mod calls;
mod claims;
mod corrupt;
mod drafts;
mod fixture;
mod gone;
mod holds;
mod items;
mod late;
mod simulation;
mod size;
mod table;
mod unsuitable;
mod workers;
mod world;
