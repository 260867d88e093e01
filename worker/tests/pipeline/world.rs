//! A run on a real broker and a real store, from extracted rows on: what `plan` and `extract` would have left.

use std::{
    io::Cursor,
    ops::{ControlFlow, Range},
    sync::Arc,
};

use bytes::Bytes;
use datafusion::arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt16Array, UInt32Array, UInt64Array},
    datatypes::{DataType, Field, Schema},
    ipc::writer::StreamWriter,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::json;
use weir_crds::contract::{
    digest::{ContentDigest, Sha256Digest},
    keys::RunKeys,
    manifest::{Extracted, PartRef, Segment, SliceSegments},
    names::progress_topic,
    plan::Plan,
    run::{RunSpec, WorkerContext},
};
use weir_kafka::{
    Admin, KafkaConfig,
    admin::ConfigChange,
    range::{Isolation, Range as Offsets, Reader},
};
use weir_ledger::Ledger;
use weir_worker::{
    decode::types::{OBJECT_COLUMN, ROW_COLUMN, UTC, timestamp_type},
    plan::{self, Draft},
    run::{PlannedRun, Run},
    scratch::Scratch,
    select::normalize::{SOURCE_COLUMN, SUB_COLUMN},
};

const MINUTE_US: i64 = 60_000_000;
/// A minute of 2026.
const START_US: i64 = 1_793_685_600_000_000;
pub const SLICES: usize = 3;
pub const PARTITIONS: i32 = 5;

/// A namespace, a bucket and a topic of a test's own.
pub struct World {
    pub dir: tempfile::TempDir,
    pub namespace: String,
    pub topic: String,
    pub mode: &'static str,
    pub ordering: &'static str,
    /// The column that is the records' key.
    pub key: &'static str,
    /// What the source objects hold, so far as it differs: events of other users.
    pub objects: &'static str,
    /// A slice that has another chunk too, which is never extracted.
    pub lost: Option<usize>,
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} names a part that this test needs; see the env file of the local cluster"))
}

