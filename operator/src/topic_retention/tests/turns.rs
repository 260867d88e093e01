//! Stories of the topic, with the exact writes to Kafka and to the Kubernetes API, and then silence.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use serde_json::json;

use super::{
    fakes::Call,
    world::{GROUP, HOUR, TOPIC, WEEK, World, condition, events, policy, short, status},
};
use crate::topic_retention::{memory::TopicMemory, observe::Lags, reconcile_policy, status::has_passed};

fn restored() -> Vec<(String, String, String)> {
    vec![(TOPIC.to_owned(), "retention.ms".to_owned(), WEEK.to_owned())]
}

fn deletes(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.method == http::Method::DELETE).count()
}

/// Of the condition `Stalled`: its reason and its message.
fn stalled(calls: &[Call]) -> (String, String) {
    let status = status(calls, "topicretentionpolicies");
    let message = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Stalled").unwrap()["message"].clone();
    (condition(&status, "Stalled").1, message.as_str().unwrap().to_owned())
}

/// Seconds since the cluster could last be looked at, once some have passed.
async fn look_age_after(world: &mut World, waited: Duration) -> f64 {
    tokio::time::sleep(waited).await;
    world.turn().await;
    let metrics = world.ctx.metrics.render().unwrap();
    let line = metrics.lines().find(|line| line.starts_with("weir_topics_look_age_seconds{")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_topic_that_keeps_its_floor_is_shown_once_and_left_alone() {
    let mut world = World::new("Enforce");
    assert_eq!(short(&world.turn().await), Vec::<String>::new(), "lags are not known yet");
    let calls = world.turn().await;
    let name = "topicfloors/main.app-events-";
    let [create, show, policy] = &calls[..] else { panic!("{:?}", short(&calls)) };
    assert!(create.short().starts_with(&format!("PATCH {name}")) && show.short() == format!("{}/status", create.short()));
    assert_eq!(create.body["spec"], json!({"clusterRef": {"name": "main"}, "topic": TOPIC}));
    assert_eq!(create.body["metadata"]["ownerReferences"][0]["uid"], "cluster-uid");
    let shown = &show.body["status"];
    assert_eq!((&shown["state"], &shown["retention"], &shown["floor"]), (&json!("Healthy"), &json!("168h"), &json!("168h")));
    assert_eq!((&shown["decidedBy"], &shown["limitingGroup"], &shown["behind"]), (&json!("Minimum"), &json!(GROUP), &json!("0s")));
    assert_eq!(policy.short(), "PATCH topicretentionpolicies/events/status");
    assert_eq!(policy.body["status"]["topics"]["healthy"], 1);
    let said = ["LagObserved", "FloorSatisfied", "LagWithinSLO", "OffsetsRetained"].map(|kind| condition(&policy.body["status"], kind).0);
    assert_eq!(said, ["True"; 4]);
    assert_eq!(condition(&policy.body["status"], "Stalled"), ("False".into(), "Watching".into()));
    assert_eq!(short(&world.pass(10).await), Vec::<String>::new());
    assert_eq!(world.altered(), vec![]);
}

#[tokio::test]
async fn what_is_lowered_is_back_at_the_floor_in_the_next_turn() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.set("max.message.bytes", "7");
    let calls = world.turn().await;
    assert_eq!(world.altered(), restored());
    let [(reason, note)] = &events(&calls)[..] else { panic!("{:?}", short(&calls)) };
    assert_eq!(reason, "RetentionRestored");
    for part in
        ["retention.ms from 3600000 to 604800000", "lowered from 604800000 (168h)", "data-lake (#lake)", "lake-sink (raw.app_events)"]
    {
        assert!(note.contains(part), "{part:?} is not in {note}");
    }
    let shown = status(&calls, "topicfloors");
    assert_eq!((&shown["state"], &shown["retention"]), (&json!("Healthy"), &json!("168h")));
    assert_eq!(shown["raised"], json!({"retention.ms": {"before": HOUR, "set": WEEK}}));
    let calls = world.pass(10).await;
    let told = "the verdict, also in the policy's condition, and then silence";
    assert_eq!((calls.len(), events(&calls)[0].0.as_str()), (3, "RecordsIntact"), "{told}: {:?}", short(&calls));
    assert_eq!(world.altered(), vec![]);
    let metrics = world.ctx.metrics.render().unwrap();
    for line in ["weir_retention_changes_total{cause=\"Restore\",outcome=\"Success\"} 1", "weir_topics{state=\"Healthy\"} 1"] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_broker_that_does_not_show_a_raise_yet_is_no_reason_for_another() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered(), restored());
    world.set("retention.ms", HOUR);
    let calls = world.turn().await;
    assert_eq!((world.altered(), events(&calls)), (vec![], vec![]));
    // Another turn, and it must be somebody who has set it back.
    world.turn().await;
    assert_eq!(world.altered(), restored());
    // Once it was shown, whatever comes is somebody's.
    world.turn().await;
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered(), restored());
}

