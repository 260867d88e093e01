//! Selected rows as records of the target: partition, key, value and timestamp of each row of a batch.

use datafusion::arrow::{
    array::{Array, AsArray as _, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array, UInt64Array},
    datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType, UInt32Type, UInt64Type},
};
use weir_crds::{
    backfill_job::{EventColumns, KafkaSink, Partitioner, RecordTimestamps, ValueEncoding},
    contract::{names::RunId, plan::PlannedSink},
    window::SliceId,
};
use weir_kafka::murmur2;

use super::{
    render::{Columns, Encoding, UnfitReason, UnknownType, integer},
    row::{Origin, RowRef},
};
use crate::{
    decode::types::{OBJECT_COLUMN, ROW_COLUMN},
    headers,
    select::normalize::SUB_COLUMN,
};

/// What a broker counts for a batch of one record beside the record's own bytes: the batch's head (61 bytes), and the
/// record's lengths, deltas and attributes at their longest.
const RECORD_OVERHEAD_BYTES: u64 = 61 + 40;
/// For each header, its two lengths at their longest.
const HEADER_OVERHEAD_BYTES: u64 = 10;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the selected rows have no column {0}")]
    NoColumn(String),
    #[error("column {column} of the selected rows has the type {data_type}")]
    Type { column: String, data_type: DataType },
    #[error("a row has no {0}")]
    Null(String),
    #[error(transparent)]
    Unknown(#[from] UnknownType),
}

/// Why a row cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A value has no JSON.
    Value { reason: UnfitReason, path: String },
    /// The record would be longer than the topic, or its publisher, takes.
    TooLarge,
    /// Kafka has no timestamps before 1970, and none at its very beginning.
    TimestampUnrepresentable,
}

impl Refusal {
    /// Short and stable: rows are counted by it.
    pub fn reason(&self) -> String {
        match self {
            Self::Value { reason, path } => format!("{reason:?} at {path}"),
            Self::TooLarge => "RecordTooLarge".to_owned(),
            Self::TimestampUnrepresentable => "TimestampUnrepresentable".to_owned(),
        }
    }
}

/// How rows become records of one target.
#[derive(Clone, Debug)]
pub struct Recorder {
    columns: EventColumns,
    value_columns: Vec<String>,
    encoding: Encoding,
    partitioner: Partitioner,
    timestamps: RecordTimestamps,
    partitions: u32,
    max_message_bytes: u64,
    /// What all headers of the run cost, without the event id and the source.
    headers_bytes: u64,
}

impl Recorder {
    pub fn new(columns: &EventColumns, spec: &KafkaSink, sink: &PlannedSink, run: &RunId, slice: &SliceId) -> Self {
        match spec.value.format {
            ValueEncoding::Json => {}
        }
        let names = [headers::RUN, headers::SLICE, headers::EVENT_ID, headers::SOURCE];
        let names_bytes: usize = names.iter().map(|name| name.len()).sum();
        let fixed = names_bytes + run.to_string().len() + slice.as_str().len();
        Self {
            columns: columns.clone(),
            value_columns: spec.value.columns.clone(),
            encoding: Encoding { nulls: spec.value.nulls, timestamps: spec.value.timestamp_encoding },
            partitioner: spec.partitioner,
            timestamps: spec.timestamps,
            partitions: sink.partitions,
            max_message_bytes: sink.max_message_bytes,
            headers_bytes: fixed as u64 + names.len() as u64 * HEADER_OVERHEAD_BYTES,
        }
    }

