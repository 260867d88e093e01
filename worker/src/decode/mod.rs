//! Source bytes to Arrow batches, exactly: a value either travels with every digit or its row is rejected by name.
//!
//! Pure and synchronous: nothing here fetches, waits or knows about slices. One bad row never takes its batch with it.

pub mod column;
pub mod csv;
#[cfg(test)]
mod csv_tests;
pub mod decompress;
pub mod format;
pub mod json;
#[cfg(test)]
mod json_tests;
pub mod lexer;
pub mod lines;
pub mod number;
pub mod parquet;
pub mod plain;
pub mod reject;
pub mod time;
pub mod types;

pub use csv::CsvDecoder;
pub use format::{Batch, Decoder};
pub use json::JsonDecoder;
pub use lines::{Block, LineSplitter, Spare};
pub use reject::{Fault, Reason, Rejected};

use std::collections::BTreeMap;

use datafusion::arrow::array::RecordBatch;

/// What one block of source bytes became.
#[derive(Debug)]
pub struct Decoded {
    /// The good rows, in source order, with provenance (see [`types::batch_schema`]).
    pub batch: RecordBatch,
    /// The bad rows, in source order.
    pub rejected: Vec<Rejected>,
    /// Rows seen: good and bad. Blank lines are not rows.
    pub rows: u64,
    /// Lines of nothing but white space.
    pub blank_lines: u64,
}

/// Fields that the source has and the declaration does not, by path, with how often they were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownFields {
    /// Occurrences by path, e.g. `user.device_id`.
    pub by_path: BTreeMap<String, u64>,
    /// Occurrences whose names did not fit the bound on distinct names.
    pub others: u64,
}

impl UnknownFields {
    /// Adds the counts of another part of the same source.
    pub fn merge(&mut self, other: Self) {
        self.others += other.others;
        for (path, count) in other.by_path {
            // The bound holds for the sum too: threads may have met different names.
            if self.by_path.len() < column::UNKNOWN_NAMES_MAX || self.by_path.contains_key(&path) {
                *self.by_path.entry(path).or_default() += count;
            } else {
                self.others += count;
            }
        }
    }
}
