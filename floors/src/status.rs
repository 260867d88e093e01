//! What `TopicFloor` and `TopicRetentionPolicy` show.

use std::collections::BTreeMap;

use weir_crds::{
    topic_floor::{ConsumerStanding, RaisedKey, TopicFloorStatus, TopicStanding},
    topic_retention_policy::{TopicCounts, WorstTopic},
};

use crate::{
    Assessment, DAY_MS, MINUTE_MS, Retention, State, carried,
    floor::Reason,
    lag::{Behind, TimeLeft},
    text,
    wanted::Raised,
};

/// A policy's status shows so many topics.
const WORST_MAX: usize = 10;

impl Reason {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Minimum { .. } => "Minimum",
            Self::Lag { .. } => "Lag",
            Self::DowntimeAllowance { .. } => "DowntimeAllowance",
            Self::Hold { .. } => "Hold",
            Self::UnknownLag => "UnknownLag",
            Self::Remembered { .. } => "Remembered",
        }
    }
}

/// What a `TopicFloor` says. `standing`: as [`Assessment::shown_standing`] has it.
pub fn topic_floor(it: &Assessment, standing: Option<TopicStanding>) -> TopicFloorStatus {
    let limiting = it.limiting.as_ref().and_then(|name| it.groups.get(name));
    TopicFloorStatus {
        state: it.state.as_str().to_owned(),
        retention: it.effective.known().map_or_else(|| "Unknown".to_owned(), length),
        floor: it.floor.as_ref().map(|f| length(f.retention)),
        decided_by: it.floor.as_ref().and_then(|f| f.decided_by()).map(|reason| reason.as_str().to_owned()),
        why: it.why(),
        limiting_group: it.limiting.clone(),
        behind: limiting.map(|lag| match lag.behind {
            Behind::Known { ms, .. } => text::rough(ms),
            Behind::AtLeast { ms } => format!(">={}", text::rough(ms)),
            Behind::Unknown(_) => "Unknown".to_owned(),
        }),
        peak: limiting.and_then(|lag| lag.peak).map(|peak| text::rough(peak.value)),
        headroom: it.headroom_percent.map_or_else(|| "Unknown".to_owned(), |percent| format!("{percent}%")),
        time_to_loss: match it.time_to_loss {
            TimeLeft::In(ms) => text::rough(ms),
            TimeLeft::Never => "Never".to_owned(),
            TimeLeft::Unknown => "Unknown".to_owned(),
        },
        repair: carried::repair(it),
        losses: carried::losses(it),
        snapshots: carried::snapshots(it),
        holds: carried::holds(it),
        maximum: it.rules.and_then(|rules| rules.maximum.millis()).map(text::exact),
        exception: it.exception.clone(),
        raised: it.raised.iter().map(|(key, r)| (key.clone(), raised_key(r))).collect(),
        standing,
    }
}

fn raised_key(raised: &Raised) -> RaisedKey {
    RaisedKey { before: raised.before.clone(), set: raised.set.clone(), extended: raised.extended }
}

fn length(retention: Retention) -> String {
    retention.millis().map_or_else(|| "Unlimited".to_owned(), text::exact)
}

/// How a policy's topics are, by state, and the worst of them.
pub fn summary<'a>(topics: impl IntoIterator<Item = (&'a str, &'a Assessment)>) -> (TopicCounts, Vec<WorstTopic>) {
    let mut counts = TopicCounts::default();
    let mut worst: Vec<(State, &str, &Assessment)> = Vec::new();
    for (topic, it) in topics {
        counts.matched += 1;
        match it.state {
            State::Healthy => counts.healthy += 1,
            State::AtRisk => counts.at_risk += 1,
            State::Violated => counts.violated += 1,
            State::Lost => counts.lost += 1,
            State::Unknown => counts.unknown += 1,
        }
        if it.state != State::Healthy {
            worst.push((it.state, topic, it));
        }
    }
    worst.sort_by_key(|(state, topic, _)| (*state, *topic));
    let row = |(state, topic, it): (State, &str, &Assessment)| WorstTopic {
        topic: topic.to_owned(),
        state: state.as_str().to_owned(),
        why: it.why(),
    };
    (counts, worst.into_iter().take(WORST_MAX).map(row).collect())
}

/// What a `TopicFloor` was written with, to tell whether the next is news.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub status: TopicFloorStatus,
    /// `None`: the limiting group is close to the end, where it comes and goes with every record.
    lag: Option<ShownLag>,
}

#[derive(Clone, Debug, PartialEq)]
struct ShownLag {
    group: Option<String>,
    behind_ms: Option<i64>,
    headroom_percent: Option<u32>,
    time_to_loss: TimeLeft,
}

/// Lags below it are all the same.
const NEAR_MS: i64 = 5 * MINUTE_MS;
/// Losses that are further away are all the same.
const FAR_MS: i64 = 30 * DAY_MS;
/// Headroom that moved by less is the same, so that a topic with traffic is not written again and again.
const HEADROOM_STEP_PERCENT: u32 = 10;

