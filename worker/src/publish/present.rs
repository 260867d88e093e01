//! What earlier generations of the job have published of a slice: the event ids that are there already.
//!
//! Read from their recorded ranges, after their producers have been fenced, so it cannot grow any more.

use std::{
    collections::{BTreeMap, HashSet},
    ops::ControlFlow,
};

use tokio::runtime::Handle;
use weir_crds::{
    contract::{
        digest::Sha256Digest,
        keys::RunKeys,
        manifest::{Manifest, Published, PublishedPartition},
        names::RunId,
        plan::Plan,
        progress::BucketProgress,
    },
    window::Interval,
};
use weir_kafka::{
    KafkaConfig,
    range::{Isolation, Range, Reader},
};

use super::{
    error::PublishError,
    progress::{Identity, Records},
};
use crate::{headers, run::RunError};

/// Event ids, by the first half of their SHA-256: 16 bytes each, and no two ids meet by chance.
#[derive(Debug, Default)]
pub struct Present {
    ids: HashSet<[u8; 16]>,
}

impl Present {
    pub fn contains(&self, event_id: &str) -> bool {
        !self.ids.is_empty() && self.ids.contains(&short(event_id.as_bytes()))
    }
}

fn short(event_id: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256Digest::of(event_id).as_bytes()[..16]);
    half
}

/// An earlier generation that published to the same topic.
struct Earlier {
    run: RunId,
    keys: RunKeys,
    plan: Plan,
    plan_hash: Sha256Digest,
    /// Its last progress record of the bucket.
    progress: Option<BucketProgress>,
}

/// Earlier generations of the job, as far as they concern a bucket.
pub struct Generations {
    earlier: Vec<Earlier>,
}

impl Generations {
    /// Looks at what the artifact store has of them.
    pub fn read(identity: &Identity, records: &mut Records) -> Result<Self, PublishError> {
        let run = &identity.planned.run;
        let own = &run.context.run;
        let folders = Handle::current().block_on(run.ledger.folders(run.keys.job())).map_err(RunError::Store)?;
        let mut earlier = Vec::new();
        for generation in
            folders.iter().filter_map(|folder| folder.strip_prefix('g')?.strip_suffix('/')?.parse().ok()).filter(|g| *g < own.generation)
        {
            let id = RunId { generation, ..own.clone() };
            let keys = RunKeys::new(&run.context.store.prefix, &id);
            // A generation without a plan has published nothing.
            let Some(bytes) = Handle::current().block_on(run.ledger.get(&keys.plan())).map_err(RunError::Store)? else { continue };
            let plan: Plan = serde_json::from_slice(&bytes).map_err(|source| RunError::Decode { key: keys.plan(), source })?;
            let there =
                plan.sinks.iter().find(|sink| sink.cluster_id == identity.sink.cluster_id && sink.topic_id == identity.sink.topic_id);
            let Some(there) = there else { continue };
            if there.name != identity.sink.name {
                return Err(PublishError::SinkRenamed { generation, then: there.name.clone(), now: identity.sink.name.clone() });
            }
            earlier.push(Earlier {
                run: id,
                keys,
                plan,
                plan_hash: Sha256Digest::of(&bytes),
                progress: records.earlier.remove(&generation),
            });
        }
        Ok(Self { earlier })
    }

    /// The ids of what they published of the slices that overlap `times`.
    pub fn present(&self, identity: &Identity, config: &KafkaConfig, times: Interval) -> Result<Present, PublishError> {
        let mut present = Present::default();
        for earlier in &self.earlier {
            let ranges = earlier.ranges(identity, times)?;
            if ranges.is_empty() {
                continue;
            }
            let wanted = earlier.run.to_string();
            let reader = Reader::new(config, &identity.sink.topic, Isolation::Committed).map_err(PublishError::ReadPresent)?;
            let read = reader.read(&ranges, |record| {
                if record.header(headers::RUN) == Some(wanted.as_bytes())
                    && let Some(id) = record.header(headers::EVENT_ID)
                {
                    present.ids.insert(short(id));
                }
                ControlFlow::<()>::Continue(())
            });
            read.map_err(PublishError::ReadPresent)?;
        }
        Ok(present)
    }
}

impl Earlier {
    /// Where its records of the overlapping slices lie, one range for each partition: from the first to the last.
    fn ranges(&self, identity: &Identity, times: Interval) -> Result<Vec<Range>, PublishError> {
        let mut ranges: BTreeMap<i32, Range> = BTreeMap::new();
        for slice in self.plan.slices.iter().filter(|slice| slice.interval.overlaps(&times)) {
            let key = self.keys.published(&slice.id, &identity.bucket.id);
            let found = Handle::current().block_on(identity.planned.run.ledger.get(&key)).map_err(RunError::Store)?;
            let partitions = match found {
                Some(bytes) => {
                    let manifest = Manifest::<Published>::parse(&bytes, &self.run, self.plan_hash);
                    manifest.map_err(|source| RunError::Manifest { key, source })?.body.partitions
                }
                // Its last slice may be published in part.
                None => match self.progress.as_ref().and_then(|progress| progress.at.as_ref()) {
                    Some(at) if at.slice == slice.id => at.partitions.clone(),
                    Some(_) | None => continue,
                },
            };
            extend(&mut ranges, &partitions);
        }
        Ok(ranges.into_values().collect())
    }
}

fn extend(ranges: &mut BTreeMap<i32, Range>, partitions: &BTreeMap<i32, PublishedPartition>) {
    for (partition, published) in partitions {
        let Some(offsets) = published.offsets else { continue };
        let range = ranges.entry(*partition).or_insert(Range { partition: *partition, first: offsets.first, end: offsets.last + 1 });
        range.first = range.first.min(offsets.first);
        range.end = range.end.max(offsets.last + 1);
    }
}
