//! Reading pinned objects by parallel ranged GETs: in order, in bounded memory, each byte once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::{Client, error::ProvideErrorMetadata as _};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};

use super::error::SourceError;
use super::list::SourceObject;

/// One GET: large enough that its latency does not matter, small enough that a repeated one does not either.
pub const RANGE_BYTES: u64 = 8 * 1024 * 1024;
/// GETs in flight or waiting to be consumed: with [`RANGE_BYTES`] 128 MiB at most.
pub const RANGES_IN_FLIGHT_MAX: usize = 16;
/// A body that breaks off is asked for again this often. Failures before the body are retried by the SDK.
const BODY_ATTEMPTS_MAX: u32 = 5;
/// Before the second attempt; doubles after that.
const BODY_BACKOFF: Duration = Duration::from_millis(200);

/// Reads pinned objects and counts what it reads.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    bytes_read: Arc<AtomicU64>,
}

/// Bytes of one object, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the object in the list that is read.
    pub object: usize,
    /// Its next bytes.
    pub bytes: Bytes,
    /// Whether the object ends with them.
    pub is_last: bool,
}

impl Fetcher {
    /// A reader with a count of its own.
    pub fn new(client: Client) -> Self {
        Self { client, bytes_read: Arc::default() }
    }

    /// Bytes that were read. A range that broke off and was asked for again counts once, so that two attempts agree.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// All bytes of `objects`, one object behind the other. Up to `in_flight` ranges are asked for ahead, across objects, so
    /// that many small ones do not cost a round trip each.
    pub fn stream(&self, objects: Arc<[SourceObject]>, in_flight: usize) -> impl Stream<Item = Result<Piece, SourceError>> + Send + use<> {
        let fetcher = self.clone();
        let list = Arc::clone(&objects);
        let ranges = (0..objects.len()).flat_map(move |index| {
            let size = list[index].size;
            // An empty object has one empty piece, so that its pin is checked like every other's.
            let count = size.div_ceil(RANGE_BYTES).max(1);
            (0..count).map(move |n| (index, n * RANGE_BYTES, ((n + 1) * RANGE_BYTES).min(size), n + 1 == count))
        });
        stream::iter(ranges)
            .map(move |(index, start, end, is_last)| {
                let (fetcher, objects) = (fetcher.clone(), Arc::clone(&objects));
                async move {
                    let bytes = fetcher.range(&objects[index], start, end).await?;
                    Ok(Piece { object: index, bytes, is_last })
                }
            })
            .buffered(in_flight.clamp(1, RANGES_IN_FLIGHT_MAX))
    }

    /// The bytes `[start, end)` of an object.
    pub async fn range(&self, object: &SourceObject, start: u64, end: u64) -> Result<Bytes, SourceError> {
        let mut backoff = BODY_BACKOFF;
        let mut attempt = 1;
        loop {
            match self.try_range(object, start, end).await? {
                Ok(bytes) => return Ok(bytes),
                Err(problem) if attempt == BODY_ATTEMPTS_MAX => {
                    return Err(SourceError::Unavailable { operation: "reading", target: object.uri(), problem });
                }
                Err(problem) => {
                    tracing::warn!(object = object.uri(), start, attempt, problem, "a read broke off and is repeated");
                    tokio::time::sleep(backoff).await;
                    backoff *= 2;
                    attempt += 1;
                }
            }
        }
    }

    /// The inner error is worth another attempt.
    async fn try_range(&self, object: &SourceObject, start: u64, end: u64) -> Result<Result<Bytes, String>, SourceError> {
        let mut request = self.client.get_object().bucket(&object.bucket).key(&object.key);
        request = match &object.version {
            Some(version) => request.version_id(version),
            None => request.if_match(&object.etag),
        };
        // A range of an empty object is an error of its own.
        if end > start {
            request = request.range(format!("bytes={start}-{}", end - 1));
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                let status = error.raw_response().map(|response| response.status().as_u16());
                // Without the store's own word for it, an answer may be that of something before the store.
                let is_gone = matches!(error.code(), Some("NoSuchKey" | "NoSuchVersion"));
                // 416: the object has become shorter than the range.
                if is_gone || matches!(status, Some(412 | 416)) {
                    return Err(self.changed(object).await);
                }
                return Err(SourceError::from_sdk("reading", object.uri(), error));
            }
        };
        let collected = match weir_ledger::whole(response.body, response.content_length).await {
            Ok(collected) => collected,
            Err(error) => return Ok(Err(super::error::describe(&error))),
        };
        if collected.len() as u64 != end - start {
            return Ok(Err(format!("{} bytes came instead of {}", collected.len(), end - start)));
        }
        self.bytes_read.fetch_add(end - start, Ordering::Relaxed);
        Ok(Ok(collected))
    }

    /// What is there instead of a pinned object.
    async fn changed(&self, object: &SourceObject) -> SourceError {
        let found = match self.client.head_object().bucket(&object.bucket).key(&object.key).send().await {
            Ok(head) => format!("ETag {}", head.e_tag().unwrap_or("unknown")),
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 404) => "no such object".to_owned(),
            Err(error) => format!("nothing certain ({})", super::error::describe(&error)),
        };
        let pinned = match &object.version {
            Some(version) => format!("version {version}"),
            None => format!("ETag {}", object.etag),
        };
        SourceError::Changed { object: object.uri(), pinned, found }
    }
}
