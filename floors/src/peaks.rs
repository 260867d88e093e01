//! The greatest value of each hour, as far as a later hour has not outshone it.

use serde::{Deserialize, Serialize};

use crate::HOUR_MS;

/// The greatest value of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak<V> {
    pub hour_ms: i64,
    pub value: V,
}

/// Hourly peaks. Every window ends now, so an hour that a later one equals or outshines is never asked for again: what
/// stays falls from hour to hour, and is at most as many hours as the longest look-back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Peaks<V> {
    hours: Vec<Peak<V>>,
}

impl<V: Copy + Ord> Peaks<V> {
    pub fn new() -> Self {
        Self { hours: Vec::new() }
    }

    /// Takes a value in; hours that ended more than `horizon_ms` ago go.
    pub fn push(&mut self, at_ms: i64, value: V, horizon_ms: i64) {
        self.hours.retain(|p| within(p, at_ms, horizon_ms));
        let hour_ms = at_ms.div_euclid(HOUR_MS) * HOUR_MS;
        // A clock that was put back does not bring hours back.
        let hour_ms = self.hours.last().map_or(hour_ms, |last| last.hour_ms.max(hour_ms));
        if self.hours.last().is_some_and(|last| last.hour_ms == hour_ms && last.value >= value) {
            return;
        }
        let kept = self.hours.partition_point(|p| p.value > value);
        self.hours.truncate(kept);
        self.hours.push(Peak { hour_ms, value });
    }

    /// The greatest value of the hours of which some part lies in the look-back.
    pub fn over(&self, now_ms: i64, look_back_ms: i64) -> Option<Peak<V>> {
        self.hours.iter().find(|p| within(p, now_ms, look_back_ms)).copied()
    }

    pub fn len(&self) -> usize {
        self.hours.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hours.is_empty()
    }
}

fn within<V>(peak: &Peak<V>, now_ms: i64, look_back_ms: i64) -> bool {
    peak.hour_ms.saturating_add(HOUR_MS) > now_ms.saturating_sub(look_back_ms)
}
