//! What the conditions of a `TopicRetentionPolicy` say of its topics.

use weir_crds::conditions::{ConditionType, Wanted};

use crate::{Assessment, carried::holds, explain::owners, findings::Finding, policy::Owners};

/// Reasons of `LagWithinSLO`, the worst first.
const LAG_REASONS: [&str; 5] = ["LossNear", "LagCritical", "DeadConsumer", "LagHigh", "LagTrend"];

/// Of the topics that a policy looks at, with their names. `owner`: of these topics.
pub fn conditions(topics: &[(&str, &Assessment)], owner: &Owners) -> Vec<Wanted> {
    let topics = &Topics { topics, owner };
    let lag_known = |it: &Assessment| it.unknown.is_empty();
    let retention_known = |it: &Assessment| it.effective.known().is_some();
    vec![
        lag_observed(topics),
        floor_satisfied(topics, retention_known),
        must_not(topics, ConditionType::LagWithinSlo, &LAG_REASONS, lag_known),
        must_not(topics, ConditionType::OffsetsRetained, &["OffsetsForgotten", "OffsetsExpiring"], |it| it.offsets_watched),
        found(topics, ConditionType::FloorCapped, &["FloorCapped"]),
        hold_active(topics),
        found(topics, ConditionType::EnforcementConflict, &["EnforcementConflict"]),
        found(topics, ConditionType::DataLossDetected, &["RecordsLost", "RecordsSkipped", "RecordsDeleted"]),
        stands(topics, ConditionType::EmergencyExtended, "Extended", |it| {
            let extended = it.raised.iter().find(|(_, r)| r.extended);
            extended.map(|(key, r)| format!("{key} is {} for now, since a group was about to lose records", r.set))
        }),
        stands(topics, ConditionType::BreakGlass, "ExceptionInForce", |it| it.exception.clone()),
    ]
}

struct Topics<'a> {
    topics: &'a [(&'a str, &'a Assessment)],
    owner: &'a Owners,
}

fn lag_observed(topics: &Topics<'_>) -> Wanted {
    let unknown = |it: &Assessment| it.unknown.first().map(|why| why.says());
    match first(topics, unknown) {
        Some(message) => wanted(ConditionType::LagObserved, Some(false), "Unknown", message),
        None => wanted(ConditionType::LagObserved, Some(true), "Observed", String::new()),
    }
}

/// True where no topic has such a finding; without knowing whether one would have, unknown.
fn must_not(topics: &Topics<'_>, kind: ConditionType, reasons: &[&'static str], known: impl Fn(&Assessment) -> bool) -> Wanted {
    match worst(topics, reasons) {
        Some((reason, message)) => wanted(kind, Some(false), reason, message),
        None if topics.topics.iter().all(|(_, it)| known(it)) => wanted(kind, Some(true), "Satisfied", String::new()),
        None => wanted(kind, None, "Unknown", String::new()),
    }
}

/// What was lowered not long ago and is back is said as well: whoever did it should learn of it.
fn floor_satisfied(topics: &Topics<'_>, known: impl Fn(&Assessment) -> bool) -> Wanted {
    let now = must_not(topics, ConditionType::FloorSatisfied, &["BelowFloor", "SizeLowered"], known);
    match worst(topics, &["RetentionRestored"]) {
        Some((reason, message)) if now.status == Some(true) => wanted(now.kind, now.status, reason, message),
        Some(_) | None => now,
    }
}

fn hold_active(topics: &Topics<'_>) -> Wanted {
    let says = |it: &Assessment| {
        let jobs: Vec<String> = holds(it).into_iter().map(|hold| hold.job).collect();
        (!jobs.is_empty()).then(|| format!("BackfillJob {} holds its records", jobs.join(", ")))
    };
    stands(topics, ConditionType::HoldActive, "HeldByBackfillJob", says)
}

fn found(topics: &Topics<'_>, kind: ConditionType, reasons: &[&'static str]) -> Wanted {
    match worst(topics, reasons) {
        Some((reason, message)) => wanted(kind, Some(true), reason, message),
        None => wanted(kind, Some(false), "None", String::new()),
    }
}

fn stands(topics: &Topics<'_>, kind: ConditionType, reason: &str, says: impl Fn(&Assessment) -> Option<String>) -> Wanted {
    match first(topics, says) {
        Some(message) => wanted(kind, Some(true), reason, message),
        None => wanted(kind, Some(false), "None", String::new()),
    }
}

/// The first of the reasons that any topic has.
fn worst(topics: &Topics<'_>, reasons: &[&'static str]) -> Option<(&'static str, String)> {
    reasons.iter().find_map(|reason| {
        let whose = |finding: &Finding| owners(finding.group(), [topics.owner].into_iter()).join(", ");
        let says = |finding: &Finding| format!("{}; owner {}", finding.says(), whose(finding));
        Some((*reason, first(topics, |it| it.findings.iter().find(|f| f.as_str() == *reason).map(says))?))
    })
}

/// `topic app_events: …; and 2 more`
fn first(topics: &Topics<'_>, says: impl Fn(&Assessment) -> Option<String>) -> Option<String> {
    let mut all = topics.topics.iter().filter_map(|(topic, it)| Some(format!("topic {topic}: {}", says(it)?)));
    let message = all.next()?;
    match all.count() {
        0 => Some(message),
        more => Some(format!("{message}; and {more} more topics")),
    }
}

fn wanted(kind: ConditionType, status: Option<bool>, reason: &str, message: String) -> Wanted {
    Wanted { kind, status, reason: reason.to_owned(), message }
}
