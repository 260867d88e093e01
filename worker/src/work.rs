//! One unit of work: the items that have no manifest yet, one after the other, each with its manifest last.
//!
//! What is done is what has a manifest. An item that fails for good does not hold up the others; any other failure ends
//! the unit, and the next attempt goes on from the manifests.

use std::{num::NonZero, time::Instant};

use tokio_util::sync::CancellationToken;
use weir_crds::contract::{
    manifest::{Extracted, Staged, Verified},
    plan::Plan,
    result::{Disposition, Failure},
    units::{Items, Unit, Verb, units},
};

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
    match (&unit.items, unit.verb) {
        (Items::Chunks(chunks), _) => extract_all(planned, chunks, counters).await,
        (Items::Slices(slices), Verb::Assemble) => assemble_all(planned, slices, counters).await,
        (Items::Slices(slices), Verb::Plan | Verb::Extract | Verb::Publish | Verb::Verify) => verify_all(planned, slices, counters).await,
        (Items::Buckets { buckets, slices }, _) => publish_all(planned, buckets, slices, counters, stop).await,
    }
}

/// Failures of items, until one ends the unit.
#[derive(Default)]
struct Failures(Vec<Failure>);

impl Failures {
    /// Whether the unit goes on.
    fn add(&mut self, item: Option<&str>, error: &dyn Explain) -> bool {
        let failure = failure(item, error);
        let goes_on = failure.code.disposition() == Disposition::Final;
        tracing::error!(item, code = ?failure.code, cause = failure.cause, "failed");
        self.0.push(failure);
        goes_on
    }
}

async fn extract_all(planned: &PlannedRun, chunks: &[usize], counters: &Counters) -> Vec<Failure> {
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
    for chunk in chunks.iter().map(|index| &planned.plan.chunks[*index]) {
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

async fn assemble_all(planned: &PlannedRun, slices: &[usize], counters: &Counters) -> Vec<Failure> {
    counters.set_items_total(slices.len());
    let mut failures = Failures::default();
    let mut open = Vec::new();
    for slice in slices.iter().copied() {
        match planned.manifest::<Staged>(&planned.run.keys.staged(&planned.plan.slices[slice].id)).await {
            Ok(Some(_)) => counters.item_done(),
            Ok(None) => open.push(slice),
            Err(error) => {
                failures.add(Some(planned.plan.slices[slice].id.as_str()), &error);
            }
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
            Err(error) if failures.add(Some(planned.plan.slices[slice].id.as_str()), &error) => {}
            Err(_) => break,
        }
    }
    failures.0
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

async fn verify_all(planned: &PlannedRun, slices: &[usize], counters: &Counters) -> Vec<Failure> {
    counters.set_items_total(slices.len());
    let mut failures = Failures::default();
    let verifier = match Verifier::new(planned.clone(), counters.clone()).await {
        Ok(verifier) => verifier,
        Err(error) => {
            failures.add(None, &error);
            return failures.0;
        }
    };
    for slice in slices.iter().copied() {
        match verify_one(planned, &verifier, slice).await {
            Ok(true) => counters.item_done(),
            Ok(false) => {}
            Err(error) if failures.add(Some(planned.plan.slices[slice].id.as_str()), &error) => {}
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
