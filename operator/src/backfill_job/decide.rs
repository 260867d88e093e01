//! What is to be done next: a pure function of what was observed and of the time.
//!
//! The steps go from what ends a run to what begins it; the first that has something to wait for decides. Nothing in here
//! rests on an earlier decision: whoever dies and comes back decides alike.

use std::{convert::Infallible, ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt as _;
use weir_crds::{
    backfill_job::{ApprovalMode, Phase},
    contract::{
        FORMAT,
        digest::Sha256Digest,
        names,
        plan::Plan,
        result::{Disposition, Outcome, OutcomeRecord},
        run::RunSpec,
        units::{PLAN_UNIT, Verb},
    },
    validate,
};

use super::{
    accounting,
    authority::{self, Authority, Class},
    candidates::{candidates, plan_unit},
    claims,
    decision::{AT_ONCE, Action, BUSY_INTERVAL, Decision, IDLE_INTERVAL, WAITING_INTERVAL},
    holds,
    job_template::{self, ANNOTATION_TEMPLATE},
    observed::{Claimed, Ledger, LedgerView, Observed, PlanFile, RunFile, Worker, WorkerState},
    phase::{Hold, Stage, is_over},
    recovery::{another_recovery, spec_differs},
    schedule::{self, Attempts, Candidate, Order, Turn},
    wait::{Wait, Waiting},
    work::{Standing, Work, sentence},
};

pub type Step<T> = ControlFlow<Decision, T>;
use ControlFlow::{Break, Continue};

pub fn decide(seen: &Observed, now: Timestamp) -> Decision {
    let decision = match steps(seen, now) {
        Break(decision) => decision,
        Continue(never) => match never {},
    };
    // Whatever else holds it: this is what its reader is to do first.
    let lacking = incomplete(seen).filter(|_| !is_over(decision.phase) && decision.waits.iter().all(|w| w.wait != Wait::Incomplete));
    let lowered = lowered(seen).map(|message| Waiting::new(Wait::GenerationLowered, message));
    let again = decision.again.min(until_deadline(seen, decision.phase, now));
    Decision { waits: lacking.into_iter().chain(decision.waits).chain(lowered).collect(), again, ..decision }
}

/// Nothing else wakes a job that only its deadline ends.
fn until_deadline(seen: &Observed, phase: Phase, now: Timestamp) -> Duration {
    let deadline = seen.job.spec.execution.deadline.as_ref().map(|d| d.0).filter(|d| *d > now && !is_over(phase));
    deadline.map_or(Duration::MAX, |deadline| deadline.duration_since(now).unsigned_abs().max(AT_ONCE))
}

/// What a draft lacks to be run.
fn incomplete(seen: &Observed) -> Option<Waiting> {
    let missing = validate::missing(&seen.job.spec);
    let message = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(". ");
    (!missing.is_empty()).then(|| Waiting::new(Wait::Incomplete, message))
}

fn steps(seen: &Observed, now: Timestamp) -> Step<Infallible> {
    let stop = Stop::of(seen, now);
    let view = known_ledger(seen, stop)?;
    another_recovery(seen, view, stop)?;
    over(seen, view)?;
    if let Some(stop) = stop {
        return Break(stopped(seen, view, stop, now));
    }
    earlier_workers(seen, view)?;
    if let Some(lacking) = incomplete(seen) {
        return Break(Decision::new(stage(seen, view), Hold::Nothing).waits(vec![lacking]));
    }
    let authority = authority(seen, view)?;
    let run = begun(seen, view, &authority, now)?;
    held(seen, view, now)?;
    let file = planned(seen, view, &authority, now)?;
    approved(seen, view, file)?;
    progress_topics(seen, view, run)?;
    claimed(seen, view, file)?;
    Break(go_on(seen, view, &authority, file, now))
}

/// Why everything that runs is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Cancel,
    Deadline(Timestamp),
    Suspend,
}

