//! Digests: of bytes, and of the records of one slice in one partition.
//!
//! What people and audits compare, and what is short, has a SHA-256. The data between the steps, of which every byte is digested
//! several times, have a BLAKE3: as strong, and several times as fast. The chain of a partition's records is compared with
//! what weir itself has counted before and with nothing else; it has to find what was lost, doubled, changed or moved by
//! accident, which XXH3 does at a tenth of the cost. Whoever means to deceive is found by the parts' digests.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_128;

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sha256Digest([u8; 32]);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a SHA-256 of 64 hexadecimal digits")]
pub struct DigestError(String);

impl Sha256Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Enough digits to name a part by: two attempts with different bytes never write the same name.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| DigestError(text))?;
        Ok(Self(bytes))
    }
}

/// A BLAKE3, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Blake3Digest([u8; 32]);

impl fmt::Debug for Blake3Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl From<Blake3Digest> for String {
    fn from(digest: Blake3Digest) -> Self {
        hex::encode(digest.0)
    }
}

impl TryFrom<String> for Blake3Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| DigestError(text))?;
        Ok(Self(bytes))
    }
}

/// The digest of a part's or a segment's bytes, under the name of how it was made: new ones are BLAKE3, those of earlier versions
/// SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentDigest {
    Blake3(Blake3Digest),
    Sha256(Sha256Digest),
}

impl ContentDigest {
    pub fn of(bytes: &[u8]) -> Self {
        Self::Blake3(Blake3Digest(blake3::hash(bytes).into()))
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        match self {
            Self::Blake3(digest) => &digest.0,
            Self::Sha256(digest) => &digest.0,
        }
    }

    /// As [`Sha256Digest::short`].
    pub fn short(&self) -> String {
        hex::encode(&self.as_bytes()[..6])
    }

    /// To digest bytes the way that this one was made, and then compare.
    pub fn hasher(&self) -> ContentHasher {
        match self {
            Self::Blake3(_) => ContentHasher::default(),
            Self::Sha256(_) => ContentHasher(Inner::Sha256(Sha256::new())),
        }
    }

    /// The digest of other bytes, made the way that this one was.
    pub fn of_same_kind(&self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl From<Sha256Digest> for ContentDigest {
    fn from(digest: Sha256Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

/// Digests bytes as they come.
#[derive(Clone, Debug, Default)]
pub struct ContentHasher(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Blake3(Box<blake3::Hasher>),
    Sha256(Sha256),
}

impl Default for Inner {
    fn default() -> Self {
        Self::Blake3(Box::default())
    }
}

impl ContentHasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Blake3(hasher) => _ = hasher.update(bytes),
            Inner::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> ContentDigest {
        match self.0 {
            Inner::Blake3(hasher) => ContentDigest::Blake3(Blake3Digest(hasher.finalize().into())),
            Inner::Sha256(hasher) => ContentDigest::Sha256(Sha256Digest(hasher.finalize().into())),
        }
    }
}

/// What of a record decides whether it is the one that was staged.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    /// Milliseconds since the epoch; with `timestamps: ReplayTime`, which no one can know beforehand, always 0.
    pub timestamp_ms: i64,
    pub event_id: &'a str,
}

/// The digest of a sequence of records: each link is a digest of the one before and the record, so it can be carried on from
/// a stored link, and depends on the order. New ones are XXH3 of 128 bits, written as 32 hexadecimal digits, those that an
/// earlier version began SHA-256, written as 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Chain {
    Xxh3(u128),
    Sha256(Sha256Digest),
}

impl Default for Chain {
    fn default() -> Self {
        Self::Xxh3(0)
    }
}

impl Chain {
    /// A chain of nothing that goes on as this one does.
    pub fn start(&self) -> Self {
        match self {
            Self::Xxh3(_) => Self::Xxh3(0),
            Self::Sha256(_) => Self::Sha256(Sha256Digest::default()),
        }
    }