impl Shown {
    pub fn of(it: &Assessment, standing: Option<TopicStanding>) -> Self {
        let limiting = it.limiting.as_ref().and_then(|name| it.groups.get(name));
        let behind_ms = limiting.and_then(|lag| lag.behind.least_ms());
        let is_near = limiting.is_none_or(|lag| lag.behind.is_known()) && behind_ms.unwrap_or(0) < NEAR_MS;
        let lag = ShownLag {
            group: it.limiting.clone(),
            behind_ms,
            headroom_percent: it.headroom_percent,
            time_to_loss: match it.time_to_loss {
                TimeLeft::In(ms) if ms > FAR_MS => TimeLeft::Never,
                left @ (TimeLeft::In(_) | TimeLeft::Never | TimeLeft::Unknown) => left,
            },
        };
        Self { status: topic_floor(it, standing), lag: (!is_near).then_some(lag) }
    }

    /// Whether it must be shown at once.
    pub fn is_another_state(&self, before: &TopicFloorStatus) -> bool {
        let said = |s: &TopicFloorStatus| {
            let found = (s.repair.clone(), s.losses.clone(), s.snapshots.clone(), s.holds.clone());
            // What an exception allows is judged by it from now on, and no longer than it is in force.
            let allowed = s.exception.as_ref().map(|said| (said.clone(), s.standing.as_ref().and_then(|s| s.floor_ms)));
            (s.state.clone(), s.raised.clone(), s.standing.as_ref().map(|s| (s.mode, s.protect)), allowed, found)
        };
        said(&self.status) != said(before)
    }

    /// Whether it says something that an earlier one did not, beside numbers that moved a little.
    pub fn is_news(&self, before: &Self) -> bool {
        let said = |s: &TopicFloorStatus| (s.retention.clone(), s.floor.clone(), s.decided_by.clone());
        let lag_moved = match (&self.lag, &before.lag) {
            (Some(now), Some(before)) => now.moved_from(before),
            (now, before) => now.is_some() != before.is_some(),
        };
        let judged_otherwise = match (&self.status.standing, &before.status.standing) {
            (Some(now), Some(before)) => standing_moved(now, before),
            (now, before) => now.is_some() != before.is_some(),
        };
        // Near the end of a log numbers come and go; that nothing was known is not left standing.
        let unknown = |s: &TopicFloorStatus| [&s.headroom, &s.time_to_loss].map(|said| said == "Unknown");
        let has_become_known = unknown(&self.status).iter().zip(unknown(&before.status)).any(|(now, before)| before && !now);
        self.is_another_state(&before.status)
            || said(&self.status) != said(&before.status)
            || lag_moved
            || has_become_known
            || judged_otherwise
    }
}

impl ShownLag {
    fn moved_from(&self, before: &Self) -> bool {
        let headroom_moved = match (self.headroom_percent, before.headroom_percent) {
            (Some(a), Some(b)) => a.abs_diff(b) >= HEADROOM_STEP_PERCENT,
            (a, b) => a != b,
        };
        let loss_moved = match (self.time_to_loss, before.time_to_loss) {
            (TimeLeft::In(a), TimeLeft::In(b)) => moved(a, b),
            (a, b) => a != b,
        };
        let lag_moved = match (self.behind_ms, before.behind_ms) {
            (Some(a), Some(b)) => moved(a, b),
            (a, b) => a != b,
        };
        self.group != before.group || headroom_moved || loss_moved || lag_moved
    }
}

/// Whether changes are judged by something else now, beside rates and peaks that moved a little.
fn standing_moved(now: &TopicStanding, before: &TopicStanding) -> bool {
    let peak_ms = |consumer: &ConsumerStanding| consumer.peak.map(|peak| peak.behind_ms);
    let by_group =
        |s: &TopicStanding| -> BTreeMap<String, ConsumerStanding> { s.consumers.iter().map(|c| (c.group.clone(), c.clone())).collect() };
    let plain = |s: &TopicStanding| TopicStanding { bytes_per_second: None, consumers: vec![], ..s.clone() };
    let rate_moved = match (now.bytes_per_second, before.bytes_per_second) {
        (Some(a), Some(b)) => a.abs_diff(b) >= a.min(b).unsigned_abs() / 2 && a != b,
        (a, b) => a != b,
    };
    let (consumers, consumers_before) = (by_group(now), by_group(before));
    let consumer_moved = |(group, consumer): (&String, &ConsumerStanding)| match consumers_before.get(group) {
        None => true,
        Some(before) => {
            consumer.tables != before.tables
                || match (peak_ms(consumer), peak_ms(before)) {
                    (Some(a), Some(b)) => moved(a, b),
                    (a, b) => a != b,
                }
        }
    };
    plain(now) != plain(before) || rate_moved || consumers.len() != consumers_before.len() || consumers.iter().any(consumer_moved)
}

/// By half or more.
fn moved(a: i64, b: i64) -> bool {
    let (less, more) = (a.min(b).max(NEAR_MS), a.max(b).max(NEAR_MS));
    more - less >= less / 2
}
