//! The floor, and what weir would change.

use super::world::{BEGIN_MS, GROUP, World, lag, policy};
use crate::{
    Assessment, DAY_MS, HOUR_MS, History, MINUTE_MS, Policy, Retention, State,
    config::{RETENTION_MS, Setting, Source},
    exceptions::Exception,
    findings::Finding,
    floor::Reason,
    judge::Standing,
    observed::Storage,
    policy::{Authority, Emergency, Hold, Mode, Protect},
    wanted::{Cause, Change, Raised, Wanted, Why},
};

fn floor(said: &Assessment) -> i64 {
    said.floor.as_ref().unwrap().retention.to_kafka() / HOUR_MS
}

/// The cause, and `retention.ms` in hours.
fn change(change: &Change) -> (Cause, i64) {
    (change.cause, change.keys[0].to.as_ref().unwrap().parse::<i64>().unwrap() / HOUR_MS)
}

fn now(said: &Assessment) -> Option<(Cause, i64)> {
    if let Wanted::Now(it) = &said.wanted { Some(change(it)) } else { None }
}

/// What admission judges by.
fn standing(world: &World, said: &Assessment) -> Standing {
    let policies: Vec<&Policy> = world.policies.iter().collect();
    said.standing("app_events", world.seen.config.as_ref(), &policies).unwrap()
}

fn held_back(said: &Assessment) -> Option<Why> {
    if let Wanted::HeldBack { why, .. } = said.wanted { Some(why) } else { None }
}

/// A job that needs what came `hours` before it was planned, now.
fn hold(world: &mut World, hours: i64) {
    world.holds = vec![Hold { job: "growth/gap".into(), window_start_ms: world.now_ms - hours * HOUR_MS, renewed_ms: world.now_ms }];
}

fn emergency(world: &mut World) {
    world.policies[0].emergency = Some(Emergency { below_headroom_percent: 50, factor_percent: 200, maximum_ms: 336 * HOUR_MS });
}

#[test]
fn the_floor_is_the_greatest_of_what_is_asked_for() {
    let mut world = World::new();
    assert_eq!(floor(&world.keeps_up(HOUR_MS)), 168);
    world.policies[0].floor.downtime_allowance_ms = 200 * HOUR_MS;
    let said = world.look();
    assert_eq!((floor(&said), now(&said)), (200, Some((Cause::Raise, 200))));
    assert!(matches!(said.floor.unwrap().decided_by(), Some(Reason::DowntimeAllowance { .. })));
    // Twice 110 hours behind is more.
    let said = world.pass(110 * HOUR_MS, HOUR_MS, 60, 0);
    assert_eq!(floor(&said), 220);
    assert!(matches!(said.floor.unwrap().decided_by(), Some(Reason::Lag { group, multiplier_percent: 200, .. }) if group == GROUP));
    hold(&mut world, 250);
    let said = world.look();
    assert_eq!(floor(&said), 274);
    assert!(matches!(said.floor.unwrap().decided_by(), Some(Reason::Hold { job, .. }) if job == "growth/gap"));
}

#[test]
fn the_floor_is_capped_and_says_so() {
    let mut world = World::new();
    hold(&mut world, 900);
    let said = world.look();
    assert_eq!(floor(&said), 720);
    let capped = Finding::FloorCapped { wanted: Retention::Millis(924 * HOUR_MS), maximum: Retention::Millis(720 * HOUR_MS) };
    assert!(said.findings.contains(&capped));
    world.policies[0].authority = Authority::Govern { max_floor: Retention::Millis(300 * HOUR_MS) };
    assert_eq!(floor(&world.look()), 300, "the grant's maximum");
}

#[test]
fn it_falls_only_after_the_look_back() {
    let mut world = World::new();
    world.pass(100 * HOUR_MS, HOUR_MS, 60, 0);
    let peak_ms = world.now_ms;
    let end = world.log().end;
    world.commit(end);
    for hours in 1..=168 {
        world.now_ms = peak_ms + hours * HOUR_MS;
        assert_eq!(floor(&world.look()), 200, "{hours} h after");
    }
    world.now_ms += HOUR_MS + 1;
    assert_eq!(floor(&world.look()), 168);
}