impl Stop {
    fn of(seen: &Observed, now: Timestamp) -> Option<Self> {
        let spec = &seen.job.spec;
        let deadline = spec.execution.deadline.as_ref().map(|d| d.0).filter(|d| *d <= now);
        match (spec.cancel, deadline, spec.suspend) {
            (true, _, _) => Some(Self::Cancel),
            (false, Some(deadline), _) => Some(Self::Deadline(deadline)),
            (false, None, true) => Some(Self::Suspend),
            (false, None, false) => None,
        }
    }

    const fn doing(self) -> &'static str {
        match self {
            Self::Cancel => "canceling",
            Self::Deadline(_) => "the deadline has passed",
            Self::Suspend => "suspending",
        }
    }
}

/// How far the run is.
pub fn stage(seen: &Observed, view: &LedgerView) -> Stage {
    match (&view.outcome, &view.run, &view.plan) {
        (Some(outcome), _, _) => Stage::Over(outcome.outcome),
        (None, None, _) => Stage::Unbegun,
        (None, Some(_), None) => Stage::Unplanned,
        (None, Some(_), Some(file)) if !is_approved(seen, view, file) => Stage::Unapproved,
        (None, Some(_), Some(file)) => {
            let work = Work::new(file, view, seen.job.spec.attempts());
            if work.all_published() { Stage::Verifying } else { Stage::Working }
        }
    }
}

/// What a spec says of approval that has gone back to an earlier generation is about another plan: an approval that was given,
/// without which nothing is claimed, stands.
fn is_approved(seen: &Observed, view: &LedgerView, file: &PlanFile) -> bool {
    match seen.job.spec.approval.mode {
        ApprovalMode::Auto => true,
        ApprovalMode::Manual if lowered(seen).is_some() && view.claims != Claimed::Nothing => true,
        ApprovalMode::Manual => seen.job.spec.approval.plan_hash.as_deref() == Some(&file.hash_text()),
    }
}

/// Without a look at the store nothing is decided but what needs none.
fn known_ledger(seen: &Observed, stop: Option<Stop>) -> Step<&LedgerView> {
    let (wait, message) = match &seen.ledger {
        Ledger::Read(view) => return Continue(view),
        Ledger::Unknown => match authority::class(seen) {
            // Nothing was begun, and nothing can be: the end needs no record.
            Err(_) if stop == Some(Stop::Cancel) && never_begun(seen) => return Break(Decision::new(Stage::Unbegun, Hold::Canceled)),
            Err(waiting) => (waiting.wait, waiting.message),
            Ok(class) => (Wait::ClassNotReady, format!("the artifact store of class {} was not looked at yet", class.name)),
        },
        Ledger::Unreadable { denied: true, message } => (Wait::StoreDenied, message.clone()),
        Ledger::Unreadable { denied: false, message } => (Wait::StoreUnavailable, message.clone()),
        Ledger::Corrupt { message } => {
            (Wait::ArtifactCorrupt, format!("{message}; restore the object from a version or backup of the store"))
        }
    };
    Break(stay(seen, stop, wait, message))
}

/// What the store does not tell stays as it was shown. Workers can be told to stop without it, and of a run that is over
/// nothing is awaited.
pub fn stay(seen: &Observed, stop: Option<Stop>, wait: Wait, message: String) -> Decision {
    let shown = seen.job.status.as_ref();
    let run = shown.and_then(|s| s.run.as_ref());
    let is_of_this_run = run.is_some_and(|run| run.generation == seen.generation());
    let phase = shown.map_or(Phase::Pending, |s| s.phase);
    // The end of a run is not that of the next, and what is to go on is not suspended.
    let is_past = is_over(phase) && run.is_some() && !is_of_this_run || phase == Phase::Suspended && !seen.job.spec.suspend;
    let shown_phase = if is_past { Phase::Pending } else { phase };
    let open: Vec<&Worker> = seen.workers.iter().filter(|w| w.ours && w.is_open()).collect();
    let left = open.len().max(seen.pods_left);
    let suspends = stop == Some(Stop::Suspend) && !is_over(shown_phase);
    let phase = if suspends && left == 0 { Phase::Suspended } else { shown_phase };
    let stops = if stop.is_some() { open.into_iter().filter_map(schedule::delete).collect() } else { vec![] };
    let decision = Decision { phase, ..Decision::new(Stage::Unbegun, Hold::Nothing).act(stops) };
    match stop {
        _ if is_over(phase) && is_of_this_run => decision,
        Some(stop) if suspends && left > 0 => decision.wait(wait, message).wait(Wait::Draining, draining(stop, left)),
        Some(_) | None => decision.wait(wait, message),
    }
}

