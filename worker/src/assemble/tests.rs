//! A slice assembled from selected rows: the same parts whatever the memory budget and the order of the segments.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeMap, io::Cursor, path::PathBuf, sync::Arc};

use bytes::Bytes;
use datafusion::arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt16Array, UInt32Array, UInt64Array},
    datatypes::{DataType, Field, Schema},
    ipc::writer::StreamWriter,
};
use serde_json::json;
use weir_crds::contract::{
    digest::Sha256Digest,
    keys::RunKeys,
    manifest::RecordsDigest,
    plan::Plan,
    run::{RunSpec, WorkerContext},
};
use weir_kafka::murmur2;
use weir_ledger::Ledger;

use super::{
    row::Buffer,
    share::ChunkShare,
    slice::{Assembled, SliceWork},
};
use crate::{
    decode::types::{OBJECT_COLUMN, ROW_COLUMN, UTC, timestamp_type},
    run::{PlannedRun, Run},
    scratch::Scratch,
    select::normalize::{SOURCE_COLUMN, SUB_COLUMN},
    staged::PartReader,
};

const START_US: i64 = 1_793_685_600_000_000;
const PARTITIONS: u32 = 11;

async fn planned(dir: &std::path::Path) -> PlannedRun {
    let run = json!({"namespace": "n", "name": "j", "generation": 1});
    let store = json!({"bucket": "artifacts", "s3": {"endpoint": "http://127.0.0.1:1", "region": "r", "pathStyle": true}});
    let spec: RunSpec = serde_json::from_value(json!({
        "format": 1, "run": run, "class": "c", "store": store, "sourceStore": store["s3"],
        "window": {"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T06:15:00Z", "slice": "15m"},
        "sources": [
            {"name": "a", "columns": "x int", "arrival": "None", "select": "SELECT 1"},
            {"name": "b", "columns": "x int", "arrival": "None", "select": "SELECT 1"}
        ],
        "reconstruct": {"columns": {"eventId": "id", "eventTime": "at", "eventType": "type", "key": "user"}},
        "sinks": [{"name": "events", "kafka": {
            "clusterRef": {"name": "k"}, "topic": "t", "mode": "InPlace", "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey",
            "value": {"format": "Json", "columns": ["id", "at", "user"]}
        }}]
    }))
    .unwrap();
    let digest = Sha256Digest::of(b"");
    let plan: Plan = serde_json::from_value(json!({
        "format": 1, "run": run, "runDigest": digest, "workerImage": "w",
        "slices": [{"id": "20261103T060000Z", "startUs": START_US, "endUs": START_US + 900_000_000}],
        "sources": [{"name": "a", "objects": 1, "bytes": 1}, {"name": "b", "objects": 1, "bytes": 1}],
        "objects": {"key": "o", "sha256": digest, "bytes": 0, "rows": 2}, "chunks": [],
        "sinks": [{"name": "events", "cluster": "k", "clusterId": "ci", "topic": "t", "topicId": "ti", "partitions": PARTITIONS, "maxMessageBytes": 1_048_588}],
        "resultColumns": [], "sizing": {"extractBytes": 1, "slicesPerUnit": 1, "bucketsPerUnit": 1},
        "estimates": {"events": 0, "bytes": 0, "objects": 0}, "sampledBytes": 0
    }))
    .unwrap();
    let context: WorkerContext = serde_json::from_value(
        json!({"run": run, "store": store, "kafka": {}, "unit": "assemble-0000", "attempt": 1, "parallelism": 1, "workerImage": "w"}),
    )
    .unwrap();
    std::fs::write(dir.join("aws-access-key-id"), "k").unwrap();
    std::fs::write(dir.join("aws-secret-access-key"), "s").unwrap();
    let run = Run {
        spec: Arc::new(spec),
        spec_digest: digest,
        keys: RunKeys::new("", &context.run),
        ledger: Ledger::connect(&context.store, Some(dir)).await.unwrap(),
        scratch: Scratch::new(dir, None).unwrap(),
        memory_bytes: 1 << 30,
        credentials_dir: Some(PathBuf::from(dir)),
        context: Arc::new(context),
    };
    PlannedRun { run, plan: Arc::new(plan), plan_hash: digest }
}

