//! Who asked, written into an object as the apiserver takes it. What the object says of that itself is not believed.

use serde_json::{Value, json};
use weir_crds::retention_exception::REQUESTED_BY_ANNOTATION;

use super::review::{Operation, Request};

/// The changes that make an object say who made it, as a JSON Patch (RFC 6902); empty where it does.
pub fn stamp(request: &Request) -> Vec<Value> {
    let Some(new) = &request.object else { return Vec::new() };
    let who = match request.operation {
        Operation::Create => Some(request.user_info.username.as_str()),
        Operation::Update | Operation::Delete | Operation::Connect => request.old_object.as_ref().and_then(said),
    };
    if said(new) == who {
        return Vec::new();
    }
    // The annotation's name as a part of a path: RFC 6901.
    let path = format!("/metadata/annotations/{}", REQUESTED_BY_ANNOTATION.replace('~', "~0").replace('/', "~1"));
    let change = match who {
        None => json!({"op": "remove", "path": path}),
        Some(who) if new["metadata"]["annotations"].is_object() => json!({"op": "add", "path": path, "value": who}),
        Some(who) => json!({"op": "add", "path": "/metadata/annotations", "value": {REQUESTED_BY_ANNOTATION: who}}),
    };
    vec![change]
}

fn said(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][REQUESTED_BY_ANNOTATION].as_str()
}
