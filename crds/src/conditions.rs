//! Condition types, their reasons, and how a list of conditions changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The conditions of weir's kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    Ready,
    Planned,
    Approved,
    SourcesAvailable,
    TargetsReady,
    SlicesStaged,
    Published,
    Verified,
    Suspended,
    Complete,
    Failed,
    Reconciling,
    Stalled,
    LagObserved,
    FloorSatisfied,
    LagWithinSlo,
    OffsetsRetained,
    FloorCapped,
    DataLossDetected,
    HoldActive,
    EnforcementConflict,
    RetentionHeld,
    EmergencyExtended,
    BreakGlass,
    AuditHealthy,
    HistoryKept,
    Active,
}

impl ConditionType {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Planned => "Planned",
            Self::Approved => "Approved",
            Self::SourcesAvailable => "SourcesAvailable",
            Self::TargetsReady => "TargetsReady",
            Self::SlicesStaged => "SlicesStaged",
            Self::Published => "Published",
            Self::Verified => "Verified",
            Self::Suspended => "Suspended",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::LagObserved => "LagObserved",
            Self::FloorSatisfied => "FloorSatisfied",
            Self::LagWithinSlo => "LagWithinSLO",
            Self::OffsetsRetained => "OffsetsRetained",
            Self::FloorCapped => "FloorCapped",
            Self::DataLossDetected => "DataLossDetected",
            Self::HoldActive => "HoldActive",
            Self::EnforcementConflict => "EnforcementConflict",
            Self::RetentionHeld => "RetentionHeld",
            Self::EmergencyExtended => "EmergencyExtended",
            Self::BreakGlass => "BreakGlass",
            Self::AuditHealthy => "AuditHealthy",
            Self::HistoryKept => "HistoryKept",
            Self::Active => "Active",
        }
    }
}

/// A condition as it should be; when it last changed is found by [`merge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub kind: ConditionType,
    /// `None` is `Unknown`.
    pub status: Option<bool>,
    pub reason: String,
    pub message: String,
}

/// The new list: `lastTransitionTime` moves only where the status does.
pub fn merge(old: &[Condition], wanted: Vec<Wanted>, observed_generation: Option<i64>, now: jiff::Timestamp) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(|want| {
            let status = match want.status {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = old.iter().find(|c| c.type_ == want.kind.as_str() && c.status == status).map(|c| c.last_transition_time.clone());
            Condition {
                type_: want.kind.as_str().to_owned(),
                status: status.to_owned(),
                reason: want.reason,
                message: want.message,
                observed_generation,
                last_transition_time: since.unwrap_or(Time(now)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn ready(status: Option<bool>) -> Vec<Wanted> {
        vec![Wanted { kind: ConditionType::Ready, status, reason: "R".into(), message: "m".into() }]
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let (t1, t2): (jiff::Timestamp, jiff::Timestamp) =
            ("2026-11-03T06:00:00Z".parse().unwrap(), "2026-11-03T07:00:00Z".parse().unwrap());
        let first = merge(&[], ready(Some(false)), Some(1), t1);
        assert_eq!(merge(&first, ready(Some(false)), Some(2), t2)[0].last_transition_time, Time(t1));
        assert_eq!(merge(&first, ready(Some(true)), Some(2), t2)[0].last_transition_time, Time(t2));
    }
}
