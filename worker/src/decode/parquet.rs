//! Rows of Parquet to declared columns, by name and without loss. A file whose types could lose something is refused as a
//! whole; a value that does (finer than a microsecond, not finite) rejects its row.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray as _, BooleanArray, FixedSizeBinaryArray, ListArray, MapArray, PrimitiveArray, RecordBatch, StructArray,
    UInt32Array, UInt64Array, new_null_array,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::{CastOptions, cast_with_options, filter_record_batch, kernels::nullif::nullif};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::LineDelimitedWriter;
use weir_crds::columns::{Column, ColumnType, Columns};

use super::reject::{Fault, RAW_BYTES_MAX, Reason, Rejected};
use super::types::{UTC, arrow_fields, arrow_type, batch_schema, entries_field, item_field};
use super::{Decoded, UnknownFields};

/// The Julian day of 1970-01-01, which INT96 counts from.
const JULIAN_DAY_OF_EPOCH: i64 = 2_440_588;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Faults by index of the value, ascending.
type Faults = Vec<(usize, Fault)>;

/// Says which column of a file cannot be read as declared, and why.
pub fn mismatch(file: &Schema, columns: &Columns) -> Option<String> {
    fields_mismatch(file.fields(), columns.as_slice(), "")
}

fn fields_mismatch(fields: &Fields, columns: &[Column], path: &str) -> Option<String> {
    columns.iter().find_map(|column| {
        let (_, field) = fields.find(&column.name)?;
        type_mismatch(field.data_type(), &column.kind, &format!("{path}{}", column.name))
    })
}

fn type_mismatch(found: &DataType, declared: &ColumnType, path: &str) -> Option<String> {
    use DataType as T;
    let fits = match declared {
        ColumnType::String => matches!(found, T::Utf8 | T::LargeUtf8 | T::Utf8View),
        ColumnType::Boolean => matches!(found, T::Boolean),
        ColumnType::Int => matches!(found, T::Int8 | T::Int16 | T::Int32 | T::UInt8 | T::UInt16),
        ColumnType::Bigint => matches!(found, T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32),
        ColumnType::Double => matches!(found, T::Float16 | T::Float32 | T::Float64),
        ColumnType::Decimal { precision, scale } => {
            let (T::Decimal32(p, s) | T::Decimal64(p, s) | T::Decimal128(p, s)) = found else { return wrong(found, declared, path) };
            let (precision, scale) = (i16::from(*precision), i16::from(*scale));
            (0..=scale).contains(&i16::from(*s)) && i16::from(*p) - i16::from(*s) <= precision - scale
        }
        ColumnType::Timestamp(_) => matches!(found, T::Timestamp(_, _)),
        ColumnType::Date => matches!(found, T::Date32),
        ColumnType::Binary => matches!(found, T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_)),
        ColumnType::Struct(columns) => {
            let T::Struct(fields) = found else { return wrong(found, declared, path) };
            return fields_mismatch(fields, columns, &format!("{path}."));
        }
        ColumnType::Array(item) => {
            let (T::List(field) | T::LargeList(field)) = found else { return wrong(found, declared, path) };
            return type_mismatch(field.data_type(), item, &format!("{path}[]"));
        }
        ColumnType::Map(value) => {
            let T::Map(entries, _) = found else { return wrong(found, declared, path) };
            let T::Struct(pair) = entries.data_type() else { return wrong(found, declared, path) };
            let [key, field] = pair.as_ref() else { return wrong(found, declared, path) };
            let keys = type_mismatch(key.data_type(), &ColumnType::String, &format!("{path} (keys)"));
            return keys.or_else(|| type_mismatch(field.data_type(), value, &format!("{path}[]")));
        }
    };
    if fits { None } else { wrong(found, declared, path) }
}

fn wrong(found: &DataType, declared: &ColumnType, path: &str) -> Option<String> {
    Some(format!("column {path} is {found}, which cannot become {declared} without loss"))
}

