//! What weir would change on a topic now: raise, restore, extend in an emergency, step back; or nothing, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Retention,
    assess::GroupLag,
    config::{Keys, RETENTION_BYTES, RETENTION_MS, TopicConfig, own},
    history::History,
    lag::{Effective, Limit, RetentionUnknown, TimeLeft},
    observed::Storage,
    policy::{Emergency, Mode, Rules},
    retention::{percent_of, share_ms},
};

/// What `retention.bytes` gets above what the floor needs at the present rate, so that a little more traffic does not ask
/// for another change.
const BYTES_MARGIN: f64 = 1.25;
/// For so long after a change a broker may still describe the topic as it was.
const SETTLES_MS: i64 = 30_000;

/// A change of a topic, by incremental alteration of these keys alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub cause: Cause,
    /// At least one.
    pub keys: Vec<KeyChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The floor rose above the retention.
    Raise,
    /// Somebody lowered the retention below the floor.
    Restore,
    /// A group is about to lose records.
    Extend,
    /// On the way back to what there was before weir raised it.
    StepDown,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raise => "Raise",
            Self::Restore => "Restore",
            Self::Extend => "Extend",
            Self::StepDown => "StepDown",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Raise, Self::Restore, Self::Extend, Self::StepDown].into_iter().find(|cause| cause.as_str() == text)
    }
}

/// `None`: the topic inherits the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    pub key: &'static str,
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Nothing(Why),
    Now(Change),
    /// It would be right, but must not be done now.
    HeldBack {
        change: Change,
        why: Why,
    },
}

/// Why nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Retention is what it should be.
    Satisfied,
    /// No policy asks for anything.
    Ungoverned,
    /// Compacted only: nothing is deleted for its age.
    NothingExpires,
    RetentionUnknown(RetentionUnknown),
    /// The mode is `Warn` or `Audit`.
    Mode(Mode),
    StorageAbove,
    StorageUnknown,
    /// Something could not be observed, and so nothing is lowered.
    LagUnknown,
    NotBefore(i64),
    /// The topic is not watched for the look-back yet, so that nobody knows what was needed within it.
    LookBackNotSeen {
        until_ms: i64,
    },
    /// At the next step a group would have too little headroom.
    HeadroomNeeded,
    /// The emergency extension is at its maximum.
    AtMaximum,
    /// Without limit there is no step down.
    NoStepFromInfinite,
    /// The value comes from the broker's default, which the policies do not guard.
    InheritedUnguarded,
}

/// What weir raised: before, and to what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Raised {
    /// The topic's own value; `None`: it inherited one.
    pub before: Option<String>,
    pub set: String,
    /// For a group that was about to lose records.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub extended: bool,
}

/// Limits of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    pub retention: Retention,
    /// `None`: without limit.
    pub bytes: Option<i64>,
}

impl Kept {
    pub(crate) const fn of(keys: &Keys) -> Self {
        Self { retention: keys.retention_ms, bytes: keys.retention_bytes }
    }

    /// Whether `retention.bytes` is lower now.
    pub(crate) fn is_size_above(self, keys: &Keys) -> bool {
        keys.retention_bytes.unwrap_or(i64::MAX) < self.bytes.unwrap_or(i64::MAX)
    }
}

/// Everything that the decision rests on.
pub(crate) struct Situation<'a> {
    pub config: &'a TopicConfig,
    pub keys: &'a Keys,
    pub effective: Effective,
    pub bytes_per_ms: Option<f64>,
    /// What is put back, with exceptions.
    pub enforced: Retention,
    /// What weir itself goes back to, without.
    pub floor: Retention,
    /// What is put back of what sizes allow. What is only held while a lag is not known is not in it: a size that was enough
    /// stays so, and has its own value held.
    pub size_enforced: Retention,
    /// `retention.bytes` was lowered, and nobody can say what that comes to, or how much is needed.
    pub is_blind: bool,
    /// Those that count.
    pub groups: Vec<&'a GroupLag>,
    pub all_known: bool,
    pub storage: Storage,
    pub rules: &'a Rules,
    pub now_ms: i64,
}