impl World {
    /// `name` keeps tests apart that run at the same time.
    pub async fn new(name: &str) -> Self {
        // A test that ran before may have done so.
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let unique = format!("{name}-{:x}", jiff::Timestamp::now().as_microsecond());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("aws-access-key-id"), env("AWS_ACCESS_KEY_ID")).unwrap();
        std::fs::write(dir.path().join("aws-secret-access-key"), env("AWS_SECRET_ACCESS_KEY")).unwrap();
        let world = Self {
            dir,
            topic: unique.clone(),
            namespace: unique,
            mode: "InPlace",
            ordering: "PerKey",
            key: "user",
            objects: "",
            lost: None,
        };
        world.s3().await.create_bucket().bucket(&world.namespace).send().await.unwrap();
        world.create_topic(&world.topic, PARTITIONS, &[("retention.ms", "-1")]).await;
        Admin::new(&world.kafka()).unwrap().ensure_progress_topic(&world.progress_topic()).await.unwrap();
        world
    }

    async fn s3(&self) -> aws_sdk_s3::Client {
        let service = serde_json::from_value(self.store()["s3"].clone()).unwrap();
        weir_ledger::s3_client(&service, Some(self.dir.path())).await.unwrap()
    }

    /// As somebody would who tidies up.
    pub async fn delete_object(&self, key: &str) {
        self.s3().await.delete_object().bucket(&self.namespace).key(key).send().await.unwrap();
    }

    pub fn kafka(&self) -> KafkaConfig {
        KafkaConfig { bootstrap_servers: vec![env("KAFKA_BOOTSTRAP")], security: Default::default(), credentials_dir: None }
    }

    pub fn progress_topic(&self) -> String {
        progress_topic(&self.namespace)
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", env("KAFKA_BOOTSTRAP")).create().unwrap()
    }

    /// The same name and shape, but another topic.
    pub async fn recreate_topic(&self) {
        self.create_topic(&self.topic, PARTITIONS, &[("retention.ms", "-1")]).await;
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) {
        let new = config.iter().fold(NewTopic::new(topic, partitions, TopicReplication::Fixed(1)), |new, (key, value)| new.set(key, value));
        let created = self.admin().create_topics([&new], &AdminOptions::new()).await.unwrap();
        created[0].as_ref().unwrap();
        // The answer comes before every broker knows.
        let admin = Admin::new(&self.kafka()).unwrap();
        while admin.topic(topic).await.unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// As the topic's owner would.
    pub async fn add_partitions(&self, to: usize) {
        let wider = self.admin().create_partitions(&[NewPartitions::new(&self.topic, to)], &AdminOptions::new()).await.unwrap();
        wider[0].as_ref().unwrap();
        let admin = Admin::new(&self.kafka()).unwrap();
        while admin.topic(&self.topic).await.unwrap().unwrap().partitions.len() < to {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// As retention does.
    pub async fn delete_records(&self) {
        let mut offsets = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            offsets.add_partition_offset(&self.topic, partition, Offset::End).unwrap();
        }
        let deleted = self.admin().delete_records(&offsets, &AdminOptions::new()).await.unwrap();
        assert!(deleted.elements().iter().all(|partition| partition.error().is_ok()), "{deleted:?}");
    }

    /// As the topic's owner would.
    pub async fn set(&self, key: &str, change: ConfigChange) {
        let changes = [(self.topic.clone(), [(key.to_owned(), change)].into())].into();
        let altered = Admin::new(&self.kafka()).unwrap().alter_topic_configs(changes, std::time::Duration::from_secs(10)).await.unwrap();
        assert!(altered.values().all(Result::is_ok), "{altered:?}");
    }

    /// The last committed record of a key of the progress topic.
    pub async fn progress(&self, key: &str) -> Vec<u8> {
        let (config, topic, key) = (self.kafka(), self.progress_topic(), key.to_owned());
        let read = move || {
            let reader = Reader::new(&config, &topic, Isolation::Committed).unwrap();
            let (first, end) = reader.bounds(0).unwrap();
            let mut found = None;
            let done = reader.read(&[Offsets { partition: 0, first, end }], |record| {
                if record.key() == Some(key.as_bytes()) {
                    found = record.value().map(<[u8]>::to_vec);
                }
                ControlFlow::<()>::Continue(())
            });
            done.unwrap();
            found.unwrap()
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    /// As somebody would who has the right to, and should not.
    pub async fn put_progress(&self, key: &str, value: &[u8]) {
        let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", env("KAFKA_BOOTSTRAP")).create().unwrap();
        let topic = self.progress_topic();
        let record = FutureRecord::to(&topic).partition(0).key(key).payload(value);
        producer.send(record, std::time::Duration::from_secs(10)).await.unwrap();
    }

    pub async fn delete_topic(&self, topic: &str) {
        let deleted = self.admin().delete_topics(&[topic], &AdminOptions::new()).await.unwrap();
        deleted[0].as_ref().unwrap();
        let admin = Admin::new(&self.kafka()).unwrap();
        while admin.topic(topic).await.unwrap().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    fn store(&self) -> serde_json::Value {
        json!({"bucket": self.namespace, "s3": {"endpoint": env("AWS_ENDPOINT_URL"), "region": "us-east-1", "pathStyle": true}})
    }

    /// A run of this generation, planned for the topic as it is, with `rows` extracted for each slice.
    pub async fn planned(&self, generation: u32, rows: &[Range<u64>]) -> PlannedRun {
        let run = self.run(generation).await;
        let plan = self.plan(&run, generation).await;
        run.ledger.put_once(&run.keys.run(), Bytes::from(run.spec.to_bytes())).await.unwrap();
        plan::put(&run, Draft { plan, object_list: Bytes::from_static(self.objects.as_bytes()) }).await.unwrap();
        let planned = run.planned().await.unwrap();
        extracted(&planned, rows, self.objects.len()).await;
        planned
    }

    /// A run that is not planned yet.
    pub async fn run(&self, generation: u32) -> Run {
        let run = json!({"namespace": self.namespace, "name": "job", "generation": generation});
        let spec: RunSpec = serde_json::from_value(json!({
            "format": 1, "run": run, "class": "c", "store": self.store(), "sourceStore": self.store()["s3"],
            "window": {"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T06:03:00Z", "slice": "1m"},
            "sources": [{"name": "logs", "columns": "x int", "arrival": "None", "select": "SELECT 1"}],
            "reconstruct": {"columns": {"eventId": "id", "eventTime": "at", "eventType": "type", "key": self.key}},
            "sinks": [{"name": "events", "kafka": {
                "clusterRef": {"name": "k"}, "topic": self.topic, "mode": self.mode, "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": self.ordering,
                "value": {"format": "Json", "columns": ["id", "at", "user"]}
            }}]
        }))
        .unwrap();
        let context: WorkerContext = serde_json::from_value(json!({
            "run": run, "store": self.store(), "kafka": {"k": {"bootstrapServers": [env("KAFKA_BOOTSTRAP")]}},
            "unit": "by-hand", "attempt": 1, "parallelism": 1, "workerImage": "w"
        }))
        .unwrap();
        Run {
            spec_digest: Sha256Digest::of(&spec.to_bytes()),
            spec: Arc::new(spec),
            keys: RunKeys::new("", &context.run),
            ledger: Ledger::connect(&context.store, Some(self.dir.path())).await.unwrap(),
            scratch: Scratch::new(self.dir.path(), None).unwrap(),
            memory_bytes: 1 << 30,
            credentials_dir: None,
            context: Arc::new(context),
        }
    }

    async fn plan(&self, run: &Run, generation: u32) -> Plan {
        let admin = Admin::new(&self.kafka()).unwrap();
        let (cluster, topic) = (admin.cluster().await.unwrap(), admin.topic(&self.topic).await.unwrap().unwrap());
        let times = |n: usize| {
            let start_us = START_US + n as i64 * MINUTE_US;
            json!({"startUs": start_us, "endUs": start_us + MINUTE_US})
        };
        let slice = |n: usize| json!({"id": format!("20261103T060{n}00Z"), "startUs": times(n)["startUs"], "endUs": times(n)["endUs"]});
        let chunk = |id: &str, times| json!({"id": id, "source": 0, "firstObject": 0, "objects": 1, "bytes": 1, "eventTimes": times});
        let chunks: Vec<_> =
            [chunk("logs-00001", json!(null))].into_iter().chain(self.lost.map(|slice| chunk("logs-00002", times(slice)))).collect();
        serde_json::from_value(json!({
            "format": 1, "run": {"namespace": self.namespace, "name": "job", "generation": generation}, "runDigest": run.spec_digest, "workerImage": "w",
            "slices": (0..SLICES).map(slice).collect::<Vec<_>>(),
            "sources": [{"name": "logs", "objects": 1, "bytes": 1}],
            "objects": {"key": format!("o{generation}"), "sha256": Sha256Digest::of(self.objects.as_bytes()), "bytes": self.objects.len(), "rows": 1},
            "chunks": chunks,
            "sinks": [{"name": "events", "cluster": "k", "clusterId": cluster.id, "topic": self.topic, "topicId": topic.id,
                "partitions": topic.partitions.len(), "maxMessageBytes": 1_048_588}],
            "resultColumns": [], "sizing": {"extractBytes": 1, "slicesPerUnit": 3, "bucketsPerUnit": 8},
            "estimates": {"events": 0, "bytes": 0, "objects": 0}, "sampledBytes": 0
        }))
        .unwrap()
    }
}

/// Puts what `extract` would: one chunk with a segment for each slice.
async fn extracted(planned: &PlannedRun, rows: &[Range<u64>], user_shift: usize) {
    let (mut data, mut index) = (Vec::new(), Vec::new());
    for (slice, rows) in planned.plan.slices.iter().zip(rows) {
        let bytes = segment(slice.interval.start_us, rows.clone(), user_shift as i64);
        let count = rows.end - rows.start;
        let segment = Segment { offset: data.len() as u64, length: bytes.len() as u64, rows: count, digest: ContentDigest::of(&bytes) };
        data.extend(bytes);
        index.push(SliceSegments { slice: slice.id.clone(), rows: count, segments: vec![segment] });
    }
    let total = index.iter().map(|entry| entry.rows).sum();
    let digest = ContentDigest::of(&data);
    let part =
        PartRef { key: planned.run.keys.extracted_part("logs-00001", &digest.short()), digest, bytes: data.len() as u64, rows: total };
    planned.run.ledger.put_part(&part.key, data.into()).await.unwrap();
    let manifest = Extracted {
        chunk: "logs-00001".into(),
        source: "logs".into(),
        bytes_read: 1,
        read: total,
        expanded: 0,
        filtered_out: 0,
        invalid: 0,
        invalid_outside: 0,
        outside_window: 0,
        late: 0,
        selected: total,
        invalid_by: Vec::new(),
        by_times: Vec::new(),
        unknown_fields: Default::default(),
        data: Some(part),
        index,
        quarantine: None,
        reasons: Vec::new(),
    };
    planned.put_manifest(&planned.run.keys.extracted("logs-00001"), 0.0, manifest).await.unwrap();
}

fn segment(start_us: i64, rows: Range<u64>, user_shift: i64) -> Vec<u8> {
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
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.clone().map(|row| format!("event-{row}")))),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(rows.clone().map(|row| start_us + (row % 60_000) as i64 * 1000)).with_timezone(UTC),
        ),
        Arc::new(StringArray::from_iter_values(rows.clone().map(|_| "click"))),
        Arc::new(Int64Array::from_iter(rows.clone().map(|row| (row % 7 > 0).then_some(row as i64 % 100 + user_shift)))),
        Arc::new(UInt16Array::from(vec![0; count])),
        Arc::new(UInt32Array::from(vec![0; count])),
        Arc::new(UInt64Array::from_iter_values(rows)),
        Arc::new(UInt32Array::from(vec![0; count])),
    ];
    let mut writer = StreamWriter::try_new(Cursor::new(Vec::new()), &schema).unwrap();
    writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()).unwrap();
    writer.into_inner().unwrap().into_inner()
}
