//! Which Jobs are created, recorded and deleted in a turn, given how the units stand. Pure.
//!
//! A Job is only how an attempt is run. Its number is one more than the highest that any Job, pod or record of its unit
//! shows, so that an attempt's name never comes back while anything of an earlier one is known.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use weir_crds::contract::{FORMAT, keys::RunKeys, result::FailureRecord, units::Verb};

use super::{
    attempts::{self, Verdict},
    decision::Action,
    observed::{Worker, WorkerState},
    wait::{Wait, Waiting},
    work::{Standing, sentence},
};

/// A Job that takes this many times its planned time is silent, whatever its pod says; a second attempt may take twice as long,
/// and so on, so that one of them has the time that a unit needs which is larger than it was planned to be.
const OVERDUE_FACTOR: u32 = 10;
/// But not for ever longer: attempts that were only in the way of an outage count as well.
const OVERDUE_DOUBLED_MAX: u32 = 6;
/// … but not before this: a plan of seconds would otherwise start a second worker for nothing.
const OVERDUE_MIN: Duration = Duration::from_secs(600);

/// A worker that has run for so long has reached what it needs: where it is refused something, it is so at its start.
const UNDER_WAY: Duration = Duration::from_secs(10);
/// Silent workers of one unit that are left alone. A third means that attempts go silent one after the other, and then the
/// oldest makes room: what a class allows is not outgrown by workers that nobody hears of.
const SILENT_MAX: usize = 2;

/// A unit that may be run, in the order of preference.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    pub unit: &'a str,
    pub verb: Verb,
    pub standing: Standing,
    /// How long its Job should take.
    pub planned: Duration,
}

/// An attempt that is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub unit: String,
    pub verb: Verb,
    pub attempt: u32,
}

#[derive(Debug, Default)]
pub struct Turn {
    pub orders: Vec<Order>,
    /// Records first, then deletions: dying in between leaves a Job whose record is found at the next look.
    pub actions: Vec<Action>,
    pub waits: Vec<Waiting>,
    /// When a delay ends.
    pub next_at: Option<Timestamp>,
    /// Units that are at work, or could be, now or after a delay.
    pub alive: usize,
}

type Failures = BTreeMap<(String, u32), Arc<FailureRecord>>;

/// What is known of the attempts of a run.
#[derive(Clone, Copy, Debug)]
pub struct Attempts<'a> {
    pub workers: &'a [&'a Worker],
    /// By unit, the highest attempt that any pod shows, whether or not its Job is still there.
    pub pods: &'a BTreeMap<String, u32>,
    pub failures: &'a Failures,
    pub keys: &'a RunKeys,
}

