//! Claims: which run publishes which events to which target, so that no two jobs publish over the same time and types.
//!
//! A target's claims lie by the hour of event time, each hour in one object that is replaced by compare-and-swap. What
//! becomes of a document is a pure function here; who reads and swaps it is the ledger's. Claims never expire.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::{FORMAT, names::RunId};
use crate::window::{Interval, Slice};

pub const HOUR_US: i64 = 3_600_000_000;

/// What events are published to: everything that is claimed is claimed of one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTarget {
    pub cluster_id: String,
    pub topic: String,
}

/// The event types that a run may publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventTypes {
    /// They cannot be told beforehand.
    Any,
    These(BTreeSet<String>),
}

impl EventTypes {
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::These(a), Self::These(b)) => !a.is_disjoint(b),
            (Self::Any, Self::Any | Self::These(_)) | (Self::These(_), Self::Any) => true,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::These(a), Self::These(b)) => b.is_subset(a),
            (Self::These(_), Self::Any) => false,
        }
    }
}

impl fmt::Display for EventTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any event type"),
            Self::These(types) => f.write_str(&types.iter().cloned().collect::<Vec<_>>().join(", ")),
        }
    }
}

/// A run's claim on a stretch of event time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    pub run: RunId,
    #[serde(flatten)]
    pub interval: Interval,
    pub event_types: EventTypes,
}

/// `_claims/<cluster id>/<topic>/<hour>.json`: everything that is claimed of one hour. No namespace has such a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimDocument {
    pub format: u32,
    pub claims: Vec<Claim>,
}

/// Somebody else's claim is in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "run {wanted} wants to publish {types} from {} to {}, which run {} has claimed ({})",
    time(.held.interval.start_us), time(.held.interval.end_us), .held.run, .held.event_types
)]
pub struct Conflict {
    pub wanted: RunId,
    pub types: EventTypes,
    pub held: Claim,
}

fn time(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |time| time.to_string())
}

/// The object with the claims of the hour that begins at `hour_us`, below the store's prefix.
pub fn claims_key(prefix: &str, target: &ClaimTarget, hour_us: i64) -> String {
    let hour = jiff::Timestamp::from_microsecond(hour_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%Y%m%dT%HZ");
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("{prefix}{slash}_claims/{}/{}/{hour}.json", target.cluster_id, target.topic)
}

/// The hours that slices touch, in order, each with the stretches of it that they cover.
pub fn by_hour<'a>(slices: impl IntoIterator<Item = &'a Slice>) -> Vec<(i64, Vec<Interval>)> {
    let mut whole: Vec<Interval> = slices.into_iter().map(|slice| slice.interval).filter(|i| i.start_us < i.end_us).collect();
    whole.sort();
    let mut hours: Vec<(i64, Vec<Interval>)> = Vec::new();
    for interval in coalesce(whole) {
        let mut start_us = interval.start_us;
        while start_us < interval.end_us {
            let hour_us = start_us.div_euclid(HOUR_US) * HOUR_US;
            let piece = Interval { start_us, end_us: interval.end_us.min(hour_us + HOUR_US) };
            match hours.last_mut() {
                Some((hour, pieces)) if *hour == hour_us => pieces.push(piece),
                Some(_) | None => hours.push((hour_us, vec![piece])),
            }
            start_us = piece.end_us;
        }
    }
    hours
}

/// Of sorted intervals, those that touch become one.
fn coalesce(sorted: Vec<Interval>) -> Vec<Interval> {
    let mut merged: Vec<Interval> = Vec::new();
    for interval in sorted {
        match merged.last_mut() {
            Some(last) if interval.start_us <= last.end_us => last.end_us = last.end_us.max(interval.end_us),
            Some(_) | None => merged.push(interval),
        }
    }
    merged
}

/// What is left of `intervals` without `taken`.
fn without(intervals: Vec<Interval>, taken: Interval) -> Vec<Interval> {
    let cut = |i: Interval| {
        let before = Interval { start_us: i.start_us, end_us: i.end_us.min(taken.start_us) };
        let after = Interval { start_us: i.start_us.max(taken.end_us), end_us: i.end_us };
        [before, after]
    };
    let pieces = intervals.into_iter().flat_map(|i| if i.overlaps(&taken) { cut(i) } else { [i, Interval { start_us: 0, end_us: 0 }] });
    pieces.filter(|i| i.start_us < i.end_us).collect()
}

