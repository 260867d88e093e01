//! The recorded ranges of a slice, read back and compared. The comparison is pure.

use std::{collections::BTreeMap, ops::ControlFlow};

use weir_crds::{
    backfill_job::RecordTimestamps,
    contract::{
        digest::RecordView,
        manifest::{OffsetRange, Published, RecordsDigest},
        names::RunId,
    },
    window::SliceId,
};
use weir_kafka::range::{Range, Reader, RecordRef};

use super::error::VerifyError;
use crate::headers;

/// What must be found of a slice.
#[derive(Debug)]
pub struct Expected {
    run: String,
    slice: String,
    timestamps: RecordTimestamps,
    partitions: BTreeMap<i32, (RecordsDigest, OffsetRange)>,
}

/// What was found in the ranges.
#[derive(Debug, Default)]
pub struct Found {
    partitions: BTreeMap<i32, RecordsDigest>,
    others: u64,
}

impl Found {
    pub fn records(&self) -> u64 {
        self.partitions.values().map(|digest| digest.records).sum()
    }

    pub fn others(&self) -> u64 {
        self.others
    }
}

impl Expected {
    pub fn new(run: &RunId, slice: &SliceId, timestamps: RecordTimestamps) -> Self {
        Self { run: run.to_string(), slice: slice.to_string(), timestamps, partitions: BTreeMap::new() }
    }

    /// Adds a bucket. What its publisher went through must be what was staged for it.
    pub fn add(&mut self, bucket: &str, staged: Option<&BTreeMap<i32, RecordsDigest>>, published: &Published) -> Result<(), VerifyError> {
        let not_as_staged = |partition: i32| VerifyError::NotAsStaged { slice: self.slice.clone(), bucket: bucket.to_owned(), partition };
        let nothing = BTreeMap::new();
        let staged = staged.unwrap_or(&nothing);
        if let Some(missing) = staged.keys().find(|partition| !published.partitions.contains_key(*partition)) {
            return Err(not_as_staged(*missing));
        }
        for (partition, of) in &published.partitions {
            if staged.get(partition).copied().unwrap_or_default() != of.staged {
                return Err(not_as_staged(*partition));
            }
            match of.offsets {
                Some(offsets) => _ = self.partitions.insert(*partition, (of.sent, offsets)),
                None if of.sent.records == 0 => {}
                None => return Err(not_as_staged(*partition)),
            }
        }
        Ok(())
    }

    /// Reads the ranges. `progress` hears of records and bytes now and then.
    pub fn read(&self, reader: &Reader, mut progress: impl FnMut(u64, u64)) -> Result<Found, VerifyError> {
        let ranges: Vec<Range> = self
            .partitions
            .iter()
            .map(|(partition, (_, offsets))| Range { partition: *partition, first: offsets.first, end: offsets.last + 1 })
            .collect();
        let mut found = Found::default();
        let read = reader.read(&ranges, |record| {
            progress(1, record.value().map_or(0, <[u8]>::len) as u64);
            self.see(&record, &mut found);
            ControlFlow::<()>::Continue(())
        });
        read.map_err(VerifyError::Read)?;
        Ok(found)
    }

    fn nothing_of(&self, partition: i32) -> RecordsDigest {
        self.partitions.get(&partition).map(|(sent, _)| sent.start()).unwrap_or_default()
    }

    fn see(&self, record: &RecordRef<'_>, found: &mut Found) {
        let [run, slice, id] = record.headers_of([headers::RUN, headers::SLICE, headers::EVENT_ID]);
        let is_own = run == Some(self.run.as_bytes()) && slice == Some(self.slice.as_bytes());
        match id.filter(|_| is_own).and_then(|id| std::str::from_utf8(id).ok()) {
            Some(event_id) => {
                let timestamp_ms = match self.timestamps {
                    RecordTimestamps::EventTime => record.timestamp_ms().unwrap_or(-1),
                    RecordTimestamps::ReplayTime => 0,
                };
                let view = RecordView { key: record.key(), value: record.value().unwrap_or_default(), timestamp_ms, event_id };
                let counted = found.partitions.entry(record.partition()).or_insert_with(|| self.nothing_of(record.partition()));
                counted.count(view);
            }
            None => found.others += 1,
        }
    }

