//! What earlier generations of the job have published: the event ids that are there already.
//!
//! Read from their recorded ranges, after their producers have been fenced, so it cannot grow any more. Where events have
//! the same places as they had, a slice of a bucket needs the ids of the same times and the same bucket only; where they
//! have not, planning has read all ids there are, since an event may have been published by any bucket.

use std::{collections::BTreeMap, io, ops::ControlFlow};

use tokio::{runtime::Handle, sync::OnceCell};
use weir_crds::{
    contract::{manifest::PartRef, progress::BucketProgress},
    window::Interval,
};
use weir_kafka::{
    KafkaConfig,
    range::{Isolation, Range, Reader},
};

use super::{
    error::PublishError,
    generations::{self, Earlier},
    ids::{Ids, ShortId, short},
    progress::{Identity, Records},
};
use crate::{
    headers,
    run::{Run, RunError},
};

/// Event ids that are there.
#[derive(Debug, Default)]
pub struct Present {
    /// In ascending order: sixteen bytes for each, however large the slice.
    ids: Vec<ShortId>,
    /// Those that planning has read.
    planned: Ids,
}

impl Present {
    pub fn contains(&self, event_id: &str) -> io::Result<bool> {
        if self.ids.is_empty() && self.planned.is_empty() {
            return Ok(false);
        }
        let id = short(event_id.as_bytes());
        Ok(self.ids.binary_search(&id).is_ok() || self.planned.contains(&id)?)
    }
}

/// Fetches the ids that planning has put for a sink, which are what the plan says.
async fn fetch(run: &Run, part: Option<&PartRef>) -> Result<Ids, PublishError> {
    let Some(part) = part else { return Ok(Ids::default()) };
    let mut file = run.scratch.file().map_err(RunError::Scratch)?;
    file.reserve(part.bytes).map_err(RunError::Scratch)?;
    run.ledger.download(&part.key, file.path()).await.map_err(RunError::Store)?;
    let (ids, found) = Ids::open(file, &part.digest).map_err(RunError::Scratch)?;
    if found == part.digest {
        Ok(ids)
    } else {
        Err(PublishError::Part { key: part.key.clone(), what: format!("its digest is {found}, the plan says {}", part.digest) })
    }
}

/// Short ids of the records in `ranges` that a run published.
pub fn read_ids(
    config: &KafkaConfig,
    topic: &str,
    run: &str,
    ranges: &[Range],
    mut see: impl FnMut(ShortId) -> io::Result<()>,
) -> Result<(), PublishError> {
    if ranges.is_empty() {
        return Ok(());
    }
    let reader = Reader::new(config, topic, Isolation::Committed).map_err(PublishError::ReadPresent)?;
    let read = reader.read(ranges, |record| {
        if record.header(headers::RUN) == Some(run.as_bytes())
            && let Some(id) = record.header(headers::EVENT_ID)
            && let Err(error) = see(short(id))
        {
            return ControlFlow::Break(error);
        }
        ControlFlow::Continue(())
    });
    match read.map_err(PublishError::ReadPresent)? {
        None => Ok(()),
        Some(error) => Err(RunError::Scratch(error).into()),
    }
}

/// What a generation published whose plan is not in the artifact store cannot be told from what is missing.
fn require_known(identity: &Identity, unknown: &BTreeMap<u32, BucketProgress>) -> Result<(), PublishError> {
    let is_here = |record: &BucketProgress| record.cluster_id == identity.sink.cluster_id && record.topic_id == identity.sink.topic_id;
    match unknown.iter().find(|(_, record)| record.at.is_some() && is_here(record)) {
        None => Ok(()),
        Some((generation, _)) => Err(PublishError::ProgressLost {
            bucket: identity.bucket.id.clone(),
            what: format!("generation {generation} has published here, and its plan is not in the artifact store"),
        }),
    }
}

/// Earlier generations of the job, as far as they concern a bucket.
pub struct Generations {
    /// Those whose events have the same places, each with its last progress record of the bucket.
    alike: Vec<(Earlier, Option<BucketProgress>)>,
    planned: Ids,
}

impl Generations {
    /// Looks at what the artifact store has of them. `planned` is read once for all buckets of a sink.
    pub fn read(identity: &Identity, records: &mut Records, planned: &OnceCell<Ids>) -> Result<Self, PublishError> {
        let run = &identity.planned.run;
        let part = identity.sink.present.as_ref();
        let planned = Handle::current().block_on(planned.get_or_try_init(|| fetch(run, part)))?.clone();
        let (mut alike, mut unknown) = (Vec::new(), records.earlier.clone());
        for earlier in Handle::current().block_on(generations::earlier(run))? {
            unknown.remove(&earlier.run.generation);
            if earlier.published_to(&identity.sink)? && !earlier.places_otherwise(&identity.planned.plan, &run.spec, &identity.sink.name) {
                let progress = records.earlier.remove(&earlier.run.generation);
                alike.push((earlier, progress));
            }
        }
        require_known(identity, &unknown)?;
        Ok(Self { alike, planned })
    }

    /// The ids of what they published of the slices that overlap `times`, and of what was read by planning.
    pub fn present(&self, identity: &Identity, config: &KafkaConfig, times: Interval) -> Result<Present, PublishError> {
        let mut present = Present { ids: Vec::new(), planned: self.planned.clone() };
        for (earlier, progress) in &self.alike {
            let ledger = &identity.planned.run.ledger;
            let overlaps = |slice: &weir_crds::window::Slice| slice.interval.overlaps(&times);
            let ranges = Handle::current().block_on(earlier.ranges(ledger, &identity.bucket.id, progress.as_ref(), overlaps))?;
            read_ids(config, &identity.sink.topic, &earlier.run.to_string(), &ranges, |id| {
                present.ids.push(id);
                Ok(())
            })?;
        }
        present.ids.sort_unstable();
        Ok(present)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::{publish::ids::IdSorter, scratch::Scratch};

    #[test]
    fn an_id_is_found_wherever_it_comes_from() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path(), None).unwrap();
        let mut sorter = IdSorter::new(&scratch);
        sorter.push(short(b"planned")).unwrap();
        let sorted = sorter.finish().unwrap();
        let (planned, _) = Ids::open(sorted.file, &sorted.digest).unwrap();
        let present = Present { ids: vec![short(b"narrow")], planned };
        let found = ["planned", "narrow", "neither"].map(|id| present.contains(id).unwrap());
        assert_eq!((found, Present::default().contains("narrow").unwrap()), ([true, true, false], false));
    }
}
