//! The audit log, lowering and histories, with processes that are killed at each write, and two leaders.

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use serde_json::json;
use weir_crds::BackfillJob;
use weir_floors::{History, observed::Observed};

use super::{
    fakes::Call,
    world::{GROUP, HOUR, PREFIX, TOPIC, WEEK, World, events, short, status},
};
use crate::{
    audit::{entry::kept_folder, log::TAIL_MAX, tests::Trouble},
    topic_retention::histories::{DecodeError, decode, encode},
};

/// Of the events in the log.
pub fn kinds(world: &World) -> Vec<String> {
    world.audit_log().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// `8 days`, which weir raised from a week, and of which it takes a day back when nothing needs it any more.
const RAISED: &str = "691200000";

/// A topic that an earlier policy raised to eight days, shortly before its look-back has passed.
async fn raised() -> World {
    let mut world = World::kept();
    let mut policy = (*world.scene.policies[0]).clone();
    policy.spec.floor.minimum = "192h".parse().unwrap();
    let before = std::mem::replace(&mut world.scene.policies, vec![Arc::new(policy)]);
    world.begin().await;
    assert_eq!(world.altered(), vec![(TOPIC.to_owned(), "retention.ms".to_owned(), RAISED.to_owned())]);
    let mut policy = (*before[0]).clone();
    policy.metadata.generation = Some(2);
    world.scene.policies = vec![Arc::new(policy)];
    // Peaks are kept by the hour: the first one's goes with the end of the second.
    world.pass(118).await;
    assert_eq!(world.altered(), vec![], "the floor lives on for the look-back");
    world
}

#[tokio::test]
async fn in_another_store_there_is_another_log() {
    let mut world = World::kept();
    world.begin().await;
    world.pass(1).await;
    let (first, mut cluster) = (world.chain(), (*world.scene.cluster).clone());
    cluster.spec.audit.as_mut().unwrap().bucket = "elsewhere".into();
    world.scene.cluster = Arc::new(cluster);
    world.pass(2).await;
    world.succeed("b", None);
    world.pass(1).await;
    assert_ne!(world.chain(), first);
    world.audited();
    assert_eq!(kinds(&world), ["Leads", "Leads"]);
}

#[tokio::test]
async fn a_raise_is_done_first_and_in_the_log_after() {
    let mut world = World::kept();
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.turn().await;
    let [leads, raised] = &world.audit_log()[..] else { panic!("{:?}", world.audit_log()) };
    assert_eq!((&leads["kind"], &leads["cluster"]), (&json!("Leads"), &json!("main")));
    let change = &raised["changes"][0];
    assert_eq!((&change["topic"], &change["topicId"], &change["cause"]), (&json!(TOPIC), &json!("first"), &json!("Restore")));
    assert_eq!(change["keys"], json!([{"key": "retention.ms", "from": HOUR, "to": WEEK}]));
    assert!(change.get("inferred").is_none() && change["why"].as_str().is_some_and(|why| why.contains("growth/events")));
    assert_eq!(world.audited().entries, 2);
    assert_eq!(world.says("AuditHealthy"), ("True".into(), "Written".into()));
    assert_eq!(world.says("HistoryKept"), ("True".into(), "Kept".into()));
    world.pass(10).await;
    assert_eq!(world.audited().entries, 2, "and then silence");
}

#[tokio::test]
async fn without_a_log_topics_are_raised_and_it_is_said() {
    let mut world = World::new("Enforce");
    world.begin().await;
    assert_eq!(world.says("AuditHealthy"), ("Unknown".into(), "NoStore".into()));
    assert_eq!(world.says("HistoryKept"), ("False".into(), "NoStore".into()));

    let mut world = World::kept();
    world.store.as_ref().unwrap().trouble(Some(Trouble::Away));
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered().len(), 1);
    assert_eq!(world.says("AuditHealthy"), ("False".into(), "NotWritable".into()));
    let metrics = world.ctx.metrics.render().unwrap();
    for line in ["weir_audit_failing_clusters 1", "weir_audit_waiting_changes 1"] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    world.store.as_ref().unwrap().trouble(None);
    world.turn().await;
    assert_eq!((kinds(&world), world.audited().entries), (vec!["Leads".to_owned(), "Raised".into()], 2));
}

