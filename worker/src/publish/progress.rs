//! The progress records of a bucket: reading, believing and making them. Pure.

use std::collections::BTreeMap;

use weir_crds::contract::{
    names::{RunId, progress_key, transactional_id},
    plan::{Bucket, PlannedSink},
    progress::{BucketProgress, SliceProgress},
};

use super::error::PublishError;
use crate::run::PlannedRun;

/// Whose progress: a bucket of one generation.
#[derive(Clone, Debug)]
pub struct Identity {
    pub planned: PlannedRun,
    pub bucket: Bucket,
    pub sink: PlannedSink,
    pub transactional_id: String,
    /// The key of this generation's record.
    pub key: String,
}

/// What the progress topic says of a bucket.
#[derive(Debug, Default)]
pub struct Records {
    /// Of this generation.
    pub own: Option<BucketProgress>,
    /// Of earlier generations, by generation.
    pub earlier: BTreeMap<u32, BucketProgress>,
}

impl Identity {
    pub fn new(planned: PlannedRun, bucket: Bucket, sink: PlannedSink, transactional_id: String) -> Self {
        let key = progress_key(&transactional_id, planned.run.context.run.generation);
        Self { planned, bucket, sink, transactional_id, key }
    }

    /// Sorts out what was read.
    pub fn sort_out(&self, found: &BTreeMap<String, Vec<u8>>) -> Result<Records, PublishError> {
        let run = &self.planned.run.context.run;
        let mut earlier = by_generation(found, run, &self.bucket.id)?;
        let own = earlier.remove(&run.generation);
        if let Some(own) = &own {
            self.recognise(&self.key, own)?;
        }
        Ok(Records { own, earlier })
    }

    /// A record of this generation that was written for something else is as good as none, and none is not zero.
    fn recognise(&self, key: &str, record: &BucketProgress) -> Result<(), PublishError> {
        let foreign = if record.plan_hash != self.planned.plan_hash {
            format!("the plan {}", record.plan_hash)
        } else if record.cluster_id != self.sink.cluster_id {
            format!("the cluster {}", record.cluster_id)
        } else if record.topic_id != self.sink.topic_id {
            format!("the topic {}", record.topic_id)
        } else {
            return Ok(());
        };
        Err(PublishError::ProgressLost { bucket: self.bucket.id.clone(), what: format!("the record {key} is of {foreign}") })
    }

    /// The record that follows on `transactions` others.
    pub fn record(&self, transactions: u64, at: Option<SliceProgress>) -> BucketProgress {
        BucketProgress::new(
            self.planned.run.context.run.clone(),
            self.planned.plan_hash,
            self.bucket.id.clone(),
            self.sink.cluster_id.clone(),
            self.sink.topic_id.clone(),
            transactions,
            at,
        )
    }
}