    /// That every partition holds what was sent to it, in its order.
    pub fn compare(&self, found: &Found) -> Result<(), VerifyError> {
        for (partition, (sent, offsets)) in &self.partitions {
            let (slice, partition, OffsetRange { first, last }) = (self.slice.clone(), *partition, *offsets);
            let read = found.partitions.get(&partition).copied().unwrap_or(sent.start());
            if read.records != sent.records {
                return Err(VerifyError::Count { slice, partition, first, last, found: read.records, sent: sent.records });
            }
            if read.chain != sent.chain {
                return Err(VerifyError::Content { slice, partition, first, last });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use weir_crds::contract::{
        digest::{Chain, Sha256Digest},
        manifest::PublishedPartition,
    };

    use super::*;

    fn digest(ids: &[&str]) -> RecordsDigest {
        let mut digest = RecordsDigest::default();
        for event_id in ids {
            digest.count(RecordView { key: None, value: b"v", timestamp_ms: 1, event_id });
        }
        digest
    }

    fn expected() -> Expected {
        let run = RunId { namespace: "n".into(), name: "j".into(), generation: 1 };
        Expected::new(&run, &SliceId::from_start("2026-11-03T06:00:00Z".parse().unwrap()), RecordTimestamps::EventTime)
    }

    fn published(partitions: &[(i32, RecordsDigest, RecordsDigest, Option<OffsetRange>)]) -> Published {
        let partitions = partitions
            .iter()
            .map(|(p, staged, sent, offsets)| (*p, PublishedPartition { staged: *staged, sent: *sent, offsets: *offsets }));
        Published {
            slice: SliceId::from_start("2026-11-03T06:00:00Z".parse().unwrap()),
            bucket: "b-0".into(),
            partitions: partitions.collect(),
        }
    }

    const OFFSETS: Option<OffsetRange> = Some(OffsetRange { first: 3, last: 9 });

    #[test]
    fn a_manifest_that_does_not_agree_with_what_was_staged_is_refused() {
        let (ab, a) = (digest(&["a", "b"]), digest(&["a"]));
        let staged = BTreeMap::from([(0, ab)]);
        assert!(expected().add("b-0", Some(&staged), &published(&[(0, ab, ab, OFFSETS)])).is_ok());
        assert!(expected().add("b-0", Some(&staged), &published(&[(0, a, a, OFFSETS)])).is_err());
        assert!(expected().add("b-0", Some(&staged), &published(&[])).is_err());
        assert!(expected().add("b-0", None, &published(&[(0, ab, ab, OFFSETS)])).is_err());
        assert!(expected().add("b-0", Some(&staged), &published(&[(0, ab, ab, None)])).is_err());
        assert!(expected().add("b-0", Some(&staged), &published(&[(0, ab, digest(&[]), None)])).is_ok());
    }

    #[test]
    fn what_an_earlier_version_published_is_digested_as_it_did() {
        let count = |mut digest: RecordsDigest| {
            digest.count(RecordView { key: None, value: b"v", timestamp_ms: 1, event_id: "a" });
            digest
        };
        let sent = count(RecordsDigest { records: 0, chain: Chain::Sha256(Sha256Digest::default()) });
        let mut wanted = expected();
        wanted.add("b-0", Some(&BTreeMap::from([(0, sent)])), &published(&[(0, sent, sent, OFFSETS)])).unwrap();
        let found = |digest| wanted.compare(&Found { partitions: BTreeMap::from([(0, digest)]), others: 0 });
        assert!(found(count(wanted.nothing_of(0))).is_ok());
        assert!(found(count(RecordsDigest::default())).is_err());
    }

    #[test]
    fn lost_doubled_changed_and_reordered_records_are_told() {
        let sent = digest(&["a", "b", "c"]);
        let mut wanted = expected();
        wanted.add("b-0", Some(&BTreeMap::from([(0, sent)])), &published(&[(0, sent, sent, OFFSETS)])).unwrap();
        let compare = |ids: &[&str]| wanted.compare(&Found { partitions: BTreeMap::from([(0, digest(ids))]), others: 0 });
        assert!(compare(&["a", "b", "c"]).is_ok());
        assert!(matches!(compare(&["a", "b"]), Err(VerifyError::Count { found: 2, sent: 3, .. })));
        assert!(matches!(compare(&["a", "b", "b", "c"]), Err(VerifyError::Count { found: 4, .. })));
        assert!(matches!(compare(&["a", "b", "d"]), Err(VerifyError::Content { .. })));
        assert!(matches!(compare(&["a", "c", "b"]), Err(VerifyError::Content { .. })));
        assert!(wanted.compare(&Found::default()).is_err());
    }
}
