//! Rows that were set aside, as Parquet, with what it takes to find and repair each: reason, detail, object, row, raw bytes.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder, UInt32Builder, UInt64Builder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use sha2::{Digest as _, Sha256};
use weir_crds::contract::digest::Sha256Digest;

use super::error::ExtractError;
use crate::decode::types::{UTC, timestamp_type};
use crate::scratch::ScratchFile;

/// Raw bytes that are held before they become a row group.
const ROW_GROUP_BYTES: usize = 16 * 1024 * 1024;

/// One row that was set aside. `Raw`: its own bytes, or some that it shares with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuarantinedRow<Raw = Vec<u8>> {
    /// Short and stable.
    pub reason: String,
    /// For people.
    pub detail: String,
    /// The source's name.
    pub source: String,
    /// `s3://bucket/key`.
    pub object: String,
    /// The version or ETag that was read.
    pub pin: String,
    /// Line or row in the object, from 1.
    pub row: u64,
    /// Ordinal among the rows that it became.
    pub sub: u32,
    /// Microseconds, where known.
    pub event_time_us: Option<i64>,
    /// Where known.
    pub event_type: Option<String>,
    /// The row as the source has it, at most 64 KiB of it.
    pub raw: Raw,
    /// How long it is there.
    pub raw_bytes: u64,
}

/// Writes rows to a file, row group by row group.
pub struct QuarantineWriter {
    writer: ArrowWriter<Digesting>,
    builders: Builders,
    held_bytes: usize,
    rows: u64,
}

/// A file that was written whole.
#[derive(Debug)]
pub struct WrittenQuarantine {
    /// The file.
    pub file: ScratchFile,
    /// Of the file.
    pub sha256: Sha256Digest,
    /// Its length.
    pub bytes: u64,
    /// In it.
    pub rows: u64,
}

/// A file whose digest and length are known when it is written.
struct Digesting {
    file: BufWriter<ScratchFile>,
    digest: Sha256,
    bytes: u64,
}

impl Write for Digesting {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write_all(buffer)?;
        self.digest.update(buffer);
        self.bytes += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Builders {
    reason: StringBuilder,
    detail: StringBuilder,
    source: StringBuilder,
    object: StringBuilder,
    pin: StringBuilder,
    row: UInt64Builder,
    sub: UInt32Builder,
    event_time: TimestampMicrosecondBuilder,
    event_type: StringBuilder,
    raw: BinaryBuilder,
    raw_bytes: UInt64Builder,
}

/// The columns of every quarantine part.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("reason", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, false),
        Field::new("object", DataType::Utf8, false),
        Field::new("pin", DataType::Utf8, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("sub", DataType::UInt32, false),
        Field::new("event_time", timestamp_type(), true),
        Field::new("event_type", DataType::Utf8, true),
        Field::new("raw", DataType::Binary, false),
        Field::new("raw_bytes", DataType::UInt64, false),
    ]))
}

impl QuarantineWriter {
    /// Writes to `file`.
    pub fn new(file: ScratchFile) -> Result<Self, ExtractError> {
        let file = BufWriter::new(file);
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).set_created_by("weir".to_owned()).build();
        let sink = Digesting { file, digest: Sha256::new(), bytes: 0 };
        let writer = ArrowWriter::try_new(sink, schema(), Some(properties))?;
        Ok(Self { writer, builders: Builders::new(), held_bytes: 0, rows: 0 })
    }

    /// Adds a row.
    pub fn push<Raw: AsRef<[u8]>>(&mut self, row: &QuarantinedRow<Raw>) -> Result<(), ExtractError> {
        self.builders.push(row);
        self.rows += 1;
        self.held_bytes += row.raw.as_ref().len() + row.detail.len() + row.object.len() + 128;
        if self.held_bytes >= ROW_GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The file is whole once this returns.
    pub fn finish(mut self) -> Result<WrittenQuarantine, ExtractError> {
        self.flush()?;
        let sink = self.writer.into_inner()?;
        let file = sink.file.into_inner().map_err(|error| ExtractError::Scratch(error.into_error()))?;
        let sha256 = Sha256Digest::from_bytes(sink.digest.finalize().into());
        Ok(WrittenQuarantine { file, sha256, bytes: sink.bytes, rows: self.rows })
    }

    fn flush(&mut self) -> Result<(), ExtractError> {
        self.held_bytes = 0;
        let batch = RecordBatch::try_new(schema(), self.builders.finish())?;
        if batch.num_rows() > 0 {
            self.writer.write(&batch)?;
            self.writer.flush()?;
        }
        Ok(())
    }
}

impl Builders {
    fn new() -> Self {
        Self {
            reason: StringBuilder::new(),
            detail: StringBuilder::new(),
            source: StringBuilder::new(),
            object: StringBuilder::new(),
            pin: StringBuilder::new(),
            row: UInt64Builder::new(),
            sub: UInt32Builder::new(),
            event_time: TimestampMicrosecondBuilder::new().with_timezone(UTC),
            event_type: StringBuilder::new(),
            raw: BinaryBuilder::new(),
            raw_bytes: UInt64Builder::new(),
        }
    }

    fn push<Raw: AsRef<[u8]>>(&mut self, row: &QuarantinedRow<Raw>) {
        self.reason.append_value(&row.reason);
        self.detail.append_value(&row.detail);
        self.source.append_value(&row.source);
        self.object.append_value(&row.object);
        self.pin.append_value(&row.pin);
        self.row.append_value(row.row);
        self.sub.append_value(row.sub);
        self.event_time.append_option(row.event_time_us);
        self.event_type.append_option(row.event_type.as_deref());
        self.raw.append_value(&row.raw);
        self.raw_bytes.append_value(row.raw_bytes);
    }

    /// In the order of the schema.
    fn finish(&mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.reason.finish()),
            Arc::new(self.detail.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.object.finish()),
            Arc::new(self.pin.finish()),
            Arc::new(self.row.finish()),
            Arc::new(self.sub.finish()),
            Arc::new(self.event_time.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.raw.finish()),
            Arc::new(self.raw_bytes.finish()),
        ]
    }
}
