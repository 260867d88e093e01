//! What earlier generations of the job have published: the event ids that are there already.
//!
//! Read from their recorded ranges, after their producers have been fenced, so it cannot grow any more; what retention has taken
//! from there already was published all the same, and is read as it was staged. Where events have
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
    range::{Isolation, Range, RangeError, Reader},
};
use weir_ledger::LedgerError;

use super::{
    error::PublishError,
    generations::{self, Done, Earlier},
    ids::{Ids, ShortId, short},
    part::{self, Rows},
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
    let file = part::download(run, part).await?;
    let (ids, found) = Ids::open(file, &part.digest).map_err(RunError::Scratch)?;
    if found == part.digest {
        Ok(ids)
    } else {
        Err(PublishError::Part { key: part.key.clone(), what: format!("its digest is {found}, the plan says {}", part.digest) })
    }
}

/// Short ids of what an earlier generation published: as the topic has it or, once retention has taken some of it there, as it
/// was staged. Of what was staged, that is there too which generations before it had published.
pub fn read_ids(
    run: &Run,
    config: &KafkaConfig,
    topic: &str,
    earlier: &Earlier,
    done: &[Done],
    mut see: impl FnMut(ShortId) -> io::Result<()>,
) -> Result<(), PublishError> {
    match from_topic(config, topic, earlier, &generations::ranges(done), &mut see) {
        Err(PublishError::ReadPresent(gone @ RangeError::Gone { .. })) => {
            tracing::warn!(generation = earlier.run.generation, error = &gone as &dyn std::error::Error, "reading what was staged");
            match done.iter().try_for_each(|done| from_part(run, earlier, done, &mut see)) {
                Err(PublishError::Run(RunError::Missing { .. } | RunError::Store(LedgerError::Missing { .. }))) => {
                    Err(PublishError::ReadPresent(gone))
                }
                read => read,
            }
        }
        read => read,
    }
}

fn from_topic(
    config: &KafkaConfig,
    topic: &str,
    earlier: &Earlier,
    ranges: &[Range],
    mut see: impl FnMut(ShortId) -> io::Result<()>,
) -> Result<(), PublishError> {
    if ranges.is_empty() {
        return Ok(());
    }
    let run = earlier.run.to_string();
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

fn from_part(run: &Run, earlier: &Earlier, done: &Done, mut see: impl FnMut(ShortId) -> io::Result<()>) -> Result<(), PublishError> {
    let Some((part, gone_through)) = Handle::current().block_on(earlier.staged(&run.ledger, done))? else { return Ok(()) };
    let content = part::fetch(run, &part)?;
    let mut rows = Rows::open(&content, 0)?;
    for row in 0..gone_through {
        match rows.next(|record| see(short(record.event_id.as_bytes())))? {
            Some(seen) => seen.map_err(RunError::Scratch)?,
            None => return Err(PublishError::Part { key: part.key, what: format!("it has {row} rows and not {}", part.rows) }),
        }
    }
    Ok(())
}

/// What was published by a plan that is not in the artifact store cannot be told from what is missing.
fn require_known(identity: &Identity, unplanned: &BTreeMap<u32, BucketProgress>) -> Result<(), PublishError> {
    let is_here = |record: &BucketProgress| record.cluster_id == identity.sink.cluster_id && record.topic_id == identity.sink.topic_id;
    match unplanned.iter().find(|(_, record)| record.at.is_some() && is_here(record)) {
        None => Ok(()),
        Some((generation, record)) => Err(PublishError::ProgressLost {
            bucket: identity.bucket.id.clone(),
            what: format!("generation {generation} has published here, and its plan {} is not in the artifact store", record.plan_hash),
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
        let mut alike = Vec::new();
        for earlier in Handle::current().block_on(generations::earlier(run))? {
            let progress = earlier.take_record(&mut records.earlier);
            if earlier.published_to(&identity.sink)? && !earlier.places_otherwise(&identity.planned.plan, &run.spec, &identity.sink.name) {
                alike.push((earlier, progress));
            }
        }
        require_known(identity, &records.earlier)?;
        Ok(Self { alike, planned })
    }

    /// The ids of what they published of the slices that overlap `times`, and of what was read by planning.
    pub fn present(&self, identity: &Identity, config: &KafkaConfig, times: Interval) -> Result<Present, PublishError> {
        let mut present = Present { ids: Vec::new(), planned: self.planned.clone() };
        let run = &identity.planned.run;
        for (earlier, progress) in &self.alike {
            let overlaps = |slice: &weir_crds::window::Slice| slice.interval.overlaps(&times);
            let done = Handle::current().block_on(earlier.done(&run.ledger, &identity.bucket.id, progress.as_ref(), overlaps))?;
            read_ids(run, config, &identity.sink.topic, earlier, &done, |id| {
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
