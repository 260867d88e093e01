//! Staged parts: records as they will be published, in that order, as Parquet. Written by `assemble`, read by `publish`.

use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
};

use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{
            Array as _, ArrayRef, AsArray as _, BinaryArray, BinaryBuilder, Int32Array, Int32Builder, Int64Array, Int64Builder,
            RecordBatch, StringArray, StringBuilder,
        },
        datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef},
        error::ArrowError,
    },
    parquet::{
        arrow::{
            ArrowWriter,
            arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
        },
        basic::{Compression, ZstdLevel},
        errors::ParquetError,
        file::{
            properties::{EnabledStatistics, WriterProperties},
            reader::ChunkReader,
        },
    },
};
use weir_crds::contract::digest::{ContentDigest, ContentHasher, RecordView};

use crate::scratch::{Scratch, ScratchFile};

/// Written and read at a time: rows, and bytes of values.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 1024 * 1024;
/// What a writer holds, encoded, before it ends a row group: eight buckets side by side stay within some 32 MiB, and a
/// reader holds one.
const ROW_GROUP_BYTES: usize = 4 * 1024 * 1024;
/// A part up to this size never touches the disk; eight buckets side by side hold eight of them.
pub const MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Staged parts are written once and read once or twice.
const LEVEL: i32 = 1;
/// What of the first values is compressed to see whether it pays.
const SAMPLE_BYTES: usize = 64 * 1024;
/// Compressing a byte and back costs as much CPU time as writing and reading two; what does not shrink to a third of it stays
/// as it is.
const COMPRESSED_PERCENT_MAX: usize = 33;

#[derive(Debug, thiserror::Error)]
pub enum StagedError {
    #[error("the part cannot be written to the scratch disk")]
    Scratch(#[source] io::Error),
    #[error("the part cannot be encoded or decoded")]
    Parquet(#[from] ParquetError),
    #[error("a sample of the part's values cannot be compressed")]
    Compression(#[source] io::Error),
    #[error("the part's columns cannot be built or read")]
    Arrow(#[from] ArrowError),
    #[error("the part has other columns than this version of weir writes")]
    Columns,
}

impl StagedError {
    pub fn is_full(&self) -> bool {
        match self {
            Self::Scratch(error) => Scratch::is_full(error),
            Self::Parquet(error) => Scratch::is_full_beneath(error),
            Self::Compression(_) | Self::Arrow(_) | Self::Columns => false,
        }
    }
}

/// One record of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedRecord<'a> {
    pub partition: i32,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    /// 0 where records get the time of their publishing.
    pub timestamp_ms: i64,
    pub event_id: &'a str,
    pub source: &'a str,
    pub event_type: &'a str,
}

impl<'a> StagedRecord<'a> {
    /// What its digest is made of.
    pub fn view(&self) -> RecordView<'a> {
        RecordView { key: self.key, value: self.value, timestamp_ms: self.timestamp_ms, event_id: self.event_id }
    }
}

/// The place of `value` among the columns.
const VALUE_COLUMN: usize = 2;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, false),
        Field::new("timestamp_ms", DataType::Int64, false),
        Field::new("event_id", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, false),
        Field::new("event_type", DataType::Utf8, false),
    ]))
}

/// Writes one part. Equal records give equal bytes.
pub struct PartWriter {
    out: Out,
    partition: Int32Builder,
    key: BinaryBuilder,
    value: BinaryBuilder,
    timestamp: Int64Builder,
    event_id: StringBuilder,
    source: StringBuilder,
    event_type: StringBuilder,
    held_bytes: usize,
    rows: u64,
}

/// The file is begun with the first records: they tell how.
enum Out {
    Ready(Box<Digesting>),
    Begun(Box<ArrowWriter<Digesting>>),
    /// An error came between the two.
    Lost,
}

/// A part that is whole.
#[derive(Debug)]
pub struct WrittenPart {
    pub content: Content,
    pub digest: ContentDigest,
    pub bytes: u64,
    pub rows: u64,
}

/// Where a part's bytes are: in memory while they are few.
#[derive(Debug)]
pub enum Content {
    Memory(Bytes),
    File(ScratchFile),
}

struct Digesting {
    scratch: Scratch,
    /// All bytes, until they are too many.
    memory: Vec<u8>,
    file: Option<BufWriter<ScratchFile>>,
    digest: ContentHasher,
    bytes: u64,
}

impl Digesting {
    fn new(scratch: &Scratch) -> Self {
        Self { scratch: scratch.clone(), memory: Vec::new(), file: None, digest: ContentHasher::default(), bytes: 0 }
    }

    fn content(self) -> io::Result<Content> {
        match self.file {
            Some(file) => Ok(Content::File(file.into_inner().map_err(io::IntoInnerError::into_error)?)),
            None => Ok(Content::Memory(self.memory.into())),
        }
    }
}