#[tokio::test]
async fn what_was_raised_is_taken_back_by_steps_each_with_an_intent_and_an_outcome() {
    let mut world = raised().await;
    let calls = world.pass(5).await;
    assert_eq!(world.altered(), vec![(TOPIC.to_owned(), "retention.ms".to_owned(), WEEK.to_owned())]);
    assert!(events(&calls).iter().any(|(reason, note)| reason == "RetentionLowered" && note.contains("from 691200000 to 604800000")));
    assert_eq!(kinds(&world), ["Leads", "Raised", "LowerIntent", "LowerOutcome"]);
    let log = world.audit_log();
    assert_eq!(log[2]["changes"][0]["operation"], log[3]["outcomes"][0]["operation"]);
    assert_eq!((&log[2]["changes"][0]["cause"], &log[3]["outcomes"][0]["became"]), (&json!("StepDown"), &json!("Done")));
    assert!(status(&calls, "topicfloors").get("raised").is_none());
    world.pass(20).await;
    assert_eq!(world.audited().entries, 4);
}

#[tokio::test]
async fn nothing_is_lowered_while_the_log_the_disks_or_the_lag_are_not_known() {
    let troubles: [fn(&World); 3] = [
        |world| world.store.as_ref().unwrap().trouble(Some(Trouble::Away)),
        |world| world.kafka().used_percent = None,
        |world| drop(world.kafka().groups.insert(GROUP.into(), None)),
    ];
    for trouble in troubles {
        let mut world = raised().await;
        trouble(&world);
        world.pass(60).await;
        assert_eq!(world.altered(), vec![]);
        assert_eq!(kinds(&world), ["Leads", "Raised"]);
    }
}

/// A BackfillJob that needs eight days of the topic's records.
fn holding(phase: &str) -> Arc<BackfillJob> {
    let sink = json!({
        "clusterRef": {"name": "main"}, "topic": TOPIC, "mode": "InPlace", "value": {"format": "Json", "columns": ["event_id"]},
        "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey",
    });
    let job = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "BackfillJob", "metadata": {"name": "gap", "namespace": "growth"},
        "spec": {
            "reason": "r", "serviceAccountName": "backfill", "runGeneration": 1, "sources": [],
            "window": {"start": "2026-10-26T00:00:00Z", "end": "2026-10-26T01:00:00Z", "slice": "15m"},
            "reconstruct": {"columns": {"eventId": "a", "eventTime": "b", "eventType": "c"}},
            "sinks": [{"name": "events", "kafka": sink}], "approval": {"mode": "Auto"},
        },
        "status": {"phase": phase, "run": {"id": "", "generation": 1, "uri": "", "digest": "", "startedAt": "2026-11-02T00:00:00Z"}},
    });
    Arc::new(serde_json::from_value(job).unwrap())
}

#[tokio::test]
async fn nothing_is_lowered_while_a_backfill_holds_it() {
    let mut world = raised().await;
    world.scene.jobs = vec![holding("Running")];
    world.pass(30).await;
    assert!(!kinds(&world).contains(&"LowerIntent".to_owned()), "{:?}", kinds(&world));
    world.altered();
    world.scene.jobs = vec![holding("Complete")];
    world.pass(150).await;
    assert_eq!(world.altered().last().unwrap().2, WEEK, "and by and by after it");
    world.audited();
}

