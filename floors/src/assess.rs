//! From what was observed, what is remembered and what policies ask for to everything that is to be said of a topic.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    DAY_MS, HOUR_MS, MINUTE_MS, Retention,
    config::Keys,
    exceptions::{Exception, enforced},
    findings::{Detect, Finding, Gap, time_to_loss},
    floor::{Floor, Reason},
    groups::{GroupRecord, Standing, worst},
    history::History,
    lag::{self, Behind, Effective, LagUnknown, Limit, RetentionUnknown, TimeLeft},
    losses::{Loss, is_outrun},
    observed::{Log, Observed},
    peaks::Peak,
    policy::{Hold, Policy, Rules, round_up_ms},
    retention::{percent_of, share_ms},
    verdict::{Outcome, Repair},
    wanted::{Raised, Situation, Wanted, Why},
};

/// Offsets older than that say nothing of now.
const STALE_MS: i64 = 5 * MINUTE_MS;
/// A group that is closer to the end than that needs no record read.
const READ_FROM_BEHIND_MS: i64 = MINUTE_MS;
/// A repair is told of for so long: whoever lowered the retention should learn of it.
const RESTORED_TOLD_MS: i64 = HOUR_MS;
/// For so long a group that does not count is kept after the broker has forgotten it.
const FORGOTTEN_KEPT_MS: i64 = DAY_MS;
/// Records that one round may ask for, the furthest behind first.
const READS_MAX: usize = 32;

/// What asks for something of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Governance<'a> {
    /// Those that match the topic.
    pub policies: &'a [&'a Policy],
    pub holds: &'a [Hold],
    pub exceptions: &'a [Exception],
}

/// Everything that is to be said of a topic now.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    pub topic_id: String,
    pub state: State,
    pub effective: Effective,
    pub floor: Option<Floor>,
    /// The floor that is put back, with exceptions; what weir judges changes by.
    pub enforced: Option<Retention>,
    /// The exception that lowers it, as `namespace/name: reason`.
    pub exception: Option<String>,
    pub groups: BTreeMap<String, GroupLag>,
    /// The group that counts and has the greatest peak.
    pub limiting: Option<String>,
    /// The least of all groups that count.
    pub headroom_percent: Option<u32>,
    pub time_to_loss: TimeLeft,
    /// Groups could be listed, and for how long the broker keeps their offsets is known.
    pub offsets_watched: bool,
    /// What could not be observed; while there is any nothing is lowered.
    pub unknown: Vec<Unknown>,
    pub findings: Vec<Finding>,
    /// What groups that count missed, by incident.
    pub losses: Vec<Loss>,
    /// The last repair.
    pub repair: Option<Repair>,
    /// Where logs began before it, by partition, while it is not judged.
    pub began: Vec<(i32, i64)>,
    pub wanted: Wanted,
    /// What weir raised and will take back, by key.
    pub raised: BTreeMap<String, Raised>,
    /// Records whose timestamps are wanted, the most wanted first.
    pub reads: Vec<WantedRead>,
    /// Bytes a millisecond of the partition that grows fastest.
    pub bytes_per_ms: Option<f64>,
    pub rules: Option<Rules>,
}

/// A record whose timestamp is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedRead {
    pub partition: i32,
    pub offset: i64,
    /// Without it a lag is not known, or perhaps overstated. Other reads tell more exactly when records expire: every group that
    /// is a little behind on a topic with traffic wants one, again and again.
    pub urgent: bool,
}

/// From bad to good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// A group stands before records that are gone.
    Lost,
    /// Retention is below the floor.
    Violated,
    AtRisk,
    Unknown,
    Healthy,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "Lost",
            Self::Violated => "Violated",
            Self::AtRisk => "AtRisk",
            Self::Unknown => "Unknown",
            Self::Healthy => "Healthy",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    Retention(RetentionUnknown),
    /// Groups could not be listed.
    Groups,
    Lag {
        group: String,
        why: LagUnknown,
    },
    /// It is behind by this at least.
    LagBound {
        group: String,
        least_ms: i64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct GroupLag {
    pub standing: Standing,
    /// The worst partition's.
    pub behind: Behind,
    /// Over the look-back.
    pub peak: Option<Peak<i64>>,
    pub expires: TimeLeft,
    /// Of the effective retention; `None`: not known.
    pub headroom_percent: Option<u32>,
    pub time_to_loss: TimeLeft,
    /// The broker has forgotten it; these are its last known offsets.
    pub forgotten: bool,
    /// When it last had members or made progress.
    pub active_ms: i64,
    pub partitions: BTreeMap<i32, PartitionLag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    pub committed: Option<i64>,
    pub end: Option<i64>,
    pub behind: Behind,
    pub expires: TimeLeft,
}

/// What one round knows before anything is decided.
struct Round<'a> {
    seen: &'a Observed,
    governance: &'a Governance<'a>,
    keys: Option<Keys>,
    effective: Effective,
    now_ms: i64,
}