#[test]
fn a_lowered_minimum_and_a_deleted_policy_bind_for_the_look_back() {
    for deleted in [false, true] {
        let mut world = World::new();
        world.keeps_up(HOUR_MS);
        if deleted {
            world.policies.clear()
        } else {
            world.policies[0].floor.minimum_ms = 100 * HOUR_MS
        }
        world.set(RETENTION_MS, HOUR_MS);
        let said = world.pass(167 * HOUR_MS, HOUR_MS, 1, 1);
        assert_eq!((floor(&said), now(&said)), (168, Some((Cause::Restore, 168))), "deleted: {deleted}");
        let said = world.pass(3 * HOUR_MS, HOUR_MS, 1, 1);
        if deleted {
            assert_eq!((said.floor, said.wanted), (None, Wanted::Nothing(Why::Ungoverned)));
        } else {
            assert_eq!(floor(&said), 100);
        }
    }
}

#[test]
fn several_policies_the_greatest_floor_the_strictest_mode() {
    let mut world = World::new();
    let (mut weak, mut other) = (policy(), policy());
    other.name = "lake/events".into();
    weak.mode = Mode::Audit;
    weak.protect = Protect::NONE;
    other.floor.minimum_ms = 300 * HOUR_MS;
    other.floor.maximum = Retention::Millis(250 * HOUR_MS);
    other.mode = Mode::Warn;
    world.policies = vec![weak, other];
    let said = world.look();
    assert_eq!((floor(&said), held_back(&said)), (250, Some(Why::Mode(Mode::Warn))));
    world.policies[0].mode = Mode::Enforce;
    assert_eq!(now(&world.look()), Some((Cause::Raise, 250)));
    // Who may only look binds nobody.
    world.policies[1].authority = Authority::Observe;
    world.history.floors = crate::peaks::Peaks::new();
    assert_eq!(floor(&world.look()), 168);
    world.policies.remove(0);
    let said = world.look();
    assert_eq!((floor(&said), held_back(&said)), (168, None), "the one that is gone binds on");
    world.history.floors = crate::peaks::Peaks::new();
    world.history.asked.clear();
    let said = world.look();
    assert_eq!((floor(&said), held_back(&said)), (250, Some(Why::Mode(Mode::Audit))));
}

#[test]
fn a_policy_that_is_gone_binds_on_whoever_else_is_there() {
    for (authority, mode) in [(Authority::Observe, Mode::Enforce), (Authority::Govern { max_floor: Retention::Infinite }, Mode::Audit)] {
        let mut world = World::new();
        let mut other = policy();
        (other.name, other.authority, other.mode, other.protect) = ("lake/events".into(), authority, mode, Protect::NONE);
        (other.floor.minimum_ms, other.floor.downtime_allowance_ms, other.floor.look_back_ms) = (HOUR_MS, 0, HOUR_MS);
        other.floor.maximum = Retention::Millis(48 * HOUR_MS);
        world.policies.push(other);
        world.keeps_up(HOUR_MS);
        world.policies.remove(0);
        world.keeps_up(100 * HOUR_MS);
        world.set(RETENTION_MS, HOUR_MS);
        assert_eq!(now(&world.look()), Some((Cause::Restore, 168)), "{authority:?}");
        let said = world.keeps_up(70 * HOUR_MS);
        assert_eq!((floor(&said), now(&said)), (1, None), "{authority:?}: it has ended");
    }
}

#[test]
fn excluded_groups_do_not_count_and_required_ones_are_never_retired() {
    let mut world = World::new();
    let group = world.seen.groups.as_mut().unwrap().remove(GROUP).unwrap();
    world.seen.groups.as_mut().unwrap().insert("console-1".into(), group);
    world.history.groups.clear();
    for _ in 0..110 {
        world.now_ms += HOUR_MS;
        world.log().end += 60;
        world.look();
    }
    let said = world.look();
    assert_eq!((floor(&said), said.limiting.clone(), said.findings.len()), (168, None, 0));

    let mut world = World::new();
    world.policies[0].groups.required.insert(GROUP.into());
    world.seen.groups = Some([].into());
    for _ in 0..20 * 24 {
        world.now_ms += HOUR_MS;
        world.log().end += 60;
        world.look();
    }
    let said = world.look();
    assert!(lag(&said).forgotten && lag(&said).standing.counts());
    assert_eq!(floor(&said), 366, "twice what the samples go back to: a week, and at most a tenth more");
    // One that was never there is missed.
    world.policies[0].groups.required.insert("absent".into());
    assert_eq!(world.look().unknown.len(), 2);
}