#[tokio::test]
async fn audit_records_warn_warns_and_neither_changes_anything() {
    for (mode, told) in [("Audit", vec![]), ("Warn", vec!["BelowFloor"])] {
        let mut world = World::new(mode);
        world.begin().await;
        world.set("retention.ms", HOUR);
        let calls = world.turn().await;
        assert_eq!(events(&calls).iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>(), told, "{mode}");
        let shown = status(&calls, "topicfloors");
        assert_eq!((&shown["state"], &shown["retention"], &shown["floor"]), (&json!("Violated"), &json!("1h"), &json!("168h")));
        let policy = status(&calls, "topicretentionpolicies");
        assert_eq!(condition(&policy, "FloorSatisfied"), ("False".into(), "BelowFloor".into()));
        assert_eq!((&policy["topics"]["violated"], &policy["worst"][0]["topic"]), (&json!(1), &json!(TOPIC)));
        assert_eq!(short(&world.pass(10).await), Vec::<String>::new());
        assert_eq!(world.altered(), vec![]);
    }
}

#[tokio::test]
async fn what_may_only_be_observed_is_not_changed() {
    let mut world = World::new("Enforce");
    world.grant(&["Observe"]);
    world.begin().await;
    world.set("retention.ms", HOUR);
    assert_eq!(status(&world.turn().await, "topicfloors")["state"], "Violated");
    assert_eq!(world.altered(), vec![]);
    let mut world = World::new("Enforce");
    world.grant(&["Read"]);
    world.set("retention.ms", HOUR);
    world.turn().await;
    let calls = world.pass(1).await;
    assert_eq!(short(&calls), ["PATCH topicretentionpolicies/events/status"]);
    assert_eq!(condition(&calls[0].body["status"], "Stalled"), ("True".into(), "GrantMissing".into()));
    assert!(!world.kafka().asked.contains(&"configs"), "of a topic that is not granted nothing is asked");
}

#[tokio::test]
async fn a_refusal_is_told_once_and_tried_again() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.kafka().refuses = true;
    let calls = world.pass(1).await;
    assert_eq!(events(&calls).iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>(), ["RaiseFailed"]);
    assert_eq!(status(&calls, "topicfloors")["state"], "Violated");
    assert_eq!(world.altered().len(), 12);
    world.kafka().refuses = false;
    assert_eq!(status(&world.turn().await, "topicfloors")["state"], "Healthy");
}

#[tokio::test]
async fn by_an_old_configuration_nothing_is_changed() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.kafka().refuses = true;
    world.turn().await;
    assert_eq!(world.altered(), restored());
    // Somebody raises it far above the floor, which weir cannot see.
    world.set("retention.ms", "-1");
    world.kafka().refuses = false;
    world.kafka().hides_configs = true;
    world.pass(5).await;
    assert_eq!(world.altered(), vec![]);
}

#[tokio::test]
async fn another_process_goes_on_from_the_topic_floor() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.set("retention.ms", HOUR);
    let shown = status(&world.pass(2).await, "topicfloors");
    assert_eq!(world.altered(), restored());
    world.restart(&shown);
    let calls = world.pass(2).await;
    assert_eq!(short(&calls), ["PATCH topicretentionpolicies/events/status"], "the TopicFloor says already what is so");
    // What was raised is remembered as long as nobody else changes it.
    world.set("retention.ms", "700000000");
    assert!(status(&world.pass(2).await, "topicfloors").get("raised").is_none());
    // While nobody looked, somebody lowered it.
    world.restart(&shown);
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered(), restored(), "before any lag is known");
}