    pub fn push(&mut self, record: RecordView<'_>) {
        match self {
            Self::Xxh3(link) => *link = xxh3_link(*link, record),
            Self::Sha256(link) => *link = sha256_link(link, record),
        }
    }
}

/// Each field is digested by itself, at the speed of one piece, and then what is short together.
fn xxh3_link(before: u128, record: RecordView<'_>) -> u128 {
    const FIELD: usize = size_of::<u128>();
    let RecordView { key, value, timestamp_ms, event_id } = record;
    let mut short = [0; 4 * FIELD + 2 * size_of::<u64>()];
    let (digests, numbers) = short.split_at_mut(4 * FIELD);
    let fields = [before, xxh3_128(key.unwrap_or_default()), xxh3_128(value), xxh3_128(event_id.as_bytes())];
    for (place, field) in digests.chunks_exact_mut(FIELD).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    // A null key differs from an empty one.
    for (place, number) in numbers.chunks_exact_mut(size_of::<u64>()).zip([u64::from(key.is_some()), timestamp_ms.cast_unsigned()]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    xxh3_128(&short)
}

fn sha256_link(before: &Sha256Digest, record: RecordView<'_>) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update(before.as_bytes());
    let mut part = |bytes: Option<&[u8]>| match bytes {
        // Lengths keep neighbouring fields apart; a null key differs from an empty one.
        Some(bytes) => {
            hash.update((bytes.len() as u64 + 1).to_le_bytes());
            hash.update(bytes);
        }
        None => hash.update(0u64.to_le_bytes()),
    };
    part(record.key);
    part(Some(record.value));
    part(Some(&record.timestamp_ms.to_le_bytes()));
    part(Some(record.event_id.as_bytes()));
    Sha256Digest(hash.finalize().into())
}

impl From<Chain> for String {
    fn from(chain: Chain) -> Self {
        chain.to_string()
    }
}

impl TryFrom<String> for Chain {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const XXH3_DIGITS: usize = 32;
        if text.len() != XXH3_DIGITS {
            return Sha256Digest::try_from(text).map(Self::Sha256);
        }
        let mut bytes = [0; XXH3_DIGITS / 2];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| DigestError(text))?;
        Ok(Self::Xxh3(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xxh3(link) => write!(f, "{link:032x}"),
            Self::Sha256(link) => fmt::Display::fmt(link, f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn chain(start: Chain, records: &[(Option<&str>, &str, i64, &str)]) -> Chain {
        let mut chain = start;
        for (key, value, timestamp_ms, event_id) in records {
            chain.push(RecordView { key: key.map(str::as_bytes), value: value.as_bytes(), timestamp_ms: *timestamp_ms, event_id });
        }
        chain
    }

    const KINDS: [Chain; 2] = [Chain::Xxh3(0), Chain::Sha256(Sha256Digest([0; 32]))];

    #[test]
    fn a_chain_tells_every_field_and_the_order() {
        for start in KINDS {
            let one = (Some("k"), "v", 1, "e");
            let all = [
                chain(start, &[one]),
                chain(start, &[(None, "v", 1, "e")]),
                chain(start, &[(Some(""), "v", 1, "e")]),
                chain(start, &[(Some("kv"), "", 1, "e")]),
                chain(start, &[(Some("v"), "k", 1, "e")]),
                chain(start, &[(Some("k"), "v", 2, "e")]),
                chain(start, &[(Some("k"), "v", 1, "f")]),
                chain(start, &[one, (Some("l"), "v", 1, "g")]),
                chain(start, &[(Some("l"), "v", 1, "g"), one]),
            ];
            for (index, a) in all.iter().enumerate() {
                assert!(all.iter().skip(index + 1).all(|b| a != b), "{index} equals a later one");
            }
            assert_eq!(chain(start, &[one]), chain(start, &[one]));
        }
    }

    #[test]
    fn a_chain_is_carried_on_from_its_text_as_it_began() {
        let (first, second) = ((Some("k"), "v", 1, "e"), (None, "w", -2, "f"));
        for start in KINDS {
            let stored = serde_json::to_string(&chain(start, &[first])).unwrap();
            let read: Chain = serde_json::from_str(&stored).unwrap();
            assert_eq!(chain(read, &[second]), chain(start, &[first, second]));
            assert_eq!(read.start(), start);
        }
        assert!(serde_json::from_str::<Chain>("\"00\"").is_err());
    }

    #[test]
    fn content_is_digested_as_it_was_and_written_under_that_name() {
        let (new, old) = (ContentDigest::of(b"some"), ContentDigest::from(Sha256Digest::of(b"some")));
        for (digest, name) in [(new, "blake3"), (old, "sha256")] {
            assert_eq!(digest.of_same_kind(b"some"), digest);
            assert_ne!(digest.of_same_kind(b"same"), digest);
            let text = serde_json::to_string(&digest).unwrap();
            assert_eq!(text, format!("{{\"{name}\":\"{digest}\"}}"));
            assert_eq!(serde_json::from_str::<ContentDigest>(&text).unwrap(), digest);
        }
        let mut pieces = ContentHasher::default();
        pieces.update(b"so");
        pieces.update(b"me");
        assert_eq!(pieces.finish(), new);
    }
}
