//! Column buffers that rows are decoded into. A row that turns out bad is taken back by truncating, which Arrow's own
//! nested builders cannot do; that is why these exist.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, MapArray, NullBufferBuilder,
    PrimitiveArray, StringArray, StructArray, new_null_array,
};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{DataType, Date32Type, TimestampMicrosecondType};
use datafusion::arrow::error::ArrowError;
use weir_crds::columns::{Column, ColumnType};

use super::types::{UTC, arrow_fields, arrow_type, entries_field, item_field};

/// Distinct undeclared names that one source keeps counts of; the rest are counted together. Names come from data, so
/// without a bound a source with generated keys would fill the memory.
pub const UNKNOWN_NAMES_MAX: usize = 1000;

/// The values of one declared column or field.
#[derive(Debug)]
pub struct ColumnBuffer {
    /// Declared type.
    pub kind: ColumnType,
    validity: NullBufferBuilder,
    /// The values, one for each row, null or not.
    pub values: Values,
}

/// The values behind a [`ColumnBuffer`].
#[derive(Debug)]
pub enum Values {
    /// `string` and `binary`: end offsets and bytes.
    Bytes {
        /// Where each value ends; the first entry is 0.
        offsets: Vec<i32>,
        /// All values, one behind the other.
        bytes: Vec<u8>,
    },
    /// `boolean`.
    Boolean(Vec<bool>),
    /// `int` and `date`.
    Int(Vec<i32>),
    /// `bigint` and `timestamp`.
    Bigint(Vec<i64>),
    /// `double`.
    Double(Vec<f64>),
    /// `decimal`.
    Decimal(Vec<i128>),
    /// `struct`.
    Struct(FieldSet),
    /// `array`.
    Array {
        /// Where each list ends; the first entry is 0.
        offsets: Vec<i32>,
        /// All items.
        items: Box<ColumnBuffer>,
    },
    /// `map`.
    Map {
        /// Where each map ends; the first entry is 0.
        offsets: Vec<i32>,
        /// All keys.
        keys: Box<ColumnBuffer>,
        /// All values.
        values: Box<ColumnBuffer>,
    },
}

/// The fields of a struct, or the columns of a row.
#[derive(Debug)]
pub struct FieldSet {
    /// Name and values of each.
    pub fields: Vec<(Box<str>, ColumnBuffer)>,
    /// For each field, the number of the object in which it was last seen: a repeated key shows without a set per object.
    pub seen_in: Vec<u64>,
    /// Index by name, for wide structs.
    by_name: HashMap<Box<[u8]>, usize>,
    /// Undeclared names: how often seen, and in which object last.
    pub unknown: HashMap<Box<[u8]>, (u64, u64)>,
    /// Occurrences of undeclared names that found no room in `unknown`.
    pub unknown_others: u64,
}

impl FieldSet {
    /// Empty buffers for `columns`.
    pub fn new(columns: &[Column]) -> Self {
        Self {
            fields: columns.iter().map(|c| (c.name.as_str().into(), ColumnBuffer::new(&c.kind))).collect(),
            seen_in: vec![0; columns.len()],
            by_name: columns.iter().enumerate().map(|(i, c)| (c.name.as_bytes().into(), i)).collect(),
            unknown: HashMap::new(),
            unknown_others: 0,
        }
    }

    /// The field of that name. Objects of one source mostly have their keys in one order, so the field `expected` is tried
    /// first.
    #[inline]
    pub fn index_of(&self, name: &[u8], expected: usize) -> Option<usize> {
        match self.fields.get(expected) {
            Some((field, _)) if field.as_bytes() == name => Some(expected),
            _ => self.by_name.get(name).copied(),
        }
    }

    /// Takes the counts of undeclared names, with their paths, out of this set and those below.
    pub fn take_unknown(&mut self, path: &str, into: &mut super::UnknownFields) {
        into.others += std::mem::take(&mut self.unknown_others);
        for (name, (count, _)) in self.unknown.drain() {
            let path = format!("{path}{}", String::from_utf8_lossy(&name));
            if into.by_path.len() < UNKNOWN_NAMES_MAX || into.by_path.contains_key(&path) {
                *into.by_path.entry(path).or_default() += count;
            } else {
                into.others += count;
            }
        }
        for (name, column) in &mut self.fields {
            column.take_unknown(&format!("{path}{name}"), into);
        }
    }
}

