//! Results of a select as the job's result columns, exactly: what does not fit is a named fault of its row.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray as _, BooleanArray, Int64Array, PrimitiveArray, RecordBatch, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt32Type, UInt64Type};
use datafusion::arrow::error::ArrowError;

use super::result::ResultShape;
use crate::decode::reject::{Fault, Reason};
use crate::decode::types::{OBJECT_COLUMN, ROW_COLUMN, UTC};

/// Ordinal among the rows that one source row became, from 0.
pub const SUB_COLUMN: &str = "__sub";
/// Ordinal of the source in the job.
pub const SOURCE_COLUMN: &str = "__source";

/// Turns results into the job's columns.
#[derive(Clone, Debug)]
pub struct Normalizer {
    shape: ResultShape,
    schema: SchemaRef,
}

/// Rows of a result that are whole, and those that are not.
#[derive(Debug)]
pub struct Normalized {
    /// Result columns, then `__object`, `__row`, `__sub`.
    pub batch: RecordBatch,
    /// Rows left out.
    pub faults: Vec<RowFault>,
    /// Source rows that gave at least one row.
    pub source_rows: u64,
    /// Rows in all, with those left out.
    pub rows: u64,
}

/// A result row that cannot be an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// Line or row in its object.
    pub row: u64,
    /// Ordinal among the rows that it became.
    pub sub: u32,
    /// Why.
    pub fault: Fault,
    /// Where it would have belonged, if that much is known.
    pub event_time_us: Option<i64>,
    /// As above.
    pub event_type: Option<String>,
}

impl Normalizer {
    /// For results that [`ResultShape::merge`] found to fit `shape`.
    pub fn new(shape: ResultShape) -> Self {
        let mut fields: Vec<_> = shape.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(OBJECT_COLUMN, DataType::UInt32, false)));
        fields.push(Arc::new(Field::new(ROW_COLUMN, DataType::UInt64, false)));
        fields.push(Arc::new(Field::new(SUB_COLUMN, DataType::UInt32, false)));
        Self { shape, schema: Arc::new(Schema::new(fields)) }
    }

    /// What [`Normalized::batch`] has.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Normalizes one evaluated batch.
    pub fn run(&self, result: &RecordBatch) -> Result<Normalized, ArrowError> {
        let rows = result.num_rows();
        let mut faults: Vec<Option<Fault>> = vec![None; rows];
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        for field in self.shape.schema.fields() {
            let array = column(result, field.name())?;
            arrays.push(normal_array(array, field, &mut faults)?);
        }
        self.require_identity(&arrays, &mut faults);
        let (object, row) = (column(result, OBJECT_COLUMN)?, column(result, ROW_COLUMN)?);
        let (subs, source_rows) = ordinals(object, row)?;
        let faults = self.row_faults(&arrays, row, &subs, faults);
        arrays.extend([Arc::clone(object), Arc::clone(row), Arc::new(UInt32Array::from(subs)) as ArrayRef]);
        let mut batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays)?;
        if !faults.is_empty() {
            let mut keep = vec![true; rows];
            faults.iter().for_each(|(index, _)| keep[*index] = false);
            batch = filter_record_batch(&batch, &BooleanArray::from(keep))?;
        }
        let faults = faults.into_iter().map(|(_, fault)| fault).collect();
        Ok(Normalized { batch, faults, source_rows, rows: rows as u64 })
    }

    fn require_identity(&self, arrays: &[ArrayRef], faults: &mut [Option<Fault>]) {
        let name = |index: usize| self.shape.schema.field(index).name();
        let required = [
            (self.shape.event_id, Reason::MissingEventId),
            (self.shape.event_time, Reason::MissingEventTime),
            (self.shape.event_type, Reason::MissingEventType),
        ];
        for (index, reason) in required {
            let text = arrays[index].as_string_opt::<i32>();
            for (row, fault) in faults.iter_mut().enumerate() {
                let problem = if arrays[index].is_null(row) {
                    "it is null"
                } else if text.is_some_and(|text| text.value(row).is_empty()) {
                    "it is empty"
                } else {
                    continue;
                };
                fault.get_or_insert_with(|| Fault::new(reason, problem).in_field(name(index)));
            }
        }
    }

    fn row_faults(&self, arrays: &[ArrayRef], row: &ArrayRef, subs: &[u32], faults: Vec<Option<Fault>>) -> Vec<(usize, RowFault)> {
        let numbers = row.as_primitive::<UInt64Type>();
        let times = arrays[self.shape.event_time].as_primitive::<TimestampMicrosecondType>();
        let types = arrays[self.shape.event_type].as_string::<i32>();
        let with_index = faults.into_iter().enumerate();
        with_index
            .filter_map(|(index, fault)| {
                let fault = fault?;
                let row_fault = RowFault {
                    row: numbers.value(index),
                    sub: subs[index],
                    fault,
                    event_time_us: times.is_valid(index).then(|| times.value(index)),
                    event_type: types.is_valid(index).then(|| types.value(index).to_owned()),
                };
                Some((index, row_fault))
            })
            .collect()
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("the result has no column {name}")))
}