#[tokio::test]
async fn losses_and_verdicts_are_kept_and_a_successor_tells_and_drafts_nothing_again() {
    let mut world = World::kept();
    world.commit(40);
    world.pass(2).await;
    world.set("retention.ms", HOUR);
    world.log(60, 100);
    // The histories' turn comes every two minutes.
    let calls = world.pass(8).await;
    let told = |calls: &[Call], what: &str| events(calls).iter().filter(|(reason, _)| reason == what).count();
    for what in ["RecordsLost", "DataLossDetected", "BackfillDrafted"] {
        assert_eq!(told(&calls, what), 1, "{what} in {:?}", events(&calls));
    }
    let history = world.memory.topics[TOPIC].history.clone();
    let bytes = encode("main-0123", world.now, &BTreeMap::from([(TOPIC, &history)])).unwrap();
    assert_eq!(decode(&bytes).unwrap(), BTreeMap::from([(TOPIC.to_owned(), history)]));
    // Even where nothing of it is shown.
    let shown = json!({"state": "Healthy", "retention": "168h", "why": "", "headroom": "", "timeToLoss": ""});
    world.succeed("b", Some(&shown));
    world.api.drafts.lock().unwrap().as_mut().unwrap().clear();
    let calls = world.pass(8).await;
    let losses = &status(&calls, "topicfloors")["losses"];
    assert!(losses.as_array().is_some_and(|l| l.len() == 1 && l[0]["draft"].is_string()), "{losses}");
    assert_eq!(status(&calls, "topicfloors")["repair"]["verdict"], "Lost");
    for what in ["DataLossDetected", "BackfillDrafted"] {
        assert_eq!(told(&calls, what), 0, "{what} in {:?}", events(&calls));
    }
}

#[tokio::test]
async fn killed_between_intent_and_change_the_next_leader_says_it_was_not_done_and_does_it() {
    let mut world = raised().await;
    world.store.as_ref().unwrap().trouble(Some(Trouble::HangsAfter("000000000003")));
    world.now += SignedDuration::from_mins(3);
    let mut world = world.die().await;
    assert_eq!((kinds(&world).last().unwrap().as_str(), world.altered()), ("LowerIntent", vec![]));
    let floor = json!({"state": "Healthy", "retention": "192h", "why": "", "headroom": "", "timeToLoss": "",
                       "raised": {"retention.ms": {"before": WEEK, "set": RAISED}}});
    world.succeed("b", Some(&floor));
    world.pass(2).await;
    assert_eq!(world.altered().len(), 1, "what was remembered is enough to go on");
    let log = world.audit_log();
    assert_eq!(kinds(&world)[3..], ["Leads", "LowerOutcome", "LowerIntent", "LowerOutcome"]);
    let outcome = &log[4]["outcomes"][0];
    assert_eq!((&outcome["became"], &outcome["inferred"]), (&json!("NotDone"), &json!(true)));
    assert_eq!(world.audited().open, vec![]);
}

#[tokio::test]
async fn killed_between_change_and_outcome_the_next_leader_says_it_was_done() {
    let mut world = raised().await;
    world.kafka().hangs = true;
    world.now += SignedDuration::from_mins(3);
    let mut world = world.die().await;
    assert_eq!((kinds(&world).last().unwrap().as_str(), world.altered().len()), ("LowerIntent", 1));
    world.succeed("b", None);
    world.pass(2).await;
    assert_eq!(kinds(&world)[3..], ["Leads", "LowerOutcome"]);
    assert_eq!(world.audit_log()[4]["outcomes"][0]["became"], "Done");
    assert_eq!((world.audited().open, world.altered()), (vec![], vec![]));
}

#[tokio::test]
async fn killed_between_raise_and_log_the_next_leader_infers_it_and_takes_it_back_in_its_time() {
    let mut world = World::kept();
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.kafka().hangs = true;
    let mut world = world.die().await;
    assert_eq!((world.altered().len(), kinds(&world)), (1, vec!["Leads".to_owned()]));
    world.succeed("b", None);
    let calls = [world.turn().await, world.turn().await].concat();
    let log = world.audit_log();
    assert_eq!(kinds(&world), ["Leads", "Leads", "Raised"]);
    assert_eq!((&log[2]["changes"][0]["inferred"], &log[2]["changes"][0]["keys"][0]["from"]), (&json!(true), &json!(HOUR)));
    let floor = status(&calls, "topicfloors");
    assert_eq!(floor["raised"]["retention.ms"]["before"], HOUR);
    assert_eq!((&floor["repair"]["loweredTo"], &floor["repair"]["verdict"]), (&json!(HOUR), &json!("Pending")));
    assert_eq!((world.audited().entries, world.altered()), (3, vec![]));
    world.succeed("c", None);
    world.pass(1).await;
    assert_eq!(kinds(&world)[3..], ["Leads"], "once");
}