#[test]
fn what_others_lower_is_put_back_to_the_floor_at_once() {
    let mut world = World::new();
    world.set(RETENTION_MS, 300 * HOUR_MS);
    world.keeps_up(HOUR_MS);
    world.set(RETENTION_MS, HOUR_MS);
    let said = world.look_at_config();
    let below = Finding::BelowFloor {
        from: Some(Retention::Millis(300 * HOUR_MS)),
        to: Retention::Millis(HOUR_MS),
        floor: Retention::Millis(168 * HOUR_MS),
    };
    assert_eq!(said.findings, [below]);
    assert_eq!((said.state, now(&said)), (State::Violated, Some((Cause::Restore, 168))), "the floor, not the former value");
    let done = world.apply(&said);
    assert_eq!(done.alterations(), [(RETENTION_MS, Some("604800000"))].into(), "one key, and no other");
    let said = world.look();
    assert_eq!((said.state, said.wanted), (State::Healthy, Wanted::Nothing(Why::Satisfied)));
    // Above the floor it is the owner's choice.
    world.set(RETENTION_MS, 400 * HOUR_MS);
    world.keeps_up(HOUR_MS);
    world.set(RETENTION_MS, 200 * HOUR_MS);
    assert_eq!(world.keeps_up(HOUR_MS).wanted, Wanted::Nothing(Why::Satisfied));
}

#[test]
fn it_goes_back_in_steps_to_what_there_was() {
    let mut world = World::new();
    let setting = Setting { value: (200 * HOUR_MS).to_string(), source: Source::Default, inherited: Some((200 * HOUR_MS).to_string()) };
    world.seen.config.as_mut().unwrap().insert(RETENTION_MS.into(), setting);
    hold(&mut world, 220);
    let said = world.look();
    assert_eq!(now(&said), Some((Cause::Raise, 244)));
    world.apply(&said);
    world.seen.config.as_mut().unwrap().get_mut(RETENTION_MS).unwrap().inherited = Some((200 * HOUR_MS).to_string());
    world.holds.clear();
    let said = world.keeps_up(23 * HOUR_MS);
    assert_eq!(held_back(&said), Some(Why::NotBefore(BEGIN_MS + DAY_MS)));
    let said = world.keeps_up(HOUR_MS);
    assert_eq!(now(&said), Some((Cause::StepDown, 220)));
    world.apply(&said);
    world.seen.config.as_mut().unwrap().get_mut(RETENTION_MS).unwrap().inherited = Some((200 * HOUR_MS).to_string());
    // What cannot be seen may not be lowered.
    world.group().committed = None;
    let said = world.keeps_up(24 * HOUR_MS);
    assert_eq!((floor(&said), said.wanted), (220, Wanted::Nothing(Why::Satisfied)));
    world.commit(48 * 60);
    world.now_ms += 1000;
    let said = world.look();
    let Wanted::Now(last) = &said.wanted else { panic!("{:?}", said.wanted) };
    assert_eq!((last.cause, last.keys[0].to.as_deref()), (Cause::StepDown, None), "the topic inherits again");
    world.apply(&said);
    let said = world.keeps_up(24 * HOUR_MS);
    assert_eq!((said.wanted, said.raised.len()), (Wanted::Nothing(Why::Satisfied), 0));
}

#[test]
fn what_was_seen_before_a_step_down_does_not_end_it() {
    let mut world = World::new();
    hold(&mut world, 220);
    let said = world.look();
    world.apply(&said);
    world.holds.clear();
    let said = world.keeps_up(DAY_MS);
    assert_eq!(now(&said), Some((Cause::StepDown, 220)));
    let before = world.seen.config.clone();
    world.apply(&said);
    // For a while the configuration cannot be read.
    let after = std::mem::replace(&mut world.seen.config, before);
    world.seen.config_is_fresh = false;
    world.now_ms += 60_000;
    world.look();
    (world.seen.config, world.seen.config_is_fresh) = (after, true);
    assert_eq!(now(&world.keeps_up(DAY_MS)), Some((Cause::StepDown, 196)));
}

#[test]
fn what_somebody_else_set_since_is_theirs() {
    let mut world = World::new();
    hold(&mut world, 220);
    let said = world.look();
    world.apply(&said);
    world.holds.clear();
    world.now_ms += 60_000;
    world.set(RETENTION_MS, 500 * HOUR_MS);
    let said = world.keeps_up(48 * HOUR_MS);
    assert_eq!((said.wanted, said.raised.len()), (Wanted::Nothing(Why::Satisfied), 0));
}