#[tokio::test]
async fn a_topic_with_traffic_is_not_written_again_and_again() {
    let mut world = World::new("Enforce");
    world.begin().await;
    let mut writes = Vec::new();
    for _ in 0..20 {
        world.kafka().topics.get_mut(TOPIC).unwrap().log.1 += 1000;
        let end = world.kafka().topics[TOPIC].log.1;
        world.commit(end - 17);
        writes.extend(world.pass(1).await);
    }
    assert_eq!(short(&writes), Vec::<String>::new());
}

#[tokio::test]
async fn a_group_that_stays_behind_raises_the_floor() {
    let mut world = World::new("Enforce");
    world.begin().await;
    let grow = |world: &World| world.kafka().topics.get_mut(TOPIC).unwrap().log.1 += 10;
    for _ in 0..100 * 60 {
        grow(&world);
        world.now += jiff::SignedDuration::from_secs(55);
        world.turn().await;
    }
    let altered = world.altered();
    assert!(altered.len() > 2 && altered.iter().all(|(_, key, _)| key == "retention.ms"), "{altered:?}");
    let hours: Vec<i64> = altered.iter().map(|(_, _, ms)| ms.parse::<i64>().unwrap() / 3_600_000).collect();
    assert!(hours.is_sorted() && hours.last().is_some_and(|last| (199..=201).contains(last)), "{hours:?}");
}

#[tokio::test]
async fn a_loss_is_found_told_once_and_shown() {
    let mut world = World::new("Enforce");
    world.commit(40);
    world.pass(1).await;
    world.kafka().topics.get_mut(TOPIC).unwrap().log.0 = 60;
    let calls = world.pass(5).await;
    let [(reason, note), (drafted, _)] = &events(&calls)[..] else { panic!("{:?}", short(&calls)) };
    assert_eq!((reason.as_str(), drafted.as_str()), ("RecordsLost", "BackfillDrafted"));
    assert!(note.contains("offsets 40 to 59 of partition 0, at most 20 records") && note.contains(GROUP), "{note}");
    assert_eq!(status(&calls, "topicfloors")["state"], "Lost");
    let policy = status(&calls, "topicretentionpolicies");
    assert_eq!((condition(&policy, "DataLossDetected").0.as_str(), &policy["topics"]["lost"]), ("True", &json!(1)));
    assert!(world.ctx.metrics.render().unwrap().contains("weir_topics_missed_records 20"));
}

#[tokio::test]
async fn records_tell_how_far_a_group_was_behind_before_weir_looked() {
    let mut world = World::new("Enforce");
    world.commit(40);
    let day_before = world.now.as_millisecond() - 86_400_000;
    world.kafka().stamp_ms = Some(day_before);
    let calls = world.pass(2).await;
    let shown = status(&calls, "topicfloors");
    assert_eq!((&shown["behind"], &shown["state"]), (&json!("1d"), &json!("Healthy")));
}

#[tokio::test]
async fn a_floor_outlives_its_policy_and_then_goes() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.scene.policies.clear();
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered(), restored());
    let shown = json!({"state": "Healthy", "retention": "168h", "why": "", "headroom": "", "timeToLoss": ""});
    // Another process knows nothing of it any more.
    world.restart(&shown);
    let calls = world.pass(1).await;
    assert!(!calls.is_empty() && calls.iter().all(|c| c.method == http::Method::DELETE), "{:?}", short(&calls));
}

#[tokio::test]
async fn a_topic_floor_that_somebody_deleted_comes_back() {
    let mut world = World::new("Audit");
    world.begin().await;
    *world.api.forgets.lock().unwrap() = true;
    world.set("retention.ms", HOUR);
    world.turn().await;
    *world.api.forgets.lock().unwrap() = false;
    let calls = short(&world.turn().await);
    assert!(calls.len() == 2 && !calls[0].ends_with("/status") && calls[1].ends_with("/status"), "{calls:?}");
}

