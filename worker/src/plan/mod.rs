//! `plan`: everything that a run will do, found out and pinned before any of it is done.
//!
//! It reads sources, targets and earlier generations, and writes two objects of its own run: the list of source objects and
//! `plan.json`. Whoever approves the plan's hash approves exactly that.

pub mod chunks;
pub mod error;
pub mod event_types;
pub mod forecast;
pub mod live;
pub mod objects;
pub mod preflight;
pub mod present;
pub mod preview;
pub mod rates;
pub mod sample;
pub mod targets;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use weir_crds::backfill_job::Estimates;
use weir_crds::contract::FORMAT;
use weir_crds::contract::digest::Sha256Digest;
use weir_crds::contract::manifest::PartRef;
use weir_crds::contract::plan::{Plan, PlannedSource, ResultColumn};
use weir_crds::duration::KubeDuration;
use weir_crds::window::Slicing;
use weir_ledger::PutOnce;

pub use error::PlanError;
pub use preview::preview;

use crate::extract::chunk::compile;
use crate::run::Run;
use crate::select::ResultShape;
use crate::source::fetch::RANGE_BYTES;
use crate::source::object_list;

/// A plan that is made but not written.
#[derive(Debug)]
pub struct Draft {
    /// `plan.json`.
    pub plan: Plan,
    /// The object that [`Plan::objects`] names.
    pub object_list: Bytes,
}

/// Makes the plan of a run. Nothing is written.
pub async fn draft(run: &Run) -> Result<Draft, PlanError> {
    let (spec, began_at) = (&run.spec, Timestamp::now());
    let (selects, shape) = compile(spec).await?;
    require_columns(run, &shape)?;
    let slicing = Slicing::new(&spec.window);
    if slicing.slices().is_empty() {
        return Err(PlanError::NoSlices);
    }
    // Kafka first: a target that is not there is found out in a second, while listing may take minutes.
    let sinks = targets::describe(run, &slicing, &shape).await?;
    let client = weir_ledger::s3_client(&spec.source_store, run.credentials_dir.as_deref()).await?;
    let mut lists = Vec::new();
    for source in &spec.sources {
        lists.push(objects::list(&client, source, &slicing).await?);
    }
    if lists.iter().all(Vec::is_empty) {
        return Err(PlanError::NoObjects { sources: spec.sources.iter().map(|s| s.name.clone()).collect::<Vec<_>>().join(", ") });
    }
    let samples = sample::sources(&client, run, &selects, &shape, &lists).await?;
    targets::require_room(run, &sinks, &samples).await?;
    let layout = chunks::lay_out(spec, &lists, run.context.parallelism)?;
    let object_list = object_list::write(&lists.concat())?;
    let sha256 = Sha256Digest::of(&object_list);
    let objects = PartRef {
        key: run.keys.objects(&sha256.short()),
        digest: sha256.into(),
        bytes: object_list.len() as u64,
        rows: lists.iter().map(|list| list.len() as u64).sum(),
    };
    let sources = spec.sources.iter().zip(&lists).map(|(source, list)| PlannedSource {
        name: source.name.clone(),
        objects: list.len() as u64,
        bytes: list.iter().map(|object| object.size).sum(),
    });
    let sources: Vec<_> = sources.collect();
    let estimates = Estimates {
        events: samples.events,
        events_error_percent: samples.events_error_percent,
        bytes: sources.iter().map(|source| source.bytes).sum(),
        objects: sources.iter().map(|source| source.objects).sum(),
        ..Estimates::default()
    };
    let mut plan = Plan {
        format: FORMAT,
        run: run.context.run.clone(),
        run_digest: run.spec_digest,
        worker_image: run.context.worker_image.clone(),
        slices: slicing.slices().to_vec(),
        sources,
        objects,
        chunks: layout.chunks,
        sinks,
        result_columns: result_columns(&shape),
        event_types: event_types::of(&selects, shape.schema.field(shape.event_type).name()),
        sizing: layout.sizing,
        estimates,
        sampled_bytes: samples.bytes_read,
    };
    plan.sizing = chunks::size_by_target(&plan, run.context.parallelism);
    let known = rates::known(run, plan.estimates.bytes, &samples.cost, began_at).await;
    let seconds = forecast::duration_seconds(&plan, run.context.parallelism, &known.rates);
    let ranges = lists.iter().flatten().map(|object| object.size.div_ceil(RANGE_BYTES).max(1)).sum();
    plan.estimates.requests = forecast::requests(&plan, ranges);
    plan.estimates.duration = Some(KubeDuration::from_secs(seconds.ceil() as u64));
    plan.estimates.duration_error_percent = known.error_percent;
    plan.estimates.basis = known.basis;
    Ok(Draft { plan, object_list })
}

/// Whether an earlier attempt has made the plan; one that cannot be used is an error.
pub async fn exists(run: &Run) -> Result<bool, PlanError> {
    if run.ledger.head(&run.keys.plan()).await?.is_none() {
        return Ok(false);
    }
    run.clone().planned().await?;
    Ok(true)
}

/// Settles what earlier generations have published, and writes the plan: what it names first, since a plan that names
/// missing objects would be no plan. If there is a plan already it stands, as an earlier attempt left it; that one is
/// returned.
pub async fn put(run: &Run, mut draft: Draft) -> Result<Arc<Plan>, PlanError> {
    present::settle(run, &mut draft.plan).await?;
    run.ledger.put_part(&draft.plan.objects.key, draft.object_list).await?;
    // If the process dies here, these are parts that no plan names.
    match run.ledger.put_once(&run.keys.plan(), Bytes::from(draft.plan.to_bytes())).await? {
        PutOnce::Written | PutOnce::Same => Ok(Arc::new(draft.plan)),
        PutOnce::Different { .. } => Ok(run.clone().planned().await?.plan),
    }
}

fn result_columns(shape: &ResultShape) -> Vec<ResultColumn> {
    let column = |field: &Arc<datafusion::arrow::datatypes::Field>| ResultColumn {
        name: field.name().clone(),
        data_type: field.data_type().to_string(),
    };
    shape.schema.fields().iter().map(column).collect()
}

/// The columns that sinks name must be there.
fn require_columns(run: &Run, shape: &ResultShape) -> Result<(), PlanError> {
    for (index, sink) in run.spec.sinks.iter().enumerate() {
        for (number, column) in sink.kafka.iter().flat_map(|kafka| &kafka.value.columns).enumerate() {
            shape.require(&format!("spec.sinks[{index}].kafka.value.columns[{number}]"), column)?;
        }
    }
    Ok(())
}
