//! The work of a run, cut into units: a pure function of its plan. One unit is one Job at a time; a unit is done when every
//! one of its items has its manifest.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::backfill_job::Ordering;

/// What a worker is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Plan,
    Extract,
    Assemble,
    Publish,
    Verify,
}

impl Verb {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Extract => "extract",
            Self::Assemble => "assemble",
            Self::Publish => "publish",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a unit works on, by index into the plan's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    Chunks(Vec<usize>),
    Slices(Vec<usize>),
    /// Every bucket × every slice, the slices in order within each bucket.
    Buckets {
        buckets: Vec<usize>,
        slices: Vec<usize>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `extract-0001`, `assemble-0001`, `publish-0001-0`, `verify-0001`.
    pub id: String,
    pub verb: Verb,
    pub items: Items,
}

/// The unit that makes the plan itself.
pub const PLAN_UNIT: &str = "plan";

/// All units of a plan: extract by chunks, assemble and verify by groups of slices, publish by groups of slices and buckets.
pub fn units(plan: &Plan) -> Vec<Unit> {
    let mut units = extract_units(plan);
    let groups: Vec<Vec<usize>> =
        (0..plan.slices.len()).collect::<Vec<_>>().chunks(plan.sizing.slices_per_unit.max(1) as usize).map(<[usize]>::to_vec).collect();
    let buckets: Vec<usize> = (0..plan.buckets().len()).collect();
    for (group, slices) in groups.iter().enumerate() {
        units.push(Unit { id: format!("assemble-{group:04}"), verb: Verb::Assemble, items: Items::Slices(slices.clone()) });
        for (lane, buckets) in buckets.chunks(plan.sizing.buckets_per_unit.max(1) as usize).enumerate() {
            units.push(Unit {
                id: format!("publish-{group:04}-{lane}"),
                verb: Verb::Publish,
                items: Items::Buckets { buckets: buckets.to_vec(), slices: slices.clone() },
            });
        }
        units.push(Unit { id: format!("verify-{group:04}"), verb: Verb::Verify, items: Items::Slices(slices.clone()) });
    }
    units
}

fn extract_units(plan: &Plan) -> Vec<Unit> {
    let mut groups: Vec<(u64, Vec<usize>)> = Vec::new();
    for (index, chunk) in plan.chunks.iter().enumerate() {
        match groups.last_mut() {
            Some((bytes, group)) if *bytes + chunk.bytes <= plan.sizing.extract_bytes && plan.chunks[group[0]].source == chunk.source => {
                *bytes += chunk.bytes;
                group.push(index);
            }
            Some(_) | None => groups.push((chunk.bytes, vec![index])),
        }
    }
    groups
        .into_iter()
        .enumerate()
        .map(|(number, (_, chunks))| Unit { id: format!("extract-{number:04}"), verb: Verb::Extract, items: Items::Chunks(chunks) })
        .collect()
}

/// What is done of a run, by index into the plan's lists: what manifests say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub extracted: Vec<bool>,
    pub staged: Vec<bool>,
    /// By slice, then by bucket.
    pub published: Vec<Vec<bool>>,
    pub verified: Vec<bool>,
    /// Slices that have failed for good.
    pub failed: Vec<bool>,
}

impl Done {
    pub fn nothing(plan: &Plan) -> Self {
        let (slices, buckets) = (plan.slices.len(), plan.buckets().len());
        Self {
            extracted: vec![false; plan.chunks.len()],
            staged: vec![false; slices],
            published: vec![vec![false; buckets]; slices],
            verified: vec![false; slices],
            failed: vec![false; slices],
        }
    }
}

/// How far a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitState {
    Done,
    /// What it needs is there.
    Ready,
    /// What it needs will come.
    Waiting,
    /// What it needs will never come, since a slice has failed.
    Blocked,
}

/// Whether a unit can run. `ordering` is the strictest of the sinks': with `PerKey` a failed slice blocks the later ones.
pub fn state(plan: &Plan, unit: &Unit, done: &Done, ordering: Ordering) -> UnitState {
    // A slice that can no longer be published: it failed, or it would overtake one that did.
    let first_failed = done.failed.iter().position(|f| *f);
    let dead = |slice: usize| match ordering {
        Ordering::PerKey => first_failed.is_some_and(|failed| failed <= slice),
        Ordering::None => done.failed[slice],
    };
    match (&unit.items, unit.verb) {
        (Items::Chunks(chunks), _) => of(chunks, |c| done.extracted[c], |_| false, |_| true),
        (Items::Slices(slices), Verb::Assemble) => of(
            slices,
            |s| done.staged[s],
            |s| done.failed[s],
            |s| plan.chunks.iter().zip(&done.extracted).all(|(chunk, done)| *done || !chunk.may_hold(&plan.slices[s])),
        ),
        (Items::Slices(slices), Verb::Plan | Verb::Extract | Verb::Publish | Verb::Verify) => {
            let published = |s: usize| done.published[s].iter().all(|b| *b);
            of(slices, |s| done.verified[s], |s| dead(s) && !published(s), published)
        }
        (Items::Buckets { buckets, slices }, _) => {
            let published = |s: usize| buckets.iter().all(|b| done.published[s][*b]);
            // A bucket has one producer at a time and goes through its slices in sequence.
            let first = slices.first().copied().unwrap_or(0);
            let turn = (0..first).all(|s| published(s) || dead(s));
            of(slices, published, dead, |s| turn && done.staged[s])
        }
    }
}

