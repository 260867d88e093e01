//! `select`: what a source's rows become, row by row. Checked at planning, run by `extract`.
//!
//! A select may filter, project and unnest, and nothing else: then a row's result depends on that row alone, chunks can be
//! read in any grouping, and two attempts agree. Names are matched exactly as they are written, without folding case.

pub mod arithmetic;
pub mod check;
pub mod conditions;
pub mod error;
pub mod expand;
pub mod normalize;
pub mod position;
pub mod provenance;
pub mod result;
pub mod run;
pub mod syntax;

pub use check::CheckedSelect;
pub use error::SelectError;
pub use normalize::{Normalized, Normalizer, RowFault};
pub use result::ResultShape;
pub use run::{Evaluated, Evaluator, Ran};

#[cfg(test)]
mod tests;
