//! What is wrong with a group: each detector with what sets it off, and with what does not.

use super::world::{BEGIN_MS, GROUP, World, lag};
use crate::{
    Assessment, DAY_MS, HOUR_MS, MINUTE_MS,
    findings::Finding,
    lag::TimeLeft,
    observed::{GroupSeen, GroupState},
};

fn dead(said: &Assessment) -> Option<i64> {
    said.findings.iter().find_map(|f| if let Finding::DeadConsumer { since_ms, .. } = f { Some(*since_ms) } else { None })
}

fn expiring(said: &Assessment) -> Option<i64> {
    said.findings.iter().find_map(|f| if let Finding::OffsetsExpiring { within_ms, .. } = f { Some(*within_ms) } else { None })
}

fn crosses(said: &Assessment) -> Option<i64> {
    said.findings.iter().find_map(|f| if let Finding::LagTrend { crosses_ms, .. } = f { Some(*crosses_ms) } else { None })
}

fn slo(said: &Assessment) -> Option<(u32, bool)> {
    said.findings
        .iter()
        .find_map(|f| if let Finding::LagAboveSlo { percent, critical, .. } = f { Some((*percent, *critical)) } else { None })
}

fn near(said: &Assessment) -> Option<i64> {
    said.findings.iter().find_map(|f| if let Finding::LossNear { within_ms, .. } = f { Some(*within_ms) } else { None })
}

#[test]
fn a_consumer_is_dead_when_it_stands_still_and_the_log_grows() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    assert_eq!(dead(&world.falls_behind(14 * MINUTE_MS)), None, "not for long enough");
    assert_eq!(dead(&world.falls_behind(MINUTE_MS)), Some(BEGIN_MS + HOUR_MS));
    assert_eq!(dead(&world.pass(MINUTE_MS, MINUTE_MS, 0, 1)), None, "it lives");

    // Nothing to read is no reason.
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    assert_eq!(dead(&world.pass(DAY_MS, HOUR_MS, 0, 0)), None);
    // And what has only just come has not waited.
    assert_eq!(dead(&world.falls_behind(5 * MINUTE_MS)), None);

    // Consumer and producers stopped together: the topic is idle.
    let mut world = World::new();
    world.falls_behind(10 * MINUTE_MS);
    world.pass(MINUTE_MS, MINUTE_MS, 0, 1);
    assert_eq!(dead(&world.pass(DAY_MS, HOUR_MS, 0, 0)), None);

    let mut world = World::new();
    world.policies[0].detectors.dead_consumer_after_ms = None;
    assert_eq!(dead(&world.falls_behind(DAY_MS)), None, "nobody asked");
}

#[test]
fn offsets_of_a_group_without_members_expire() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    world.group().state = GroupState::Empty;
    world.keeps_up(MINUTE_MS);
    let left = DAY_MS * 7 / 2;
    assert_eq!(expiring(&world.pass(left - HOUR_MS, HOUR_MS, 0, 0)), None);
    assert_eq!(expiring(&world.pass(HOUR_MS, HOUR_MS, 0, 0)), Some(left));
    world.seen.offsets_retention_ms = None;
    assert_eq!(expiring(&world.look()), None, "nobody knows when");
    world.seen.offsets_retention_ms = Some(7 * DAY_MS);
    world.group().state = GroupState::Stable;
    assert_eq!(expiring(&world.pass(HOUR_MS, HOUR_MS, 0, 0)), None, "members keep them");
}

fn forgotten(said: &Assessment) -> bool {
    said.findings.iter().any(|f| matches!(f, Finding::OffsetsForgotten { .. }))
}

#[test]
fn a_group_that_was_forgotten_is_told_of_until_it_commits_again() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    world.group().state = GroupState::Empty;
    world.falls_behind(7 * DAY_MS);
    let last = world.group().committed.replace([].into());
    let said = world.pass(MINUTE_MS, MINUTE_MS, 0, 0);
    assert!(lag(&said).forgotten && forgotten(&said) && expiring(&said).is_none(), "{:?}", said.findings);
    // It comes back: its offsets are kept anew.
    world.group().committed = last;
    let said = world.pass(MINUTE_MS, MINUTE_MS, 0, 0);
    assert!(!forgotten(&said) && expiring(&said).is_none(), "{:?}", said.findings);
    // One that has read everything skips nothing, wherever it begins.
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    world.group().committed = Some([].into());
    let said = world.pass(MINUTE_MS, MINUTE_MS, 0, 0);
    assert!(lag(&said).forgotten && !forgotten(&said), "{:?}", said.findings);
    // What comes then may be a record, until it is seen to be a transaction's marker.
    assert!(forgotten(&world.pass(MINUTE_MS, MINUTE_MS, 1, 0)));
    world.read(60, None);
    let said = world.look();
    assert!(lag(&said).forgotten && !forgotten(&said), "{:?}", said.findings);
    assert!(forgotten(&world.pass(MINUTE_MS, MINUTE_MS, 1, 0)), "a record behind it");
}