fn draining(stop: Stop, left: usize) -> String {
    format!("{}: {left} workers end what is open", stop.doing())
}

fn never_begun(seen: &Observed) -> bool {
    seen.pods_left == 0 && seen.workers.is_empty() && seen.job.status.as_ref().is_none_or(|s| s.run.is_none())
}

/// After the outcome nothing runs, and nothing else is decided.
fn over(seen: &Observed, view: &LedgerView) -> Step<()> {
    let Some(record) = &view.outcome else { return Continue(()) };
    // Jobs that have ended without success are left to their TTL: their logs may be wanted.
    let done = record.outcome == Outcome::Completed;
    let left: Vec<Action> = seen.workers.iter().filter(|w| done || w.is_open()).filter_map(schedule::delete).collect();
    let release = claims::to_release(seen, view, record.outcome);
    let again = match (&release, left.is_empty() && seen.pods_left == 0) {
        (Some(_), _) => AT_ONCE,
        (None, true) => IDLE_INTERVAL,
        (None, false) => WAITING_INTERVAL,
    };
    let mut decision = Decision::new(Stage::Over(record.outcome), Hold::Nothing).act(left).act(release.into_iter().collect()).again(again);
    match record.outcome {
        Outcome::Completed => {}
        Outcome::Failed | Outcome::Canceled => decision = decision.fail(record.reason.clone(), record.message.clone()),
    }
    Break(decision)
}

/// What to say when the spec names a generation that is not the last.
fn lowered(seen: &Observed) -> Option<String> {
    let Ledger::Read(view) = &seen.ledger else { return None };
    let (wanted, is) = (seen.job.spec.run_generation, view.run_id.generation);
    (wanted < is).then(|| {
        format!(
            "spec.runGeneration {wanted} is lower than {is}, which is the last that was run: nothing follows from it; to run again set {}",
            is + 1
        )
    })
}

/// Workers are told to end; when none is left, what asked for it is made true.
fn stopped(seen: &Observed, view: &LedgerView, stop: Stop, now: Timestamp) -> Decision {
    let stage = stage(seen, view);
    let left = seen.workers.iter().filter(|w| w.is_open()).count().max(seen.pods_left);
    if left > 0 {
        let actions = seen.workers.iter().filter(|w| w.is_open()).filter_map(schedule::delete).collect();
        return Decision::new(stage, Hold::Nothing).act(actions).wait(Wait::Draining, draining(stop, left)).again(BUSY_INTERVAL);
    }
    let canceled = "spec.cancel was set; to run again, take it away and raise spec.runGeneration".to_owned();
    let late = |deadline| {
        format!(
            "it was not done by {deadline}, its deadline; to run again, set a later spec.execution.deadline and raise spec.runGeneration"
        )
    };
    match stop {
        Stop::Suspend => Decision::new(stage, Hold::Suspended).again(WAITING_INTERVAL),
        Stop::Cancel => end(view, stage, Outcome::Canceled, "Canceled", canceled, now),
        Stop::Deadline(deadline) => match view.plan.as_ref().filter(|file| is_done(seen, view, file)) {
            Some(file) => completed(view, file, now),
            None => end(view, stage, Outcome::Failed, "DeadlineExceeded", late(deadline), now),
        },
    }
}

/// Ends the run for good. The outcome is shown when it is read back.
fn end(view: &LedgerView, stage: Stage, outcome: Outcome, reason: &str, message: String, now: Timestamp) -> Decision {
    let record = OutcomeRecord { format: FORMAT, outcome, reason: reason.to_owned(), message, at: now };
    Decision::new(stage, Hold::Nothing).act(vec![Action::PutOutcome { key: view.keys.outcome(), record }]).again(AT_ONCE)
}

