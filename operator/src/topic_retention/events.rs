//! The Kubernetes events on the policies of a topic. Pure; publishing them is the caller's.

use kube::runtime::events::{Event, EventType};
use weir_floors::{
    Assessment, Policy,
    findings::{Finding, Gap, GapCause},
    policy::Mode,
    wanted::{Cause, Change},
};

use super::told::Told;
use crate::text::cut;

/// The API's limit is 1 kB.
const NOTE_BYTES_MAX: usize = 1000;

/// A change that was tried, and why it failed.
pub struct Tried {
    pub change: Change,
    /// As the topic was before.
    pub before: Assessment,
    pub failure: Option<String>,
}

/// What is worth an event, and was not told before.
pub fn of_topic(topic: &str, it: &Assessment, policies: &[Policy], tried: Option<&Tried>, told: &mut Told) -> Vec<Event> {
    let policies: Vec<&Policy> = policies.iter().collect();
    let mut events = Vec::new();
    let failure = tried.and_then(|t| t.failure.clone());
    if let Some(tried) = tried
        && (failure.is_none() || failure != told.failure)
    {
        events.push(of_change(topic, tried, &policies));
    }
    told.failure = failure;
    let below_floor = it.findings.iter().find(|finding| is_lowered(finding));
    let warns = it.rules.is_some_and(|rules| rules.mode == Mode::Warn);
    if let Some(finding) = below_floor.filter(|_| warns && !told.below_floor) {
        let note = format!("topic {topic}: {}, and the mode is Warn: {}", finding.says(), whose(it, &policies));
        events.push(event(EventType::Warning, finding.as_str(), "Observe", &note));
    }
    (told.below_floor, told.gone) = (below_floor.is_some(), false);
    let gaps: Vec<Gap> = it.findings.iter().filter_map(gap).cloned().collect();
    events.extend(of_gaps(topic, it, &policies, &gaps, told));
    told.gaps = gaps;
    events
}

fn is_lowered(finding: &Finding) -> bool {
    matches!(finding, Finding::BelowFloor { .. } | Finding::SizeLowered { .. })
}

fn gap(finding: &Finding) -> Option<&Gap> {
    if let Finding::Missed(gap) = finding { Some(gap) } else { None }
}

fn of_change(topic: &str, tried: &Tried, policies: &[&Policy]) -> Event {
    let key = |k: &weir_floors::wanted::KeyChange| {
        let (from, to) = (k.from.as_deref().unwrap_or("the broker's default"), k.to.as_deref().unwrap_or("the broker's default"));
        format!("{} from {from} to {to}", k.key)
    };
    let keys = tried.change.keys.iter().map(key).collect::<Vec<_>>().join(", ");
    let below = tried.before.findings.iter().find(|finding| is_lowered(finding)).map_or_else(String::new, Finding::says);
    let whose = whose(&tried.before, policies);
    if let Some(failure) = &tried.failure {
        let note = format!("topic {topic}: {keys} was refused: {failure}; {below}: {whose}");
        let (reason, action) = if tried.change.cause == Cause::StepDown { ("LowerFailed", "Lower") } else { ("RaiseFailed", "Raise") };
        return event(EventType::Warning, reason, action, &note);
    }
    let note = format!("topic {topic}: raised {keys}; {below}: {whose}");
    match tried.change.cause {
        Cause::Restore => event(EventType::Warning, "RetentionRestored", "Raise", &note),
        Cause::Raise => event(EventType::Normal, "RetentionRaised", "Raise", &note),
        Cause::Extend => event(EventType::Warning, "RetentionExtended", "Raise", &format!("topic {topic}: extended {keys}: {whose}")),
        Cause::StepDown => {
            event(EventType::Normal, "RetentionLowered", "Lower", &format!("topic {topic}: lowered {keys}, which weir had raised: {whose}"))
        }
    }
}

/// One event for each kind of loss, of whatever partitions.
fn of_gaps(topic: &str, it: &Assessment, policies: &[&Policy], gaps: &[Gap], told: &Told) -> Vec<Event> {
    let new: Vec<&Gap> = gaps.iter().filter(|gap| !told.gaps.iter().any(|known| known.begins_as(gap))).collect();
    let kinds: [(&str, fn(&&&Gap) -> bool); 2] =
        [("RecordsLost", |g| g.cause != GapCause::Skipped), ("RecordsSkipped", |g| g.cause == GapCause::Skipped)];
    let of = |(reason, is): (&'static str, fn(&&&Gap) -> bool)| {
        let of_kind: Vec<&&Gap> = new.iter().filter(is).collect();
        let first = of_kind.first()?;
        let more = match of_kind.len() - 1 {
            0 => String::new(),
            more => format!("; and {more} more ranges"),
        };
        Some(event(EventType::Warning, reason, "Observe", &format!("topic {topic}: {}{more}; {}", first.says(), whose(it, policies))))
    };
    kinds.into_iter().filter_map(of).collect()
}

/// Why the floor is what it is, whom to ask, and who reads.
fn whose(it: &Assessment, policies: &[&Policy]) -> String {
    let list = |what: &str, names: Vec<String>| if names.is_empty() { String::new() } else { format!("; {what} {}", names.join(", ")) };
    format!("{}{}{}", it.why(), list("owner", it.owners(policies)), list("read by", it.consumers(policies)))
}

pub fn event(type_: EventType, reason: &str, action: &str, note: &str) -> Event {
    Event { type_, reason: reason.to_owned(), note: Some(cut(note, NOTE_BYTES_MAX)), action: action.to_owned(), secondary: None }
}
