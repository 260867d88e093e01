//! Objects to test with: a job of some slices, its class and its cluster, and a plan.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use weir_crds::{
    BackfillClass, BackfillJob, KafkaCluster,
    backfill_job::Estimates,
    contract::{
        digest::Sha256Digest,
        manifest::PartRef,
        names::RunId,
        plan::{Plan, PlannedChunk, PlannedSink, PlannedSource, Sizing},
    },
    window::{Interval, Slicing},
};

use super::world::World;
use crate::backfill_job::{
    decision::{Action, Decision},
    observed::RunFile,
    wait::Wait,
};

pub const JOB_UID: &str = "job-uid";
pub const WORKER_IMAGE: &str = "weir-worker:test";

pub fn time(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

/// After the window and its lateness.
pub fn start() -> jiff::Timestamp {
    time("2026-11-05T00:00:00Z")
}

/// `slices` slices of a minute.
pub fn job(slices: usize) -> BackfillJob {
    let begin = time("2026-11-03T06:00:00Z");
    let end = begin + jiff::SignedDuration::from_mins(slices as i64);
    let mut job: BackfillJob = serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "BackfillJob",
        "metadata": {"name": "gap", "namespace": "growth", "uid": JOB_UID, "generation": 1},
        "spec": {
            "reason": "test",
            "className": "isolated",
            "serviceAccountName": "backfill",
            "credentialsSecretRef": {"name": "backfill"},
            "runGeneration": 1,
            "window": {"start": begin.to_string(), "end": end.to_string(), "slice": "1m"},
            "sources": [{
                "name": "logs",
                "s3": {"bucket": "logs", "prefix": "v2/{date}/", "format": "JsonLines"},
                "columns": "ts timestamp, id string",
                "arrival": "PathTime",
                "allowedLateness": "2h",
                "select": "SELECT id AS event_id, ts AS event_time, 'x' AS event_type FROM logs",
            }],
            "reconstruct": {"columns": {"eventId": "event_id", "eventTime": "event_time", "eventType": "event_type"}},
            "sinks": [{"name": "events", "kafka": {
                "clusterRef": {"name": "main"}, "topic": "app_events", "mode": "InPlace",
                "value": {"format": "Json", "columns": ["event_id"]},
                "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey",
            }}],
            "approval": {"mode": "Auto"},
            "execution": {"parallelism": 3, "attempts": 3},
        },
    }))
    .unwrap();
    job.status = None;
    job
}

fn ready() -> Condition {
    serde_json::from_value(json!({
        "type": "Ready", "status": "True", "reason": "R", "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-11-01T00:00:00Z",
    }))
    .unwrap()
}

pub fn class() -> BackfillClass {
    let mut class: BackfillClass = serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "BackfillClass",
        "metadata": {"name": "isolated", "generation": 1, "uid": "class-uid"},
        "spec": {
            "artifactStore": {"bucket": "artifacts", "prefix": "runs", "s3": {"region": "eu-central-1"}},
            "workers": {
                "nodeSelector": {"weir.dev/pool": "backfill"},
                "tolerations": [{"key": "weir.dev/pool", "operator": "Exists"}],
                "priorityClassName": "low", "cpu": "1", "memory": "1Gi", "scratch": "2Gi",
            },
            "limits": {"maxParallelism": 4, "maxWindow": "48h"},
        },
    }))
    .unwrap();
    class.status = Some(weir_crds::backfill_class::BackfillClassStatus { observed_generation: Some(1), conditions: vec![ready()] });
    class
}

pub fn cluster() -> KafkaCluster {
    let mut cluster: KafkaCluster = serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "KafkaCluster",
        "metadata": {"name": "main", "generation": 1},
        "spec": {
            "bootstrapServers": ["kafka:9092"],
            "grants": [{"namespaces": ["growth"], "topics": ["^app_events$"], "verbs": ["Read", "Write"]}],
        },
    }))
    .unwrap();
    let status = weir_crds::kafka_cluster::KafkaClusterStatus {
        observed_generation: Some(1),
        cluster_id: Some("kafka-id".into()),
        brokers: Some(1),
        audit: None,
        conditions: vec![ready()],
    };
    cluster.status = Some(status);
    cluster
}

pub fn run_id(generation: u32) -> RunId {
    RunId { namespace: "growth".into(), name: "gap".into(), generation }
}

/// A plan in which chunk n may hold rows of slices n-1 and n, and three buckets.
pub fn plan(job: &BackfillJob, run: &RunFile) -> Plan {
    const MINUTE_US: i64 = 60_000_000;
    let slices = Slicing::new(&job.spec.window).slices().to_vec();
    let chunk = |(n, interval): (usize, Interval)| PlannedChunk {
        id: format!("logs-{n:05}"),
        source: 0,
        first_object: n as u32,
        objects: 1,
        bytes: 40,
        event_times: Some(Interval { start_us: interval.start_us - MINUTE_US, end_us: interval.end_us }),
    };
    Plan {
        format: 1,
        run: run.spec.run.clone(),
        run_digest: run.digest,
        worker_image: WORKER_IMAGE.into(),
        sources: vec![PlannedSource { name: "logs".into(), objects: slices.len() as u64, bytes: 40 * slices.len() as u64 }],
        objects: PartRef { key: "k".into(), digest: Sha256Digest::default().into(), bytes: 0, rows: 0 },
        chunks: slices.iter().map(|s| s.interval).enumerate().map(chunk).collect(),
        sinks: vec![PlannedSink {
            name: "events".into(),
            cluster: "main".into(),
            cluster_id: "kafka-id".into(),
            topic: "app_events".into(),
            topic_id: "topic-id".into(),
            partitions: 3,
            max_message_bytes: 1_000_000,
            present: None,
        }],
        slices,
        result_columns: vec![],
        event_types: None,
        sizing: Sizing { extract_bytes: 100, slices_per_unit: 3, buckets_per_unit: 2 },
        estimates: Estimates { events: 100, bytes: 400, objects: 10, ..Estimates::default() },
        sampled_bytes: 0,
    }
}

pub fn waits(decision: &Decision) -> Vec<Wait> {
    decision.waits.iter().map(|w| w.wait).collect()
}

pub fn jobs(decision: &Decision) -> Vec<String> {
    let name = |a: &Action| match a {
        Action::CreateJob(job) => job.metadata.name.clone(),
        Action::PutRun { .. }
        | Action::EnsureProgressTopic { .. }
        | Action::TakeClaims { .. }
        | Action::ReleaseClaims { .. }
        | Action::RecordFailure { .. }
        | Action::DeleteJob { .. }
        | Action::PutOutcome { .. } => None,
    };
    decision.actions.iter().filter_map(name).collect()
}

pub fn stalled(world: &World) -> (String, String) {
    let conditions = world.job.status.clone().unwrap().conditions;
    conditions.into_iter().find(|c| c.type_ == "Stalled").map(|c| (c.status, c.reason)).unwrap()
}
