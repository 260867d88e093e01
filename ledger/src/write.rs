//! Writing: manifests once, parts under names that tell their content, progress over and over.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use aws_sdk_s3::{
    Config,
    config::{RequestChecksumCalculation, http::HttpResponse},
    error::SdkError,
    operation::put_object::PutObjectError,
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::{Bytes, BytesMut};

use weir_failpoints::Guard;

use crate::{
    Cause, Ledger, LedgerError,
    error::status,
    fault::{self, Points, between},
};

/// One part of a multipart upload: at least S3's 5 MiB, and what an upload holds in memory.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// S3's own bound, 80 GiB at this size.
const PARTS_MAX: usize = 10_000;
/// A store that answers 409 is deciding between two writers of one key; it has decided soon.
const CONFLICT_ATTEMPTS_MAX: u32 = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(200);

/// What became of an object that may be put once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOnce {
    /// It was put by this call.
    Written,
    /// It was there, with the same bytes: this call was made before, or its own response was lost.
    Same,
    /// It was there, with other bytes, and is as it was.
    Different { found: Bytes },
}

impl Ledger {
    /// Puts an object unless there is one. What was there, or what became of a call whose answer was lost, is read back
    /// and compared, never guessed. An error says that it is not known whether the object is there: call again.
    pub async fn put_once(&self, key: &str, bytes: Bytes) -> Result<PutOnce, LedgerError> {
        let mut attempt = 1;
        loop {
            let error = match self.put(fault::ONCE, key, bytes.clone(), true).await {
                Ok(()) => return Ok(PutOnce::Written),
                Err(error) => error,
            };
            match status(&error) {
                Some(412) if !weir_failpoints::stands(Guard::ReadBack) => return Ok(PutOnce::Different { found: Bytes::new() }),
                Some(412) => {
                    return self
                        .compare(key, &bytes)
                        .await?
                        .ok_or_else(|| LedgerError::Vanished { bucket: self.bucket.clone(), key: key.to_owned() });
                }
                Some(409) => {
                    if let Some(found) = self.compare(key, &bytes).await? {
                        return Ok(found);
                    }
                    if attempt == CONFLICT_ATTEMPTS_MAX {
                        return Err(LedgerError::request("putting", &self.bucket, key, &error));
                    }
                    attempt += 1;
                    tokio::time::sleep(CONFLICT_PAUSE).await;
                }
                _ => {
                    let error = LedgerError::request("putting", &self.bucket, key, &error);
                    return match error.cause() {
                        // The request may have taken effect though no answer came.
                        Some(Cause::Unavailable) => self.compare(key, &bytes).await?.ok_or(error),
                        Some(Cause::Denied | Cause::Refused) | None => Err(error),
                    };
                }
            }
        }
    }

    /// What is there beside what was to be put; `None`: nothing is there.
    async fn compare(&self, key: &str, bytes: &Bytes) -> Result<Option<PutOnce>, LedgerError> {
        Ok(self.get(key).await?.map(|found| if found == *bytes { PutOnce::Same } else { PutOnce::Different { found } }))
    }

    /// Puts an object whatever is there: progress, which is only shown, and what the operator remembers of topics.
    pub async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), LedgerError> {
        self.put(fault::PROGRESS, key, bytes, false).await.map_err(|error| LedgerError::request("putting", &self.bucket, key, &error))
    }

    /// With a checksum: a bucket that locks what is put takes nothing without one. It is a header, not a trailer, since all of
    /// the body is in memory; servers that do not know it pass over it.
    async fn put(&self, points: Points, key: &str, bytes: Bytes, once: bool) -> Result<(), SdkError<PutObjectError, HttpResponse>> {
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(bytes));
        let request = if once { request.if_none_match("*") } else { request };
        let checked = Config::builder().request_checksum_calculation(RequestChecksumCalculation::WhenSupported);
        between(points, request.customize().config_override(checked).send()).await.map(drop)
    }

    /// Puts a part whose key holds the digest of its bytes: writing it twice writes the same.
    pub async fn put_part(&self, key: &str, bytes: Bytes) -> Result<(), LedgerError> {
        if bytes.len() <= PART_BYTES {
            return self.put_whole_part(key, bytes).await;
        }
        let mut upload = self.upload(key).await?;
        upload.write(bytes).await?;
        upload.finish().await
    }

    /// A part's bytes are not hashed once more to sign them: its name tells their digest, which every reader checks.
    async fn put_whole_part(&self, key: &str, bytes: Bytes) -> Result<(), LedgerError> {
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(bytes));
        let put = between(fault::PART, request.customize().disable_payload_signing().send()).await;
        put.map(drop).map_err(|error| LedgerError::request("putting", &self.bucket, key, &error))
    }

    /// As [`Ledger::put_part`], from a file, without holding it in memory.
    pub async fn put_part_file(&self, key: &str, path: &Path) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::File { path: path.to_owned(), source };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let bytes = file.metadata().await.map_err(failed)?.len();
        let mut file = file.into_std().await;
        if bytes <= PART_BYTES as u64 {
            return self.put_whole_part(key, read_part(file).await.map_err(failed)?.1).await;
        }
        let mut upload = self.upload(key).await?;
        loop {
            let (rest, part) = read_part(file).await.map_err(failed)?;
            if part.is_empty() {
                return upload.finish().await;
            }
            upload.write(part).await?;
            file = rest;
        }
    }

    /// Begins an upload of unknown length. The object is there when [`Upload::finish`] returns and not before; what is left of
    /// one that never ends no reader sees, and the bucket's rule for incomplete uploads removes.
    pub async fn upload(&self, key: &str) -> Result<Upload, LedgerError> {
        let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
        let created = between(fault::UPLOAD_BEGIN, request.send()).await;
        let created = created.map_err(|error| LedgerError::request("beginning the upload of", &self.bucket, key, &error))?;
        let id = created.upload_id.unwrap_or_default();
        Ok(Upload { ledger: self.clone(), key: key.to_owned(), id, parts: Vec::new(), pending: BytesMut::new() })
    }
}

