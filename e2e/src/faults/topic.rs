//! What a `read_committed` reader finds in a topic, held against an undisturbed run's topic, which has been held against the
//! log by a program in another language.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Error;
use super::job::Job;
use super::site::{PARTITIONS, Site, layout};
use crate::demo::truth::{self, Question};
use crate::kafka::Record;

/// The header that differs between runs.
const RUN_HEADER: &str = "weir-run";
const ID_HEADER: &str = "weir-event-id";

/// What must be in a topic: by partition, in order, event ids and digests of records.
#[derive(Clone, Debug)]
pub struct Content {
    partitions: BTreeMap<i32, Vec<(Vec<u8>, [u8; 32])>>,
}

/// What is wrong with a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Records that should be there.
    pub found: usize,
    /// Events that are not there.
    pub lost: usize,
    /// Records that are there again.
    pub duplicate: usize,
    /// Records of no event.
    pub alien: usize,
    /// Records with another key, value, timestamp, partition or header.
    pub torn: usize,
    /// Records that are out of order within their partition.
    pub misordered: usize,
}

impl Differences {
    /// Whether nothing is.
    pub fn is_none(&self) -> bool {
        (self.lost, self.duplicate, self.alien, self.torn, self.misordered) == (0, 0, 0, 0, 0)
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, lost, duplicate, alien, torn, misordered } = self;
        write!(formatter, "{found} found, {lost} lost, {duplicate} duplicate, {alien} alien, {torn} torn, {misordered} misordered")
    }
}

impl Content {
    /// Of a topic as it is.
    pub async fn read(site: &Site<'_>, job: &Job) -> Result<Self, Error> {
        let mut partitions = BTreeMap::<i32, Vec<_>>::new();
        for record in site.fixture.cluster.kafka.read_committed(&job.topic).await? {
            let id = record.headers.get(ID_HEADER).cloned().unwrap_or_default();
            partitions.entry(record.partition).or_default().push((id, digest(&record)));
        }
        Ok(Self { partitions })
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.partitions.values().map(Vec::len).sum()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Compares what is in a topic with this, which should be there.
    pub fn differences(&self, there: &Self) -> Differences {
        let wanted: HashMap<&[u8], (i32, &[u8; 32])> = self.records().map(|(partition, id, digest)| (id, (partition, digest))).collect();
        let mut differences = Differences::default();
        let mut seen = HashMap::<&[u8], usize>::new();
        for (partition, id, digest) in there.records() {
            let Some(want) = wanted.get(id) else {
                differences.alien += 1;
                continue;
            };
            let times = seen.entry(id).or_default();
            *times += 1;
            differences.duplicate += usize::from(*times > 1);
            differences.torn += usize::from(*want != (partition, digest));
        }
        differences.found = seen.len();
        differences.lost = wanted.len() - seen.len();
        differences.misordered = self.misordered(there);
        differences
    }

    /// Records that come before one that should precede them, each counted at its first appearance.
    fn misordered(&self, there: &Self) -> usize {
        let mut misordered = 0;
        for (partition, records) in &self.partitions {
            let places: HashMap<&[u8], usize> = records.iter().enumerate().map(|(place, (id, _))| (id.as_slice(), place)).collect();
            let (mut seen, mut last) = (vec![false; records.len()], 0);
            for (id, _) in there.partitions.get(partition).into_iter().flatten() {
                let Some(place) = places.get(id.as_slice()) else { continue };
                if std::mem::replace(&mut seen[*place], true) {
                    continue;
                }
                misordered += usize::from(*place < last);
                last = last.max(*place);
            }
        }
        misordered
    }

    fn records(&self) -> impl Iterator<Item = (i32, &[u8], &[u8; 32])> {
        self.partitions.iter().flat_map(|(partition, records)| records.iter().map(|(id, digest)| (*partition, id.as_slice(), digest)))
    }
}

/// Of all that a reader sees but offset and run.
fn digest(record: &Record) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| match bytes {
        None => digest.update([0]),
        Some(bytes) => {
            digest.update([1]);
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        }
    };
    part(record.key.as_deref());
    part(record.value.as_deref());
    part(record.timestamp.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    for (name, value) in record.headers.iter().filter(|(name, _)| *name != RUN_HEADER) {
        part(Some(name.as_bytes()));
        part(Some(value));
    }
    digest.finalize().into()
}

/// Holds an undisturbed run's topic against the log, by the broker's own console consumer and `e2e/truth`.
pub async fn must_be_true(site: &Site<'_>, job: &Job) -> Result<(), Error> {
    let consumed = site.path("consumed");
    truth::consume(&site.fixture.cluster, &job.topic, &consumed).await?;
    let question = Question {
        objects: &site.log.folder,
        planted: &site.path("planted.json"),
        consumed: &consumed,
        live: None,
        job: None,
        runs: &[job.run.to_string()],
        partitions: PARTITIONS,
    };
    let answer = truth::compare(&layout(), &question).await?;
    if answer.verdict.agrees { Ok(()) } else { Err(Error::Untrue { text: answer.text }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(partitions: &[&[(&str, u8)]]) -> Content {
        let records = |records: &&[(&str, u8)]| records.iter().map(|(id, byte)| (id.as_bytes().to_vec(), [*byte; 32])).collect();
        Content { partitions: partitions.iter().enumerate().map(|(n, of)| (n as i32, records(of))).collect() }
    }

    #[test]
    fn every_kind_of_difference_is_told_apart() {
        let wanted = content(&[&[("a", 1), ("b", 2), ("c", 3)], &[("d", 4)]]);
        let none = Differences { found: 4, ..Differences::default() };
        assert_eq!(wanted.differences(&wanted), none);
        let cases = [
            (content(&[&[("a", 1), ("c", 3)], &[("d", 4)]]), Differences { found: 3, lost: 1, ..none }),
            (content(&[&[("a", 1), ("b", 2), ("a", 1), ("c", 3)], &[("d", 4)]]), Differences { duplicate: 1, ..none }),
            (content(&[&[("a", 1), ("b", 2), ("c", 3), ("x", 9)], &[("d", 4)]]), Differences { alien: 1, ..none }),
            (content(&[&[("a", 1), ("b", 7), ("c", 3)], &[("d", 4)]]), Differences { torn: 1, ..none }),
            (content(&[&[("a", 1), ("c", 3), ("b", 2)], &[("d", 4)]]), Differences { misordered: 1, ..none }),
            (content(&[&[("a", 1), ("b", 2), ("c", 3), ("d", 4)], &[]]), Differences { torn: 1, ..none }),
        ];
        for (there, differences) in cases {
            assert_eq!(wanted.differences(&there), differences);
            assert!(!differences.is_none());
        }
    }
}
