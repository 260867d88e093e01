//! The headers of every record that weir publishes. Short, since each costs the broker and every reader.

/// `<namespace>/<name>/<generation>`.
pub const RUN: &str = "weir-run";
/// The slice's id.
pub const SLICE: &str = "weir-slice";
pub const EVENT_ID: &str = "weir-event-id";
/// The name of the source.
pub const SOURCE: &str = "weir-source";