impl History {
    /// Takes a round in, and says what is to be said. A round with older offsets than the last, as between two polls, is
    /// judged by its configuration alone.
    pub fn assess(&mut self, seen: &Observed, governance: &Governance<'_>, now_ms: i64) -> Assessment {
        let keys = match &seen.config {
            None => Err(RetentionUnknown::Config),
            Some(config) => Keys::observed(config).map_err(|e| RetentionUnknown::Value(e.key())),
        };
        self.ask(governance.policies, now_ms);
        self.observe(seen, keys.as_ref().ok(), now_ms);
        self.retire(seen, governance.policies, now_ms);

        let bytes_per_ms = self.bytes_per_ms(seen);
        let effective = keys.as_ref().map_or_else(|why| Effective::Unknown(*why), |keys| lag::effective(keys, bytes_per_ms));
        let round = Round { seen, governance, keys: keys.ok(), effective, now_ms };
        let groups = self.group_lags(&round);
        let unknown = unknowns(&round, &groups);
        self.hold(seen, round.keys.as_ref(), &unknown);
        let mut it = Assessment {
            topic_id: self.topic_id.clone(),
            state: State::Healthy,
            effective,
            floor: None,
            enforced: None,
            exception: None,
            limiting: limiting(&groups),
            headroom_percent: counting(&groups).filter_map(|g| g.headroom_percent).min(),
            time_to_loss: counting(&groups).map(|g| g.time_to_loss).min().unwrap_or(TimeLeft::Never),
            reads: self.reads(&groups, effective),
            offsets_watched: seen.groups.is_some() && seen.offsets_retention_ms.is_some(),
            groups,
            unknown,
            findings: Vec::new(),
            losses: Vec::new(),
            repair: None,
            began: Vec::new(),
            wanted: Wanted::Nothing(Why::Ungoverned),
            raised: BTreeMap::new(),
            bytes_per_ms,
            rules: self.rules,
        };
        if let Some(rules) = self.rules {
            self.govern(&mut it, &round, &rules);
        }
        it.raised.clone_from(&self.raised);
        it.repair.clone_from(&self.repair);
        it.began = self.began();
        it.state = state(&it, self);
        it
    }

    fn govern(&mut self, it: &mut Assessment, round: &Round<'_>, rules: &Rules) {
        let Round { seen, governance, now_ms, .. } = *round;
        let groups = &it.groups;
        self.remember(governance.policies, |name| groups.get(name).map(|g| g.behind), rules, now_ms);
        let Some(floor) = self.floor(governance.policies, rules, governance.holds, now_ms) else {
            // The last floor has lived on for the look-back.
            (self.rules, it.rules) = (None, None);
            self.asked.clear();
            return;
        };
        let needed = needed_now(governance.policies, groups);
        let (enforced, exception) = enforced(floor.retention, governance.exceptions, needed, now_ms);
        it.exception = exception.map(|e| format!("{}: {}", e.name, e.reason));
        it.enforced = Some(enforced);
        let firm = floor.demands.iter().find(|demand| demand.reason != Reason::UnknownLag);
        let size_enforced = enforced.min(firm.map_or(Retention::Millis(0), |demand| demand.retention));
        let short = below(it.effective, round.keys.as_ref(), enforced, size_enforced);
        let mut size_lowered = None;
        if let (Some(config), Some(keys)) = (&seen.config, &round.keys) {
            if seen.config_is_fresh {
                self.accept(config, keys, it.effective, floor.retention, now_ms);
            }
            let guards_size = rules.protect.retention_bytes && enforced >= floor.retention && short.is_none();
            let kept = self.kept.filter(|kept| guards_size && seen.offsets_at_ms > 0 && kept.is_size_above(keys));
            size_lowered = kept.and_then(|kept| Some(Finding::SizeLowered { from: kept.bytes, to: keys.retention_bytes? }));
            self.witness(seen, short.is_some() || size_lowered.is_some());
        }
        let is_blind = size_lowered.is_some();
        if round.keys.is_some() {
            self.may_go_on = short.is_some() || is_blind || is_outrun(it, &floor);
        }
        it.findings = self.findings(it, round, &floor, short.map(|to| (to, enforced)), size_lowered, rules);
        it.losses = self.losses(|gap| self.standing(governance.policies, gap).counts(), now_ms);
        if let (Some(config), Some(keys)) = (&seen.config, &round.keys) {
            it.wanted = self.wanted(&Situation {
                config,
                keys,
                effective: it.effective,
                bytes_per_ms: it.bytes_per_ms,
                enforced,
                floor: floor.retention,
                size_enforced,
                is_blind,
                groups: counting(&it.groups).collect(),
                all_known: it.unknown.is_empty(),
                storage: seen.storage,
                rules,
                now_ms,
            });
        } else if let Effective::Unknown(why) = it.effective {
            it.wanted = Wanted::Nothing(Why::RetentionUnknown(why));
        }
        it.floor = Some(floor);
    }

