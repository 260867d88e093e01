//! What weir remembers of a topic from round to round. It survives restarts as JSON; its size is bounded by partitions
//! and groups, not by time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    HOUR_MS, Retention,
    config::Keys,
    findings::{Gap, GapCause},
    groups::{GroupRecord, Jump, LagPoint, Position, TREND_POINTS_MAX},
    lag::{self, Behind, LagUnknown},
    losses::Incident,
    observed::{Log, Observed},
    peaks::Peaks,
    policy::{Policy, Rules},
    record::PartitionRecord,
    series::{Arrival, Series},
    verdict::Repair,
    wanted::{Kept, Raised},
};

/// Without a policy nothing is governed, but samples are kept for the one that may come.
pub const LOOK_BACK_DEFAULT_MS: i64 = 168 * HOUR_MS;

/// A topic's memory. `History::new` knows nothing yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    pub(crate) topic_id: String,
    /// Since when the topic is watched: what was before is not known.
    pub(crate) began_ms: Option<i64>,
    /// When offsets were last taken in.
    pub(crate) observed_ms: i64,
    pub(crate) partitions: BTreeMap<i32, PartitionRecord>,
    pub(crate) groups: BTreeMap<String, GroupRecord>,
    /// What policies asked for, hour by hour: a floor does not fall before the look-back.
    pub(crate) floors: Peaks<Retention>,
    /// What policies that bind have asked for, by name, for as long as the floors of those that are gone live on.
    #[serde(default)]
    pub(crate) asked: BTreeMap<String, Asked>,
    /// All of that together; without any, of policies that only look, or of the last ones.
    pub(crate) rules: Option<Rules>,
    /// What there was before anybody lowered it below the floor.
    pub(crate) kept: Option<Kept>,
    /// `retention.ms` when lag became unknown: until it is known again nothing goes below.
    pub(crate) held: Option<Retention>,
    /// What weir raised, by key.
    pub(crate) raised: BTreeMap<String, Raised>,
    /// When weir last changed the topic.
    pub(crate) changed_ms: Option<i64>,
    pub(crate) gaps: Vec<Gap>,
    /// What the gaps belong to.
    pub(crate) incidents: Vec<Incident>,
    /// Less was kept than groups may need when that was last known: what is deleted may not be all.
    #[serde(default)]
    pub(crate) may_go_on: bool,
    /// The last time that weir put back what somebody lowered.
    pub(crate) repair: Option<Repair>,
}

/// What a policy asked for when it was last there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    pub rules: Rules,
    /// Until then its floor lives on.
    pub until_ms: i64,
}

impl History {
    pub fn new(topic_id: impl Into<String>) -> Self {
        Self {
            topic_id: topic_id.into(),
            began_ms: None,
            observed_ms: 0,
            partitions: BTreeMap::new(),
            groups: BTreeMap::new(),
            floors: Peaks::new(),
            asked: BTreeMap::new(),
            rules: None,
            kept: None,
            held: None,
            raised: BTreeMap::new(),
            changed_ms: None,
            gaps: Vec::new(),
            incidents: Vec::new(),
            may_go_on: false,
            repair: None,
        }
    }

    /// Whether policies ask for something of the topic, or did within the look-back.
    pub fn is_governed(&self) -> bool {
        self.rules.is_some()
    }

    pub fn topic_id(&self) -> &str {
        &self.topic_id
    }

    /// Groups that the broker should still know, whether it lists them or not. One that it has forgotten is known to be gone until
    /// it comes back.
    pub fn expected_groups(&self) -> BTreeSet<String> {
        let expected = |record: &GroupRecord| record.positions.is_empty() || !record.is_forgotten();
        self.groups.iter().filter(|(_, record)| expected(record)).map(|(name, _)| name.clone()).collect()
    }

