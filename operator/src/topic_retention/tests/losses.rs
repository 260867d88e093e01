//! Verdicts after repairs, drafts of BackfillJobs, findings that are told, and holds.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};
use weir_crds::BackfillJob;

use super::{
    fakes::Call,
    world::{GROUP, HOUR, TOPIC, WEEK, World, condition, events, short, status},
};

fn drafts(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|c| c.path.ends_with("/backfilljobs")).collect()
}

/// A group that stands before the last 60 of 100 records, for a while.
async fn behind(mode: &str) -> World {
    let mut world = World::new(mode);
    world.commit(40);
    world.pass(2).await;
    world
}

#[tokio::test]
async fn after_a_repair_weir_says_whether_records_were_lost() {
    for (start, reason, verdict) in [(0, "RecordsIntact", "Intact"), (60, "DataLossDetected", "Lost")] {
        let mut world = behind("Enforce").await;
        world.set("retention.ms", HOUR);
        world.log(start, 100);
        let shown = status(&world.turn().await, "topicfloors");
        assert_eq!((&shown["repair"]["verdict"], &shown["repair"]["began"]), (&json!("Pending"), &json!([{"partition": 0, "offset": 0}])));
        assert_eq!((&shown["repair"]["before"], &shown["repair"]["loweredTo"]), (&json!(WEEK), &json!(HOUR)));
        let calls = world.pass(2).await;
        let told: Vec<_> = events(&calls).into_iter().filter(|(r, _)| r == reason).collect();
        let [(_, note)] = &told[..] else { panic!("{:?}", events(&calls)) };
        assert!(
            note.contains("data-lake (#lake)") && note.contains("retention.ms was lowered from 604800000 (168h) to 3600000 (1h)"),
            "{note}"
        );
        let shown = status(&calls, "topicfloors");
        assert_eq!(shown["repair"]["verdict"], verdict);
        let metrics = world.ctx.metrics.render().unwrap();
        assert!(metrics.contains(&format!("weir_repair_verdicts_total{{verdict=\"{verdict}\"}} 1")), "{metrics}");
        let restored = "finding=\"RetentionRestored\",severity=\"warning\",owner=\"data-lake (#lake)\"";
        assert!(metrics.contains(restored) && metrics.contains("topic=\"app_events\",group=\"lake-sink\""), "{metrics}");
        if start > 0 {
            let deleted = &shown["repair"]["deleted"][0];
            assert_eq!((&deleted["from"], &deleted["to"]), (&json!(0), &json!(60)));
            assert_eq!(shown["losses"][0]["missed"][0]["group"], GROUP);
            assert_eq!(condition(&status(&calls, "topicretentionpolicies"), "DataLossDetected").0, "True");
        }
        // Another process shows the same, and tells nothing again.
        world.restart(&shown);
        let calls = world.pass(3).await;
        assert!(events(&calls).is_empty() || verdict == "Lost" && events(&calls)[0].0 == "BackfillDrafted", "{:?}", events(&calls));
    }
}

#[tokio::test]
async fn a_loss_is_drafted_once_and_for_exactly_its_window() {
    let mut world = World::new("Enforce");
    // Records come over an hour, of which the group reads none.
    world.log(0, 0);
    world.commit(0);
    world.begin().await;
    let begin = world.now;
    for minute in 1..=60 {
        world.log(0, minute);
        world.pass(1).await;
    }
    world.log(30, 60);
    assert!(drafts(&world.pass(1).await).is_empty(), "it may grow");
    let calls = world.pass(5).await;
    let [draft] = &drafts(&calls)[..] else { panic!("{:?}", short(&calls)) };
    assert!(draft.path.contains("/namespaces/growth/"));
    let job: BackfillJob = serde_json::from_value(draft.body.clone()).unwrap();
    assert!(job.metadata.name.as_ref().unwrap().starts_with("draft-app-events-") && job.metadata.owner_references.is_none());
    assert!(job.spec.suspend && job.spec.sources.is_empty() && job.spec.service_account_name.is_empty());
    let near = |at: jiff::Timestamp, minutes: i64| (at.duration_since(begin).as_secs() - minutes * 60).abs() <= 90;
    assert!(near(job.spec.window.start.0, 0) && near(job.spec.window.end.0, 30), "{:?} from {begin}", job.spec.window);
    assert!(job.spec.reason.contains(TOPIC) && job.spec.reason.contains("at most 30 records"), "{}", job.spec.reason);
    assert_eq!(events(&calls).iter().filter(|(reason, _)| reason == "BackfillDrafted").count(), 1);
    let shown = status(&calls, "topicfloors");
    assert_eq!(shown["losses"][0]["draft"], format!("growth/{}", job.metadata.name.unwrap()));
    // Somebody deletes it, and the operator is another: it does not come back.
    world.api.drafts.lock().unwrap().as_mut().unwrap().clear();
    assert!(drafts(&world.pass(10).await).is_empty());
    world.restart(&shown);
    assert!(drafts(&world.pass(10).await).is_empty());
}