    /// `short`: what records are kept for, and what is enforced, where that is more.
    fn findings(
        &self,
        it: &Assessment,
        round: &Round<'_>,
        floor: &Floor,
        short: Option<(Retention, Retention)>,
        size_lowered: Option<Finding>,
        rules: &Rules,
    ) -> Vec<Finding> {
        let mut all = Vec::new();
        if let Some((to, floor)) = short {
            let from = self.kept.map(|k| k.retention).filter(|from| *from > to);
            all.push(Finding::BelowFloor { from, to, floor });
        }
        all.extend(size_lowered);
        if let Some(wanted) = floor.capped_from {
            all.push(Finding::FloorCapped { wanted, maximum: rules.maximum });
        }
        let counts = |gap: &&Gap| self.standing(round.governance.policies, gap).counts() && !self.is_acknowledged(gap);
        all.extend(self.gaps.iter().filter(counts).cloned().map(Finding::Missed));
        if let Some(repair) = self.repair.as_ref().filter(|r| !r.acknowledged) {
            if repair.outcome() == Some(Outcome::Lost) {
                all.push(Finding::Deleted(repair.clone()));
            }
            if round.now_ms - repair.at_ms < RESTORED_TOLD_MS {
                all.push(Finding::Restored(repair.clone()));
            }
        }
        let (offsets_retention_ms, now_ms) = (round.seen.offsets_retention_ms, round.now_ms);
        for (name, lag) in it.groups.iter().filter(|(_, g)| g.standing.counts()) {
            let Some(record) = self.groups.get(name) else { continue };
            all.extend(Detect { name, lag, record, rules, effective: it.effective, offsets_retention_ms, now_ms }.all());
        }
        all
    }

    /// A group that the broker has forgotten stays known as long as it counts, and for a day more: that it does not may be a mistake
    /// in a policy. What it missed while it was retired goes with it, since nothing would tell it from what counts then; and what it
    /// misses from now on is told apart from what it missed while it counted.
    fn retire(&mut self, seen: &Observed, policies: &[&Policy], now_ms: i64) {
        let Some(present) = &seen.groups else { return };
        let counts = |name: &str, record: &GroupRecord| Standing::of(policies, name, record.idle_ms(now_ms)).counts();
        let is_kept = |record: &GroupRecord| record.forgotten_ms().is_none_or(|at_ms| now_ms.saturating_sub(at_ms) < FORGOTTEN_KEPT_MS);
        let stays = |name: &str, record: &GroupRecord| {
            present.contains_key(name) || (!record.positions.is_empty() && (counts(name, record) || is_kept(record)))
        };
        let mut gaps = std::mem::take(&mut self.gaps);
        gaps.retain_mut(|gap| {
            let Some(record) = self.groups.get(&gap.group) else { return true };
            let then = self.standing(policies, gap);
            gap.closed |= then.counts() && !counts(&gap.group, record);
            stays(&gap.group, record) || then != Standing::Retired
        });
        self.gaps = gaps;
        self.groups.retain(|name, record| stays(name, record));
    }

    /// A group's standing when it missed something: who is retired later has lost it all the same.
    fn standing(&self, policies: &[&Policy], gap: &Gap) -> Standing {
        let idle_ms = self.groups.get(&gap.group).map_or(0, |record| record.idle_ms(gap.found_ms));
        Standing::of(policies, &gap.group, idle_ms)
    }

    /// Until lag is known again, what there was when it became unknown is held. Before the first look of a process that is what
    /// there is: since the last one's end it may have been changed rightly.
    fn hold(&mut self, seen: &Observed, keys: Option<&Keys>, unknown: &[Unknown]) {
        let lag_known = unknown.iter().all(|u| matches!(u, Unknown::Retention(_)));
        if lag_known {
            self.held = None;
        } else if self.held.is_none() {
            let kept = self.kept.filter(|_| seen.offsets_at_ms > 0);
            self.held = kept.map(|k| k.retention).or(keys.map(|k| k.retention_ms));
        }
    }