#[tokio::test]
async fn the_topic_floor_of_a_quiet_topic_that_somebody_deleted_comes_back() {
    let mut world = World::new("Audit");
    world.begin().await;
    world.scene.floors.clear();
    assert_eq!(short(&world.turn().await), Vec::<String>::new(), "the cache may not know of it yet");
    let calls = world.pass(2).await;
    let [create, show] = &calls[..] else { panic!("{:?}", short(&calls)) };
    assert!(create.floor().is_some() && show.short() == format!("{}/status", create.short()), "{:?}", short(&calls));
    assert_eq!(create.body["spec"]["topic"], TOPIC);
    assert_eq!(show.body["status"]["state"], "Healthy");
    assert_eq!(short(&world.pass(10).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_topic_that_is_deleted_goes_and_the_cluster_is_seen() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.kafka().topics.clear();
    let calls = world.pass(2).await;
    assert_eq!((deletes(&calls), stalled(&calls).0.as_str()), (1, "NoTopic"), "{:?}", short(&calls));
    assert_eq!(events(&calls), [], "all was read");
    let waited = Duration::from_millis(300);
    assert!(look_age_after(&mut world, waited).await < waited.as_secs_f64());
}

#[tokio::test]
async fn a_cluster_that_is_gone_grows_no_older() {
    let mut world = World::new("Enforce");
    world.begin().await;
    let is_shown = |world: &World| world.ctx.metrics.render().unwrap().contains("weir_turn_age_seconds{cluster=\"main\"}");
    assert!(is_shown(&world));
    // The cache of clusters has none.
    world.ctx.keep_present();
    assert!(!is_shown(&world));
}

#[tokio::test]
async fn of_a_topic_that_is_deleted_it_is_told_once_what_was_not_read() {
    let mut world = World::new("Enforce");
    let mut policy = policy("Enforce");
    policy.spec.topics.names.push("app_other".into());
    world.scene.policies = vec![Arc::new(policy)];
    let other = world.kafka().topics[TOPIC].clone();
    world.kafka().topics.insert("app_other".into(), other);
    world.begin().await;
    world.log(0, 130);
    world.pass(2).await;
    let deleted = world.kafka().topics.remove(TOPIC).unwrap();
    let calls = world.pass(5).await;
    let (reason, message) = stalled(&calls);
    assert!(reason == "TopicMissing" && message.contains(&format!("has no topic {TOPIC}")), "{reason}: {message}");
    let told = |calls: &[Call]| events(calls).into_iter().filter(|(reason, _)| reason == "TopicDeleted").collect::<Vec<_>>();
    let [(_, note)] = &told(&calls)[..] else { panic!("{:?}", events(&calls)) };
    assert!(note.contains(&format!("at most: 30 for group {GROUP}")), "{note}");
    world.kafka().topics.insert(TOPIC.into(), deleted);
    assert_eq!(stalled(&world.pass(2).await).0, "Watching");
    assert!(!world.memory.topics[TOPIC].told.gone, "it would be told again");
}

#[tokio::test]
async fn a_topic_that_may_not_be_described_any_more_is_kept_as_unknown_and_the_cluster_is_not_seen() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.kafka().denied.insert(TOPIC.into());
    let calls = world.pass(2).await;
    assert_eq!((deletes(&calls), &status(&calls, "topicfloors")["state"]), (0, &json!("Unknown")), "{:?}", short(&calls));
    let (reason, message) = stalled(&calls);
    assert!(reason == "DescribeDenied" && message.contains("lacks Describe") && message.contains(TOPIC), "{reason}: {message}");
    let waited = Duration::from_millis(300);
    assert!(look_age_after(&mut world, waited).await >= waited.as_secs_f64());
    // What is still allowed is done.
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered(), restored());
    world.kafka().denied.clear();
    let calls = world.pass(2).await;
    assert_eq!((&status(&calls, "topicfloors")["state"], stalled(&calls).0.as_str()), (&json!("Healthy"), "Watching"));
    assert!(events(&calls).iter().all(|(reason, _)| reason != "RecordsSkipped"), "{:?}", events(&calls));
    assert!(look_age_after(&mut world, waited).await < waited.as_secs_f64());
}

#[tokio::test]
async fn a_topic_that_may_not_be_described_when_a_process_begins_keeps_its_topic_floor() {
    let mut world = World::new("Enforce");
    let mut policy = policy("Enforce");
    (policy.spec.topics.names, policy.spec.topics.patterns) = (vec![], vec!["^app_".into()]);
    world.scene.policies = vec![Arc::new(policy)];
    world.turn().await;
    let before = status(&world.turn().await, "topicfloors");
    world.kafka().denied.insert(TOPIC.into());
    world.restart(&before);
    let calls = world.pass(1).await;
    assert_eq!((deletes(&calls), stalled(&calls).0.as_str()), (0, "DescribeDenied"), "{:?}", short(&calls));
    let shown = status(&calls, "topicfloors");
    assert_eq!((&shown["state"], &shown["standing"]), (&json!("Unknown"), &before["standing"]), "changes are judged as before");
    assert_eq!(short(&world.pass(2).await), Vec::<String>::new());
    let waited = Duration::from_millis(300);
    assert!(look_age_after(&mut world, waited).await >= waited.as_secs_f64());
    world.kafka().denied.clear();
    assert_eq!(status(&world.pass(2).await, "topicfloors")["state"], "Healthy");
}

