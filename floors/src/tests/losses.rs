//! Losses that go on, and more of them than are told apart.

use std::{collections::BTreeMap, ops::Range};

use weir_crds::topic_loss::LossStatus;

use super::{
    verdicts::behind,
    world::{GROUP, World},
};
use crate::{
    Assessment, DAY_MS, HOUR_MS, History, MINUTE_MS, Retention,
    config::RETENTION_MS,
    exceptions::Exception,
    findings::{Finding, Gap},
    losses::GAPS_MAX,
    observed::{GroupSeen, GroupState, Log},
    peaks::Peaks,
    policy::{Authority, FloorRule, Mode},
    status::topic_floor,
};

/// The records of each incident, and whether it is over.
fn losses(said: &Assessment) -> Vec<(i64, bool)> {
    said.losses.iter().map(|loss| (loss.records_max(), loss.settled)).collect()
}

/// Of what nobody has seen to.
fn missed(said: &Assessment) -> usize {
    said.findings.iter().filter(|finding| matches!(finding, Finding::Missed(_))).count()
}

fn lower(world: &mut World, mode: Mode) {
    world.policies[0].mode = mode;
    world.set(RETENTION_MS, HOUR_MS);
}

#[test]
fn while_too_little_is_kept_what_the_broker_deletes_is_one_loss() {
    let causes: [(&str, fn(&mut World)); 5] = [
        ("Audit", |world| lower(world, Mode::Audit)),
        ("Warn", |world| lower(world, Mode::Warn)),
        ("a floor that is capped", |world| {
            world.policies[0].authority = Authority::Govern { max_floor: Retention::Millis(100 * HOUR_MS) };
        }),
        ("an exception", |world| {
            let until_ms = world.now_ms + 7 * DAY_MS;
            world.exceptions = vec![Exception { name: "growth/glass".into(), reason: "disk".into(), floor_ms: HOUR_MS, until_ms }];
            world.set(RETENTION_MS, HOUR_MS);
        }),
        ("a floor that does not ask for the lag", |world| {
            let floor = world.policies[0].floor;
            world.policies[0].floor = FloorRule { minimum_ms: HOUR_MS, lag_multiplier_percent: 0, downtime_allowance_ms: 0, ..floor };
            world.history.floors = Peaks::new();
            world.set(RETENTION_MS, 24 * HOUR_MS);
        }),
    ];
    for (cause, story) in causes {
        let mut world = behind();
        story(&mut world);
        for start in [500, 505, 510] {
            world.log().start = start;
            world.now_ms += 5 * HOUR_MS;
            assert_eq!(losses(&world.look()), [(start, false)], "{cause}");
            world.now_ms += HOUR_MS;
            assert_eq!(losses(&world.look()), [(start, false)], "{cause}");
        }
        // The group goes on, and is outrun again.
        world.commit(600);
        world.now_ms += 30_000;
        world.look();
        world.log().start = 650;
        world.now_ms += 5 * HOUR_MS;
        let said = world.look();
        assert_eq!((losses(&said), said.losses[0].gaps.len()), (vec![(560, false)], 2), "{cause}");
        world.now_ms += DAY_MS - 1;
        assert_eq!(losses(&world.look()), [(560, false)], "{cause}");
        world.now_ms += 1;
        assert_eq!(losses(&world.look()), [(560, true)], "{cause}");
    }
}

#[test]
fn once_enough_is_kept_a_loss_settles() {
    let mut world = behind();
    lower(&mut world, Mode::Audit);
    world.log().start = 500;
    world.now_ms += 30_000;
    world.look();
    world.now_ms += HOUR_MS;
    assert_eq!(losses(&world.look()), [(500, false)]);
    // Somebody raises it.
    world.set(RETENTION_MS, 168 * HOUR_MS);
    assert_eq!(losses(&world.look_at_config()), [(500, true)]);
}

#[test]
fn a_loss_settles_before_it_is_forgotten() {
    let mut world = behind();
    lower(&mut world, Mode::Audit);
    world.policies[0].floor.look_back_ms = 2 * HOUR_MS;
    world.log().start = 500;
    world.now_ms += 30_000;
    world.look();
    world.commit(2000);
    world.now_ms += 30_000;
    world.look();
    world.now_ms += HOUR_MS;
    assert_eq!(losses(&world.look()), [(500, true)]);
}