impl Default for ClaimDocument {
    fn default() -> Self {
        Self { format: FORMAT, claims: Vec::new() }
    }
}

impl ClaimDocument {
    /// The document with `wanted` claimed by `run`; `None`: it is as it should be already. What an earlier generation of
    /// the same job has claimed is the job's own.
    pub fn take(&self, run: &RunId, wanted: &[Interval], types: &EventTypes) -> Result<Option<Self>, Conflict> {
        let mut missing = wanted.to_vec();
        for claim in &self.claims {
            if is_same_job(&claim.run, run) {
                if claim.event_types.covers(types) {
                    missing = without(missing, claim.interval);
                }
            } else if claim.event_types.overlaps(types) && wanted.iter().any(|interval| interval.overlaps(&claim.interval)) {
                return Err(Conflict { wanted: run.clone(), types: types.clone(), held: claim.clone() });
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let mut taken = self.clone();
        taken.claims.extend(missing.into_iter().map(|interval| Claim { run: run.clone(), interval, event_types: types.clone() }));
        Ok(Some(taken))
    }

    /// The document without what `run` itself has claimed outside of `kept`; `None`: there is nothing of that.
    pub fn release(&self, run: &RunId, kept: &[Interval]) -> Option<Self> {
        let mut claims = Vec::new();
        for claim in &self.claims {
            if claim.run != *run {
                claims.push(claim.clone());
                continue;
            }
            let released = kept.iter().fold(vec![claim.interval], |rest, kept| without(rest, *kept));
            let left = released.into_iter().fold(vec![claim.interval], without);
            claims.extend(left.into_iter().map(|interval| Claim { interval, ..claim.clone() }));
        }
        (claims != self.claims).then_some(Self { format: self.format, claims })
    }
}

/// Whatever the generation.
fn is_same_job(a: &RunId, b: &RunId) -> bool {
    a.namespace == b.namespace && a.name == b.name
}

/// `claims.json` in a run's folder: everything that the run publishes over is claimed. Put before its first publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimsTaken {
    pub format: u32,
    pub targets: Vec<ClaimTarget>,
    pub event_types: EventTypes,
}

/// `claims-released.json`: the run is over, and what it never published is claimed no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimsReleased {
    pub format: u32,
    /// Over which the run may have published, and which stay claimed.
    pub kept: Vec<Interval>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::window::SliceId;

    fn run(name: &str, generation: u32) -> RunId {
        RunId { namespace: "n".into(), name: name.into(), generation }
    }

    fn interval(start_us: i64, end_us: i64) -> Interval {
        Interval { start_us, end_us }
    }