    /// How many records groups had not read of the topic as it was last seen, at most.
    pub fn unread(&self) -> BTreeMap<&str, i64> {
        let mut unread = BTreeMap::new();
        for (group, record) in &self.groups {
            for (partition, position) in &record.positions {
                if let Some(end) = self.partitions.get(partition).and_then(|log| unread_to(log, position)) {
                    *unread.entry(group.as_str()).or_default() += end - position.committed;
                }
            }
        }
        unread
    }

    /// What weir raised and has not taken back, by key.
    pub fn raised(&self) -> &BTreeMap<String, Raised> {
        &self.raised
    }

    /// Whether it is known of a change that weir made then or later. What is shown has whole seconds.
    pub fn has_changed_since(&self, at_ms: i64) -> bool {
        let repaired_ms = self.repair.as_ref().map(|repair| repair.at_ms);
        self.changed_ms.max(repaired_ms).is_some_and(|changed_ms| changed_ms / 1_000 >= at_ms / 1_000)
    }

    /// Goes on with what an earlier process remembered. What this one was told and did since stands above that.
    pub fn take_up(&mut self, mut earlier: Self) {
        if earlier.topic_id == self.topic_id {
            earlier.raised.append(&mut self.raised);
            for (name, group) in std::mem::take(&mut self.groups) {
                earlier.groups.entry(name).or_insert(group);
            }
            earlier.join_repair(self);
        }
        earlier.join_losses(std::mem::take(&mut self.incidents), std::mem::take(&mut self.gaps));
        earlier.changed_ms = earlier.changed_ms.max(self.changed_ms);
        earlier.asked.append(&mut self.asked);
        earlier.rules = self.rules.or(earlier.rules);
        *self = earlier;
    }

    /// What is asked for now. A policy that is gone is asked as long as its floor lives on, whoever else has one for the topic; one
    /// that is there is taken at its word, and one that may only look any more binds nobody at once.
    pub(crate) fn ask(&mut self, policies: &[&Policy], now_ms: i64) {
        let is_here = |name: &String| policies.iter().any(|policy| policy.name == *name);
        self.asked.retain(|name, it| !is_here(name) && now_ms < it.until_ms);
        for policy in policies.iter().filter(|policy| policy.governs()) {
            let rules = policy.rules();
            let until_ms = now_ms.saturating_add(rules.look_back_ms);
            self.asked.insert(policy.name.clone(), Asked { rules, until_ms });
        }
        let strictest = self.asked.values().map(|it| it.rules).reduce(Rules::strictest);
        self.rules = strictest.or_else(|| Rules::of(policies)).or(self.rules);
    }

    /// What lies in the future was never seen: the clock was put back, or that of an earlier process was ahead.
    pub(crate) fn forget_future(&mut self, now_ms: i64) {
        if self.observed_ms > now_ms {
            self.observed_ms = now_ms - 1;
            self.partitions.values_mut().for_each(|record| record.cut(now_ms));
            self.groups.values_mut().for_each(|record| record.trend.cut(now_ms));
        }
    }

    pub(crate) fn look_back_ms(&self) -> i64 {
        self.rules.map_or(LOOK_BACK_DEFAULT_MS, |r| r.look_back_ms)
    }

    /// Takes in a round. Offsets that were taken in before are not news, nor are those of a look in the future.
    pub(crate) fn observe(&mut self, seen: &Observed, keys: Option<&Keys>, now_ms: i64) {
        self.forget_future(now_ms);
        if seen.topic_id != self.topic_id {
            self.made_again(seen);
        }
        let news = seen.offsets_at_ms > self.observed_ms && seen.offsets_at_ms <= now_ms;
        if news {
            self.began_ms.get_or_insert(seen.offsets_at_ms);
            self.observed_ms = seen.offsets_at_ms;
            self.observe_logs(seen);
        }
        for read in &seen.reads {
            if let Some(record) = self.partitions.get_mut(&read.partition) {
                record.take_read(read);
            }
        }
        if news {
            if self.is_lowered(keys) {
                // Who was there before may have been thrown out, and gone on behind what it lost, since the last look.
                self.find_losses(seen, |_| true);
            }
            self.observe_groups(seen);
            if seen.groups.is_some() {
                // A silent one may have read on; what it has lost is found when it says how far it is.
                self.find_losses(seen, |record| !record.silent);
            }
            self.note_lag(seen, keys);
            self.forget_losses(seen.offsets_at_ms.saturating_sub(self.look_back_ms()));
        }
    }

