//! Reading: an object that is not there is an answer; a store that does not answer is an error.

use std::{ops::Range, path::Path, time::SystemTime};

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{ByteStream, ByteStreamError};
use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;

use crate::{Ledger, LedgerError, Versioned, error::Cause, error::status};

/// A body that breaks off is asked for again so often; the SDK itself retries only up to the response's head.
const BODY_ATTEMPTS_MAX: u32 = 4;

/// Memory that is set aside for a body on the store's word that it is so long.
const BODY_ROOM_MAX: usize = 64 * 1024 * 1024;

/// A body in one piece. Its chunks are copied as they come, since the client then reads the next ones into the same memory;
/// kept until the end, each would take fresh memory, which costs more.
pub async fn whole(mut body: ByteStream, length: Option<i64>) -> Result<Bytes, ByteStreamError> {
    let room = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut whole = BytesMut::with_capacity(room.min(BODY_ROOM_MAX));
    while let Some(chunk) = body.next().await {
        whole.extend_from_slice(&chunk?);
    }
    Ok(whole.freeze())
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
}

impl Ledger {
    /// The whole object; `None` if there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.fetch(key, None).await?.map(|found| found.bytes))
    }

    /// The whole object as JSON; `None` if there is none.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, LedgerError> {
        let Some(bytes) = self.get(key).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| LedgerError::Decode {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            source,
        })
    }

    /// Bytes `range` of an object that must be there, all of them.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, LedgerError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let bytes = self.fetch(key, Some(header)).await?.ok_or_else(|| self.missing(key))?.bytes;
        let (wanted, found) = (range.end - range.start, bytes.len() as u64);
        if wanted == found {
            Ok(bytes)
        } else {
            Err(LedgerError::ShortRead { bucket: self.bucket.clone(), key: key.to_owned(), wanted, found })
        }
    }

    /// An object or a part of it; `None` if there is none.
    pub(crate) async fn fetch(&self, key: &str, range: Option<String>) -> Result<Option<Versioned>, LedgerError> {
        let mut attempt = 1;
        loop {
            let response = match self.client.get_object().bucket(&self.bucket).key(key).set_range(range.clone()).send().await {
                Ok(response) => response,
                // Only this code says that the object is not there; a missing bucket also answers 404.
                Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => return Ok(None),
                Err(error) => return Err(LedgerError::request("reading", &self.bucket, key, &error)),
            };
            let etag = response.e_tag.unwrap_or_default();
            match whole(response.body, response.content_length).await {
                Ok(bytes) => return Ok(Some(Versioned { bytes, etag })),
                Err(_) if attempt < BODY_ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(self.broken_off(key, &error)),
            }
        }
    }

    /// Writes an object that must be there to a file, without holding it in memory.
    pub async fn download(&self, key: &str, path: &Path) -> Result<u64, LedgerError> {
        let mut attempt = 1;
        loop {
            match self.download_once(key, path).await {
                Err(error) if error.cause() == Some(Cause::Unavailable) && attempt < BODY_ATTEMPTS_MAX => attempt += 1,
                result => return result,
            }
        }
    }

    async fn download_once(&self, key: &str, path: &Path) -> Result<u64, LedgerError> {
        let failed = |source| LedgerError::File { path: path.to_owned(), source };
        let mut response = match self.client.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(response) => response,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => return Err(self.missing(key)),
            Err(error) => return Err(LedgerError::request("reading", &self.bucket, key, &error)),
        };
        let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
        let mut written = 0;
        while let Some(bytes) = response.body.next().await {
            let bytes = bytes.map_err(|error| self.broken_off(key, &error))?;
            file.write_all(&bytes).await.map_err(failed)?;
            written += bytes.len() as u64;
        }
        file.flush().await.map_err(failed)?;
        Ok(written)
    }

    /// All objects whose key begins with `prefix`, in order of their keys, from behind `start_after` on.
    pub async fn list(&self, prefix: &str, start_after: Option<&str>) -> Result<Vec<Listed>, LedgerError> {
        let mut found = Vec::new();
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after(start_after.map(str::to_owned))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| LedgerError::request("listing", &self.bucket, prefix, &error))?;
            found.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| {
                let bytes = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                Some(Listed { key: object.key?, bytes })
            }));
        }
        Ok(found)
    }

    /// The names directly below `prefix` (which ends with a slash), of folders only, with their closing slash.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>, LedgerError> {
        let mut found = Vec::new();
        let mut pages = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).delimiter("/").into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| LedgerError::request("listing", &self.bucket, prefix, &error))?;
            let folders = page.common_prefixes.unwrap_or_default().into_iter().filter_map(|folder| folder.prefix);
            found.extend(folders.filter_map(|folder| folder.strip_prefix(prefix).map(str::to_owned)));
        }
        Ok(found)
    }

    /// Whether the object is there, and how long it is.
    pub async fn head(&self, key: &str) -> Result<Option<u64>, LedgerError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(head) => Ok(Some(head.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0))),
            // A response to HEAD has no body, so a missing bucket looks the same: ask again in a way that tells.
            Err(SdkError::ServiceError(error)) if error.raw().status().as_u16() == 404 => {
                Ok(self.get(key).await?.map(|bytes| bytes.len() as u64))
            }
            Err(error) => {
                tracing::debug!(key, status = status(&error), "head failed");
                Err(LedgerError::request("looking at", &self.bucket, key, &error))
            }
        }
    }

    /// When the object was put, by the store's clock; `None` where it is not there, or the store does not say.
    pub async fn modified(&self, key: &str) -> Result<Option<SystemTime>, LedgerError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(head) => Ok(head.last_modified.and_then(|at| SystemTime::try_from(at).ok())),
            Err(SdkError::ServiceError(error)) if error.raw().status().as_u16() == 404 => Ok(None),
            Err(error) => Err(LedgerError::request("looking at", &self.bucket, key, &error)),
        }
    }

    pub(crate) fn missing(&self, key: &str) -> LedgerError {
        LedgerError::Missing { bucket: self.bucket.clone(), key: key.to_owned() }
    }

    fn broken_off(&self, key: &str, error: &aws_sdk_s3::primitives::ByteStreamError) -> LedgerError {
        LedgerError::Request {
            operation: "reading",
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            cause: Cause::Unavailable,
            message: format!("the response broke off: {error}"),
        }
    }
}