    /// `None` where a partition's size or rate is not known.
    fn bytes_per_ms(&self, seen: &Observed) -> Option<f64> {
        if seen.partitions.is_empty() {
            // Nobody has looked.
            return None;
        }
        let of = |(partition, log): (&i32, &Option<Log>)| self.partitions.get(partition)?.bytes((*log)?).map(|growth| growth.per_ms);
        seen.partitions.iter().map(of).try_fold(0.0, |fastest: f64, rate| Some(fastest.max(rate?)))
    }

    fn group_lags(&self, round: &Round<'_>) -> BTreeMap<String, GroupLag> {
        let policies = round.governance.policies;
        let one = |(name, record): (&String, &GroupRecord)| {
            let standing = Standing::of(policies, name, record.idle_ms(round.now_ms));
            (name.clone(), self.group_lag(record, standing, round))
        };
        let mut all: BTreeMap<String, GroupLag> = self.groups.iter().map(one).collect();
        for name in policies.iter().flat_map(|p| &p.groups.required) {
            all.entry(name.clone()).or_insert_with(|| GroupLag {
                standing: Standing::Required,
                behind: Behind::Unknown(LagUnknown::RequiredMissing),
                peak: None,
                expires: TimeLeft::Unknown,
                headroom_percent: None,
                time_to_loss: TimeLeft::Unknown,
                forgotten: false,
                active_ms: 0,
                partitions: BTreeMap::new(),
            });
        }
        all
    }

    fn group_lag(&self, record: &GroupRecord, standing: Standing, round: &Round<'_>) -> GroupLag {
        let Round { seen, now_ms, effective, .. } = *round;
        let keys = round.keys.as_ref();
        let stale = now_ms.saturating_sub(self.observed_ms) > STALE_MS;
        let partitions: BTreeMap<i32, PartitionLag> = self
            .behind_by_partition(record, seen, keys)
            .into_iter()
            .map(|(partition, behind)| {
                let behind = if stale { Behind::Unknown(LagUnknown::Stale) } else { behind };
                let committed = record.positions.get(&partition).map(|p| p.committed);
                let log = seen.partitions.get(&partition).copied().flatten();
                let expires = match (self.partitions.get(&partition), log, committed, keys) {
                    (Some(p), Some(log), Some(committed), Some(keys)) => lag::expires(p, log, committed, now_ms, keys),
                    _ if behind == (Behind::Known { ms: 0, by: lag::By::End }) => TimeLeft::Never,
                    _ => TimeLeft::Unknown,
                };
                (partition, PartitionLag { committed, end: log.map(|l| l.end), behind, expires })
            })
            .collect();
        let expires = partitions.values().map(|p| p.expires).min().unwrap_or(TimeLeft::Unknown);
        let headroom_percent = match (expires, effective.known()) {
            (TimeLeft::Never, _) => Some(100),
            (TimeLeft::In(ms), Some(Retention::Millis(kept_ms))) => Some(percent_of(ms, kept_ms).min(100)),
            (TimeLeft::In(_), Some(Retention::Infinite) | None) | (TimeLeft::Unknown, _) => None,
        };
        let mut lag = GroupLag {
            standing,
            behind: worst(partitions.values().map(|p| p.behind)),
            peak: record.peaks.over(now_ms, self.look_back_ms()),
            expires,
            headroom_percent,
            time_to_loss: TimeLeft::Unknown,
            forgotten: record.is_forgotten(),
            active_ms: record.active_ms,
            partitions,
        };
        lag.time_to_loss = time_to_loss(&lag, record, now_ms);
        lag
    }

    /// Where only a record can tell: before the samples, of producers' timestamps, and at an end that may be markers only.
    fn reads(&self, groups: &BTreeMap<String, GroupLag>, effective: Effective) -> Vec<WantedRead> {
        let half_ms = effective.known().and_then(Retention::millis).map_or(i64::MAX, |ms| ms / 2);
        let mut wanted: Vec<(i64, WantedRead)> = Vec::new();
        for (name, lag) in groups.iter().filter(|(_, g)| g.standing.counts()) {
            for (partition, p) in &lag.partitions {
                let (Some(committed), Some(record), Some(least_ms)) = (p.committed, self.partitions.get(partition), p.behind.least_ms())
                else {
                    continue;
                };
                let offset = record.next_unread(committed);
                let read = record.stamp(offset).is_some_and(|s| s.offset == offset);
                let position = self.groups.get(name).and_then(|g| g.positions.get(partition));
                let still = position.is_some_and(|p| self.observed_ms - p.moved_ms >= READ_FROM_BEHIND_MS);
                let near = matches!(p.expires, TimeLeft::In(ms) if ms < half_ms);
                let at_end = p.behind == (Behind::Known { ms: 0, by: lag::By::End });
                let urgent = !p.behind.is_known() || (least_ms >= READ_FROM_BEHIND_MS && (still || near));
                if !read && !at_end && (urgent || p.expires == TimeLeft::Unknown) {
                    wanted.push((least_ms, WantedRead { partition: *partition, offset, urgent }));
                }
            }
        }
        wanted.sort_unstable_by_key(|(least_ms, read)| Reverse((read.urgent, *least_ms, read.partition, read.offset)));
        let mut reads: Vec<WantedRead> = Vec::new();
        for (_, read) in wanted {
            if reads.len() < READS_MAX && !reads.iter().any(|it| (it.partition, it.offset) == (read.partition, read.offset)) {
                reads.push(read);
            }
        }
        reads
    }
}

