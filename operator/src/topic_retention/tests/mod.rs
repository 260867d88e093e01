//! Turns against a scripted Kafka and a Kubernetes API that notes what it is asked.

#![expect(clippy::unwrap_used, reason = "tests")]

mod edits;
mod exceptions;
mod fakes;
mod keeping;
mod lags;
mod left;
mod losses;
mod owned;
mod policies;
mod stalled;
mod turns;
mod world;
