//! Status stays small.

use std::sync::Arc;

use serde_json::{Value, json};
use weir_crds::contract::{
    FORMAT,
    manifest::{ReasonCount, StagedCounts},
    result::{Failure, FailureCode, FailureRecord, Outcome, OutcomeRecord},
};

use super::world::World;
use crate::backfill_job::{observed::Timed, progress::Pace, status::status};

const STATUS_BYTES_MAX: usize = 256 * 1024;

/// What server-side apply notes about who owns which field: an object by its fields, `conditions` by type, any other list
/// as a whole.
fn managed(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let fields = match (name.as_str(), value) {
                    ("conditions", Value::Array(list)) => {
                        let each = |c: &Value| (format!("k:{{\"type\":{}}}", c["type"]), managed(c));
                        Value::Object(list.iter().map(each).collect())
                    }
                    (_, value) => managed(value),
                };
                (format!("f:{name}"), fields)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => json!({}),
    }
}

#[test]
fn a_thousand_slices_that_failed_at_length_fit() {
    let mut world = World::planned(1000);
    let plan = world.plan.clone().unwrap();
    // Each slice failed at assembling, three times, with all that a worker may say; and there are many reasons and types.
    let long = "<&> \"the object s3://bucket/key\" cannot be decompressed: ünexpected end\n".repeat(60);
    for unit in plan.units.iter().filter(|u| u.id.starts_with("assemble")) {
        for attempt in 1..=3 {
            let failure =
                Failure { code: FailureCode::SourceUnavailable, item: None, field: None, cause: long.clone(), remedy: long.clone() };
            let record = FailureRecord { format: FORMAT, unit: unit.id.clone(), attempt, failures: vec![failure], at: world.now };
            world.failures.insert((unit.id.clone(), attempt), Arc::new(record));
        }
    }
    for chunk in 0..plan.plan.chunks.len() {
        let mut body = world.extracted(chunk);
        body.reasons = (0..50).map(|n| ReasonCount { reason: format!("{n} {long}"), rows: n }).collect();
        world.manifests.extracted.insert(body.chunk.clone(), Arc::new(Timed { body, seconds: 1.0 }));
    }
    let slice = plan.plan.slices[0].id.to_string();
    let mut body = world.staged(&slice);
    let big = u64::MAX / 1_000_000;
    body.by = (0..100)
        .map(|n| StagedCounts {
            source: "s".repeat(40),
            event_type: format!("{n}{}", "t".repeat(200)),
            selected: big,
            duplicates: 0,
            quarantined: 0,
            staged: big,
        })
        .collect();
    world.manifests.staged.insert(slice, Arc::new(Timed { body, seconds: 1.0 }));
    let message = long.clone();
    world.outcome =
        Some(OutcomeRecord { format: FORMAT, outcome: Outcome::Failed, reason: "SourceUnavailable".into(), message, at: world.now });
    let (seen, decision) = (world.observe(), world.decide());
    let status = status(&seen, &decision, &decision.waits, &Pace::default(), world.now);
    let failed = status.partitions.iter().filter(|p| p.message.is_some()).count();
    assert!(failed >= 999, "only {failed} slices failed");
    let value = serde_json::to_value(&status).unwrap();
    let managed = json!([{"manager": "weir-operator", "operation": "Apply", "apiVersion": "weir.dev/v1alpha1", "time": "2026-11-21T00:00:00Z",
        "fieldsType": "FieldsV1", "subresource": "status", "fieldsV1": managed(&json!({"status": value}))}]);
    // As the apiserver writes it, with what HTML would mind escaped.
    let escaped = |text: String| text.len() + 5 * text.matches(['<', '>', '&']).count();
    let (own, fields) = (escaped(value.to_string()), escaped(managed.to_string()));
    assert!(own + fields < STATUS_BYTES_MAX, "status takes {own} bytes, managedFields {fields}");
    // Not by saying nothing.
    assert!(status.partitions.iter().filter_map(|p| p.message.as_ref()).all(|m| m.len() > 30));
}