    /// The topic was deleted and made again: offsets begin anew, what was unread is gone. How far groups fell behind stays
    /// true, and so does what was asked for.
    fn made_again(&mut self, seen: &Observed) {
        let mut unread = Vec::new();
        for (group, record) in &mut self.groups {
            for (partition, position) in std::mem::take(&mut record.positions) {
                let Some(old) = self.partitions.get(&partition) else { continue };
                let Some(end) = unread_to(old, &position) else { continue };
                let range = Unread { group, partition, from: position.committed, to: end };
                unread.push(range.gap(&self.topic_id, Some(old), GapCause::TopicDeleted, seen.offsets_at_ms));
            }
            record.trend = Series::new();
        }
        unread.into_iter().for_each(|gap| self.add_gap(gap));
        self.topic_id.clone_from(&seen.topic_id);
        self.observed_ms = self.observed_ms.min(seen.offsets_at_ms - 1);
        self.partitions.clear();
        self.raised.clear();
        (self.kept, self.held, self.changed_ms, self.repair) = (None, None, None, None);
    }

    fn observe_logs(&mut self, seen: &Observed) {
        let horizon_ms = self.look_back_ms();
        self.partitions.retain(|p, _| seen.partitions.contains_key(p));
        for (partition, log) in &seen.partitions {
            let record = self.partitions.entry(*partition).or_default();
            if let Some(log) = log {
                record.observe(*log, seen.offsets_at_ms, horizon_ms);
            }
        }
    }

    fn observe_groups(&mut self, seen: &Observed) {
        let Some(groups) = &seen.groups else { return };
        let ends: BTreeMap<i32, i64> = seen.partitions.iter().filter_map(|(p, log)| Some((*p, (*log)?.end))).collect();
        let mut missed = Vec::new();
        for (name, group) in groups {
            let record = self.groups.entry(name.clone()).or_default();
            for Jump { partition, from, to } in record.observe(group, &ends, seen.offsets_at_ms) {
                let start = seen.partitions.get(&partition).copied().flatten().map_or(0, |log| log.start).clamp(from, to);
                missed.extend([
                    (Unread { group: name, partition, from, to: start }, GapCause::LogStartMoved),
                    (Unread { group: name, partition, from: start, to }, GapCause::Skipped),
                ]);
            }
        }
        for (range, cause) in missed {
            self.miss(&range, cause, seen.offsets_at_ms);
        }
        for (name, record) in &mut self.groups {
            if !groups.contains_key(name) {
                record.forget(seen.offsets_at_ms);
            }
        }
    }

    /// What lies between a committed offset and the log's start is gone.
    fn find_losses(&mut self, seen: &Observed, is_judged: impl Fn(&GroupRecord) -> bool) {
        let mut lost = Vec::new();
        for (name, record) in self.groups.iter().filter(|(_, record)| is_judged(record)) {
            for (partition, position) in &record.positions {
                if let Some(Some(log)) = seen.partitions.get(partition) {
                    lost.push((name.clone(), *partition, position.committed, log.start));
                }
            }
        }
        for (group, partition, from, to) in lost {
            self.miss(&Unread { group: &group, partition, from, to }, GapCause::LogStartMoved, seen.offsets_at_ms);
        }
    }

    fn miss(&mut self, range: &Unread<'_>, cause: GapCause, found_ms: i64) {
        if range.from >= range.to {
            return;
        }
        self.add_gap(range.gap(&self.topic_id, self.partitions.get(&range.partition), cause, found_ms));
    }

