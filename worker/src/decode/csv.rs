//! CSV after RFC 4180 to batches: a header row, commas, quotes that may hold commas and line feeds.
//!
//! Cells are read by the same rules as JSON values: numbers keep all digits, times are what is declared. An empty cell is
//! null, quoted or not. A record with another number of cells than the header is rejected. Rows are counted in records,
//! the header being the first; where no cell holds a line feed that is the line number.
//!
//! A quote too many takes in whatever follows, up to the next quote. How many records that were cannot be told, so they
//! cannot be counted as invalid: the object is refused.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use weir_crds::columns::{ColumnType, Columns, TimestampFormat};

use super::column::{ColumnBuffer, UNKNOWN_NAMES_MAX, Values};
use super::json::{base64_into, decimal, epoch_scale};
use super::lines::{Block, LINE_BYTES_MAX, Line};
use super::number::Number;
use super::reject::{Fault, RAW_BYTES_MAX, Reason, Rejected, excerpt};
use super::{Decoded, UnknownFields, time, types};

/// Cells of a record: what a header may name.
const CELLS_MAX: usize = 10_000;

/// Finds where records end, over bytes that come in pieces. A quote opens a quoted cell only at the start of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordEnds {
    /// Before the first byte of a cell.
    #[default]
    CellStart,
    /// In a cell without quotes.
    Plain,
    /// Between quotes.
    Quoted,
    /// Behind a quote in a quoted cell: its end, or the first half of a doubled one.
    QuoteInQuoted,
}

impl RecordEnds {
    /// The index of the line feed that ends the record at hand, if it is in `bytes`.
    pub fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            *self = match (*self, byte) {
                (Self::CellStart | Self::Plain | Self::QuoteInQuoted, b'\n') => {
                    *self = Self::CellStart;
                    return Some(index);
                }
                (Self::CellStart | Self::Plain | Self::QuoteInQuoted, b',') => Self::CellStart,
                (Self::CellStart | Self::QuoteInQuoted, b'"') => Self::Quoted,
                (Self::Quoted, b'"') => Self::QuoteInQuoted,
                (Self::Quoted, _) => Self::Quoted,
                (Self::CellStart | Self::Plain | Self::QuoteInQuoted, _) => Self::Plain,
            };
        }
        None
    }
}

/// Takes a record apart: calls `cell` with the index and text of each, and returns how many there were.
fn cells(record: &[u8], scratch: &mut Vec<u8>, mut cell: impl FnMut(usize, &[u8]) -> Result<(), Fault>) -> Result<usize, Fault> {
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let bad = |at: usize, problem: &str| Err(Fault::new(Reason::InvalidCsv, format!("byte {}: {problem}", at + 1)));
    let (mut at, mut index) = (0, 0);
    loop {
        let end;
        if record.get(at) == Some(&b'"') {
            scratch.clear();
            at += 1;
            loop {
                let Some(len) = memchr::memchr(b'"', &record[at..]) else { return bad(record.len(), "a quote is never closed") };
                scratch.extend_from_slice(&record[at..at + len]);
                at += len + 1;
                if record.get(at) != Some(&b'"') {
                    break;
                }
                scratch.push(b'"');
                at += 1;
            }
            end = at;
            cell(index, scratch)?;
        } else {
            end = memchr::memchr2(b',', b'"', &record[at..]).map_or(record.len(), |len| at + len);
            cell(index, &record[at..end])?;
        }
        index += 1;
        match record.get(end) {
            None => return Ok(index),
            Some(b',') if index < CELLS_MAX => at = end + 1,
            Some(b',') => return bad(end, "more cells than weir reads"),
            Some(b'"') => return bad(end, "a quote within a cell that does not begin with one"),
            Some(_) => return bad(end, "text behind a closing quote"),
        }
    }
}