impl Situation<'_> {
    fn change(&self, key: &'static str, to: Option<String>) -> KeyChange {
        KeyChange { key, from: own(self.config, key).map(str::to_owned), to }
    }

    fn is_guarded(&self, key: &str) -> bool {
        self.rules.protect.broker_defaults || own(self.config, key).is_some()
    }

    fn held_by_mode(&self, change: Change) -> Wanted {
        match self.rules.mode {
            Mode::Enforce => Wanted::Now(change),
            mode @ (Mode::Warn | Mode::Audit) => Wanted::HeldBack { change, why: Why::Mode(mode) },
        }
    }

    /// Bytes of a partition that arrive in a time, with the margin; `None`: without limit.
    fn bytes_for(&self, retention: Retention, per_ms: f64) -> Option<i64> {
        Some((per_ms * retention.millis()? as f64 * BYTES_MARGIN).ceil() as i64)
    }

    fn is_size_short(&self) -> bool {
        let short = matches!(self.effective, Effective::Known { retention, by: Limit::Size } if retention < self.size_enforced);
        short && self.rules.protect.retention_bytes
    }
}

fn kafka_bytes(limit: Option<i64>) -> String {
    limit.unwrap_or(-1).to_string()
}

impl History {
    pub(crate) fn wanted(&self, s: &Situation<'_>) -> Wanted {
        if !s.keys.cleanup.delete {
            return Wanted::Nothing(Why::NothingExpires);
        }
        self.repair(s).or_else(|| self.extend(s)).unwrap_or_else(|| self.step_down(s))
    }

    /// Up to the floor, each key for itself: a value that is too low is raised whatever else is not known.
    fn repair(&self, s: &Situation<'_>) -> Option<Wanted> {
        let kept = self.kept.unwrap_or(Kept::of(s.keys));
        let time_short = s.keys.retention_ms < s.enforced;
        let size_short = s.is_size_short() || s.is_blind;
        let lowered = (time_short && s.keys.retention_ms < kept.retention) || (size_short && kept.is_size_above(s.keys));
        // A full disk is no reason to leave what somebody lowered, and one to go no further than it was.
        let full = s.storage.is_above();
        let mut keys = Vec::new();
        if time_short && s.is_guarded(RETENTION_MS) {
            let to = if full && lowered { s.enforced.min(kept.retention) } else { s.enforced };
            keys.push(s.change(RETENTION_MS, Some(to.to_kafka().to_string())));
        }
        if size_short && s.is_guarded(RETENTION_BYTES) {
            let needed = s.bytes_per_ms.and_then(|per_ms| s.bytes_for(s.size_enforced, per_ms));
            let capped = needed.unwrap_or(i64::MAX).min(kept.bytes.unwrap_or(i64::MAX));
            let to = match (s.is_blind, full && lowered) {
                (true, _) => kept.bytes,
                (false, true) => Some(capped).filter(|b| *b < i64::MAX),
                (false, false) => needed,
            };
            keys.push(s.change(RETENTION_BYTES, Some(kafka_bytes(to))));
        }
        if keys.is_empty() {
            return (time_short || size_short).then_some(Wanted::Nothing(Why::InheritedUnguarded));
        }
        let change = Change { cause: if lowered { Cause::Restore } else { Cause::Raise }, keys };
        if full && !lowered {
            return Some(Wanted::HeldBack { change, why: Why::StorageAbove });
        }
        Some(s.held_by_mode(change))
    }

