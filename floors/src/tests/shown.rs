//! What is news of a topic, and what the conditions of its policy say.

use weir_crds::conditions::{ConditionType, Wanted};

use super::world::World;
use crate::{
    Assessment, HOUR_MS, MINUTE_MS,
    conditions::conditions,
    policy::{Mode, Owners},
    status::Shown,
};

fn say(said: &[(&str, &Assessment)], kind: ConditionType) -> (Option<bool>, String, String) {
    let owner = Owners { team: "growth".into(), ..Owners::default() };
    let Wanted { status, reason, message, .. } = conditions(said, &owner).into_iter().find(|c| c.kind == kind).unwrap();
    (status, reason, message)
}

#[test]
fn traffic_is_no_news_and_a_growing_lag_is() {
    let mut world = World::new();
    let first = Shown::of(&world.pass(HOUR_MS, MINUTE_MS, 60, 60));
    for unread in [0, 1, 60, 200, 0] {
        world.pass(30_000, 30_000, unread, 0);
        let said = world.pass(30_000, 30_000, 0, unread);
        assert!(!Shown::of(&said).is_news(&first), "{unread}");
    }
    // The group stands still from here on.
    let mut shown = first;
    let mut news = 0;
    for _ in 0..24 * 60 {
        let now = Shown::of(&world.pass(MINUTE_MS, MINUTE_MS, 60, 0));
        if now.is_news(&shown) {
            news += 1;
            shown = now;
        }
    }
    // From five minutes to a day by half each time, and where a state or the headroom changes.
    assert!((12..40).contains(&news), "{news}");
}

#[test]
fn another_state_or_retention_is_news() {
    let mut world = World::new();
    world.policies[0].mode = Mode::Audit;
    let before = Shown::of(&world.keeps_up(HOUR_MS));
    world.set("retention.ms", 200 * HOUR_MS);
    let longer = Shown::of(&world.keeps_up(HOUR_MS));
    assert!(longer.is_news(&before) && !longer.is_another_state(&before.status));
    world.set("retention.ms", HOUR_MS);
    let lowered = Shown::of(&world.look());
    assert!(lowered.is_news(&longer) && lowered.is_another_state(&longer.status));
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
