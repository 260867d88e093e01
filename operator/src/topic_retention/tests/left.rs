//! What is left of a topic that is gone, or of which nobody asks for anything any more: what was lost, until somebody has seen to it.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use weir_crds::topic_floor::TopicFloorStatus;
use weir_floors::DAY_MS;

use super::{
    fakes::{Call, FakeTopic},
    world::{TOPIC, World, short, status},
};
use crate::topic_retention::{memory::Memory, show, status::left as stays};

/// A group has lost records of the topic; returns its losses as they are shown.
async fn lossy() -> (World, Value) {
    let mut world = World::new("Enforce");
    world.commit(40);
    world.pass(1).await;
    world.log(60, 100);
    let losses = status(&world.pass(5).await, "topicfloors")["losses"].clone();
    assert_eq!(losses.as_array().map(Vec::len), Some(1));
    (world, losses)
}

fn found(world: &World) -> &TopicFloorStatus {
    world.scene.floors[0].status.as_ref().unwrap()
}

fn is_deleted(calls: &[Call]) -> bool {
    calls.iter().any(|call| call.method == Method::DELETE && call.floor().is_some())
}

fn acknowledge(world: &mut World, losses: &Value) {
    let mut floor = (*world.scene.floors[0]).clone();
    let id = losses[0]["id"].as_str().unwrap().to_owned();
    floor.metadata.annotations = Some([("weir.dev/acknowledged".to_owned(), id)].into());
    world.scene.floors = vec![Arc::new(floor)];
}

#[tokio::test]
async fn what_was_lost_of_a_topic_that_is_deleted_is_shown_until_somebody_has_seen_to_it() {
    let (mut world, losses) = lossy().await;
    let deleted = world.kafka().topics.remove(TOPIC).unwrap();
    let calls = world.pass(2).await;
    let left = status(&calls, "topicfloors");
    assert_eq!((is_deleted(&calls), &left["state"], &left["losses"]), (false, &json!("TopicDeleted"), &losses), "{:?}", short(&calls));
    for field in ["standing", "floor", "raised", "snapshots", "holds", "maximum"] {
        assert!(left.get(field).is_none(), "{field} is that of a topic which is gone: {left}");
    }
    assert!(world.scene.floors[0].is_left());
    assert_eq!(short(&world.pass(10).await), Vec::<String>::new(), "once");
    let metrics = world.ctx.metrics.render().unwrap();
    assert!(metrics.contains("weir_topics{state=\"Lost\"} 0") && !metrics.contains("weir_finding{"), "{metrics}");
    // Brokers do not say any more whether it is there.
    world.kafka().denied.insert(TOPIC.into());
    world.pass(2).await;
    assert_eq!(found(&world).state, "TopicDeleted");
    acknowledge(&mut world, &losses);
    assert!(is_deleted(&world.turn().await) && world.scene.floors.is_empty());
    // It is made again, and what was seen to stays so.
    world.kafka().denied.clear();
    world.kafka().topics.insert(TOPIC.into(), FakeTopic { id: "second".into(), ..deleted });
    world.pass(2).await;
    let known = found(&world).losses.iter().find(|loss| losses[0]["id"] == loss.id);
    assert!(known.unwrap().acknowledged, "{known:?}");
}

#[tokio::test]
async fn another_topic_of_the_same_name_is_governed_and_what_the_first_one_lost_is_still_shown() {
    for restarts in [false, true] {
        let (mut world, losses) = lossy().await;
        let deleted = world.kafka().topics.remove(TOPIC).unwrap();
        world.pass(2).await;
        if restarts {
            world.memory = Memory::default();
        }
        world.kafka().topics.insert(TOPIC.into(), FakeTopic { id: "second".into(), ..deleted });
        world.pass(2).await;
        let shown = found(&world);
        assert!(!world.scene.floors[0].is_left() && shown.standing.is_some() && shown.floor.is_some(), "{shown:?}");
        let first = shown.losses.iter().find(|loss| losses[0]["id"] == loss.id).unwrap();
        assert_eq!((first.topic_id.as_str(), first.acknowledged), ("first", false));
    }
}