    fn extend(&self, s: &Situation<'_>) -> Option<Wanted> {
        let emergency = s.rules.emergency?;
        let near = |lag: &&&GroupLag| lag.headroom_percent.is_some_and(|left| left < emergency.below_headroom_percent);
        s.groups.iter().find(near)?;
        let Effective::Known { retention: Retention::Millis(now), by } = s.effective else { return None };
        let to_ms = share_ms(now, emergency.factor_percent).min(emergency.maximum_ms);
        if to_ms <= now {
            // Whatever else may be wanted, nothing is lowered now.
            return Some(Wanted::Nothing(Why::AtMaximum));
        }
        let to = Retention::Millis(to_ms);
        let key = match by {
            Limit::Time => s.change(RETENTION_MS, Some(to_ms.to_string())),
            Limit::Size => s.change(RETENTION_BYTES, Some(kafka_bytes(s.bytes_for(to, s.bytes_per_ms?)))),
            Limit::Compacted => return None,
        };
        let change = Change { cause: Cause::Extend, keys: vec![key] };
        if s.storage.is_above() {
            return Some(Wanted::HeldBack { change, why: Why::StorageAbove });
        }
        if !s.storage.is_known_below() {
            return Some(Wanted::HeldBack { change, why: Why::StorageUnknown });
        }
        Some(s.held_by_mode(change))
    }

    /// One key at a time, by at most one step, to the greater of floor and baseline.
    fn step_down(&self, s: &Situation<'_>) -> Wanted {
        let steps = self.raised.keys().filter_map(|key| match key.as_str() {
            RETENTION_MS => self.time_step(s),
            RETENTION_BYTES => self.size_step(s),
            _ => None,
        });
        // A key that cannot be stepped down does not keep the other.
        let step = steps.min_by_key(Result::is_err);
        let (key, next) = match step {
            None => return Wanted::Nothing(Why::Satisfied),
            Some(Err(why)) => return Wanted::Nothing(why),
            Some(Ok(step)) => step,
        };
        let change = Change { cause: Cause::StepDown, keys: vec![key] };
        let next_at_ms = self.changed_ms.map_or(s.now_ms, |changed| changed.saturating_add(s.rules.decreases.every_ms));
        let watched_ms = self.began_ms.map_or(i64::MAX, |began| began.saturating_add(s.rules.look_back_ms));
        let why = match s.effective {
            Effective::Unknown(why) => Some(Why::RetentionUnknown(why)),
            Effective::Known { .. } if !s.all_known => Some(Why::LagUnknown),
            Effective::Known { .. } if s.storage.used_percent.is_none() => Some(Why::StorageUnknown),
            Effective::Known { .. } if s.now_ms < watched_ms => Some(Why::LookBackNotSeen { until_ms: watched_ms }),
            Effective::Known { .. } if s.now_ms < next_at_ms => Some(Why::NotBefore(next_at_ms)),
            Effective::Known { retention, .. } if needs_headroom(s, retention, next) => Some(Why::HeadroomNeeded),
            Effective::Known { .. } => None,
        };
        match why {
            Some(why) => Wanted::HeldBack { change, why },
            None => s.held_by_mode(change),
        }
    }

    /// The key, and the retention that it leaves.
    fn time_step(&self, s: &Situation<'_>) -> Option<Result<(KeyChange, Retention), Why>> {
        let raised = self.raised.get(RETENTION_MS)?;
        let baseline = Retention::of_kafka(baseline(s.config, RETENTION_MS, raised)?);
        let target = s.floor.max(baseline);
        if target >= s.keys.retention_ms {
            return None;
        }
        let Retention::Millis(now) = s.keys.retention_ms else { return Some(Err(Why::NoStepFromInfinite)) };
        let next = Retention::Millis(now.saturating_sub(s.rules.decreases.max_step_ms)).max(target);
        let to = if next == baseline { raised.before.clone() } else { Some(next.to_kafka().to_string()) };
        Some(Ok((s.change(RETENTION_MS, to), next)))
    }

    fn size_step(&self, s: &Situation<'_>) -> Option<Result<(KeyChange, Retention), Why>> {
        let raised = self.raised.get(RETENTION_BYTES)?;
        let baseline = baseline(s.config, RETENTION_BYTES, raised).map(|b| if b < 0 { i64::MAX } else { b })?;
        let per_ms = s.bytes_per_ms.filter(|per_ms| *per_ms > 0.0)?;
        let target = s.bytes_for(s.floor, per_ms).unwrap_or(i64::MAX).max(baseline);
        let Some(now) = s.keys.retention_bytes else { return Some(Err(Why::NoStepFromInfinite)) };
        if target >= now {
            return None;
        }
        let step = (per_ms * s.rules.decreases.max_step_ms as f64).ceil() as i64;
        let next = now.saturating_sub(step).max(target);
        let to = if next == baseline { raised.before.clone() } else { Some(next.to_string()) };
        let left = Retention::Millis((next as f64 / per_ms) as i64).min(s.keys.retention_ms);
        Some(Ok((s.change(RETENTION_BYTES, to), left)))
    }