#[test]
fn an_emergency_extends_once_within_its_bounds() {
    let begin = |percent: Option<u32>| {
        let mut world = World::new();
        emergency(&mut world);
        world.seen.storage = Storage { used_percent: percent, max_used_percent: 80 };
        world.read(0, Some((0, BEGIN_MS)));
        world.policies[0].floor.lag_multiplier_percent = 100;
        let said = world.pass(83 * HOUR_MS, HOUR_MS, 60, 0);
        assert_eq!(said.wanted, Wanted::Nothing(Why::Satisfied), "half of it is left");
        let said = world.pass(2 * HOUR_MS, HOUR_MS, 60, 0);
        (world, said)
    };
    assert_eq!(held_back(&begin(Some(81)).1), Some(Why::StorageAbove));
    assert_eq!(held_back(&begin(None).1), Some(Why::StorageUnknown));
    let (mut world, said) = begin(Some(80));
    assert_eq!(now(&said), Some((Cause::Extend, 336)));
    world.apply(&said);
    assert_eq!(world.look().wanted, Wanted::HeldBack { change: step(312), why: Why::NotBefore(world.now_ms + DAY_MS) });
    // Later a step would leave the group less than half: it is not taken.
    let said = world.pass(72 * HOUR_MS, HOUR_MS, 60, 0);
    assert_eq!(held_back(&said), Some(Why::HeadroomNeeded));
    let said = world.pass(20 * HOUR_MS, HOUR_MS, 60, 0);
    assert_eq!(said.wanted, Wanted::Nothing(Why::AtMaximum));
}

fn step(hours: i64) -> Change {
    let key =
        crate::wanted::KeyChange { key: RETENTION_MS, from: Some((336 * HOUR_MS).to_string()), to: Some((hours * HOUR_MS).to_string()) };
    Change { cause: Cause::StepDown, keys: vec![key] }
}

#[test]
fn on_full_disks_only_what_was_lowered_comes_back() {
    let mut world = World::new();
    world.seen.storage = Storage { used_percent: Some(95), max_used_percent: 80 };
    hold(&mut world, 276);
    let said = world.look();
    assert_eq!((floor(&said), held_back(&said)), (300, Some(Why::StorageAbove)));
    world.set(RETENTION_MS, HOUR_MS);
    assert_eq!(now(&world.look()), Some((Cause::Restore, 168)), "as far as it was, and no further");
    world.seen.storage.used_percent = None;
    assert_eq!(now(&world.look()), Some((Cause::Restore, 300)), "raising to the floor is not held up by what is not known");
}

#[test]
fn while_lag_is_unknown_what_there_was_is_held() {
    let mut world = World::new();
    world.set(RETENTION_MS, 400 * HOUR_MS);
    world.keeps_up(HOUR_MS);
    world.group().committed = None;
    world.keeps_up(HOUR_MS);
    world.set(RETENTION_MS, 200 * HOUR_MS);
    let said = world.look();
    assert_eq!(now(&said), Some((Cause::Restore, 400)));
    assert!(matches!(said.floor.unwrap().decided_by(), Some(Reason::UnknownLag)));
    world.commit(120);
    world.now_ms += 1000;
    assert_eq!(floor(&world.look()), 168);
}

#[test]
fn an_exception_lowers_what_is_enforced_but_not_below_what_required_groups_need() {
    let mut world = World::new();
    world.exceptions =
        vec![Exception { name: "growth/now".into(), reason: "disks".into(), floor_ms: 2 * HOUR_MS, until_ms: BEGIN_MS + 100 * HOUR_MS }];
    world.set(RETENTION_MS, 2 * HOUR_MS);
    let said = world.keeps_up(HOUR_MS);
    assert_eq!((said.enforced, said.exception.as_deref()), (Some(Retention::Millis(2 * HOUR_MS)), Some("growth/now: disks")));
    assert_eq!((said.state, said.wanted), (State::Healthy, Wanted::Nothing(Why::Satisfied)));
    world.policies[0].groups.required.insert(GROUP.into());
    let said = world.falls_behind(5 * HOUR_MS);
    assert_eq!(now(&said), Some((Cause::Restore, 10)), "twice the five hours");
    world.group().committed = None;
    let said = world.keeps_up(HOUR_MS);
    assert_eq!(now(&said), Some((Cause::Restore, 168)), "nobody knows what it needs");
    assert_eq!(standing(&world, &said).floor, None, "nor does admission");
    world.policies[0].groups.required.clear();
    world.set(RETENTION_MS, 2 * HOUR_MS);
    let said = world.look();
    assert_eq!((said.unknown.len(), standing(&world, &said).floor), (1, said.enforced), "admission judges by the exception too");
    assert_eq!(said.enforced, Some(Retention::Millis(2 * HOUR_MS)));
    world.now_ms = BEGIN_MS + 100 * HOUR_MS;
    assert_eq!(now(&world.look()), Some((Cause::Restore, 168)), "it has ended");
}