#[tokio::test]
async fn what_was_lost_of_a_topic_that_nobody_governs_any_more_is_shown_until_somebody_has_seen_to_it() {
    let (mut world, losses) = lossy().await;
    let policies = std::mem::take(&mut world.scene.policies);
    // Another process knows nothing of them.
    world.memory = Memory::default();
    let calls = world.pass(1).await;
    let left = status(&calls, "topicfloors");
    assert_eq!((is_deleted(&calls), &left["state"], &left["losses"]), (false, &json!("NotGoverned"), &losses), "{:?}", short(&calls));
    // Somebody governs it again.
    world.scene.policies = policies;
    world.pass(2).await;
    assert_eq!(found(&world).state, "Lost");
    world.scene.policies.clear();
    world.memory = Memory::default();
    world.pass(1).await;
    assert_eq!(found(&world).state, "NotGoverned");
    // Without a policy no turn is taken.
    show::let_go(&world.ctx, &world.scene, world.now).await.unwrap();
    assert_eq!(short(&world.api.calls.lock().unwrap()), Vec::<String>::new());
    acknowledge(&mut world, &losses);
    show::let_go(&world.ctx, &world.scene, world.now).await.unwrap();
    let calls = std::mem::take(&mut *world.api.calls.lock().unwrap());
    assert!(is_deleted(&calls), "{:?}", short(&calls));
}

/// Of a topic that is gone: what it shows of one loss and one repair.
fn shown_as(loss: &Value, repair: &Value) -> TopicFloorStatus {
    let missed = json!([{"group": "lake-sink", "partition": 0, "from": 1, "to": 2}]);
    let mut one = json!({"topicId": "first", "cause": "Deleted", "foundAt": "2026-11-01T00:00:00Z", "grownAt": "2026-11-02T00:00:00Z",
                         "missed": missed, "recordsMax": 1});
    one.as_object_mut().unwrap().extend(loss.as_object().unwrap().clone());
    let mut other = json!({"id": "r", "topicId": "first", "at": "2026-11-02T00:00:00Z", "key": "retention.ms", "putBack": "7"});
    other.as_object_mut().unwrap().extend(repair.as_object().unwrap().clone());
    let status = json!({"state": "Lost", "retention": "1h", "why": "", "headroom": "", "timeToLoss": "", "losses": [one], "repair": other});
    serde_json::from_value(status).unwrap()
}

#[test]
fn only_what_nobody_has_seen_to_is_left_and_not_for_ever() {
    let at_ms = "2026-11-02T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let (open, closed) = (json!({"id": "a"}), json!({"id": "a", "acknowledged": true}));
    let (intact, lost) = (json!({"verdict": "Intact"}), json!({"verdict": "Lost"}));
    for (loss, repair, acknowledged, days, is_left) in [
        (&open, &intact, vec![], 0, true),
        (&open, &intact, vec![], 89, true),
        (&open, &intact, vec![], 90, false),
        (&open, &intact, vec!["a"], 0, false),
        (&open, &intact, vec!["b", "a"], 0, false),
        (&closed, &intact, vec![], 0, false),
        (&closed, &lost, vec![], 0, true),
        (&open, &lost, vec!["a"], 0, true),
        (&open, &lost, vec!["a", "r"], 0, false),
    ] {
        let left = stays(&shown_as(loss, repair), &acknowledged, true, at_ms + days * DAY_MS);
        assert_eq!(left.is_some(), is_left, "{loss} {repair} {acknowledged:?} after {days} days");
    }
    // The annotation need only name what is new.
    let left = stays(&shown_as(&open, &lost), &["a"], true, at_ms).unwrap();
    assert!(left.losses[0].acknowledged && stays(&left, &["r"], false, at_ms).is_none());
}
