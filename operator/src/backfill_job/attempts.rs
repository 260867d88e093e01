//! What the end of a worker means: whether it uses up an attempt, and when the next one may begin. Pure.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use weir_crds::contract::result::{Disposition, Failure, FailureCode, FailureRecord, WorkerResult};

use super::{
    observed::Ending,
    wait::{Wait, Waiting},
    work::sentence,
};

/// After a worker's own error: long enough that a passing cause passes, short enough to be done within the hour.
const ERROR_DELAY: Duration = Duration::from_secs(10);
const ERROR_DELAY_MAX: Duration = Duration::from_secs(300);
/// After something outside was away: whoever mends it sees it taken up within a minute.
const OUTSIDE_DELAY: Duration = Duration::from_secs(5);
/// After the cluster ended a worker: nothing is wrong with the work, so it goes on at once at first.
const DISRUPTED_DELAY: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);
/// So many workers in a row that the cluster ends are no accident any more.
const DISRUPTED_OFTEN: u32 = 3;
/// So many times the attempts that an item has may tell nothing new before the unit is given up. Workers know what is recorded
/// and leave it alone or do it last, so only those of an earlier image come to this; what holds them up may still be cured by then.
const REPEATS_FACTOR: u32 = 4;

/// What follows from an ended worker whose unit is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The worker's own error: recorded, and it uses up an attempt.
    Counts(Vec<Failure>),
    /// Tried again, the first time after `delay`, and nothing is used up.
    Again { delay: Duration, waiting: Option<Waiting> },
}

pub fn verdict(how: &Ending) -> Verdict {
    match how {
        Ending::Reported(result) => reported(result),
        Ending::Succeeded => Verdict::Counts(vec![own(
            "the worker said that it was done, but manifests of its unit are missing",
            "look at its log; if it happens again, report it",
        )]),
        Ending::Crashed { reason, message } => Verdict::Counts(vec![crash(reason, message)]),
        Ending::NotStarted(problem) => Verdict::Again {
            delay: OUTSIDE_DELAY,
            waiting: Some(Waiting::new(Wait::WorkerCannotStart, format!("{}: {}", problem.reason, problem.message))),
        },
        Ending::Disrupted { .. } => Verdict::Again { delay: DISRUPTED_DELAY, waiting: None },
    }
}

/// That the cluster ends one worker after the other: it is tried again, and somebody should look. `uncounted` attempts came
/// before this one that did not count either.
pub fn ended_again(how: &Ending, attempt: u32, uncounted: u32) -> Option<Waiting> {
    let Ending::Disrupted { reason, message } = how else { return None };
    let colon = if message.is_empty() { "" } else { ": " };
    (uncounted + 1 >= DISRUPTED_OFTEN).then(|| {
        let message = format!(
            "the cluster ended attempt {attempt} ({reason}{colon}{message}), and none of the {uncounted} before it got to its end; if they ended the same way, \
             look at the pool's nodes, and at workers.scratch, workers.memory and workers.priorityClassName of the BackfillClass"
        );
        Waiting::new(Wait::WorkerCannotStart, message)
    })
}

/// What is recorded of a unit's attempts.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'r> {
    /// In the order of the attempts.
    pub records: &'r [&'r FailureRecord],
    /// The names of the unit's items. A failure of anything else, as of a bucket, is one of the unit as a whole.
    pub items: &'r BTreeSet<&'r str>,
}

