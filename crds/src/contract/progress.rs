//! Progress: of a bucket, in the transaction of its data (that one decides), and of a unit, for people (that one does not).
//! And who holds a bucket, which decides who may go on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{FORMAT, digest::Sha256Digest, manifest::PublishedPartition, names::RunId};
use crate::window::SliceId;

/// The last record of every transaction, in the namespace's progress topic, under [`super::names::progress_key`].
/// What is committed is what it says, and nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketProgress {
    pub format: u32,
    pub run: RunId,
    pub plan_hash: Sha256Digest,
    pub bucket: String,
    /// The target, as pinned by the plan.
    pub cluster_id: String,
    pub topic_id: String,
    /// How many transactions of this generation came before.
    pub transactions: u64,
    /// The slice that is being published, or was last; `None`: zero, the bucket was begun and nothing is published.
    pub at: Option<SliceProgress>,
    /// SHA-256 of all fields above as JSON: a record that was damaged is not guessed from.
    pub digest: Sha256Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceProgress {
    pub slice: SliceId,
    /// Digest of the staged part that the rows are counted in, in hexadecimal digits.
    pub part: String,
    /// Rows of the staged part that are done, sent or already present.
    pub rows: u64,
    pub partitions: BTreeMap<i32, PublishedPartition>,
}

impl BucketProgress {
    pub fn new(
        run: RunId,
        plan_hash: Sha256Digest,
        bucket: String,
        cluster_id: String,
        topic_id: String,
        transactions: u64,
        at: Option<SliceProgress>,
    ) -> Self {
        let mut progress =
            Self { format: FORMAT, run, plan_hash, bucket, cluster_id, topic_id, transactions, at, digest: Sha256Digest::default() };
        progress.digest = progress.own_digest();
        progress
    }

    fn own_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&super::manifest::to_bytes(&Self { digest: Sha256Digest::default(), ..self.clone() }))
    }

    /// Reads a record and checks that it is whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(bytes).map_err(RecordError::Decode)?;
        check(record.format, record.digest == record.own_digest())?;
        Ok(record)
    }
}

/// Why a record of the progress topic is not believed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("it is not a record of this kind")]
    Decode(#[source] serde_json::Error),
    #[error("it has format {found}, this program knows {FORMAT}: use the version of weir that wrote it")]
    Format { found: u32 },
    #[error("its digest is another")]
    Digest,
}

fn check(format: u32, is_whole: bool) -> Result<(), RecordError> {
    match (format, is_whole) {
        (FORMAT, true) => Ok(()),
        (FORMAT, false) => Err(RecordError::Digest),
        (found, _) => Err(RecordError::Format { found }),
    }
}

/// Who may publish to a bucket: the last record under [`super::names::holder_key`] in the namespace's progress topic. It is
/// committed under the bucket's own transactional id before any of the rotating ones is used, whichever the generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketHolder {
    pub format: u32,
    pub run: RunId,
    pub attempt: u32,
    /// Tells apart processes that run the same attempt.
    pub session: String,
    /// Every id that this holder or one before it may have used: what the next one must fence.
    pub transactional_ids: BTreeSet<String>,
    /// SHA-256 of all fields above as JSON.
    pub digest: Sha256Digest,
}

impl BucketHolder {
    pub fn new(run: RunId, attempt: u32, session: String, transactional_ids: BTreeSet<String>) -> Self {
        let mut holder = Self { format: FORMAT, run, attempt, session, transactional_ids, digest: Sha256Digest::default() };
        holder.digest = holder.own_digest();
        holder
    }

    fn own_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&super::manifest::to_bytes(&Self { digest: Sha256Digest::default(), ..self.clone() }))
    }

    /// Reads a record and checks that it is whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(bytes).map_err(RecordError::Decode)?;
        check(record.format, record.digest == record.own_digest())?;
        Ok(record)
    }
}

/// `progress/<unit>.json`: overwritten every 5 s by the worker that runs the unit. Only shown, never decided by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitProgress {
    pub unit: String,
    pub attempt: u32,
    pub items_done: u32,
    pub items_total: u32,
    /// Rows (extract: read; others: records) and bytes that this attempt went through.
    pub rows: u64,
    pub bytes: u64,
    pub started_at: jiff::Timestamp,
    pub updated_at: jiff::Timestamp,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::contract::manifest::to_bytes;

    #[test]
    fn a_record_that_was_edited_is_not_believed() {
        let run = RunId { namespace: "n".into(), name: "j".into(), generation: 41 };
        let holder = BucketHolder::new(run.clone(), 2, "s".into(), BTreeSet::from(["a.0".to_owned()]));
        let progress = BucketProgress::new(run, Sha256Digest::default(), "b-0".into(), "c".into(), "t".into(), 0, None);
        assert_eq!(BucketHolder::parse(&to_bytes(&holder)).unwrap(), holder);
        assert_eq!(BucketProgress::parse(&to_bytes(&progress)).unwrap(), progress);
        let edited = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace("41", "42").into_bytes();
        assert!(matches!(BucketHolder::parse(&edited(to_bytes(&holder))), Err(RecordError::Digest)));
        assert!(matches!(BucketProgress::parse(&edited(to_bytes(&progress))), Err(RecordError::Digest)));
        assert!(matches!(BucketHolder::parse(b"{}"), Err(RecordError::Decode(_))));
        let newer = to_bytes(&BucketHolder { format: FORMAT + 1, ..holder });
        assert!(matches!(BucketHolder::parse(&newer), Err(RecordError::Format { found }) if found == FORMAT + 1));
    }
}
