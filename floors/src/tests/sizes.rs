//! `retention.bytes`, where nobody can say what it comes to, or what is needed.

use std::collections::BTreeMap;

use super::world::World;
use crate::{
    Assessment, DAY_MS, HOUR_MS, MINUTE_MS,
    config::{RETENTION_BYTES, RETENTION_MS},
    findings::Finding,
    lag::{Effective, Limit},
    observed::Log,
    wanted::{Cause, Wanted, Why},
};

/// What is to be done with `retention.bytes`.
fn now(said: &Assessment) -> Option<(Cause, &str)> {
    let Wanted::Now(change) = &said.wanted else { return None };
    let key = change.keys.iter().find(|key| key.key == RETENTION_BYTES)?;
    Some((change.cause, key.to.as_deref()?))
}

/// A record of a thousand bytes a minute.
fn sized(world: &mut World) -> Assessment {
    let log = world.log();
    log.bytes = Some((log.end - log.start) * 1000);
    world.look()
}

#[test]
fn a_partition_that_was_idle_for_days_hides_no_rate() {
    let mut world = World::new();
    world.seen.partitions.insert(1, Some(Log { start: 0, end: 5, bytes: Some(5000) }));
    world.group().committed = Some(BTreeMap::from([(0, 0), (1, 5)]));
    world.keeps_up(50 * HOUR_MS);
    world.set(RETENTION_BYTES, 6000);
    let said = sized(&mut world);
    assert!(matches!(said.effective, Effective::Known { by: Limit::Size, .. }), "{:?}", said.effective);
    assert_eq!(now(&said).unwrap().0, Cause::Restore);
}

#[test]
fn a_quiet_day_does_not_make_a_small_limit_look_large() {
    let mut world = World::new();
    world.keeps_up(3 * DAY_MS);
    world.pass(2 * DAY_MS, HOUR_MS, 0, 0);
    // Three days fill it at the pace that there was.
    world.set(RETENTION_BYTES, 3 * 24 * 60 * 1000);
    let said = sized(&mut world);
    assert_eq!(now(&said).unwrap().0, Cause::Restore, "{:?}", said.effective);
}

#[test]
fn a_quiet_week_does_not_make_a_burst_look_slow() {
    let mut world = World::new();
    world.pass(6 * DAY_MS, HOUR_MS, 0, 0);
    world.keeps_up(6 * HOUR_MS);
    world.set(RETENTION_BYTES, 24 * 60 * 1000);
    let said = sized(&mut world);
    assert!(said.bytes_per_ms.unwrap() > 0.9 * 1000.0 / MINUTE_MS as f64, "{:?}", said.bytes_per_ms);
    assert_eq!(now(&said).unwrap().0, Cause::Restore);
}

#[test]
fn what_is_lowered_while_the_rate_is_not_known_goes_back_as_far_as_it_was() {
    let mut world = World::new();
    world.set(RETENTION_BYTES, 9000);
    world.history.kept = None;
    assert_eq!(world.keeps_up(5 * MINUTE_MS).wanted, Wanted::Nothing(Why::Satisfied), "so it was found");
    world.set(RETENTION_BYTES, 6000);
    let said = world.look();
    assert_eq!(now(&said), Some((Cause::Restore, "9000")));
    world.apply(&said);
    world.now_ms += MINUTE_MS;
    assert!(world.look().repair.is_some_and(|repair| repair.verdict.is_some()), "it is judged as any other");
}

#[test]
fn while_a_lag_is_not_known_a_limit_of_size_stays_what_it_is() {
    for kept_ms in [-1, 30 * DAY_MS] {
        let mut world = World::new();
        world.set(RETENTION_MS, kept_ms);
        world.set(RETENTION_BYTES, 20 * 24 * 60 * 1000);
        world.keeps_up(HOUR_MS);
        assert_eq!(sized(&mut world).wanted, Wanted::Nothing(Why::Satisfied), "twenty days are more than its floor");
        world.group().committed = None;
        world.now_ms += MINUTE_MS;
        let said = sized(&mut world);
        let is_short = said.findings.iter().any(|finding| matches!(finding, Finding::BelowFloor { .. }));
        assert_eq!((said.wanted, is_short), (Wanted::Nothing(Why::Satisfied), false), "{:?}", said.findings);
        // It may not be lowered either, though ten days are more than the floor as well.
        world.set(RETENTION_BYTES, 10 * 24 * 60 * 1000);
        assert_eq!(now(&sized(&mut world)), Some((Cause::Restore, "28800000")));
    }
}

#[test]
fn a_limit_that_was_taken_away_does_not_keep_the_time_from_being_stepped_down() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    for (key, set) in [(RETENTION_BYTES, "-1".to_owned()), (RETENTION_MS, (300 * HOUR_MS).to_string())] {
        world.set(key, &set);
        let before = Some(if key == RETENTION_MS { (168 * HOUR_MS).to_string() } else { "6000000".to_owned() });
        world.history.raised.insert(key.to_owned(), crate::wanted::Raised { before, set, extended: false });
    }
    world.now_ms += DAY_MS;
    let said = sized(&mut world);
    let Wanted::Now(change) = &said.wanted else { panic!("{:?}", said.wanted) };
    assert_eq!((change.cause, change.keys[0].key), (Cause::StepDown, RETENTION_MS));
}