#[tokio::test]
async fn the_last_raise_is_in_the_log_once_however_many_leaders_follow() {
    let mut world = World::kept();
    world.begin().await;
    world.set("retention.ms", HOUR);
    world.turn().await;
    // More than are read back.
    for _ in 0..TAIL_MAX + 6 {
        world.succeed("b", None);
        world.turn().await;
    }
    assert_eq!(kinds(&world).iter().filter(|kind| *kind == "Raised").count(), 1);
    world.audited();
}

#[tokio::test]
async fn of_raises_that_wait_for_the_log_the_next_leader_forgets_none() {
    let mut world = World::kept();
    world.begin().await;
    // What is about to be raised can be noted; entries cannot be written.
    world.store.as_ref().unwrap().trouble(Some(Trouble::AwayAt("0000000")));
    for lowered in [HOUR, "7200000"] {
        world.set("retention.ms", lowered);
        world.turn().await;
    }
    assert_eq!(world.altered().len(), 2);
    world.store.as_ref().unwrap().trouble(None);
    world.succeed("b", None);
    world.turn().await;
    assert_eq!(kinds(&world), ["Leads", "Leads", "Raised"]);
    assert_eq!(world.audit_log()[2]["changes"].as_array().map(Vec::len), Some(2));
    world.audited();
}

#[tokio::test]
async fn what_is_lowered_while_nobody_leads_is_put_back_and_judged() {
    for (start, verdict) in [(0, "Intact"), (60, "Lost")] {
        let mut world = World::kept();
        world.commit(40);
        // The histories' turn comes every two minutes.
        world.pass(5).await;
        world.succeed("b", None);
        world.set("retention.ms", HOUR);
        world.log(start, 100);
        world.turn().await;
        assert_eq!(world.altered().len(), 1);
        assert_eq!(world.audit_log().last().unwrap()["changes"][0]["cause"], "Restore");
        let repair = &status(&world.pass(2).await, "topicfloors")["repair"];
        assert_eq!((&repair["before"], &repair["loweredTo"], &repair["verdict"]), (&json!(WEEK), &json!(HOUR), &json!(verdict)));
    }
}

#[tokio::test]
async fn what_is_rightly_lowered_while_nobody_leads_stays() {
    let mut world = World::kept();
    world.set("retention.ms", RAISED);
    world.pass(5).await;
    world.succeed("b", None);
    world.set("retention.ms", WEEK);
    world.pass(5).await;
    assert_eq!(world.altered(), vec![]);
}

#[tokio::test]
async fn a_store_that_is_silent_as_a_term_begins_holds_up_no_repair() {
    let mut world = World::kept();
    world.pass(5).await;
    world.succeed("b", None);
    world.store.as_ref().unwrap().trouble(Some(Trouble::Away));
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered(), vec![(TOPIC.to_owned(), "retention.ms".to_owned(), WEEK.to_owned())]);
}

#[tokio::test]
async fn what_the_log_alone_does_not_know_is_written_and_its_verdict_stands() {
    let mut world = World::kept();
    world.commit(40);
    world.pass(5).await;
    // What is about to be raised can be noted; entries cannot be written.
    world.store.as_ref().unwrap().trouble(Some(Trouble::AwayAt("0000000")));
    world.set("retention.ms", HOUR);
    world.log(60, 100);
    let shown = status(&world.pass(3).await, "topicfloors");
    assert_eq!((&shown["repair"]["verdict"], kinds(&world)), (&json!("Lost"), vec!["Leads".to_owned()]));
    world.store.as_ref().unwrap().trouble(None);
    world.succeed("b", Some(&shown));
    let calls = world.pass(5).await;
    assert_eq!(
        (kinds(&world), &world.audit_log()[2]["changes"][0]["inferred"]),
        (["Leads", "Leads", "Raised"].map(String::from).to_vec(), &json!(true))
    );
    let repairs = calls.iter().filter_map(|call| call.body["status"].get("repair"));
    assert!(repairs.clone().all(|repair| repair["verdict"] == "Lost"), "{:?}", repairs.collect::<Vec<_>>());
}