    fn types(names: &[&str]) -> EventTypes {
        EventTypes::These(names.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn two_jobs_never_share_time_and_type() {
        let taken = ClaimDocument::default().take(&run("a", 1), &[interval(0, 10)], &types(&["x"])).unwrap().unwrap();
        let conflict = taken.take(&run("b", 1), &[interval(9, 20)], &types(&["x", "y"])).unwrap_err();
        let said = conflict.to_string();
        assert!(said.contains("n/a/1") && said.contains("n/b/1") && said.contains('x'), "{said}");
        assert!(taken.take(&run("b", 1), &[interval(9, 20)], &EventTypes::Any).is_err());
        assert!(taken.take(&run("b", 1), &[interval(10, 20)], &EventTypes::Any).unwrap().is_some());
        assert!(taken.take(&run("b", 1), &[interval(0, 10)], &types(&["y"])).unwrap().is_some());
    }

    #[test]
    fn a_later_generation_adds_what_is_new_and_releases_no_more_than_that() {
        let first = ClaimDocument::default().take(&run("a", 1), &[interval(0, 10)], &EventTypes::Any).unwrap().unwrap();
        let second = first.take(&run("a", 2), &[interval(5, 20)], &types(&["x"])).unwrap().unwrap();
        assert_eq!(second.claims[1], Claim { run: run("a", 2), interval: interval(10, 20), event_types: types(&["x"]) });
        let released = second.release(&run("a", 2), &[]).unwrap();
        assert_eq!(released, first);
        let kept = second.release(&run("a", 2), &[interval(12, 15)]).unwrap();
        assert_eq!(kept.claims[1].interval, interval(12, 15));
    }

    #[test]
    fn slices_are_claimed_by_the_hours_that_they_touch() {
        let slice = |start_us, end_us| Slice { id: SliceId::from_start(jiff::Timestamp::UNIX_EPOCH), interval: interval(start_us, end_us) };
        let slices = [slice(HOUR_US / 2, HOUR_US), slice(HOUR_US, 5 * HOUR_US / 2), slice(0, HOUR_US / 4)];
        let hours = by_hour(&slices);
        assert_eq!(
            hours,
            [
                (0, vec![interval(0, HOUR_US / 4), interval(HOUR_US / 2, HOUR_US)]),
                (HOUR_US, vec![interval(HOUR_US, 2 * HOUR_US)]),
                (2 * HOUR_US, vec![interval(2 * HOUR_US, 5 * HOUR_US / 2)]),
            ]
        );
        let target = ClaimTarget { cluster_id: "c".into(), topic: "t".into() };
        assert_eq!(claims_key("", &target, HOUR_US), "_claims/c/t/19700101T01Z.json");
        assert_eq!(claims_key("p/q", &target, 0), "p/q/_claims/c/t/19700101T00Z.json");
    }

    const END: i64 = 24;

    fn intervals() -> impl Strategy<Value = Vec<Interval>> {
        prop::collection::vec((0..END, 1..8i64), 0..4).prop_map(|all| {
            let mut all: Vec<_> = all.into_iter().map(|(start, length)| interval(start, start + length)).collect();
            all.sort();
            coalesce(all)
        })
    }

    fn some_types() -> impl Strategy<Value = EventTypes> {
        prop_oneof![Just(EventTypes::Any), prop::collection::btree_set("[abc]", 1..3).prop_map(EventTypes::These),]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(RunId, Vec<Interval>, EventTypes),
        Release(RunId, Vec<Interval>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let runs = ("[abc]", 1..3u32).prop_map(|(name, generation)| run(&name, generation));
        prop_oneof![
            3 => (runs.clone(), intervals(), some_types()).prop_map(|(r, i, t)| Step::Take(r, i, t)),
            1 => (runs, intervals()).prop_map(|(r, i)| Step::Release(r, i)),
        ]
    }

    /// Whether a moment is claimed by a job for all of `types`.
    fn holds(document: &ClaimDocument, job: &RunId, at: i64, types: &EventTypes) -> bool {
        document.claims.iter().any(|c| is_same_job(&c.run, job) && c.interval.contains(at) && c.event_types.covers(types))
    }

    proptest! {
        #[test]
        fn whatever_is_taken_and_released_claims_stay_apart(steps in prop::collection::vec(step(), 0..30)) {
            let mut document = ClaimDocument::default();
            for step in steps {
                let before = document.clone();
                match step {
                    Step::Take(run, wanted, types) => match document.take(&run, &wanted, &types) {
                        Ok(next) => {
                            document = next.unwrap_or(document);
                            for interval in &wanted {
                                for at in interval.start_us..interval.end_us {
                                    prop_assert!(holds(&document, &run, at, &types));
                                }
                            }
                            prop_assert_eq!(document.take(&run, &wanted, &types), Ok(None), "taking again changes nothing");
                        }
                        Err(conflict) => {
                            prop_assert!(!is_same_job(&conflict.held.run, &run));
                            prop_assert!(before.claims.contains(&conflict.held));
                        }
                    },
                    Step::Release(run, kept) => {
                        document = document.release(&run, &kept).unwrap_or(document);
                        prop_assert_eq!(document.release(&run, &kept), None, "releasing again changes nothing");
                        for claim in &document.claims {
                            let inside = |at| kept.iter().any(|k| k.contains(at));
                            prop_assert!(claim.run != run || (claim.interval.start_us..claim.interval.end_us).all(inside));
                        }
                        // What was kept, and what is others', is there as before.
                        for claim in &before.claims {
                            for at in claim.interval.start_us..claim.interval.end_us {
                                if claim.run != run || kept.iter().any(|k| k.contains(at)) {
                                    prop_assert!(document.claims.iter().any(|c| c.run == claim.run
                                        && c.event_types == claim.event_types && c.interval.contains(at)));
                                }
                            }
                        }
                    }
                }
                for (index, a) in document.claims.iter().enumerate() {
                    for b in &document.claims[index + 1..] {
                        prop_assert!(is_same_job(&a.run, &b.run) || !a.interval.overlaps(&b.interval) || !a.event_types.overlaps(&b.event_types));
                    }
                }
            }
        }
    }
}
