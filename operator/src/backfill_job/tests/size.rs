//! Status stays small.

use std::sync::Arc;

use kube::CustomResourceExt as _;
use serde_json::{Value, json};
use weir_crds::{
    BackfillJob,
    contract::{
        FORMAT,
        manifest::{ReasonCount, RecordsDigest, StagedCounts},
        result::{Failure, FailureCode, FailureRecord, Outcome, OutcomeRecord},
    },
};

use super::world::World;
use crate::{
    backfill_job::{interval, observed::Timed, progress::Pace, status::status},
    context::FIELD_MANAGER,
};

const STATUS_BYTES_MAX: usize = 256 * 1024;
/// The worst that a slice's numbers look like.
const ROWS: u64 = 1_000_000_000_000;

/// Which fields of `value` somebody owns who has written all of them, as the apiserver notes it: by the schema's own word
/// on which lists are maps, and which are written as a whole.
fn owned(schema: &Value, value: &Value) -> Value {
    let list_type = schema["x-kubernetes-list-type"].as_str().unwrap_or("atomic");
    match value {
        Value::Object(fields) if schema["x-kubernetes-map-type"] != "atomic" => {
            let of = |name: &str| schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
            fields.iter().map(|(name, value)| (format!("f:{name}"), owned(of(name), value))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(items) if list_type == "map" => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().unwrap();
            let key = |item: &Value| -> serde_json::Map<String, Value> {
                keys.iter().filter_map(Value::as_str).map(|k| (k.to_owned(), item[k].clone())).collect()
            };
            let one = |item: &Value| {
                let mut fields = owned(&schema["items"], item);
                fields["."] = json!({});
                (format!("k:{}", Value::Object(key(item))), fields)
            };
            items.iter().map(one).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(items) if list_type == "set" => {
            items.iter().map(|item| (format!("v:{item}"), json!({}))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => json!({}),
    }
}

/// The whole object, as the apiserver keeps it after `kubectl apply` and the operator's server-side apply.
fn object(job: &BackfillJob) -> Value {
    let crd = serde_json::to_value(BackfillJob::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut object = serde_json::to_value(job).unwrap();
    let applied = json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "spec": object["spec"]}).to_string();
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    object["metadata"]["annotations"] = json!({annotation: applied});
    let entry = |manager: &str, operation: &str, fields: Value| {
        json!({"manager": manager, "operation": operation, "apiVersion": "weir.dev/v1alpha1", "time": "2026-11-21T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    };
    let annotations = json!({".": {}, format!("f:{annotation}"): {}});
    let spec = json!({"f:metadata": {"f:annotations": annotations}, "f:spec": owned(&schema["spec"], &object["spec"])});
    let mut own = entry(FIELD_MANAGER, "Apply", json!({"f:status": owned(&schema["status"], &object["status"])}));
    own["subresource"] = json!("status");
    object["metadata"]["managedFields"] = json!([entry("kubectl-client-side-apply", "Update", spec), own]);
    object
}

/// As the apiserver writes it, with what HTML would mind escaped.
fn bytes(value: &Value) -> usize {
    let text = value.to_string();
    text.len() + 5 * text.matches(['<', '>', '&']).count() + 3 * text.matches(['\u{2028}', '\u{2029}']).count()
}

fn long() -> String {
    "<&> \"the object s3://bucket/key\" cannot be decompressed: ünexpected end\n".repeat(60)
}

/// Each slice is staged, was published in part, and then failed as often as it may, with all that a worker may say; and
/// there are many reasons of quarantine and many event types.
fn failed_at_length(slices: usize) -> World {
    let mut world = World::planned(slices);
    let plan = world.plan.clone().unwrap();
    for unit in plan.units.iter().filter(|u| u.id.starts_with("publish")) {
        for attempt in 1..=3 {
            let failure = Failure { code: FailureCode::TargetUnsuitable, item: None, field: None, cause: long(), remedy: long() };
            let record = FailureRecord { format: FORMAT, unit: unit.id.clone(), attempt, failures: vec![failure], at: world.now };
            world.failures.insert((unit.id.clone(), attempt), Arc::new(record));
        }
    }
    let counts = |n: usize| StagedCounts {
        source: "s".repeat(40),
        event_type: format!("{n}{}", "t".repeat(200)),
        selected: ROWS,
        duplicates: ROWS,
        quarantined: ROWS,
        staged: ROWS,
    };
    for index in 0..slices {
        let mut chunk = world.extracted(index);
        chunk.reasons = (0..50).map(|n| ReasonCount { reason: format!("{n} {}", long()), rows: ROWS + n }).collect();
        world.manifests.extracted.insert(chunk.chunk.clone(), Arc::new(Timed { body: chunk, seconds: 1.0 }));
    }
    for (index, slice) in plan.plan.slices.iter().enumerate() {
        let id = slice.id.to_string();
        let mut body = world.staged(&id);
        body.by = (0..if index == 0 { 100 } else { 1 }).map(counts).collect();
        world.manifests.staged.insert(id.clone(), Arc::new(Timed { body, seconds: 1.0 }));
        let mut body = world.published(&id, "events-0");
        let rows = |digest: RecordsDigest| RecordsDigest { records: ROWS, ..digest };
        body.partitions.values_mut().for_each(|p| (p.staged, p.sent) = (rows(p.staged), rows(p.sent)));
        world.manifests.published.insert((id, "events-0".into()), Arc::new(Timed { body, seconds: 1.0 }));
    }
    let outcome =
        OutcomeRecord { format: FORMAT, outcome: Outcome::Failed, reason: "TargetUnsuitable".into(), message: long(), at: world.now };
    world.outcome = Some(outcome);
    let (seen, decision) = (world.observe(), world.decide());
    world.job.status = Some(status(&seen, &decision, &decision.waits, &Pace::default(), world.now));
    world
}

#[test]
#[expect(clippy::print_stderr, reason = "the sizes are what this test is about")]
fn a_thousand_slices_that_failed_at_length_fit() {
    let world = failed_at_length(1000);
    let object = object(&world.job);
    let (all, own, managed) = (bytes(&object), bytes(&object["status"]), bytes(&object["metadata"]["managedFields"]));
    eprintln!("1,000 failed slices: status {own} bytes, managedFields {managed}, the whole object {all}");
    assert!(all < STATUS_BYTES_MAX, "the object takes {all} bytes: status {own}, managedFields {managed}");
    // The operator owns every field of its status, each condition by its type, and the slices as a whole.
    let fields = &object["metadata"]["managedFields"][1]["fieldsV1"]["f:status"];
    assert_eq!(fields["f:conditions"]["k:{\"type\":\"Failed\"}"]["f:message"], json!({}));
    assert_eq!((&fields["f:partitions"], &fields["f:run"]["f:uri"]), (&json!({}), &json!({})));
    // Not by saying nothing.
    let rows = &world.job.status.as_ref().unwrap().partitions;
    assert_eq!(rows.len(), 1000);
    for row in rows {
        assert_eq!((row.reason.as_deref(), row.attempts, row.published), (Some("TargetUnsuitable"), Some(3), Some(ROWS)));
        assert!(row.message.as_ref().is_some_and(|m| m.len() > 30), "{row:?}");
    }
}

#[test]
fn a_large_status_is_written_seldom_but_never_late() {
    let of = |slices: usize| failed_at_length(slices).job.status.unwrap();
    let (small, large) = (of(99), of(100));
    for (status, seconds) in [(&small, 2), (&large, 10)] {
        let mut numbers = status.clone();
        numbers.accounting.as_mut().unwrap().read += 1;
        assert_eq!(interval(Some(status), &numbers).as_secs(), seconds);
        let mut says = numbers.clone();
        says.conditions[0].reason = "Other".into();
        assert_eq!(interval(Some(status), &says).as_secs(), 2);
        let mut generation = numbers;
        generation.observed_generation = Some(9);
        assert_eq!(interval(Some(status), &generation).as_secs(), 2);
    }
    assert_eq!(interval(None, &large).as_secs(), 2);
}
