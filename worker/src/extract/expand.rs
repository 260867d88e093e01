//! How far unnest may expand rows: batches are evaluated in parts that stay small once expanded, and a row that would grow
//! beyond any bound is set aside. Without unnest nothing expands.

use std::ops::Range;

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::DataType;

use crate::decode::reject::{Fault, Reason};
use crate::select::Unnests;

/// Bytes that a part has once it is expanded, about. A thread holds a few copies of it at a time.
const PART_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Rows that are evaluated together where their lists are computed, and might be of any length.
const COMPUTED_ROWS_MAX: usize = 64;
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

/// What a value is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    bytes: u64,
    /// Items of its lists, those of inner lists included.
    items: u64,
}

/// Cuts the rows of a batch.
pub fn parts(batch: &RecordBatch, unnests: &Unnests) -> Parts {
    // Numbers of object and row go with each.
    let mut repeated = vec![2 * FIXED_BYTES; batch.num_rows()];
    let mut lists = vec![Cost::default(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if unnests.repeated.contains(field.name()) {
            repeated.iter_mut().enumerate().for_each(|(row, bytes)| *bytes += cost(column, row).bytes);
        }
        if unnests.lists.contains(field.name()) {
            lists.iter_mut().enumerate().for_each(|(row, list)| list.add(cost(column, row)));
        }
    }
    let expanded = repeated.into_iter().zip(lists).map(|(bytes, list)| bytes.saturating_mul(list.items.max(1)).saturating_add(list.bytes));
    cut(&expanded.collect::<Vec<_>>(), if unnests.computes { COMPUTED_ROWS_MAX } else { usize::MAX })
}

fn cut(expanded: &[u64], rows_max: usize) -> Parts {
    let mut parts = Parts::default();
    let (mut start, mut sum) = (0, 0u64);
    for (row, bytes) in expanded.iter().copied().enumerate() {
        let is_too_large = bytes > PART_BYTES_MAX;
        if is_too_large || sum + bytes > PART_BYTES_MAX || row - start >= rows_max {
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

impl Cost {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.items += other.items;
    }
}

fn cost(array: &ArrayRef, row: usize) -> Cost {
    let of_length = |length: i32| Cost { bytes: FIXED_BYTES + u64::from(length.unsigned_abs()), items: 0 };
    if array.is_null(row) {
        return Cost { bytes: FIXED_BYTES, items: 0 };
    }
    if let Some(text) = array.as_string_opt::<i32>() {
        of_length(text.value_length(row))
    } else if let Some(bytes) = array.as_binary_opt::<i32>() {
        of_length(bytes.value_length(row))
    } else if let Some(fields) = array.as_struct_opt() {
        sum(fields.columns().iter().map(|column| cost(column, row)))
    } else if let Some(list) = array.as_list_opt::<i32>() {
        let mut all = cost_of_items(&list.value(row));
        all.items += u64::from(list.value_length(row).unsigned_abs());
        all
    } else if matches!(array.data_type(), DataType::Map(_, _)) {
        // They are repeated with the rest; lists of their keys or values are computed ones.
        Cost { items: 0, ..sum(array.as_map().value(row).columns().iter().map(cost_of_items)) }
    } else {
        of_length(0)
    }
}

fn cost_of_items(items: &ArrayRef) -> Cost {
    sum((0..items.len()).map(|item| cost(items, item)))
}

fn sum(costs: impl Iterator<Item = Cost>) -> Cost {
    costs.fold(Cost::default(), |mut all, one| {
        all.add(one);
        all
    })
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
            let parts = cut(sizes, 3);
            (parts.ranges, parts.too_large.into_iter().map(|(row, _)| row).collect::<Vec<_>>())
        };
        assert_eq!(cut_of(&[1, 2, 3]), (std::iter::once(0..3).collect(), vec![]));
        assert_eq!(cut_of(&[max / 2, max / 2, 1, max]), (vec![0..2, 2..3, 3..4], vec![]));
        assert_eq!(cut_of(&[1, max + 1, 1, max + 1, max + 1]), (vec![0..1, 2..3], vec![1, 3, 4]));
        assert_eq!(cut_of(&[]), (vec![], vec![]));
        assert_eq!(cut_of(&[1; 7]), (vec![0..3, 3..6, 6..7], vec![]));
    }

    fn row(columns: &str, text: &str) -> RecordBatch {
        let mut splitter = LineSplitter::new(0);
        let mut blocks = Vec::new();
        splitter.push(text.as_bytes(), &mut blocks);
        blocks.extend(splitter.finish());
        JsonDecoder::new(&Columns::parse(columns).unwrap()).decode(&blocks[0]).unwrap().batch
    }

    #[test]
    fn a_value_costs_its_bytes_and_its_items() {
        let columns = "s string, l array<struct<a: string, b: array<int>>>, m map<string, int>";
        let batch = row(columns, r#"{"s":"0123456789","l":[{"a":"xy","b":[1,2]},{"a":"z"}],"m":{"k":1}}"#);
        let of = |name: &str| cost(&batch[name], 0);
        assert_eq!(of("s"), Cost { bytes: 26, items: 0 });
        // Text 18 + 17, two ints and a list that is null; items: 2 + 2.
        assert_eq!(of("l"), Cost { bytes: 35 + 3 * 16, items: 4 });
        assert_eq!(of("m"), Cost { bytes: 17 + 16, items: 0 });
    }

    #[test]
    fn only_what_is_unnested_multiplies_and_only_what_is_repeated_is_multiplied() {
        let columns = "body string, other array<int>, items array<int>";
        let third = "x".repeat(usize::try_from(PART_BYTES_MAX).unwrap() / 3);
        let others = format!("[{}1]", "1,".repeat(999));
        let batch = row(columns, &format!(r#"{{"body":"{third}","other":{others},"items":[1,2,3,4]}}"#));
        let is_too_large = |lists: &[&str], repeated: &[&str]| {
            let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
            let unnests = Unnests { lists: names(lists), repeated: names(repeated), computes: false };
            !parts(&batch, &unnests).too_large.is_empty()
        };
        assert!(is_too_large(&["items"], &["body"]), "four thirds");
        assert!(!is_too_large(&["items"], &["other"]), "a body that nobody asked for costs nothing");
        assert!(is_too_large(&["other"], &["body"]), "a thousand thirds");
        assert!(!is_too_large(&["other"], &["items"]));
    }
}