/// The next part of a file; empty at its end. Read in one piece: the runtime's own files copy every byte once more.
async fn read_part(file: File) -> io::Result<(File, Bytes)> {
    let read = tokio::task::spawn_blocking(move || {
        let mut part = Vec::with_capacity(PART_BYTES);
        (&file).take(PART_BYTES as u64).read_to_end(&mut part)?;
        Ok((file, part.into()))
    });
    read.await.map_err(io::Error::other)?
}

/// A multipart upload: it holds at most one part in memory.
#[derive(Debug)]
pub struct Upload {
    ledger: Ledger,
    key: String,
    id: String,
    parts: Vec<CompletedPart>,
    pending: BytesMut,
}

impl Upload {
    /// Adds bytes; whole parts are sent at once.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), LedgerError> {
        let mut rest = bytes;
        while self.pending.len() + rest.len() >= PART_BYTES {
            let part = if self.pending.is_empty() {
                rest.split_to(PART_BYTES)
            } else {
                let taken = rest.split_to(PART_BYTES - self.pending.len());
                self.pending.extend_from_slice(&taken);
                self.pending.split().freeze()
            };
            self.send(part).await?;
        }
        self.pending.extend_from_slice(&rest);
        Ok(())
    }

    /// Makes the object visible. If the answer is lost the SDK asks again, and the same upload is completed once.
    pub async fn finish(mut self) -> Result<(), LedgerError> {
        if !self.pending.is_empty() || self.parts.is_empty() {
            let last = self.pending.split().freeze();
            self.send(last).await?;
        }
        let Ledger { client, bucket } = &self.ledger;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.parts))).build();
        let request = client.complete_multipart_upload().bucket(bucket).key(&self.key).upload_id(&self.id).multipart_upload(parts);
        match between(fault::UPLOAD_END, request.send()).await {
            Ok(_) => Ok(()),
            // A retry of a request that had taken effect finds no such upload, but the object.
            Err(error) if status(&error) == Some(404) && self.ledger.head(&self.key).await?.is_some() => Ok(()),
            Err(error) => Err(LedgerError::request("completing the upload of", bucket, &self.key, &error)),
        }
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), LedgerError> {
        let Ledger { client, bucket } = &self.ledger;
        let number = self.parts.len() + 1;
        if number > PARTS_MAX {
            return Err(LedgerError::TooLarge { key: self.key.clone(), max: PARTS_MAX });
        }
        let request = client.upload_part().bucket(bucket).key(&self.key).upload_id(&self.id).part_number(number as i32);
        let request = request.body(ByteStream::from(bytes)).customize().disable_payload_signing();
        let sent = between(fault::UPLOAD_PART, request.send()).await;
        let sent = sent.map_err(|error| LedgerError::request("uploading a part of", bucket, &self.key, &error))?;
        self.parts.push(CompletedPart::builder().part_number(number as i32).set_e_tag(sent.e_tag).build());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
        task::JoinHandle,
    };
    use weir_crds::{contract::run::StoreLocation, refs::S3Service};

    use super::*;

    /// Takes one object, and gives the head of the request.
    async fn take(listener: TcpListener) -> String {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
        }
        let bytes = head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap();
        stream.read_exact(&mut vec![0; bytes]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        head
    }

    async fn store() -> (Ledger, JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        for file in ["aws-access-key-id", "aws-secret-access-key"] {
            std::fs::write(dir.path().join(file), "key").unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let s3 = S3Service { endpoint: Some(endpoint), region: "us-east-1".into(), path_style: true };
        let store = StoreLocation { bucket: "audit".into(), prefix: String::new(), s3 };
        (Ledger::connect(&store, Some(dir.path())).await.unwrap(), tokio::spawn(take(listener)))
    }

    /// The check value of CRC-32 is of these.
    const BYTES: &[u8] = b"123456789";
    const CRC32: &str = "x-amz-checksum-crc32: y/Q5Jg==\r\n";

    #[tokio::test]
    async fn what_a_bucket_may_lock_is_put_with_its_checksum() {
        let (ledger, request) = store().await;
        assert_eq!(ledger.put_once("main/1.json", Bytes::from_static(BYTES)).await.unwrap(), PutOnce::Written);
        let head = request.await.unwrap();
        assert!(head.contains(CRC32) && head.contains("if-none-match: *"), "{head}");
        let (ledger, request) = store().await;
        ledger.overwrite("kept/raising.json", Bytes::from_static(BYTES)).await.unwrap();
        let head = request.await.unwrap();
        assert!(head.contains(CRC32), "{head}");
    }

    #[tokio::test]
    async fn parts_are_not_hashed_again() {
        let (ledger, request) = store().await;
        ledger.put_part("part", Bytes::from_static(BYTES)).await.unwrap();
        let head = request.await.unwrap();
        assert!(!head.contains("x-amz-checksum") && !head.contains("x-amz-sdk-checksum"), "{head}");
    }
}
