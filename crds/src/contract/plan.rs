//! `plan.json`: everything that a run will do, pinned. Its SHA-256 is the plan hash that is approved.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{digest::Sha256Digest, manifest::PartRef, names::RunId};
use crate::{
    backfill_job::Estimates,
    window::{Interval, Slice},
};

/// Buckets a topic is published by: as many as it has partitions, but no more. A function of the partition count alone,
/// so that every generation has the same buckets and fences the same transactional ids.
pub const BUCKETS_MAX: usize = 8;
/// So that a plan stays a few hundred kilobytes and a run stays under 2,000 Jobs, whatever the sources hold: chunks grow.
pub const CHUNKS_MAX: usize = 4000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub format: u32,
    pub run: RunId,
    /// SHA-256 of `run.json`.
    pub run_digest: Sha256Digest,
    pub worker_image: String,
    /// In the window's order; everything that names a slice by number means this list.
    pub slices: Vec<Slice>,
    pub sources: Vec<PlannedSource>,
    /// The source objects: a Parquet part, so that millions fit.
    pub objects: PartRef,
    pub chunks: Vec<PlannedChunk>,
    pub sinks: Vec<PlannedSink>,
    /// What every select gives: names, and types as Arrow writes them.
    pub result_columns: Vec<ResultColumn>,
    /// The event types that the selects can give, where they tell; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_types: Option<BTreeSet<String>>,
    pub sizing: Sizing,
    pub estimates: Estimates,
    /// Bytes that planning read of the sources to estimate; not part of what `extract` reads.
    pub sampled_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedSource {
    pub name: String,
    pub objects: u64,
    pub bytes: u64,
}

/// A pinned piece of a source, read exactly once: consecutive rows of the list of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChunk {
    /// `<source>-00001`.
    pub id: String,
    /// Index into [`Plan::sources`].
    pub source: u16,
    /// Its objects are rows `first_object .. first_object + objects` of the object list.
    pub first_object: u32,
    pub objects: u32,
    pub bytes: u64,
    /// The event times that its rows may have by what the source declares; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_times: Option<Interval>,
}

impl PlannedChunk {
    /// Whether it may have rows of a slice.
    pub fn may_hold(&self, slice: &Slice) -> bool {
        self.event_times.is_none_or(|times| times.overlaps(&slice.interval))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedSink {
    pub name: String,
    /// The name of the `KafkaCluster`.
    pub cluster: String,
    /// Pinned, and checked at every start.
    pub cluster_id: String,
    pub topic: String,
    pub topic_id: String,
    pub partitions: u32,
    pub max_message_bytes: u64,
    /// The ids of all events that earlier generations published, where some of them had other places for events. Sixteen
    /// bytes each, sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<PartRef>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultColumn {
    pub name: String,
    pub data_type: String,
}

/// How the work is cut into Jobs of minutes. See [`super::units::units`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizing {
    /// Source bytes of one extract unit, at most (a chunk is never cut).
    pub extract_bytes: u64,
    /// Consecutive slices of one assemble, publish or verify unit.
    pub slices_per_unit: u32,
    /// Buckets of one publish unit.
    pub buckets_per_unit: u32,
}

/// A group of a target's partitions that one producer publishes to, in sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// `<sink>-<number>`, as manifests, transactional ids and keys have it.
    pub id: String,
    /// Index into [`Plan::sinks`].
    pub sink: usize,
    pub number: u32,
    pub partitions: Vec<i32>,
}

impl PlannedSink {
    fn bucket_count(&self) -> u32 {
        self.partitions.clamp(1, BUCKETS_MAX as u32)
    }

    /// The number of the bucket that owns a partition.
    pub fn bucket_of(&self, partition: i32) -> u32 {
        u32::try_from(partition).unwrap_or(0) % self.bucket_count()
    }
}

impl Plan {
    /// All buckets of all sinks, in a fixed order.
    pub fn buckets(&self) -> Vec<Bucket> {
        let mut buckets = Vec::new();
        for (index, sink) in self.sinks.iter().enumerate() {
            for number in 0..sink.bucket_count() {
                let partitions = (0..sink.partitions).filter(|p| p % sink.bucket_count() == number).map(|p| p as i32).collect();
                buckets.push(Bucket { id: format!("{}-{number}", sink.name), sink: index, number, partitions });
            }
        }
        buckets
    }

    pub fn bucket(&self, id: &str) -> Option<Bucket> {
        self.buckets().into_iter().find(|b| b.id == id)
    }

    pub fn chunk(&self, id: &str) -> Option<&PlannedChunk> {
        self.chunks.iter().find(|c| c.id == id)
    }

    pub fn slice(&self, id: &str) -> Option<&Slice> {
        self.slices.iter().find(|s| s.id.as_str() == id)
    }

    /// The chunks that may hold rows of a slice: what must be extracted before it is assembled.
    pub fn covering<'a>(&'a self, slice: &'a Slice) -> impl Iterator<Item = &'a PlannedChunk> {
        self.chunks.iter().filter(move |chunk| chunk.may_hold(slice))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        super::manifest::to_bytes(self)
    }
}