/// The names that an object's first record gives.
pub fn header(record: &[u8]) -> Result<Vec<String>, String> {
    // Of a longer record than weir reads, so much is left.
    if record.len() >= RAW_BYTES_MAX {
        return Err(format!("its header has {RAW_BYTES_MAX} bytes or more: do its records end with line feeds?"));
    }
    if record.windows(2).any(|pair| pair[0] == b'\r' && pair[1] != b'\n') {
        return Err("its header has a carriage return without a line feed, which is what records end with".to_owned());
    }
    let record = record.strip_prefix(b"\xef\xbb\xbf").unwrap_or(record);
    let text = std::str::from_utf8(record).map_err(|_| "its header is not UTF-8".to_owned())?;
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    let parsed = cells(text.as_bytes(), &mut Vec::new(), |_, cell| {
        let name = String::from_utf8_lossy(cell).into_owned();
        if !seen.insert(name.clone()) {
            return Err(Fault::new(Reason::DuplicateKey, format!("{name} is there twice")));
        }
        names.push(name);
        Ok(())
    });
    parsed.map_err(|fault| format!("its header: {}", fault.describe()))?;
    Ok(names)
}

/// Whether all declared types can stand in a cell, or the first that cannot.
pub fn unsupported(columns: &Columns) -> Option<&str> {
    let nested = columns.iter().find(|c| matches!(c.kind, ColumnType::Struct(_) | ColumnType::Array(_) | ColumnType::Map(_)));
    nested.map(|column| column.name.as_str())
}

/// Decodes blocks of CSV records.
#[derive(Debug)]
pub struct CsvDecoder {
    schema: SchemaRef,
    names: Vec<String>,
    columns: Vec<ColumnBuffer>,
    /// The header that `targets` is for.
    header: Option<Arc<[u8]>>,
    /// For each cell its column.
    targets: Vec<Option<usize>>,
    header_names: Vec<String>,
    /// Declared columns that the header does not name.
    missing: Vec<usize>,
    unknown: UnknownFields,
    scratch: Vec<u8>,
}

impl CsvDecoder {
    /// A decoder for the declared columns.
    pub fn new(columns: &Columns) -> Self {
        Self {
            schema: types::batch_schema(columns),
            names: columns.iter().map(|column| column.name.clone()).collect(),
            columns: columns.iter().map(|column| ColumnBuffer::new(&column.kind)).collect(),
            header: None,
            targets: Vec::new(),
            header_names: Vec::new(),
            missing: Vec::new(),
            unknown: UnknownFields::default(),
            scratch: Vec::new(),
        }
    }

