//! Where the work of a run stands: its units, what is done of them, and what never will be. Pure.

use std::collections::{BTreeMap, BTreeSet};

use weir_crds::{
    backfill_job::Ordering,
    contract::{
        plan::Plan,
        result::{Disposition, Failure, FailureRecord},
        units::{self, Done, Items, Unit, UnitState, Verb},
    },
};

use super::{
    attempts::Recorded,
    observed::{LedgerView, Manifests, PlanFile},
};

/// What can become of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Done,
    Ready,
    Waiting,
    /// Something that it needs will never come.
    Blocked,
    /// It has used up its attempts, or another attempt would end alike.
    Broken,
}

/// Why an item will never be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub reason: String,
    pub message: String,
    pub attempts: u32,
}

#[derive(Clone, Debug)]
pub struct Work<'a> {
    pub plan: &'a Plan,
    pub units: &'a [Unit],
    pub ordering: Ordering,
    pub done: Done,
    /// By index of the slice.
    pub failed_slices: BTreeMap<usize, Reason>,
    /// By index of the chunk.
    pub failed_chunks: BTreeMap<usize, Reason>,
    /// By unit: its items that are given up, of those that are not done.
    given_up: BTreeMap<&'a str, BTreeSet<usize>>,
}

/// The strictest order that any sink asks for.
pub fn ordering(view: &LedgerView) -> Ordering {
    let kafka = view.run.iter().flat_map(|run| &run.spec.sinks).filter_map(|s| s.kafka.as_ref());
    let strict = kafka.into_iter().any(|k| k.ordering == Ordering::PerKey);
    if strict { Ordering::PerKey } else { Ordering::None }
}

impl<'a> Work<'a> {
    pub fn new(file: &'a PlanFile, view: &LedgerView, attempts_max: u32) -> Self {
        let done = done(&file.plan, &view.manifests);
        let mut work = Self {
            plan: &file.plan,
            units: &file.units,
            ordering: ordering(view),
            done,
            failed_slices: BTreeMap::new(),
            failed_chunks: BTreeMap::new(),
            given_up: BTreeMap::new(),
        };
        for unit in &file.units {
            let records: Vec<&FailureRecord> = view.records_of(&unit.id).collect();
            if !records.is_empty() {
                work.give_up(unit, &records, attempts_max);
            }
        }
        work.done.failed = (0..work.plan.slices.len()).map(|s| work.failed_slices.contains_key(&s)).collect();
        work
    }

    /// Notes what of a unit will never be done, given its failed attempts.
    fn give_up(&mut self, unit: &'a Unit, records: &[&FailureRecord], attempts_max: u32) {
        let names: BTreeSet<&str> = items(unit).iter().map(|i| self.item_name(unit, *i)).collect();
        let recorded = Recorded { records, items: &names };
        let in_vain = recorded.is_in_vain(attempts_max);
        let open: Vec<usize> = items(unit).iter().copied().filter(|i| !self.item_done(unit, *i)).collect();
        let mut given_up = BTreeSet::new();
        for item in open {
            let Some(reason) = why_given_up(recorded, self.item_name(unit, item), in_vain, attempts_max) else { continue };
            given_up.insert(item);
            match unit.verb {
                Verb::Extract => self.fail_chunk(item, reason),
                Verb::Plan | Verb::Assemble | Verb::Publish | Verb::Verify => {
                    self.failed_slices.entry(item).or_insert(reason);
                }
            }
        }
        self.given_up.insert(&unit.id, given_up);
    }

    /// A chunk that is never extracted takes with it every slice whose rows it may hold.
    fn fail_chunk(&mut self, chunk: usize, reason: Reason) {
        let planned = &self.plan.chunks[chunk];
        for (index, slice) in self.plan.slices.iter().enumerate() {
            if !self.done.staged[index] && planned.may_hold(slice) {
                let message = format!("chunk {}: {}", planned.id, reason.message);
                self.failed_slices.entry(index).or_insert(Reason { message, ..reason.clone() });
            }
        }
        self.failed_chunks.insert(chunk, reason);
    }