#[tokio::test]
async fn what_is_lost_while_nobody_raises_the_retention_is_drafted_once_it_is_raised() {
    for mode in ["Audit", "Warn"] {
        let mut world = behind(mode).await;
        world.set("retention.ms", HOUR);
        for start in [50, 60, 70] {
            world.log(start, 100);
            let calls = world.pass(12).await;
            assert!(drafts(&calls).is_empty(), "{mode}: {:?}", short(&calls));
            world.now += SignedDuration::from_hours(1);
        }
        world.set("retention.ms", WEEK);
        let calls = world.pass(1).await;
        let [draft] = &drafts(&calls)[..] else { panic!("{mode}: {:?}", short(&calls)) };
        let reason = draft.body["spec"]["reason"].as_str().unwrap();
        assert!(reason.contains("at most 30 records") && reason.contains("offsets 40 to 69 of partition 0"), "{reason}");
        assert_eq!(status(&calls, "topicfloors")["losses"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_draft_that_is_there_or_cannot_be_made_harms_nothing() {
    // The one that made it died before it said so.
    let mut world = behind("Enforce").await;
    world.log(60, 100);
    let first = world.pass(5).await;
    let name = drafts(&first)[0].body["metadata"]["name"].clone();
    let mut again = behind("Enforce").await;
    *again.api.drafts.lock().unwrap() = Some(vec![name.as_str().unwrap().to_owned()]);
    again.log(60, 100);
    let calls = again.pass(5).await;
    assert_eq!((drafts(&calls).len(), &drafts(&calls)[0].body["metadata"]["name"]), (1, &name), "the same name");
    assert_eq!(status(&calls, "topicfloors")["losses"][0]["draft"], format!("growth/{}", name.as_str().unwrap()));
    // It is refused: it is tried again, but not in each turn.
    let mut refused = behind("Enforce").await;
    *refused.api.drafts.lock().unwrap() = None;
    refused.log(60, 100);
    let calls = refused.pass(10).await;
    assert!((5..=9).contains(&drafts(&calls).len()), "{:?}", short(&calls));
    assert!(events(&calls).iter().any(|(reason, note)| reason == "DraftFailed" && note.contains("Forbidden")), "{:?}", events(&calls));
}

#[tokio::test]
async fn records_that_a_group_skipped_are_drafted_into_a_topic_of_their_own() {
    let mut world = behind("Enforce").await;
    world.kafka().groups.clear();
    world.pass(2).await;
    world.commit(100);
    let calls = world.pass(4).await;
    assert!(
        events(&calls).iter().any(|(reason, note)| reason == "RecordsSkipped" && note.contains("offsets 40 to 99")),
        "{:?}",
        events(&calls)
    );
    let [draft] = &drafts(&calls)[..] else { panic!("{:?}", short(&calls)) };
    let sink = &draft.body["spec"]["sinks"][0]["kafka"];
    assert_eq!((&sink["topic"], &sink["mode"]), (&json!("app_events.backfill"), &json!("SideTopic")), "others have read them");
}

/// Brokers leave out of their lists what weir may not describe, and do not say so.
#[tokio::test]
async fn a_group_that_is_not_listed_for_a_while_has_lost_and_skipped_nothing() {
    let snapshot = json!({"group": GROUP, "activeAt": "2026-11-02T00:00:00Z", "committed": [{"partition": 0, "offset": 100}]});
    let floor = json!({"state": "Healthy", "retention": "168h", "why": "", "headroom": "", "timeToLoss": "", "snapshots": [snapshot]});
    for leader in ["the same", "one that takes up histories", "one that knows the TopicFloor only"] {
        let mut world = World::kept();
        let mut calls = world.pass(4).await;
        world.kafka().unlisted.insert(GROUP.into());
        world.kafka().groups.insert(GROUP.into(), None);
        match leader {
            "the same" => {}
            "one that takes up histories" => world.succeed("b", None),
            _ => {
                world.store = None;
                world.succeed("b", Some(&floor));
            }
        }
        // The group reads on, and what it has read goes.
        world.log(120, 150);
        calls.extend(world.pass(3).await);
        assert_eq!(status(&calls, "topicfloors")["state"], "Unknown", "{leader}");
        world.kafka().unlisted.clear();
        world.commit(150);
        calls.extend(world.pass(5).await);
        assert_eq!(status(&calls, "topicfloors")["state"], "Healthy", "{leader}");
        assert_eq!((events(&calls), drafts(&calls).len()), (vec![], 0), "{leader}");
        assert!(calls.iter().all(|call| call.body["status"].get("losses").is_none()), "{leader}");
    }
}

#[tokio::test]
async fn what_somebody_has_seen_to_is_not_told_of_any_more() {
    let mut world = behind("Enforce").await;
    world.log(60, 100);
    let shown = status(&world.pass(1).await, "topicfloors");
    world.restart(&shown);
    let mut floor = (*world.scene.floors[0]).clone();
    let id = shown["losses"][0]["id"].as_str().unwrap().to_owned();
    floor.metadata.annotations = Some([("weir.dev/acknowledged".to_owned(), format!("another, {id}"))].into());
    world.scene.floors = vec![Arc::new(floor)];
    let calls = world.pass(10).await;
    assert!(drafts(&calls).is_empty(), "{:?}", short(&calls));
    let policy = status(&calls, "topicretentionpolicies");
    assert_eq!((condition(&policy, "DataLossDetected").0.as_str(), &policy["topics"]["lost"]), ("False", &json!(0)));
    assert!(world.ctx.metrics.render().unwrap().contains("weir_topics_missed_records 0"));
}

#[tokio::test]
async fn a_consumer_that_dies_is_told_of_once_with_its_owner() {
    let mut world = World::new("Enforce");
    let mut policy = super::world::policy("Enforce");
    policy.spec.detectors = Some(serde_json::from_value(json!({"deadConsumer": {"after": "15m"}})).unwrap());
    world.scene.policies = vec![Arc::new(policy)];
    world.begin().await;
    let mut told = Vec::new();
    for minute in 1..=40 {
        world.log(0, 100 + minute);
        told.extend(events(&world.pass(1).await));
    }
    let [(reason, note)] = &told[..] else { panic!("{told:?}") };
    assert!(reason == "DeadConsumer" && note.contains(GROUP) && note.contains("owner data-lake (#lake)"), "{note}");
    let metrics = world.ctx.metrics.render().unwrap();
    assert!(metrics.contains("finding=\"DeadConsumer\",severity=\"warning\",owner=\"data-lake (#lake)\""), "{metrics}");
    // It reads on: nothing is wrong any more.
    world.commit(140);
    world.pass(1).await;
    assert!(!world.ctx.metrics.render().unwrap().contains("finding=\"DeadConsumer\""));
}

fn job(phase: &str, begun: &str) -> Value {
    let sink = json!({
        "clusterRef": {"name": "main"}, "topic": TOPIC, "mode": "InPlace", "value": {"format": "Json", "columns": ["event_id"]},
        "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey",
    });
    json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "BackfillJob", "metadata": {"name": "gap", "namespace": "growth"},
        "spec": {
            "reason": "r", "serviceAccountName": "backfill", "runGeneration": 1, "sources": [],
            "window": {"start": "2026-10-20T00:00:00Z", "end": "2026-10-20T01:00:00Z", "slice": "15m"},
            "reconstruct": {"columns": {"eventId": "a", "eventTime": "b", "eventType": "c"}},
            "sinks": [{"name": "events", "kafka": sink}], "approval": {"mode": "Auto"},
        },
        "status": {"phase": phase, "run": {"id": "", "generation": 1, "uri": "", "digest": "", "startedAt": begun}},
    })
}

#[tokio::test]
async fn a_running_job_holds_its_target() {
    let mut world = World::new("Enforce");
    world.begin().await;
    world.scene.jobs = vec![Arc::new(serde_json::from_value(job("Planning", "2026-11-02T00:00:00Z")).unwrap())];
    let calls = world.pass(1).await;
    // Thirteen days since the window's start, and one more.
    let hours: i64 = world.altered()[0].2.parse::<i64>().unwrap() / 3_600_000;
    assert_eq!(hours, 14 * 24 + 1);
    let shown = status(&calls, "topicfloors");
    assert_eq!((&shown["decidedBy"], &shown["holds"][0]["job"]), (&json!("Hold"), &json!("growth/gap")));
    assert_eq!(shown["holds"][0]["until"], "2026-11-05T00:00:00Z");
    assert_eq!(condition(&status(&calls, "topicretentionpolicies"), "HoldActive"), ("True".into(), "HeldByBackfillJob".into()));
    // Nobody renews it.
    world.now += SignedDuration::from_hours(72);
    let calls = world.pass(2).await;
    assert!(status(&calls, "topicfloors").get("holds").is_none());
    assert_eq!(condition(&status(&calls, "topicretentionpolicies"), "HoldActive").0, "False");
}
