//! One unit of work: the items that have no manifest yet, one after the other, each with its manifest last.
//!
//! What is done is what has a manifest. An item that fails by itself does not hold up the others; what is away or refused, or
//! a request to stop, ends the unit, and the next attempt goes on from the manifests. It leaves alone what is recorded as
//! failed for good, and what has failed otherwise comes last: so nothing that fails again keeps others from their turn, or
//! from being told.

use std::{num::NonZero, time::Instant};

use tokio_util::sync::CancellationToken;
use weir_crds::contract::{
    keys::Folder,
    manifest::{Extracted, Staged, Verified},
    plan::Plan,
    result::{Disposition, Failure, FailureRecord},
    units::{Items, Unit, Verb, units},
};
use weir_ledger::LedgerError;

use weir_failpoints::reached;

use crate::{
    assemble::{AssembleError, Assembler},
    extract::{ExtractError, Extractor},
    plan::{self, PlanError},
    progress::Counters,
    publish::{PublishError, publish},
    run::{PlannedRun, Run, RunError},
    termination::{Explain, failure},
    verify::{Verifier, VerifyError},
};

/// Failpoints around the work on one item; its manifest comes after both.
const ITEM_BEGUN: &str = "item.begun";
const ITEM_MADE: &str = "item.made";

/// Finds a unit in the plan's own graph of work; nobody else's word counts.
pub fn find(plan: &Plan, id: &str, verb: Verb) -> Result<Unit, RunError> {
    units(plan).into_iter().find(|unit| unit.id == id && unit.verb == verb).ok_or_else(|| RunError::NoUnit(id.to_owned()))
}

/// Makes and puts the plan, unless there is one.
pub async fn plan(run: &Run, counters: &Counters) -> Vec<Failure> {
    counters.set_items_total(1);
    let made = async {
        if plan::exists(run).await? {
            return Ok(());
        }
        reached(ITEM_BEGUN);
        let draft = plan::draft(run).await?;
        reached(ITEM_MADE);
        plan::put(run, draft).await.map(drop)
    };
    match made.await {
        Ok(()) => {
            counters.item_done();
            Vec::new()
        }
        Err(error) => vec![failure(None, &error as &PlanError)],
    }
}

/// Does a unit. Returns what went wrong, in the order in which it did.
pub async fn run(planned: &PlannedRun, unit: &Unit, counters: &Counters, stop: &CancellationToken) -> Vec<Failure> {
    let recorded = match Recorded::read(planned, unit).await {
        Ok(recorded) => recorded,
        Err(error) => return vec![failure(None, &error)],
    };
    match (&unit.items, unit.verb) {
        (Items::Chunks(chunks), _) => extract_all(planned, chunks, &recorded, counters).await,
        (Items::Slices(slices), Verb::Assemble) => assemble_all(planned, slices, &recorded, counters).await,
        (Items::Slices(slices), Verb::Plan | Verb::Extract | Verb::Publish | Verb::Verify) => {
            verify_all(planned, slices, &recorded, counters).await
        }
        (Items::Buckets { buckets, slices }, _) => publish_all(planned, buckets, slices, counters, stop).await,
    }
}

/// What the operator has recorded of the unit's earlier attempts.
#[derive(Default)]
struct Recorded(Vec<FailureRecord>);

