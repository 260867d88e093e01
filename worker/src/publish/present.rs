//! What earlier generations of the job have published: the event ids that are there already.
//!
//! Read from their recorded ranges, after their producers have been fenced, so it cannot grow any more. Where events have
//! the same places as they had, a slice of a bucket needs the ids of the same times and the same bucket only; where they
//! have not, planning has read all ids there are, since an event may have been published by any bucket.

use std::{collections::HashSet, ops::ControlFlow};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::OnceCell};
use weir_crds::{
    contract::{digest::Sha256Digest, manifest::PartRef, progress::BucketProgress},
    window::Interval,
};
use weir_kafka::{
    KafkaConfig,
    range::{Isolation, Range, Reader},
};

use super::{
    error::PublishError,
    generations::{self, Earlier},
    progress::{Identity, Records},
};
use crate::{
    headers,
    run::{Run, RunError},
};

/// Of an event id, the first half of its SHA-256: no two ids meet by chance.
pub type ShortId = [u8; 16];

/// Event ids that are there.
#[derive(Debug, Default)]
pub struct Present {
    ids: HashSet<ShortId>,
    /// Those that planning has read.
    planned: PlannedIds,
}

impl Present {
    pub fn contains(&self, event_id: &str) -> bool {
        if self.ids.is_empty() && self.planned.0.is_empty() {
            return false;
        }
        let id = short(event_id.as_bytes());
        self.ids.contains(&id) || self.planned.contains(&id)
    }
}

fn short(event_id: &[u8]) -> ShortId {
    let mut half = [0; size_of::<ShortId>()];
    half.copy_from_slice(&Sha256Digest::of(event_id).as_bytes()[..size_of::<ShortId>()]);
    half
}

/// The part that planning writes: short ids in ascending order, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct PlannedIds(Bytes);

impl PlannedIds {
    /// The part's bytes.
    pub fn bytes_of(ids: impl IntoIterator<Item = ShortId>) -> Bytes {
        let mut ids: Vec<ShortId> = ids.into_iter().collect();
        ids.sort_unstable();
        Bytes::from(ids.concat())
    }

    /// Reads the part of a sink, which is what the plan says.
    pub async fn read(run: &Run, part: Option<&PartRef>) -> Result<Self, PublishError> {
        let Some(part) = part else { return Ok(Self::default()) };
        let bytes = run.ledger.get(&part.key).await.map_err(RunError::Store)?;
        let bytes = bytes.ok_or_else(|| RunError::Missing { key: part.key.clone() })?;
        let found = part.digest.of_same_kind(&bytes);
        if found != part.digest {
            return Err(PublishError::Part {
                key: part.key.clone(),
                what: format!("its digest is {found}, the plan says {}", part.digest),
            });
        }
        Ok(Self(bytes))
    }

    fn contains(&self, id: &ShortId) -> bool {
        let (ids, _) = self.0.as_chunks::<{ size_of::<ShortId>() }>();
        ids.binary_search(id).is_ok()
    }
}

/// Short ids of the records in `ranges` that a run published.
pub fn read_ids(config: &KafkaConfig, topic: &str, run: &str, ranges: &[Range], mut see: impl FnMut(ShortId)) -> Result<(), PublishError> {
    if ranges.is_empty() {
        return Ok(());
    }
    let reader = Reader::new(config, topic, Isolation::Committed).map_err(PublishError::ReadPresent)?;
    let read = reader.read(ranges, |record| {
        if record.header(headers::RUN) == Some(run.as_bytes())
            && let Some(id) = record.header(headers::EVENT_ID)
        {
            see(short(id));
        }
        ControlFlow::<()>::Continue(())
    });
    read.map(drop).map_err(PublishError::ReadPresent)
}

/// Earlier generations of the job, as far as they concern a bucket.
pub struct Generations {
    /// Those whose events have the same places, each with its last progress record of the bucket.
    alike: Vec<(Earlier, Option<BucketProgress>)>,
    planned: PlannedIds,
}

impl Generations {
    /// Looks at what the artifact store has of them. `planned` is read once for all buckets of a sink.
    pub fn read(identity: &Identity, records: &mut Records, planned: &OnceCell<PlannedIds>) -> Result<Self, PublishError> {
        let run = &identity.planned.run;
        let part = identity.sink.present.as_ref();
        let planned = Handle::current().block_on(planned.get_or_try_init(|| PlannedIds::read(run, part)))?.clone();
        let mut alike = Vec::new();
        for earlier in Handle::current().block_on(generations::earlier(run))? {
            if earlier.published_to(&identity.sink)? && !earlier.places_otherwise(&run.spec, &identity.sink.name) {
                let progress = records.earlier.remove(&earlier.run.generation);
                alike.push((earlier, progress));
            }
        }
        Ok(Self { alike, planned })
    }

    /// The ids of what they published of the slices that overlap `times`, and of what was read by planning.
    pub fn present(&self, identity: &Identity, config: &KafkaConfig, times: Interval) -> Result<Present, PublishError> {
        let mut present = Present { ids: HashSet::new(), planned: self.planned.clone() };
        for (earlier, progress) in &self.alike {
            let ledger = &identity.planned.run.ledger;
            let overlaps = |slice: &weir_crds::window::Slice| slice.interval.overlaps(&times);
            let ranges = Handle::current().block_on(earlier.ranges(ledger, &identity.bucket.id, progress.as_ref(), overlaps))?;
            read_ids(config, &identity.sink.topic, &earlier.run.to_string(), &ranges, |id| _ = present.ids.insert(id))?;
        }
        Ok(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_ids_are_found_and_no_others() {
        let planned = PlannedIds(PlannedIds::bytes_of((0..1000).map(|n: u32| short(&n.to_be_bytes()))));
        let present = Present { ids: HashSet::from([short(b"narrow")]), planned };
        assert!((0..1000).all(|n: u32| present.planned.contains(&short(&n.to_be_bytes()))));
        assert!(present.contains("narrow") && !present.contains("neither") && !Present::default().contains("narrow"));
    }
}
