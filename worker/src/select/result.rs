//! The one shape that the results of all selects of a job have: names, types, and which columns say what an event is.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use weir_crds::backfill_job::EventColumns;
use weir_crds::columns::RESERVED_PREFIX;

use super::check::CheckedSelect;
use super::error::SelectError;
use crate::decode::types::{UTC, timestamp_type};

/// Result columns, and the meaning of some of them. All columns may be null as far as Arrow goes; the normalizer rejects rows
/// without event id, time or type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultShape {
    /// In the order of the first select.
    pub schema: SchemaRef,
    /// Utf8.
    pub event_id: usize,
    /// Timestamp in microseconds, UTC.
    pub event_time: usize,
    /// Utf8.
    pub event_type: usize,
    /// Utf8 or Int64; absent: events have no key.
    pub key: Option<usize>,
}

impl ResultShape {
    /// The shape of all results, or the first difference.
    pub fn merge(selects: &[CheckedSelect], columns: &EventColumns) -> Result<Self, SelectError> {
        let normal: Result<Vec<_>, _> = selects.iter().map(normal_fields).collect();
        let normal = normal?;
        let (Some(first_select), Some(first)) = (selects.first(), normal.first()) else {
            return Err(no_such("sources", "", &[]));
        };
        for (select, fields) in selects.iter().zip(&normal).skip(1) {
            same_names(first_select, first, select, fields)?;
        }
        let mut merged = Vec::with_capacity(first.len());
        for (name, _) in first {
            merged.push(Field::new(name, merge_column(name, selects, &normal)?, true));
        }
        let shape = Self::new(merged, columns)?;
        shape.check_types(selects, columns)?;
        Ok(shape)
    }

