//! Manifests: each says that one item of work is done, is put once, and names its parts by digest. A part that no manifest
//! names does not exist.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    FORMAT,
    digest::{Chain, ContentDigest, RecordView, Sha256Digest},
    names::RunId,
};
use crate::window::{Interval, SliceId};

/// An object of the artifact store, with the digest that its reader checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartRef {
    /// In the store's bucket.
    pub key: String,
    #[serde(flatten)]
    pub digest: ContentDigest,
    pub bytes: u64,
    pub rows: u64,
}

/// A manifest around what it says. Two attempts at an item agree when the digests of their bodies do; which attempt came
/// first, and how long it took, does not count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest<B> {
    pub format: u32,
    pub run: RunId,
    pub plan_hash: Sha256Digest,
    pub attempt: u32,
    /// How long the item took.
    pub seconds: f64,
    /// SHA-256 of the body as JSON.
    pub body_digest: Sha256Digest,
    pub body: B,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("it is not a manifest")]
    Decode(#[source] serde_json::Error),
    #[error("it has format {found}, this program knows {FORMAT}: use the version of weir that wrote it")]
    Format { found: u32 },
    #[error(
        "its body has the digest {found}, it says {said}: it was damaged or edited; restore the object from a version or backup of the store"
    )]
    Digest { said: Sha256Digest, found: Sha256Digest },
    #[error("it belongs to run {found}, not to {wanted}")]
    Run { found: RunId, wanted: RunId },
    #[error("it belongs to the plan {found}, not to {wanted}")]
    Plan { found: Sha256Digest, wanted: Sha256Digest },
}

/// The one way in which contract objects become bytes: fields in the order of their declaration, maps sorted.
pub fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("contract types have string keys only, so they always become JSON")
}

impl<B: Serialize + DeserializeOwned> Manifest<B> {
    pub fn new(run: RunId, plan_hash: Sha256Digest, attempt: u32, seconds: f64, body: B) -> Self {
        Self { format: FORMAT, run, plan_hash, attempt, seconds, body_digest: Sha256Digest::of(&to_bytes(&body)), body }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Reads a manifest and checks that it is whole and belongs to this run and plan.
    pub fn parse(bytes: &[u8], run: &RunId, plan_hash: Sha256Digest) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Decode)?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Format { found: manifest.format });
        }
        let found = Sha256Digest::of(&to_bytes(&manifest.body));
        if found != manifest.body_digest {
            return Err(ManifestError::Digest { said: manifest.body_digest, found });
        }
        if manifest.run != *run {
            return Err(ManifestError::Run { found: manifest.run, wanted: run.clone() });
        }
        if manifest.plan_hash != plan_hash {
            return Err(ManifestError::Plan { found: manifest.plan_hash, wanted: plan_hash });
        }
        Ok(manifest)
    }
}

/// Rows set aside for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReasonCount {
    /// Short and stable, as `NotAnInteger at user.id`.
    pub reason: String,
    pub rows: u64,
}

/// `extracted/<chunk>.json`. In rows: `read + expanded = filtered_out + invalid + outside_window + late + selected`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extracted {
    pub chunk: String,
    pub source: String,
    /// Bytes that were fetched of the source objects.
    pub bytes_read: u64,
    pub read: u64,
    /// Rows that an unnest made beyond the first of each source row.
    pub expanded: u64,
    pub filtered_out: u64,
    /// All invalid rows; those whose slice and event type are known are in `invalid_by` too.
    pub invalid: u64,
    /// Those of them whose event time is known to be outside of the window, or in an excluded part.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub invalid_outside: u64,
    pub outside_window: u64,
    pub late: u64,
    pub selected: u64,
    /// Invalid rows that got as far as having an event time and type.
    pub invalid_by: Vec<SliceTypeCount>,
    /// What the chunk's objects had for the job, by the event times that their rows may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_times: Vec<TimesCount>,
    /// How often each undeclared field was seen; the most frequent 100.
    pub unknown_fields: BTreeMap<String, u64>,
    /// The selected rows; absent where there are none. Its digest is that of its segments' digests in the file's order: it is
    /// read by segments, each of which is checked by its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PartRef>,
    pub index: Vec<SliceSegments>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<PartRef>,
    /// Of the invalid and the late rows, the most frequent 50.
    pub reasons: Vec<ReasonCount>,
}

const fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceTypeCount {
    pub slice: SliceId,
    pub event_type: String,
    pub rows: u64,
}

/// Rows of all objects whose rows may have the same event times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimesCount {
    /// `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Interval>,
    /// Rows that are selected, or invalid and known to be of a slice.
    pub placed: u64,
    /// Invalid rows that have no event time, or no type: they may belong to any slice that overlaps `times`.
    pub unplaced: u64,
}