/// The state of a group of items: of each, whether it is done, whether it never will be, and whether it can be done now.
fn of(items: &[usize], done: impl Fn(usize) -> bool, dead: impl Fn(usize) -> bool, ready: impl Fn(usize) -> bool) -> UnitState {
    let open: Vec<usize> = items.iter().copied().filter(|i| !done(*i)).collect();
    let alive: Vec<usize> = open.iter().copied().filter(|i| !dead(*i)).collect();
    match (open.is_empty(), alive.is_empty()) {
        (true, _) => UnitState::Done,
        (false, true) => UnitState::Blocked,
        (false, false) if alive.into_iter().all(ready) => UnitState::Ready,
        (false, false) => UnitState::Waiting,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        backfill_job::Estimates,
        contract::{
            digest::Sha256Digest,
            manifest::PartRef,
            names::RunId,
            plan::{PlannedChunk, PlannedSink, PlannedSource, Sizing},
        },
        window::{Interval, Slice, SliceId},
    };

    const MINUTE_US: i64 = 60_000_000;

    fn plan(slices: i64, partitions: u32) -> Plan {
        let slice = |n: i64| Slice {
            id: SliceId::from_start(jiff::Timestamp::from_microsecond(n * MINUTE_US).unwrap()),
            interval: Interval { start_us: n * MINUTE_US, end_us: (n + 1) * MINUTE_US },
        };
        // Each chunk may hold rows of two slices.
        let chunk = |n: i64| PlannedChunk {
            id: format!("logs-{n:05}"),
            source: 0,
            first_object: n as u32,
            objects: 1,
            bytes: 40,
            event_times: Some(Interval { start_us: (n - 1) * MINUTE_US, end_us: (n + 1) * MINUTE_US }),
        };
        Plan {
            format: 1,
            run: RunId { namespace: "n".into(), name: "j".into(), generation: 1 },
            run_digest: Sha256Digest::default(),
            worker_image: "w".into(),
            slices: (0..slices).map(slice).collect(),
            sources: vec![PlannedSource { name: "logs".into(), objects: slices as u64, bytes: 0 }],
            objects: PartRef { key: "k".into(), digest: Sha256Digest::default().into(), bytes: 0, rows: 0 },
            chunks: (0..slices).map(chunk).collect(),
            sinks: vec![PlannedSink {
                name: "events".into(),
                cluster: "c".into(),
                cluster_id: "id".into(),
                topic: "t".into(),
                topic_id: "tid".into(),
                partitions,
                max_message_bytes: 1,
                present: None,
            }],
            result_columns: vec![],
            event_types: None,
            sizing: Sizing { extract_bytes: 100, slices_per_unit: 3, buckets_per_unit: 2 },
            estimates: Estimates::default(),
            sampled_bytes: 0,
        }
    }

    /// Runs whatever is ready until nothing is; the slice `poison` fails when it is assembled.
    fn run(plan: &Plan, ordering: Ordering, poison: Option<usize>) -> Done {
        let mut done = Done::nothing(plan);
        let all = units(plan);
        for _ in 0..1000 {
            let ready: Vec<&Unit> = all.iter().filter(|u| state(plan, u, &done, ordering) == UnitState::Ready).collect();
            let Some(unit) = ready.first() else { return done };
            match (&unit.items, unit.verb) {
                (Items::Chunks(chunks), _) => chunks.iter().for_each(|c| done.extracted[*c] = true),
                (Items::Slices(slices), Verb::Assemble) => {
                    for s in slices {
                        if poison == Some(*s) { done.failed[*s] = true } else { done.staged[*s] = true }
                    }
                }
                (Items::Slices(slices), _) => {
                    slices.iter().filter(|s| done.published[**s].iter().all(|b| *b)).for_each(|s| done.verified[*s] = true)
                }
                (Items::Buckets { buckets, slices }, _) => {
                    for s in slices {
                        if !done.staged[*s] && ordering == Ordering::PerKey {
                            break;
                        }
                        for b in buckets {
                            let before_is_there = ordering == Ordering::None || (0..*s).all(|before| done.published[before][*b]);
                            assert!(before_is_there, "slice {s} overtakes in bucket {b}");
                            done.published[*s][*b] = done.staged[*s];
                        }
                    }
                }
            }
        }
        panic!("units never end")
    }

    #[test]
    fn every_slice_is_verified_in_the_end() {
        for partitions in [1, 3, 8, 100] {
            let plan = plan(10, partitions);
            assert!(run(&plan, Ordering::PerKey, None).verified.iter().all(|v| *v));
        }
    }

    #[test]
    fn a_failed_slice_holds_back_the_later_ones_where_order_counts() {
        let plan = plan(10, 3);
        let done = run(&plan, Ordering::PerKey, Some(4));
        assert_eq!(done.verified, (0..10).map(|s| s < 4).collect::<Vec<_>>());
        let done = run(&plan, Ordering::None, Some(4));
        assert_eq!(done.verified, (0..10).map(|s| s != 4).collect::<Vec<_>>());
    }

    #[test]
    fn chunks_are_grouped_up_to_the_size_and_never_cut() {
        let plan = plan(5, 1);
        let extract: Vec<Items> = units(&plan).into_iter().filter(|u| u.verb == Verb::Extract).map(|u| u.items).collect();
        assert_eq!(extract, [Items::Chunks(vec![0, 1]), Items::Chunks(vec![2, 3]), Items::Chunks(vec![4])]);
    }

    #[test]
    fn a_slice_waits_only_for_the_chunks_that_may_hold_its_rows() {
        let plan = plan(5, 1);
        let mut done = Done::nothing(&plan);
        let assemble = units(&plan).into_iter().find(|u| u.id == "assemble-0000").unwrap();
        done.extracted[..3].fill(true);
        assert_eq!(state(&plan, &assemble, &done, Ordering::PerKey), UnitState::Waiting);
        done.extracted[3] = true;
        assert_eq!(state(&plan, &assemble, &done, Ordering::PerKey), UnitState::Ready);
    }
}