/// Converts rows of a file that [`mismatch`] has nothing against. `first_row` is the number of the first, from 1. A timestamp
/// that comes as bytes is an INT96.
pub fn decode(batch: &RecordBatch, columns: &Columns, file: &Schema, object: u32, first_row: u64) -> Result<Decoded, ArrowError> {
    let rows = batch.num_rows();
    let source = StructArray::from(batch.clone());
    let (mut arrays, faults) = convert_fields(&source, columns.as_slice())?;
    let numbers: Vec<u64> = (first_row..first_row + rows as u64).collect();
    arrays.push(Arc::new(UInt32Array::from(vec![object; rows])));
    arrays.push(Arc::new(UInt64Array::from(numbers)));
    let mut good = RecordBatch::try_new(batch_schema(columns), arrays)?;
    let mut rejected = Vec::new();
    if !faults.is_empty() {
        let mut keep = vec![true; rows];
        for (index, fault) in faults {
            // The first fault of a row names it.
            if std::mem::replace(&mut keep[index], false) {
                let raw = row_as_json(batch, index, file);
                rejected.push(Rejected::from_line(object, first_row + index as u64, fault, &raw));
            }
        }
        good = filter_record_batch(&good, &BooleanArray::from(keep))?;
    }
    Ok(Decoded { batch: good, rejected, rows: rows as u64, blank_lines: 0 })
}

/// What a file has beyond the declaration, once for each row.
pub fn unknown(file: &Schema, columns: &Columns, rows: u64) -> UnknownFields {
    let mut by_path = BTreeMap::new();
    for field in file.fields().iter().take(super::column::UNKNOWN_NAMES_MAX) {
        if rows > 0 && !columns.iter().any(|column| column.name == *field.name()) {
            by_path.insert(field.name().clone(), rows);
        }
    }
    UnknownFields { by_path, others: 0 }
}

/// A row for quarantine, as JSON, since Parquet has no bytes of a row.
pub fn row_as_json(batch: &RecordBatch, index: usize, file: &Schema) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut out);
    let written = writer.write(&legible(batch.slice(index, 1), file)).and_then(|()| writer.finish());
    if let Err(error) = written {
        // Better a row without its values than none: object and row number still find it.
        out = format!("this row cannot be printed: {error}").into_bytes();
    }
    while out.last() == Some(&b'\n') {
        out.pop();
    }
    out.truncate(RAW_BYTES_MAX);
    out
}

/// INT96 columns as the times that they are, where they are one. Inside of others they stay bytes.
fn legible(row: RecordBatch, file: &Schema) -> RecordBatch {
    let schema = row.schema();
    let columns = schema.fields().iter().zip(row.columns()).map(|(field, array)| {
        let is_time = file.field_with_name(field.name()).is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(_, _)));
        let time = array.as_fixed_size_binary_opt().filter(|_| is_time).map(int96_micros);
        (field.name(), time.filter(|(_, faults)| faults.is_empty()).map_or_else(|| Arc::clone(array), |(time, _)| time), true)
    });
    RecordBatch::try_from_iter_with_nullable(columns).unwrap_or(row)
}

fn convert_fields(source: &StructArray, columns: &[Column]) -> Result<(Vec<ArrayRef>, Faults), ArrowError> {
    let mut arrays = Vec::with_capacity(columns.len());
    let mut faults = Faults::new();
    for column in columns {
        let Some(array) = source.column_by_name(&column.name) else {
            arrays.push(new_null_array(&arrow_type(&column.kind), source.len()));
            continue;
        };
        let (array, found) = convert(array, &column.kind)?;
        arrays.push(array);
        faults.extend(found.into_iter().map(|(index, fault)| (index, fault.in_field(&column.name))));
    }
    // Stable, so that of one row the first column's fault stays first.
    faults.sort_by_key(|(index, _)| *index);
    Ok((arrays, faults))
}

