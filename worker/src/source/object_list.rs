//! The list of a plan's source objects as Parquet: one row each, in the order of the plan, which is what `__object` counts.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;
use thiserror::Error;
use weir_crds::window::Interval;

use super::list::SourceObject;

/// Rows of one batch while writing and reading.
const BATCH_ROWS: usize = 8192;

/// Why a list could not be written or read.
#[derive(Debug, Error)]
pub enum ObjectListError {
    /// Writing or reading Parquet failed.
    #[error("the list of source objects is no Parquet file that can be read")]
    Parquet(#[from] ParquetError),
    /// A batch could not be built or read.
    #[error("the list of source objects cannot be decoded")]
    Arrow(#[from] ArrowError),
    /// Its columns are others.
    #[error("the list of source objects has other columns than this version of weir writes")]
    Columns,
    /// The rows asked for are not there.
    #[error("the list of source objects has no rows {first} to {end}")]
    Rows {
        /// First row.
        first: u64,
        /// Row behind the last.
        end: u64,
    },
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("bucket", DataType::Utf8, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("version", DataType::Utf8, true),
        Field::new("etag", DataType::Utf8, false),
        Field::new("size", DataType::UInt64, false),
        Field::new("arrival_start_us", DataType::Int64, true),
        Field::new("arrival_end_us", DataType::Int64, true),
    ]))
}

/// The list as the bytes of a Parquet file; equal lists give equal bytes.
pub fn write(objects: &[SourceObject]) -> Result<Bytes, ObjectListError> {
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).set_created_by("weir".to_owned()).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema(), Some(properties))?;
    for part in objects.chunks(BATCH_ROWS) {
        let text = |of: fn(&SourceObject) -> &str| Arc::new(StringArray::from_iter_values(part.iter().map(of))) as ArrayRef;
        let time = |of: fn(&Interval) -> i64| Arc::new(Int64Array::from_iter(part.iter().map(|o| o.arrival.as_ref().map(of)))) as ArrayRef;
        let columns = vec![
            text(|o| &o.bucket),
            text(|o| &o.key),
            Arc::new(StringArray::from_iter(part.iter().map(|o| o.version.as_deref()))),
            text(|o| &o.etag),
            Arc::new(UInt64Array::from_iter_values(part.iter().map(|o| o.size))),
            time(|i| i.start_us),
            time(|i| i.end_us),
        ];
        writer.write(&RecordBatch::try_new(schema(), columns)?)?;
    }
    Ok(Bytes::from(writer.into_inner()?))
}

/// Rows `first .. first + count` of a list.
pub fn read(file: Bytes, first: u32, count: u32) -> Result<Vec<SourceObject>, ObjectListError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?
        .with_offset(first as usize)
        .with_limit(count as usize)
        .with_batch_size(BATCH_ROWS)
        .build()?;
    let mut objects = Vec::with_capacity(count as usize);
    for batch in reader {
        read_batch(&batch?, &mut objects).ok_or(ObjectListError::Columns)?;
    }
    if objects.len() != count as usize {
        return Err(ObjectListError::Rows { first: u64::from(first), end: u64::from(first) + u64::from(count) });
    }
    Ok(objects)
}

fn read_batch(batch: &RecordBatch, into: &mut Vec<SourceObject>) -> Option<()> {
    let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
    let time = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let (bucket, key, version, etag) = (text("bucket")?, text("key")?, text("version")?, text("etag")?);
    let size = batch.column_by_name("size")?.as_primitive_opt::<UInt64Type>()?;
    let (start, end) = (time("arrival_start_us")?, time("arrival_end_us")?);
    for row in 0..batch.num_rows() {
        let arrival = (start.is_valid(row) && end.is_valid(row)).then(|| Interval { start_us: start.value(row), end_us: end.value(row) });
        into.push(SourceObject {
            bucket: bucket.value(row).to_owned(),
            key: key.value(row).to_owned(),
            version: version.is_valid(row).then(|| version.value(row).to_owned()),
            etag: etag.value(row).to_owned(),
            size: size.value(row),
            arrival,
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn object(n: u64) -> SourceObject {
        SourceObject {
            bucket: "b".into(),
            key: format!("k/{n:06}"),
            version: n.is_multiple_of(3).then(|| format!("v{n}")),
            etag: format!("\"e{n}\""),
            size: n * 10,
            arrival: n.is_multiple_of(2).then_some(Interval { start_us: n as i64, end_us: n as i64 + 5 }),
        }
    }

    #[test]
    fn any_part_of_a_list_reads_as_it_was_written() {
        let objects: Vec<_> = (0..20_000).map(object).collect();
        let file = write(&objects).unwrap();
        assert_eq!(file, write(&objects).unwrap());
        for (first, count) in [(0, 20_000), (8190, 5), (19_999, 1), (5, 0)] {
            assert_eq!(read(file.clone(), first, count).unwrap(), objects[first as usize..(first + count) as usize]);
        }
        assert!(matches!(read(file, 19_999, 2), Err(ObjectListError::Rows { .. })));
        assert_eq!(read(write(&[]).unwrap(), 0, 0).unwrap(), []);
        assert!(matches!(read(Bytes::from_static(b"no Parquet"), 0, 1), Err(ObjectListError::Parquet(_))));
    }
}
