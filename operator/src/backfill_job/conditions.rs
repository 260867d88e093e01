//! The conditions of a BackfillJob. Pure.

use jiff::Timestamp;
use weir_crds::{
    backfill_job::{ApprovalMode, BackfillJobStatus, Phase},
    conditions::{ConditionType, Wanted},
    contract::result::FailureCode,
};

use super::{
    decision::Decision,
    holds,
    observed::{LedgerView, Observed},
    phase::is_over,
    wait::{Wait, Waiting},
    work::Work,
};
use crate::text::cut;

/// Of one condition: many fit beside the slices' rows.
const MESSAGE_BYTES_MAX: usize = 2048;
/// Reasons come from enums, but a start problem's comes from Kubernetes.
const REASON_BYTES_MAX: usize = 128;

pub fn wanted(
    seen: &Observed,
    decision: &Decision,
    waits: &[Waiting],
    work: Option<&Work<'_>>,
    old: Option<&BackfillJobStatus>,
    now: Timestamp,
) -> Vec<Wanted> {
    let view = seen.ledger().filter(|_| !waits.iter().any(Waiting::concerns_another_run));
    let mut conditions = vec![planned(view), approved(seen, view, decision)];
    conditions.push(sources(view, waits));
    conditions.push(targets(view, waits));
    conditions.extend(steps(work));
    conditions.push(suspended(seen, decision, waits));
    conditions.extend(ends(decision, old));
    conditions.push(holds::condition(seen, decision.phase, now));
    conditions.push(reconciling(decision));
    conditions.push(stalled(waits));
    conditions
}

fn condition(kind: ConditionType, status: Option<bool>, reason: impl AsRef<str>, message: impl AsRef<str>) -> Wanted {
    Wanted { kind, status, reason: cut(reason.as_ref(), REASON_BYTES_MAX), message: cut(message.as_ref(), MESSAGE_BYTES_MAX) }
}

fn planned(view: Option<&LedgerView>) -> Wanted {
    use ConditionType::Planned;
    match view {
        None => condition(Planned, None, "StoreNotRead", "the artifact store was not read"),
        Some(LedgerView { plan: Some(file), .. }) => condition(Planned, Some(true), "Planned", file.hash_text()),
        Some(LedgerView { run: Some(_), .. }) => condition(Planned, Some(false), "Planning", "the plan is being made"),
        Some(LedgerView { .. }) => condition(Planned, Some(false), "NotBegun", "the run has not begun"),
    }
}

fn approved(seen: &Observed, view: Option<&LedgerView>, decision: &Decision) -> Wanted {
    use ConditionType::Approved;
    let Some(file) = view.and_then(|v| v.plan.as_ref()) else {
        return condition(Approved, Some(false), "NotPlanned", "there is no plan yet");
    };
    let approval = &seen.job.spec.approval;
    match (approval.mode, approval.plan_hash.as_deref()) {
        (ApprovalMode::Auto, _) => condition(Approved, Some(true), "Automatic", "spec.approval.mode is Auto"),
        (ApprovalMode::Manual, Some(hash)) if hash == file.hash_text() => condition(Approved, Some(true), "HashApproved", hash),
        (ApprovalMode::Manual, _) => {
            let why = decision.waits.iter().find(|w| matches!(w.wait, Wait::Approval | Wait::PlanHashMismatch));
            let (reason, message) = why.map_or(("AwaitingApproval".to_owned(), file.hash_text()), |w| (w.wait.reason(), w.message.clone()));
            condition(Approved, Some(false), reason, message)
        }
    }
}

/// Which side of a run a wait is about.
#[derive(PartialEq)]
enum Side {
    Source,
    Target,
    Other,
}