    /// What the cluster has taken. If weir dies before this, the next round finds the topic as it should be, and takes the
    /// value for somebody else's: then it stays.
    pub fn applied(&mut self, change: &Change, now_ms: i64) {
        self.note_repair(change, now_ms);
        for key in &change.keys {
            let back = change.cause == Cause::StepDown && self.raised.get(key.key).is_some_and(|r| r.before == key.to);
            if back {
                self.raised.remove(key.key);
            } else if let Some(set) = key.to.clone() {
                let begin = || Raised { before: key.from.clone(), set: String::new(), extended: false };
                let raised = self.raised.entry(key.key.to_owned()).or_insert_with(begin);
                raised.set = set;
                raised.extended |= change.cause == Cause::Extend;
            }
            self.keep(key);
        }
        self.changed_ms = Some(now_ms);
    }

    fn keep(&mut self, change: &KeyChange) {
        let (Some(kept), Some(to)) = (&mut self.kept, change.to.as_ref().and_then(|v| v.parse::<i64>().ok())) else { return };
        if change.key == RETENTION_MS {
            kept.retention = Retention::of_kafka(to);
        } else {
            kept.bytes = Some(to).filter(|b| *b >= 0);
        }
    }

    /// What others changed and may: a value at or above the floor is theirs from then on, and weir has nothing to take
    /// back. One below the floor, which an exception may allow, changes nothing of what is remembered.
    pub(crate) fn accept(&mut self, config: &TopicConfig, keys: &Keys, effective: Effective, floor: Retention, now_ms: i64) {
        let now = Kept::of(keys);
        let kept = self.kept.get_or_insert(now);
        let fits = keys.retention_ms >= floor;
        if fits || keys.retention_ms >= kept.retention {
            kept.retention = keys.retention_ms;
        }
        let size_fits = effective.known().is_some_and(|e| e >= floor);
        if size_fits || now.bytes.unwrap_or(i64::MAX) >= kept.bytes.unwrap_or(i64::MAX) {
            kept.bytes = now.bytes;
        }
        let settled = self.changed_ms.is_none_or(|changed| now_ms >= changed.saturating_add(SETTLES_MS));
        if settled && fits {
            self.raised.retain(|key, raised| own(config, key) == Some(raised.set.as_str()));
        }
    }
}

/// The value before weir raised it, or what the topic would inherit now.
fn baseline(config: &TopicConfig, key: &str, raised: &Raised) -> Option<i64> {
    let value = raised.before.as_ref().or_else(|| config.get(key)?.inherited.as_ref())?;
    value.trim().parse().ok()
}

/// Whether the lower retention would leave a group so little that it had to be extended again.
fn needs_headroom(s: &Situation<'_>, now: Retention, next: Retention) -> bool {
    let (Some(Emergency { below_headroom_percent, .. }), Retention::Millis(next_ms)) = (s.rules.emergency, next) else { return false };
    s.groups.iter().any(|lag| match (lag.expires, now) {
        (TimeLeft::In(left_ms), Retention::Millis(now_ms)) => percent_of(left_ms - (now_ms - next_ms), next_ms) < below_headroom_percent,
        (TimeLeft::Unknown, _) => true,
        (TimeLeft::In(_) | TimeLeft::Never, _) => false,
    })
}

/// Changes by key, as an alteration takes them.
impl Change {
    pub fn alterations(&self) -> BTreeMap<&'static str, Option<&str>> {
        self.keys.iter().map(|k| (k.key, k.to.as_deref())).collect()
    }
}
