//! `BackfillJob`: one recovery of lost events, from what still exists to the topic they were lost from.

mod sink;
mod source;
mod spec;
mod status;

pub use sink::*;
pub use source::*;
pub use spec::*;
pub use status::*;