impl<'r> Recorded<'r> {
    /// What went wrong with an item, or with the unit as a whole, the last attempt first.
    pub fn failures(self, item: &'r str) -> impl Iterator<Item = &'r Failure> {
        self.records.iter().rev().flat_map(|record| &record.failures).filter(move |failure| self.is_of(failure, item))
    }

    /// How many attempts an item, or the unit as a whole, ended in one of these ways.
    pub fn attempts(self, item: &str, dispositions: &[Disposition]) -> u32 {
        let is = |failure: &Failure| self.is_of(failure, item) && dispositions.contains(&failure.code.disposition());
        let attempts = self.records.iter().filter(|record| record.failures.iter().any(is)).count();
        u32::try_from(attempts).unwrap_or(u32::MAX)
    }

    /// Whether attempts end again and again with what is known, and come to nothing else.
    pub fn is_in_vain(self, attempts_max: u32) -> bool {
        let limit = REPEATS_FACTOR.saturating_mul(attempts_max) as usize;
        let repeats = || (0..self.records.len()).filter(|n| !self.tells_more(*n, attempts_max)).count();
        self.records.len() >= limit && repeats() >= limit
    }

    /// Whether a record says more than those before it: each of these brings an item nearer to its end, so they are bounded.
    fn tells_more(self, n: usize, attempts_max: u32) -> bool {
        let before = Self { records: &self.records[..n], items: self.items };
        self.records[n].failures.iter().any(|failure| {
            let item = failure.item.as_deref().filter(|name| self.items.contains(*name));
            let is_open = |item: &str| {
                before.attempts(item, &[Disposition::Final]) == 0 && before.attempts(item, &[Disposition::UsesAttempt]) < attempts_max
            };
            match failure.code.disposition() {
                Disposition::Final | Disposition::UsesAttempt => item.is_none_or(is_open),
                Disposition::Wait | Disposition::Stalled | Disposition::Yielded => false,
            }
        })
    }

    fn is_of(self, failure: &Failure, item: &str) -> bool {
        failure.item.as_deref().is_none_or(|name| name == item || !self.items.contains(name))
    }
}

/// Several failures count as the gravest does. What stalls beside them is found again by the next attempt, which begins with
/// what has not failed yet, and is told then.
fn reported(result: &WorkerResult) -> Verdict {
    let with = |disposition| result.failures.iter().find(|f| f.code.disposition() == disposition);
    if with(Disposition::Final).is_some() || with(Disposition::UsesAttempt).is_some() {
        return Verdict::Counts(result.failures.clone());
    }
    if let Some(failure) = with(Disposition::Stalled).or_else(|| with(Disposition::Wait)) {
        let waiting = Waiting::new(Wait::Worker(failure.code), sentence(failure));
        return Verdict::Again { delay: OUTSIDE_DELAY, waiting: Some(waiting) };
    }
    Verdict::Again { delay: DISRUPTED_DELAY, waiting: None }
}

fn own(cause: impl Into<String>, remedy: &str) -> Failure {
    Failure { code: FailureCode::Internal, item: None, field: None, cause: cause.into(), remedy: remedy.to_owned() }
}

fn crash(reason: &str, message: &str) -> Failure {
    match reason {
        "OOMKilled" => own(
            "the worker was ended by the kernel since it needed more memory than its class gives (OOMKilled)",
            "raise workers.memory of the BackfillClass",
        ),
        _ => own(format!("the worker ended without a word: {reason} {message}").trim_end(), "look at its log"),
    }
}

/// When the attempt after `recorded` failures may begin, the last of which happened at `at`.
pub fn after_error(at: Timestamp, recorded: u32) -> Timestamp {
    later(at, doubled(ERROR_DELAY, recorded.saturating_sub(1), ERROR_DELAY_MAX))
}

/// When the attempt after one that did not count may begin; `uncounted` of them came before.
pub fn after_wait(at: Timestamp, delay: Duration, uncounted: u32) -> Timestamp {
    later(at, doubled(delay, uncounted, RETRY_DELAY_MAX))
}

fn doubled(delay: Duration, times: u32, max: Duration) -> Duration {
    delay.saturating_mul(1 << times.min(16)).min(max)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill_job::observed::StartProblem;

    fn report(codes: &[FailureCode]) -> Ending {
        let failures = codes.iter().map(|code| Failure { code: *code, ..own("c", "r") }).collect();
        Ending::Reported(WorkerResult { unit: "u".into(), attempt: 1, items_done: 0, failures })
    }

    fn disrupted(reason: &str, message: &str) -> Ending {
        Ending::Disrupted { reason: reason.into(), message: message.into() }
    }

    #[test]
    fn workers_that_the_cluster_ends_one_after_the_other_are_told_of() {
        let evicted = disrupted("Evicted", "the node was low on resource: ephemeral-storage");
        assert_eq!((ended_again(&evicted, 1, 0), ended_again(&evicted, 2, 1)), (None, None));
        let told = ended_again(&evicted, 3, 2);
        let is_told =
            |told: &Waiting| told.wait.stalls() && told.message.contains("(Evicted: the node was low on resource: ephemeral-storage)");
        assert!(told.as_ref().is_some_and(is_told), "{told:?}");
        assert_eq!(ended_again(&report(&[FailureCode::Fenced]), 9, 8), None);
    }

    #[test]
    fn only_the_workers_own_errors_use_up_attempts() {
        let crashed = |reason: &str| Ending::Crashed { reason: reason.into(), message: String::new() };
        let cases = [
            (report(&[FailureCode::Internal]), true),
            (report(&[FailureCode::InvalidSelect]), true),
            (report(&[FailureCode::StoreUnavailable, FailureCode::ScratchFull]), true),
            (report(&[FailureCode::StoreUnavailable]), false),
            (report(&[FailureCode::SourceDenied]), false),
            (report(&[FailureCode::Fenced]), false),
            (report(&[FailureCode::Interrupted]), false),
            (report(&[]), false),
            (crashed("OOMKilled"), true),
            (crashed("Error"), true),
            (Ending::Succeeded, true),
            (disrupted("Evicted", ""), false),
            (Ending::NotStarted(StartProblem { reason: "StartError".into(), message: String::new() }), false),
        ];
        for (ending, counts) in cases {
            assert_eq!(matches!(verdict(&ending), Verdict::Counts(_)), counts, "{ending:?}");
        }
    }

    #[test]
    fn what_somebody_can_mend_is_said_and_what_passes_is_not() {
        let waiting = |ending: &Ending| match verdict(ending) {
            Verdict::Again { waiting, .. } => waiting.map(|w| w.wait),
            Verdict::Counts(_) => None,
        };
        assert_eq!(waiting(&report(&[FailureCode::Fenced, FailureCode::KafkaDenied])), Some(Wait::Worker(FailureCode::KafkaDenied)));
        assert_eq!(waiting(&report(&[FailureCode::Fenced])), None);
        // An outage passes by itself; what was refused needs somebody.
        assert!(waiting(&report(&[FailureCode::KafkaUnavailable])).is_some_and(|w| !w.stalls()));
        assert!(waiting(&report(&[FailureCode::KafkaDenied])).is_some_and(Wait::stalls));
        assert!(matches!(verdict(&Ending::Crashed { reason: "OOMKilled".into(), message: String::new() }),
            Verdict::Counts(f) if f[0].cause.contains("memory") && f[0].remedy.contains("workers.memory")));
    }

    #[test]
    fn delays_double_up_to_a_bound() {
        let zero = Timestamp::UNIX_EPOCH;
        let seconds: Vec<i64> = (1..9).map(|n| after_error(zero, n).as_second()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300, 300]);
        let seconds: Vec<i64> = (0..7).map(|n| after_wait(zero, OUTSIDE_DELAY, n).as_second()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 60, 60, 60]);
        assert_eq!(after_wait(zero, DISRUPTED_DELAY, u32::MAX).as_second(), 60);
    }
}