/// Everything is verified, and its numbers add up.
fn is_done(seen: &Observed, view: &LedgerView, file: &PlanFile) -> bool {
    Work::new(file, view, seen.job.spec.attempts()).all_verified() && accounting::check(&file.plan, &view.manifests).is_ok()
}

fn completed(view: &LedgerView, file: &PlanFile, now: Timestamp) -> Decision {
    let message = format!("all {} slices are published and verified", file.plan.slices.len());
    end(view, Stage::Verifying, Outcome::Completed, "Completed", message, now)
}

/// Workers of an earlier generation, or of an earlier object, end before a run goes on: they know another run.
fn earlier_workers(seen: &Observed, view: &LedgerView) -> Step<()> {
    let earlier: Vec<&Worker> = seen.workers.iter().filter(|w| !w.ours || w.generation != view.run_id.generation).collect();
    if earlier.is_empty() {
        return Continue(());
    }
    let message = format!("{} Jobs of an earlier run of this name must end first", earlier.len());
    let actions = earlier.iter().filter_map(|w| schedule::delete(w)).collect();
    Break(Decision::new(stage(seen, view), Hold::Nothing).act(actions).wait(Wait::EarlierWorkers, message).again(BUSY_INTERVAL))
}

/// What must hold for any worker to be started, at the beginning and later on.
fn authority<'a>(seen: &'a Observed, view: &LedgerView) -> Step<Authority<'a>> {
    match authority::check(seen, view) {
        Ok(authority) => Continue(authority),
        Err(waiting) => Break(Decision::new(stage(seen, view), Hold::Nothing).waits(vec![waiting]).again(WAITING_INTERVAL)),
    }
}

/// `run.json` is there and says what the spec says.
fn begun<'a>(seen: &Observed, view: &'a LedgerView, authority: &Authority<'_>, now: Timestamp) -> Step<&'a RunFile> {
    let spec = &seen.job.spec;
    let class = Class { name: authority.class_name, class: authority.class };
    if let Some(run) = &view.run {
        return match spec_differs(seen, view, run, &class) {
            None => Continue(run),
            Some(message) => Break(Decision::new(stage(seen, view), Hold::Nothing).wait(Wait::SpecDiffersFromRun, message)),
        };
    }
    let mut errors = validate::backfill_job(spec);
    let reason = if errors.is_empty() { "ExceedsClass" } else { "InvalidSpec" };
    errors.extend(validate::within_class(spec, authority.class_name, &authority.class.spec));
    if !errors.is_empty() {
        let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(". ");
        return Break(Decision::new(Stage::Unbegun, Hold::Refused).fail(reason, message).again(IDLE_INTERVAL));
    }
    if let Some(message) = holds::beyond_maximum(seen, now) {
        return Break(Decision::new(Stage::Unbegun, Hold::Refused).fail("HoldBeyondMaximum", message));
    }
    let complete_at = validate::complete_at(spec);
    if complete_at > now {
        let message = format!(
            "rows of the window's end may arrive until {complete_at}, by its sources' arrival and allowedLateness; planning begins then"
        );
        let again = complete_at.duration_since(now).unsigned_abs().clamp(AT_ONCE, IDLE_INTERVAL);
        return Break(Decision::new(Stage::Unbegun, Hold::Nothing).wait(Wait::SourceIncomplete, message).again(again));
    }
    let bytes = RunSpec::resolve(view.run_id.clone(), spec, class.name, &class.class.spec).to_bytes();
    let put = Action::PutRun { key: view.keys.run(), bytes: bytes.into() };
    Break(Decision::new(Stage::Unbegun, Hold::Nothing).act(vec![put]).again(AT_ONCE))
}

/// The targets keep what will be published, as far as policies see to it, before planning asks whether they do.
fn held(seen: &Observed, view: &LedgerView, now: Timestamp) -> Step<()> {
    let awaited = holds::awaited(seen, now).filter(|_| view.plan.is_none());
    let decision = |message| Decision::new(stage(seen, view), Hold::Nothing).wait(Wait::RetentionNotHeld, message).again(BUSY_INTERVAL);
    awaited.map_or(Continue(()), |message| Break(decision(message)))
}

