//! What one thread does with one batch of source rows: decode, select, normalize, and place every row.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, AsArray as _, RecordBatch, UInt16Array, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType, UInt32Type};
use datafusion::arrow::error::ArrowError;
use weir_crds::window::{Interval, Placement, Slicing};

use super::counts::Counts;
use super::error::ExtractError;
use super::quarantine::QuarantinedRow;
use crate::decode::reject::Rejected;
use crate::decode::types::row_number;
use crate::decode::{Batch, Decoder, UnknownFields};
use crate::select::normalize::{Normalized, SOURCE_COLUMN, SUB_COLUMN};
use crate::select::{Evaluated, Evaluator, Normalizer, Ran, RowFault};
use crate::source::{SourceError, SourceObject};

/// What all threads of a chunk share.
#[derive(Debug)]
pub struct Shared {
    /// The source's name.
    pub source: String,
    /// Its ordinal in the job.
    pub source_ordinal: u16,
    /// The chunk's objects.
    pub objects: Arc<[SourceObject]>,
    /// The ordinal of the first of them in the plan's list.
    pub first_object: u32,
    /// For each object the event times that its rows may have; `None`: any.
    pub allowed: Vec<Option<Interval>>,
    /// The window.
    pub slicing: Slicing,
    /// Result columns.
    pub normalizer: Normalizer,
    /// Index of the event time among them.
    pub event_time: usize,
    /// Index of the event type among them.
    pub event_type: usize,
}

/// Batches of fewer rows are copied before they wait for their segment.
const ROWS_HELD_MIN: usize = 1024;

/// The state of one thread.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    decoder: Decoder,
    evaluator: Evaluator,
}

/// What a block became.
#[derive(Debug, Default)]
pub struct Processed {
    /// Selected rows by index of the slice, in source order.
    pub selected: BTreeMap<usize, RecordBatch>,
    /// Rows for quarantine, in source order.
    pub set_aside: Vec<QuarantinedRow<Bytes>>,
    /// Counts of the block.
    pub counts: Counts,
    /// Fields that are not declared.
    pub unknown: UnknownFields,
    last_raw: LastRaw,
}

/// Raw bytes of the row that was last set aside, by its number. The rows that unnesting made of it come one after the other
/// and share them: each with a copy, a few lines would take gigabytes.
#[derive(Debug, Default)]
struct LastRaw(Option<(u64, Bytes, u64)>);

impl LastRaw {
    fn get(&mut self, source: &Batch, row: u64) -> (Bytes, u64) {
        match &self.0 {
            Some((last, raw, len)) if *last == row => (raw.clone(), *len),
            Some(_) | None => {
                let (raw, len) = source.raw(row);
                let raw = Bytes::from(raw);
                self.0 = Some((row, raw.clone(), len));
                (raw, len)
            }
        }
    }
}

/// The columns of segments: result columns, then `__source`, `__object`, `__row`, `__sub`.
pub fn segment_schema(normalizer: &Normalizer) -> SchemaRef {
    let all = normalizer.schema().fields();
    let mut fields: Vec<_> = all.iter().take(all.len() - 3).cloned().collect();
    fields.push(Arc::new(Field::new(SOURCE_COLUMN, DataType::UInt16, false)));
    fields.extend(all.iter().skip(all.len() - 3).cloned());
    Arc::new(Schema::new(fields))
}

impl Shared {
    fn segment_batch(&self, rows: &RecordBatch) -> Result<RecordBatch, ExtractError> {
        let count = rows.num_columns() - 3;
        let mut columns: Vec<ArrayRef> = rows.columns()[..count].to_vec();
        columns.push(Arc::new(UInt16Array::from(vec![self.source_ordinal; rows.num_rows()])));
        let objects = rows.column(count).as_primitive::<UInt32Type>();
        let in_plan = objects.values().iter().map(|object| object + self.first_object);
        columns.push(Arc::new(UInt32Array::from_iter_values(in_plan)));
        columns.extend(rows.columns()[count + 1..].iter().cloned());
        Ok(RecordBatch::try_new(segment_schema(&self.normalizer), columns)?)
    }