    fn new(fields: Vec<Field>, columns: &EventColumns) -> Result<Self, SelectError> {
        let index = |field: &str, column: &str| {
            let found = fields.iter().position(|f| f.name() == column);
            found.ok_or_else(|| no_such(&format!("spec.reconstruct.columns.{field}"), column, &fields))
        };
        Ok(Self {
            event_id: index("eventId", &columns.event_id)?,
            event_time: index("eventTime", &columns.event_time)?,
            event_type: index("eventType", &columns.event_type)?,
            key: columns.key.as_deref().map(|column| index("key", column)).transpose()?,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    fn check_types(&self, selects: &[CheckedSelect], columns: &EventColumns) -> Result<(), SelectError> {
        let text: &[DataType] = &[DataType::Utf8];
        let time: &[DataType] = &[timestamp_type()];
        let key: &[DataType] = &[DataType::Utf8, DataType::Int64];
        let wanted = [
            (Some(self.event_id), text, "event ids are strings", "CAST it AS VARCHAR"),
            (Some(self.event_time), time, "event times are timestamps", "declare the column as timestamp, or use to_timestamp"),
            (Some(self.event_type), text, "event types are strings", "CAST it AS VARCHAR"),
            (self.key, key, "keys are strings or integers", "CAST it AS VARCHAR"),
        ];
        for (index, types, rule, remedy) in wanted {
            let Some(field) = index.and_then(|index| self.schema.fields().get(index)) else { continue };
            if !types.contains(field.data_type()) {
                return Err(SelectError::ResultColumn {
                    origin: selects.first().map(|s| s.origin.clone()).unwrap_or_default(),
                    column: field.name().clone(),
                    problem: format!("it is {}, but {rule}", field.data_type()),
                    remedy: format!("{remedy}, in every select ({} and others)", columns.event_id),
                });
            }
        }
        Ok(())
    }

    /// That a column which another field names is there.
    pub fn require(&self, field: &str, column: &str) -> Result<(), SelectError> {
        match self.schema.field_with_name(column) {
            Ok(_) => Ok(()),
            Err(_) => Err(no_such(field, column, self.schema.fields().iter().map(|f| f.as_ref().clone()).collect::<Vec<_>>().as_slice())),
        }
    }
}

fn no_such(field: &str, column: &str, fields: &[Field]) -> SelectError {
    let names: Vec<_> = fields.iter().map(|f| f.name().as_str()).collect();
    SelectError::NoSuchColumn { field: field.to_owned(), column: column.to_owned(), columns: names.join(", ") }
}

type NormalFields = Vec<(String, DataType)>;

fn normal_fields(select: &CheckedSelect) -> Result<NormalFields, SelectError> {
    let mut names = HashSet::new();
    let mut fields = Vec::new();
    for field in select.result.fields() {
        let error = |problem: String, remedy: &str| SelectError::ResultColumn {
            origin: select.origin.clone(),
            column: field.name().clone(),
            problem,
            remedy: remedy.to_owned(),
        };
        if field.name().starts_with(RESERVED_PREFIX) {
            return Err(error(format!("names that begin with {RESERVED_PREFIX} are reserved"), "give it another name with AS"));
        }
        if !names.insert(field.name()) {
            return Err(error("the name is given twice".to_owned(), "give one of the two another name with AS"));
        }
        let normal = normal_type(field.data_type(), true)
            .map_err(|remedy| error(format!("events cannot have values of type {}", field.data_type()), remedy))?;
        fields.push((field.name().clone(), normal));
    }
    Ok(fields)
}

fn same_names(a: &CheckedSelect, a_fields: &NormalFields, b: &CheckedSelect, b_fields: &NormalFields) -> Result<(), SelectError> {
    let missing = |from: &NormalFields, of: &NormalFields| {
        of.iter().find(|(name, _)| !from.iter().any(|(other, _)| other == name)).map(|(name, _)| name.clone())
    };
    let difference = match (missing(b_fields, a_fields), missing(a_fields, b_fields)) {
        (Some(name), _) => format!("{} has the column {name}, {} has not", a.origin, b.origin),
        (None, Some(name)) => format!("{} has the column {name}, {} has not", b.origin, a.origin),
        (None, None) => return Ok(()),
    };
    Err(SelectError::Different { first: a.origin.clone(), second: b.origin.clone(), difference })
}

/// The type that a column has in every result. NULL takes the type that another source gives.
fn merge_column(name: &str, selects: &[CheckedSelect], normal: &[NormalFields]) -> Result<DataType, SelectError> {
    let mut merged: Option<(&CheckedSelect, &DataType)> = None;
    for (select, fields) in selects.iter().zip(normal) {
        let data_type = fields.iter().find(|(n, _)| n == name).map(|(_, t)| t);
        match (merged, data_type) {
            (_, None | Some(DataType::Null)) => {}
            (None, Some(found)) => merged = Some((select, found)),
            (Some((_, known)), Some(found)) if known == found => {}
            (Some((first, known)), Some(found)) => {
                return Err(SelectError::Different {
                    first: first.origin.clone(),
                    second: select.origin.clone(),
                    difference: format!("the column {name} is {known} in {} and {found} in {}", first.origin, select.origin),
                });
            }
        }
    }
    match merged {
        Some((_, data_type)) => Ok(data_type.clone()),
        None => Err(SelectError::ResultColumn {
            origin: selects.first().map(|s| s.origin.clone()).unwrap_or_default(),
            column: name.to_owned(),
            problem: "it is NULL in every source, so it has no type".to_owned(),
            remedy: format!("leave it out, or write CAST(NULL AS type) AS {name}"),
        }),
    }
}

/// The type that values of `data_type` have in artifacts and in events, or the remedy. Every change is without loss, except
/// that of a top-level timestamp, which the normalizer checks row by row.
fn normal_type(data_type: &DataType, is_top: bool) -> Result<DataType, &'static str> {
    let child = |field: &Arc<Field>| -> Result<Arc<Field>, &'static str> {
        let normal = normal_type(field.data_type(), false)?;
        Ok(Arc::new(field.as_ref().clone().with_data_type(normal).with_nullable(true).with_metadata(Default::default())))
    };
    Ok(match data_type {
        DataType::Null if is_top => DataType::Null,
        DataType::Boolean => DataType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            DataType::Int64
        }
        DataType::UInt64 => return Err("CAST it AS BIGINT"),
        DataType::Float64 => DataType::Float64,
        DataType::Float16 | DataType::Float32 => return Err("CAST it AS DOUBLE"),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) if *s >= 0 => DataType::Decimal128(*p, *s),
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            return Err("CAST it AS DECIMAL with at most 38 digits");
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date32 => DataType::Date32,
        DataType::Timestamp(_, _) if is_top => timestamp_type(),
        DataType::Timestamp(TimeUnit::Microsecond, zone) if zone.is_none() || is_utc(zone.as_deref()) => timestamp_type(),
        DataType::Timestamp(_, _) => return Err("inside structs and lists use timestamps of microseconds in UTC"),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(child).collect::<Result<Fields, _>>()?),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(child(item)?.as_ref().clone().with_name("item")))
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err("CAST it AS VARCHAR") };
            let [key, value] = fields.as_ref() else { return Err("CAST it AS VARCHAR") };
            if normal_type(key.data_type(), false)? != DataType::Utf8 {
                return Err("use strings as keys of maps");
            }
            let value = child(value)?.as_ref().clone().with_name("value");
            let pair = vec![Field::new("key", DataType::Utf8, false), value];
            DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair.into()), false)), false)
        }
        DataType::Null
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Union(_, _)
        | DataType::Dictionary(_, _)
        | DataType::RunEndEncoded(_, _) => return Err("CAST it to a type that columns can be declared with"),
    })
}

fn is_utc(zone: Option<&str>) -> bool {
    matches!(zone, Some(UTC | "UTC" | "Z" | "+00"))
}
