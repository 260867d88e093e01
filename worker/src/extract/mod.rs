//! `extract`: one chunk of a source, read once, to selected rows by slice, and to what was set aside and why.
//!
//! Blocks of source rows are decoded and selected side by side and put together in order, so what is written depends on the
//! plan and the source's bytes alone. It writes parts; the caller puts the manifest.

pub mod chunk;
pub mod counts;
pub mod error;
pub mod pipeline;
pub mod quarantine;
pub mod segments;
pub mod work;

pub use chunk::Extractor;
pub use error::ExtractError;

#[cfg(test)]
mod tests;
