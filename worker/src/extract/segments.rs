//! Selected rows by slice, flushed as segments: each an Arrow IPC stream of its own, one behind the other in a file.
//!
//! When to flush, and whether to compress, depends on the rows alone, so two attempts write the same bytes.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use weir_crds::contract::digest::{ContentDigest, ContentHasher};
use weir_crds::contract::manifest::Segment;

use super::error::ExtractError;
use crate::scratch::ScratchFile;

/// Rows are held until they have this many bytes: larger segments are fewer.
pub const FLUSH_BYTES: usize = 64 * 1024 * 1024;
/// A segment ends with the batch that reaches this many bytes: some are held at a time where they are read.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Batches below this are put together, so that their heads (some kilobytes) do not count; larger ones are written as they are.
const BATCH_ROWS_MIN: usize = 1024;
/// What of the first rows is compressed to see whether it pays.
const SAMPLE_ROWS: usize = 1024;
/// Compressing a byte costs as much CPU time as writing and reading one; what does not shrink to half of it stays as it is,
/// and is read without being copied.
const COMPRESSED_PERCENT_MAX: usize = 50;

/// Collects the rows of a chunk by slice and writes them to a file.
#[derive(Debug)]
pub struct SegmentWriter {
    schema: SchemaRef,
    file: BufWriter<ScratchFile>,
    /// Of the segments' digests.
    digest: ContentHasher,
    /// Known once the first rows are.
    options: Option<IpcWriteOptions>,
    offset: u64,
    rows: u64,
    held: BTreeMap<usize, Vec<RecordBatch>>,
    held_bytes: usize,
    segments: BTreeMap<usize, Vec<Segment>>,
}

/// What a chunk's data file has.
#[derive(Debug)]
pub struct Written {
    /// The file.
    pub file: ScratchFile,
    /// Of the segments' digests, one behind the other: it names the file, and each segment is checked by its own.
    pub digest: ContentDigest,
    /// Length of the file.
    pub bytes: u64,
    /// In all segments.
    pub rows: u64,
    /// By index of the slice.
    pub segments: BTreeMap<usize, Vec<Segment>>,
}

impl SegmentWriter {
    /// Writes to `file`.
    pub fn new(file: ScratchFile, schema: SchemaRef) -> Self {
        Self {
            schema,
            file: BufWriter::new(file),
            digest: ContentHasher::default(),
            options: None,
            offset: 0,
            rows: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            segments: BTreeMap::new(),
        }
    }

    /// Adds rows of one slice, behind those that were added before.
    pub fn push(&mut self, slice: usize, rows: RecordBatch) -> Result<(), ExtractError> {
        for column in rows.columns() {
            self.held_bytes += column.to_data().get_slice_memory_size()?;
        }
        self.held.entry(slice).or_default().push(rows);
        if self.held_bytes >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what is held. The file is whole once this returns.
    pub fn finish(mut self) -> Result<Written, ExtractError> {
        self.flush()?;
        let file = self.file.into_inner().map_err(|error| ExtractError::Scratch(error.into_error()))?;
        let digest = self.digest.finish();
        Ok(Written { file, digest, bytes: self.offset, rows: self.rows, segments: self.segments })
    }

    fn flush(&mut self) -> Result<(), ExtractError> {
        self.held_bytes = 0;
        for (slice, batches) in std::mem::take(&mut self.held) {
            let batches = gather(&self.schema, batches)?;
            let options = match &self.options {
                Some(options) => options.clone(),
                None => self.options.insert(options_for(&batches)?).clone(),
            };
            let mut batches = batches.into_iter().peekable();
            while batches.peek().is_some() {
                self.write_segment(slice, &mut batches, options.clone())?;
            }
        }
        Ok(())
    }

    fn write_segment(
        &mut self,
        slice: usize,
        batches: &mut impl Iterator<Item = RecordBatch>,
        options: IpcWriteOptions,
    ) -> Result<(), ExtractError> {
        let out = Measured { inner: &mut self.file, digest: ContentHasher::default(), bytes: 0 };
        let mut writer = StreamWriter::try_new_with_options(out, &self.schema, options).map_err(failed)?;
        let mut rows = 0;
        while writer.get_ref().bytes < SEGMENT_BYTES
            && let Some(batch) = batches.next()
        {
            writer.write(&batch).map_err(failed)?;
            rows += batch.num_rows() as u64;
        }
        let Measured { digest, bytes, .. } = writer.into_inner().map_err(failed)?;
        let digest = digest.finish();
        self.digest.update(digest.as_bytes());
        self.segments.entry(slice).or_default().push(Segment { offset: self.offset, length: bytes, rows, digest });
        self.offset += bytes;
        self.rows += rows;
        Ok(())
    }
}

/// Puts small batches together, in order.
fn gather(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut gathered = Vec::new();
    let mut small: Vec<RecordBatch> = Vec::new();
    let mut small_rows = 0;
    for batch in batches {
        small_rows += batch.num_rows();
        small.push(batch);
        if small_rows >= BATCH_ROWS_MIN {
            gathered.push(together(schema, &mut small)?);
            small_rows = 0;
        }
    }
    if !small.is_empty() {
        gathered.push(together(schema, &mut small)?);
    }
    Ok(gathered)
}

fn together(schema: &SchemaRef, batches: &mut Vec<RecordBatch>) -> Result<RecordBatch, ArrowError> {
    match <[RecordBatch; 1]>::try_from(std::mem::take(batches)) {
        Ok([batch]) => Ok(batch),
        Err(several) => concat_batches(schema, &several),
    }
}

/// Whether the rows of a chunk are worth compressing, by the first of them.
fn options_for(batches: &[RecordBatch]) -> Result<IpcWriteOptions, ArrowError> {
    let plain = IpcWriteOptions::default();
    let compressed = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let Some(first) = batches.first() else { return Ok(plain) };
    let sample = first.slice(0, first.num_rows().min(SAMPLE_ROWS));
    let length = |options: &IpcWriteOptions| -> Result<usize, ArrowError> {
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &sample.schema(), options.clone())?;
        writer.write(&sample)?;
        Ok(writer.into_inner()?.len())
    };
    let pays = length(&compressed)? * 100 <= length(&plain)? * COMPRESSED_PERCENT_MAX;
    Ok(if pays { compressed } else { plain })
}

/// What the disk said is told by the library as its own error.
fn failed(error: ArrowError) -> ExtractError {
    if let ArrowError::IoError(_, source) = error { ExtractError::Scratch(source) } else { ExtractError::Arrow(error) }
}

/// Counts and digests what goes through.
struct Measured<'a> {
    inner: &'a mut BufWriter<ScratchFile>,
    digest: ContentHasher,
    bytes: u64,
}

impl Write for Measured<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.inner.write_all(buffer)?;
        self.digest.update(buffer);
        self.bytes += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // The file's own buffer is written when the file is whole.
        Ok(())
    }
}
