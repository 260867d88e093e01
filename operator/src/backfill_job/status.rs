//! The status of a BackfillJob: a pure function of what was observed and decided.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use weir_crds::{
    backfill_job::{ApprovalMode, BackfillJobStatus, Phase, PlanStatus, Quarantine, QuarantineReason, RunStatus},
    conditions,
    contract::keys::Folder,
};

use super::{
    accounting,
    conditions::wanted,
    decision::Decision,
    observed::{LedgerView, Observed, PlanFile},
    partitions, phase,
    progress::{self, Pace},
    wait::Waiting,
    work::Work,
};
use crate::{text::cut, topic_retention::holds::needed};

/// `status.message`: one sentence.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Reasons of quarantine that are shown.
const QUARANTINE_REASONS_MAX: usize = 10;

/// `waits`: those of the decision, and what came up while it was carried out.
pub fn status(seen: &Observed, decision: &Decision, waits: &[Waiting], pace: &Pace, now: Timestamp) -> BackfillJobStatus {
    let old = seen.job.status.as_ref();
    // Another recovery's numbers are not this object's.
    let view = seen.ledger().filter(|_| !waits.iter().any(Waiting::concerns_another_run));
    let file = view.and_then(|v| v.plan.as_ref());
    let work = view.zip(file).map(|(view, file)| Work::new(file, view, seen.job.spec.attempts()));
    // Without a look at the store, and when all is over, the numbers of before still stand.
    let kept =
        old.filter(|_| work.is_none() && (view.is_none() || view.is_some_and(|v| v.outcome.is_some()))).filter(|s| same_run(s, seen));
    let mut status = kept.cloned().unwrap_or_default();
    status.observed_generation = seen.job.metadata.generation;
    status.phase = decision.phase;
    // Of what is over, nothing else is known without the store than what was shown.
    if view.is_some() || kept.is_none() || !phase::is_over(decision.phase) || !waits.is_empty() {
        status.message = cut(&message(decision, waits), MESSAGE_BYTES_MAX);
    }
    match view {
        Some(view) => status.run = run(view, old, decision.phase, now),
        // The store is not known, and the spec is of a later generation: the run before goes on until its workers have ended, and
        // holds its topics.
        None if seen.ledger().is_none() && is_worked_on(seen) => status.run = status.run.or_else(|| old?.run.clone()),
        None => {}
    }
    if let (Some(view), Some(file), Some(work)) = (view, file, &work) {
        fill(&mut status, seen, view, file, work, pace, now);
    }
    let merged = old.map_or(&[][..], |s| &s.conditions);
    let wanted = match kept {
        // Conditions about the steps stand as the numbers do.
        Some(_) => wanted(seen, decision, waits, None, old, now).into_iter().filter(|w| !is_about_steps(w.kind)).collect(),
        None => wanted(seen, decision, waits, work.as_ref(), old, now),
    };
    let stand =
        kept.map_or(vec![], |s| s.conditions.iter().filter(|c| wanted.iter().all(|w| w.kind.as_str() != c.type_)).cloned().collect());
    status.conditions = conditions::merge(merged, wanted, seen.job.metadata.generation, now);
    status.conditions.extend(stand);
    status
}

fn same_run(status: &BackfillJobStatus, seen: &Observed) -> bool {
    status.run.as_ref().is_some_and(|r| r.generation == seen.generation())
}

fn is_worked_on(seen: &Observed) -> bool {
    seen.pods_left > 0 || seen.workers.iter().any(|w| w.is_open())
}

fn is_about_steps(kind: conditions::ConditionType) -> bool {
    use conditions::ConditionType as T;
    match kind {
        T::Planned | T::Approved | T::SourcesAvailable | T::TargetsReady | T::SlicesStaged | T::Published | T::Verified => true,
        T::Ready | T::Suspended | T::Complete | T::Failed | T::Reconciling | T::Stalled | T::RetentionHeld => false,
        // Of topics; a job has none of them.
        T::LagObserved
        | T::FloorSatisfied
        | T::LagWithinSlo
        | T::OffsetsRetained
        | T::FloorCapped
        | T::DataLossDetected
        | T::HoldActive
        | T::EnforcementConflict
        | T::EmergencyExtended
        | T::BreakGlass => false,
        // Of clusters and exceptions.
        T::AuditHealthy | T::HistoryKept | T::Active => false,
    }
}

