//! The progress records of a bucket: reading, believing and making them. Pure.

use std::collections::BTreeMap;

use weir_crds::contract::{
    names::progress_key,
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

    /// Whether a key is that of a record of this bucket, of whatever generation.
    pub fn generation_of(&self, key: &str) -> Option<u32> {
        key.strip_prefix(self.transactional_id.as_str())?.strip_prefix("/g")?.parse().ok()
    }

    /// Sorts out what was read. A record that is damaged or somebody else's is never guessed from.
    pub fn sort_out(&self, found: &BTreeMap<String, Vec<u8>>) -> Result<Records, PublishError> {
        let own_generation = self.planned.run.context.run.generation;
        let mut records = Records::default();
        for (key, value) in found {
            let Some(generation) = self.generation_of(key) else { continue };
            if generation > own_generation {
                return Err(PublishError::Superseded { bucket: self.bucket.id.clone(), generation });
            }
            let record = self.parse(key, value)?;
            if generation == own_generation {
                self.recognise(key, &record)?;
                records.own = Some(record);
            } else {
                records.earlier.insert(generation, record);
            }
        }
        Ok(records)
    }

    fn parse(&self, key: &str, value: &[u8]) -> Result<BucketProgress, PublishError> {
        let record = BucketProgress::parse(value).map_err(|source| PublishError::ProgressCorrupt { key: key.to_owned(), source })?;
        let (run, own) = (&record.run, &self.planned.run.context.run);
        if run.namespace != own.namespace
            || run.name != own.name
            || progress_key(&self.transactional_id, run.generation) != key
            || record.bucket != self.bucket.id
        {
            return Err(PublishError::ProgressForeign { key: key.to_owned(), run: record.run, bucket: record.bucket });
        }
        Ok(record)
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
