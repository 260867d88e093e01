//! A topic that another operator's resource describes, and whose operator sets it back.

use std::sync::Arc;

use serde_json::{Value, json};

use super::world::{HOUR, TOPIC, WEEK, World, condition, events, status};

fn owned() -> World {
    let mut world = World::new("Enforce");
    let mut cluster = (*world.scene.cluster).clone();
    let declared = json!([{"kind": "StrimziKafkaTopic", "namespaces": ["kafka"], "matchLabels": {"strimzi.io/cluster": "main"}}]);
    cluster.spec.topic_resources = serde_json::from_value(declared).unwrap();
    world.scene.cluster = Arc::new(cluster);
    declare(&world, HOUR);
    world
}

fn declare(world: &World, retention_ms: &str) {
    declare_all(world, json!({"retention.ms": retention_ms.parse::<i64>().unwrap()}));
}

fn declare_all(world: &World, config: Value) {
    let resource = json!({
        "apiVersion": "kafka.strimzi.io/v1beta2", "kind": "KafkaTopic", "metadata": {"name": "events", "namespace": "kafka"},
        "spec": {"topicName": TOPIC, "config": config},
    });
    *world.api.kafka_topics.lock().unwrap() = vec![resource];
}

#[tokio::test]
async fn it_is_raised_at_once_and_the_patch_that_ends_the_conflict_is_shown() {
    let mut world = owned();
    // Before the other operator has done anything.
    let policy = status(&world.pass(1).await, "topicretentionpolicies");
    assert_eq!(condition(&policy, "EnforcementConflict"), ("True".into(), "EnforcementConflict".into()));
    let message = conflict(&policy);
    let patch = r#"kubectl patch kafkatopics.kafka.strimzi.io events --namespace kafka --type merge --patch '{"spec":{"config":{"retention.ms":604800000}}}'"#;
    assert!(message.as_str().unwrap().contains(patch), "{message}");
    assert!(world.ctx.metrics.render().unwrap().contains("finding=\"EnforcementConflict\""));
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered(), vec![(TOPIC.to_owned(), "retention.ms".to_owned(), WEEK.to_owned())]);
    // Somebody applies it.
    declare(&world, WEEK);
    let policy = status(&world.pass(2).await, "topicretentionpolicies");
    assert_eq!(condition(&policy, "EnforcementConflict").0, "False");
}

fn conflict(policy: &Value) -> Value {
    policy["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "EnforcementConflict").unwrap()["message"].clone()
}

#[tokio::test]
async fn a_size_that_the_owner_sets_back_is_a_conflict_too() {
    let mut world = owned();
    declare_all(&world, json!({"retention.ms": 604_800_000, "retention.bytes": 1000}));
    world.pass(1).await;
    world.set("retention.bytes", "1000");
    let mut requests = world.turn().await;
    assert_eq!(world.altered(), vec![(TOPIC.to_owned(), "retention.bytes".to_owned(), "-1".to_owned())]);
    requests.extend(world.pass(1).await);
    let policy = status(&requests, "topicretentionpolicies");
    let message = conflict(&policy);
    let patch = r#"'{"spec":{"config":{"retention.bytes":-1}}}'"#;
    assert!(message.as_str().unwrap().contains(patch), "{message}");
    assert!(message.as_str().unwrap().contains("sets retention.bytes to 1000"), "{message}");
}

#[tokio::test]
async fn an_owner_that_sets_it_back_in_each_turn_is_not_fought_in_each_turn() {
    let mut world = owned();
    let (mut raised, mut told) = (0, events(&world.pass(1).await));
    for _ in 0..360 {
        world.set("retention.ms", HOUR);
        told.extend(events(&world.turn().await));
        raised += world.altered().len();
    }
    // Half an hour: three at once, then once a minute; without an owner it would be 360 times.
    assert!((28..=36).contains(&raised), "{raised}");
    let conflicts = told.iter().filter(|(reason, _)| reason == "EnforcementConflict").count();
    assert_eq!(conflicts, 1);
}