    /// Decodes one block, whose header [`header`] has accepted. [`ArrowError::CsvError`]: its records cannot be told apart.
    pub fn decode(&mut self, block: &Block) -> Result<Decoded, ArrowError> {
        self.read_header(block)?;
        let (mut rejected, mut numbers, mut blank_lines) = (Vec::new(), Vec::with_capacity(block.line_count()), 0);
        for (number, line) in block.lines() {
            let record = match line {
                Line::Whole(record) => record,
                Line::TooLong { len, .. } => {
                    let problem = format!("record {number} has {len} bytes, more than {LINE_BYTES_MAX}: is a quote never closed?");
                    return Err(ArrowError::CsvError(problem));
                }
            };
            if record.is_empty() || record == b"\r" {
                blank_lines += 1;
                continue;
            }
            match self.record(record) {
                Ok(()) => numbers.push(number),
                Err(fault) => {
                    if let Some(problem) = self.torn(record) {
                        return Err(ArrowError::CsvError(format!("record {number} spans lines, and {problem}")));
                    }
                    let len = numbers.len();
                    self.columns.iter_mut().for_each(|column| column.truncate(len));
                    rejected.push(Rejected::from_line(block.object, number, fault, record));
                }
            }
        }
        let rows = (numbers.len() + rejected.len()) as u64;
        self.count_unknown(rows);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 2);
        for column in &mut self.columns {
            arrays.push(column.finish()?);
        }
        arrays.push(Arc::new(UInt32Array::from(vec![block.object; numbers.len()])));
        arrays.push(Arc::new(UInt64Array::from(numbers)));
        Ok(Decoded { batch: RecordBatch::try_new(Arc::clone(&self.schema), arrays)?, rejected, rows, blank_lines })
    }

    /// The undeclared columns seen since this was last asked, once for each row.
    pub fn take_unknown(&mut self) -> UnknownFields {
        std::mem::take(&mut self.unknown)
    }

    fn read_header(&mut self, block: &Block) -> Result<(), ArrowError> {
        if self.header == block.header {
            return Ok(());
        }
        let record = block.header.as_deref().unwrap_or_default();
        self.header_names = header(record).map_err(ArrowError::CsvError)?;
        self.targets = self.header_names.iter().map(|name| self.names.iter().position(|n| n == name)).collect();
        self.missing = (0..self.names.len()).filter(|index| !self.targets.contains(&Some(*index))).collect();
        self.header.clone_from(&block.header);
        Ok(())
    }

    fn count_unknown(&mut self, rows: u64) {
        for (name, target) in self.header_names.iter().zip(&self.targets) {
            if target.is_none() && rows > 0 {
                if self.unknown.by_path.len() < UNKNOWN_NAMES_MAX || self.unknown.by_path.contains_key(name) {
                    *self.unknown.by_path.entry(name.clone()).or_default() += rows;
                } else {
                    self.unknown.others += rows;
                }
            }
        }
    }

    fn record(&mut self, record: &[u8]) -> Result<(), Fault> {
        if let Err(error) = std::str::from_utf8(record) {
            return Err(Fault::new(Reason::InvalidUtf8, format!("byte {} is not UTF-8", error.valid_up_to() + 1)));
        }
        let Self { columns, targets, names, .. } = self;
        let count = cells(record, &mut self.scratch, |index, text| match targets.get(index) {
            Some(Some(target)) => value(text, &mut columns[*target]).map_err(|fault| fault.in_field(&names[*target])),
            // Too many cells are noticed by their number.
            Some(None) | None => Ok(()),
        })?;
        if count != targets.len() {
            return Err(Fault::new(Reason::InvalidCsv, format!("{count} cells, the header has {}", targets.len())));
        }
        self.missing.iter().for_each(|index| self.columns[*index].push_null());
        Ok(())
    }

    /// Why a record that was rejected, for whatever reason, may be several: it spans lines, and its cells do not come out.
    fn torn(&mut self, record: &[u8]) -> Option<String> {
        memchr::memchr2(b'\n', b'\r', record.strip_suffix(b"\r").unwrap_or(record))?;
        match cells(record, &mut self.scratch, |_, _| Ok(())) {
            Ok(count) if count == self.targets.len() => None,
            Ok(count) => Some(format!("has {count} cells, the header {}", self.targets.len())),
            Err(fault) => Some(format!("is malformed: {}", fault.detail)),
        }
    }
}

/// Reads a cell into one row of `column`.
fn value(text: &[u8], column: &mut ColumnBuffer) -> Result<(), Fault> {
    if text.is_empty() {
        column.push_null();
        return Ok(());
    }
    let kind = &column.kind;
    match &mut column.values {
        Values::Bytes { offsets, bytes } => {
            if matches!(kind, ColumnType::Binary) {
                base64_into(text, bytes)?;
            } else {
                bytes.extend_from_slice(text);
            }
            let end = i32::try_from(bytes.len());
            offsets.push(end.map_err(|_| Fault::new(Reason::OutOfRange, "a batch would grow beyond 2 GiB"))?);
        }
        Values::Boolean(values) => values.push(match text {
            b"true" => true,
            b"false" => false,
            _ => return Err(wrong(text, kind)),
        }),
        Values::Int(values) if matches!(kind, ColumnType::Date) => values.push(time::parse_date(text)?),
        Values::Int(values) => values.push(number(text, kind)?.to_i32()?),
        Values::Bigint(values) => values.push(match types::timestamp_format(kind) {
            Some(TimestampFormat::Rfc3339) => time::parse_rfc3339(text)?,
            Some(format) => number(text, kind)?.to_micros(epoch_scale(format))?,
            None => number(text, kind)?.to_i64()?,
        }),
        Values::Double(values) => values.push(number(text, kind)?.to_f64()?),
        Values::Decimal(values) => values.push(decimal(number(text, kind)?, kind)?),
        Values::Struct(_) | Values::Array { .. } | Values::Map { .. } => return Err(wrong(text, kind)),
    }
    column.mark_valid();
    Ok(())
}

fn number<'a>(text: &'a [u8], kind: &ColumnType) -> Result<Number<'a>, Fault> {
    Number::scan(text).filter(|number| number.text().len() == text.len()).ok_or_else(|| wrong(text, kind))
}

fn wrong(text: &[u8], kind: &ColumnType) -> Fault {
    Fault::new(Reason::WrongType, format!("\"{}\" is no {kind}", excerpt(text)))
}
