//! How far unnest may expand rows. Beneath each unnest of a compiled select lies an operator that knows, before anything is
//! expanded, what its input becomes, and fails where a run would grow beyond its bound. Whoever runs the select then tries
//! half of the rows; a single row that is beyond it is set aside. Lists that the select computes are there before that operator
//! sees them: they are computed for a few rows at a time, and how long those of one row are nobody bounds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::StreamExt as _;

/// Bytes that one run makes of its rows, about. A thread holds a few copies of them at a time.
pub const EXPANDED_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Rows that are evaluated together where lists are computed, and might be of any length.
pub const COMPUTED_ROWS_MAX: usize = 64;
/// Of a value of fixed width with its validity.
const FIXED_BYTES: u64 = 16;

/// Whether a plan unnests lists that are not the source's own.
pub fn computes_lists(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| {
        let LogicalPlan::Unnest(unnest) = node else { return Ok(false) };
        // Beneath an unnest lies the projection of what it unnests and of what goes beside it.
        let LogicalPlan::Projection(projection) = unnest.input.as_ref() else { return Ok(true) };
        let is_stored = |list: usize| projection.expr.get(list).is_some_and(is_column);
        Ok(!reads_source(&projection.input) || !unnest.list_type_columns.iter().all(|(list, _)| is_stored(*list)))
    })
}

/// Whether the columns of a plan are those of the source.
#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: whatever else there is makes other columns")]
fn reads_source(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Filter(filter) => reads_source(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => reads_source(&alias.input),
        _ => false,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: whatever else there is computes")]
fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        // A list within a struct.
        Expr::ScalarFunction(function) => function.name() == "get_field" && function.args.first().is_some_and(is_column),
        _ => false,
    }
}

/// The rows of a run, or its only one, would grow beyond the bound.
#[derive(Debug, thiserror::Error)]
#[error("its lists would expand it to {bytes} bytes or more, beyond {EXPANDED_BYTES_MAX}")]
pub struct ExpandsTooFar {
    bytes: u64,
}

/// Whether this is why a run has failed.
pub fn too_far(error: &DataFusionError) -> Option<&ExpandsTooFar> {
    let DataFusionError::External(error) = error.find_root() else { return None };
    error.downcast_ref()
}

/// What a run has expanded so far.
#[derive(Debug, Default)]
pub struct Expanded(AtomicU64);

impl Expanded {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) -> Result<(), ExpandsTooFar> {
        let bytes = self.bytes().saturating_add(bytes);
        self.set(bytes);
        if bytes > EXPANDED_BYTES_MAX { Err(ExpandsTooFar { bytes }) } else { Ok(()) }
    }
}

/// The plan with a bound beneath each unnest; all of them count into one sum.
pub fn bounded(plan: Arc<dyn ExecutionPlan>, expanded: &Arc<Expanded>) -> Result<Arc<dyn ExecutionPlan>> {
    let bound = |node: Arc<dyn ExecutionPlan>| {
        let Some(unnest) = node.downcast_ref::<UnnestExec>() else { return Ok(Transformed::no(node)) };
        let (input, lists) = (Arc::clone(unnest.input()), unnest.list_column_indices().to_vec());
        let below: Arc<dyn ExecutionPlan> = Arc::new(Bound { input, lists, expanded: Arc::clone(expanded) });
        // Its columns, their order and their partitions are those of the input.
        let replaced = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        Ok(Transformed::yes(node.replace_children(vec![below], replaced)?))
    };
    Ok(plan.transform_up(bound)?.data)
}

/// Lets rows through that the unnest above may expand.
#[derive(Debug)]
struct Bound {
    input: Arc<dyn ExecutionPlan>,
    lists: Vec<ListUnnest>,
    expanded: Arc<Expanded>,
}