/// Rows of a segment: every third one is a duplicate of the one with a third of its number, wherever that is.
fn segment(source: u16, rows: std::ops::Range<u64>) -> (u16, Bytes) {
    let id = |row: u64| if row.is_multiple_of(3) { row / 3 } else { row };
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("at", timestamp_type(), true),
        Field::new("type", DataType::Utf8, true),
        Field::new("user", DataType::Int64, true),
        Field::new(SOURCE_COLUMN, DataType::UInt16, false),
        Field::new(OBJECT_COLUMN, DataType::UInt32, false),
        Field::new(ROW_COLUMN, DataType::UInt64, false),
        Field::new(SUB_COLUMN, DataType::UInt32, false),
    ]));
    let count = usize::try_from(rows.end - rows.start).unwrap();
    let times = rows.clone().map(|row| START_US + (row.wrapping_mul(7919) % 900_000) as i64 * 1000);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("event-{}", id(row))))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone(UTC)),
        Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("type-{}", row % 2)))),
        Arc::new(Int64Array::from_iter(rows.clone().map(|row| (row % 5 > 0).then_some(row as i64 % 50)))),
        Arc::new(UInt16Array::from(vec![source; count])),
        Arc::new(UInt32Array::from(vec![u32::from(source); count])),
        Arc::new(UInt64Array::from_iter_values(rows)),
        Arc::new(UInt32Array::from(vec![0; count])),
    ];
    let mut writer = StreamWriter::try_new(Cursor::new(Vec::new()), &schema).unwrap();
    writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()).unwrap();
    (source, writer.into_inner().unwrap().into_inner().into())
}

fn shares(rows: &[(u16, u64)]) -> Vec<ChunkShare> {
    let share = |(source, selected): &(u16, u64)| ChunkShare {
        chunk: "c".into(),
        source: *source,
        data: None,
        segments: Vec::new(),
        selected: *selected,
        invalid: BTreeMap::new(),
        placed: *selected,
        unplaced: 0,
    };
    rows.iter().map(share).collect()
}

fn assemble(planned: &PlannedRun, segments: &[(u16, Bytes)], budget_bytes: usize) -> Assembled {
    let mut work = SliceWork::new(planned, 0, budget_bytes, Buffer::default()).unwrap();
    for (source, bytes) in segments {
        work.add(*source, bytes).unwrap();
    }
    let (assembled, buffer) = work.finish(&shares(&[(0, 20_000), (1, 2_000)])).unwrap();
    assert!(buffer.is_empty());
    assembled
}

fn segments() -> Vec<(u16, Bytes)> {
    vec![segment(0, 0..7_000), segment(0, 7_000..20_000), segment(1, 0..2_000)]
}

#[tokio::test]
async fn neither_the_memory_budget_nor_the_order_of_segments_changes_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let planned = planned(dir.path()).await;
    let whole = assemble(&planned, &segments(), usize::MAX);
    let mut shuffled = segments();
    shuffled.rotate_left(1);
    // The rows have some 4 MB: less than a tenth of them fit.
    for other in [assemble(&planned, &segments(), 300_000), assemble(&planned, &shuffled, 200_000)] {
        let digests = |assembled: &Assembled| {
            assembled.buckets.iter().map(|b| (b.bucket.clone(), b.written.digest, b.partitions.clone())).collect::<Vec<_>>()
        };
        assert_eq!(digests(&whole), digests(&other));
        assert_eq!(whole.by, other.by);
    }
}

#[tokio::test]
async fn every_id_is_staged_once_where_its_key_belongs_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let planned = planned(dir.path()).await;
    let assembled = assemble(&planned, &segments(), usize::MAX);
    assert_eq!(assembled.by.iter().map(|c| c.selected).sum::<u64>(), 22_000);
    let staged: u64 = assembled.by.iter().map(|c| c.staged).sum();
    let mut ids = std::collections::HashSet::new();
    for bucket in &assembled.buckets {
        let mut digests: BTreeMap<i32, RecordsDigest> = BTreeMap::new();
        let mut last_ms = i64::MIN;
        for batch in PartReader::open(Bytes::from(bucket.written.content.read().unwrap()), 0).unwrap() {
            let batch = batch.unwrap();
            for record in (0..).map_while(|row| batch.record(row)) {
                assert!(ids.insert(record.event_id.to_owned()), "{} twice", record.event_id);
                assert!(record.timestamp_ms >= last_ms);
                last_ms = record.timestamp_ms;
                let value: serde_json::Value = serde_json::from_slice(record.value).unwrap();
                assert_eq!(value["id"], record.event_id);
                assert_eq!(value["at"], record.timestamp_ms);
                assert_eq!(record.key.map(|key| String::from_utf8(key.to_vec()).unwrap()), value.get("user").map(ToString::to_string));
                let placed_by = record.key.unwrap_or(record.event_id.as_bytes());
                assert_eq!(record.partition, murmur2::partition(placed_by, PARTITIONS) as i32);
                assert_eq!(bucket.bucket, format!("events-{}", planned.plan.sinks[0].bucket_of(record.partition)));
                // Source a has every id that b has, and precedes it.
                assert_eq!(record.source, "a");
                digests.entry(record.partition).or_default().count(record.view());
            }
        }
        assert_eq!(digests, bucket.partitions);
    }
    assert_eq!(ids.len() as u64, staged);
}

#[tokio::test]
async fn a_row_too_many_or_too_few_is_a_bug_that_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let planned = planned(dir.path()).await;
    let mut work = SliceWork::new(&planned, 0, usize::MAX, Buffer::default()).unwrap();
    let (source, bytes) = segment(0, 0..10);
    work.add(source, &bytes).unwrap();
    assert!(work.finish(&shares(&[(0, 11)])).unwrap_err().to_string().contains("lost or doubled"));
}
