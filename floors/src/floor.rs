//! The floor of a topic: how long its records must be kept, and who says so.

use crate::{
    Retention,
    groups::{GroupRecord, Standing},
    history::History,
    lag::Behind,
    peaks::Peak,
    policy::{Hold, Policy, Rules, binding, round_up_ms},
    retention::share_ms,
};

/// A floor, and everything that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    pub retention: Retention,
    /// The greatest first: the first one decided.
    pub demands: Vec<Demand>,
    /// What was asked for, where the maximum stands below it.
    pub capped_from: Option<Retention>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub retention: Retention,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Minimum {
        policy: String,
    },
    /// A multiple of how far a group fell behind at worst.
    Lag {
        policy: String,
        group: String,
        peak: Peak<i64>,
        multiplier_percent: u32,
    },
    DowntimeAllowance {
        policy: String,
    },
    /// Until then, unless the job ends before or renews it.
    Hold {
        job: String,
        until_ms: i64,
    },
    /// Nobody knows how far a group is behind: nothing goes below what there was.
    UnknownLag,
    /// It was asked for within the look-back, in the hour that begins then.
    Remembered {
        hour_ms: i64,
    },
}

impl Floor {
    pub fn decided_by(&self) -> Option<&Reason> {
        self.demands.first().map(|d| &d.reason)
    }
}

/// A demand as it stands, and as its policy's maximum lets it stand.
struct Asked {
    demand: Demand,
    uncapped: Retention,
}

impl History {
    /// `None`: nobody asks for anything, nor did within the look-back. `held` is what there was when lag became unknown.
    pub(crate) fn floor(&self, policies: &[&Policy], rules: &Rules, holds: &[Hold], now_ms: i64) -> Option<Floor> {
        let policies = self.bound_by(policies);
        let mut asked: Vec<Asked> = policies.iter().flat_map(|p| self.asked_by(p, now_ms)).collect();
        let mut add = |reason, uncapped: Retention| {
            asked.push(Asked { demand: Demand { retention: uncapped.min(rules.maximum), reason }, uncapped });
        };
        if let Some(peak) = self.floors.over(now_ms, rules.look_back_ms) {
            add(Reason::Remembered { hour_ms: peak.hour_ms }, peak.value);
        }
        for hold in holds {
            if let Some(ms) = hold.floor_ms(now_ms) {
                add(Reason::Hold { job: hold.job.clone(), until_ms: hold.until_ms() }, Retention::Millis(ms));
            }
        }
        if let Some(held) = self.held {
            add(Reason::UnknownLag, held);
        }
        let uncapped = asked.iter().map(|a| a.uncapped).max()?;
        let mut demands: Vec<Demand> = asked.into_iter().map(|a| a.demand).collect();
        demands.sort_by_key(|d| std::cmp::Reverse(d.retention));
        let retention = demands.first()?.retention;
        Some(Floor { retention, demands, capped_from: (uncapped > retention).then_some(uncapped) })
    }

    /// Whose floors count: while any policy binds, or lives on, nobody's who may only look.
    fn bound_by<'a>(&self, policies: &[&'a Policy]) -> Vec<&'a Policy> {
        let binding = binding(policies);
        if self.asked.is_empty() { binding } else { binding.into_iter().filter(|policy| policy.governs()).collect() }
    }

    fn asked_by(&self, policy: &Policy, now_ms: i64) -> Vec<Asked> {
        let name = || policy.name.clone();
        let asked = |reason, ms: i64| {
            let uncapped = Retention::Millis(ms);
            Asked { demand: Demand { retention: uncapped.min(policy.maximum()), reason }, uncapped }
        };
        let mut all = vec![
            asked(Reason::Minimum { policy: name() }, policy.floor.minimum_ms),
            asked(Reason::DowntimeAllowance { policy: name() }, policy.floor.downtime_allowance_ms),
        ];
        let multiplier_percent = policy.floor.lag_multiplier_percent;
        let peaks = self
            .counting(policy, now_ms)
            .filter_map(|(group, record)| record.peaks.over(now_ms, policy.floor.look_back_ms).map(|peak| (group, peak)));
        if let Some((group, peak)) = peaks.max_by_key(|(_, peak)| peak.value).filter(|(_, peak)| peak.value > 0) {
            let reason = Reason::Lag { policy: name(), group: group.to_owned(), peak, multiplier_percent };
            all.push(asked(reason, round_up_ms(share_ms(peak.value, multiplier_percent))));
        }
        all
    }

    fn counting<'a>(&'a self, policy: &'a Policy, now_ms: i64) -> impl Iterator<Item = (&'a str, &'a GroupRecord)> {
        let counts = move |name: &str, record: &GroupRecord| Standing::under(policy, name, record.idle_ms(now_ms)).counts();
        self.groups.iter().filter(move |(name, record)| counts(name, record)).map(|(name, record)| (name.as_str(), record))
    }

    /// Keeps in mind what the policies ask for now. Peaks are left out, having a memory of their own; so are holds, which
    /// end when they end.
    pub(crate) fn remember(&mut self, policies: &[&Policy], behind: impl Fn(&str) -> Option<Behind>, rules: &Rules, now_ms: i64) {
        let asked = self.bound_by(policies).into_iter().map(|policy| {
            let lag = self.counting(policy, now_ms).filter_map(|(name, _)| behind(name)?.least_ms()).max().unwrap_or(0);
            let lag = round_up_ms(share_ms(lag, policy.floor.lag_multiplier_percent));
            let ms = policy.floor.minimum_ms.max(policy.floor.downtime_allowance_ms).max(lag);
            Retention::Millis(ms).min(policy.maximum())
        });
        if let Some(greatest) = asked.max() {
            self.floors.push(now_ms, greatest, rules.look_back_ms);
        }
    }
}
