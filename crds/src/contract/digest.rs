//! Digests: of bytes, and of the records of one slice in one partition.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

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

/// What of a record decides whether it is the one that was staged.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    /// Milliseconds since the epoch; with `timestamps: ReplayTime`, which no one can know beforehand, always 0.
    pub timestamp_ms: i64,
    pub event_id: &'a str,
}

/// The digest of a sequence of records: each link is the SHA-256 of the one before and the record, so it can be carried
/// on from a stored link, and depends on the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chain(Sha256Digest);

impl Chain {
    pub fn push(&mut self, record: RecordView<'_>) {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
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
        self.0 = Sha256Digest(hash.finalize().into());
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(records: &[(Option<&str>, &str, i64, &str)]) -> Chain {
        let mut chain = Chain::default();
        for (key, value, timestamp_ms, event_id) in records {
            chain.push(RecordView { key: key.map(str::as_bytes), value: value.as_bytes(), timestamp_ms: *timestamp_ms, event_id });
        }
        chain
    }

    #[test]
    fn a_chain_tells_every_field_and_the_order() {
        let one = (Some("k"), "v", 1, "e");
        let all = [
            chain(&[one]),
            chain(&[(None, "v", 1, "e")]),
            chain(&[(Some(""), "v", 1, "e")]),
            chain(&[(Some("kv"), "", 1, "e")]),
            chain(&[(Some("k"), "v", 2, "e")]),
            chain(&[(Some("k"), "v", 1, "f")]),
            chain(&[one, (Some("l"), "v", 1, "g")]),
            chain(&[(Some("l"), "v", 1, "g"), one]),
        ];
        for (index, a) in all.iter().enumerate() {
            assert!(all.iter().skip(index + 1).all(|b| a != b), "{index} equals a later one");
        }
        assert_eq!(chain(&[one]), chain(&[one]));
    }
}
