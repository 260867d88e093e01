//! Sources on S3: which objects matter, pinned as they were planned, read once each.
//!
//! Only this module talks to the source store. It reads; it never writes there.

pub mod arrival;
pub mod error;
pub mod fetch;
pub mod list;
pub mod object_list;
pub mod parquet;
#[cfg(test)]
mod parquet_tests;
#[cfg(test)]
pub mod stand_in;
pub mod template;

pub use error::SourceError;
pub use fetch::Fetcher;
pub use list::{Listing, SourceObject, Wanted};
pub use template::PathTemplate;
