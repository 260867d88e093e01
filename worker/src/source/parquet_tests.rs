//! Parquet objects as they are read from a store.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, AsArray as _, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::column::writer::ColumnWriter;
use datafusion::parquet::data_type::{ByteArray, ByteArrayType, Int96, Int96Type};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::file::writer::SerializedFileWriter;
use datafusion::parquet::schema::parser::parse_message_type;
use weir_crds::columns::Columns;
use weir_crds::contract::result::FailureCode;

use super::SourceError;
use super::parquet::ObjectReader;
use super::stand_in::store;
use crate::decode::reject::Reason;
use crate::decode::{Decoded, parquet, time::parse_rfc3339};
use crate::termination::Explain as _;

/// All rows of a file, and its own columns.
async fn read(file: &[u8], columns: &str) -> Result<(Vec<RecordBatch>, SchemaRef), SourceError> {
    let (fetcher, objects) = store(&[("file", file)]).await;
    let mut open = ObjectReader::new(&fetcher, &objects[0]).open(&Columns::parse(columns).unwrap(), ROW_GROUP_BYTES_MAX).await?;
    let mut batches = Vec::new();
    while let Some(batch) = open.next().await? {
        batches.push(batch);
    }
    Ok((batches, open.schema))
}

const ROW_GROUP_BYTES_MAX: u64 = 1 << 20;

fn three_rows() -> Vec<u8> {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![1, 2, 3]))]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.into_inner().unwrap()
}

/// The file with other bytes in the one place that has `found`.
fn changed(mut file: Vec<u8>, found: &[u8], wanted: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..file.len()).filter(|at| file[*at..].starts_with(found)).collect();
    let [at] = places[..] else { panic!("found at {places:?}") };
    file.splice(at..at + found.len(), wanted.iter().copied());
    file
}

#[tokio::test]
async fn damage_is_the_objects_fault_however_the_library_takes_it() {
    let (batches, _) = read(&three_rows(), "n bigint").await.unwrap();
    assert_eq!(batches[0]["n"].as_primitive::<Int64Type>().values().to_vec(), [1, 2, 3]);
    // In the page's head the encodings of values and levels: plain becomes that of a dictionary, which there is none of.
    let no_dictionary = changed(three_rows(), &[0x15, 0x00, 0x15, 0x06, 0x15, 0x06], &[0x15, 0x10, 0x15, 0x06, 0x15, 0x06]);
    // In the footer three rows become four.
    let more_rows = changed(three_rows(), &[0x16, 0x06, 0x19], &[0x16, 0x08, 0x19]);
    for (file, expected) in [(no_dictionary, "the Parquet library panicked: "), (more_rows, "its footer says 4 rows, and 3 were read")] {
        let error = read(&file, "n bigint").await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("s3://bucket/file cannot be read as Parquet: ") && text.contains(expected), "{text}");
        assert_eq!(error.code(), FailureCode::SourceCorrupt);
    }
}

#[tokio::test]
async fn a_row_group_that_the_worker_cannot_hold_is_refused() {
    let file = three_rows();
    let (fetcher, objects) = store(&[("file", &file)]).await;
    let columns = Columns::parse("n bigint").unwrap();
    let open = async |max| ObjectReader::new(&fetcher, &objects[0]).open(&columns, max).await.map(|open| open.first_group_bytes);
    let bytes = open(ROW_GROUP_BYTES_MAX).await.unwrap();
    assert_eq!(open(bytes).await.unwrap(), bytes);
    let error = open(bytes - 1).await.unwrap_err();
    assert_eq!(error.code(), FailureCode::TooLarge);
    assert!(error.remedy().unwrap().contains("workers.memory"));
}

#[tokio::test]
async fn long_rows_come_in_smaller_batches() {
    let schema = Arc::new(Schema::new(vec![Field::new("s", DataType::Utf8, false)]));
    let long: Vec<String> = (0..600).map(|n| format!("{n:060000}")).collect();
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(StringArray::from(long.clone()))]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    let (fetcher, objects) = store(&[("file", &writer.into_inner().unwrap())]).await;
    let mut open = ObjectReader::new(&fetcher, &objects[0]).open(&Columns::parse("s string").unwrap(), u64::MAX).await.unwrap();
    let mut seen = Vec::new();
    while let Some(batch) = open.next().await.unwrap() {
        assert!((1..=280).contains(&batch.num_rows()), "{} rows of 60 kB", batch.num_rows());
        let texts = batch["s"].as_any().downcast_ref::<StringArray>().unwrap();
        seen.extend(texts.iter().map(|text| text.unwrap().to_owned()));
    }
    assert_eq!(seen, long);
}

fn int96(micros: i64, nanos_more: i64) -> Int96 {
    const DAY_MICROS: i64 = 86_400_000_000;
    let nanos = micros.rem_euclid(DAY_MICROS) * 1000 + nanos_more;
    let mut value = Int96::new();
    value.set_data(nanos as u32, (nanos >> 32) as u32, (micros.div_euclid(DAY_MICROS) + 2_440_588) as u32);
    value
}