fn convert(array: &ArrayRef, kind: &ColumnType) -> Result<(ArrayRef, Faults), ArrowError> {
    let exact = |wanted: &DataType| cast_with_options(array, wanted, &CastOptions { safe: false, ..CastOptions::default() });
    match kind {
        ColumnType::Struct(columns) => {
            let source = nulls_pushed_down(array.as_struct())?;
            let (children, faults) = convert_fields(&source, columns)?;
            let nulls = source.nulls().cloned();
            Ok((Arc::new(StructArray::try_new(arrow_fields(columns), children, nulls)?), faults))
        }
        ColumnType::Array(item) => {
            let field = Field::new_list_field(lists_of(array).unwrap_or(DataType::Null), true);
            let lists = exact(&DataType::List(Arc::new(field)))?;
            let lists: &ListArray = lists.as_list();
            let (items, faults) = convert(lists.values(), item)?;
            let faults = by_row(faults, lists.offsets(), lists.nulls());
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Ok((Arc::new(ListArray::try_new(item_field(item), offsets, items, nulls)?), faults))
        }
        ColumnType::Map(value) => {
            let maps = array.as_map();
            let keys = cast_with_options(maps.keys(), &DataType::Utf8, &CastOptions { safe: false, ..CastOptions::default() })?;
            let (values, faults) = convert(maps.values(), value)?;
            let field = entries_field(value);
            let DataType::Struct(pair) = field.data_type().clone() else {
                return Err(ArrowError::SchemaError("entries of a map are no struct".into()));
            };
            let entries = StructArray::try_new(pair, vec![keys, values], None)?;
            let faults = by_row(faults, maps.offsets(), maps.nulls());
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            Ok((Arc::new(MapArray::try_new(field, offsets, entries, nulls, false)?), faults))
        }
        ColumnType::Timestamp(_) => micros(array),
        ColumnType::Double => {
            let doubles = exact(&DataType::Float64)?;
            let values: &PrimitiveArray<Float64Type> = doubles.as_primitive();
            let faults = values.iter().enumerate().filter(|(_, value)| value.is_some_and(|value| !value.is_finite()));
            let faults = faults.map(|(index, _)| (index, Fault::new(Reason::OutOfRange, "is not a finite number"))).collect();
            Ok((doubles, faults))
        }
        ColumnType::String
        | ColumnType::Boolean
        | ColumnType::Int
        | ColumnType::Bigint
        | ColumnType::Decimal { .. }
        | ColumnType::Date
        | ColumnType::Binary => Ok((exact(&arrow_type(kind))?, Faults::new())),
    }
}

/// Where a struct is null, so are its fields. The library leaves the values of other rows there if they are required, and the engine
/// takes a field out of its struct without asking.
fn nulls_pushed_down(source: &StructArray) -> Result<StructArray, ArrowError> {
    let Some(nulls) = source.nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(source.clone()) };
    let is_null = BooleanArray::new(!nulls.inner(), None);
    let children = source.columns().iter().map(|child| nullif(child, &is_null)).collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new(source.fields().clone(), children, Some(nulls.clone()))
}

fn lists_of(array: &ArrayRef) -> Option<DataType> {
    let (DataType::List(field) | DataType::LargeList(field)) = array.data_type() else { return None };
    Some(field.data_type().clone())
}

/// Instants in microseconds. Those without a zone are taken as UTC.
fn micros(array: &ArrayRef) -> Result<(ArrayRef, Faults), ArrowError> {
    if let Some(int96) = array.as_fixed_size_binary_opt() {
        return Ok(int96_micros(int96));
    }
    let DataType::Timestamp(unit, _) = array.data_type() else {
        return Err(ArrowError::SchemaError("a timestamp column has another type".into()));
    };
    let raw = cast_with_options(array, &DataType::Int64, &CastOptions { safe: false, ..CastOptions::default() })?;
    let raw: &PrimitiveArray<Int64Type> = raw.as_primitive();
    let mut faults = Faults::new();
    let values: Vec<i64> = raw
        .values()
        .iter()
        .enumerate()
        .map(|(index, value)| {
            let micros = match unit {
                TimeUnit::Second => value.checked_mul(1_000_000),
                TimeUnit::Millisecond => value.checked_mul(1000),
                TimeUnit::Microsecond => Some(*value),
                TimeUnit::Nanosecond => (value % 1000 == 0).then_some(value / 1000),
            };
            if micros.is_none() && raw.is_valid(index) {
                let fault = if *unit == TimeUnit::Nanosecond {
                    Fault::new(Reason::NotExact, "is finer than a microsecond")
                } else {
                    Fault::new(Reason::OutOfRange, "does not fit microseconds")
                };
                faults.push((index, fault));
            }
            micros.unwrap_or(0)
        })
        .collect();
    let array = PrimitiveArray::<TimestampMicrosecondType>::try_new(ScalarBuffer::from(values), raw.nulls().cloned())?;
    Ok((Arc::new(array.with_timezone(UTC)), faults))
}