/// `plan.json` is there; otherwise it is being made.
fn planned<'a>(seen: &Observed, view: &'a LedgerView, authority: &Authority<'_>, now: Timestamp) -> Step<&'a PlanFile> {
    if let Some(file) = &view.plan {
        return Continue(file);
    }
    let standing = plan_standing(view, seen.job.spec.attempts());
    let turn = turn(seen, view, authority, &[plan_unit(standing)], now);
    if standing == Standing::Broken && turn.alive == 0 && turn.actions.is_empty() {
        let failures = view.records_of(PLAN_UNIT).flat_map(|record| &record.failures);
        let fatal = failures.clone().find(|f| f.code.disposition() == Disposition::Final);
        let (reason, message) = fatal
            .or_else(|| failures.last())
            .map_or_else(|| ("Failed".to_owned(), "planning failed".to_owned()), |f| (format!("{:?}", f.code), sentence(f)));
        return Break(end(view, Stage::Unplanned, Outcome::Failed, &reason, message, now));
    }
    Break(carry_out(seen, view, authority, turn, Stage::Unplanned, now))
}

fn plan_standing(view: &LedgerView, attempts_max: u32) -> Standing {
    let fatal = view.records_of(PLAN_UNIT).flat_map(|r| &r.failures).any(|f| f.code.disposition() == Disposition::Final);
    if fatal || view.records_of(PLAN_UNIT).count() >= attempts_max as usize { Standing::Broken } else { Standing::Ready }
}

fn approved(seen: &Observed, view: &LedgerView, file: &PlanFile) -> Step<()> {
    if is_approved(seen, view, file) {
        return Continue(());
    }
    let ended = seen.workers.iter().filter(|w| w.verb == Verb::Plan && !w.is_open()).filter_map(schedule::delete).collect();
    let decision = Decision::new(stage(seen, view), Hold::Nothing).act(ended).again(IDLE_INTERVAL);
    let open: Vec<&Worker> = seen.workers.iter().filter(|w| w.verb != Verb::Plan && w.is_open()).collect();
    if !open.is_empty() {
        let message = format!("the plan is not approved any more: {} workers end what is open", open.len());
        let actions = open.into_iter().filter_map(schedule::delete).collect();
        return Break(decision.act(actions).wait(Wait::Draining, message).again(BUSY_INTERVAL));
    }
    let hash = file.hash_text();
    Break(match &seen.job.spec.approval.plan_hash {
        None => decision.wait(Wait::Approval, format!("the plan {hash} waits for approval")),
        Some(other) => decision.wait(
            Wait::PlanHashMismatch,
            format!("spec.approval.planHash is {other}, the plan is {hash}: look at the plan again, and set its hash"),
        ),
    })
}

/// The topic that publishers keep their progress in is there before the first of them runs.
fn progress_topics(seen: &Observed, view: &LedgerView, run: &RunFile) -> Step<()> {
    let clusters = run.spec.sinks.iter().filter_map(|s| s.kafka.as_ref()).map(|k| &k.cluster_ref.name);
    let topic = names::progress_topic(seen.namespace());
    let missing: Vec<Action> = clusters
        .filter(|cluster| !seen.progress_topics.contains(*cluster))
        .map(|cluster| Action::EnsureProgressTopic { cluster: cluster.clone(), topic: topic.clone() })
        .collect();
    if missing.is_empty() {
        return Continue(());
    }
    Break(Decision::new(stage(seen, view), Hold::Nothing).act(missing).again(AT_ONCE))
}

/// What is published over is claimed before the first publisher runs.
fn claimed(seen: &Observed, view: &LedgerView, file: &PlanFile) -> Step<()> {
    match claims::to_take(view, file) {
        None => Continue(()),
        Some(take) => Break(Decision::new(stage(seen, view), Hold::Nothing).act(vec![take]).again(AT_ONCE)),
    }
}

