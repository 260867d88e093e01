//! The artifact store: what a run has done, and the data between its steps.
//!
//! The store is the truth about what ran, so this client keeps three things apart that are easily mixed up: an object
//! that is not there, a store that cannot be reached, and an object that is there with other content. It decides nothing
//! from them; and but for progress objects, which are only shown, what the operator remembers, which says itself whether it
//! is whole, and claims, which are compared and swapped, it never writes over an object with another content.

pub mod claims;
pub mod client;
mod error;
mod fault;
mod read;
mod swap;
mod write;

use aws_sdk_s3::Client;
pub use client::{ClientError, s3_client};
pub use error::{Cause, LedgerError, cause};
pub use read::{Listed, whole};
pub use swap::{Swap, Versioned};
use weir_crds::contract::run::StoreLocation;
pub use write::{PutOnce, Upload};

/// A client of one bucket. Keys are whole keys in that bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    client: Client,
    bucket: String,
}

impl Ledger {
    /// Makes a client; nothing is sent yet. Without a credentials directory the process's own identity is used.
    pub async fn connect(store: &StoreLocation, credentials_dir: Option<&std::path::Path>) -> Result<Self, ClientError> {
        Ok(Self { client: s3_client(&store.s3, credentials_dir).await?, bucket: store.bucket.clone() })
    }

    pub fn bucket(&self) -> &str {
        &self.bucket
    }
}