/// INT96: nanoseconds of a day, and its Julian number.
fn int96_micros(array: &FixedSizeBinaryArray) -> (ArrayRef, Faults) {
    let mut faults = Faults::new();
    let values = array.iter().enumerate().map(|(index, value)| {
        let micros = int96(value?);
        micros.map_err(|fault| faults.push((index, fault))).ok()
    });
    let array: PrimitiveArray<TimestampMicrosecondType> = values.collect();
    (Arc::new(array.with_timezone(UTC)), faults)
}

fn int96(value: &[u8]) -> Result<i64, Fault> {
    let out_of_range = || Fault::new(Reason::OutOfRange, "does not fit microseconds");
    let (Some(nanos), Some(day)) = (value.first_chunk(), value.last_chunk()) else { return Err(out_of_range()) };
    let (nanos, day) = (i64::from_le_bytes(*nanos), i32::from_le_bytes(*day));
    if nanos % 1000 != 0 {
        return Err(Fault::new(Reason::NotExact, "is finer than a microsecond"));
    }
    let days = (i64::from(day) - JULIAN_DAY_OF_EPOCH).checked_mul(MICROS_PER_DAY);
    days.and_then(|days| days.checked_add(nanos / 1000)).ok_or_else(out_of_range)
}

/// Faults of items as faults of the lists that hold them.
fn by_row(faults: Faults, offsets: &OffsetBuffer<i32>, nulls: Option<&NullBuffer>) -> Faults {
    let rows = faults.into_iter().filter_map(|(item, fault)| {
        let behind = offsets.partition_point(|offset| usize::try_from(*offset).unwrap_or(0) <= item);
        // An item before the first list or behind the last belongs to none.
        let row = behind.checked_sub(1).filter(|row| *row + 1 < offsets.len())?;
        let first = usize::try_from(offsets[row]).unwrap_or(0);
        nulls.is_none_or(|nulls| nulls.is_valid(row)).then(|| (row, fault.at_index(item - first)))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use datafusion::arrow::array::{
        Decimal128Array, Float64Array, Int32Array, Int64Array, LargeStringArray, StringArray, TimestampNanosecondArray,
    };
    use datafusion::arrow::datatypes::Decimal128Type;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    #[test]
    fn columns_are_matched_by_name_and_widened() {
        let file = batch(vec![
            ("extra", Arc::new(Int32Array::from(vec![1, 2]))),
            ("n", Arc::new(Int32Array::from(vec![Some(5), None]))),
            ("s", Arc::new(LargeStringArray::from(vec!["x", "y"]))),
            ("m", Arc::new(Decimal128Array::from(vec![150, 25]).with_precision_and_scale(5, 1).unwrap())),
        ]);
        let columns = Columns::parse("s string, n bigint, m decimal(10,2), gone date").unwrap();
        assert_eq!(mismatch(&file.schema(), &columns), None);
        let decoded = decode(&file, &columns, &file.schema(), 3, 11).unwrap();
        assert_eq!((decoded.rows, decoded.rejected.len()), (2, 0));
        assert_eq!(decoded.batch["n"].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(5), None]);
        assert_eq!(decoded.batch["m"].as_primitive::<Decimal128Type>().values().to_vec(), [1500, 250]);
        assert_eq!(decoded.batch["gone"].null_count(), 2);
        assert_eq!(decoded.batch["__row"].as_primitive::<datafusion::arrow::datatypes::UInt64Type>().values().to_vec(), [11, 12]);
        assert_eq!(unknown(&file.schema(), &columns, 2).by_path.into_iter().collect::<Vec<_>>(), [("extra".to_owned(), 2)]);
    }

    #[test]
    fn types_that_could_lose_something_are_refused() {
        let file = |data_type: DataType| Schema::new(vec![Field::new("a", data_type, true)]);
        let cases = [
            (DataType::Int64, "a int"),
            (DataType::Float64, "a bigint"),
            (DataType::Int64, "a double"),
            (DataType::UInt64, "a bigint"),
            (DataType::Utf8, "a timestamp"),
            (DataType::Int64, "a timestamp(ms)"),
            (DataType::Decimal128(10, 4), "a decimal(10,2)"),
            (DataType::Decimal128(10, 2), "a decimal(9,2)"),
            (DataType::Binary, "a string"),
            (DataType::Utf8, "a struct<x: int>"),
            (DataType::new_list(DataType::Int64, true), "a array<int>"),
        ];
        for (data_type, declared) in cases {
            let message = mismatch(&file(data_type.clone()), &Columns::parse(declared).unwrap()).unwrap();
            assert!(message.starts_with("column a") && message.contains("without loss"), "{data_type} as {declared}: {message}");
        }
    }

    #[test]
    fn values_that_lose_something_reject_their_row() {
        let inner: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0, 3.0]));
        let field = Arc::new(Field::new_list_field(DataType::Float64, true));
        let lists = ListArray::try_new(field, OffsetBuffer::new(vec![0, 0, 2, 2, 4].into()), inner, None).unwrap();
        let file = batch(vec![
            ("t", Arc::new(TimestampNanosecondArray::from(vec![Some(1000), Some(2000), Some(2001), None]))),
            ("d", Arc::new(Float64Array::from(vec![f64::INFINITY, 1.0, 2.0, 3.0]))),
            ("l", Arc::new(lists)),
            ("s", Arc::new(StringArray::from(vec!["a", "b", "c", "d"]))),
        ]);
        let columns = Columns::parse("s string, t timestamp, d double, l array<double>").unwrap();
        assert_eq!(mismatch(&file.schema(), &columns), None);
        let decoded = decode(&file, &columns, &file.schema(), 0, 1).unwrap();
        assert_eq!(decoded.batch["s"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["d"]);
        let found: Vec<_> = decoded.rejected.iter().map(|r| (r.row, r.fault.describe())).collect();
        let expected = [(1, "d: is not a finite number"), (2, "l[1]: is not a finite number"), (3, "t: is finer than a microsecond")];
        assert_eq!(found, expected.map(|(row, text)| (row, text.to_owned())));
        assert!(String::from_utf8_lossy(&decoded.rejected[1].raw).contains("\"s\":\"b\""));
    }

    #[test]
    fn nested_columns_are_matched_by_name_too() {
        let fields = Fields::from(vec![Field::new("y", DataType::Int32, true), Field::new("x", DataType::Utf8, true)]);
        let children: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![1, 2])), Arc::new(StringArray::from(vec!["p", "q"]))];
        let nulls = Some(NullBuffer::from(vec![true, false]));
        let file = batch(vec![("st", Arc::new(StructArray::try_new(fields, children, nulls).unwrap()))]);
        let columns = Columns::parse("st struct<x: string, y: bigint, z: date>").unwrap();
        assert_eq!(mismatch(&file.schema(), &columns), None);
        let decoded = decode(&file, &columns, &file.schema(), 0, 1).unwrap();
        let st = decoded.batch["st"].as_struct();
        assert_eq!((st.null_count(), st.column_by_name("x").unwrap().as_string::<i32>().value(0)), (1, "p"));
        assert_eq!(st.column_by_name("y").unwrap().as_any().downcast_ref::<Int64Array>().unwrap().value(0), 1);
    }
}