fn side(wait: Wait) -> Side {
    match wait {
        Wait::SourceIncomplete => Side::Source,
        Wait::ClusterMissing
        | Wait::ClusterNotReady
        | Wait::GrantMissing
        | Wait::ProgressTopicUnavailable
        | Wait::ProgressTopicRefused
        | Wait::ClaimedByOther => Side::Target,
        Wait::Worker(code) => match code {
            FailureCode::SourceMissing | FailureCode::SourceDenied | FailureCode::SourceUnavailable => Side::Source,
            FailureCode::KafkaUnavailable | FailureCode::KafkaDenied | FailureCode::TopicMissing => Side::Target,
            FailureCode::InvalidColumns
            | FailureCode::InvalidSelect
            | FailureCode::InvalidResult
            | FailureCode::TooLarge
            | FailureCode::SourceChanged
            | FailureCode::SourceCorrupt
            | FailureCode::StoreDenied
            | FailureCode::StoreUnavailable
            | FailureCode::ArtifactCorrupt
            | FailureCode::ManifestConflict
            | FailureCode::QuarantineLimit
            | FailureCode::TargetUnsuitable
            | FailureCode::TargetChanged
            | FailureCode::ProgressLost
            | FailureCode::ProgressCorrupt
            | FailureCode::Superseded
            | FailureCode::Fenced
            | FailureCode::VerifyMismatch
            | FailureCode::ScratchFull
            | FailureCode::Interrupted
            | FailureCode::Internal => Side::Other,
        },
        Wait::Incomplete
        | Wait::RetentionNotHeld
        | Wait::ClassMissing
        | Wait::NoDefaultClass
        | Wait::SeveralDefaultClasses
        | Wait::ClassNotReady
        | Wait::ServiceAccountMissing
        | Wait::ServiceAccountNotAllowed
        | Wait::StoreUnavailable
        | Wait::StoreDenied
        | Wait::ArtifactCorrupt
        | Wait::RunNotInStore
        | Wait::SpecDiffersFromRun
        | Wait::PlanHashMismatch
        | Wait::WorkerCannotStart
        | Wait::NothingCanGoOn
        | Wait::Approval
        | Wait::EarlierWorkers
        | Wait::Draining
        | Wait::Backoff
        | Wait::GenerationLowered => Side::Other,
    }
}

fn sources(view: Option<&LedgerView>, waits: &[Waiting]) -> Wanted {
    use ConditionType::SourcesAvailable;
    match waits.iter().find(|w| side(w.wait) == Side::Source) {
        Some(w) => condition(SourcesAvailable, Some(false), w.wait.reason(), &w.message),
        None if view.is_some_and(|v| v.plan.is_some()) => {
            condition(SourcesAvailable, Some(true), "Pinned", "the plan has pinned every source object")
        }
        None => condition(SourcesAvailable, None, "NotPlanned", "planning looks at the sources"),
    }
}

fn targets(view: Option<&LedgerView>, waits: &[Waiting]) -> Wanted {
    use ConditionType::TargetsReady;
    match waits.iter().find(|w| side(w.wait) == Side::Target) {
        Some(w) => condition(TargetsReady, Some(false), w.wait.reason(), &w.message),
        None if view.is_some_and(|v| v.run.is_some()) => {
            condition(TargetsReady, Some(true), "Granted", "the clusters are ready and grant what is needed")
        }
        None => condition(TargetsReady, None, "NotBegun", "the run has not begun"),
    }
}

fn steps(work: Option<&Work<'_>>) -> [Wanted; 3] {
    let total = work.map_or(0, |w| w.plan.slices.len());
    let step = |kind, what: &str, done: Option<usize>| match done {
        None => condition(kind, Some(false), "NotPlanned", "there is no plan yet"),
        Some(done) if done == total => condition(kind, Some(true), "Done", format!("all {total} slices are {what}")),
        Some(done) => condition(kind, Some(false), "InProgress", format!("{done} of {total} slices are {what}")),
    };
    let count = |flags: &Vec<bool>| flags.iter().filter(|f| **f).count();
    [
        step(ConditionType::SlicesStaged, "staged", work.map(|w| count(&w.done.staged))),
        step(ConditionType::Published, "published", work.map(|w| (0..total).filter(|s| w.published(*s)).count())),
        step(ConditionType::Verified, "verified", work.map(|w| count(&w.done.verified))),
    ]
}