/// Runs what can run, until all is verified or nothing more can be done.
fn go_on(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, file: &PlanFile, now: Timestamp) -> Decision {
    let work = Work::new(file, view, seen.job.spec.attempts());
    let stage = if work.all_published() { Stage::Verifying } else { Stage::Working };
    if let Err(mismatch) = accounting::check(&file.plan, &view.manifests) {
        // Numbers that do not add up stop everything: nothing more is published on top of them.
        let open: Vec<Action> = seen.workers.iter().filter(|w| w.is_open()).filter_map(schedule::delete).collect();
        if !open.is_empty() || seen.pods_left > 0 {
            return Decision::new(stage, Hold::Nothing).act(open).wait(Wait::Draining, mismatch.to_string()).again(BUSY_INTERVAL);
        }
        return end(view, stage, Outcome::Failed, "LedgerMismatch", mismatch.to_string(), now);
    }
    let mut units = vec![plan_unit(Standing::Done)];
    units.extend(candidates(&work, view));
    let turn = turn(seen, view, authority, &units, now);
    if work.all_verified() && turn.orders.is_empty() {
        return completed(view, file, now).act(turn.actions);
    }
    if turn.alive == 0 && turn.actions.is_empty() {
        return match work.failed_slices.values().next() {
            Some(first) => {
                let message =
                    format!("{} of {} slices failed; the first: {}", work.failed_slices.len(), file.plan.slices.len(), first.message);
                end(view, stage, Outcome::Failed, &first.reason, message, now)
            }
            None => Decision::new(stage, Hold::Nothing).wait(
                Wait::NothingCanGoOn,
                "no unit of work is ready, none runs and none has failed; report this with the run's plan.json",
            ),
        };
    }
    carry_out(seen, view, authority, turn, stage, now)
}

fn turn(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, candidates: &[Candidate<'_>], now: Timestamp) -> Turn {
    let workers: Vec<&Worker> = seen.workers.iter().filter(|w| w.ours && w.generation == view.run_id.generation).collect();
    let attempts = Attempts { workers: &workers, pods: &seen.pod_attempts, failures: &view.failures, keys: &view.keys };
    let parallelism = seen.job.spec.parallelism(authority.class.spec.limits.max_parallelism);
    schedule::turn(candidates, attempts, parallelism, now)
}

fn carry_out(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, turn: Turn, stage: Stage, now: Timestamp) -> Decision {
    let plan: Option<&Plan> = view.plan.as_ref().map(|p| &p.plan);
    let jobs = turn.orders.iter().map(|order| Action::CreateJob(Box::new(job_template::job(seen, view, authority, plan, order))));
    let recorded = turn.actions.iter().any(|a| matches!(a, Action::RecordFailure { .. }));
    let outdated = outdated(seen, view, authority, plan).into_iter().filter(|a| !turn.actions.contains(a));
    let actions: Vec<Action> = turn.actions.iter().cloned().chain(outdated).chain(jobs).collect();
    let soon = turn.next_at.map(|at| at.duration_since(now).unsigned_abs()).unwrap_or(BUSY_INTERVAL).min(BUSY_INTERVAL);
    let mut waits = turn.waits;
    waits.sort_by_key(|w| !w.wait.stalls());
    let again = if recorded { AT_ONCE } else { soon.max(AT_ONCE) };
    Decision::new(stage, Hold::Nothing).act(actions).waits(waits).again(again)
}

/// Workers that do not start, and would be asked for otherwise now: a class that was mended, say, or another image of weir.
/// Their pods would wait for the old cause for good; the next attempt asks for what would start.
fn outdated(seen: &Observed, view: &LedgerView, authority: &Authority<'_>, plan: Option<&Plan>) -> Vec<Action> {
    let hindered = seen.workers.iter().filter(|w| matches!(w.state, WorkerState::Starting { problem: Some(_), node_silent: false }));
    let differs = |worker: &&Worker| {
        let order = Order { unit: worker.unit.clone(), verb: worker.verb, attempt: worker.attempt };
        let wanted = job_template::job(seen, view, authority, plan, &order);
        wanted.annotations().get(ANNOTATION_TEMPLATE) != worker.template.as_ref()
    };
    hindered.filter(differs).filter_map(schedule::delete).collect()
}

/// SHA-256 as conditions and hashes show it.
pub fn digest_text(digest: Sha256Digest) -> String {
    format!("sha256:{digest}")
}
