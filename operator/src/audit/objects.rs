//! What the audit log and the histories need of a store. A map stands in for it in tests.

use std::future::Future;

use bytes::Bytes;
use weir_ledger::{Ledger, LedgerError, PutOnce};

pub trait Objects: Send + Sync + 'static {
    /// `None`: there is none.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, LedgerError>> + Send;
    fn put_once(&self, key: &str, bytes: Bytes) -> impl Future<Output = Result<PutOnce, LedgerError>> + Send;
    fn overwrite(&self, key: &str, bytes: Bytes) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// The keys with a prefix, in their order, from behind `after` on.
    fn keys(&self, prefix: &str, after: Option<&str>) -> impl Future<Output = Result<Vec<String>, LedgerError>> + Send;
}

impl Objects for Ledger {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, LedgerError> {
        Self::get(self, key).await
    }

    async fn put_once(&self, key: &str, bytes: Bytes) -> Result<PutOnce, LedgerError> {
        Self::put_once(self, key, bytes).await
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), LedgerError> {
        Self::overwrite(self, key, bytes).await
    }

    async fn keys(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, LedgerError> {
        Ok(self.list(prefix, after).await?.into_iter().map(|listed| listed.key).collect())
    }
}
