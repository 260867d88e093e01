//! The Kubernetes events that a change of status is worth. Pure; publishing them is the caller's.

use kube::runtime::events::{Event, EventType};
use weir_crds::{
    backfill_job::{BackfillJobStatus, Phase},
    conditions::ConditionType,
};

use crate::text::cut;

/// The API's limit is 1 kB.
const NOTE_BYTES_MAX: usize = 1000;

/// One event at every change of phase, and one when the job stalls for another reason than before.
pub fn events(old: Option<&BackfillJobStatus>, new: &BackfillJobStatus) -> Vec<Event> {
    let mut events = Vec::new();
    if old.map(|s| s.phase) != Some(new.phase) {
        let kind = if new.phase == Phase::Failed { EventType::Warning } else { EventType::Normal };
        events.push(event(kind, format!("{:?}", new.phase), "Phase", &new.message));
    }
    let stalled = |status: &BackfillJobStatus| {
        let found = status.conditions.iter().find(|c| c.type_ == ConditionType::Stalled.as_str() && c.status == "True");
        found.map(|c| (c.reason.clone(), c.message.clone()))
    };
    if let Some((reason, message)) = stalled(new)
        && old.and_then(stalled).map(|(reason, _)| reason).as_ref() != Some(&reason)
    {
        events.push(event(EventType::Warning, reason, "Stalled", &message));
    }
    events
}

fn event(type_: EventType, reason: String, action: &str, note: &str) -> Event {
    Event { type_, reason, note: Some(cut(note, NOTE_BYTES_MAX)), action: action.into(), secondary: None }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(phase: Phase, stalled: Option<&str>) -> BackfillJobStatus {
        let conditions = stalled.map(|reason| Condition {
            type_: "Stalled".into(),
            status: "True".into(),
            reason: reason.into(),
            message: "m".into(),
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        });
        BackfillJobStatus { phase, conditions: conditions.into_iter().collect(), ..Default::default() }
    }

    fn reasons(old: Option<&BackfillJobStatus>, new: &BackfillJobStatus) -> Vec<String> {
        events(old, new).into_iter().map(|e| e.reason).collect()
    }

    #[test]
    fn changes_are_told_once() {
        let (pending, stalled) = (status(Phase::Pending, None), status(Phase::Pending, Some("GrantMissing")));
        assert_eq!(reasons(None, &pending), ["Pending"]);
        assert_eq!(reasons(Some(&pending), &pending), Vec::<String>::new());
        assert_eq!(reasons(Some(&pending), &stalled), ["GrantMissing"]);
        assert_eq!(reasons(Some(&stalled), &stalled), Vec::<String>::new());
        assert_eq!(reasons(Some(&stalled), &status(Phase::Running, Some("KafkaDenied"))), ["Running", "KafkaDenied"]);
    }
}
