//! What holds whatever happens.

use proptest::prelude::*;

use super::world::{GROUP, World};
use crate::{
    HOUR_MS, MINUTE_MS, Retention,
    config::RETENTION_MS,
    peaks::Peaks,
    policy::{Emergency, Hold, round_up_ms},
    record::SAMPLES_MAX,
    series::{Arrival, GAP_DIVISOR, Series},
    wanted::{Cause, Wanted},
};

const POLL_MS: i64 = 30_000;

/// How many polls pass, and how many records come in each of them.
fn traffic() -> impl Strategy<Value = Vec<(i64, i64)>> {
    prop::collection::vec((1..600i64, prop_oneof![Just(0), 1..5i64, 1000..100_000i64]), 1..40)
}

/// All samples, and the thinned ones.
fn samples(traffic: &[(i64, i64)], horizon_ms: i64) -> (Vec<(i64, i64)>, Series<i64>) {
    let (mut all, mut thinned, mut at_ms, mut end) = (Vec::new(), Series::new(), 0, 0);
    for (polls, records) in traffic {
        for _ in 0..*polls {
            at_ms += POLL_MS;
            end += records;
            all.push((at_ms, end));
            thinned.push(at_ms, end, horizon_ms, SAMPLES_MAX);
        }
    }
    (all, thinned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn thinning_keeps_bounds_and_stays_within_its_error(traffic in traffic(), part in 0.0..1.0f64) {
        let (all, thinned) = samples(&traffic, i64::MAX / 2);
        let (points, now_ms) = (thinned.points(), all.last().unwrap().0);
        prop_assert!(points.len() <= SAMPLES_MAX);
        prop_assert_eq!(points.last(), all.last());
        prop_assert_eq!(points.first(), all.first());
        prop_assert!(points.iter().all(|p| all.contains(p)), "no point is invented");

        let offset = (all.last().unwrap().1 as f64 * part) as i64;
        let mut full = Series::new();
        for (at_ms, end) in &all {
            full.push(*at_ms, *end, i64::MAX / 2, usize::MAX);
        }
        match (full.arrival(offset), thinned.arrival(offset)) {
            (Arrival::At(exact), Arrival::At(near)) => {
                let behind_ms = now_ms - exact.min(near);
                prop_assert!((exact - near).abs() <= POLL_MS + behind_ms / GAP_DIVISOR, "{exact} {near} {now_ms}");
            }
            (exact, near) => prop_assert_eq!(exact, near),
        }
    }

    #[test]
    fn the_horizon_keeps_one_older_sample(traffic in traffic()) {
        let horizon_ms = 100 * POLL_MS;
        let (all, thinned) = samples(&traffic, horizon_ms);
        let now_ms = all.last().unwrap().0;
        let older = thinned.points().iter().filter(|(at_ms, _)| *at_ms < now_ms - horizon_ms).count();
        prop_assert!(older <= 1);
        prop_assert!(older == 1 || all.len() <= 101);
    }

    #[test]
    fn samples_at_odd_times_are_bounded_as_well(gaps in prop::collection::vec(1..10_000_000i64, 300..1200)) {
        let (mut series, mut at_ms) = (Series::new(), 0);
        for (index, gap) in gaps.iter().enumerate() {
            at_ms += gap;
            series.push(at_ms, index as i64, i64::MAX / 2, SAMPLES_MAX);
            prop_assert!(series.points().len() <= SAMPLES_MAX);
        }
    }

    #[test]
    fn a_peak_is_known_for_the_look_back(values in prop::collection::vec((0..4 * HOUR_MS, 0..100i64), 1..60), look_back in 1..20i64) {
        let (look_back_ms, mut peaks, mut seen, mut now_ms) = (look_back * HOUR_MS, Peaks::new(), Vec::new(), 0);
        for (gap_ms, value) in values {
            now_ms += gap_ms;
            peaks.push(now_ms, value, 20 * HOUR_MS);
            seen.push((now_ms, value));
            let within = |slack_ms: i64| seen.iter().filter(|(at, _)| *at > now_ms - look_back_ms - slack_ms).map(|(_, v)| *v).max().unwrap();
            let peak = peaks.over(now_ms, look_back_ms).unwrap().value;
            prop_assert!(peak >= within(0), "too early");
            prop_assert!(peak <= within(HOUR_MS), "an hour at most too late");
            prop_assert!(peaks.len() <= 21);
        }
    }
}

/// What happens in an hour.
#[derive(Clone, Debug)]
enum Event {
    Consume(i64),
    CatchUp,
    Set(i64),
    Hold(i64),
    NoHold,
    Silent,
    Storage(u32),
    Apply,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..200i64).prop_map(Event::Consume),
        1 => Just(Event::CatchUp),
        2 => (1..1000i64).prop_map(Event::Set),
        1 => (1..400i64).prop_map(Event::Hold),
        1 => Just(Event::NoHold),
        1 => Just(Event::Silent),
        1 => (0..100u32).prop_map(Event::Storage),
        4 => Just(Event::Apply),
    ];
    prop::collection::vec(event, 1..400)
}

