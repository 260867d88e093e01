//! How far unnest may expand rows: batches are evaluated in parts that stay small once expanded, and a row that would grow
//! beyond any bound is set aside. Without unnest nothing expands.

use std::ops::Range;

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::DataType;

use crate::decode::reject::{Fault, Reason};

/// Bytes that a part has once it is expanded, about. A thread holds a few copies of it at a time.
const PART_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Of a value of fixed width with its validity.
const FIXED_BYTES: u64 = 16;

/// How a batch is evaluated.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Rows that are evaluated together, in order.
    pub ranges: Vec<Range<usize>>,
    /// Rows that are not, and why.
    pub too_large: Vec<(usize, Fault)>,
}

impl Parts {
    /// All rows at once.
    pub fn whole(rows: usize) -> Self {
        Self { ranges: (rows > 0).then_some(0..rows).into_iter().collect(), too_large: Vec::new() }
    }
}

/// What a row is made of.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Bytes outside lists: they are repeated for each item.
    plain: u64,
    /// Bytes of lists.
    listed: u64,
    /// Items of lists, those of inner lists included.
    items: u64,
}

impl Cost {
    fn expanded(self) -> u64 {
        self.plain.saturating_mul(self.items.max(1)).saturating_add(self.listed)
    }
}

/// Cuts the rows of a batch.
pub fn parts(batch: &RecordBatch) -> Parts {
    let mut costs = vec![Cost::default(); batch.num_rows()];
    for column in batch.columns() {
        costs.iter_mut().enumerate().for_each(|(row, cost)| add(column, row, cost));
    }
    cut(&costs.into_iter().map(Cost::expanded).collect::<Vec<_>>())
}

fn cut(expanded: &[u64]) -> Parts {
    let mut parts = Parts::default();
    let (mut start, mut sum) = (0, 0u64);
    for (row, bytes) in expanded.iter().copied().enumerate() {
        let is_too_large = bytes > PART_BYTES_MAX;
        if is_too_large || sum + bytes > PART_BYTES_MAX {
            if start < row {
                parts.ranges.push(start..row);
            }
            (start, sum) = (row, 0);
        }
        if is_too_large {
            let detail = format!("its lists would expand it to {bytes} bytes, more than {PART_BYTES_MAX}");
            parts.too_large.push((row, Fault::new(Reason::ExpandsTooFar, detail)));
            start = row + 1;
        } else {
            sum += bytes;
        }
    }
    if start < expanded.len() {
        parts.ranges.push(start..expanded.len());
    }
    parts
}

fn add(array: &ArrayRef, row: usize, cost: &mut Cost) {
    if array.is_null(row) {
        return;
    }
    if let Some(text) = array.as_string_opt::<i32>() {
        cost.plain += FIXED_BYTES + text.value_length(row).unsigned_abs() as u64;
    } else if let Some(bytes) = array.as_binary_opt::<i32>() {
        cost.plain += FIXED_BYTES + bytes.value_length(row).unsigned_abs() as u64;
    } else if let Some(fields) = array.as_struct_opt() {
        fields.columns().iter().for_each(|column| add(column, row, cost));
    } else if let Some(list) = array.as_list_opt::<i32>() {
        add_items(&list.value(row), cost);
    } else if matches!(array.data_type(), DataType::Map(_, _)) {
        // Maps cannot be unnested; they are repeated with the rest.
        let mut inner = Cost::default();
        array.as_map().value(row).columns().iter().for_each(|column| add_items(column, &mut inner));
        cost.plain += inner.plain + inner.listed;
    } else {
        cost.plain += FIXED_BYTES;
    }
}

fn add_items(items: &ArrayRef, cost: &mut Cost) {
    let mut inner = Cost::default();
    (0..items.len()).for_each(|item| add(items, item, &mut inner));
    cost.listed += inner.plain + inner.listed;
    cost.items += items.len() as u64 + inner.items;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use weir_crds::columns::Columns;

    use super::*;
    use crate::decode::{JsonDecoder, LineSplitter};

    #[test]
    fn parts_are_small_in_order_and_leave_nothing_out() {
        let max = PART_BYTES_MAX;
        let cut_of = |sizes: &[u64]| {
            let parts = cut(sizes);
            (parts.ranges, parts.too_large.into_iter().map(|(row, _)| row).collect::<Vec<_>>())
        };
        assert_eq!(cut_of(&[1, 2, 3]), (std::iter::once(0..3).collect(), vec![]));
        assert_eq!(cut_of(&[max / 2, max / 2, 1, max]), (vec![0..2, 2..3, 3..4], vec![]));
        assert_eq!(cut_of(&[1, max + 1, 1, max + 1, max + 1]), (vec![0..1, 2..3], vec![1, 3, 4]));
        assert_eq!(cut_of(&[]), (vec![], vec![]));
    }

    #[test]
    fn a_row_costs_what_its_lists_repeat() {
        let columns = Columns::parse("s string, l array<struct<a: string, b: array<int>>>, m map<string, int>").unwrap();
        let text = r#"{"s":"0123456789","l":[{"a":"xy","b":[1,2]},{"a":"z"}],"m":{"k":1}}"#;
        let mut splitter = LineSplitter::new(0);
        let mut blocks = Vec::new();
        splitter.push(text.as_bytes(), &mut blocks);
        blocks.extend(splitter.finish());
        let batch = JsonDecoder::new(&columns).decode(&blocks[0]).unwrap().batch;
        let mut cost = Cost::default();
        batch.columns().iter().for_each(|column| add(column, 0, &mut cost));
        // Text 26, map 17 + 16, provenance 2 x 16; lists: 18 + 17 of text, 2 x 16 of ints; items: 2 + 2.
        assert_eq!((cost.plain, cost.listed, cost.items), (91, 67, 4));
        assert_eq!(cost.expanded(), 91 * 4 + 67);
    }
}
