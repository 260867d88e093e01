//! What is news of a topic, and what the conditions of its policy say.

use weir_crds::conditions::{ConditionType, Wanted};

use super::world::{GROUP, World};
use crate::{
    Assessment, HOUR_MS, MINUTE_MS, Policy,
    conditions::conditions,
    exceptions::Exception,
    judge::GUARDED,
    policy::{Consumer, Mode, Owners},
    standing,
    status::Shown,
};

fn say(said: &[(&str, &Assessment)], kind: ConditionType) -> (Option<bool>, String, String) {
    let owner = Owners { team: "growth".into(), ..Owners::default() };
    let Wanted { status, reason, message, .. } = conditions(said, &owner).into_iter().find(|c| c.kind == kind).unwrap();
    (status, reason, message)
}

fn shown(world: &World, said: &Assessment) -> Shown {
    let policies: Vec<&Policy> = world.policies.iter().collect();
    Shown::of(said, said.shown_standing("app_events", world.seen.config.as_ref(), &policies))
}

#[test]
fn what_changes_are_judged_by_arrives_as_it_was_sent() {
    let mut world = World::new();
    for (key, value) in [("retention.bytes", "-1"), ("cleanup.policy", "delete")] {
        world.inherit(key, value);
    }
    let owner = Consumer { team: "data-lake".into(), contact: Some("#data-lake".into()), tables: vec!["raw.app_events".into()] };
    world.policies[0].owners.consumers.insert(GROUP.into(), owner);
    let arrives = |world: &World, said: &Assessment| {
        let status = serde_json::to_value(shown(world, said).status).unwrap();
        standing::of_floor("app_events", &serde_json::from_value(status).unwrap()).unwrap()
    };
    let sent = |world: &World, said: &Assessment| {
        let policies: Vec<&Policy> = world.policies.iter().collect();
        let mut sent = said.standing("app_events", world.seen.config.as_ref(), &policies).unwrap();
        // Who judges a change has no use for these.
        sent.protect.broker_defaults = false;
        sent.inherited.retain(|key, _| GUARDED.contains(&key.as_str()));
        sent
    };
    let said = world.keeps_up(HOUR_MS);
    assert_eq!(arrives(&world, &said), sent(&world, &said));
    assert!(arrives(&world, &said).floor.is_some());
    // Not known stays not known.
    world.group().committed = None;
    let said = world.keeps_up(MINUTE_MS);
    assert_eq!((arrives(&world, &said), arrives(&world, &said).floor), (sent(&world, &said), None));
    let consumers = shown(&world, &said).status.standing.unwrap().consumers;
    assert_eq!((consumers[0].group.as_str(), consumers[0].tables.as_slice()), (GROUP, ["raw.app_events".to_owned()].as_slice()));
}

#[test]
fn traffic_is_no_news_and_a_growing_lag_is() {
    let mut world = World::new();
    let said = world.pass(HOUR_MS, MINUTE_MS, 60, 60);
    let first = shown(&world, &said);
    for unread in [0, 1, 60, 200, 0] {
        world.pass(30_000, 30_000, unread, 0);
        let said = world.pass(30_000, 30_000, 0, unread);
        assert!(!shown(&world, &said).is_news(&first), "{unread}");
    }
    // The group stands still from here on.
    let mut last = first;
    let mut news = 0;
    for _ in 0..24 * 60 {
        let said = world.pass(MINUTE_MS, MINUTE_MS, 60, 0);
        let now = shown(&world, &said);
        if now.is_news(&last) {
            news += 1;
            last = now;
        }
    }
    // From five minutes to a day by half each time, and where a state or the headroom changes.
    assert!((12..40).contains(&news), "{news}");
}