pub fn turn(candidates: &[Candidate<'_>], seen: Attempts<'_>, parallelism: u32, now: Timestamp) -> Turn {
    let mut turn = Turn::default();
    let mut by_unit: BTreeMap<&str, Vec<&Worker>> = BTreeMap::new();
    for worker in seen.workers {
        by_unit.entry(&worker.unit).or_default().push(worker);
    }
    let busy = |c: &Candidate<'_>| by_unit.get(c.unit).is_some_and(|w| w.iter().any(|w| holds_place(w, c.planned, now)));
    let mut places = (parallelism as usize).saturating_sub(candidates.iter().filter(|c| busy(c)).count());
    for candidate in candidates {
        let own = by_unit.get(candidate.unit).map_or(&[][..], Vec::as_slice);
        if let Some(order) = turn.unit(candidate, own, seen, now) {
            turn.alive += 1;
            if places > 0 {
                places -= 1;
                turn.orders.push(order);
            }
        }
    }
    turn.actions.sort_by_key(|a| matches!(a, Action::DeleteJob { .. }));
    turn
}

impl Turn {
    /// The Jobs of one unit: cleans up what has ended, and says which attempt could begin now.
    fn unit(&mut self, candidate: &Candidate<'_>, own: &[&Worker], seen: Attempts<'_>, now: Timestamp) -> Option<Order> {
        let failures = seen.failures;
        // What is left of a unit that is blocked is for nobody to do.
        let (complete, done) = match candidate.standing {
            Standing::Done | Standing::Blocked => (true, true),
            Standing::Broken => (false, true),
            Standing::Ready | Standing::Waiting => (false, false),
        };
        let newest = own.iter().map(|w| w.attempt).max().unwrap_or(0);
        let records = failures.range((candidate.unit.to_owned(), 0)..=(candidate.unit.to_owned(), u32::MAX));
        let recorded = u32::try_from(records.clone().count()).unwrap_or(u32::MAX);
        let last = records.last();
        let mut begin_at = last.map(|((_, _), record)| attempts::after_error(record.at, recorded));
        let (mut busy, mut unrecorded) = (false, false);
        for worker in own {
            let known = failures.contains_key(&(worker.unit.clone(), worker.attempt));
            match &worker.state {
                WorkerState::Ended { .. } if complete => self.delete(worker),
                // One that has ended stays until the next attempt is under way: its log may be wanted, and what stalled
                // it may well stall that one too.
                WorkerState::Ended { .. } if (known || !counts(worker)) && own.iter().any(|w| is_under_way(w, worker.attempt, now)) => {
                    self.delete(worker)
                }
                WorkerState::Ended { .. } if done || known => {}
                WorkerState::Ended { at, how } => match attempts::verdict(how) {
                    Verdict::Counts(failures) => {
                        unrecorded = true;
                        let record =
                            FailureRecord { format: FORMAT, unit: worker.unit.clone(), attempt: worker.attempt, failures, at: *at };
                        self.actions.push(Action::RecordFailure { key: seen.keys.failed(&worker.unit, worker.attempt), record });
                    }
                    Verdict::Again { delay, waiting } => {
                        let uncounted = worker.attempt.saturating_sub(recorded + 1);
                        let waiting = waiting.or_else(|| attempts::ended_again(how, worker.attempt, uncounted));
                        begin_at = begin_at.max(Some(attempts::after_wait(*at, delay, uncounted)));
                        // An outage is over once the next attempt runs. What stalls is said until that one has got further:
                        // it would be taken back and said again with every attempt otherwise.
                        let over = own.iter().any(|w| runs(w, worker.attempt));
                        self.waits.extend(waiting.filter(|w| w.wait.stalls() || !over));
                    }
                },
                WorkerState::Starting { .. } | WorkerState::Running { .. } if is_silent(worker, candidate.planned, now) => {
                    let newer = own.iter().filter(|w| w.attempt > worker.attempt && is_silent(w, candidate.planned, now)).count();
                    if done || newer >= SILENT_MAX {
                        self.delete(worker);
                    }
                }
                // Another attempt has done it in the meantime, or nobody can.
                WorkerState::Starting { .. } if done => self.delete(worker),
                WorkerState::Starting { problem: Some(problem), .. } => {
                    busy = true;
                    self.waits
                        .push(Waiting::new(Wait::WorkerCannotStart, format!("{}: {}: {}", worker.unit, problem.reason, problem.message)));
                }
                WorkerState::Starting { problem: None, .. } | WorkerState::Running { .. } => busy = true,
            }
        }
        if busy || unrecorded {
            self.alive += 1;
            return None;
        }
        if candidate.standing != Standing::Ready {
            return None;
        }
        if let Some(at) = begin_at.filter(|at| *at > now) {
            self.wait_until(at, candidate.unit, last.map(|(_, record)| record.as_ref()));
            return None;
        }
        let pods = seen.pods.get(candidate.unit).copied().unwrap_or(0);
        let attempt = 1 + newest.max(pods).max(last.map_or(0, |((_, attempt), _)| *attempt));
        Some(Order { unit: candidate.unit.to_owned(), verb: candidate.verb, attempt })
    }

    fn wait_until(&mut self, at: Timestamp, unit: &str, last: Option<&FailureRecord>) {
        self.alive += 1;
        self.next_at = Some(self.next_at.map_or(at, |next| next.min(at)));
        let cause = last.and_then(|record| record.failures.first()).map(|f| format!("failed: {}", sentence(f)));
        let cause = cause.unwrap_or_else(|| "was interrupted".to_owned());
        self.waits.push(Waiting::new(Wait::Backoff, format!("{unit}: the last attempt {cause}; the next begins at {at:.0}")));
    }

    fn delete(&mut self, worker: &Worker) {
        self.actions.extend(delete(worker));
    }
}

/// Deletes a Job that is not being deleted yet.
pub fn delete(worker: &Worker) -> Option<Action> {
    let (name, uid, resource_version) = (worker.name.clone(), worker.uid.clone(), worker.resource_version.clone());
    (!worker.deleting).then_some(Action::DeleteJob { name, uid, resource_version })
}

/// Whether a worker is a later attempt than `earlier`, and runs or ran.
fn runs(worker: &Worker, earlier: u32) -> bool {
    match &worker.state {
        WorkerState::Starting { .. } => false,
        WorkerState::Running { .. } | WorkerState::Ended { .. } => worker.attempt > earlier,
    }
}

/// Whether it has also got beyond where attempts find out what stalls them.
fn is_under_way(worker: &Worker, earlier: u32, now: Timestamp) -> bool {
    match &worker.state {
        WorkerState::Running { since, .. } if now.duration_since(*since).unsigned_abs() < UNDER_WAY => false,
        WorkerState::Starting { .. } | WorkerState::Running { .. } | WorkerState::Ended { .. } => runs(worker, earlier),
    }
}

fn counts(worker: &Worker) -> bool {
    match &worker.state {
        WorkerState::Ended { how, .. } => matches!(attempts::verdict(how), Verdict::Counts(_)),
        WorkerState::Starting { .. } | WorkerState::Running { .. } => false,
    }
}

/// Whether a worker takes a place and keeps the next attempt of its unit from beginning.
fn holds_place(worker: &Worker, planned: Duration, now: Timestamp) -> bool {
    worker.is_open() && !is_silent(worker, planned, now)
}

/// Nothing is heard of it, so the next attempt begins beside it; fencing keeps that safe.
fn is_silent(worker: &Worker, planned: Duration, now: Timestamp) -> bool {
    match &worker.state {
        WorkerState::Running { since, node_silent } => {
            let limit = planned
                .saturating_mul(OVERDUE_FACTOR)
                .max(OVERDUE_MIN)
                .saturating_mul(1 << worker.attempt.saturating_sub(1).min(OVERDUE_DOUBLED_MAX));
            *node_silent || now.duration_since(*since).unsigned_abs() > limit && now > *since
        }
        WorkerState::Starting { node_silent, .. } => *node_silent,
        WorkerState::Ended { .. } => false,
    }
}