/// What records are kept for, where that is less than what is enforced, of times or of sizes.
fn below(effective: Effective, keys: Option<&Keys>, enforced: Retention, size_enforced: Retention) -> Option<Retention> {
    let by_size = match effective {
        Effective::Known { retention, by: Limit::Size } => Some(retention).filter(|to| *to < size_enforced),
        Effective::Known { by: Limit::Compacted, .. } => return None,
        Effective::Known { by: Limit::Time, .. } | Effective::Unknown(_) => None,
    };
    by_size.or(keys.map(|k| k.retention_ms).filter(|to| *to < enforced))
}

fn counting(groups: &BTreeMap<String, GroupLag>) -> impl Iterator<Item = &GroupLag> {
    groups.values().filter(|g| g.standing.counts())
}

fn limiting(groups: &BTreeMap<String, GroupLag>) -> Option<String> {
    let peak = |g: &GroupLag| g.peak.map_or(0, |p| p.value).max(g.behind.least_ms().unwrap_or(0));
    groups.iter().filter(|(_, g)| g.standing.counts()).max_by_key(|(_, g)| peak(g)).map(|(name, _)| name.clone())
}

/// What required groups need right now: as a multiple of how far they are behind, or without end where that is unknown.
fn needed_now(policies: &[&Policy], groups: &BTreeMap<String, GroupLag>) -> Retention {
    let multiplier = policies.iter().map(|p| p.floor.lag_multiplier_percent).max().unwrap_or(100).max(100);
    let one = |g: &GroupLag| match g.behind {
        Behind::Known { ms, .. } => Retention::Millis(round_up_ms(share_ms(ms, multiplier))),
        Behind::AtLeast { .. } | Behind::Unknown(_) => Retention::Infinite,
    };
    groups.values().filter(|g| g.standing == Standing::Required).map(one).max().unwrap_or(Retention::Millis(0))
}

fn unknowns(round: &Round<'_>, groups: &BTreeMap<String, GroupLag>) -> Vec<Unknown> {
    let mut all = Vec::new();
    if let Effective::Unknown(why) = round.effective {
        all.push(Unknown::Retention(why));
    }
    if round.seen.groups.is_none() {
        all.push(Unknown::Groups);
    }
    if round.governance.policies.is_empty() {
        return all;
    }
    for (name, lag) in groups.iter().filter(|(_, g)| g.standing.counts()) {
        match lag.behind {
            Behind::Known { .. } => {}
            Behind::AtLeast { ms } => all.push(Unknown::LagBound { group: name.clone(), least_ms: ms }),
            Behind::Unknown(why) => all.push(Unknown::Lag { group: name.clone(), why }),
        }
    }
    all
}

fn state(it: &Assessment, history: &History) -> State {
    let of = |finding: &Finding| match finding {
        Finding::Missed(gap) if history.still_before(gap) => State::Lost,
        // It is over; the finding stays for the look-back.
        Finding::Missed(_) | Finding::Deleted(_) | Finding::Restored(_) => State::Healthy,
        Finding::BelowFloor { .. } | Finding::SizeLowered { .. } => State::Violated,
        Finding::FloorCapped { .. }
        | Finding::EnforcementConflict { .. }
        | Finding::DeadConsumer { .. }
        | Finding::OffsetsExpiring { .. }
        | Finding::OffsetsForgotten { .. }
        | Finding::LagTrend { .. }
        | Finding::LagAboveSlo { .. }
        | Finding::LossNear { .. } => State::AtRisk,
    };
    let worst = it.findings.iter().map(of).min().unwrap_or(State::Healthy);
    if it.unknown.is_empty() { worst } else { worst.min(State::Unknown) }
}
