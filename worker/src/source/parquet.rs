//! Parquet objects, read row group by row group through ranged GETs of what is needed of them.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use datafusion::parquet::basic::Type as PhysicalType;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataReader};
use datafusion::parquet::schema::types::{SchemaDescriptor, Type};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use weir_crds::columns::Columns;

use super::error::SourceError;
use super::fetch::{Fetcher, RANGE_BYTES};
use super::list::SourceObject;
use crate::decode::parquet::mismatch;

/// Rows of one batch.
pub const BATCH_ROWS: usize = 8192;
/// A row group's declared columns are held in memory while it is read.
const ROW_GROUP_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The footer of most files fits, so that they cost one GET before the data.
const FOOTER_BYTES: usize = 64 * 1024;
/// GETs of one row group under way at once.
const RANGES_IN_FLIGHT: usize = 8;
/// Of an INT96.
const INT96_BYTES: i32 = 12;

/// Reads one object for the Parquet library. The library keeps only texts of errors, so the last one is kept here.
#[derive(Clone, Debug)]
pub struct ObjectReader {
    fetcher: Fetcher,
    object: Arc<SourceObject>,
    failure: Arc<Mutex<Option<SourceError>>>,
    /// The end of the object, which was read for its footer: what of the data lies in it is not read again.
    tail: Arc<Mutex<Option<(u64, Bytes)>>>,
}

/// An object that is open.
pub struct OpenObject {
    /// The object's own columns, those that are not declared included.
    pub schema: SchemaRef,
    /// How many rows it has.
    pub rows: u64,
    /// What reading its first rows costs.
    pub first_group_bytes: u64,
    stream: ParquetRecordBatchStream<ObjectReader>,
    rows_read: u64,
    reader: ObjectReader,
}

impl ObjectReader {
    /// A reader of one object.
    pub fn new(fetcher: &Fetcher, object: &SourceObject) -> Self {
        Self { fetcher: fetcher.clone(), object: Arc::new(object.clone()), failure: Arc::default(), tail: Arc::default() }
    }

    /// The file's metadata alone: its schema and how many rows it has.
    pub async fn metadata(&mut self) -> Result<ArrowReaderMetadata, SourceError> {
        let loaded = ArrowReaderMetadata::load_async(self, options()).await;
        loaded.map_err(|error| self.error(&error))
    }

    /// Opens the object for reading the declared columns.
    pub async fn open(self, columns: &Columns) -> Result<OpenObject, SourceError> {
        let reader = self.clone();
        reader.or_panic(self.try_open(columns)).await?
    }

    async fn try_open(mut self, columns: &Columns) -> Result<OpenObject, SourceError> {
        let metadata = self.metadata().await?;
        let schema = Arc::clone(metadata.schema());
        if let Some(problem) = mismatch(&schema, columns) {
            return Err(SourceError::Mismatch { object: self.object.uri(), problem });
        }
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
        let declared = schema.fields().iter().enumerate().filter(|(_, f)| columns.iter().any(|c| c.name == *f.name()));
        let roots: Vec<usize> = declared.map(|(index, _)| index).collect();
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
        let mut first_group_bytes = None;
        for group in metadata.metadata().row_groups() {
            let wanted = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
            let bytes: u64 = wanted.map(|(_, column)| column.byte_range().1).sum();
            first_group_bytes.get_or_insert(bytes);
            if bytes > ROW_GROUP_BYTES_MAX {
                let problem = format!("a row group has {bytes} bytes of declared columns, more than {ROW_GROUP_BYTES_MAX}");
                return Err(self.unreadable(problem));
            }
        }
        let metadata = int96_as_bytes(metadata).map_err(|error| self.error(&error))?;
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.clone(), metadata);
        let built = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
        let stream = built.map_err(|error| self.error(&error))?;
        Ok(OpenObject { schema, rows, first_group_bytes: first_group_bytes.unwrap_or(0), stream, rows_read: 0, reader: self })
    }

    /// The library panics at some damage. To weir that is an object that cannot be read, as others are.
    async fn or_panic<T>(&self, reading: impl Future<Output = T>) -> Result<T, SourceError> {
        AssertUnwindSafe(reading).catch_unwind().await.map_err(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            self.unreadable(format!("the Parquet library panicked: {}", words.unwrap_or("without a word")))
        })
    }

    /// What a failure of the library really was.
    fn error(&self, error: &ParquetError) -> SourceError {
        let stored = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        stored.unwrap_or_else(|| self.unreadable(error.to_string()))
    }

    fn unreadable(&self, problem: String) -> SourceError {
        SourceError::Unreadable { object: self.object.uri(), format: "Parquet", problem }
    }

    async fn fetch(&self, range: Range<u64>) -> ParquetResult<Bytes> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (tail_at, tail) = tail.unwrap_or((self.object.size, Bytes::new()));
        let fetched = range.start..range.end.min(tail_at.max(range.start));
        let starts = (fetched.start..fetched.end).step_by(RANGE_BYTES as usize);
        let parts = stream::iter(starts)
            .map(|start| self.fetcher.range(&self.object, start, (start + RANGE_BYTES).min(fetched.end)))
            .buffered(RANGES_IN_FLIGHT);
        let mut parts: Vec<Bytes> = parts.try_collect().await.map_err(|error: SourceError| {
            let text = error.to_string();
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            ParquetError::General(text)
        })?;
        if range.end > tail_at {
            // Offsets within 64 KiB.
            let from = (range.start.max(tail_at) - tail_at) as usize;
            let to = (range.end - tail_at) as usize;
            parts.push(tail.get(from..to).map(|part| tail.slice_ref(part)).unwrap_or_default());
        }
        let bytes = if parts.len() == 1 { parts.remove(0) } else { parts.concat().into() };
        if bytes.len() as u64 != range.end - range.start {
            return Err(ParquetError::EOF(format!("the object ends within bytes {} to {}", range.start, range.end)));
        }
        if range.end == self.object.size && bytes.len() <= FOOTER_BYTES {
            *self.tail.lock().unwrap_or_else(PoisonError::into_inner) = Some((range.start, bytes.clone()));
        }
        Ok(bytes)
    }
}