fn happen(world: &mut World, event: &Event) {
    let end = world.log().end;
    match event {
        Event::Consume(records) => {
            let before = world.group().committed.as_ref().and_then(|c| c.get(&0)).copied().unwrap_or(0);
            world.commit((before + records).min(end));
        }
        Event::CatchUp => world.commit(end),
        Event::Set(hours) => world.set(RETENTION_MS, hours * HOUR_MS),
        Event::Hold(hours) => {
            let now_ms = world.now_ms;
            world.holds = vec![Hold { job: "a/b".into(), window_start_ms: now_ms - hours * HOUR_MS, renewed_ms: now_ms }];
        }
        Event::NoHold => world.holds.clear(),
        Event::Silent => world.group().committed = None,
        Event::Storage(percent) => world.seen.storage.used_percent = Some(*percent),
        Event::Apply => {
            let said = world.look_at_config();
            if matches!(said.wanted, Wanted::Now(_)) {
                world.apply(&said);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_floor_is_a_floor(events in events()) {
        let mut world = World::new();
        world.policies[0].emergency = Some(Emergency { below_headroom_percent: 50, factor_percent: 200, maximum_ms: 336 * HOUR_MS });
        world.policies[0].groups.retire_after_ms = i64::MAX;
        let maximum = world.policies[0].floor.maximum;
        let mut asked: Vec<(i64, Retention)> = Vec::new();
        for event in events {
            world.now_ms += HOUR_MS;
            world.log().end += 100;
            happen(&mut world, &event);
            let said = world.look();
            let floor = said.floor.clone().unwrap().retention;
            let behind_ms = said.groups[GROUP].behind.least_ms().unwrap_or(0);
            asked.push((world.now_ms, Retention::Millis(round_up_ms(2 * behind_ms).max(168 * HOUR_MS)).min(maximum)));
            for (at_ms, retention) in &asked {
                prop_assert!(*at_ms <= world.now_ms - 168 * HOUR_MS || floor >= *retention, "at once, and for the look-back");
            }
            if let Wanted::Now(change) = &said.wanted {
                let to = Retention::of_kafka(change.keys[0].to.as_ref().unwrap().parse().unwrap());
                let kept = world.history.kept.unwrap().retention;
                let full = world.seen.storage.is_above();
                prop_assert!(to >= floor || (full && change.cause == Cause::Restore && to >= kept), "{change:?} below {floor:?}");
                // Done, there is nothing left to do: no flapping.
                world.apply(&said);
                let again = world.look();
                prop_assert!(!matches!(&again.wanted, Wanted::Now(c) if c.cause != Cause::Extend), "{change:?} then {:?}", again.wanted);
            }
        }
    }
}

#[test]
fn memory_is_bounded_by_partitions_and_groups_not_by_time() {
    let mut world = World::new();
    let mut size = Vec::new();
    for week in 0..6 {
        // Bursts, silence and a group that follows unevenly.
        for round in 0..7 * 24 * 12i64 {
            world.now_ms += 5 * MINUTE_MS;
            world.log().end += (round * 7919) % 251 * (round % 3);
            let end = world.log().end;
            world.commit(end - (round * 104_729) % 5000 % end.max(1));
            world.look();
        }
        size.push(serde_json::to_string(&world.history).unwrap().len());
        assert!(world.history.partitions[&0].samples.points().len() <= SAMPLES_MAX, "week {week}");
    }
    assert!(size[5] < 40_000 && size[5] < size[1] * 3 / 2, "{size:?}");
}