#[test]
fn a_group_that_does_not_count_keeps_no_loss_from_settling() {
    let mut world = behind();
    lower(&mut world, Mode::Audit);
    let other = GroupSeen { state: GroupState::Empty, committed: Some([(0, 0)].into()) };
    world.seen.groups.as_mut().unwrap().insert("console-1".into(), other);
    world.log().start = 500;
    world.now_ms += 30_000;
    world.look();
    world.commit(2000);
    world.now_ms += 30_000;
    let mut said = world.look();
    // The other one stays, and misses more each hour.
    for hour in 1..=24 {
        assert_eq!(losses(&said), [(500, false)]);
        world.log().start = 500 + hour;
        world.now_ms += HOUR_MS;
        said = world.look();
    }
    assert_eq!((losses(&said), said.losses[0].groups()), (vec![(500, true)], vec![GROUP]));
}

#[test]
fn what_a_group_stands_before_is_not_found_anew_whichever_incidents_it_is_in() {
    let mut world = behind();
    for start in [500, 600] {
        world.log().start = start;
        world.now_ms += 30_000;
        let said = world.look();
        let ids: Vec<&str> = said.losses.iter().map(|loss| loss.incident.id.as_str()).collect();
        world.history.acknowledge(&ids);
    }
    let said = world.pass(170 * HOUR_MS, HOUR_MS, 1, 0);
    let records: Vec<i64> = losses(&said).into_iter().map(|(records, _)| records).collect();
    assert_eq!((records, missed(&said)), (vec![500, 100], 0));
}

/// A topic with many records.
fn busy() -> World {
    let mut world = World::new();
    world.log().end = 100_000;
    world.now_ms += MINUTE_MS;
    world.look();
    world
}

/// In each round four records are deleted before the group reads them; until the next it reads six.
fn outrun(world: &mut World, rounds: Range<i64>) -> Assessment {
    let mut said = world.look();
    for round in rounds {
        world.commit(10 * round);
        world.log().start = 10 * round + 4;
        world.now_ms += MINUTE_MS;
        said = world.look();
    }
    said
}

#[test]
fn more_gaps_than_are_told_apart_are_counted_to_the_record() {
    let rounds = i64::try_from(GAPS_MAX).unwrap() + 100;
    let mut world = busy();
    let said = outrun(&mut world, 0..rounds);
    let [loss] = &said.losses[..] else { panic!("{} incidents", said.losses.len()) };
    let each: i64 = loss.gaps.iter().map(Gap::records_max).sum();
    assert_eq!((loss.gaps.len(), each, loss.records_max()), (GAPS_MAX, 4 * rounds, 4 * rounds));
    let (first, last) = (&loss.gaps[0], &loss.gaps[GAPS_MAX - 1]);
    assert_eq!((first.from, first.to, first.between), (0, 1004, 600));
    assert_eq!((last.from, last.to, last.between), (10 * rounds - 10, 10 * rounds - 6, 0));
    assert!(first.says().starts_with("offsets 0 to 1003 of partition 0 but for 600 in between, at most 404 records"), "{}", first.says());
    // Another process knows it so as well.
    let shown = topic_floor(&said, None);
    assert_eq!(shown.losses[0].records_max, 4 * rounds);
    let mut history = History::new("first");
    history.resume(&shown);
    assert_eq!(history.gaps()[0].records_max(), 404);
}

#[test]
fn what_somebody_has_seen_to_makes_room_first() {
    let mut world = busy();
    let said = outrun(&mut world, 0..600);
    world.history.acknowledge(&[said.losses[0].incident.id.as_str()]);
    let said = outrun(&mut world, 600..1200);
    let gaps: Vec<usize> = said.losses.iter().map(|loss| loss.gaps.len()).collect();
    assert_eq!((gaps, losses(&said)[1].0), (vec![GAPS_MAX - 600, 600], 4 * 600));
    assert!(said.losses.iter().flat_map(|loss| &loss.gaps).all(|gap| gap.between == 0));
}

#[test]
fn what_many_groups_missed_of_many_partitions_is_told_whole_and_once() {
    let mut world = World::new();
    let committed: BTreeMap<i32, i64> = (0..600).map(|partition| (partition, 0)).collect();
    world.seen.partitions = committed.keys().map(|partition| (*partition, Some(Log { start: 0, end: 100, bytes: None }))).collect();
    for group in [GROUP, "other"] {
        let seen = GroupSeen { state: GroupState::Stable, committed: Some(committed.clone()) };
        world.seen.groups.as_mut().unwrap().insert(group.into(), seen);
    }
    world.now_ms += MINUTE_MS;
    world.look();
    for start in [10, 10, 20] {
        world.seen.partitions.values_mut().flatten().for_each(|log| log.start = start);
        world.now_ms += MINUTE_MS;
        let said = world.look();
        assert_eq!((losses(&said), missed(&said)), (vec![(600 * start, false)], 1200));
        assert_eq!(topic_floor(&said, None).losses[0].more, 1200 - 256);
    }
}

