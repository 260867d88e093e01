//! What `TopicFloor` and `TopicRetentionPolicy` show, and how admission reads it back.

use weir_crds::{
    topic_floor::{AdmissionFacts, RaisedKey, TopicFloorStatus},
    topic_retention_policy::{EnforcementMode, ProtectSpec, TopicCounts, WorstTopic},
};

use crate::{
    Assessment, Retention, State,
    floor::Reason,
    judge::Standing,
    lag::{Behind, TimeLeft},
    policy::{Mode, Protect},
    spec, text,
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

/// What a `TopicFloor` says. `standing` is that of the same assessment.
pub fn topic_floor(it: &Assessment, standing: Option<&Standing>) -> TopicFloorStatus {
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
        exception: it.exception.clone(),
        raised: it.raised.iter().map(|(key, r)| (key.clone(), RaisedKey { before: r.before.clone(), set: r.set.clone() })).collect(),
        admission: standing.map(facts),
    }
}

fn length(retention: Retention) -> String {
    retention.millis().map_or_else(|| "Unlimited".to_owned(), text::exact)
}

fn facts(standing: &Standing) -> AdmissionFacts {
    AdmissionFacts {
        floor_ms: standing.floor.map(Retention::to_kafka),
        mode: match standing.mode {
            Mode::Enforce => EnforcementMode::Enforce,
            Mode::Warn => EnforcementMode::Warn,
            Mode::Audit => EnforcementMode::Audit,
        },
        protect: protect(standing.protect),
        inherited: standing.inherited.clone(),
        // Rounded up: what fills sooner is judged more strictly.
        bytes_per_second: standing.bytes_per_ms.map(|rate| (rate * 1000.0).ceil() as i64),
        owners: standing.owners.clone(),
        consumers: standing.consumers.clone(),
    }
}

fn protect(protect: Protect) -> ProtectSpec {
    ProtectSpec {
        retention_bytes: Some(protect.retention_bytes),
        cleanup_policy: Some(protect.cleanup_policy),
        broker_defaults: Some(protect.broker_defaults),
        deletion: Some(protect.deletion),
    }
}

/// What admission judges by, from a `TopicFloor`; `None`: nobody asks for anything.
pub fn standing(topic: &str, status: &TopicFloorStatus) -> Option<Standing> {
    let facts = status.admission.as_ref()?;
    Some(Standing {
        topic: topic.to_owned(),
        floor: facts.floor_ms.map(Retention::of_kafka),
        mode: spec::mode(facts.mode),
        protect: spec::protect(&facts.protect),
        inherited: facts.inherited.clone(),
        bytes_per_ms: facts.bytes_per_second.map(|rate| rate as f64 / 1000.0),
        why: status.why.clone(),
        owners: facts.owners.clone(),
        consumers: facts.consumers.clone(),
    })
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