    /// Peaks and the course of every group's lag, whether it counts or not: that may change.
    fn note_lag(&mut self, seen: &Observed, keys: Option<&Keys>) {
        let horizon_ms = self.look_back_ms();
        let trend_ms = self.rules.and_then(|r| r.detectors.lag_trend_over_ms).unwrap_or(0).max(HOUR_MS);
        let lags: Vec<(String, Option<i64>, LagPoint)> =
            self.groups.iter().filter(|(_, g)| !g.silent).map(|(name, _)| self.lag_point(name, seen, keys)).collect();
        for (name, least, point) in lags {
            let Some(record) = self.groups.get_mut(&name) else { continue };
            if let Some(ms) = least {
                record.peaks.push(seen.offsets_at_ms, ms, horizon_ms);
                record.trend.push(seen.offsets_at_ms, point, trend_ms, TREND_POINTS_MAX);
            }
        }
    }

    fn lag_point(&self, name: &str, seen: &Observed, keys: Option<&Keys>) -> (String, Option<i64>, LagPoint) {
        let mut point = LagPoint { behind_ms: 0, records: 0, committed: 0 };
        let mut least: Option<i64> = None;
        for (partition, position) in self.groups.get(name).iter().flat_map(|g| &g.positions) {
            let Some(Some(log)) = seen.partitions.get(partition) else { continue };
            let behind = self.behind(*partition, *log, position.committed, keys);
            least = least.max(behind.least_ms());
            point.records += (log.end - position.committed).max(0);
            point.committed += position.committed;
        }
        point.behind_ms = least.unwrap_or(0);
        (name.to_owned(), least, point)
    }

    /// As of the last offsets.
    pub(crate) fn behind(&self, partition: i32, log: Log, committed: i64, keys: Option<&Keys>) -> Behind {
        match self.partitions.get(&partition) {
            Some(record) => lag::behind(record, log, committed, self.observed_ms, keys),
            None => Behind::Unknown(LagUnknown::NoLeader),
        }
    }

    /// Of one group: each partition, and the worst of them.
    pub(crate) fn behind_by_partition(&self, group: &GroupRecord, seen: &Observed, keys: Option<&Keys>) -> BTreeMap<i32, Behind> {
        let one = |(partition, log): (&i32, &Option<Log>)| {
            let behind = match (log, group.positions.get(partition)) {
                (None, _) => Behind::Unknown(LagUnknown::NoLeader),
                _ if group.silent => Behind::Unknown(LagUnknown::CoordinatorSilent),
                (Some(log), Some(position)) => self.behind(*partition, *log, position.committed, keys),
                // Nothing was ever there that it could miss.
                (Some(log), None) if log.start == log.end => Behind::Known { ms: 0, by: lag::By::End },
                (Some(_), None) => Behind::Unknown(LagUnknown::NoCommittedOffset),
            };
            (*partition, behind)
        };
        seen.partitions.iter().map(one).collect()
    }
}

/// Records that a group has not read.
struct Unread<'a> {
    group: &'a str,
    partition: i32,
    from: i64,
    to: i64,
}

impl Unread<'_> {
    fn gap(&self, topic_id: &str, arrivals: Option<&PartitionRecord>, cause: GapCause, found_ms: i64) -> Gap {
        let at = |offset: i64| match arrivals?.samples.arrival(offset) {
            Arrival::At(ms) => Some(ms),
            Arrival::Before(_) | Arrival::Unseen => None,
        };
        Gap {
            topic_id: topic_id.to_owned(),
            group: self.group.to_owned(),
            partition: self.partition,
            from: self.from,
            to: self.to,
            first_ms: at(self.from),
            last_ms: at(self.to - 1),
            cause,
            found_ms,
            grown_ms: found_ms,
            between: 0,
            closed: false,
            incident: String::new(),
        }
    }
}

/// The end of a partition that a group stands before.
fn unread_to(log: &PartitionRecord, position: &Position) -> Option<i64> {
    log.samples.last().map(|(_, end)| end).filter(|end| position.committed < *end)
}