#[tokio::test]
async fn a_clock_that_is_put_back_holds_up_no_look() {
    for lags_are_known in [true, false] {
        let mut world = World::new("Enforce");
        world.pass(2).await;
        if !lags_are_known {
            world.memory.lags = Lags::default();
        }
        world.now += SignedDuration::from_hours(-1);
        world.kafka().asked.clear();
        let mut calls = world.turn().await;
        assert!(world.memory.lags.asked_ms <= world.now.as_millisecond(), "nothing was seen at a time that is still to come");
        for question in ["names", "starts", "committed", "ends"] {
            assert!(world.kafka().asked.contains(&question), "{question} is not in {:?}", world.kafka().asked);
        }
        calls.extend(world.turn().await);
        assert!(!lags_are_known || calls.iter().all(|call| call.body["status"]["state"] != "Unknown"), "{:?}", short(&calls));
    }
}

#[test]
fn what_was_read_at_a_time_that_is_still_to_come_is_not_known() {
    let mut topic = TopicMemory::begin("first", None);
    assert!(topic.config(Some(Default::default()), 1000).is_some() && topic.config(None, 1001).is_some());
    assert!(topic.config(None, 999).is_none());
    assert_eq!([999, 1000, 1009, 1010].map(|now_ms| has_passed(1000, 10, now_ms)), [true, false, false, true]);
}

#[tokio::test]
async fn a_cluster_that_is_away_is_said_and_nothing_is_done() {
    let mut world = World::new("Enforce");
    world.kafka().is_away = true;
    let (result, calls) = world.try_turn().await;
    assert!(result.is_err());
    assert_eq!(condition(&status(&calls, "topicretentionpolicies"), "Stalled"), ("True".into(), "ClusterUnreachable".into()));
    // One that was known serves on for a minute, and then is not known.
    world.kafka().is_away = false;
    world.begin().await;
    world.kafka().is_away = true;
    assert_eq!(short(&world.turn().await), Vec::<String>::new());
    let calls = world.pass(2).await;
    assert_eq!(status(&calls, "topicfloors")["state"], "Unknown");
    assert_eq!(condition(&status(&calls, "topicretentionpolicies"), "FloorSatisfied").0, "Unknown");
    assert_eq!(world.altered(), vec![]);
}

#[tokio::test]
async fn what_is_wrong_with_a_policy_is_said() {
    let mut wrong = policy("Enforce");
    wrong.spec.topics.patterns = vec!["(".into()];
    let mut nothing = policy("Enforce");
    nothing.spec.topics.names = vec!["another".into()];
    for (policy, reason) in [(wrong, "InvalidSpec"), (nothing, "NoTopic")] {
        let mut world = World::new("Enforce");
        world.scene.policies = vec![Arc::new(policy)];
        let calls = world.pass(1).await;
        assert_eq!(condition(&status(&calls, "topicretentionpolicies"), "Stalled"), ("True".into(), reason.into()));
        assert_eq!(short(&calls).len(), 1);
    }
}

#[tokio::test]
async fn a_policy_without_a_cluster_says_so_once() {
    let world = World::new("Enforce");
    let ctx = Arc::new(world.ctx);
    let mut policy = policy("Enforce");
    for expected in [1, 0] {
        reconcile_policy(Arc::new(policy.clone()), Arc::clone(&ctx)).await.unwrap();
        let calls = std::mem::take(&mut *world.api.calls.lock().unwrap());
        assert_eq!(calls.len(), expected);
        if let Some(call) = calls.first() {
            assert_eq!(condition(&call.body["status"], "Stalled"), ("True".into(), "ClusterMissing".into()));
            policy.status = Some(serde_json::from_value(call.body["status"].clone()).unwrap());
        }
    }
}
