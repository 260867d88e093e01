//! A case for each situation that a topic or a group can be in.

use super::world::{BEGIN_MS, GROUP, World, lag};
use crate::{
    Assessment, DAY_MS, HOUR_MS, MINUTE_MS, Retention, State,
    assess::{Unknown, WantedRead},
    config::{CLEANUP_POLICY, LOCAL_RETENTION_MS, REMOTE_STORAGE, RETENTION_BYTES, RETENTION_MS, TIMESTAMP_TYPE},
    findings::{Finding, Gap, GapCause},
    groups::Standing,
    lag::{Behind, By, Effective, LagUnknown, Limit, TimeLeft},
    observed::GroupState,
    wanted::{Cause, Wanted, Why},
};

struct Case {
    name: &'static str,
    story: fn(&mut World) -> Assessment,
    behind: Behind,
    state: State,
    also: fn(&Assessment) -> bool,
}

const END: Behind = Behind::Known { ms: 0, by: By::End };

const fn sampled(ms: i64) -> Behind {
    Behind::Known { ms, by: By::Samples }
}

fn gap(said: &Assessment) -> Option<&Gap> {
    said.findings.iter().find_map(|f| if let Finding::Missed(gap) = f { Some(gap) } else { None })
}

fn is_dead(said: &Assessment) -> bool {
    said.findings.iter().any(|f| matches!(f, Finding::DeadConsumer { .. }))
}

fn kept(said: &Assessment, retention: Retention, by: Limit) -> bool {
    said.effective == Effective::Known { retention, by }
}

/// Ten records of two hours before weir came, of which five are unread; a reader finds this timestamp at the sixth.
fn before_weir(w: &mut World, timestamp_ms: i64) -> Assessment {
    w.history = crate::History::new("first");
    w.log().end = 10;
    w.commit(5);
    w.read(5, Some((5, timestamp_ms)));
    w.look()
}