impl ColumnBuffer {
    /// An empty buffer.
    pub fn new(kind: &ColumnType) -> Self {
        let values = match kind {
            ColumnType::String | ColumnType::Binary => Values::Bytes { offsets: vec![0], bytes: Vec::new() },
            ColumnType::Boolean => Values::Boolean(Vec::new()),
            ColumnType::Int | ColumnType::Date => Values::Int(Vec::new()),
            ColumnType::Bigint | ColumnType::Timestamp(_) => Values::Bigint(Vec::new()),
            ColumnType::Double => Values::Double(Vec::new()),
            ColumnType::Decimal { .. } => Values::Decimal(Vec::new()),
            ColumnType::Struct(fields) => Values::Struct(FieldSet::new(fields)),
            ColumnType::Array(item) => Values::Array { offsets: vec![0], items: Box::new(Self::new(item)) },
            ColumnType::Map(value) => {
                Values::Map { offsets: vec![0], keys: Box::new(Self::new(&ColumnType::String)), values: Box::new(Self::new(value)) }
            }
        };
        Self { kind: kind.clone(), validity: NullBufferBuilder::new(0), values }
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.validity.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that the value just written to `values` is one row.
    #[inline]
    pub fn mark_valid(&mut self) {
        self.validity.append_non_null();
    }

    /// Appends a null.
    pub fn push_null(&mut self) {
        self.validity.append_null();
        match &mut self.values {
            Values::Bytes { offsets, .. } | Values::Array { offsets, .. } | Values::Map { offsets, .. } => {
                offsets.push(offsets[offsets.len() - 1]);
            }
            Values::Boolean(values) => values.push(false),
            Values::Int(values) => values.push(0),
            Values::Bigint(values) => values.push(0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Struct(set) => set.fields.iter_mut().for_each(|(_, column)| column.push_null()),
        }
    }

    /// Takes back every row from `len` on, also one that was written in part.
    pub fn truncate(&mut self, len: usize) {
        self.validity.truncate(len);
        match &mut self.values {
            Values::Bytes { offsets, bytes } => {
                offsets.truncate(len + 1);
                bytes.truncate(end_of(offsets));
            }
            Values::Boolean(values) => values.truncate(len),
            Values::Int(values) => values.truncate(len),
            Values::Bigint(values) => values.truncate(len),
            Values::Double(values) => values.truncate(len),
            Values::Decimal(values) => values.truncate(len),
            Values::Struct(set) => set.fields.iter_mut().for_each(|(_, column)| column.truncate(len)),
            Values::Array { offsets, items } => {
                offsets.truncate(len + 1);
                items.truncate(end_of(offsets));
            }
            Values::Map { offsets, keys, values } => {
                offsets.truncate(len + 1);
                keys.truncate(end_of(offsets));
                values.truncate(end_of(offsets));
            }
        }
    }

    /// The rows as an Arrow array; the buffer is empty afterwards.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let len = self.len();
        let nulls = std::mem::replace(&mut self.validity, NullBufferBuilder::new(0)).build();
        // Building an array of no rows from no buffers is a special case for several types.
        if len == 0 {
            self.truncate(0);
            return Ok(new_null_array(&arrow_type(&self.kind), 0));
        }
        let array: ArrayRef = match (&mut self.values, &self.kind) {
            (Values::Bytes { offsets, bytes }, kind) => {
                let offsets = take_offsets(offsets);
                let bytes = Buffer::from_vec(take_all(bytes));
                if matches!(kind, ColumnType::Binary) {
                    Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?)
                } else {
                    Arc::new(StringArray::try_new(offsets, bytes, nulls)?)
                }
            }
            (Values::Boolean(values), _) => Arc::new(BooleanArray::new(take_all(values).into(), nulls)),
            (Values::Int(values), ColumnType::Date) => Arc::new(PrimitiveArray::<Date32Type>::try_new(take_values(values), nulls)?),
            (Values::Int(values), _) => Arc::new(Int32Array::try_new(take_values(values), nulls)?),
            (Values::Bigint(values), ColumnType::Timestamp(_)) => {
                let values = take_values(values);
                Arc::new(PrimitiveArray::<TimestampMicrosecondType>::try_new(values, nulls)?.with_timezone(UTC))
            }
            (Values::Bigint(values), _) => Arc::new(Int64Array::try_new(take_values(values), nulls)?),
            (Values::Double(values), _) => Arc::new(Float64Array::try_new(take_values(values), nulls)?),
            (Values::Decimal(values), kind) => {
                let array = Decimal128Array::try_new(take_values(values), nulls)?;
                Arc::new(array.with_data_type(arrow_type(kind)))
            }
            (Values::Struct(set), kind) => {
                let arrays: Result<Vec<_>, _> = set.fields.iter_mut().map(|(_, column)| column.finish()).collect();
                let ColumnType::Struct(columns) = kind else {
                    return Err(ArrowError::SchemaError("a struct buffer has another type".into()));
                };
                let fields = arrow_fields(columns);
                Arc::new(StructArray::try_new(fields, arrays?, nulls)?)
            }
            (Values::Array { offsets, items }, _) => {
                let field = item_field(&items.kind);
                Arc::new(ListArray::try_new(field, take_offsets(offsets), items.finish()?, nulls)?)
            }
            (Values::Map { offsets, keys, values }, _) => {
                let field = entries_field(&values.kind);
                let DataType::Struct(entry_fields) = field.data_type().clone() else {
                    return Err(ArrowError::SchemaError("entries of a map are no struct".into()));
                };
                let entries = StructArray::try_new(entry_fields, vec![keys.finish()?, values.finish()?], None)?;
                Arc::new(MapArray::try_new(field, take_offsets(offsets), entries, nulls, false)?)
            }
        };
        Ok(array)
    }

    fn take_unknown(&mut self, path: &str, into: &mut super::UnknownFields) {
        match &mut self.values {
            Values::Struct(set) => set.take_unknown(&format!("{path}."), into),
            Values::Array { items, .. } => items.take_unknown(&format!("{path}[]"), into),
            Values::Map { values, .. } => values.take_unknown(&format!("{path}[]"), into),
            Values::Bytes { .. } | Values::Boolean(_) | Values::Int(_) | Values::Bigint(_) | Values::Double(_) | Values::Decimal(_) => {}
        }
    }
}

fn end_of(offsets: &[i32]) -> usize {
    // Offsets begin with 0 and never fall, so the last one is a length.
    offsets.last().map_or(0, |end| usize::try_from(*end).unwrap_or(0))
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let taken = take_all(offsets);
    offsets.push(0);
    OffsetBuffer::new(ScalarBuffer::from(taken))
}

fn take_values<T: datafusion::arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    ScalarBuffer::from(take_all(values))
}

/// Takes the values, and leaves room for as many: the next block is much like this one, and growing towards it step by step
/// would copy all of it once more.
fn take_all<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len());
    std::mem::replace(values, room)
}