#[test]
fn a_group_is_expected_until_the_broker_has_forgotten_it() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    let expected = |world: &World| world.history.expected_groups();
    world.group().committed = None;
    world.falls_behind(MINUTE_MS);
    assert_eq!(expected(&world), [GROUP.to_owned()].into());
    // Whoever has members has to be heard before it is known what they have committed.
    world.seen.groups.as_mut().unwrap().insert("mute".into(), GroupSeen { state: GroupState::Stable, committed: None });
    world.falls_behind(MINUTE_MS);
    assert_eq!(expected(&world), [GROUP.to_owned(), "mute".into()].into());
    world.seen.groups = Some([].into());
    world.now_ms += MINUTE_MS;
    world.look();
    assert!(expected(&world).is_empty());
}

/// It may have read what is deleted behind its last known offset.
#[test]
fn a_group_of_which_nothing_is_heard_has_lost_nothing_yet() {
    for groups_are_listed in [true, false] {
        for (back_at, lost) in [(120, None), (60, Some((60, 90)))] {
            let mut world = World::new();
            world.keeps_up(HOUR_MS);
            let mut groups = world.seen.groups.clone();
            world.group().committed = None;
            if !groups_are_listed {
                world.seen.groups = None;
            }
            world.now_ms += HOUR_MS;
            world.log().start = 90;
            world.log().end = 120;
            world.look();
            assert_eq!(world.history.gaps().len(), 0);
            groups.as_mut().unwrap().get_mut(GROUP).unwrap().committed = Some([(0, back_at)].into());
            world.seen.groups = groups;
            world.now_ms += MINUTE_MS;
            world.look();
            assert_eq!(world.history.gaps().first().map(|gap| (gap.from, gap.to)), lost);
        }
    }
}

#[test]
fn offsets_of_a_group_that_never_has_members_are_kept_from_each_commit() {
    let mut world = World::new();
    // Another one of that name, which was deleted.
    let group = world.seen.groups.replace([].into());
    world.now_ms += MINUTE_MS;
    world.look();
    world.seen.groups = group;
    world.group().state = GroupState::Empty;
    assert_eq!(expiring(&world.keeps_up(6 * DAY_MS)), None, "it commits");
    assert!(expiring(&world.falls_behind(6 * DAY_MS)).is_some());
}

#[test]
fn a_lag_that_grows_in_each_quarter_is_a_trend() {
    let mut world = World::new();
    // Of two records one is read: half an hour behind after each hour.
    let said = world.pass(6 * HOUR_MS, MINUTE_MS, 2, 1);
    // 165 hours are left, at half an hour an hour.
    let days = (crosses(&said).unwrap() - world.now_ms) as f64 / DAY_MS as f64;
    assert!((13.5..14.0).contains(&days), "{days}");
    // A burst is none.
    let mut world = World::new();
    world.keeps_up(6 * HOUR_MS);
    assert_eq!(crosses(&world.pass(HOUR_MS, MINUTE_MS, 100, 1)), None);
    // A lag that shrinks is none.
    let mut world = World::new();
    world.falls_behind(5 * HOUR_MS);
    assert_eq!(crosses(&world.pass(7 * HOUR_MS, MINUTE_MS, 1, 2)), None);
    // Nor is one that was not watched for as long.
    let mut world = World::new();
    assert_eq!(crosses(&world.pass(3 * HOUR_MS, MINUTE_MS, 2, 1)), None);
}

#[test]
fn lag_is_measured_against_the_effective_retention() {
    let mut world = World::new();
    assert_eq!(slo(&world.pass(41 * HOUR_MS, HOUR_MS, 60, 0)), None);
    assert_eq!(slo(&world.pass(HOUR_MS, HOUR_MS, 60, 0)), Some((25, false)));
    assert_eq!(slo(&world.pass(42 * HOUR_MS, HOUR_MS, 60, 0)), Some((50, true)));
}

#[test]
fn time_to_loss_follows_the_pace() {
    // A thousandfold jump: the group reads on, at half the pace.
    let mut world = World::new();
    world.read(0, Some((0, BEGIN_MS)));
    world.pass(HOUR_MS, MINUTE_MS, 10_000, 5_000);
    let said = world.look();
    let (TimeLeft::In(expires), TimeLeft::In(loss)) = (lag(&said).expires, lag(&said).time_to_loss) else { panic!("{said:?}") };
    assert_eq!(expires, 167 * HOUR_MS, "of the last timestamp that was read");
    assert!((2 * expires - HOUR_MS..=2 * expires + HOUR_MS).contains(&loss), "{loss}");
    assert_eq!(near(&said), None);
    // Catching up: never.
    let said = world.pass(20 * MINUTE_MS, MINUTE_MS, 100, 14_000);
    assert_eq!(lag(&said).time_to_loss, TimeLeft::Never);
    // Standing still: when it expires.
    let said = world.pass(HOUR_MS, MINUTE_MS, 100, 0);
    assert_eq!(lag(&said).time_to_loss, lag(&said).expires);
    let said = world.pass(162 * HOUR_MS, HOUR_MS, 100, 0);
    assert_eq!(near(&said), Some(3 * HOUR_MS + 40 * MINUTE_MS));
    assert_eq!(said.headroom_percent, Some(2));
    assert_eq!(said.limiting.as_deref(), Some(GROUP));
}