#[test]
fn a_hold_that_nobody_renews_ends() {
    let mut world = World::new();
    hold(&mut world, 200);
    world.now_ms += Hold::LASTS_MS - 1;
    assert_eq!(floor(&world.look()), 200 + 72 + 24);
    world.now_ms += 1;
    assert_eq!(floor(&world.look()), 168);
}

#[test]
fn defaults_are_guarded_where_a_policy_says_so() {
    let mut world = World::new();
    world.inherit(RETENTION_MS, DAY_MS);
    world.policies[0].protect.broker_defaults = false;
    assert_eq!(world.look().wanted, Wanted::Nothing(Why::InheritedUnguarded));
    world.policies[0].protect.broker_defaults = true;
    assert_eq!(now(&world.look()), Some((Cause::Restore, 168)));
}

#[test]
fn nothing_is_lowered_while_lag_is_unknown() {
    let mut world = World::new();
    hold(&mut world, 900);
    let said = world.look();
    world.apply(&said);
    world.holds.clear();
    assert_eq!(now(&world.keeps_up(25 * HOUR_MS)), Some((Cause::StepDown, 696)));
    world.group().committed = None;
    world.keeps_up(HOUR_MS);
    world.policies[0].floor.maximum = Retention::Millis(300 * HOUR_MS);
    let said = world.look();
    assert_eq!((floor(&said), held_back(&said)), (300, Some(Why::LagUnknown)));
}

#[test]
fn nothing_is_lowered_before_the_look_back_was_seen_or_while_the_disks_are_not_known() {
    let mut world = World::new();
    world.history.began_ms = Some(BEGIN_MS);
    hold(&mut world, 220);
    let said = world.look();
    world.apply(&said);
    world.holds.clear();
    let said = world.keeps_up(167 * HOUR_MS);
    assert_eq!(held_back(&said), Some(Why::LookBackNotSeen { until_ms: BEGIN_MS + 168 * HOUR_MS }));
    world.seen.storage.used_percent = None;
    assert_eq!(held_back(&world.keeps_up(HOUR_MS)), Some(Why::StorageUnknown));
    world.seen.storage.used_percent = Some(99);
    assert_eq!(now(&world.keeps_up(HOUR_MS)), Some((Cause::StepDown, 220)), "a full disk is no reason to keep more");
}

#[test]
fn a_successor_goes_on_with_what_was_remembered() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    world.falls_behind(100 * HOUR_MS);
    let text = serde_json::to_string(&world.history).unwrap();
    let remembered: History = serde_json::from_str(&text).unwrap();
    assert_eq!(remembered, world.history);
    let mut successor = World::new();
    (successor.now_ms, successor.seen) = (world.now_ms + HOUR_MS, world.seen.clone());
    successor.history = History::new("first");
    assert_eq!(floor(&successor.look()), 168, "it knows nothing yet");
    let raised = Raised { before: Some("1".into()), set: (168 * HOUR_MS).to_string(), extended: false };
    successor.history.raised.insert(RETENTION_MS.to_owned(), raised.clone());
    successor.history.take_up(remembered);
    successor.now_ms += MINUTE_MS;
    assert_eq!(floor(&successor.look()), 203, "twice the hundred hours, and the hour since");
    assert_eq!(successor.history.raised().get(RETENTION_MS), Some(&raised), "what its TopicFloor says");
    // Of a topic that was made again what was raised is gone, and how far groups fell behind stays true.
    let mut anew = World::new();
    anew.seen.topic_id = "second".into();
    anew.history = History::new("second");
    anew.history.take_up(world.history);
    (anew.now_ms, anew.log().end) = (world.now_ms + HOUR_MS, 10);
    let said = anew.look();
    assert_eq!((floor(&said), said.raised.len()), (200, 0));
}

#[test]
fn a_series_that_goes_back_in_time_is_not_taken() {
    use crate::series::Series;
    let series: Series<i64> = serde_json::from_str("[[100,5],[30,-2],[1,9]]").unwrap();
    assert_eq!(series.points(), [(100, 5), (130, 3), (131, 12)]);
    assert!(serde_json::from_str::<Series<i64>>("[[100,5],[0,2]]").is_err());
}
