//! What holds the records of a job's targets while it runs. Pure. Retention floors do the holding; this says whether they do,
//! and lets planning wait for it: a plan refuses a topic that would not keep what is published.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use weir_crds::{
    RENEW_HOLD_ANNOTATION, TopicFloor,
    backfill_job::{HeldTopic, Phase, RunHolds},
    conditions::{ConditionType, Wanted},
    duration::KubeDuration,
};
use weir_floors::{HOUR_MS, policy::Hold, text};

use super::{observed::Observed, phase::is_over};
use crate::topic_retention::holds;

/// A turn of the retention floors takes seconds. Where nothing is raised by then, as in `Audit`, planning goes on, and says
/// itself whether the topic keeps its records for long enough.
const WAITS: SignedDuration = SignedDuration::from_secs(60);
/// Needs grow with the clock, in steps; a topic that was raised a moment ago has a day to spare.
const SLACK_MS: i64 = HOUR_MS;

/// How it stands with one target topic.
enum Standing<'a> {
    NotGoverned,
    Held { until: Timestamp },
    Ended,
    NotYet { floor: &'a TopicFloor },
}

/// As the run was begun, where it was; otherwise as the spec says.
fn held(seen: &Observed) -> RunHolds {
    let begun = seen.ledger().and_then(|view| view.run.as_ref()).map(|run| holds::needed(&run.spec.window, &run.spec.sinks));
    let shown = || seen.job.status.as_ref()?.run.as_ref().filter(|run| run.generation == seen.generation())?.holds.clone();
    begun.or_else(shown).unwrap_or_else(|| holds::needed(&seen.job.spec.window, &seen.job.spec.sinks))
}

fn of<'a>(seen: &'a Observed, held: &RunHolds, topic: &HeldTopic, now: Timestamp) -> Standing<'a> {
    let Some(floor) = floor(seen, topic) else { return Standing::NotGoverned };
    let job = format!("{}/{}", seen.namespace(), seen.name());
    let status = floor.status.as_ref();
    let hold = status.and_then(|s| s.holds.iter().find(|h| h.job == job));
    let now_ms = now.as_millisecond();
    match hold {
        Some(hold) if keeps_ms(floor) >= needed_ms(held, now) - SLACK_MS => Standing::Held { until: hold.until.0 },
        None if holds::renewed_ms(&seen.job, now_ms).is_some_and(|ms| ms.saturating_add(Hold::LASTS_MS) <= now_ms) => Standing::Ended,
        Some(_) | None => Standing::NotYet { floor },
    }
}

fn floor<'a>(seen: &'a Observed, topic: &HeldTopic) -> Option<&'a TopicFloor> {
    let is = |f: &&std::sync::Arc<TopicFloor>| f.spec.topic == topic.topic && f.spec.cluster_ref.name == topic.cluster && !f.is_left();
    seen.floors.iter().find(is).map(|f| &**f)
}

fn needed_ms(held: &RunHolds, now: Timestamp) -> i64 {
    Hold::needed_ms(held.window_start.0.as_millisecond(), now.as_millisecond())
}

/// What a topic keeps now; 0: not known.
fn keeps_ms(floor: &TopicFloor) -> i64 {
    match floor.status.as_ref().map(|s| s.retention.as_str()) {
        Some("Unlimited") => i64::MAX,
        Some(length) => length_ms(length).unwrap_or(0),
        None => 0,
    }
}

fn length_ms(text: &str) -> Option<i64> {
    text.parse::<KubeDuration>().ok().and_then(|length| i64::try_from(length.as_std().as_millis()).ok())
}

/// Before a run begins: a hold that the policies' maximum does not let stand is refused.
pub fn beyond_maximum(seen: &Observed, now: Timestamp) -> Option<String> {
    let held = held(seen);
    let needed_ms = needed_ms(&held, now);
    held.topics.iter().find_map(|held| {
        let maximum = floor(seen, held)?.status.as_ref()?.maximum.as_ref()?;
        (length_ms(maximum)? < needed_ms).then(|| {
            format!(
                "spec.window.start: topic {} would have to keep its records for {} while this runs, and the maximum of its policies is {maximum}; \
                 raise floor.maximum and the grant's maxFloor, publish to a side topic, or set timestamps: ReplayTime",
                held.topic,
                text::exact(needed_ms)
            )
        })
    })
}

/// Before planning: what is waited for, and not for long.
pub fn awaited(seen: &Observed, now: Timestamp) -> Option<String> {
    let begun = seen.job.status.as_ref().and_then(|s| s.run.as_ref()).and_then(|r| r.started_at.as_ref());
    if begun.is_some_and(|at| now.duration_since(at.0) >= WAITS) {
        return None;
    }
    let held = held(seen);
    held.topics.iter().find_map(|topic| match of(seen, &held, topic, now) {
        Standing::NotYet { floor } => Some(not_yet(&held, floor, now)),
        Standing::NotGoverned | Standing::Held { .. } | Standing::Ended => None,
    })
}

fn not_yet(held: &RunHolds, floor: &TopicFloor, now: Timestamp) -> String {
    let retention = floor.status.as_ref().map_or("Unknown", |s| &s.retention);
    format!("topic {} keeps its records for {retention}, and {} is needed", floor.spec.topic, text::exact(needed_ms(held, now)))
}

/// The condition `RetentionHeld`; the first topic that is not held is told of.
pub fn condition(seen: &Observed, phase: Phase, now: Timestamp) -> Wanted {
    let wanted = |status: bool, reason: &str, message: String| Wanted {
        kind: ConditionType::RetentionHeld,
        status: Some(status),
        reason: reason.to_owned(),
        message,
    };
    let shown = seen.job.status.as_ref().is_some_and(|s| s.run.is_some());
    let begun = seen.ledger().map_or(shown, |view| view.run.is_some());
    if !begun || is_over(phase) {
        return wanted(false, "NotRunning", "topics are held from planning on until the run is over".to_owned());
    }
    let held = held(seen);
    let mut first_to_end: Option<(Timestamp, &str)> = None;
    for it in &held.topics {
        let topic = &it.topic;
        match of(seen, &held, it, now) {
            Standing::Held { until } => first_to_end = Some(first_to_end.unwrap_or((until, topic)).min((until, topic))),
            Standing::NotGoverned => {
                return wanted(
                    false,
                    "NotGoverned",
                    format!("no policy governs topic {topic}: nobody keeps others from lowering its retention"),
                );
            }
            Standing::NotYet { floor } => return wanted(false, "NotHeldYet", not_yet(&held, floor, now)),
            Standing::Ended => {
                let message = format!(
                    "the hold on topic {topic} has ended after 72h; renew it: kubectl annotate --overwrite backfilljob {} --namespace {} {RENEW_HOLD_ANNOTATION}=$(date -u +%FT%TZ)",
                    seen.job.name_any(),
                    seen.namespace()
                );
                return wanted(false, "HoldEnded", message);
            }
        }
    }
    match first_to_end {
        Some((until, topic)) => {
            wanted(true, "Held", format!("topic {topic} keeps its records until the run is over, at the latest until {until}"))
        }
        None => wanted(false, "NotNeeded", "no sink keeps event times".to_owned()),
    }
}