fn message(decision: &Decision, waits: &[Waiting]) -> String {
    if let Some((_, message)) = &decision.failed {
        return message.clone();
    }
    let first = waits.iter().find(|w| w.wait.stalls()).or_else(|| waits.first());
    first.map(|w| w.message.clone()).unwrap_or_else(|| match decision.phase {
        Phase::Pending => "checks the spec and what it names".into(),
        Phase::Planning => "a worker makes the plan".into(),
        Phase::AwaitingApproval => "the plan waits for approval".into(),
        Phase::Running => "sources are read, and slices published".into(),
        Phase::Verifying => "what was published is read back".into(),
        Phase::Suspended => "suspended; set spec.suspend to false to go on".into(),
        Phase::Complete => "every slice is published and verified".into(),
        Phase::Failed => "the run has failed; raise spec.runGeneration to run again".into(),
        Phase::Canceled => "the run was canceled; raise spec.runGeneration to run again".into(),
    })
}

fn run(view: &LedgerView, old: Option<&BackfillJobStatus>, phase: Phase, now: Timestamp) -> Option<RunStatus> {
    let file = view.run.as_ref()?;
    let before = old.and_then(|s| s.run.as_ref()).filter(|r| r.generation == view.run_id.generation);
    let finished = view.outcome.as_ref().map(|o| Time(o.at)).filter(|_| phase::is_over(phase));
    Some(RunStatus {
        id: view.run_id.to_string(),
        generation: view.run_id.generation,
        uri: view.uri.clone(),
        digest: super::decide::digest_text(file.digest),
        started_at: before.and_then(|r| r.started_at.clone()).or(Some(Time(now))),
        finished_at: finished,
        holds: Some(needed(&file.spec.window, &file.spec.sinks)),
    })
}

fn fill(status: &mut BackfillJobStatus, seen: &Observed, view: &LedgerView, file: &PlanFile, work: &Work<'_>, pace: &Pace, now: Timestamp) {
    let rows = partitions::rows(work, view, &seen.workers);
    status.plan = Some(plan(seen, view, file));
    status.chunks = Some(partitions::chunk_counts(work));
    status.slices = Some(partitions::slice_counts(&rows));
    status.partitions = rows;
    status.accounting = Some(accounting::totals(&view.manifests));
    status.progress = Some(progress::progress(progress::share(work), &seen.workers, view, pace, now));
    if phase::is_over(status.phase)
        && let Some(progress) = &mut status.progress
    {
        progress.eta = None;
    }
    status.quarantine = quarantine(view);
}

fn plan(seen: &Observed, view: &LedgerView, file: &PlanFile) -> PlanStatus {
    let hash = file.hash_text();
    let approval = &seen.job.spec.approval;
    let open = approval.mode == ApprovalMode::Manual && approval.plan_hash.as_deref() != Some(&hash) && view.outcome.is_none();
    let command = || {
        let patch = format!(r#"{{"spec":{{"approval":{{"planHash":"{hash}"}}}}}}"#);
        format!("kubectl patch backfilljob {} --namespace {} --type merge --patch '{patch}'", seen.name(), seen.namespace())
    };
    PlanStatus {
        uri: format!("{}plan.json", view.uri),
        slices: u32::try_from(file.plan.slices.len()).unwrap_or(u32::MAX),
        chunks: u32::try_from(file.plan.chunks.len()).unwrap_or(u32::MAX),
        estimates: file.plan.estimates.clone(),
        approve_command: open.then(command),
        hash,
    }
}

fn quarantine(view: &LedgerView) -> Option<Quarantine> {
    let mut counts: std::collections::BTreeMap<(String, String), u64> = std::collections::BTreeMap::new();
    for chunk in view.manifests.extracted.values().map(|m| &m.body) {
        for reason in &chunk.reasons {
            *counts.entry((chunk.source.clone(), cut(&reason.reason, 256))).or_default() += reason.rows;
        }
    }
    for slice in view.manifests.staged.values().map(|m| &m.body) {
        // Once assembled, rows of several sources are set aside together.
        let source = slice.by.first().filter(|first| slice.by.iter().all(|b| b.source == first.source)).map(|b| b.source.clone());
        for reason in &slice.reasons {
            *counts.entry((source.clone().unwrap_or_default(), cut(&reason.reason, 256))).or_default() += reason.rows;
        }
    }
    let mut reasons: Vec<QuarantineReason> =
        counts.into_iter().map(|((source, reason), rows)| QuarantineReason { source, reason, rows }).collect();
    if reasons.is_empty() {
        return None;
    }
    reasons.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| (&a.source, &a.reason).cmp(&(&b.source, &b.reason))));
    reasons.truncate(QUARANTINE_REASONS_MAX);
    Some(Quarantine { uri: format!("{}{}/", view.uri, Folder::Quarantine.as_str()), reasons })
}
