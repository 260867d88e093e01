//! Claims of the target, taken before the first publisher and released when a run is over. What to do is decided here,
//! purely; how is the ledger's to know.
//!
//! Claims are taken in the name of the run, so a second operator, or this one after its death, does the same again.
//! `claims.json` in the run's folder says that all is taken. They are released once the run has its outcome and no worker of
//! it is left: a publisher that starts later sees the outcome and ends.
//!
//! An earlier generation of the same job has often no outcome: a later one takes its place. Once that one is planned or over, a
//! publisher of the earlier one that has not begun ends as well; so what it has claimed is given back with what the later one needs
//! not, and with what that one gives back.

use std::collections::BTreeSet;

use bytes::Bytes;
use weir_crds::{
    contract::{
        FORMAT,
        claims::{ClaimTarget, ClaimsReleased, ClaimsTaken, EventTypes},
        keys::{Folder, RunKeys},
        manifest::to_bytes,
        names::RunId,
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
    /// Of a run that was never planned.
    const NOTHING: Self = Self { targets: Vec::new(), slices: Vec::new(), event_types: EventTypes::Any };

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

/// What a run that is over gives back: everything, unless a publisher has begun; then all but slices that are staged, since
/// those may have been published, if only in part. One that was never planned gives back what earlier ones have claimed.
pub fn to_release(seen: &Observed, view: &LedgerView, outcome: Outcome) -> Option<Action> {
    let workers_left = seen.pods_left > 0 || seen.workers.iter().any(|worker| worker.is_open());
    match (view.claims, outcome) {
        // Taking them may have ended half-way.
        (Claimed::Nothing | Claimed::Taken, Outcome::Failed | Outcome::Canceled) if !workers_left => {}
        (Claimed::Nothing | Claimed::Taken | Claimed::Released, Outcome::Completed | Outcome::Failed | Outcome::Canceled) => return None,
    }
    let Some(file) = &view.plan else {
        let may_follow = view.run_id.generation > 1;
        return may_follow.then(|| Action::ReleaseClaims { scope: Box::new(Scope::NOTHING), kept: Vec::new() });
    };
    let staged = |slice: &&Slice| view.manifests.staged.contains_key(slice.id.as_str());
    let kept = file.plan.slices.iter().filter(staged).map(|slice| slice.interval).collect();
    Some(Action::ReleaseClaims { scope: Box::new(Scope::of(&file.plan)), kept })
}

/// Takes all claims and says so; or says whose claim is in the way.
pub async fn take(ledger: &Ledger, prefix: &str, view: &LedgerView, scope: &Scope) -> Result<Option<Waiting>, ClaimError> {
    // First, so that two jobs do not wait for what the other's earlier generation has claimed.
    let needed: Vec<Interval> = scope.slices.iter().map(|slice| slice.interval).collect();
    let all = earlier(ledger, prefix, view).await?;
    release_earlier(ledger, prefix, scope, &all, &needed).await?;
    for target in &scope.targets {
        match (Claims { ledger, prefix, target }).take(&view.run_id, &scope.slices, &scope.event_types).await {
            Ok(()) => {}
            Err(ClaimError::Conflict(conflict)) => {
                let message = format!(
                    "topic {}: {conflict}; wait until that run has ended without publishing there, or leave that time out of spec.window; \
                     if its BackfillJob was deleted, create it again and cancel it",
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
    let all = earlier(ledger, prefix, view).await?;
    let kept = if has_begun(ledger, &view.keys).await? { kept } else { &[] };
    release_earlier(ledger, prefix, scope, &all, kept).await?;
    for target in &scope.targets {
        let kept = [kept, &staged_for(&all, target)].concat();
        (Claims { ledger, prefix, target }).release(&view.run_id, &scope.slices, &kept).await?;
    }
    let released = ClaimsReleased { format: FORMAT, kept: kept.to_vec() };
    ledger.put_once(&view.keys.claims_released(), Bytes::from(to_bytes(&released))).await?;
    Ok(())
}

/// A generation that came before, was planned, and may have claimed its slices.
struct Earlier {
    run: RunId,
    keys: RunKeys,
    /// Its own: a later generation may publish to another topic.
    scope: Scope,
    staged: Vec<Interval>,
}

/// Also those that have given back what they claimed: what a later one needed was kept, and may be needed no more.
async fn earlier(ledger: &Ledger, prefix: &str, view: &LedgerView) -> Result<Vec<Earlier>, ClaimError> {
    let mut all = Vec::new();
    let folders = ledger.folders(view.keys.job()).await?;
    for generation in folders.iter().filter_map(|folder| RunKeys::generation_of(folder)).filter(|g| *g < view.run_id.generation) {
        let run = RunId { generation, ..view.run_id.clone() };
        let keys = RunKeys::new(prefix, &run);
        let Some(plan) = ledger.get_json::<Plan>(&keys.plan()).await? else { continue };
        let staged = if has_begun(ledger, &keys).await? { staged(ledger, &keys, &plan.slices).await? } else { Vec::new() };
        all.push(Earlier { run, keys, scope: Scope::of(&plan), staged });
    }
    Ok(all)
}

/// Whether a publisher of a run has marked its bucket as begun, which comes before its first record.
async fn has_begun(ledger: &Ledger, keys: &RunKeys) -> Result<bool, ClaimError> {
    Ok(!ledger.list(&keys.folder(Folder::Publishing), None).await?.is_empty())
}

async fn staged(ledger: &Ledger, keys: &RunKeys, slices: &[Slice]) -> Result<Vec<Interval>, ClaimError> {
    let listed: BTreeSet<String> = ledger.list(&keys.folder(Folder::Staged), None).await?.into_iter().map(|listed| listed.key).collect();
    Ok(slices.iter().filter(|slice| listed.contains(&keys.staged(&slice.id))).map(|slice| slice.interval).collect())
}

/// What earlier generations may have published to a target.
fn staged_for(earlier: &[Earlier], target: &ClaimTarget) -> Vec<Interval> {
    earlier.iter().filter(|earlier| earlier.scope.targets.contains(target)).flat_map(|earlier| &earlier.staged).copied().collect()
}

/// Gives back what earlier generations have claimed, but for `kept` of the targets of `scope`, and for what any of them may have
/// published to the same target.
async fn release_earlier(ledger: &Ledger, prefix: &str, scope: &Scope, earlier: &[Earlier], kept: &[Interval]) -> Result<(), ClaimError> {
    for Earlier { run, keys, scope: theirs, .. } in earlier {
        let mut all_kept = Vec::new();
        for target in &theirs.targets {
            let needed = if scope.targets.contains(target) { kept } else { &[] };
            let kept = [needed, &staged_for(earlier, target)].concat();
            (Claims { ledger, prefix, target }).release(run, &theirs.slices, &kept).await?;
            all_kept.extend(kept);
        }
        let released = ClaimsReleased { format: FORMAT, kept: all_kept };
        // One that was put before says what that generation itself gave back.
        ledger.put_once(&keys.claims_released(), Bytes::from(to_bytes(&released))).await?;
    }
    Ok(())
}
