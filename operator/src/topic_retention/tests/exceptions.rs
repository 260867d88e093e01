//! Exceptions: what they let fall, what they need, and how they end.

use std::sync::Arc;

use serde_json::{Value, json};
use weir_crds::RetentionException;

use super::{
    keeping::kinds,
    world::{HOUR, TOPIC, WEEK, World, condition, status},
};

fn exception(until: &str) -> RetentionException {
    serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "RetentionException",
        "metadata": {"name": "now", "namespace": "growth", "uid": "rte", "generation": 1, "creationTimestamp": "2026-11-02T00:00:00Z"},
        "spec": {"clusterRef": {"name": "main"}, "topics": [TOPIC], "floor": "2h", "reason": "disks are full", "until": until},
    }))
    .unwrap()
}

#[tokio::test]
async fn an_exception_lets_retention_fall_until_it_ends() {
    let mut world = World::kept();
    world.begin().await;
    world.pass(1).await;
    world.scene.exceptions = vec![Arc::new(exception("2026-11-02T00:30:00Z"))];
    let mut calls = world.turn().await;
    assert_eq!(status(&calls, "topicfloors")["standing"]["floorMs"], 7_200_000, "admission hears of it at once");
    world.set("retention.ms", "7200000");
    calls.extend(world.pass(2).await);
    assert_eq!(world.altered(), vec![], "it is allowed");
    assert_eq!(status(&calls, "topicfloors")["exception"], "growth/now: disks are full");
    let said = status(&calls, "retentionexceptions");
    assert_eq!(condition(&said, "Active"), ("True".into(), "InForce".into()));
    assert_eq!(condition(&status(&calls, "topicretentionpolicies"), "BreakGlass").0, "True");
    let shown = |world: &mut World, said: &Value| {
        let mut object = exception("2026-11-02T00:30:00Z");
        object.status = Some(serde_json::from_value(said.clone()).unwrap());
        world.scene.exceptions = vec![Arc::new(object)];
    };
    shown(&mut world, &said);
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered().pop().unwrap().2, "7200000", "not below the exception either");
    let calls = world.pass(40).await;
    assert_eq!(world.altered().pop().unwrap().2, WEEK, "it has ended by itself");
    let said = status(&calls, "retentionexceptions");
    assert_eq!(condition(&said, "Active"), ("False".into(), "Ended".into()));
    shown(&mut world, &said);
    world.pass(1).await;
    assert_eq!(kinds(&world).iter().filter(|k| k.starts_with("Exception")).collect::<Vec<_>>(), ["ExceptionBegan", "ExceptionEnded"]);
    let began = world.audit_log().into_iter().find(|e| e["kind"] == "ExceptionBegan").unwrap();
    assert_eq!((&began["exception"]["name"], &began["exception"]["floor"]), (&json!("growth/now"), &json!("2h")));
    world.succeed("b", None);
    world.pass(1).await;
    assert_eq!(kinds(&world).iter().filter(|k| k.starts_with("Exception")).count(), 2, "a successor tells it no more");
    world.audited();
}

#[tokio::test]
async fn an_exception_needs_a_grant_and_lasts_four_hours_at_most() {
    let mut world = World::kept();
    world.begin().await;
    world.grant(&["Observe"]);
    world.scene.exceptions = vec![Arc::new(exception("2026-11-02T00:30:00Z"))];
    let calls = world.turn().await;
    assert_eq!(condition(&status(&calls, "retentionexceptions"), "Active"), ("False".into(), "GrantMissing".into()));

    let mut world = World::kept();
    world.begin().await;
    world.scene.exceptions = vec![Arc::new(exception("2026-11-03T00:00:00Z"))];
    world.set("retention.ms", "7200000");
    world.pass(235).await;
    assert_eq!(world.altered(), vec![]);
    world.pass(6).await;
    assert_eq!(world.altered().len(), 1);
}