/// For each row its ordinal among the rows of the same source row, and how many source rows there are. Rows of one source
/// row follow each other, since a select keeps the order.
fn ordinals(object: &ArrayRef, row: &ArrayRef) -> Result<(Vec<u32>, u64), ArrowError> {
    let (Some(objects), Some(rows)) = (object.as_primitive_opt::<UInt32Type>(), row.as_primitive_opt::<UInt64Type>()) else {
        return Err(ArrowError::SchemaError("provenance has other types".into()));
    };
    let mut subs = Vec::with_capacity(rows.len());
    let mut source_rows = 0;
    let mut sub = 0;
    for index in 0..rows.len() {
        let is_same = index > 0 && rows.value(index) == rows.value(index - 1) && objects.value(index) == objects.value(index - 1);
        sub = if is_same { sub + 1 } else { 0 };
        source_rows += u64::from(!is_same);
        subs.push(sub);
    }
    Ok((subs, source_rows))
}

fn normal_array(array: &ArrayRef, field: &Field, faults: &mut [Option<Fault>]) -> Result<ArrayRef, ArrowError> {
    match (array.data_type(), field.data_type()) {
        (found, wanted) if found == wanted => Ok(Arc::clone(array)),
        (DataType::Null, wanted) => Ok(new_null_array(wanted, array.len())),
        (DataType::Timestamp(unit, _), DataType::Timestamp(TimeUnit::Microsecond, _)) => micros(array, *unit, field.name(), faults),
        // All else was found to be without loss.
        (_, wanted) => cast_with_options(array, wanted, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

/// Instants as microseconds. Whatever their zone, Arrow keeps them as instants; those without a zone are taken as UTC.
fn micros(array: &ArrayRef, unit: TimeUnit, name: &str, faults: &mut [Option<Fault>]) -> Result<ArrayRef, ArrowError> {
    let raw = cast_with_options(array, &DataType::Int64, &CastOptions { safe: false, ..CastOptions::default() })?;
    let raw: &Int64Array = raw.as_primitive();
    let convert = |value: i64| match unit {
        TimeUnit::Second => value.checked_mul(1_000_000).ok_or(Reason::OutOfRange),
        TimeUnit::Millisecond => value.checked_mul(1000).ok_or(Reason::OutOfRange),
        TimeUnit::Microsecond => Ok(value),
        TimeUnit::Nanosecond if value % 1000 == 0 => Ok(value / 1000),
        TimeUnit::Nanosecond => Err(Reason::NotExact),
    };
    let mut micros = Vec::with_capacity(raw.len());
    for (index, value) in raw.iter().enumerate() {
        micros.push(match value.map(convert).transpose() {
            Ok(value) => value,
            Err(reason) => {
                let problem = if reason == Reason::NotExact { "is finer than a microsecond" } else { "does not fit microseconds" };
                faults[index].get_or_insert_with(|| Fault::new(reason, format!("the timestamp {problem}")).in_field(name));
                None
            }
        });
    }
    Ok(Arc::new(PrimitiveArray::<TimestampMicrosecondType>::from(micros).with_timezone(UTC)))
}
