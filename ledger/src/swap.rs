//! Objects that are replaced: each write names the version that it was made from, so no other writer's is lost.

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use crate::{
    Cause, Ledger, LedgerError,
    error::status,
    fault::{self, between},
};

/// An object as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub bytes: Bytes,
    /// What the store calls this content.
    pub(crate) etag: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The object has the new content.
    Done,
    /// It was not as it had been read: read it again.
    Changed,
}

impl Ledger {
    /// The object and its version; `None` if there is none.
    pub async fn get_versioned(&self, key: &str) -> Result<Option<Versioned>, LedgerError> {
        self.fetch(key, None).await
    }

    /// Replaces the object if it is still as it was read; `None`: if there still is none. A lost answer is found out by
    /// reading back. An error says that it is not known whether the object was replaced.
    pub async fn swap(&self, key: &str, read: Option<&Versioned>, bytes: Bytes) -> Result<Swap, LedgerError> {
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(bytes.clone()));
        let request = match read {
            Some(read) => request.if_match(&read.etag),
            None => request.if_none_match("*"),
        };
        let Err(error) = between(fault::SWAP, request.send()).await else { return Ok(Swap::Done) };
        match status(&error) {
            // 412 also answers the repetition of a request that has taken effect.
            Some(404 | 409 | 412) => {}
            _ => {
                let error = LedgerError::request("replacing", &self.bucket, key, &error);
                match error.cause() {
                    Some(Cause::Unavailable) => {}
                    Some(Cause::Denied | Cause::Refused) | None => return Err(error),
                }
            }
        }
        // Whoever wrote the same content has done what was to be done.
        let found = self.get(key).await?;
        Ok(if found.as_ref() == Some(&bytes) { Swap::Done } else { Swap::Changed })
    }
}