    pub fn item_name(&self, unit: &Unit, item: usize) -> &'a str {
        let plan = self.plan;
        match unit.items {
            Items::Chunks(_) => plan.chunks[item].id.as_str(),
            Items::Slices(_) | Items::Buckets { .. } => plan.slices[item].id.as_str(),
        }
    }

    fn item_done(&self, unit: &Unit, item: usize) -> bool {
        match (&unit.items, unit.verb) {
            (Items::Chunks(_), _) => self.done.extracted[item],
            (Items::Slices(_), Verb::Assemble) => self.done.staged[item],
            (Items::Slices(_), Verb::Plan | Verb::Extract | Verb::Publish | Verb::Verify) => self.done.verified[item],
            (Items::Buckets { buckets, .. }, _) => buckets.iter().all(|b| self.done.published[item][*b]),
        }
    }

    pub fn standing(&self, unit: &Unit) -> Standing {
        let open: Vec<usize> = items(unit).iter().copied().filter(|i| !self.item_done(unit, *i)).collect();
        if open.is_empty() {
            return Standing::Done;
        }
        let given_up = self.given_up.get(unit.id.as_str());
        let left: Vec<usize> = open.iter().copied().filter(|i| given_up.is_none_or(|given_up| !given_up.contains(i))).collect();
        if left.is_empty() {
            return Standing::Broken;
        }
        let is_less = left.len() < open.len();
        let rest;
        // A slice that is published and cannot be verified does not keep its unit ready.
        let unit = match &unit.items {
            Items::Slices(_) if is_less => {
                rest = Unit { items: Items::Slices(left), ..unit.clone() };
                &rest
            }
            Items::Slices(_) | Items::Chunks(_) | Items::Buckets { .. } => unit,
        };
        match units::state(self.plan, unit, &self.done, self.ordering) {
            UnitState::Done => Standing::Done,
            UnitState::Ready => Standing::Ready,
            UnitState::Waiting => Standing::Waiting,
            // The log of what failed stays.
            UnitState::Blocked if is_less => Standing::Broken,
            UnitState::Blocked => Standing::Blocked,
        }
    }

    pub fn unit(&self, id: &str) -> Option<&'a Unit> {
        self.units.iter().find(|u| u.id == id)
    }

    pub fn published(&self, slice: usize) -> bool {
        self.done.published[slice].iter().all(|b| *b)
    }

    pub fn all_published(&self) -> bool {
        (0..self.plan.slices.len()).all(|s| self.published(s))
    }

    pub fn all_verified(&self) -> bool {
        self.done.verified.iter().all(|v| *v)
    }

    /// The first slice that a unit serves, so that what is needed first is done first.
    pub fn first_slice(&self, unit: &Unit) -> usize {
        match &unit.items {
            Items::Slices(slices) | Items::Buckets { slices, .. } => slices.first().copied().unwrap_or(0),
            Items::Chunks(chunks) => chunks.iter().map(|c| self.first_slice_of_chunk(*c)).min().unwrap_or(0),
        }
    }

    fn first_slice_of_chunk(&self, chunk: usize) -> usize {
        let Some(times) = self.plan.chunks[chunk].event_times else { return 0 };
        self.plan.slices.iter().position(|s| s.interval.overlaps(&times)).unwrap_or(self.plan.slices.len())
    }
}

/// Why an item is given up, if it is: by a failure of its own, or of the unit as a whole, that is final or has used up the
/// attempts. Another item's failure says nothing of it.
fn why_given_up(recorded: Recorded<'_>, item: &str, in_vain: bool, attempts_max: u32) -> Option<Reason> {
    let last = |disposition: Disposition| recorded.failures(item).find(|f| f.code.disposition() == disposition);
    let is_exhausted = recorded.attempts(item, &[Disposition::UsesAttempt]) >= attempts_max;
    let exhausted = if is_exhausted { last(Disposition::UsesAttempt) } else { None };
    let reason = |f: &Failure, attempts| Reason { reason: format!("{:?}", f.code), message: sentence(f), attempts };
    if let Some(failure) = last(Disposition::Final).or(exhausted) {
        return Some(reason(failure, recorded.attempts(item, &[Disposition::Final, Disposition::UsesAttempt])));
    }
    if !in_vain {
        return None;
    }
    let attempts = u32::try_from(recorded.records.len()).unwrap_or(u32::MAX);
    if let Some(failure) = recorded.failures(item).next() {
        return Some(reason(failure, attempts));
    }
    let message = match recorded.records.last().and_then(|record| record.failures.first()) {
        Some(other) => format!("{attempts} attempts ended before they came to it, the last with: {}", sentence(other)),
        None => "the worker gave no reason".to_owned(),
    };
    Some(Reason { reason: "Failed".to_owned(), message, attempts })
}

/// The items of a unit that have a state each: chunks or slices.
pub fn items(unit: &Unit) -> &[usize] {
    match &unit.items {
        Items::Chunks(items) | Items::Slices(items) | Items::Buckets { slices: items, .. } => items,
    }
}

pub fn sentence(failure: &Failure) -> String {
    let field = failure.field.as_deref().map(|f| format!("{f}: ")).unwrap_or_default();
    if failure.remedy.is_empty() { format!("{field}{}", failure.cause) } else { format!("{field}{}; {}", failure.cause, failure.remedy) }
}

fn done(plan: &Plan, manifests: &Manifests) -> Done {
    let slice_ids: Vec<&str> = plan.slices.iter().map(|s| s.id.as_str()).collect();
    let buckets = plan.buckets();
    let has = |slice: &str, bucket: &str| manifests.published.contains_key(&(slice.to_owned(), bucket.to_owned()));
    Done {
        extracted: plan.chunks.iter().map(|c| manifests.extracted.contains_key(&c.id)).collect(),
        staged: slice_ids.iter().map(|s| manifests.staged.contains_key(*s)).collect(),
        published: slice_ids.iter().map(|s| buckets.iter().map(|b| has(s, &b.id)).collect()).collect(),
        verified: slice_ids.iter().map(|s| manifests.verified.contains_key(*s)).collect(),
        failed: vec![false; plan.slices.len()],
    }
}
