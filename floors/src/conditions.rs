//! What the conditions of a `TopicRetentionPolicy` say of its topics.

use weir_crds::conditions::{ConditionType, Wanted};

use crate::{Assessment, findings::Finding};

/// Reasons of `LagWithinSLO`, the worst first.
const LAG_REASONS: [&str; 5] = ["LossNear", "LagCritical", "DeadConsumer", "LagHigh", "LagTrend"];

/// Of the topics that a policy looks at, with their names.
pub fn conditions(topics: &[(&str, &Assessment)]) -> Vec<Wanted> {
    let lag_known = |it: &Assessment| it.unknown.is_empty();
    let retention_known = |it: &Assessment| it.effective.known().is_some();
    vec![
        lag_observed(topics),
        must_not(topics, ConditionType::FloorSatisfied, &["BelowFloor"], retention_known),
        must_not(topics, ConditionType::LagWithinSlo, &LAG_REASONS, lag_known),
        must_not(topics, ConditionType::OffsetsRetained, &["OffsetsExpiring"], |_| true),
        found(topics, ConditionType::FloorCapped, &["FloorCapped"]),
        found(topics, ConditionType::DataLossDetected, &["RecordsLost", "RecordsSkipped"]),
        stands(topics, ConditionType::EmergencyExtended, "Extended", |it| {
            let extended = it.raised.iter().find(|(_, r)| r.extended);
            extended.map(|(key, r)| format!("{key} is {} for now, since a group was about to lose records", r.set))
        }),
        stands(topics, ConditionType::BreakGlass, "ExceptionInForce", |it| it.exception.clone()),
    ]
}

fn lag_observed(topics: &[(&str, &Assessment)]) -> Wanted {
    let unknown = |it: &Assessment| it.unknown.first().map(|why| why.says());
    match first(topics, unknown) {
        Some(message) => wanted(ConditionType::LagObserved, Some(false), "Unknown", message),
        None => wanted(ConditionType::LagObserved, Some(true), "Observed", String::new()),
    }
}

/// True where no topic has such a finding; without knowing whether one would have, unknown.
fn must_not(topics: &[(&str, &Assessment)], kind: ConditionType, reasons: &[&'static str], known: impl Fn(&Assessment) -> bool) -> Wanted {
    match worst(topics, reasons) {
        Some((reason, message)) => wanted(kind, Some(false), reason, message),
        None if topics.iter().all(|(_, it)| known(it)) => wanted(kind, Some(true), "Satisfied", String::new()),
        None => wanted(kind, None, "Unknown", String::new()),
    }
}

fn found(topics: &[(&str, &Assessment)], kind: ConditionType, reasons: &[&'static str]) -> Wanted {
    match worst(topics, reasons) {
        Some((reason, message)) => wanted(kind, Some(true), reason, message),
        None => wanted(kind, Some(false), "None", String::new()),
    }
}

fn stands(topics: &[(&str, &Assessment)], kind: ConditionType, reason: &str, says: impl Fn(&Assessment) -> Option<String>) -> Wanted {
    match first(topics, says) {
        Some(message) => wanted(kind, Some(true), reason, message),
        None => wanted(kind, Some(false), "None", String::new()),
    }
}

/// The first of the reasons that any topic has.
fn worst(topics: &[(&str, &Assessment)], reasons: &[&'static str]) -> Option<(&'static str, String)> {
    reasons.iter().find_map(|reason| {
        let says = |it: &Assessment| it.findings.iter().find(|f| f.as_str() == *reason).map(Finding::says);
        Some((*reason, first(topics, says)?))
    })
}

/// `topic app_events: …; and 2 more`
fn first(topics: &[(&str, &Assessment)], says: impl Fn(&Assessment) -> Option<String>) -> Option<String> {
    let mut all = topics.iter().filter_map(|(topic, it)| Some(format!("topic {topic}: {}", says(it)?)));
    let message = all.next()?;
    match all.count() {
        0 => Some(message),
        more => Some(format!("{message}; and {more} more topics")),
    }
}

fn wanted(kind: ConditionType, status: Option<bool>, reason: &str, message: String) -> Wanted {
    Wanted { kind, status, reason: reason.to_owned(), message }
}
