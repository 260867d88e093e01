//! What an assessment says, and what admission makes of it.

use super::world::{GROUP, World};
use crate::{
    HOUR_MS, MINUTE_MS, Policy, Retention,
    config::{Overrides, RETENTION_MS, Setting, Source},
    judge::{Edit, Verdict, judge},
    policy::{Consumer, Hold},
};

fn refusal(world: &mut World, old: &Overrides, new: &Overrides) -> Verdict {
    let said = world.look();
    let policies: Vec<&Policy> = world.policies.iter().collect();
    let standing = said.standing("app_events", world.seen.config.as_ref(), &policies).unwrap();
    judge(&Edit { path: "spec.config", old, new }, &standing)
}

#[test]
fn the_reason_names_who_decided_and_the_limiting_group() {
    let mut world = World::new();
    world.pass(100 * HOUR_MS, HOUR_MS, 60, 0);
    let end = world.log().end;
    world.commit(end);
    let said = world.pass(8 * HOUR_MS + 12 * MINUTE_MS, 12 * MINUTE_MS, 1, 0);
    assert_eq!(said.why(), "group lake-sink is 8h12m behind (peak 4d4h, 2026-11-06), twice that is needed");
    world.policies[0].floor.minimum_ms = 300 * HOUR_MS;
    let said = world.look();
    assert!(said.why().starts_with("policy growth/events sets it as the minimum; group lake-sink is 8h12m behind"), "{}", said.why());
    world.holds = vec![Hold { job: "growth/gap".into(), window_start_ms: world.now_ms - 400 * HOUR_MS, renewed_ms: world.now_ms }];
    assert!(world.look().why().starts_with("BackfillJob growth/gap holds its records"));
}

#[test]
fn admission_answers_from_an_assessment() {
    let mut world = World::new();
    for (key, value) in [("retention.bytes", "-1"), ("cleanup.policy", "delete")] {
        world.inherit(key, value);
    }
    world.keeps_up(HOUR_MS);
    let owner = Consumer { team: "data-lake".into(), contact: Some("#data-lake".into()), tables: vec!["raw.app_events".into()] };
    world.policies[0].owners.consumers.insert(GROUP.into(), owner);
    let set = |hours: i64| Overrides::from([(RETENTION_MS.to_owned(), (hours * HOUR_MS).to_string())]);
    let Verdict::Refuse { message } = refusal(&mut world, &set(168), &set(1)) else { panic!() };
    assert!(message.contains("owner data-lake (#data-lake)") && message.contains("lake-sink is 0s behind"), "{message}");
    let Verdict::PassWithWarning { message } = refusal(&mut world, &set(400), &set(168)) else { panic!() };
    assert!(message.contains("lake-sink (raw.app_events)"), "{message}");
    // Left out: nobody knows of a default here, and then of one that is shorter.
    assert!(matches!(refusal(&mut world, &set(168), &Overrides::new()), Verdict::Refuse { .. }));
    let setting = Setting { value: (168 * HOUR_MS).to_string(), source: Source::Topic, inherited: Some(HOUR_MS.to_string()) };
    world.seen.config.as_mut().unwrap().insert(RETENTION_MS.into(), setting);
    let Verdict::Refuse { message } = refusal(&mut world, &set(168), &Overrides::new()) else { panic!() };
    assert!(message.contains("left out, and the broker's default of 3600000 (1h)"), "{message}");
    // Nobody knows how far the group is: nothing may be lowered, to whatever.
    world.group().committed = None;
    world.keeps_up(MINUTE_MS);
    assert!(matches!(refusal(&mut world, &set(400), &set(399)), Verdict::Refuse { .. }));
    assert_eq!(refusal(&mut world, &set(168), &set(169)), Verdict::Pass);
    // Nobody asks for anything.
    let mut free = World::new();
    free.policies.clear();
    free.now_ms += 400 * HOUR_MS;
    let said = free.look();
    assert!(said.standing("app_events", None, &[]).is_none());
    assert_eq!(said.effective.known(), Some(Retention::Millis(168 * HOUR_MS)));
}
