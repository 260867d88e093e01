//! Progress: of a bucket, in the transaction of its data (that one decides), and of a unit, for people (that one does not).

use std::collections::BTreeMap;

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
    /// Digest of the staged part that the rows are counted in.
    pub part: Sha256Digest,
    /// Rows of the staged part that are done, sent or already present.
    pub rows: u64,
    pub partitions: BTreeMap<i32, PublishedPartition>,
}

impl BucketProgress {
    #[expect(clippy::too_many_arguments, reason = "every field but the digest")]
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

    /// Whether the record is as it was written.
    pub fn is_whole(&self) -> bool {
        self.digest == self.own_digest()
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
