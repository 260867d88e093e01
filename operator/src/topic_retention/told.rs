//! What events have told of a topic, so that they tell it once; and the events of findings and verdicts. Pure.

use std::collections::BTreeMap;

use kube::runtime::events::{Event, EventType};
use weir_floors::{
    Assessment, HOUR_MS, History, Policy,
    explain::owners,
    findings::{Finding, Gap},
    verdict::{Outcome, Repair},
};

use super::events::event;

/// A finding that was away for less is not told again: a lag that moves around its limit is one piece of news.
const TOLD_AGAIN_AFTER_MS: i64 = HOUR_MS;

#[derive(Default)]
pub struct Told {
    pub below_floor: bool,
    pub gaps: Vec<Gap>,
    /// Why the retention could not be raised.
    pub failure: Option<String>,
    /// When each finding was last there, by reason and group.
    findings: BTreeMap<(&'static str, Option<String>), i64>,
    /// The repair whose verdict was told.
    judged: Option<String>,
    /// That the topic is gone.
    pub gone: bool,
}

impl Told {
    /// An earlier process has told of what is remembered from it.
    pub fn resume(history: &History) -> Self {
        let mut told = Self::default();
        told.take_up(history);
        told
    }

    pub fn take_up(&mut self, earlier: &History) {
        self.gaps.extend_from_slice(earlier.gaps());
        if self.judged.is_none() {
            self.judged = earlier.last_repair().filter(|r| r.verdict.is_some()).map(|r| r.id.clone());
        }
    }
}

/// Of findings that have no event of their own elsewhere.
pub fn of_findings(topic: &str, it: &Assessment, policies: &[Policy], told: &mut Told, now_ms: i64) -> Vec<Event> {
    let mut events = Vec::new();
    for finding in it.findings.iter().filter(|f| is_told_here(f)) {
        let key = (finding.as_str(), finding.group().map(str::to_owned));
        let before = told.findings.insert(key, now_ms);
        if before.is_none_or(|at_ms| now_ms - at_ms > TOLD_AGAIN_AFTER_MS) {
            let note = format!("topic {topic}: {}; owner {}", finding.says(), whose(finding.group(), policies));
            events.push(event(EventType::Warning, finding.as_str(), "Observe", &note));
        }
    }
    told.findings.retain(|_, at_ms| now_ms - *at_ms <= TOLD_AGAIN_AFTER_MS);
    events
}

const fn is_told_here(finding: &Finding) -> bool {
    match finding {
        Finding::FloorCapped { .. }
        | Finding::EnforcementConflict { .. }
        | Finding::DeadConsumer { .. }
        | Finding::OffsetsExpiring { .. }
        | Finding::OffsetsForgotten { .. }
        | Finding::LagTrend { .. }
        | Finding::LagAboveSlo { .. }
        | Finding::LossNear { .. } => true,
        // In `Warn`, with the change, range by range, and with the verdict.
        Finding::BelowFloor { .. } | Finding::SizeLowered { .. } | Finding::Restored(_) | Finding::Missed(_) | Finding::Deleted(_) => false,
    }
}

/// Of a topic that was deleted with records that somebody had not read.
pub fn of_deletion(topic: &str, history: &History, told: &mut Told) -> Option<Event> {
    let unread = history.unread();
    if std::mem::replace(&mut told.gone, true) || unread.is_empty() {
        return None;
    }
    let each = |(group, records): (&str, i64)| format!("{records} for group {group}");
    let unread = unread.into_iter().map(each).collect::<Vec<_>>().join(", ");
    let note = format!("topic {topic} was deleted, with records that were not read, at most: {unread}");
    Some(event(EventType::Warning, "TopicDeleted", "Observe", &note))
}

/// Of the last repair's verdict, once.
pub fn of_verdict(topic: &str, it: &Assessment, policies: &[Policy], told: &mut Told) -> Option<(Outcome, Event)> {
    let repair: &Repair = it.repair.as_ref()?;
    let outcome = repair.outcome().filter(|_| told.judged.as_ref() != Some(&repair.id))?;
    told.judged = Some(repair.id.clone());
    let note = format!("topic {topic}: {}; owner {}", repair.says(), whose(it.limiting.as_deref(), policies));
    let event = match outcome {
        Outcome::Intact => event(EventType::Normal, "RecordsIntact", "Judge", &note),
        Outcome::Lost => event(EventType::Warning, "DataLossDetected", "Judge", &note),
        Outcome::Unknown => event(EventType::Warning, "RecordsUnknown", "Judge", &note),
    };
    Some((outcome, event))
}

/// Who is to be asked.
pub fn whose(group: Option<&str>, policies: &[Policy]) -> String {
    owners(group, policies.iter().map(|p| &p.owners)).join(", ")
}