impl Write for Digesting {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.digest.update(buffer);
        self.bytes += buffer.len() as u64;
        if let Some(file) = &mut self.file {
            file.write_all(buffer)?;
        } else {
            // At once, since memory that is not written to costs nothing: growing would copy all of it, into fresh memory.
            self.memory.reserve(MEMORY_BYTES_MAX.saturating_sub(self.memory.len()));
            self.memory.extend_from_slice(buffer);
            if self.memory.len() > MEMORY_BYTES_MAX {
                let mut file = BufWriter::new(self.scratch.file()?);
                file.write_all(&std::mem::take(&mut self.memory))?;
                self.file = Some(file);
            }
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl PartWriter {
    pub fn new(scratch: &Scratch) -> Self {
        Self {
            out: Out::Ready(Box::new(Digesting::new(scratch))),
            partition: Int32Builder::new(),
            key: BinaryBuilder::new(),
            value: BinaryBuilder::with_capacity(BATCH_ROWS, BATCH_BYTES),
            timestamp: Int64Builder::new(),
            event_id: StringBuilder::new(),
            source: StringBuilder::new(),
            event_type: StringBuilder::new(),
            held_bytes: 0,
            rows: 0,
        }
    }

    pub fn push(&mut self, record: &StagedRecord<'_>) -> Result<(), StagedError> {
        self.partition.append_value(record.partition);
        self.key.append_option(record.key);
        self.value.append_value(record.value);
        self.timestamp.append_value(record.timestamp_ms);
        self.event_id.append_value(record.event_id);
        self.source.append_value(record.source);
        self.event_type.append_value(record.event_type);
        self.rows += 1;
        self.held_bytes += record.value.len() + record.key.map_or(0, <[u8]>::len) + record.event_id.len();
        if self.partition.values_slice().len() >= BATCH_ROWS || self.held_bytes >= BATCH_BYTES { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> Result<(), StagedError> {
        self.held_bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.partition.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.event_id.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.event_type.finish()),
        ];
        // Grown step by step, all values would be copied once more.
        self.value = BinaryBuilder::with_capacity(BATCH_ROWS, BATCH_BYTES);
        let batch = RecordBatch::try_new(schema(), columns)?;
        let writer = self.out.begin(&batch)?;
        if batch.num_rows() > 0 {
            writer.write(&batch)?;
        }
        if writer.in_progress_size() >= ROW_GROUP_BYTES {
            writer.flush()?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<WrittenPart, StagedError> {
        self.write_batch()?;
        let Out::Begun(writer) = self.out else { return Err(StagedError::Columns) };
        let sink = writer.into_inner()?;
        let (bytes, digest) = (sink.bytes, sink.digest.clone().finish());
        Ok(WrittenPart { content: sink.content().map_err(StagedError::Scratch)?, digest, bytes, rows: self.rows })
    }
}

impl Out {
    /// The writer; the first batch chooses the compression.
    fn begin(&mut self, first: &RecordBatch) -> Result<&mut ArrowWriter<Digesting>, StagedError> {
        if let Self::Ready(_) = self
            && let Self::Ready(sink) = std::mem::replace(self, Self::Lost)
        {
            let values = first.column(VALUE_COLUMN).as_binary_opt::<i32>().map(BinaryArray::value_data).unwrap_or_default();
            let properties = properties(compression_for(values)?);
            *self = Self::Begun(Box::new(ArrowWriter::try_new(*sink, schema(), Some(properties))?));
        }
        match self {
            Self::Begun(writer) => Ok(writer),
            Self::Ready(_) | Self::Lost => Err(StagedError::Columns),
        }
    }
}

fn properties(compression: Compression) -> WriterProperties {
    // Few distinct sources, types and partitions are worth a dictionary; what differs from record to record is not.
    let plain = ["key", "value", "timestamp_ms", "event_id"].into_iter();
    plain
        .fold(WriterProperties::builder(), |builder, column| builder.set_column_dictionary_enabled(column.into(), false))
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by("weir".to_owned())
        .build()
}

/// Whether values are worth compressing, by the first of them.
fn compression_for(values: &[u8]) -> Result<Compression, StagedError> {
    let sample = &values[..values.len().min(SAMPLE_BYTES)];
    let compressed = zstd::bulk::compress(sample, LEVEL).map_err(StagedError::Compression)?;
    let pays = compressed.len() * 100 <= sample.len() * COMPRESSED_PERCENT_MAX;
    Ok(if pays { Compression::ZSTD(ZstdLevel::try_new(LEVEL)?) } else { Compression::UNCOMPRESSED })
}

/// Reads a part, a batch at a time.
pub struct PartReader {
    batches: ParquetRecordBatchReader,
}

/// Some records of a part.
pub struct StagedBatch {
    partition: Int32Array,
    key: BinaryArray,
    value: BinaryArray,
    timestamp: Int64Array,
    event_id: StringArray,
    source: StringArray,
    event_type: StringArray,
}

impl PartReader {
    /// Reads from row `skip` on.
    pub fn open(file: impl ChunkReader + 'static, skip: u64) -> Result<Self, StagedError> {
        let skip = usize::try_from(skip).map_err(|_| StagedError::Columns)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        if builder.schema().fields() != schema().fields() {
            return Err(StagedError::Columns);
        }
        Ok(Self { batches: builder.with_batch_size(BATCH_ROWS).with_offset(skip).build()? })
    }
}

impl Iterator for PartReader {
    type Item = Result<StagedBatch, StagedError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.map_err(StagedError::Arrow).and_then(|batch| StagedBatch::of(&batch).ok_or(StagedError::Columns)))
    }
}

impl StagedBatch {
    /// The columns by their types; `None` if they are others.
    fn of(batch: &RecordBatch) -> Option<Self> {
        let column = |index: usize| batch.columns().get(index);
        Some(Self {
            partition: column(0)?.as_primitive_opt::<Int32Type>()?.clone(),
            key: column(1)?.as_binary_opt()?.clone(),
            value: column(2)?.as_binary_opt()?.clone(),
            timestamp: column(3)?.as_primitive_opt::<Int64Type>()?.clone(),
            event_id: column(4)?.as_string_opt()?.clone(),
            source: column(5)?.as_string_opt()?.clone(),
            event_type: column(6)?.as_string_opt()?.clone(),
        })
    }

    /// One record; `None` behind the last.
    pub fn record(&self, row: usize) -> Option<StagedRecord<'_>> {
        (row < self.partition.len()).then(|| StagedRecord {
            partition: self.partition.value(row),
            key: self.key.is_valid(row).then(|| self.key.value(row)),
            value: self.value.value(row),
            timestamp_ms: self.timestamp.value(row),
            event_id: self.event_id.value(row),
            source: self.source.value(row),
            event_type: self.event_type.value(row),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn record(index: u64, value: &[u8]) -> (i32, Option<Vec<u8>>, Vec<u8>, i64, String) {
        (
            (index % 3) as i32,
            (!index.is_multiple_of(4)).then(|| index.to_le_bytes().to_vec()),
            value.to_vec(),
            index as i64,
            format!("id-{index}"),
        )
    }

    impl Content {
        /// All bytes, wherever they are.
        pub fn read(&self) -> io::Result<Vec<u8>> {
            match self {
                Self::Memory(bytes) => Ok(bytes.to_vec()),
                Self::File(file) => std::fs::read(file.path()),
            }
        }
    }

    /// Values that do not shrink.
    fn value(index: u64) -> Vec<u8> {
        (0..40).flat_map(|part| *ContentDigest::of(&(40 * index + part).to_le_bytes()).as_bytes()).collect()
    }

    fn write(rows: u64, scratch: &Scratch) -> WrittenPart {
        let mut writer = PartWriter::new(scratch);
        for index in 0..rows {
            let (partition, key, value, timestamp_ms, event_id) = record(index, &value(index));
            let staged = StagedRecord {
                partition,
                key: key.as_deref(),
                value: &value,
                timestamp_ms,
                event_id: &event_id,
                source: "s",
                event_type: "t",
            };
            writer.push(&staged).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn only_values_that_shrink_by_it_are_compressed() {
        let alike = b"{\"name\":\"value\"}".repeat(5000);
        assert!(matches!(compression_for(&alike).unwrap(), Compression::ZSTD(_)));
        let random: Vec<u8> = (0..5000u64).flat_map(|n| ContentDigest::of(&n.to_le_bytes()).to_string().into_bytes()).collect();
        assert_eq!(compression_for(&random).unwrap(), Compression::UNCOMPRESSED);
        // An empty part has nothing to go by.
        assert!(compression_for(b"").is_ok());
    }

    #[test]
    fn a_part_reads_back_from_any_row_and_is_the_same_twice() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path(), None).unwrap();
        // Beyond what is held in memory, and within.
        check_part(9_000, &scratch);
        check_part(2_000, &scratch);
    }

    fn check_part(rows: u64, scratch: &Scratch) {
        let part = write(rows, scratch);
        assert_eq!(matches!(part.content, Content::File(_)), part.bytes > MEMORY_BYTES_MAX as u64);
        assert_eq!(part.rows, rows);
        assert_eq!(part.digest, write(rows, scratch).digest);
        assert_eq!(part.digest, ContentDigest::of(&part.content.read().unwrap()));
        assert_eq!(part.bytes, part.content.read().unwrap().len() as u64);
        for skip in [0, 1, 1023, 1024, rows - 1, rows] {
            let mut next = skip;
            for batch in PartReader::open(Bytes::from(part.content.read().unwrap()), skip).unwrap() {
                let batch = batch.unwrap();
                for found in (0..).map_while(|row| batch.record(row)) {
                    let (partition, key, value, timestamp_ms, event_id) = record(next, &value(next));
                    let wanted = StagedRecord {
                        partition,
                        key: key.as_deref(),
                        value: &value,
                        timestamp_ms,
                        event_id: &event_id,
                        source: "s",
                        event_type: "t",
                    };
                    assert_eq!(found, wanted);
                    next += 1;
                }
            }
            assert_eq!(next, rows);
        }
    }
}
