//! Declared types as Arrow types. The one place that says which Arrow type stands for which declared type.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit, UInt64Type};
use weir_crds::columns::{Column, ColumnType, Columns, TimestampFormat};

/// Ordinal of the object in its chunk.
pub const OBJECT_COLUMN: &str = "__object";
/// Line or row in the object, from 1.
pub const ROW_COLUMN: &str = "__row";
/// Instants are in UTC. As an offset, which Arrow parses without a time zone database.
pub const UTC: &str = "+00:00";

/// The type of every instant.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

/// The Arrow type of a declared type.
pub fn arrow_type(kind: &ColumnType) -> DataType {
    match kind {
        ColumnType::String => DataType::Utf8,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int => DataType::Int32,
        ColumnType::Bigint => DataType::Int64,
        ColumnType::Double => DataType::Float64,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(*precision, scale.cast_signed()),
        ColumnType::Timestamp(_) => timestamp_type(),
        ColumnType::Date => DataType::Date32,
        ColumnType::Binary => DataType::Binary,
        ColumnType::Struct(fields) => DataType::Struct(arrow_fields(fields)),
        ColumnType::Array(item) => DataType::List(item_field(item)),
        ColumnType::Map(value) => DataType::Map(entries_field(value), false),
    }
}

/// How a timestamp is written; `None` for every other type.
pub fn timestamp_format(kind: &ColumnType) -> Option<TimestampFormat> {
    if let ColumnType::Timestamp(format) = kind { Some(*format) } else { None }
}

/// The fields of declared columns.
pub fn arrow_fields(columns: &[Column]) -> Fields {
    columns.iter().map(|column| Field::new(&column.name, arrow_type(&column.kind), true)).collect()
}

/// The field of a list's items.
pub fn item_field(item: &ColumnType) -> Arc<Field> {
    Arc::new(Field::new_list_field(arrow_type(item), true))
}

/// The field of a map's entries.
pub fn entries_field(value: &ColumnType) -> Arc<Field> {
    let fields = vec![Field::new("key", DataType::Utf8, false), Field::new("value", arrow_type(value), true)];
    Arc::new(Field::new("entries", DataType::Struct(fields.into()), false))
}

/// What `select` sees: the declared columns.
pub fn source_schema(columns: &Columns) -> SchemaRef {
    Arc::new(Schema::new(arrow_fields(columns.as_slice())))
}

/// What the decoders give: the declared columns, then where each row came from.
pub fn batch_schema(columns: &Columns) -> SchemaRef {
    with_provenance(&source_schema(columns))
}

/// `schema` and the provenance columns behind it.
pub fn with_provenance(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(OBJECT_COLUMN, DataType::UInt32, false)));
    fields.push(Arc::new(Field::new(ROW_COLUMN, DataType::UInt64, false)));
    Arc::new(Schema::new(fields))
}

/// The number of a row in its object: its line or row there, from 1.
pub fn row_number(rows: &RecordBatch, index: usize) -> u64 {
    rows.column_by_name(ROW_COLUMN).and_then(|column| column.as_primitive_opt::<UInt64Type>()).map_or(0, |column| column.value(index))
}
