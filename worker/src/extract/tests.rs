//! Blocks to selected rows and quarantine, without a store.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch};
use datafusion::arrow::datatypes::{UInt16Type, UInt32Type, UInt64Type};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use weir_crds::backfill_job::{EventColumns, SourceFormat};
use weir_crds::columns::Columns;
use weir_crds::contract::digest::{ContentDigest, Sha256Digest};
use weir_crds::contract::result::FailureCode;
use weir_crds::window::{Interval, Slicing};

use super::counts::Counts;
use super::quarantine::{QuarantineWriter, QuarantinedRow};
use super::segments::{FLUSH_BYTES, SegmentWriter, Written};
use super::work::{Processed, Shared, Worker, segment_schema};
use crate::decode::{Batch, Decoder, LineSplitter};
use crate::scratch::Scratch;
use crate::select::{CheckedSelect, Evaluator, Normalizer, ResultShape};
use crate::source::SourceObject;
use crate::termination::Explain as _;

const COLUMNS: &str = "id string, ts timestamp, kind string, n bigint, tags array<string>";
const SELECT: &str = "SELECT id AS event_id, ts AS event_time, kind AS event_type, n, unnest(tags) AS tag FROM logs WHERE n <> 0";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn micros(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

fn worker() -> Worker {
    worker_reading(SourceFormat::JsonLines)
}

/// A worker on two objects of 06:00 to 07:00 with an hour of lateness; slices from 05:00 to 08:00, 05:30 to 05:45 excluded.
fn worker_reading(format: SourceFormat) -> Worker {
    let columns = Columns::parse(COLUMNS).unwrap();
    let select = block_on(CheckedSelect::new("logs", &columns, SELECT)).unwrap();
    let names = EventColumns { event_id: "event_id".into(), event_time: "event_time".into(), event_type: "event_type".into(), key: None };
    let shape = ResultShape::merge(std::slice::from_ref(&select), &names).unwrap();
    let window = serde_json::json!({"start": "2026-11-03T05:00:00Z", "end": "2026-11-03T08:00:00Z", "slice": "15m",
        "exclude": [{"start": "2026-11-03T05:30:00Z", "end": "2026-11-03T05:45:00Z", "reason": "done"}]});
    let object = |key: &str| SourceObject {
        bucket: "bucket".into(),
        key: key.into(),
        version: None,
        etag: "\"tag\"".into(),
        size: 1,
        arrival: None,
    };
    let allowed = Interval { start_us: micros("2026-11-03T05:00:00Z"), end_us: micros("2026-11-03T07:00:00Z") };
    let shared = Shared {
        source: "logs".into(),
        source_ordinal: 2,
        objects: vec![object("a"), object("b")].into(),
        first_object: 40,
        allowed: vec![Some(allowed), None],
        slicing: Slicing::new(&serde_json::from_value(window).unwrap()),
        normalizer: Normalizer::new(shape.clone()),
        event_time: shape.event_time,
        event_type: shape.event_type,
    };
    let evaluator = block_on(Evaluator::new(&select)).unwrap();
    Worker::new(Arc::new(shared), Decoder::new(format, &columns), evaluator)
}

fn block(object: u32, lines: &[String]) -> Batch {
    let mut splitter = LineSplitter::new(object);
    let mut blocks = Vec::new();
    splitter.push(lines.join("\n").as_bytes(), &mut blocks);
    blocks.extend(splitter.finish());
    Batch::Lines(blocks.remove(0))
}

fn line(id: &str, time: &str, n: i64, tags: &str) -> String {
    format!(r#"{{"id":"{id}","ts":"2026-11-03T{time}Z","kind":"click","n":{n},"tags":{tags},"extra":1}}"#)
}

fn lines() -> Vec<String> {
    vec![
        line("e1", "06:10:00", 1, r#"["x","y"]"#),
        line("filtered", "06:10:00", 0, r#"["x"]"#),
        line("no tags", "06:10:00", 1, "[]"),
        line("outside", "04:59:59.999999", 1, r#"["x"]"#),
        line("excluded", "05:30:00", 1, r#"["x"]"#),
        line("late", "07:00:00", 1, r#"["x"]"#),
        line("", "06:20:00", 1, r#"["x"]"#),
        "{broken".into(),
        line("e2", "05:00:00", 1, r#"["x"]"#),
        String::new(),
        line("e3", "06:59:59.999999", 1, r#"["x"]"#),
    ]
}

fn set_aside(processed: &Processed) -> Vec<(u64, &str)> {
    processed.set_aside.iter().map(|row| (row.row, row.reason.as_str())).collect()
}

/// What becomes of a batch, which is one piece unless its rows expand far.
fn process(worker: &mut Worker, batch: &Batch) -> Processed {
    let mut pieces = Vec::new();
    worker
        .batch(batch, &mut |piece| {
            pieces.push(piece);
            true
        })
        .unwrap();
    let first = pieces.remove(0);
    assert!(pieces.iter().all(|piece| piece.selected.is_empty() && piece.set_aside.is_empty()));
    first
}

#[test]
fn every_row_is_placed_once() {
    let mut lines_and_more = lines();
    lines_and_more.push(line("", "04:00:00", 1, r#"["x"]"#));
    let processed = process(&mut worker(), &block(0, &lines_and_more));
    let counts = &processed.counts;
    assert_eq!((counts.read, counts.expanded, counts.filtered_out), (11, 1, 2));
    assert_eq!((counts.invalid, counts.invalid_outside, counts.outside_window, counts.late, counts.selected), (3, 1, 2, 1, 4));
    counts.check("c").unwrap();
    assert_eq!(set_aside(&processed), [(6, "Late"), (7, "MissingEventId"), (8, "InvalidJson"), (12, "MissingEventId")]);
    let late = &processed.set_aside[0];
    assert_eq!(String::from_utf8_lossy(&late.raw), lines()[5]);
    assert!(late.detail.contains("is not in [2026-11-03T05:00:00Z, 2026-11-03T07:00:00Z)"), "{}", late.detail);
    assert_eq!((late.object.as_str(), late.pin.as_str(), late.event_type.as_deref()), ("s3://bucket/a", "\"tag\"", Some("click")));
    // 06:20 is in the fifth slice that is left: 05:00, 05:15, 05:45, 06:00, 06:15.
    assert_eq!(counts.invalid_by.iter().collect::<Vec<_>>(), [(&(4, "click".to_owned()), &1)]);
    assert_eq!(counts.reasons["MissingEventId at event_id"], 2);
    assert_eq!(processed.unknown.by_path["extra"], 10);
    let rows: Vec<_> = processed.selected.iter().map(|(slice, rows)| (*slice, rows.num_rows())).collect();
    assert_eq!(rows, [(0, 1), (3, 2), (6, 1)]);
}

#[test]
fn selected_rows_know_where_they_came_from() {
    let processed = process(&mut worker(), &block(1, &lines()));
    // The second object has no arrival: nothing in it is late.
    assert_eq!((processed.counts.late, processed.counts.selected), (0, 5));
    let rows = &processed.selected[&3];
    assert_eq!(rows["__source"].as_primitive::<UInt16Type>().values().to_vec(), [2, 2]);
    assert_eq!(rows["__object"].as_primitive::<UInt32Type>().values().to_vec(), [41, 41]);
    assert_eq!(rows["__row"].as_primitive::<UInt64Type>().values().to_vec(), [1, 1]);
    assert_eq!(rows["__sub"].as_primitive::<UInt32Type>().values().to_vec(), [0, 1]);
    assert_eq!(rows["tag"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["x", "y"]);
}

fn write_segments(scratch: &Scratch, rows: &[(usize, RecordBatch)]) -> (Written, Vec<u8>) {
    let mut writer = SegmentWriter::new(scratch.file().unwrap(), rows[0].1.schema());
    rows.iter().for_each(|(slice, rows)| writer.push(*slice, rows.clone()).unwrap());
    let written = writer.finish().unwrap();
    let mut bytes = Vec::new();
    written.file.reopen().unwrap().read_to_end(&mut bytes).unwrap();
    (written, bytes)
}

#[test]
fn rows_that_expand_come_in_pieces_and_lose_nothing() {
    let many = |n: usize, len: usize| format!("[{}]", vec![format!("\"{}\"", "x".repeat(len)); n].join(","));
    let mut lines: Vec<_> = (0..150).map(|n| line(&format!("e{n}"), "06:10:00", 1, &many(4000, 1))).collect();
    // A megabyte of id, repeated a hundred times.
    lines.insert(100, line(&"y".repeat(1 << 20), "06:10:00", 1, &many(100, 1)));
    let mut pieces = Vec::new();
    let mut worker = worker();
    worker
        .batch(&block(0, &lines), &mut |piece| {
            pieces.push(piece);
            true
        })
        .unwrap();
    assert!(pieces.len() > 3);
    let rows = |piece: &Processed| piece.selected.values().map(RecordBatch::num_rows).sum::<usize>();
    assert!(pieces.iter().all(|piece| rows(piece) <= 500_000));
    let mut total = Counts::default();
    let numbers: Vec<u64> = pieces
        .iter()
        .flat_map(|piece| piece.selected.values().flat_map(|rows| rows["__row"].as_primitive::<UInt64Type>().values().to_vec()))
        .collect();
    assert!(numbers.is_sorted() && numbers.len() == 600_000);
    pieces.into_iter().for_each(|piece| total.add(piece.counts));
    total.check("c").unwrap();
    assert_eq!((total.read, total.expanded, total.selected, total.invalid), (151, 150 * 3999, 600_000, 1));
    assert_eq!(total.reasons["ExpandsTooFar"], 1);
}

#[test]
fn rows_of_one_line_share_its_raw_bytes() {
    let tags = format!("[{}]", vec![format!("\"{}\"", "x".repeat(30)); 1000].join(","));
    // One after the other without an id, or late.
    let lines: Vec<_> =
        (0..20).map(|n| if n % 2 == 0 { line("", "06:10:00", 1, &tags) } else { line("e", "07:10:00", 1, &tags) }).collect();
    let mut rows = Vec::new();
    let mut take = |piece: Processed| {
        rows.extend(piece.set_aside);
        true
    };
    worker().batch(&block(0, &lines), &mut take).unwrap();
    assert_eq!(rows.len(), 20_000);
    assert!(rows.iter().all(|row| row.raw == lines[row.row as usize - 1].as_bytes()));
    let held: BTreeMap<_, _> = rows.iter().map(|row| (row.raw.as_ptr(), row.raw.len())).collect();
    assert_eq!(held.values().sum::<usize>(), lines.iter().map(String::len).sum::<usize>());
}

#[test]
fn records_that_cannot_be_told_apart_are_their_objects_fault() {
    let mut splitter = LineSplitter::csv(1);
    splitter.push(b"id,kind\n1,\"x\n2,y\n3,\"z\"\n", &mut Vec::new());
    let error = worker_reading(SourceFormat::Csv).batch(&Batch::Lines(splitter.finish().unwrap()), &mut |_| true).unwrap_err();
    assert!(error.to_string().starts_with("s3://bucket/b cannot be read as Csv: record 2 spans lines"), "{error}");
    assert_eq!(error.code(), FailureCode::SourceCorrupt);
}

#[test]
fn segments_read_by_themselves_and_are_the_same_every_time() {
    let parent = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(parent.path(), None).unwrap();
    let mut worker = worker();
    let lines: Vec<_> =
        (0..5000).map(|n| line(&format!("e{n}"), &format!("06:{:02}:00", n % 60), 1, &format!("[\"{}\"]", "x".repeat(200)))).collect();
    let block = block(0, &lines);
    let mut rows = Vec::new();
    for _ in 0..100 {
        rows.extend(process(&mut worker, &block).selected);
    }
    let (written, bytes) = write_segments(&scratch, &rows);
    assert!(written.segments.values().all(|segments| segments.len() > 1), "{FLUSH_BYTES} bytes make more than one segment");
    assert_eq!((written.rows, written.bytes), (500_000, bytes.len() as u64));
    let mut in_file: Vec<_> = written.segments.values().flatten().collect();
    in_file.sort_by_key(|segment| segment.offset);
    let digests: Vec<u8> = in_file.iter().flat_map(|segment| segment.digest.as_bytes().to_vec()).collect();
    assert_eq!(written.digest, ContentDigest::of(&digests));
    let mut total = 0;
    for segment in written.segments.values().flatten() {
        let range = segment.offset as usize..(segment.offset + segment.length) as usize;
        assert_eq!(segment.digest, ContentDigest::of(&bytes[range.clone()]));
        let batches: Vec<_> = StreamReader::try_new(&bytes[range], None).unwrap().map(Result::unwrap).collect();
        let sizes: Vec<u64> = batches.iter().map(|batch| batch.num_rows() as u64).collect();
        // The pieces have a few rows for each slice; all batches but the last are of a size that is worth its head.
        assert!(sizes.iter().rev().skip(1).all(|rows| (1000..3000).contains(rows)), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<u64>(), segment.rows);
        total += segment.rows;
    }
    assert_eq!(total, written.rows);
    let (again, _) = write_segments(&scratch, &rows);
    assert_eq!(again.digest, written.digest);
}

#[test]
fn only_rows_that_shrink_by_it_are_compressed() {
    let parent = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(parent.path(), None).unwrap();
    let mut worker = worker();
    let mut lengths = |tag: &dyn Fn(u64) -> String| {
        let lines: Vec<_> = (0..2000).map(|n| line(&format!("e{n}"), "06:10:00", 1, &format!("[\"{}\"]", tag(n)))).collect();
        let rows: Vec<_> = process(&mut worker, &block(0, &lines)).selected.into_iter().collect();
        let size = |rows: &RecordBatch| rows.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap()).sum::<usize>();
        (write_segments(&scratch, &rows).1.len(), rows.iter().map(|(_, rows)| size(rows)).sum::<usize>())
    };
    let (written, held) = lengths(&|_| "x".repeat(1000));
    assert!(written < held / 2, "{written} of {held}");
    let (written, held) = lengths(&|n| (0..8).map(|part| Sha256Digest::of(&(8 * n + part).to_le_bytes()).to_string()).collect());
    assert!(written >= held, "{written} of {held}");
}

#[test]
fn no_rows_make_no_segments() {
    let parent = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(parent.path(), None).unwrap();
    let columns = Columns::parse(COLUMNS).unwrap();
    let select = block_on(CheckedSelect::new("logs", &columns, SELECT)).unwrap();
    let names = EventColumns { event_id: "event_id".into(), event_time: "event_time".into(), event_type: "event_type".into(), key: None };
    let shape = ResultShape::merge(&[select], &names).unwrap();
    let written = SegmentWriter::new(scratch.file().unwrap(), segment_schema(&Normalizer::new(shape))).finish().unwrap();
    assert_eq!((written.rows, written.bytes, written.segments.len()), (0, 0, 0));
}

#[test]
fn quarantine_keeps_rows_as_they_were() {
    let parent = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(parent.path(), None).unwrap();
    let processed = process(&mut worker(), &block(0, &lines()));
    let mut writer = QuarantineWriter::new(scratch.file().unwrap()).unwrap();
    for row in &processed.set_aside {
        writer.push(row).unwrap();
    }
    // Enough raw bytes for more than one row group.
    let large = QuarantinedRow { reason: "RowTooLong".into(), raw: vec![7; 60_000], raw_bytes: 99_000_000, ..QuarantinedRow::default() };
    (0..400).for_each(|_| writer.push(&large).unwrap());
    let written = writer.finish().unwrap();
    let mut bytes = Vec::new();
    written.file.reopen().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!((written.rows, written.bytes, written.sha256), (403, bytes.len() as u64, Sha256Digest::of(&bytes)));
    let batches: Vec<_> = ParquetRecordBatchReader::try_new(bytes::Bytes::from(bytes), 1000).unwrap().map(Result::unwrap).collect();
    let first = &batches[0];
    assert_eq!(first["reason"].as_string::<i32>().iter().take(3).flatten().collect::<Vec<_>>(), ["Late", "MissingEventId", "InvalidJson"]);
    assert_eq!(first["raw"].as_binary::<i32>().value(2), b"{broken");
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 403);
}

#[test]
fn counts_of_blocks_add_up() {
    let mut worker = worker();
    let mut total = Counts::default();
    for object in [0, 1] {
        total.add(process(&mut worker, &block(object, &lines())).counts);
    }
    assert_eq!((total.read, total.selected, total.invalid, total.late), (20, 9, 4, 1));
    total.check("c").unwrap();
    let by_times: Vec<_> = total.by_times.iter().map(|(times, count)| (times.is_some(), *count)).collect();
    assert_eq!(by_times, [(false, (6, 1)), (true, (5, 1))]);
    assert_eq!(
        total.most_frequent_reasons().iter().map(|r| (r.reason.as_str(), r.rows)).collect::<Vec<_>>(),
        [("InvalidJson", 2), ("MissingEventId at event_id", 2), ("Late", 1),]
    );
}