/// A file of one column `t` and the same in a struct `s`, with a null behind the values.
fn int96_file(values: &[Int96], with_dictionary: bool) -> Vec<u8> {
    let schema = parse_message_type("message m { OPTIONAL INT96 t; OPTIONAL group s { OPTIONAL INT96 t; } }").unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(with_dictionary).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for depth in [1, 2] {
        let mut column = group.next_column().unwrap().unwrap();
        let mut levels = vec![depth; values.len()];
        levels.push(0);
        column.typed::<Int96Type>().write_batch(values, Some(&levels), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

async fn decoded(file: &[u8]) -> Decoded {
    let columns = "t timestamp, s struct<t: timestamp>";
    let (batches, schema) = read(file, columns).await.unwrap();
    parquet::decode(&batches[0], &Columns::parse(columns).unwrap(), &schema, 0, 1).unwrap()
}

#[tokio::test]
async fn int96_is_read_to_the_microsecond_over_all_years() {
    let times = ["2026-11-03T06:00:00.123456Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59Z"];
    let times = times.map(|time| parse_rfc3339(time.as_bytes()).unwrap());
    for with_dictionary in [true, false] {
        let decoded = decoded(&int96_file(&times.map(|micros| int96(micros, 0)), with_dictionary)).await;
        assert_eq!(decoded.rejected, []);
        for column in [&decoded.batch["t"], decoded.batch["s"].as_struct().column(0)] {
            let column = column.as_primitive::<TimestampMicrosecondType>();
            assert_eq!((&column.values()[..4], column.len(), column.null_count()), (&times[..], 5, 1));
        }
    }
}

#[tokio::test]
async fn int96_that_no_microsecond_is_rejects_its_row() {
    let (good, mut far) = (parse_rfc3339(b"2026-11-03T06:00:00Z").unwrap(), Int96::new());
    far.set_data(0, 0, i32::MAX as u32);
    let decoded = decoded(&int96_file(&[int96(good, 0), int96(good, 1), far], true)).await;
    let found: Vec<_> = decoded.rejected.iter().map(|row| (row.row, row.fault.reason, row.fault.path.as_str())).collect();
    assert_eq!(found, [(2, Reason::NotExact, "t"), (3, Reason::OutOfRange, "t")]);
    assert_eq!(decoded.batch["t"].as_primitive::<TimestampMicrosecondType>().value(0), good);
}

#[tokio::test]
async fn int96_is_a_time_to_those_who_read_its_row_and_to_the_declaration() {
    let good = parse_rfc3339(b"2026-11-03T06:00:00Z").unwrap();
    let file = int96_file(&[int96(good, 0)], true);
    let (batches, schema) = read(&file, "t timestamp").await.unwrap();
    let row = String::from_utf8(parquet::row_as_json(&batches[0], 0, &schema)).unwrap();
    assert_eq!(row, r#"{"t":"2026-11-03T06:00:00Z"}"#);
    let error = read(&file, "t binary").await.unwrap_err();
    assert!(matches!(error, SourceError::Mismatch { .. }), "{error}");
}

/// A file of one optional group with a required leaf: rows are null, 7, null, 9.
fn required_leaf(leaf: &str) -> Vec<u8> {
    let schema = parse_message_type(&format!("message m {{ OPTIONAL group user {{ {leaf} }} }}")).unwrap();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(WriterProperties::builder().build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    while let Some(mut column) = group.next_column().unwrap() {
        let levels = [0, 1, 0, 1];
        if let ColumnWriter::Int64ColumnWriter(typed) = column.untyped() {
            typed.write_batch(&[7, 9], Some(&levels), None).unwrap();
        } else {
            column.typed::<ByteArrayType>().write_batch(&[ByteArray::from("a"), ByteArray::from("b")], Some(&levels), None).unwrap();
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn a_field_of_a_null_struct_is_null_and_not_that_of_another_row() {
    let numbers = (required_leaf("REQUIRED INT64 v;"), "user struct<v: bigint>");
    let texts = (required_leaf("REQUIRED BYTE_ARRAY v (UTF8);"), "user struct<v: string>");
    for (file, columns) in [numbers, texts] {
        let (batches, schema) = read(&file, columns).await.unwrap();
        let decoded = parquet::decode(&batches[0], &Columns::parse(columns).unwrap(), &schema, 0, 1).unwrap();
        let field = decoded.batch["user"].as_struct().column(0).clone();
        let nulls: Vec<bool> = (0..4).map(|row| field.is_null(row)).collect();
        assert_eq!(nulls, [true, false, true, false], "{columns}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_never_taken_for_text() {
    for annotation in ["UTF8", "JSON"] {
        let schema = parse_message_type(&format!("message m {{ REQUIRED BYTE_ARRAY s ({annotation}); }}")).unwrap();
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(WriterProperties::builder().build())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[ByteArray::from(b"caf\xe9".to_vec())], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        let error = read(&writer.into_inner().unwrap(), "s string").await.unwrap_err();
        assert_eq!(error.code(), FailureCode::SourceCorrupt, "{annotation}: {error}");
    }
}