#[tokio::test]
async fn of_two_leaders_only_the_later_one_lowers() {
    let mut old = raised().await;
    let mut new = World::kept();
    (new.kafka, new.store, new.now) = (Arc::clone(&old.kafka), old.store.clone(), old.now);
    (new.scene.cluster, new.ctx.replica) = (Arc::clone(&old.scene.cluster), "b".into());
    // Both are at it for an hour, the old one first each time.
    for _ in 0..720 {
        old.turn().await;
        let retention: i64 = old.kafka().topics[TOPIC].config["retention.ms"].parse().unwrap();
        assert!(retention >= WEEK.parse().unwrap(), "never below the floor");
        new.turn().await;
    }
    let changes = old.altered();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(kinds(&new).iter().filter(|kind| *kind == "LowerIntent").count(), 1);
    new.audited();
}

#[tokio::test]
async fn histories_outlive_the_process_and_so_do_floors_of_deleted_policies() {
    let mut world = World::kept();
    world.begin().await;
    let grow = |world: &World| world.kafka().topics.get_mut(TOPIC).unwrap().log.1 += 10;
    for _ in 0..30 {
        grow(&world);
        world.pass(1).await;
    }
    world.scene.policies.clear();
    world.pass(3).await;
    let shown = json!({"state": "Healthy", "retention": "168h", "why": "", "headroom": "", "timeToLoss": ""});
    world.succeed("b", Some(&shown));
    world.set("retention.ms", HOUR);
    let calls = world.pass(1).await;
    assert!(calls.iter().all(|c| c.method != http::Method::DELETE), "{:?}", short(&calls));
    assert_eq!(world.altered().len(), 1, "it is governed still");
    assert_eq!(world.kafka().topics[TOPIC].config["retention.ms"], WEEK);
}

#[tokio::test]
async fn histories_that_cannot_be_understood_are_named_and_nothing_is_lowered() {
    for (content, says) in [("nonsense", "NotUnderstood"), ("{\"format\": 2}\nlater", "NotUnderstood")] {
        let mut world = raised().await;
        world.pass(1).await;
        let folder = kept_folder(PREFIX, &world.chain());
        let store = world.store.clone().unwrap();
        let broken: Vec<String> = store.objects.lock().unwrap().keys().filter(|k| k.contains("histories")).cloned().collect();
        for key in &broken {
            assert!(key.starts_with(&folder));
            store.objects.lock().unwrap().insert(key.clone(), content.into());
        }
        let floor = json!({"state": "Healthy", "retention": "192h", "why": "", "headroom": "", "timeToLoss": "",
                           "raised": {"retention.ms": {"before": WEEK, "set": RAISED}}});
        world.succeed("b", Some(&floor));
        world.pass(50).await;
        assert_eq!(world.says("HistoryKept"), ("False".into(), says.into()));
        assert_eq!(world.altered(), vec![], "the look-back is not seen yet");
        let is_kept = |key: &String| store.objects.lock().unwrap()[key] == content.as_bytes();
        assert_eq!(broken.iter().all(is_kept), content.contains("format"), "a later format is left alone");
        world.pass(20).await;
        assert_eq!(world.altered().len(), 1);
    }
}

