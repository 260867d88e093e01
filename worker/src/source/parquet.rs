//! Parquet objects, read row group by row group through ranged GETs of what is needed of them.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use datafusion::parquet::basic::{ConvertedType, Encoding, LogicalType, Type as PhysicalType};
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataReader};
use datafusion::parquet::schema::types::{BasicTypeInfo, SchemaDescriptor, Type};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, stream};
use weir_crds::columns::Columns;

use super::error::SourceError;
use super::fetch::{Fetcher, RANGE_BYTES};
use super::list::SourceObject;
use crate::decode::parquet::mismatch;

/// Rows of one batch, at most.
pub const BATCH_ROWS: usize = 8192;
/// The same where a few long values may be many rows', and nobody says so.
const BATCH_ROWS_UNKNOWN: usize = 1024;
/// What the rows of a batch have together, as far as the footer tells.
const BATCH_BYTES: u64 = 16 * 1024 * 1024;
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

    /// Opens the object for reading the declared columns, which are held in memory for a row group at a time.
    pub async fn open(self, columns: &Columns, row_group_bytes_max: u64) -> Result<OpenObject, SourceError> {
        let reader = self.clone();
        reader.or_panic(self.try_open(columns, row_group_bytes_max)).await?
    }

    async fn try_open(mut self, columns: &Columns, row_group_bytes_max: u64) -> Result<OpenObject, SourceError> {
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
        let mut batch_rows = BATCH_ROWS;
        for group in metadata.metadata().row_groups() {
            let wanted = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
            let bytes: u64 = wanted.clone().map(|(_, column)| column.byte_range().1).sum();
            first_group_bytes.get_or_insert(bytes);
            let decoded_bytes: u64 = wanted.clone().map(|(_, column)| decoded_bytes(column)).sum();
            let row_bytes = decoded_bytes.checked_div(u64::try_from(group.num_rows()).unwrap_or(0)).unwrap_or(0);
            let rows = usize::try_from(BATCH_BYTES / row_bytes.max(1)).unwrap_or(BATCH_ROWS).max(1);
            let rows_max =
                if wanted.into_iter().any(|(_, column)| may_repeat_long_values(column)) { BATCH_ROWS_UNKNOWN } else { BATCH_ROWS };
            batch_rows = batch_rows.min(rows).min(rows_max);
            if bytes > row_group_bytes_max {
                let object = self.object.uri();
                return Err(SourceError::RowGroup { object, bytes, max: row_group_bytes_max });
            }
        }
        let metadata = safely_typed(metadata).map_err(|error| self.error(&error))?;
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.clone(), metadata);
        let built = builder.with_projection(mask).with_batch_size(batch_rows).build();
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
        let from_tail = (range.end > tail_at).then(|| {
            // Offsets within 64 KiB.
            let from = (range.start.max(tail_at) - tail_at) as usize;
            let to = (range.end - tail_at) as usize;
            Ok(tail.get(from..to).map(|part| tail.slice_ref(part)).unwrap_or_default())
        });
        let wanted = (range.end - range.start).min(self.object.size);
        let bytes = in_a_row(parts.chain(stream::iter(from_tail)), wanted).await.map_err(|error| {
            let text = error.to_string();
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            ParquetError::General(text)
        })?;
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

/// What a column's values of a row group become in memory, as far as the footer tells.
fn decoded_bytes(column: &ColumnChunkMetaData) -> u64 {
    /// Of a number, or of the offset of a value of any length.
    const VALUE_BYTES: i32 = 8;
    let values = column.num_values().saturating_mul(column.column_descr().type_length().max(VALUE_BYTES).into());
    let texts = column.unencoded_byte_array_data_bytes().unwrap_or_else(|| column.uncompressed_size());
    u64::try_from(values.saturating_add(texts)).unwrap_or(0)
}

/// Whether values of any length are stored once for many, or what they begin with is, and the footer does not say how long all of
/// them are together.
fn may_repeat_long_values(column: &ColumnChunkMetaData) -> bool {
    const REPEATING: [Encoding; 3] = [Encoding::PLAIN_DICTIONARY, Encoding::RLE_DICTIONARY, Encoding::DELTA_BYTE_ARRAY];
    let repeats = column.encodings().any(|encoding| REPEATING.contains(&encoding));
    repeats && column.column_type() == PhysicalType::BYTE_ARRAY && column.unencoded_byte_array_data_bytes().is_none()
}

/// The parts as one. A single one is not copied, and several not held twice.
async fn in_a_row(parts: impl Stream<Item = Result<Bytes, SourceError>>, wanted: u64) -> Result<Bytes, SourceError> {
    let mut parts = std::pin::pin!(parts);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let first = parts.try_next().await?.unwrap_or_default();
    if first.len() >= wanted {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(wanted);
    whole.extend_from_slice(&first);
    while let Some(part) = parts.try_next().await? {
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

fn options() -> ArrowReaderOptions {
    // Types come from the file's own schema, not from what a writer says that it had in memory.
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

/// The same file with every INT96 read as the bytes that it is stored as, and all text declared as what the library checks to be
/// UTF-8. As times the library would wrap INT96 that do not fit nanoseconds (1677 to 2262), and say nothing; text that has only the
/// newer annotation, or that of JSON, it would believe.
fn safely_typed(metadata: ArrowReaderMetadata) -> ParquetResult<ArrowReaderMetadata> {
    if metadata.parquet_schema().columns().iter().all(|column| {
        let is_int96 = column.physical_type() == PhysicalType::INT96;
        !is_int96 && !is_unchecked_text(column.self_type().get_basic_info())
    }) {
        return Ok(metadata);
    }
    let whole = metadata.metadata();
    let file = whole.file_metadata();
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(safe_type(file.schema())?)));
    let created_by = file.created_by().map(str::to_owned);
    let file = FileMetaData::new(file.version(), file.num_rows(), created_by, None, schema, None);
    ArrowReaderMetadata::try_new(Arc::new(ParquetMetaData::new(file, whole.row_groups().to_vec())), options())
}

/// Whether it becomes text and the library would not look at its bytes.
fn is_unchecked_text(info: &BasicTypeInfo) -> bool {
    let is_text = matches!(info.logical_type_ref(), Some(LogicalType::String | LogicalType::Json))
        || info.logical_type_ref().is_none() && info.converted_type() == ConvertedType::JSON;
    is_text && info.converted_type() != ConvertedType::UTF8
}

fn safe_type(kind: &Type) -> ParquetResult<Type> {
    Ok(match kind {
        Type::GroupType { basic_info, fields } => {
            let fields = fields.iter().map(|field| Ok(Arc::new(safe_type(field)?))).collect::<ParquetResult<_>>()?;
            Type::GroupType { basic_info: basic_info.clone(), fields }
        }
        Type::PrimitiveType { basic_info, physical_type, .. } if is_unchecked_text(basic_info) => {
            Type::primitive_type_builder(basic_info.name(), *physical_type)
                .with_repetition(basic_info.repetition())
                .with_converted_type(ConvertedType::UTF8)
                .with_logical_type(Some(LogicalType::String))
                .with_id(basic_info.has_id().then(|| basic_info.id()))
                .build()?
        }
        Type::PrimitiveType { basic_info, physical_type: PhysicalType::INT96, scale, precision, .. } => Type::PrimitiveType {
            basic_info: basic_info.clone(),
            physical_type: PhysicalType::FIXED_LEN_BYTE_ARRAY,
            type_length: INT96_BYTES,
            scale: *scale,
            precision: *precision,
        },
        Type::PrimitiveType { .. } => kind.clone(),
    })
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