/// The records of a bucket by generation, none of them later than `run`'s. One that is damaged or somebody else's is never
/// guessed from.
pub fn by_generation(found: &BTreeMap<String, Vec<u8>>, run: &RunId, bucket: &str) -> Result<BTreeMap<u32, BucketProgress>, PublishError> {
    let transactional_id = transactional_id(&run.namespace, &run.name, bucket);
    let generation_of = |key: &str| key.strip_prefix(transactional_id.as_str())?.strip_prefix("/g")?.parse().ok();
    let mut records = BTreeMap::new();
    for (key, value) in found {
        let Some(generation) = generation_of(key) else { continue };
        if generation > run.generation {
            return Err(PublishError::Superseded { bucket: bucket.to_owned(), generation });
        }
        let record = BucketProgress::parse(value).map_err(|source| PublishError::ProgressCorrupt { key: key.clone(), source })?;
        let is_own = record.run == RunId { generation, ..run.clone() } && record.bucket == bucket;
        if !is_own || *key != progress_key(&transactional_id, generation) {
            return Err(PublishError::ProgressForeign { key: key.clone(), run: record.run, bucket: record.bucket });
        }
        records.insert(generation, record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::{path::Path, sync::Arc};

    use serde_json::json;
    use weir_crds::contract::{
        digest::Sha256Digest,
        keys::RunKeys,
        manifest::to_bytes,
        plan::Plan,
        run::{RunSpec, WorkerContext},
    };
    use weir_ledger::Ledger;

    use super::*;
    use crate::{run::Run, scratch::Scratch};

    const GENERATION: u32 = 2;

    /// The first of two buckets of a run's second generation.
    async fn identity(dir: &Path) -> Identity {
        let run = json!({"namespace": "n", "name": "j", "generation": GENERATION});
        let store = json!({"bucket": "artifacts", "s3": {"endpoint": "http://127.0.0.1:1", "region": "r", "pathStyle": true}});
        let spec: RunSpec = serde_json::from_value(json!({
            "format": 1, "run": run, "class": "c", "store": store, "sourceStore": store["s3"],
            "window": {"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T06:15:00Z", "slice": "15m"}, "sources": [],
            "reconstruct": {"columns": {"eventId": "id", "eventTime": "at", "eventType": "type"}}, "sinks": []
        }))
        .unwrap();
        let digest = Sha256Digest::of(b"");
        let plan: Plan = serde_json::from_value(json!({
            "format": 1, "run": run, "runDigest": digest, "workerImage": "w", "slices": [], "sources": [], "chunks": [], "resultColumns": [],
            "objects": {"key": "o", "sha256": digest, "bytes": 0, "rows": 0},
            "sinks": [{"name": "e", "cluster": "k", "clusterId": "ci", "topic": "t", "topicId": "ti", "partitions": 2, "maxMessageBytes": 1}],
            "sizing": {"extractBytes": 1, "slicesPerUnit": 1, "bucketsPerUnit": 1},
            "estimates": {"events": 0, "bytes": 0, "objects": 0}, "sampledBytes": 0
        }))
        .unwrap();
        let context: WorkerContext = serde_json::from_value(
            json!({"run": run, "store": store, "kafka": {}, "unit": "publish-0000-0", "attempt": 1, "parallelism": 1, "workerImage": "w"}),
        )
        .unwrap();
        for name in ["aws-access-key-id", "aws-secret-access-key"] {
            std::fs::write(dir.join(name), "x").unwrap();
        }
        let run = Run {
            spec: Arc::new(spec),
            spec_digest: digest,
            keys: RunKeys::new("", &context.run),
            ledger: Ledger::connect(&context.store, Some(dir)).await.unwrap(),
            scratch: Scratch::new(dir, None).unwrap(),
            memory_bytes: 1 << 30,
            credentials_dir: None,
            context: Arc::new(context),
        };
        let (bucket, sink) = (plan.buckets()[0].clone(), plan.sinks[0].clone());
        let id = transactional_id(&run.context.run.namespace, &run.context.run.name, &bucket.id);
        Identity::new(PlannedRun { run, plan: Arc::new(plan), plan_hash: digest }, bucket, sink, id)
    }

    fn key(identity: &Identity, generation: u32) -> String {
        progress_key(&identity.transactional_id, generation)
    }

    fn found(key: String, record: &BucketProgress) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([(key, to_bytes(record))])
    }

    /// A record as another run, plan, bucket or target would have it.
    fn record(identity: &Identity, change: impl FnOnce(&mut BucketProgress)) -> BucketProgress {
        let mut record = identity.record(7, None);
        change(&mut record);
        let BucketProgress { run, plan_hash, bucket, cluster_id, topic_id, transactions, at, .. } = record;
        BucketProgress::new(run, plan_hash, bucket, cluster_id, topic_id, transactions, at)
    }

    #[tokio::test]
    async fn records_are_sorted_by_generation() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path()).await;
        let earlier = record(&identity, |record| {
            record.run.generation = 1;
            // It had a plan of its own, and a target that has gone since.
            (record.plan_hash, record.topic_id) = (Sha256Digest::of(b"1"), "gone".into());
        });
        let own = identity.record(7, None);
        let mut all = found(key(&identity, 1), &earlier);
        all.extend(found(key(&identity, GENERATION), &own));
        all.insert("weir.n.j.e-1/g2".into(), b"of another bucket".to_vec());
        let records = identity.sort_out(&all).unwrap();
        assert_eq!((records.own, records.earlier), (Some(own), BTreeMap::from([(1, earlier)])));
        let none = identity.sort_out(&BTreeMap::new()).unwrap();
        assert!(none.own.is_none() && none.earlier.is_empty());
    }

    #[tokio::test]
    async fn a_record_of_another_plan_or_target_is_no_progress() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path()).await;
        let changes: [(&str, fn(&mut BucketProgress)); 3] = [
            ("the plan", |record| record.plan_hash = Sha256Digest::of(b"another")),
            ("the cluster another", |record| record.cluster_id = "another".into()),
            ("the topic another", |record| record.topic_id = "another".into()),
        ];
        for (said, change) in changes {
            let error = identity.sort_out(&found(key(&identity, GENERATION), &record(&identity, change))).unwrap_err();
            assert!(matches!(&error, PublishError::ProgressLost { what, .. } if what.contains(said)), "{said}: {error}");
        }
    }

    #[tokio::test]
    async fn a_record_of_somebody_else_under_our_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path()).await;
        let changes: [fn(&mut BucketProgress); 4] = [
            |record| record.run.name = "other".into(),
            |record| record.run.namespace = "other".into(),
            |record| record.run.generation = 1,
            |record| record.bucket = "e-1".into(),
        ];
        for change in changes {
            let foreign = record(&identity, change);
            let error = identity.sort_out(&found(key(&identity, GENERATION), &foreign)).unwrap_err();
            let PublishError::ProgressForeign { key: under, run, bucket } = &error else { panic!("{error}") };
            assert_eq!((under, run, bucket), (&identity.key, &foreign.run, &foreign.bucket));
        }
        // A key that only looks like a generation's.
        let error = identity.sort_out(&found(format!("{}/g02", identity.transactional_id), &identity.record(7, None))).unwrap_err();
        assert!(matches!(error, PublishError::ProgressForeign { .. }), "{error}");
        let later = identity.sort_out(&found(key(&identity, 3), &identity.record(7, None))).unwrap_err();
        assert!(matches!(later, PublishError::Superseded { generation: 3, .. }), "{later}");
    }
}
