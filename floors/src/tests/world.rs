//! One topic of one partition with one group, and a policy. Every test changes what its story needs.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::{
    Assessment, DAY_MS, HOUR_MS, History, MINUTE_MS, Policy, Retention,
    assess::{Governance, GroupLag},
    config::{CLEANUP_POLICY, RETENTION_BYTES, RETENTION_MS, Setting, Source},
    exceptions::Exception,
    observed::{GroupSeen, GroupState, Log, Observed, Read, Stamp, Storage},
    policy::{Authority, Decreases, Detectors, FloorRule, GroupRule, Hold, Mode, Owners, Protect, Slo, Topics},
    wanted::{Change, Wanted},
};

/// 2026-11-02T00:00:00Z
pub const BEGIN_MS: i64 = 1_793_577_600_000;
pub const GROUP: &str = "lake-sink";

pub struct World {
    pub history: History,
    pub seen: Observed,
    pub policies: Vec<Policy>,
    pub holds: Vec<Hold>,
    pub exceptions: Vec<Exception>,
    pub now_ms: i64,
}

/// A floor of 168 h, twice the lag, over 168 h.
pub fn policy() -> Policy {
    Policy {
        name: "growth/events".into(),
        cluster: "msk".into(),
        topics: Topics { names: ["events".to_owned()].into(), ..Topics::default() },
        floor: FloorRule {
            minimum_ms: 168 * HOUR_MS,
            lag_multiplier_percent: 200,
            look_back_ms: 168 * HOUR_MS,
            downtime_allowance_ms: 72 * HOUR_MS,
            maximum: Retention::Millis(720 * HOUR_MS),
        },
        groups: GroupRule { required: BTreeSet::new(), exclude: vec![Regex::new("^console-").unwrap()], retire_after_ms: 14 * DAY_MS },
        authority: Authority::Govern { max_floor: Retention::Infinite },
        mode: Mode::Enforce,
        protect: Protect::ALL,
        emergency: None,
        decreases: Decreases { max_step_ms: DAY_MS, every_ms: DAY_MS },
        slo: Slo { warning_percent: 25, critical_percent: 50, min_time_to_loss_ms: 4 * HOUR_MS, offsets_expiry_percent: 50 },
        detectors: Detectors { dead_consumer_after_ms: Some(15 * MINUTE_MS), lag_trend_over_ms: Some(6 * HOUR_MS) },
        owners: Owners::default(),
    }
}

impl World {
    /// An empty topic that keeps its records for 168 h, seen once.
    pub fn new() -> Self {
        let group = GroupSeen { state: GroupState::Stable, committed: Some(BTreeMap::from([(0, 0)])) };
        let mut world = Self {
            history: History::new("first"),
            seen: Observed {
                topic_id: "first".into(),
                config: Some(BTreeMap::new()),
                config_is_fresh: true,
                offsets_at_ms: BEGIN_MS,
                partitions: BTreeMap::from([(0, Some(Log { start: 0, end: 0, bytes: None }))]),
                groups: Some(BTreeMap::from([(GROUP.to_owned(), group)])),
                offsets_retention_ms: Some(7 * DAY_MS),
                storage: Storage { used_percent: Some(40), max_used_percent: 80 },
                reads: Vec::new(),
            },
            policies: vec![policy()],
            holds: Vec::new(),
            exceptions: Vec::new(),
            now_ms: BEGIN_MS,
        };
        world.set(RETENTION_MS, 168 * HOUR_MS);
        world.set(RETENTION_BYTES, -1);
        world.set(CLEANUP_POLICY, "delete");
        world.look();
        // Watched for long enough to lower something.
        world.history.began_ms = Some(BEGIN_MS - 30 * DAY_MS);
        world
    }

    /// The topic's own value.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        let setting = Setting { value: value.to_string(), source: Source::Topic, inherited: None };
        self.seen.config.as_mut().unwrap().insert(key.into(), setting);
    }

    /// A value that the topic inherits.
    pub fn inherit(&mut self, key: &str, value: impl ToString) {
        let value = value.to_string();
        let setting = Setting { value: value.clone(), source: Source::Default, inherited: Some(value) };
        self.seen.config.as_mut().unwrap().insert(key.into(), setting);
    }

    pub fn log(&mut self) -> &mut Log {
        self.seen.partitions.get_mut(&0).unwrap().as_mut().unwrap()
    }

    pub fn group(&mut self) -> &mut GroupSeen {
        self.seen.groups.as_mut().unwrap().get_mut(GROUP).unwrap()
    }

    pub fn commit(&mut self, offset: i64) {
        self.group().committed = Some(BTreeMap::from([(0, offset)]));
    }

    pub fn read(&mut self, offset: i64, found: Option<(i64, i64)>) {
        let end = self.log().end;
        let found = found.map(|(offset, timestamp_ms)| Stamp { offset, timestamp_ms });
        self.seen.reads.push(Read { partition: 0, offset, found, end });
    }

    /// A round now.
    pub fn look(&mut self) -> Assessment {
        self.seen.offsets_at_ms = self.now_ms;
        self.look_at_config()
    }

    /// A round with the last offsets.
    pub fn look_at_config(&mut self) -> Assessment {
        let policies: Vec<&Policy> = self.policies.iter().collect();
        let governance = Governance { policies: &policies, holds: &self.holds, exceptions: &self.exceptions };
        let said = self.history.assess(&self.seen, &governance, self.now_ms);
        self.seen.reads.clear();
        said
    }

    /// Rounds every so often, in each of which so many records come and so many are read.
    pub fn pass(&mut self, length_ms: i64, every_ms: i64, produced: i64, consumed: i64) -> Assessment {
        for _ in 0..length_ms / every_ms {
            self.now_ms += every_ms;
            self.log().end += produced;
            let end = self.log().end;
            if let Some(committed) = &mut self.group().committed {
                committed.values_mut().for_each(|c| *c = (*c + consumed).min(end));
            }
            self.look();
        }
        self.look()
    }

    /// One record a minute for so long, all of them read.
    pub fn keeps_up(&mut self, length_ms: i64) -> Assessment {
        self.pass(length_ms, MINUTE_MS, 1, 1)
    }

    /// The same, and nothing is read.
    pub fn falls_behind(&mut self, length_ms: i64) -> Assessment {
        self.pass(length_ms, MINUTE_MS, 1, 0)
    }

    /// What weir wants is done.
    pub fn apply(&mut self, said: &Assessment) -> Change {
        let Wanted::Now(change) = &said.wanted else { panic!("nothing to do: {:?}", said.wanted) };
        for key in &change.keys {
            match &key.to {
                Some(value) => self.set(key.key, value),
                None => {
                    let inherited = self.seen.config.as_ref().unwrap()[key.key].inherited.clone().unwrap();
                    self.inherit(key.key, inherited);
                }
            }
        }
        self.history.applied(change, self.now_ms);
        change.clone()
    }
}

pub fn lag(said: &Assessment) -> &GroupLag {
    &said.groups[GROUP]
}