impl Recorded {
    /// Nothing comes before a first attempt. A publisher's failures are those of its buckets, not of its items.
    async fn read(planned: &PlannedRun, unit: &Unit) -> Result<Self, RunError> {
        let run = &planned.run;
        if run.context.attempt <= 1 || unit.verb == Verb::Publish {
            return Ok(Self::default());
        }
        let folder = format!("{}{}/", run.keys.folder(Folder::Failed), unit.id);
        let mut records = Vec::new();
        for listed in run.ledger.list(&folder, None).await? {
            match run.ledger.get_json::<FailureRecord>(&listed.key).await {
                Ok(record) => records.extend(record),
                // It only spares an attempt: what cannot be read, as another version's, spares none.
                Err(error @ LedgerError::Decode { .. }) => tracing::warn!(%error, "left out"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self(records))
    }

    /// The items without those that have failed for good; what has used up more attempts, as the operator counts them, comes later.
    fn worth_an_attempt<'a>(&self, items: &[usize], name: impl Fn(usize) -> &'a str) -> Vec<usize> {
        let is = |failure: &Failure, item: &str, disposition: Disposition| {
            failure.code.disposition() == disposition && failure.item.as_deref().is_none_or(|name| name == item)
        };
        let is_final =
            |item: &str| self.0.iter().flat_map(|record| &record.failures).any(|f| f.item.is_some() && is(f, item, Disposition::Final));
        let failed = |item: &str| self.0.iter().filter(|r| r.failures.iter().any(|f| is(f, item, Disposition::UsesAttempt))).count();
        let mut worth: Vec<usize> = items.iter().copied().filter(|item| !is_final(name(*item))).collect();
        worth.sort_by_cached_key(|item| failed(name(*item)));
        worth
    }
}

/// Failures of items, until one ends the unit.
#[derive(Default)]
struct Failures(Vec<Failure>);

impl Failures {
    /// Whether the unit goes on.
    fn add(&mut self, item: Option<&str>, error: &dyn Explain) -> bool {
        let failure = failure(item, error);
        let goes_on = match failure.code.disposition() {
            Disposition::Final | Disposition::UsesAttempt => true,
            Disposition::Wait | Disposition::Stalled | Disposition::Yielded => false,
        };
        tracing::error!(item, code = ?failure.code, cause = failure.cause, "failed");
        self.0.push(failure);
        goes_on
    }
}

async fn extract_all(planned: &PlannedRun, chunks: &[usize], recorded: &Recorded, counters: &Counters) -> Vec<Failure> {
    counters.set_items_total(chunks.len());
    let mut failures = Failures::default();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let extractor = match Extractor::new(planned.clone(), counters.clone(), threads).await {
        Ok(extractor) => extractor,
        Err(error) => {
            failures.add(None, &error);
            return failures.0;
        }
    };
    for index in recorded.worth_an_attempt(chunks, |index| planned.plan.chunks[index].id.as_str()) {
        let chunk = &planned.plan.chunks[index];
        match extract_one(planned, &extractor, chunk).await {
            Ok(()) => counters.item_done(),
            Err(error) if failures.add(Some(&chunk.id), error.as_ref()) => {}
            Err(_) => break,
        }
    }
    failures.0
}

async fn extract_one(
    planned: &PlannedRun,
    extractor: &Extractor,
    chunk: &weir_crds::contract::plan::PlannedChunk,
) -> Result<(), Box<dyn Explain>> {
    let key = planned.run.keys.extracted(&chunk.id);
    if planned.manifest::<Extracted>(&key).await.map_err(boxed)?.is_some() {
        return Ok(());
    }
    let since = Instant::now();
    reached(ITEM_BEGUN);
    let extracted = extractor.extract(chunk).await.map_err(boxed::<ExtractError>)?;
    reached(ITEM_MADE);
    // How much was fetched depends on what had to be fetched again, so it may differ between attempts.
    let is_same = |there: &Extracted, here: &Extracted| *there == Extracted { bytes_read: there.bytes_read, ..here.clone() };
    planned.put_manifest_like(&key, since.elapsed().as_secs_f64(), extracted, is_same).await.map_err(boxed)
}

async fn assemble_all(planned: &PlannedRun, slices: &[usize], recorded: &Recorded, counters: &Counters) -> Vec<Failure> {
    counters.set_items_total(slices.len());
    let mut failures = Failures::default();
    let mut open = Vec::new();
    for slice in recorded.worth_an_attempt(slices, |slice| slice_name(planned, slice)) {
        match planned.manifest::<Staged>(&planned.run.keys.staged(&planned.plan.slices[slice].id)).await {
            Ok(Some(_)) => counters.item_done(),
            Ok(None) => open.push(slice),
            Err(error) if failures.add(Some(slice_name(planned, slice)), &error) => {}
            Err(_) => return failures.0,
        }
    }
    let assembler = match Assembler::new(planned.clone(), counters.clone(), &open).await {
        Ok(assembler) => assembler,
        Err(error) => {
            failures.add(None, &error);
            return failures.0;
        }
    };
    for slice in open {
        match assemble_one(planned, &assembler, slice).await {
            Ok(true) => counters.item_done(),
            Ok(false) => {}
            Err(error) if failures.add(Some(slice_name(planned, slice)), &error) => {}
            Err(_) => break,
        }
    }
    failures.0
}

fn slice_name(planned: &PlannedRun, slice: usize) -> &str {
    planned.plan.slices[slice].id.as_str()
}

/// Whether the slice is staged now; it is not before all its chunks are extracted.
async fn assemble_one(planned: &PlannedRun, assembler: &Assembler, slice: usize) -> Result<bool, AssembleError> {
    let since = Instant::now();
    reached(ITEM_BEGUN);
    let Some(staged) = assembler.assemble(slice).await? else { return Ok(false) };
    reached(ITEM_MADE);
    let key = planned.run.keys.staged(&staged.slice);
    planned.put_manifest(&key, since.elapsed().as_secs_f64(), staged).await?;
    Ok(true)
}

async fn publish_all(
    planned: &PlannedRun,
    buckets: &[usize],
    slices: &[usize],
    counters: &Counters,
    stop: &CancellationToken,
) -> Vec<Failure> {
    counters.set_items_total(buckets.len() * slices.len());
    let all = planned.plan.buckets();
    let mine = buckets.iter().filter_map(|index| all.get(*index).cloned()).collect();
    let mut failures = Failures::default();
    for (bucket, result) in publish(planned, mine, slices, counters, stop).await {
        if let Err(error) = result {
            failures.add(Some(&bucket), &error as &PublishError);
        }
    }
    failures.0
}

async fn verify_all(planned: &PlannedRun, slices: &[usize], recorded: &Recorded, counters: &Counters) -> Vec<Failure> {
    counters.set_items_total(slices.len());
    let mut failures = Failures::default();
    let verifier = match Verifier::new(planned.clone(), counters.clone()).await {
        Ok(verifier) => verifier,
        Err(error) => {
            failures.add(None, &error);
            return failures.0;
        }
    };
    for slice in recorded.worth_an_attempt(slices, |slice| slice_name(planned, slice)) {
        match verify_one(planned, &verifier, slice).await {
            Ok(true) => counters.item_done(),
            Ok(false) => {}
            Err(error) if failures.add(Some(slice_name(planned, slice)), &error) => {}
            Err(_) => break,
        }
    }
    failures.0
}

/// Whether the slice is verified now; it is not before it is published.
async fn verify_one(planned: &PlannedRun, verifier: &Verifier, slice: usize) -> Result<bool, VerifyError> {
    let key = planned.run.keys.verified(&planned.plan.slices[slice].id);
    if planned.manifest::<Verified>(&key).await?.is_some() {
        return Ok(true);
    }
    let since = Instant::now();
    reached(ITEM_BEGUN);
    let Some(verified) = verifier.verify(slice).await? else { return Ok(false) };
    reached(ITEM_MADE);
    planned.put_manifest(&key, since.elapsed().as_secs_f64(), verified).await?;
    Ok(true)
}

fn boxed<E: Explain + 'static>(error: E) -> Box<dyn Explain> {
    Box::new(error)
}

