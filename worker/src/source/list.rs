//! Listing and pinning the objects of a source.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::BucketVersioningStatus;
use weir_crds::window::Interval;

use super::error::SourceError;
use super::template::TimedPrefix;

/// One object of a source, as it was when it was planned with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Where the bucket keeps versions: the one that is read, whatever is written later.
    pub version: Option<String>,
    /// Otherwise reading it asks for this and fails when it has changed.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// When its rows reached the source, as far as that is known.
    pub arrival: Option<Interval>,
}

impl SourceObject {
    /// For messages.
    pub fn uri(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

/// Which objects are wanted. The others are not kept: a prefix may hold many times as many.
pub struct Wanted<'a> {
    /// They arrived when they were last modified.
    pub by_object_time: bool,
    /// By when they arrived.
    pub matters: &'a (dyn Fn(Option<Interval>) -> bool + Sync),
    /// Of all prefixes together.
    pub max: usize,
    pub found: AtomicUsize,
}

impl Wanted<'_> {
    fn arrival(&self, prefix: &TimedPrefix, modified: Option<&DateTime>) -> Option<Interval> {
        if !self.by_object_time {
            return prefix.arrival;
        }
        // Stores keep seconds or better; the second is what all of them promise.
        let start_us = micros(modified?)?.div_euclid(MICROS_PER_SECOND) * MICROS_PER_SECOND;
        Some(Interval { start_us, end_us: start_us + MICROS_PER_SECOND })
    }

    /// Keeps an object if it is wanted.
    fn keep(&self, objects: &mut Vec<SourceObject>, object: SourceObject) {
        if (self.matters)(object.arrival) {
            self.found.fetch_add(1, Ordering::Relaxed);
            objects.push(object);
        }
    }

    pub fn are_too_many(&self) -> bool {
        self.found.load(Ordering::Relaxed) > self.max
    }
}

/// A listing of one bucket.
#[derive(Debug)]
pub struct Listing<'a> {
    client: &'a Client,
    bucket: &'a str,
    keeps_versions: bool,
}

/// Objects that cannot be pinned would be rows that nobody misses.
const NAMELESS: &str = "it lists an object without a key or an ETag";
const MICROS_PER_SECOND: i64 = 1_000_000;

impl<'a> Listing<'a> {
    /// Asks whether the bucket keeps versions. A store that does not know versions, or does not let this identity ask,
    /// leaves ETags to pin by; they show a change just as well.
    pub async fn new(client: &'a Client, bucket: &'a str) -> Result<Self, SourceError> {
        let answer = client.get_bucket_versioning().bucket(bucket).send().await;
        let keeps_versions = match answer {
            Ok(answer) => answer.status() == Some(&BucketVersioningStatus::Enabled),
            Err(error) => {
                let reason = SourceError::from_sdk("asking for versions of", format!("s3://{bucket}"), error);
                if !matches!(reason, SourceError::Denied { .. } | SourceError::Unsupported { .. }) {
                    return Err(reason);
                }
                tracing::info!(bucket, %reason, "objects are pinned by ETag");
                false
            }
        };
        Ok(Self { client, bucket, keeps_versions })
    }

    /// The objects under a prefix that are wanted, in the order of their keys; not all of them, if they are too many.
    pub async fn objects(&self, prefix: &TimedPrefix, wanted: &Wanted<'_>) -> Result<Vec<SourceObject>, SourceError> {
        let mut objects = if self.keeps_versions { self.versions(prefix, wanted).await? } else { self.current(prefix, wanted).await? };
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    async fn current(&self, prefix: &TimedPrefix, wanted: &Wanted<'_>) -> Result<Vec<SourceObject>, SourceError> {
        let mut pages = self.client.list_objects_v2().bucket(self.bucket).prefix(&prefix.prefix).into_paginator().send();
        let mut objects = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error(&prefix.prefix, error))?;
            for object in page.contents() {
                let (Some(key), Some(etag)) = (object.key(), object.e_tag()) else { return Err(self.unfit(&prefix.prefix, NAMELESS)) };
                let arrival = wanted.arrival(prefix, object.last_modified());
                wanted.keep(&mut objects, SourceObject { arrival, ..self.object(key, None, etag, object.size()) });
            }
            if wanted.are_too_many() {
                break;
            }
        }
        Ok(objects)
    }

    async fn versions(&self, prefix: &TimedPrefix, wanted: &Wanted<'_>) -> Result<Vec<SourceObject>, SourceError> {
        let mut objects = Vec::new();
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let page = self
                .client
                .list_object_versions()
                .bucket(self.bucket)
                .prefix(&prefix.prefix)
                .set_key_marker(key_marker.take())
                .set_version_id_marker(version_marker.take())
                .send()
                .await
                .map_err(|error| self.error(&prefix.prefix, error))?;
            for version in page.versions().iter().filter(|version| version.is_latest() == Some(true)) {
                let (Some(key), Some(etag)) = (version.key(), version.e_tag()) else { return Err(self.unfit(&prefix.prefix, NAMELESS)) };
                let arrival = wanted.arrival(prefix, version.last_modified());
                wanted.keep(&mut objects, SourceObject { arrival, ..self.object(key, version.version_id(), etag, version.size()) });
            }
            if wanted.are_too_many() || page.is_truncated() != Some(true) {
                return Ok(objects);
            }
            if page.next_key_marker().is_none() {
                return Err(self.unfit(&prefix.prefix, "it is cut off and does not say where it goes on"));
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            version_marker = page.next_version_id_marker().map(str::to_owned);
        }
    }

    fn object(&self, key: &str, version: Option<&str>, etag: &str, size: Option<i64>) -> SourceObject {
        SourceObject {
            bucket: self.bucket.to_owned(),
            key: key.to_owned(),
            version: version.map(str::to_owned),
            etag: etag.to_owned(),
            size: size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            arrival: None,
        }
    }

    fn unfit(&self, prefix: &str, problem: &str) -> SourceError {
        SourceError::Unsupported { operation: "listing", target: format!("s3://{}/{prefix}", self.bucket), problem: problem.to_owned() }
    }

    fn error<E>(&self, prefix: &str, error: aws_sdk_s3::error::SdkError<E>) -> SourceError
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        SourceError::from_sdk("listing", format!("s3://{}/{prefix}", self.bucket), error)
    }
}

fn micros(time: &DateTime) -> Option<i64> {
    i64::try_from(time.as_nanos() / 1000).ok()
}