const CASES: &[Case] = &[
    Case {
        name: "an idle topic with an old last record, all of it read",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.read(59, Some((59, BEGIN_MS)));
            w.pass(5 * DAY_MS, HOUR_MS, 0, 0)
        },
        behind: END,
        state: State::Healthy,
        also: |s| !is_dead(s) && lag(s).expires == TimeLeft::Never && lag(s).headroom_percent == Some(100),
    },
    Case {
        name: "an idle topic with an unread last record",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.pass(MINUTE_MS, MINUTE_MS, 1, 0);
            w.pass(DAY_MS, HOUR_MS, 0, 0)
        },
        behind: sampled(DAY_MS + MINUTE_MS),
        state: State::AtRisk,
        also: is_dead,
    },
    Case {
        name: "no committed offset",
        story: |w| {
            w.group().committed = Some([].into());
            w.history.groups.clear();
            w.falls_behind(HOUR_MS)
        },
        behind: Behind::Unknown(LagUnknown::NoCommittedOffset),
        state: State::Unknown,
        also: |s| s.unknown == [Unknown::Lag { group: GROUP.into(), why: LagUnknown::NoCommittedOffset }],
    },
    Case {
        name: "committed below the log's start",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.falls_behind(59 * MINUTE_MS);
            w.log().start = 100;
            w.pass_unseen(MINUTE_MS)
        },
        behind: sampled(HOUR_MS),
        state: State::Lost,
        also: |s| {
            let gap = gap(s).unwrap();
            (gap.from, gap.to, gap.cause) == (60, 100, GapCause::LogStartMoved)
                && (gap.first_ms, gap.last_ms) == (Some(BEGIN_MS + HOUR_MS), Some(BEGIN_MS + 99 * MINUTE_MS))
                && gap.records_max() == 40
        },
    },
    Case {
        name: "committed at the end",
        story: |w| w.keeps_up(HOUR_MS),
        behind: END,
        state: State::Healthy,
        also: |s| s.wanted == Wanted::Nothing(Why::Satisfied),
    },
    Case {
        name: "committed beyond the end, after an unclean election",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.log().end = 50;
            w.pass_unseen(MINUTE_MS)
        },
        behind: END,
        state: State::Healthy,
        also: |s| s.unknown.is_empty(),
    },
    Case {
        name: "a tail of control records",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.pass(MINUTE_MS, MINUTE_MS, 1, 0);
            let asked = w.pass(HOUR_MS, MINUTE_MS, 0, 0);
            assert_eq!(asked.reads, [WantedRead { partition: 0, offset: 60, urgent: true }], "weir must ask what is there");
            w.read(60, None);
            w.look()
        },
        behind: END,
        state: State::Healthy,
        also: |s| s.reads.is_empty() && lag(s).expires == TimeLeft::Never,
    },
    Case {
        name: "a group with unstable members",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.group().state = GroupState::Rebalancing;
            w.pass(2 * HOUR_MS, MINUTE_MS, 1, 1);
            w.pass(10 * MINUTE_MS, MINUTE_MS, 1, 0)
        },
        behind: sampled(10 * MINUTE_MS),
        state: State::Healthy,
        also: |s| s.unknown.is_empty() && lag(s).standing == Standing::Counts,
    },
    Case {
        name: "a coordinator that does not answer",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.group().committed = None;
            w.falls_behind(MINUTE_MS)
        },
        behind: Behind::Unknown(LagUnknown::CoordinatorSilent),
        state: State::Unknown,
        also: |s| lag(s).partitions[&0].committed == Some(60),
    },
    Case {
        name: "a group the broker has forgotten",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.seen.groups = Some([].into());
            w.falls_behind_unseen(DAY_MS)
        },
        behind: sampled(DAY_MS),
        state: State::AtRisk,
        also: |s| lag(s).forgotten && lag(s).standing == Standing::Counts && is_dead(s),
    },
    Case {
        name: "an abandoned group",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.group().state = GroupState::Empty;
            // Its floor lives on for the look-back.
            w.pass(22 * DAY_MS, HOUR_MS, 60, 0)
        },
        behind: Behind::AtLeast { ms: 174 * HOUR_MS },
        state: State::Healthy,
        also: |s| lag(s).standing == Standing::Retired && s.limiting.is_none() && s.unknown.is_empty() && s.findings.is_empty(),
    },
    Case {
        name: "a topic deleted and made again",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.falls_behind(HOUR_MS);
            w.seen.topic_id = "second".into();
            w.log().end = 3;
            w.commit(3);
            w.pass(MINUTE_MS, MINUTE_MS, 0, 0)
        },
        behind: END,
        state: State::Healthy,
        also: |s| {
            let gap = gap(s).unwrap();
            (gap.topic_id.as_str(), gap.from, gap.to, gap.cause) == ("first", 60, 120, GapCause::TopicDeleted)
                && lag(s).peak.is_some_and(|p| p.value == HOUR_MS)
        },
    },
    Case {
        name: "a timestamp before the samples, of the topic's time",
        story: |w| before_weir(w, BEGIN_MS - 2 * HOUR_MS),
        behind: Behind::Known { ms: 2 * HOUR_MS, by: By::Timestamp },
        state: State::Healthy,
        also: |s| lag(s).expires == TimeLeft::In(166 * HOUR_MS) && s.unknown.is_empty(),
    },
    Case {
        name: "a timestamp in the future",
        story: |w| before_weir(w, BEGIN_MS + DAY_MS),
        behind: Behind::AtLeast { ms: 0 },
        state: State::Unknown,
        also: |s| lag(s).expires == TimeLeft::In(168 * HOUR_MS),
    },
    Case {
        name: "a timestamp of 0",
        story: |w| before_weir(w, 0),
        behind: Behind::AtLeast { ms: 0 },
        state: State::AtRisk,
        also: |s| lag(s).expires == TimeLeft::In(0) && s.unknown.len() == 1,
    },
    Case {
        name: "a record without timestamp",
        story: |w| before_weir(w, -1),
        behind: Behind::AtLeast { ms: 0 },
        state: State::Unknown,
        also: |s| lag(s).expires == TimeLeft::Unknown,
    },
    Case {
        name: "the broker's own timestamps, from before the samples",
        story: |w| {
            w.set(TIMESTAMP_TYPE, "LogAppendTime");
            before_weir(w, BEGIN_MS - 200 * HOUR_MS)
        },
        behind: Behind::Known { ms: 200 * HOUR_MS, by: By::Timestamp },
        state: State::Violated,
        also: |s| lag(s).expires == TimeLeft::In(0),
    },
    Case {
        name: "a producer's clock that is slightly ahead",
        story: |w| before_weir(w, BEGIN_MS + MINUTE_MS),
        behind: Behind::Known { ms: 0, by: By::Timestamp },
        state: State::Healthy,
        also: |s| s.unknown.is_empty(),
    },
    Case {
        name: "rebuilt events with old timestamps in a live topic",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.falls_behind(10 * MINUTE_MS);
            w.read(60, Some((60, BEGIN_MS - 20 * DAY_MS)));
            w.look()
        },
        behind: sampled(10 * MINUTE_MS),
        state: State::AtRisk,
        also: |s| lag(s).expires == TimeLeft::In(0) && lag(s).peak.is_some_and(|p| p.value == 10 * MINUTE_MS),
    },
    Case {
        name: "rebuilt events behind a live record that keeps their segment",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.falls_behind(10 * MINUTE_MS);
            w.read(58, Some((58, BEGIN_MS + 58 * MINUTE_MS)));
            w.read(60, Some((60, BEGIN_MS - 20 * DAY_MS)));
            w.look()
        },
        behind: sampled(10 * MINUTE_MS),
        state: State::Healthy,
        also: |s| lag(s).expires == TimeLeft::In(168 * HOUR_MS - 12 * MINUTE_MS),
    },
    Case {
        name: "a compacted topic",
        story: |w| {
            w.set(CLEANUP_POLICY, "compact");
            w.set(RETENTION_MS, HOUR_MS);
            w.falls_behind(HOUR_MS)
        },
        behind: sampled(HOUR_MS),
        state: State::AtRisk,
        also: |s| kept(s, Retention::Infinite, Limit::Compacted) && s.wanted == Wanted::Nothing(Why::NothingExpires),
    },
    Case {
        name: "a compact-and-delete topic",
        story: |w| {
            w.set(CLEANUP_POLICY, "compact, delete");
            w.set(RETENTION_MS, HOUR_MS);
            w.keeps_up(HOUR_MS)
        },
        behind: END,
        state: State::Violated,
        also: |s| kept(s, Retention::Millis(HOUR_MS), Limit::Time),
    },
    Case {
        name: "a tiered topic",
        story: |w| {
            w.set(REMOTE_STORAGE, "true");
            w.set(LOCAL_RETENTION_MS, HOUR_MS);
            w.keeps_up(HOUR_MS)
        },
        behind: END,
        state: State::Healthy,
        also: |s| kept(s, Retention::Millis(168 * HOUR_MS), Limit::Time),
    },
    Case {
        name: "retention.ms=-1",
        story: |w| {
            w.set(RETENTION_MS, -1);
            w.falls_behind(5 * MINUTE_MS)
        },
        behind: sampled(5 * MINUTE_MS),
        state: State::Healthy,
        also: |s| {
            kept(s, Retention::Infinite, Limit::Time) && lag(s).expires == TimeLeft::Never && s.wanted == Wanted::Nothing(Why::Satisfied)
        },
    },
    Case {
        name: "retention.bytes that bites first",
        story: |w| {
            // A record a minute of 1000 bytes: 6000 bytes are six minutes of time.
            w.set(RETENTION_BYTES, 6000);
            w.keeps_up(HOUR_MS);
            w.log().bytes = Some(60_000);
            w.look()
        },
        behind: END,
        state: State::Violated,
        also: |s| {
            let Effective::Known { retention: Retention::Millis(ms), by: Limit::Size } = s.effective else { return false };
            let Wanted::Now(change) = &s.wanted else { return false };
            let bytes: i64 = change.keys[0].to.as_ref().unwrap().parse().unwrap();
            (359_000..361_000).contains(&ms) && change.keys[0].key == RETENTION_BYTES && bytes >= 168 * 60 * 1000
        },
    },
    Case {
        name: "retention.bytes with a rate that is not known",
        story: |w| {
            w.set(RETENTION_BYTES, 6000);
            // As it was found.
            w.history.kept = None;
            w.keeps_up(HOUR_MS)
        },
        behind: END,
        state: State::Unknown,
        also: |s| matches!(s.effective, Effective::Unknown(_)) && s.wanted == Wanted::Nothing(Why::Satisfied),
    },
    Case {
        name: "unset keys with a broker default below the floor",
        story: |w| {
            w.inherit(RETENTION_MS, DAY_MS);
            w.keeps_up(HOUR_MS)
        },
        behind: END,
        state: State::Violated,
        also: |s| {
            let Wanted::Now(change) = &s.wanted else { return false };
            change.keys[0].from.is_none() && change.keys[0].to.as_deref() == Some("604800000") && change.cause == Cause::Restore
        },
    },
    Case {
        name: "a partition without a leader",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.seen.partitions.insert(1, None);
            w.pass_unseen(MINUTE_MS)
        },
        behind: Behind::Unknown(LagUnknown::NoLeader),
        state: State::Unknown,
        also: |s| lag(s).partitions[&0].behind == END,
    },
    Case {
        name: "offsets that are too old",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.now_ms += 6 * MINUTE_MS;
            w.look_at_config()
        },
        behind: Behind::Unknown(LagUnknown::Stale),
        state: State::Unknown,
        also: |s| !s.unknown.is_empty(),
    },
    Case {
        name: "a configuration that could not be described",
        story: |w| {
            w.keeps_up(HOUR_MS);
            w.seen.config = None;
            w.pass_unseen(MINUTE_MS)
        },
        behind: END,
        state: State::Unknown,
        also: |s| s.effective.known().is_none() && matches!(s.wanted, Wanted::Nothing(Why::RetentionUnknown(_))),
    },
];