#[test]
fn what_an_excluded_group_missed_is_never_told() {
    let mut world = behind();
    let name = "console-1".to_owned();
    let other = GroupSeen { state: GroupState::Empty, committed: Some([(0, 0)].into()) };
    world.seen.groups.as_mut().unwrap().insert(name.clone(), other);
    world.commit(1000);
    world.now_ms += MINUTE_MS;
    world.look();
    world.log().start = 500;
    world.now_ms += MINUTE_MS;
    assert_eq!(world.look().losses, []);
    assert_eq!(world.history.gaps().len(), 1, "it may count some day");
    world.seen.groups.as_mut().unwrap().remove(&name);
    for (wait_ms, is_known) in [(MINUTE_MS, true), (DAY_MS, false)] {
        world.now_ms += wait_ms;
        assert_eq!(world.look().losses, []);
        assert_eq!(world.history.groups.contains_key(&name), is_known, "that it is excluded may be a mistake");
    }
}

/// A group that stands still while others read on, and after how many days it misses something.
fn abandoned(days: i64) -> World {
    let mut world = behind();
    world.group().state = GroupState::Empty;
    world.pass(days * DAY_MS, HOUR_MS, 60, 0);
    world.log().start = 500;
    world.now_ms += 30_000;
    world.look();
    world
}

#[test]
fn what_a_group_missed_while_it_counted_is_told_until_somebody_has_seen_to_it() {
    let mut world = abandoned(13);
    for start in [500, 600, 700] {
        world.log().start = start;
        world.now_ms += 2 * DAY_MS;
        assert_eq!(losses(&world.look())[0].0, 500, "the group is retired");
    }
    world.seen.groups.as_mut().unwrap().clear();
    world.now_ms += 30_000;
    world.look();
    world.now_ms += DAY_MS;
    let said = world.look();
    assert_eq!((losses(&said)[0].0, missed(&said), said.groups.len()), (500, 1, 0), "the broker has forgotten it");
    world.history.acknowledge(&[said.losses[0].incident.id.as_str()]);
    assert_eq!(missed(&world.look()), 0);
}

#[test]
fn what_a_retired_group_missed_is_not_told_when_the_broker_forgets_it() {
    let mut world = abandoned(15);
    assert_eq!((world.look().losses, world.history.gaps().len()), (vec![], 1));
    world.seen.groups.as_mut().unwrap().clear();
    for (wait_ms, known) in [(30_000, 1), (DAY_MS, 0)] {
        world.now_ms += wait_ms;
        let said = world.look();
        assert_eq!((said.losses, said.groups.len(), world.history.gaps().len()), (vec![], known, known));
    }
}

#[test]
fn what_a_retired_group_had_not_read_of_a_topic_that_was_made_again_is_not_told() {
    let mut world = abandoned(15);
    world.seen.topic_id = "second".into();
    *world.log() = Log { start: 0, end: 3, ..*world.log() };
    world.seen.groups.as_mut().unwrap().clear();
    world.now_ms += 30_000;
    assert_eq!(world.look().losses, []);
}

#[test]
fn what_nobody_has_seen_to_is_shown_before_what_somebody_has() {
    let mut world = busy();
    for round in 1..=10 {
        world.log().start = 10 * round;
        world.now_ms += HOUR_MS;
        let said = world.look();
        world.history.drafted(&said.losses[said.losses.len() - 1].incident.id, format!("lake/draft-{round}"));
    }
    let shown = |world: &mut World| topic_floor(&world.look(), None).losses;
    let found = |losses: &[LossStatus]| losses.iter().map(|loss| loss.missed[0].range.from).collect::<Vec<i64>>();
    let newest = shown(&mut world);
    assert_eq!(found(&newest), [90, 80, 70, 60, 50, 40, 30, 20]);
    let ids: Vec<&str> = newest.iter().map(|loss| loss.id.as_str()).collect();
    world.history.acknowledge(&ids);
    assert_eq!(found(&shown(&mut world)), [90, 80, 70, 60, 50, 40, 10, 0]);
}
