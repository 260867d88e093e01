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