impl DisplayAs for Bound {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for Bound {
    fn name(&self) -> &'static str {
        "Bound"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = datafusion::common::utils::take_function_args(self.name(), children)?;
        Ok(Arc::new(Self { input, lists: self.lists.clone(), expanded: Arc::clone(&self.expanded) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (lists, expanded) = (self.lists.clone(), Arc::clone(&self.expanded));
        let rows = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let bytes = (0..batch.num_rows()).fold(0, |sum: u64, row| sum.saturating_add(expanded_bytes(&batch, &lists, row)));
            expanded.add(bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// What unnesting makes of a row: its other columns are repeated for each item.
fn expanded_bytes(batch: &RecordBatch, lists: &[ListUnnest], row: usize) -> u64 {
    let is_list = |index: usize| lists.iter().any(|list| list.index_in_input_schema == index);
    let (mut repeated, mut unnested) = (0u64, 0u64);
    for (index, column) in batch.columns().iter().enumerate() {
        let sum = if is_list(index) { &mut unnested } else { &mut repeated };
        *sum = sum.saturating_add(value_bytes(column, row));
    }
    // Lists of one depth go side by side, those of another are multiplied by them.
    let mut items: BTreeMap<usize, u64> = BTreeMap::new();
    for list in lists {
        let sum = items.entry(list.depth).or_default();
        *sum = sum.saturating_add(batch.columns().get(list.index_in_input_schema).map_or(0, |column| item_count(column, row, list.depth)));
    }
    let rows = items.values().fold(1, |rows: u64, items| rows.saturating_mul((*items).max(1)));
    let times = if items.len() > 1 { rows } else { 1 };
    repeated.saturating_mul(rows).saturating_add(unnested.saturating_mul(times))
}

/// The list at a row, if it is one.
fn list_at(array: &ArrayRef, row: usize) -> Option<ArrayRef> {
    if let Some(list) = array.as_list_opt::<i32>() {
        Some(list.value(row))
    } else if let Some(list) = array.as_list_opt::<i64>() {
        Some(list.value(row))
    } else {
        array.as_fixed_size_list_opt().map(|list| list.value(row))
    }
}

/// Items of a list, with those of its inner lists down to a depth.
fn item_count(array: &ArrayRef, row: usize, depth: usize) -> u64 {
    if array.is_null(row) {
        return 0;
    }
    let Some(items) = list_at(array, row) else {
        // Another kind of list, of which nothing is known.
        return u64::MAX;
    };
    let inner = |depth| (0..items.len()).fold(0, |sum: u64, item| sum.saturating_add(item_count(&items, item, depth)));
    (items.len() as u64).saturating_add(depth.checked_sub(1).filter(|depth| *depth > 0).map_or(0, inner))
}

fn value_bytes(array: &ArrayRef, row: usize) -> u64 {
    if array.is_null(row) {
        return FIXED_BYTES;
    }
    let all_of = |array: &ArrayRef| (0..array.len()).fold(0, |sum: u64, row| sum.saturating_add(value_bytes(array, row)));
    if let Some(length) = length(array, row) {
        FIXED_BYTES + length as u64
    } else if let Some(fields) = array.as_struct_opt() {
        fields.columns().iter().map(|column| value_bytes(column, row)).sum()
    } else if let Some(items) = list_at(array, row) {
        all_of(&items)
    } else if let DataType::Map(_, _) = array.data_type() {
        array.as_map().value(row).columns().iter().map(all_of).sum()
    } else {
        FIXED_BYTES
    }
}

/// Of a text or of bytes.
#[expect(clippy::wildcard_enum_match_arm, reason = "the engine's enum: the others are nested, or of fixed width")]
fn length(array: &ArrayRef, row: usize) -> Option<usize> {
    match array.data_type() {
        DataType::Utf8 => Some(array.as_string::<i32>().value(row).len()),
        DataType::LargeUtf8 => Some(array.as_string::<i64>().value(row).len()),
        DataType::Utf8View => Some(array.as_string_view().value(row).len()),
        DataType::Binary => Some(array.as_binary::<i32>().value(row).len()),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(row).len()),
        DataType::BinaryView => Some(array.as_binary_view().value(row).len()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use weir_crds::columns::Columns;

    use super::*;
    use crate::decode::{JsonDecoder, LineSplitter};

    fn row(columns: &str, text: &str) -> RecordBatch {
        let mut splitter = LineSplitter::new(0);
        let mut blocks = Vec::new();
        splitter.push(text.as_bytes(), &mut blocks);
        blocks.extend(splitter.finish());
        JsonDecoder::new(&Columns::parse(columns).unwrap()).decode(&blocks[0]).unwrap().batch
    }

    #[test]
    fn a_value_costs_its_bytes_and_a_list_has_its_items() {
        let columns = "s string, l array<array<struct<a: string, b: array<int>>>>, m map<string, int>";
        let batch = row(columns, r#"{"s":"0123456789","l":[[{"a":"xy","b":[1,2]},{"a":"z"}],null],"m":{"k":1}}"#);
        assert_eq!(value_bytes(&batch["s"], 0), 26);
        // Text 18 + 17, two ints, and two lists that are null.
        assert_eq!(value_bytes(&batch["l"], 0), 35 + 4 * 16);
        assert_eq!(value_bytes(&batch["m"], 0), 17 + 16);
        assert_eq!([1, 2].map(|depth| item_count(&batch["l"], 0, depth)), [2, 4]);
    }

    #[test]
    fn columns_beside_lists_are_repeated_for_each_item() {
        let columns = "s string, a array<int>, b array<int>, c array<array<int>>";
        let batch = row(columns, r#"{"s":"0123456789","a":[1,2,3],"b":[1,2],"c":[[1],[2,3]]}"#);
        let batch = batch.project(&[0, 1, 2, 3]).expect("without the columns of provenance, which cost as well");
        let of = |lists: &[(usize, usize)]| {
            let lists: Vec<_> = lists.iter().map(|(index, depth)| ListUnnest { index_in_input_schema: *index, depth: *depth }).collect();
            expanded_bytes(&batch, &lists, 0)
        };
        assert_eq!(of(&[(1, 1)]), (26 + 32 + 48) * 3 + 48);
        assert_eq!(of(&[(1, 1), (2, 1)]), (26 + 48) * 5 + 80, "side by side: as many rows as the longer has, or at most the sum");
        assert_eq!(of(&[(1, 1), (3, 2)]), (26 + 32 + 48 + 48) * 3 * 5, "of another depth: for each");
    }
}