    /// A row for quarantine, without its raw bytes.
    fn row(&self, object: u32, row: u64, reason: String, detail: String) -> QuarantinedRow<Bytes> {
        let object = self.objects.get(object as usize);
        QuarantinedRow {
            reason,
            detail,
            source: self.source.clone(),
            object: object.map(SourceObject::uri).unwrap_or_default(),
            pin: object.map(|o| o.version.clone().unwrap_or_else(|| o.etag.clone())).unwrap_or_default(),
            row,
            ..QuarantinedRow::default()
        }
    }
}

impl Worker {
    /// A thread's state.
    pub fn new(shared: Arc<Shared>, decoder: Decoder, evaluator: Evaluator) -> Self {
        Self { shared, decoder, evaluator }
    }

    /// Does the rows of one batch. What becomes of them is given to `emit` in source order, in one piece unless its
    /// rows expand far: then in pieces that stay small once expanded. It ends early when `emit` says that no one listens.
    pub fn batch(&mut self, batch: &Batch, emit: &mut dyn FnMut(Processed) -> bool) -> Result<(), ExtractError> {
        let decoded = self.decoder.decode(batch).map_err(|error| self.undecodable(batch, error))?;
        let mut processed = Processed { unknown: self.decoder.take_unknown(), ..Processed::default() };
        processed.counts.read = decoded.rows;
        for rejected in decoded.rejected {
            self.reject(rejected, &mut processed);
        }
        let mut pieces = vec![decoded.batch];
        while let Some(piece) = pieces.pop() {
            let rows = piece.num_rows();
            match self.evaluator.run(piece.clone())? {
                Ran::Whole(evaluated) => self.take_up(batch, rows as u64, evaluated, &mut processed)?,
                Ran::TooMany => {
                    pieces.extend([piece.slice(rows / 2, rows - rows / 2), piece.slice(0, rows / 2)]);
                    continue;
                }
            }
            processed.counts.are_of(self.shared.allowed.get(batch.object() as usize).copied().flatten());
            // Faults were found step by step; readers want them as they lie in the object.
            processed.set_aside.sort_by_key(|row| (row.row, row.sub));
            if !emit(std::mem::take(&mut processed)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Records of CSV that cannot be told apart are the object's fault, everything else of Arrow's is weir's.
    fn undecodable(&self, batch: &Batch, error: ArrowError) -> ExtractError {
        let ArrowError::CsvError(problem) = error else { return error.into() };
        let object = self.shared.objects.get(batch.object() as usize).map(SourceObject::uri).unwrap_or_default();
        SourceError::Unreadable { object, format: "Csv", problem }.into()
    }

    /// What select made of so many good rows.
    fn take_up(&self, source: &Batch, good: u64, evaluated: Evaluated, processed: &mut Processed) -> Result<(), ExtractError> {
        let failed = evaluated.failed.len() as u64;
        for (row, fault) in evaluated.failed {
            self.set_aside_fault(source, RowFault { row, sub: 0, fault, event_time_us: None, event_type: None }, processed);
        }
        let normalized = self.shared.normalizer.run(&evaluated.batch)?;
        processed.counts.filtered_out += good - failed - normalized.source_rows;
        processed.counts.expanded += normalized.rows - normalized.source_rows;
        for fault in &normalized.faults {
            self.set_aside_fault(source, fault.clone(), processed);
        }
        self.place(source, &normalized, processed)
    }

    fn reject(&self, rejected: Rejected, processed: &mut Processed) {
        processed.counts.invalid += 1;
        processed.counts.count_reason(rejected.fault.key(), 1);
        let code = rejected.fault.reason.code().to_owned();
        let mut row = self.shared.row(rejected.object, rejected.row, code, rejected.fault.describe());
        (row.raw, row.raw_bytes) = (rejected.raw.into(), rejected.raw_len);
        processed.set_aside.push(row);
    }

    fn set_aside_fault(&self, source: &Batch, fault: RowFault, processed: &mut Processed) {
        processed.counts.invalid += 1;
        processed.counts.count_reason(fault.fault.key(), 1);
        match (fault.event_time_us.map(|time| self.shared.slicing.place(time)), &fault.event_type) {
            (Some(Placement::Outside), _) => processed.counts.invalid_outside += 1,
            (Some(Placement::Slice(slice)), Some(event_type)) => {
                *processed.counts.invalid_by.entry((slice, event_type.clone())).or_default() += 1;
            }
            (Some(Placement::Slice(_)), None) | (None, _) => {}
        }
        let mut row = self.shared.row(source.object(), fault.row, fault.fault.reason.code().to_owned(), fault.fault.describe());
        (row.sub, row.event_time_us, row.event_type) = (fault.sub, fault.event_time_us, fault.event_type);
        (row.raw, row.raw_bytes) = processed.last_raw.get(source, fault.row);
        processed.set_aside.push(row);
    }

    /// Puts every whole row where its event time says.
    fn place(&self, source: &Batch, normalized: &Normalized, processed: &mut Processed) -> Result<(), ExtractError> {
        let shared = &self.shared;
        let allowed = shared.allowed.get(source.object() as usize).copied().flatten();
        let times = normalized.batch.column(shared.event_time).as_primitive::<TimestampMicrosecondType>();
        let mut by_slice = BySlice::default();
        for (index, time) in times.values().iter().copied().enumerate() {
            match shared.slicing.place(time) {
                Placement::Outside => processed.counts.outside_window += 1,
                Placement::Slice(_) if allowed.is_some_and(|allowed| !allowed.contains(time)) => {
                    self.late(source, &normalized.batch, index, allowed, processed);
                }
                Placement::Slice(slice) => by_slice.push(slice, index as u32),
            }
        }
        for (slice, indices) in by_slice.rows {
            processed.counts.selected += indices.len() as u64;
            // A few rows are copied: their batch may have memory for many.
            let rows = if indices.len() == normalized.batch.num_rows() && indices.len() >= ROWS_HELD_MIN {
                normalized.batch.clone()
            } else {
                take_record_batch(&normalized.batch, &UInt32Array::from(indices))?
            };
            processed.selected.insert(slice, shared.segment_batch(&rows)?);
        }
        Ok(())
    }

    fn late(&self, source: &Batch, batch: &RecordBatch, index: usize, allowed: Option<Interval>, processed: &mut Processed) {
        processed.counts.late += 1;
        processed.counts.count_reason(LATE.to_owned(), 1);
        let time = batch.column(self.shared.event_time).as_primitive::<TimestampMicrosecondType>().value(index);
        let row = row_number(batch, index);
        let sub = batch.column_by_name(SUB_COLUMN).and_then(|c| c.as_primitive_opt::<UInt32Type>()).map_or(0, |c| c.value(index));
        let allowed = allowed.map(|i| format!("[{}, {})", instant(i.start_us), instant(i.end_us))).unwrap_or_default();
        let detail = format!("event time {} is not in {allowed}, which the source allows for this object", instant(time));
        let mut set_aside = self.shared.row(source.object(), row, LATE.to_owned(), detail);
        set_aside.sub = sub;
        set_aside.event_time_us = Some(time);
        set_aside.event_type = Some(batch.column(self.shared.event_type).as_string::<i32>().value(index).to_owned());
        (set_aside.raw, set_aside.raw_bytes) = processed.last_raw.get(source, row);
        processed.set_aside.push(set_aside);
    }
}

/// Indices of rows by slice. Most rows fall into the slice of the one before.
#[derive(Default)]
struct BySlice {
    rows: Vec<(usize, Vec<u32>)>,
    place_of: HashMap<usize, usize>,
    last: Option<(usize, usize)>,
}

impl BySlice {
    fn push(&mut self, slice: usize, index: u32) {
        let place = match self.last {
            Some((last, place)) if last == slice => place,
            Some(_) | None => {
                let place = *self.place_of.entry(slice).or_insert(self.rows.len());
                if place == self.rows.len() {
                    self.rows.push((slice, Vec::new()));
                }
                self.last = Some((slice, place));
                place
            }
        };
        self.rows[place].1.push(index);
    }
}

/// The reason of rows beyond the declared lateness or skew.
pub const LATE: &str = "Late";

fn instant(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| format!("{micros} us"), |at| at.to_string())
}
