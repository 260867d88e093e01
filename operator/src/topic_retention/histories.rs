//! What is remembered of topics, as objects in the audit store: read when a term begins, overwritten now and then.
//!
//! An object is a line of JSON that says what follows, and the topics' histories as JSON, compressed. One that is not what
//! its line says, or of a later format, is named and not guessed from: its topics are then watched anew, and nothing of
//! them is lowered before the look-back has been seen again.

use std::{collections::BTreeMap, io::Read as _, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weir_crds::{
    TopicFloor,
    contract::{digest::Sha256Digest, manifest::to_bytes},
};
use weir_floors::History;
use weir_ledger::LedgerError;

use super::{
    memory::{Memory, TopicMemory},
    status::has_passed,
};
use crate::audit::{entry::kept_folder, log::Place, objects::Objects};

const FORMAT: u32 = 1;
/// Objects of a cluster, of which one is written in a turn: of a thousand topics each is less than a megabyte.
pub const SHARDS: usize = 16;
/// Between two writes of an object. What came since is lost with a crash: samples leave a gap that is interpolated.
const SAVE_INTERVAL_MS: i64 = 120_000;
/// The fastest level: numbers that grow by small steps are small already.
const COMPRESSION_LEVEL: i32 = 1;
/// Of one object's histories, before compression.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What stands before the histories.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    chain: String,
    at: Timestamp,
    topics: usize,
    /// Of everything behind this line.
    digest: Sha256Digest,
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("it does not begin with a line that says what it is")]
    Header(#[source] Option<serde_json::Error>),
    #[error("it has format {found}, this program knows {FORMAT}: use the version of weir that wrote it")]
    Newer { found: u32 },
    #[error("its content has another digest than it says")]
    Digest,
    #[error("its content cannot be decompressed")]
    Compression(#[source] std::io::Error),
    #[error("its content is no histories of topics")]
    Histories(#[source] serde_json::Error),
}

pub fn encode(chain: &str, at: Timestamp, topics: &BTreeMap<&str, &History>) -> std::io::Result<Bytes> {
    let mut body = zstd::Encoder::new(Vec::new(), COMPRESSION_LEVEL)?;
    serde_json::to_writer(&mut body, topics)?;
    let body = body.finish()?;
    let header = Header { format: FORMAT, chain: chain.to_owned(), at, topics: topics.len(), digest: Sha256Digest::of(&body) };
    let mut bytes = to_bytes(&header);
    bytes.push(b'\n');
    bytes.extend_from_slice(&body);
    Ok(bytes.into())
}

pub fn decode(bytes: &[u8]) -> Result<BTreeMap<String, History>, DecodeError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let end = bytes.iter().position(|b| *b == b'\n').ok_or(DecodeError::Header(None))?;
    let (line, body) = (&bytes[..end], &bytes[end + 1..]);
    let Format { format } = serde_json::from_slice(line).map_err(|e| DecodeError::Header(Some(e)))?;
    if format != FORMAT {
        return Err(DecodeError::Newer { found: format });
    }
    let header: Header = serde_json::from_slice(line).map_err(|e| DecodeError::Header(Some(e)))?;
    if Sha256Digest::of(body) != header.digest {
        return Err(DecodeError::Digest);
    }
    let mut text = Vec::new();
    let reader = zstd::Decoder::new(body).map_err(DecodeError::Compression)?;
    reader.take(BYTES_MAX).read_to_end(&mut text).map_err(DecodeError::Compression)?;
    serde_json::from_slice(&text).map_err(DecodeError::Histories)
}

/// In which object a topic is.
fn shard(topic: &str) -> usize {
    usize::from(Sha256Digest::of(topic.as_bytes()).as_bytes()[0]) % SHARDS
}

fn key(place: &Place, shard: usize) -> String {
    format!("{}histories-{shard:02}.zst", kept_folder(&place.prefix, &place.chain))
}

/// How far loading is, and what was saved.
#[derive(Debug, Default)]
pub struct Histories {
    /// Objects that were read.
    read: usize,
    found: BTreeMap<String, History>,
    taken_up_ms: Option<i64>,
    /// What was wrong with objects, by their keys.
    pub faults: BTreeMap<String, String>,
    /// Of a later format: they are left to the version that wrote them.
    foreign: [bool; SHARDS],
    saved_ms: [i64; SHARDS],
}

impl Histories {
    /// Whether what was remembered has been taken up.
    pub fn are_loaded(&self) -> bool {
        self.taken_up_ms.is_some()
    }

    /// When it was: which topics policies are about has to be looked at again after that.
    pub fn taken_up_ms(&self) -> Option<i64> {
        self.taken_up_ms
    }

    /// Reads on where the last call was interrupted.
    pub async fn load<S: Objects>(&mut self, store: &S, place: &Place) -> Result<(), LedgerError> {
        while self.read < SHARDS {
            let key = key(place, self.read);
            if let Some(bytes) = store.get(&key).await? {
                match decode(&bytes) {
                    Ok(topics) => self.found.extend(topics),
                    Err(error) => {
                        self.foreign[self.read] = matches!(error, DecodeError::Newer { .. });
                        let why = weir_crds::contract::result::error_chain(&error);
                        tracing::error!(key, why, "what was remembered of topics cannot be read; they are watched anew");
                        self.faults.insert(key, why);
                    }
                }
            }
            self.read += 1;
        }
        Ok(())
    }

    /// Hands over what was read, once. What `TopicFloor`s say stands above that.
    pub fn take_up(&mut self, topics: &mut BTreeMap<String, TopicMemory>, floors: &[Arc<TopicFloor>], now_ms: i64) {
        if self.read < SHARDS || self.are_loaded() {
            return;
        }
        self.taken_up_ms = Some(now_ms);
        for (name, earlier) in std::mem::take(&mut self.found) {
            let floor = floors.iter().find(|floor| floor.spec.topic == name).map(|floor| &**floor);
            let begin = || TopicMemory::begin(earlier.topic_id(), floor);
            topics.entry(name).or_insert_with(begin).take_up(earlier.clone());
        }
    }

    /// The object that was not written for the longest time, if it is due.
    fn due(&self, now_ms: i64) -> Option<usize> {
        let oldest = (0..SHARDS).filter(|shard| !self.foreign[*shard]).min_by_key(|shard| self.saved_ms[*shard])?;
        (self.are_loaded() && has_passed(self.saved_ms[oldest], SAVE_INTERVAL_MS, now_ms)).then_some(oldest)
    }
}

/// Writes the object that is due, if one is.
pub async fn save_due<S: Objects>(store: &S, place: &Place, memory: &mut Memory, now: Timestamp) -> Result<(), LedgerError> {
    let now_ms = now.as_millisecond();
    let Some(shard) = memory.keeping.histories.due(now_ms) else { return Ok(()) };
    save(store, place, memory, shard, now).await?;
    memory.keeping.histories.saved_ms[shard] = now_ms;
    Ok(())
}

/// Writes everything, as when the process ends.
pub async fn save_all<S: Objects>(store: &S, place: &Place, memory: &Memory, now: Timestamp) -> Result<(), LedgerError> {
    if !memory.keeping.histories.are_loaded() {
        return Ok(());
    }
    let shards = (0..SHARDS).filter(|shard| !memory.keeping.histories.foreign[*shard]);
    futures::future::try_join_all(shards.map(|shard| save(store, place, memory, shard, now))).await.map(drop)
}

async fn save<S: Objects>(store: &S, place: &Place, memory: &Memory, number: usize, now: Timestamp) -> Result<(), LedgerError> {
    let topics: BTreeMap<&str, &History> =
        memory.topics.iter().filter(|(name, _)| shard(name) == number).map(|(name, topic)| (name.as_str(), &topic.history)).collect();
    match encode(&place.chain, now, &topics) {
        Ok(bytes) => store.overwrite(&key(place, number), bytes).await,
        Err(error) => {
            tracing::error!(%error, "what is remembered of topics cannot be written");
            Ok(())
        }
    }
}
