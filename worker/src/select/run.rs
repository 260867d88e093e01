//! Runs a checked select over batches. A row on which it fails is singled out by halving the batch, so that the others
//! still get their results.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, collect};

use super::check::{CheckedSelect, session};
use super::error::SelectError;
use super::expand::{self, Expanded};
use super::provenance;
use crate::decode::reject::{Fault, Reason};
use crate::decode::types::{row_number, with_provenance};

/// Each execution leaves a few metrics in the plan; after this many they are dropped with the plan's state.
const EXECUTIONS_PER_PLAN: u32 = 1000;

/// Parts of one batch that are held as operators left them.
const LOOSE_PARTS_MAX: usize = 64;

/// A select compiled for one thread.
#[derive(Debug)]
pub struct Evaluator {
    origin: String,
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    input: Arc<Input>,
    executions: u32,
    rows_max: usize,
    /// By this run.
    expanded: Arc<Expanded>,
}

/// What one batch became.
#[derive(Debug)]
pub struct Evaluated {
    /// The result columns and the provenance columns; rows in the order of the source rows that they came from.
    pub batch: RecordBatch,
    /// Rows of the input that select failed on: line or row number, and why.
    pub failed: Vec<(u64, Fault)>,
}

/// What came of running a select.
#[derive(Debug)]
pub enum Ran {
    Whole(Evaluated),
    /// These are too many rows to be held together once they are expanded: to be run in halves.
    TooMany,
}

/// The table of the compiled plan: one batch, put here before each execution.
#[derive(Debug)]
struct Input {
    schema: SchemaRef,
    batch: Mutex<Option<RecordBatch>>,
}

/// What the halves of a batch became. An operator's batch has memory for as many rows as it takes, however few it holds, so that
/// those of thousands of halves would take gigabytes.
struct Parts {
    schema: SchemaRef,
    joined: Vec<RecordBatch>,
    loose: Vec<RecordBatch>,
}

impl Parts {
    fn add(&mut self, results: Vec<RecordBatch>) -> Result<(), ArrowError> {
        self.loose.extend(results);
        if self.loose.len() > LOOSE_PARTS_MAX {
            self.joined.push(concat_batches(&self.schema, &std::mem::take(&mut self.loose))?);
        }
        Ok(())
    }

    fn join(mut self) -> Result<RecordBatch, ArrowError> {
        self.joined.append(&mut self.loose);
        match <[RecordBatch; 1]>::try_from(self.joined) {
            Ok([batch]) => Ok(batch),
            Err(parts) => concat_batches(&self.schema, &parts),
        }
    }
}

impl PartitionStream for Input {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = futures::stream::iter(batch.map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
    }
}

impl Evaluator {
    /// Compiles a checked select.
    pub async fn new(select: &CheckedSelect) -> Result<Self, SelectError> {
        Self::compile(select).await.map_err(|source| SelectError::Run { origin: select.origin.clone(), source })
    }

    async fn compile(select: &CheckedSelect) -> Result<Self, DataFusionError> {
        let context = session();
        let schema = with_provenance(&select.source);
        let input = Arc::new(Input { schema: Arc::clone(&schema), batch: Mutex::new(None) });
        let stream: Arc<dyn PartitionStream> = Arc::<Input>::clone(&input);
        let table = provider_as_source(Arc::new(StreamingTable::try_new(schema, vec![stream])?));
        let logical = provenance::carry(select.plan.clone(), &table)?;
        let expanded = Arc::new(Expanded::default());
        let plan = expand::bounded(context.state().create_physical_plan(&logical).await?, &expanded)?;
        let rows_max = if select.computes_lists { expand::COMPUTED_ROWS_MAX } else { usize::MAX };
        Ok(Self { origin: select.origin.clone(), plan, task: context.task_ctx(), input, executions: 0, rows_max, expanded })
    }

    /// Runs the select over one batch.
    pub fn run(&mut self, batch: RecordBatch) -> Result<Ran, SelectError> {
        if batch.num_rows() > self.rows_max {
            return Ok(Ran::TooMany);
        }
        let mut parts = Parts { schema: self.plan.schema(), joined: Vec::new(), loose: Vec::new() };
        let mut failed = Vec::new();
        self.expanded.set(0);
        match self.halve(batch.clone(), &mut parts, &mut failed) {
            Ok(()) => {}
            Err(error) => match expand::too_far(&error) {
                None => return Err(self.error(error)),
                Some(_) if batch.num_rows() > 1 => return Ok(Ran::TooMany),
                Some(too_far) => failed.push((row_number(&batch, 0), Fault::new(Reason::ExpandsTooFar, too_far.to_string()))),
            },
        }
        let batch = parts.join().map_err(|error| self.error(error.into()))?;
        Ok(Ran::Whole(Evaluated { batch, failed }))
    }

    fn halve(&mut self, batch: RecordBatch, parts: &mut Parts, failed: &mut Vec<(u64, Fault)>) -> Result<(), DataFusionError> {
        let (rows, expanded) = (batch.num_rows(), self.expanded.bytes());
        // What fails whatever the row fails on none as well.
        if rows == 0 {
            return Ok(());
        }
        let results = self.execute(batch.clone());
        if results.is_err() {
            self.expanded.set(expanded);
        }
        match results {
            Ok(results) => parts.add(results)?,
            // Not this value's fault: it is the run that expands, or memory is out, or the plan broken.
            Err(error) if expand::too_far(&error).is_some() || !is_of_a_value(&error) => return Err(error),
            Err(error) if rows == 1 => failed.push((row_number(&batch, 0), Fault::new(Reason::SelectFailed, error.strip_backtrace()))),
            Err(_) => {
                self.halve(batch.slice(0, rows / 2), parts, failed)?;
                self.halve(batch.slice(rows / 2, rows - rows / 2), parts, failed)?;
            }
        }
        Ok(())
    }

    fn execute(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>, DataFusionError> {
        self.executions += 1;
        if self.executions >= EXECUTIONS_PER_PLAN {
            self.plan = reset_plan_states(Arc::clone(&self.plan))?;
            self.executions = 0;
        }
        *self.input.batch.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch);
        // The plan neither waits nor spawns: it only computes.
        futures::executor::block_on(collect(Arc::clone(&self.plan), Arc::clone(&self.task)))
    }

    fn error(&self, source: DataFusionError) -> SelectError {
        SelectError::Run { origin: self.origin.clone(), source }
    }
}

/// Whether evaluating expressions over values gave this error.
fn is_of_a_value(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ArrowError(_, _) | DataFusionError::Execution(_) | DataFusionError::External(_) => true,
        // Some functions report a bad argument this way.
        DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) => true,
        DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_)
        | DataFusionError::SQL(_, _)
        | DataFusionError::Internal(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::SchemaError(_, _)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::ResourcesExhausted(_)
        | DataFusionError::Context(_, _)
        | DataFusionError::Substrait(_)
        | DataFusionError::Diagnostic(_, _)
        | DataFusionError::Collection(_)
        | DataFusionError::Shared(_)
        | DataFusionError::Ffi(_) => false,
    }
}