impl World {
    /// The group is not there to commit.
    fn falls_behind_unseen(&mut self, length_ms: i64) -> Assessment {
        for _ in 0..length_ms / MINUTE_MS {
            self.log().end += 1;
            self.pass_unseen(MINUTE_MS);
        }
        self.look()
    }

    fn pass_unseen(&mut self, length_ms: i64) -> Assessment {
        self.now_ms += length_ms;
        self.look()
    }
}

#[test]
fn every_situation_is_what_it_is() {
    for case in CASES {
        let mut world = World::new();
        let said = (case.story)(&mut world);
        assert_eq!(lag(&said).behind, case.behind, "{}", case.name);
        assert_eq!(said.state, case.state, "{}: {:?} {:?}", case.name, said.findings, said.unknown);
        assert!((case.also)(&said), "{}: {said:#?}", case.name);
    }
}

#[test]
fn a_group_that_comes_back_beyond_its_last_offset_has_skipped_records() {
    for (back_at, start, expected) in [(110, 0, Some((60, 110))), (60, 0, None), (10, 0, None), (110, 80, Some((80, 110)))] {
        let mut world = World::new();
        world.keeps_up(HOUR_MS);
        world.group().committed = Some([].into());
        world.falls_behind(HOUR_MS);
        world.log().start = start;
        world.commit(back_at);
        let said = world.pass(MINUTE_MS, MINUTE_MS, 0, 0);
        let skipped = said.findings.iter().find_map(|f| match f {
            Finding::Missed(gap) if gap.cause == GapCause::Skipped => Some((gap.from, gap.to)),
            _ => None,
        });
        assert_eq!(skipped, expected, "back at {back_at}, log from {start}");
        assert_ne!(said.state, State::Lost, "it is over: the group stands behind the gap");
    }
}

#[test]
fn a_loss_grows_with_the_log_start_and_is_told_once() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    world.falls_behind(HOUR_MS);
    for start in [70, 100] {
        world.log().start = start;
        world.pass(MINUTE_MS, MINUTE_MS, 1, 0);
    }
    let gaps = |w: &World| w.history.gaps.iter().map(|g| (g.from, g.to)).collect::<Vec<_>>();
    assert_eq!(gaps(&world), [(60, 100)]);
    // It jumps to the end; what it lost stays known for the look-back, and no longer.
    world.commit(121);
    let said = world.pass(2 * MINUTE_MS, MINUTE_MS, 1, 1);
    assert_eq!((said.state, gap(&said).map(|g| (g.from, g.to))), (State::Healthy, Some((60, 100))));
    assert_eq!(gap(&world.pass(168 * HOUR_MS, HOUR_MS, 1, 1)), None);
}

#[test]
fn what_is_remembered_survives_a_restart() {
    let mut world = World::new();
    world.keeps_up(HOUR_MS);
    let before = world.falls_behind(HOUR_MS);
    let text = serde_json::to_string(&world.history).unwrap();
    world.history = serde_json::from_str(&text).unwrap();
    assert_eq!(world.look(), before);
}