fn suspended(seen: &Observed, decision: &Decision, waits: &[Waiting]) -> Wanted {
    use ConditionType::Suspended;
    if decision.phase == Phase::Suspended {
        return condition(Suspended, Some(true), "Suspended", "no worker is left; set spec.suspend to false to go on");
    }
    // While workers end, or where something else must be settled first.
    match waits.iter().find(|w| w.wait == Wait::Draining).or_else(|| waits.first()) {
        Some(w) if seen.job.spec.suspend && !is_over(decision.phase) => condition(Suspended, Some(false), w.wait.reason(), &w.message),
        Some(_) | None => condition(Suspended, Some(false), "NotAsked", "spec.suspend is false, or the run is over"),
    }
}

fn ends(decision: &Decision, old: Option<&BackfillJobStatus>) -> [Wanted; 2] {
    use ConditionType::{Complete, Failed};
    let (reason, message) = decision.failed.clone().unwrap_or_else(|| ("NotFailed".into(), "nothing has failed for good".into()));
    match decision.phase {
        Phase::Complete => {
            // An object that never showed this run going on was created again after it: nothing was run for it.
            let before = old.and_then(|s| s.conditions.iter().find(|c| c.type_ == Complete.as_str() && c.status == "True"));
            let already = before.map_or(old.is_none_or(|s| s.run.is_none()), |c| c.reason == "AlreadyApplied");
            let complete = if already {
                condition(
                    Complete,
                    Some(true),
                    "AlreadyApplied",
                    "this generation was completed before; raise spec.runGeneration to run again",
                )
            } else {
                condition(Complete, Some(true), "Completed", "every slice is published and verified")
            };
            [complete, condition(Failed, Some(false), reason, message)]
        }
        Phase::Failed => {
            // Where the store cannot be looked at, what was shown stands.
            let shown = old.and_then(|s| s.conditions.iter().find(|c| c.type_ == Failed.as_str() && c.status == "True"));
            let (reason, message) = match (&decision.failed, shown) {
                (None, Some(shown)) => (shown.reason.clone(), shown.message.clone()),
                (Some(_), _) | (None, None) => (reason, message),
            };
            [condition(Complete, Some(false), "Failed", &message), condition(Failed, Some(true), reason, message)]
        }
        Phase::Canceled => [
            condition(Complete, Some(false), "Canceled", "the run was canceled"),
            condition(Failed, Some(false), "Canceled", "the run was canceled"),
        ],
        Phase::Pending | Phase::Planning | Phase::AwaitingApproval | Phase::Running | Phase::Verifying | Phase::Suspended => {
            [condition(Complete, Some(false), "InProgress", "the run is not over"), condition(Failed, Some(false), reason, message)]
        }
    }
}

fn reconciling(decision: &Decision) -> Wanted {
    let goes_on = match decision.phase {
        Phase::Pending | Phase::Planning | Phase::Running | Phase::Verifying => true,
        Phase::AwaitingApproval | Phase::Suspended | Phase::Complete | Phase::Failed | Phase::Canceled => false,
    };
    condition(ConditionType::Reconciling, Some(goes_on), format!("{:?}", decision.phase), "")
}

fn stalled(waits: &[Waiting]) -> Wanted {
    let mut stalls = waits.iter().filter(|w| w.wait.stalls());
    match (stalls.next(), stalls.count()) {
        (Some(first), 0) => condition(ConditionType::Stalled, Some(true), first.wait.reason(), &first.message),
        (Some(first), more) => {
            condition(ConditionType::Stalled, Some(true), first.wait.reason(), format!("{} (and {more} more)", first.message))
        }
        (None, _) => condition(ConditionType::Stalled, Some(false), "NotStalled", ""),
    }
}