#[cfg(test)]
mod tests {
    use weir_crds::contract::{FORMAT, result::FailureCode};
    use weir_ledger::ClientError;

    use super::*;

    fn record(attempt: u32, failures: &[(FailureCode, Option<&str>)]) -> FailureRecord {
        let failure = |(code, item): &(FailureCode, Option<&str>)| Failure {
            code: *code,
            item: item.map(str::to_owned),
            field: None,
            cause: "c".to_owned(),
            remedy: "r".to_owned(),
        };
        let failures = failures.iter().map(failure).collect();
        FailureRecord { format: FORMAT, unit: "extract-0000".to_owned(), attempt, failures, at: jiff::Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn what_has_failed_for_good_is_left_alone_and_what_has_failed_comes_last() {
        let names = ["a", "b", "c", "d", "e"];
        let order = |records| Recorded(records).worth_an_attempt(&[0, 1, 2, 3, 4], |n| names[n]);
        assert_eq!(order(vec![]), [0, 1, 2, 3, 4]);
        let corrupt = (FailureCode::SourceCorrupt, Some("b"));
        let first = record(1, &[(FailureCode::Internal, Some("a")), corrupt, (FailureCode::ScratchFull, Some("c"))]);
        let second = record(2, &[(FailureCode::ScratchFull, Some("a")), (FailureCode::SourceDenied, Some("d"))]);
        // What ended the unit as a whole says nothing of one of them.
        let third = record(4, &[(FailureCode::Internal, None)]);
        assert_eq!(order(vec![first, second, third]), [3, 4, 2, 0]);
    }

    #[test]
    fn only_what_is_away_or_refused_ends_the_unit() {
        let mut failures = Failures::default();
        assert!(failures.add(Some("a"), &RunError::Missing { key: "k".to_owned() }));
        assert!(failures.add(Some("b"), &RunError::NoUnit("u".to_owned())));
        assert!(!failures.add(Some("c"), &RunError::Client(ClientError::Empty { file: "f" })));
        let codes: Vec<FailureCode> = failures.0.iter().map(|failure| failure.code).collect();
        assert_eq!(codes, [FailureCode::ArtifactCorrupt, FailureCode::Internal, FailureCode::StoreDenied]);
    }
}
