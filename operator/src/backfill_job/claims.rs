//! Claims of the target, taken before the first publisher and released when a run is over. What to do is decided here,
//! purely; how is the ledger's to know.
//!
//! Claims are taken in the name of the run, so a second operator, or this one after its death, does the same again.
//! `claims.json` in the run's folder says that all is taken. They are released once the run has its outcome and no worker of
//! it is left: a publisher that starts later sees the outcome and ends.

use bytes::Bytes;
use weir_crds::{
    contract::{
        FORMAT,
        claims::{ClaimTarget, ClaimsReleased, ClaimsTaken, EventTypes},
        manifest::to_bytes,
        plan::Plan,
        result::Outcome,
    },
    window::{Interval, Slice},
};
use weir_ledger::{
    Ledger,
    claims::{ClaimError, Claims},
};

use super::{
    decision::Action,
    observed::{Claimed, LedgerView, Observed, PlanFile},
    wait::{Wait, Waiting},
};

/// What a plan publishes over.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    pub targets: Vec<ClaimTarget>,
    pub slices: Vec<Slice>,
    pub event_types: EventTypes,
}

impl Scope {
    fn of(plan: &Plan) -> Self {
        let targets = plan.sinks.iter().map(|sink| ClaimTarget { cluster_id: sink.cluster_id.clone(), topic: sink.topic.clone() });
        let event_types = plan.event_types.clone().map_or(EventTypes::Any, EventTypes::These);
        Self { targets: targets.collect(), slices: plan.slices.clone(), event_types }
    }
}

/// What is to be claimed before anything is published.
pub fn to_take(view: &LedgerView, file: &PlanFile) -> Option<Action> {
    match view.claims {
        Claimed::Nothing => Some(Action::TakeClaims { scope: Box::new(Scope::of(&file.plan)) }),
        Claimed::Taken | Claimed::Released => None,
    }
}

/// What a run that is over gives back: everything but slices that are staged, since those may have been published, if only
/// in part. Without a look at the manifests nothing is known, and nothing given back.
pub fn to_release(seen: &Observed, view: &LedgerView, outcome: Outcome) -> Option<Action> {
    let workers_left = seen.pods_left > 0 || seen.workers.iter().any(|worker| worker.is_open());
    match (view.claims, outcome, &view.plan) {
        (Claimed::Taken, Outcome::Failed | Outcome::Canceled, Some(file)) if !workers_left => {
            let staged = |slice: &&Slice| view.manifests.staged.contains_key(slice.id.as_str());
            let kept = file.plan.slices.iter().filter(staged).map(|slice| slice.interval).collect();
            Some(Action::ReleaseClaims { scope: Box::new(Scope::of(&file.plan)), kept })
        }
        (Claimed::Nothing | Claimed::Taken | Claimed::Released, Outcome::Completed | Outcome::Failed | Outcome::Canceled, _) => None,
    }
}

/// Takes all claims and says so; or says whose claim is in the way.
pub async fn take(ledger: &Ledger, prefix: &str, view: &LedgerView, scope: &Scope) -> Result<Option<Waiting>, ClaimError> {
    for target in &scope.targets {
        match (Claims { ledger, prefix, target }).take(&view.run_id, &scope.slices, &scope.event_types).await {
            Ok(()) => {}
            Err(ClaimError::Conflict(conflict)) => {
                let message = format!(
                    "topic {}: {conflict}; wait until that run has ended without publishing there, or leave that time out of spec.window",
                    target.topic
                );
                return Ok(Some(Waiting::new(Wait::ClaimedByOther, message)));
            }
            Err(error) => return Err(error),
        }
    }
    let taken = ClaimsTaken { format: FORMAT, targets: scope.targets.clone(), event_types: scope.event_types.clone() };
    ledger.put_once(&view.keys.claims(), Bytes::from(to_bytes(&taken))).await?;
    Ok(None)
}

pub async fn release(ledger: &Ledger, prefix: &str, view: &LedgerView, scope: &Scope, kept: &[Interval]) -> Result<(), ClaimError> {
    for target in &scope.targets {
        (Claims { ledger, prefix, target }).release(&view.run_id, &scope.slices, kept).await?;
    }
    let released = ClaimsReleased { format: FORMAT, kept: kept.to_vec() };
    ledger.put_once(&view.keys.claims_released(), Bytes::from(to_bytes(&released))).await?;
    Ok(())
}