    /// A batch of one source, ready to be gone through.
    pub fn bind<'a>(&'a self, batch: &'a RecordBatch, source: u16, source_name: &'a str) -> Result<Bound<'a>, RecordError> {
        let column = |name: &str| -> Result<(&'a Field, &'a dyn Array), RecordError> {
            let index = batch.schema_ref().index_of(name).map_err(|_| RecordError::NoColumn(name.to_owned()))?;
            Ok((batch.schema_ref().field(index), batch.column(index).as_ref()))
        };
        let values = self.value_columns.iter().map(|name| column(name)).collect::<Result<Vec<_>, _>>()?;
        let key = self.columns.key.as_deref().map(|name| column(name).and_then(|(_, array)| key(name, array))).transpose()?;
        let text = |name: &str| column(name).and_then(|(_, array)| whole(name, array, array.as_string_opt::<i32>()));
        Ok(Bound {
            recorder: self,
            event_id: text(&self.columns.event_id)?,
            event_type: text(&self.columns.event_type)?,
            event_time: column(&self.columns.event_time).and_then(|(_, array)| {
                let micros = matches!(array.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _));
                whole(&self.columns.event_time, array, array.as_primitive_opt::<TimestampMicrosecondType>().filter(|_| micros))
            })?,
            object: column(OBJECT_COLUMN).and_then(|(_, array)| whole(OBJECT_COLUMN, array, array.as_primitive_opt::<UInt32Type>()))?,
            row: column(ROW_COLUMN).and_then(|(_, array)| whole(ROW_COLUMN, array, array.as_primitive_opt::<UInt64Type>()))?,
            sub: column(SUB_COLUMN).and_then(|(_, array)| whole(SUB_COLUMN, array, array.as_primitive_opt::<UInt32Type>()))?,
            key,
            values: Columns::new(values, self.encoding)?,
            source,
            source_name,
        })
    }

    fn partition(&self, bytes: &[u8]) -> i32 {
        match self.partitioner {
            Partitioner::Murmur2 => murmur2::partition(bytes, self.partitions).cast_signed(),
        }
    }

    /// The record's timestamp; with `ReplayTime` nobody knows it beforehand. It has no microseconds: the value has them.
    pub fn timestamp_ms(&self, time_us: i64) -> i64 {
        match self.timestamps {
            RecordTimestamps::EventTime => time_us.div_euclid(1000),
            RecordTimestamps::ReplayTime => 0,
        }
    }

    fn fits(&self, row: &RowRef<'_>, source: &str) -> bool {
        let variable = row.key.map_or(0, <[u8]>::len) + row.value.len() + row.event_id.as_bytes().len() + source.len();
        variable as u64 + self.headers_bytes + RECORD_OVERHEAD_BYTES <= self.max_message_bytes
    }
}

enum Key<'a> {
    Text(&'a StringArray),
    Integer(&'a Int64Array),
}

fn key<'a>(name: &str, array: &'a dyn Array) -> Result<Key<'a>, RecordError> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "Arrow's enum: the select's check lets nothing else be a key")]
    match array.data_type() {
        DataType::Utf8 => Ok(Key::Text(array.as_string())),
        DataType::Int64 => Ok(Key::Integer(array.as_primitive())),
        other => Err(RecordError::Type { column: name.to_owned(), data_type: other.clone() }),
    }
}

/// A column of the right type without nulls, which extracting has seen to.
fn whole<'a, A: Array>(name: &str, array: &'a dyn Array, typed: Option<&'a A>) -> Result<&'a A, RecordError> {
    let typed = typed.ok_or_else(|| RecordError::Type { column: name.to_owned(), data_type: array.data_type().clone() })?;
    if typed.null_count() > 0 { Err(RecordError::Null(name.to_owned())) } else { Ok(typed) }
}

/// The rows of one batch.
pub struct Bound<'a> {
    recorder: &'a Recorder,
    event_id: &'a StringArray,
    event_type: &'a StringArray,
    event_time: &'a TimestampMicrosecondArray,
    object: &'a UInt32Array,
    row: &'a UInt64Array,
    sub: &'a UInt32Array,
    key: Option<Key<'a>>,
    values: Columns<'a>,
    source: u16,
    source_name: &'a str,
}

/// Reused from row to row.
#[derive(Debug, Default)]
pub struct Space {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Bound<'_> {
    /// The record of a row, or why there is none; then its value is what could be rendered of it.
    pub fn render<'s>(&'s self, row: usize, space: &'s mut Space) -> Result<RowRef<'s>, (Refusal, RowRef<'s>)> {
        space.key.clear();
        space.value.clear();
        let has_key = match &self.key {
            Some(Key::Text(array)) if array.is_valid(row) => {
                space.key.extend_from_slice(array.value(row).as_bytes());
                true
            }
            Some(Key::Integer(array)) if array.is_valid(row) => {
                integer(array.value(row), &mut space.key);
                true
            }
            Some(Key::Text(_) | Key::Integer(_)) | None => false,
        };
        let written = self.values.write(row, &mut space.value);
        let event_id = self.event_id.value(row);
        let record = RowRef {
            time_us: self.event_time.value(row),
            origin: Origin { source: self.source, object: self.object.value(row), row: self.row.value(row), sub: self.sub.value(row) },
            partition: self.recorder.partition(if has_key { &space.key } else { event_id.as_bytes() }),
            event_id: event_id.into(),
            event_type: self.event_type.value(row).into(),
            key: has_key.then_some(space.key.as_slice()),
            value: &space.value,
        };
        if let Err(unfit) = written {
            return Err((Refusal::Value { reason: unfit.reason, path: unfit.path }, record));
        }
        if self.recorder.timestamps == RecordTimestamps::EventTime && record.time_us < 1000 {
            return Err((Refusal::TimestampUnrepresentable, record));
        }
        if !self.recorder.fits(&record, self.source_name) {
            return Err((Refusal::TooLarge, record));
        }
        Ok(record)
    }
}