/// Where a slice's rows lie in a chunk's data object: each segment is an Arrow IPC stream of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceSegments {
    pub slice: SliceId,
    pub rows: u64,
    pub segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    pub offset: u64,
    pub length: u64,
    pub rows: u64,
    /// Of the segment's bytes, since a range is read without the rest.
    #[serde(flatten)]
    pub digest: ContentDigest,
}

/// `staged/<slice>.json`. For each source and event type: `selected = duplicates + quarantined + staged`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Staged {
    pub slice: SliceId,
    pub by: Vec<StagedCounts>,
    /// One for each bucket with rows, in the plan's order.
    pub buckets: Vec<StagedBucket>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<PartRef>,
    pub reasons: Vec<ReasonCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedCounts {
    pub source: String,
    pub event_type: String,
    pub selected: u64,
    pub duplicates: u64,
    pub quarantined: u64,
    pub staged: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedBucket {
    pub bucket: String,
    /// Records as they will be published, in that order.
    pub part: PartRef,
    /// By partition.
    pub partitions: BTreeMap<i32, RecordsDigest>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordsDigest {
    pub records: u64,
    pub chain: Chain,
}

impl RecordsDigest {
    /// Of no records, to be compared with this one in the end.
    pub fn start(&self) -> Self {
        Self { records: 0, chain: self.chain.start() }
    }

    pub fn count(&mut self, record: RecordView<'_>) {
        self.records += 1;
        self.chain.push(record);
    }
}

/// `published/<slice>/<bucket>.json`: `staged = published + already present`, for each partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    pub slice: SliceId,
    pub bucket: String,
    pub partitions: BTreeMap<i32, PublishedPartition>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPartition {
    /// All staged records that were gone through, those already present included: must equal what is staged.
    pub staged: RecordsDigest,
    /// Those that were sent.
    pub sent: RecordsDigest,
    /// Where they lie: offsets of the first and the last, from delivery reports. Others' records may lie between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<OffsetRange>,
}

impl PublishedPartition {
    /// Records that an earlier generation had published.
    pub fn present(&self) -> u64 {
        self.staged.records.saturating_sub(self.sent.records)
    }
}

/// Both ends are inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetRange {
    pub first: i64,
    pub last: i64,
}

impl OffsetRange {
    pub fn including(range: Option<Self>, offset: i64) -> Self {
        range.map_or(Self { first: offset, last: offset }, |r| Self { first: r.first.min(offset), last: r.last.max(offset) })
    }
}

/// `verified/<slice>.json`: a `read_committed` reader saw what was published, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    pub slice: SliceId,
    /// Records of this run and slice that were read, all equal to what was sent.
    pub records: u64,
    /// Records of other producers that lay between.
    pub others: u64,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn parts_of_an_earlier_version_are_read_and_written_as_they_were() {
        for name in ["sha256", "blake3"] {
            let part = format!(r#"{{"key":"k","{name}":"{}","bytes":7,"rows":3}}"#, "0a".repeat(32));
            assert_eq!(String::from_utf8(to_bytes(&serde_json::from_str::<PartRef>(&part).unwrap())).unwrap(), part);
            let segment = format!(r#"{{"offset":1,"length":7,"rows":3,"{name}":"{}"}}"#, "0a".repeat(32));
            assert_eq!(String::from_utf8(to_bytes(&serde_json::from_str::<Segment>(&segment).unwrap())).unwrap(), segment);
        }
    }

    #[test]
    fn a_manifest_that_was_edited_is_not_believed() {
        let run = RunId { namespace: "n".into(), name: "j".into(), generation: 1 };
        let plan = Sha256Digest::of(b"plan");
        let body = Verified { slice: SliceId::from_start("2026-11-03T06:00:00Z".parse().unwrap()), records: 41, others: 1 };
        let bytes = Manifest::new(run.clone(), plan, 1, 0.5, body.clone()).to_bytes();
        assert_eq!(Manifest::<Verified>::parse(&bytes, &run, plan).unwrap().body, body);
        let edited = String::from_utf8(bytes.clone()).unwrap().replace("41", "42");
        assert!(matches!(Manifest::<Verified>::parse(edited.as_bytes(), &run, plan), Err(ManifestError::Digest { .. })));
        assert!(matches!(Manifest::<Verified>::parse(&bytes, &run, Sha256Digest::of(b"other")), Err(ManifestError::Plan { .. })));
        let other = RunId { generation: 2, ..run };
        assert!(matches!(Manifest::<Verified>::parse(&bytes, &other, plan), Err(ManifestError::Run { .. })));
    }
}