#[test]
fn another_state_or_retention_is_news() {
    let mut world = World::new();
    world.policies[0].mode = Mode::Audit;
    let said = world.keeps_up(HOUR_MS);
    let before = shown(&world, &said);
    world.set("retention.ms", 200 * HOUR_MS);
    let said = world.keeps_up(HOUR_MS);
    let longer = shown(&world, &said);
    assert!(longer.is_news(&before) && !longer.is_another_state(&before.status));
    world.set("retention.ms", HOUR_MS);
    let said = world.look();
    let lowered = shown(&world, &said);
    assert!(lowered.is_news(&longer) && lowered.is_another_state(&longer.status));
    // Admission must know at once.
    world.policies[0].mode = Mode::Enforce;
    let said = world.look();
    assert!(shown(&world, &said).is_another_state(&lowered.status));
    let mut before = shown(&world, &said);
    for floor_ms in [HOUR_MS, 2 * HOUR_MS] {
        let until_ms = world.now_ms + HOUR_MS;
        world.exceptions = vec![Exception { name: "growth/glass".into(), reason: "disks".into(), floor_ms, until_ms }];
        let said = world.look();
        let allowed = shown(&world, &said);
        assert_eq!(allowed.status.standing.as_ref().and_then(|s| s.floor_ms), Some(floor_ms));
        assert!(allowed.is_another_state(&before.status));
        before = allowed;
    }
    world.exceptions.clear();
    let said = world.look();
    assert!(shown(&world, &said).is_another_state(&before.status));
}

#[test]
fn conditions_say_what_is_wrong_with_which_topic() {
    let (mut well, mut low, mut unknown) = (World::new(), World::new(), World::new());
    let well = well.keeps_up(HOUR_MS);
    low.set("retention.ms", HOUR_MS);
    let low = low.keeps_up(HOUR_MS);
    unknown.seen.groups = None;
    unknown.seen.config = None;
    let unknown = unknown.look();
    assert_eq!(say(&[("a", &well)], ConditionType::FloorSatisfied).0, Some(true));
    assert_eq!(say(&[("a", &well)], ConditionType::LagObserved).0, Some(true));
    let (status, reason, message) = say(&[("a", &well), ("b", &low), ("c", &low), ("d", &unknown)], ConditionType::FloorSatisfied);
    assert_eq!((status, reason.as_str()), (Some(false), "BelowFloor"));
    let expected = "topic b: its retention of 3600000 (1h) (lowered from 604800000 (168h)) is below the floor of 604800000 (168h); owner growth; and 1 more topics";
    assert_eq!(message, expected);
    assert_eq!(say(&[("a", &well), ("d", &unknown)], ConditionType::FloorSatisfied).0, None, "nobody knows");
    let (status, _, message) = say(&[("d", &unknown)], ConditionType::LagObserved);
    assert_eq!((status, message.as_str()), (Some(false), "topic d: its configuration cannot be read"));
}

#[test]
fn the_worst_about_a_lag_is_its_reason_and_a_loss_is_detected() {
    let mut world = World::new();
    let late = world.pass(100 * HOUR_MS, HOUR_MS, 60, 0);
    let (status, reason, message) = say(&[("a", &late)], ConditionType::LagWithinSlo);
    assert_eq!((status, reason.as_str()), (Some(false), "LagCritical"), "{message}");
    assert_eq!(say(&[("a", &late)], ConditionType::DataLossDetected).0, Some(false));
    world.log().start = 30;
    let lost = world.pass(MINUTE_MS, MINUTE_MS, 0, 0);
    let (status, reason, message) = say(&[("a", &lost)], ConditionType::DataLossDetected);
    assert_eq!((status, reason.as_str()), (Some(true), "RecordsLost"));
    assert!(message.contains("offsets 0 to 29 of partition 0, at most 30 records") && message.contains("2026-11-02T00:"), "{message}");
}

#[test]
fn that_nothing_was_known_is_not_left_standing() {
    let mut world = World::new();
    let said = world.pass(HOUR_MS, MINUTE_MS, 60, 60);
    let known = shown(&world, &said);
    let mut unknown = known.clone();
    (unknown.status.headroom, unknown.status.time_to_loss) = ("Unknown".into(), "Unknown".into());
    assert!(known.is_news(&unknown));
    assert!(!unknown.is_news(&known), "near the end of a log it comes and goes");
}