#[tokio::test]
async fn retention_bytes_that_bites_first_is_raised_and_full_disks_hold_back() {
    let grow = |world: &World| {
        let mut kafka = world.kafka();
        kafka.topics.get_mut(TOPIC).unwrap().log.1 += 1000;
        kafka.bytes = kafka.topics[TOPIC].log.1 as u64 * 100;
    };
    let mut world = World::kept();
    world.begin().await;
    for _ in 0..30 {
        grow(&world);
        let end = world.kafka().topics[TOPIC].log.1;
        world.commit(end);
        world.pass(1).await;
    }
    // 100 kB a minute: a day's worth, where a week is the floor.
    world.set("retention.bytes", "144000000");
    let calls = world.turn().await;
    let altered = world.altered();
    assert_eq!((altered.len(), altered[0].1.as_str()), (1, "retention.bytes"));
    let needed = 7.0 * 144_000_000.0;
    let set: f64 = altered[0].2.parse().unwrap();
    assert!((needed..needed * 1.5).contains(&set), "{set}");
    assert_eq!(status(&calls, "topicfloors")["retention"], "168h");
    // What nobody lowered is not raised onto full disks.
    let mut world = World::kept();
    world.kafka().used_percent = Some(81);
    world.set("retention.ms", HOUR);
    world.pass(2).await;
    assert_eq!(world.altered().len(), 1, "before the disks were looked at");
    let mut policy = (*world.scene.policies[0]).clone();
    (policy.spec.floor.minimum, policy.metadata.generation) = ("192h".parse().unwrap(), Some(2));
    world.scene.policies = vec![Arc::new(policy)];
    world.pass(2).await;
    assert_eq!(world.altered(), vec![]);
    world.set("retention.ms", HOUR);
    world.turn().await;
    assert_eq!(world.altered().pop().unwrap().2, WEEK, "what was lowered comes back");
}

#[test]
#[expect(clippy::print_stdout, reason = "the size that the documentation states")]
fn histories_of_a_thousand_topics_are_bounded() {
    // Uneven traffic over a week on twelve partitions, sampled as the turns do. Each topic's by itself: what topics have in
    // common would make it less.
    let history = busy();
    let at = "2026-11-02T00:00:00Z".parse().unwrap();
    let bytes = encode("main-0123", at, &BTreeMap::from([("orders.events", &history)])).unwrap();
    println!("histories: {} bytes a topic of twelve partitions, {} MiB for a thousand", bytes.len(), bytes.len() * 1000 / 1_048_576);
    assert!(bytes.len() < 32 * 1024, "{}", bytes.len());
    assert_eq!(decode(&bytes).unwrap(), BTreeMap::from([("orders.events".to_owned(), history)]));
    let mut broken = bytes.to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(matches!(decode(&broken), Err(DecodeError::Digest)));
    assert!(matches!(decode(b"{\"format\":2}\nx"), Err(DecodeError::Newer { found: 2 })));
    assert!(matches!(decode(b"no line"), Err(DecodeError::Header(_))));
}

/// A history that has all the samples that it may have.
fn busy() -> History {
    use weir_floors::observed::{GroupSeen, GroupState, Log, Storage};
    let mut history = History::new("id");
    let governance = weir_floors::assess::Governance { policies: &[], holds: &[], exceptions: &[] };
    let (begin_ms, mut ends, mut random) = (1_793_577_600_000_i64, [0_i64; 12], 7_u64);
    for round in 0..7 * 24 * 120 {
        let now_ms = begin_ms + round * 30_000;
        for end in &mut ends {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *end += i64::try_from(random >> 50).unwrap();
        }
        let committed = ends.iter().enumerate().map(|(p, end)| (p as i32, end - end % 1000)).collect();
        let seen = Observed {
            topic_id: "id".into(),
            config: None,
            config_is_fresh: false,
            offsets_at_ms: now_ms,
            partitions: ends.iter().enumerate().map(|(p, end)| (p as i32, Some(Log { start: 0, end: *end, bytes: None }))).collect(),
            groups: Some([("g".to_owned(), GroupSeen { state: GroupState::Stable, committed: Some(committed) })].into()),
            offsets_retention_ms: None,
            storage: Storage { used_percent: None, max_used_percent: 100 },
            reads: vec![],
        };
        history.assess(&seen, &governance, now_ms);
    }
    history
}
