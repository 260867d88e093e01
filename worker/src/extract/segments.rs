//! Selected rows by slice, flushed as segments: each an Arrow IPC stream of its own, one behind the other in a file.
//!
//! When to flush depends on the rows alone, so two attempts write the same bytes.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use sha2::{Digest as _, Sha256};
use weir_crds::contract::digest::Sha256Digest;
use weir_crds::contract::manifest::Segment;

use super::error::ExtractError;
use crate::scratch::ScratchFile;

/// Rows are held until they have this many bytes: larger segments are fewer and compress better, and twice this is held while
/// they are written.
pub const FLUSH_BYTES: usize = 64 * 1024 * 1024;

/// Collects the rows of a chunk by slice and writes them to a file.
#[derive(Debug)]
pub struct SegmentWriter {
    schema: SchemaRef,
    file: BufWriter<ScratchFile>,
    digest: Sha256,
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
    /// Of the whole file.
    pub sha256: Sha256Digest,
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
        let (held, segments) = (BTreeMap::new(), BTreeMap::new());
        Self { schema, file: BufWriter::new(file), digest: Sha256::new(), offset: 0, rows: 0, held, held_bytes: 0, segments }
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
        let sha256 = Sha256Digest::from_bytes(self.digest.finalize().into());
        Ok(Written { file, sha256, bytes: self.offset, rows: self.rows, segments: self.segments })
    }

    fn flush(&mut self) -> Result<(), ExtractError> {
        self.held_bytes = 0;
        for (slice, batches) in std::mem::take(&mut self.held) {
            let rows = concat_batches(&self.schema, &batches)?;
            drop(batches);
            let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
            let mut writer = StreamWriter::try_new_with_options(Vec::new(), &self.schema, options)?;
            writer.write(&rows)?;
            let bytes = writer.into_inner()?;
            self.file.write_all(&bytes).map_err(ExtractError::Scratch)?;
            self.digest.update(&bytes);
            let segment =
                Segment { offset: self.offset, length: bytes.len() as u64, rows: rows.num_rows() as u64, sha256: Sha256Digest::of(&bytes) };
            self.offset += segment.length;
            self.rows += segment.rows;
            self.segments.entry(slice).or_default().push(segment);
        }
        Ok(())
    }
}
