//! Exceptions: what they let fall, what they need, and how they end.

use std::sync::Arc;

use serde_json::{Value, json};
use weir_crds::RetentionException;

use super::{
    super::exceptions::are_over,
    fakes::Call,
    keeping::kinds,
    world::{HOUR, TOPIC, WEEK, World, condition, status},
};
use crate::audit::tests::Trouble;

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

/// The exception as the watch would bring it after these calls.
fn watch(world: &mut World, calls: &[Call]) {
    for call in calls.iter().filter(|call| call.path.contains("retentionexceptions")) {
        let mut object = (*world.scene.exceptions[0]).clone();
        object.status = Some(serde_json::from_value(call.body["status"].clone()).unwrap());
        world.scene.exceptions = vec![Arc::new(object)];
    }
}

/// What its status says; `None`: nothing.
fn reason(world: &World) -> Option<String> {
    let status = world.scene.exceptions[0].status.as_ref()?;
    Some(condition(&serde_json::to_value(status).unwrap(), "Active").1)
}

/// Its beginnings and ends in the log.
fn recorded(world: &World) -> Vec<String> {
    kinds(world).into_iter().filter(|kind| kind.starts_with("Exception")).collect()
}

/// Grants its namespace what the audited cluster grants no more, or again.
fn grant(world: &mut World, verb: &str) {
    let mut cluster = (*world.scene.cluster).clone();
    cluster.spec.grants[0].verbs = serde_json::from_value(json!([verb])).unwrap();
    world.scene.cluster = Arc::new(cluster);
}

async fn passed(world: &mut World, minutes: i64) {
    let calls = world.pass(minutes).await;
    watch(world, &calls);
}

fn trouble(world: &World, trouble: Option<Trouble>) {
    world.store.as_ref().unwrap().trouble(trouble);
}

#[tokio::test]
async fn the_end_of_the_last_one_is_told_where_there_is_nothing_else() {
    let mut world = World::kept();
    world.begin().await;
    world.pass(1).await;
    (world.scene.policies, world.scene.floors) = (vec![], vec![]);
    assert!(are_over(&world.scene, &world.memory, world.now));
    world.scene.exceptions = vec![Arc::new(exception("2026-11-02T00:30:00Z"))];
    assert!(!are_over(&world.scene, &world.memory, world.now), "one that may begin");
    passed(&mut world, 1).await;
    assert!(!are_over(&world.scene, &world.memory, world.now), "one in force");
    let in_force = std::mem::take(&mut world.scene.exceptions);
    assert!(!are_over(&world.scene, &world.memory, world.now), "it was deleted, which nobody was told");
    world.pass(1).await;
    assert_eq!(recorded(&world), ["ExceptionBegan", "ExceptionEnded"]);
    assert!(are_over(&world.scene, &world.memory, world.now));
    world.scene.exceptions = in_force;
    passed(&mut world, 40).await;
    assert_eq!(reason(&world), Some("Ended".into()));
    assert!(are_over(&world.scene, &world.memory, world.now), "an object that has ended is not asked about");
}

#[tokio::test]
async fn without_a_log_its_status_is_there_at_once() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.scene.exceptions = vec![Arc::new(exception("2026-11-02T00:30:00Z"))];
    let calls = world.turn().await;
    assert_eq!(condition(&status(&calls, "retentionexceptions"), "Active"), ("True".into(), "InForce".into()));
}

#[tokio::test]
async fn what_died_before_it_was_in_the_log_the_next_leader_records() {
    let mut world = World::kept();
    world.begin().await;
    world.scene.exceptions = vec![Arc::new(exception("2026-11-02T00:30:00Z"))];
    trouble(&world, Some(Trouble::AwayAt("0000000")));
    passed(&mut world, 1).await;
    assert_eq!((recorded(&world), reason(&world)), (vec![], None));
    trouble(&world, None);
    world.succeed("b", None);
    passed(&mut world, 1).await;
    assert_eq!((recorded(&world), reason(&world)), (vec!["ExceptionBegan".into()], Some("InForce".into())));
    passed(&mut world, 27).await;
    trouble(&world, Some(Trouble::AwayAt("0000000")));
    passed(&mut world, 5).await;
    assert_eq!((recorded(&world).len(), reason(&world)), (1, Some("InForce".into())), "the log does not say that it has ended");
    trouble(&world, None);
    world.succeed("c", None);
    passed(&mut world, 1).await;
    assert_eq!((recorded(&world), reason(&world)), (vec!["ExceptionBegan".into(), "ExceptionEnded".into()], Some("Ended".into())));
    world.audited();
}

#[tokio::test]
async fn what_died_before_its_status_said_so_the_next_leader_records_no_more() {
    for verb in ["Govern", "Observe"] {
        let mut world = World::kept();
        world.begin().await;
        world.scene.exceptions = vec![Arc::new(exception("2026-11-02T00:30:00Z"))];
        trouble(&world, Some(Trouble::HangsAfter("000000000002")));
        let mut world = world.die().await;
        let told = world.api.calls.lock().unwrap().iter().any(|call| call.path.contains("retentionexceptions"));
        assert_eq!((recorded(&world), told), (vec!["ExceptionBegan".into()], false));
        grant(&mut world, verb);
        world.succeed("b", None);
        passed(&mut world, 1).await;
        let expected: &[&str] = if verb == "Govern" { &["ExceptionBegan"] } else { &["ExceptionBegan", "ExceptionEnded"] };
        assert_eq!(recorded(&world), expected);
        assert_eq!(reason(&world).unwrap(), if verb == "Govern" { "InForce" } else { "GrantMissing" });
        world.audited();
    }
}

#[tokio::test]
async fn each_time_that_it_comes_back_is_a_beginning_of_its_own() {
    let mut world = World::kept();
    world.begin().await;
    world.scene.exceptions = vec![Arc::new(exception("2026-11-02T00:30:00Z"))];
    for verb in ["Govern", "Observe", "Govern", "Observe"] {
        grant(&mut world, verb);
        passed(&mut world, 1).await;
    }
    // Nor while nothing can be written.
    trouble(&world, Some(Trouble::AwayAt("0000000")));
    for verb in ["Govern", "Observe", "Govern", "Observe"] {
        grant(&mut world, verb);
        world.turn().await;
    }
    trouble(&world, None);
    passed(&mut world, 1).await;
    grant(&mut world, "Govern");
    passed(&mut world, 1).await;
    let turns = ["ExceptionBegan", "ExceptionEnded"];
    assert_eq!(recorded(&world), [&turns[..], &turns, &turns, &turns, &turns[..1]].concat());
    world.succeed("b", None);
    passed(&mut world, 1).await;
    assert_eq!((recorded(&world).len(), reason(&world)), (9, Some("InForce".into())));
    world.audited();
}
