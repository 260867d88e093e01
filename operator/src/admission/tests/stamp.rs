//! Who asked, whatever the object says.

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::world::request;
use crate::admission::{
    review::{Answer, Review},
    stamp::stamp,
};

const PATH: &str = "/metadata/annotations/weir.dev~1requested-by";

fn exception(annotations: Value) -> Value {
    json!({"metadata": {"name": "now", "namespace": "growth", "annotations": annotations}})
}

/// What is changed of a request by `somebody`.
fn changes(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let request = request("weir.dev", "RetentionException", old, Some(new));
    let review: Review = serde_json::from_value(json!({"request": request})).unwrap();
    stamp(&review.request)
}

#[test]
fn who_makes_it_is_written_into_it_whatever_it_says() {
    let mut bare = exception(Value::Null);
    bare["metadata"].as_object_mut().unwrap().remove("annotations");
    let whole = json!({"op": "add", "path": "/metadata/annotations", "value": {"weir.dev/requested-by": "somebody"}});
    assert_eq!(changes(None, &bare), [whole]);
    let added = json!({"op": "add", "path": PATH, "value": "somebody"});
    assert_eq!(changes(None, &exception(json!({"team": "growth"}))), std::slice::from_ref(&added));
    assert_eq!(changes(None, &exception(json!({"weir.dev/requested-by": "another"}))), [added]);
    assert_eq!(changes(None, &exception(json!({"weir.dev/requested-by": "somebody"}))), Vec::<Value>::new());
}

#[test]
fn nobody_changes_it_later() {
    let made = exception(json!({"weir.dev/requested-by": "maker"}));
    let kept = json!({"op": "add", "path": PATH, "value": "maker"});
    assert_eq!(changes(Some(&made), &exception(json!({"weir.dev/requested-by": "somebody"}))), std::slice::from_ref(&kept));
    assert_eq!(changes(Some(&made), &exception(json!({"team": "growth"}))), [kept]);
    assert_eq!(changes(Some(&made), &made), Vec::<Value>::new());
    assert_eq!(changes(Some(&exception(json!({}))), &made), [json!({"op": "remove", "path": PATH})], "it was made unasked");
}

#[test]
fn the_apiserver_is_answered_with_a_patch_or_with_none() {
    let changes = [json!({"op": "remove", "path": PATH})];
    let response = serde_json::to_value(Answer::changed("u".into(), &changes)).unwrap()["response"].clone();
    assert_eq!((&response["uid"], &response["allowed"], &response["patchType"]), (&json!("u"), &json!(true), &json!("JSONPatch")));
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&patch.0).unwrap(), json!(changes));
    let response = serde_json::to_value(Answer::changed("u".into(), &[])).unwrap()["response"].clone();
    assert_eq!(response, json!({"uid": "u", "allowed": true}));
}