impl OpenObject {
    /// The next rows, declared columns only. At their end as many have come as the footer says.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SourceError> {
        let Some(next) = self.reader.or_panic(self.stream.next()).await? else {
            let Self { rows, rows_read, reader, .. } = self;
            let differs = || reader.unreadable(format!("its footer says {rows} rows, and {rows_read} were read"));
            return if rows == rows_read { Ok(None) } else { Err(differs()) };
        };
        let batch = next.map_err(|error| self.reader.error(&error))?;
        self.rows_read += batch.num_rows() as u64;
        Ok(Some(batch))
    }
}

fn options() -> ArrowReaderOptions {
    // Types come from the file's own schema, not from what a writer says that it had in memory.
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

/// The same file with every INT96 read as the bytes that it is stored as. As times the library would wrap those that do not
/// fit nanoseconds (1677 to 2262), and say nothing.
fn int96_as_bytes(metadata: ArrowReaderMetadata) -> ParquetResult<ArrowReaderMetadata> {
    if metadata.parquet_schema().columns().iter().all(|column| column.physical_type() != PhysicalType::INT96) {
        return Ok(metadata);
    }
    let whole = metadata.metadata();
    let file = whole.file_metadata();
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(type_of_bytes(file.schema()))));
    let created_by = file.created_by().map(str::to_owned);
    let file = FileMetaData::new(file.version(), file.num_rows(), created_by, None, schema, None);
    ArrowReaderMetadata::try_new(Arc::new(ParquetMetaData::new(file, whole.row_groups().to_vec())), options())
}

fn type_of_bytes(kind: &Type) -> Type {
    match kind {
        Type::GroupType { basic_info, fields } => {
            let fields = fields.iter().map(|field| Arc::new(type_of_bytes(field))).collect();
            Type::GroupType { basic_info: basic_info.clone(), fields }
        }
        Type::PrimitiveType { basic_info, physical_type: PhysicalType::INT96, scale, precision, .. } => Type::PrimitiveType {
            basic_info: basic_info.clone(),
            physical_type: PhysicalType::FIXED_LEN_BYTE_ARRAY,
            type_length: INT96_BYTES,
            scale: *scale,
            precision: *precision,
        },
        Type::PrimitiveType { .. } => kind.clone(),
    }
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        let reader = self.clone();
        async move { reader.fetch(range).await }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        let reader = self.clone();
        async move {
            let reader = &reader;
            stream::iter(ranges).map(|range| reader.fetch(range)).buffered(RANGES_IN_FLIGHT).try_collect().await
        }
        .boxed()
    }

    fn get_metadata<'a>(&'a mut self, _options: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.object.size;
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
            Ok(Arc::new(reader.load_and_finish(&mut *self, size).await?))
        }
        .boxed()
    }
}
