//! Lowers retention: what weir itself raised, step by step. Nothing is lowered before the log says that it will be, and
//! what became of it stands in the log as well.

use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use weir_floors::wanted::{Cause, Change, Wanted};

use super::{
    Retention, apply,
    events::Tried,
    kafka::Kafka,
    keeping::{self, Keeping, Kept},
    memory::Memory,
    turn::{Seen, Turned},
};
use crate::{
    audit::{
        entry::{Became, Changed, Event, Outcome},
        log::INTENT_LASTS,
        objects::Objects,
    },
    metrics,
};

/// Topics that are lowered in one turn: the others follow in the next ones.
const PER_TURN_MAX: usize = 100;

/// The steps that are due.
fn due(turned: &BTreeMap<String, Turned>, seen: &BTreeMap<String, Seen>) -> BTreeMap<String, Change> {
    let step = |(name, turned): (&String, &Turned)| match &turned.assessment.wanted {
        Wanted::Now(change) if change.cause == Cause::StepDown && turned.tried.is_none() => Some((name.clone(), change.clone())),
        Wanted::Now(_) | Wanted::HeldBack { .. } | Wanted::Nothing(_) => None,
    };
    let is_fresh = |(name, _): &(String, Change)| seen.get(name).is_some_and(|s| s.observed.config_is_fresh);
    turned.iter().filter_map(step).filter(is_fresh).take(PER_TURN_MAX).collect()
}

pub async fn lower<K: Kafka, S: Objects>(
    ctx: &Retention,
    kafka: &K,
    kept: &Kept<'_, S>,
    memory: &mut Memory,
    seen: &BTreeMap<String, Seen>,
    turned: &mut BTreeMap<String, Turned>,
    now: Timestamp,
) {
    let (Some(store), true) = (kept.store(), memory.keeping.histories.are_loaded()) else { return };
    let changes = due(turned, seen);
    let Some(log) = memory.keeping.open_log().filter(|log| log.may_intend()) else { return };
    if changes.is_empty() {
        return;
    }
    let recorded = |(topic, change): (&String, &Change)| {
        let why = turned.get(topic).map(|t| t.assessment.why()).unwrap_or_default();
        Some(keeping::changed(log, topic, seen.get(topic)?, change, why))
    };
    let recorded: Vec<Changed> = changes.iter().filter_map(recorded).collect();
    let begun = Instant::now();
    match keeping::in_time(log.intend(store, now, recorded.clone())).await {
        Ok(true) => {}
        // Another replica has written: it is looked at again in the next turn.
        Ok(false) => return,
        Err(failure) => {
            tracing::warn!(failure, "nothing is lowered, since the intent cannot be written");
            return memory.keeping.failed(Some(failure));
        }
    }
    if begun.elapsed() > INTENT_LASTS {
        let outcomes = recorded.iter().map(|c| outcome(c, Became::NotDone, "writing the intent took too long")).collect();
        log.push(now, Event::LowerOutcome { outcomes });
    } else {
        // If we die here or before the outcome is written, the next leader finds out by the topics what was done.
        let answers = apply::alter(kafka, &changes).await;
        let outcomes = done(ctx, memory, turned, (&changes, &recorded), answers, now);
        if let Some(log) = memory.keeping.open_log().filter(|_| !outcomes.is_empty()) {
            log.push(now, Event::LowerOutcome { outcomes });
        }
    }
    flush(store, &mut memory.keeping).await;
}

fn outcome(changed: &Changed, became: Became, message: &str) -> Outcome {
    Outcome { operation: changed.operation, became, message: message.to_owned(), inferred: false }
}

async fn flush<S: Objects>(store: &S, keeping: &mut Keeping) {
    let Some(log) = keeping.open_log() else { return };
    let written = keeping::in_time(log.flush(store)).await;
    keeping.failed(written.err());
}

/// What was lowered. What got no answer, or was refused, is found out by the topic.
fn done(
    ctx: &Retention,
    memory: &mut Memory,
    turned: &mut BTreeMap<String, Turned>,
    (changes, recorded): (&BTreeMap<String, Change>, &[Changed]),
    mut answers: BTreeMap<String, Result<(), String>>,
    now: Timestamp,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for changed in recorded {
        let (Some(change), Some(turned), Some(topic)) =
            (changes.get(&changed.topic), turned.get_mut(&changed.topic), memory.topics.get_mut(&changed.topic))
        else {
            continue;
        };
        let failure = answers.remove(&changed.topic).unwrap_or_else(|| Err("no answer".to_owned())).err();
        let result = if failure.is_none() { metrics::Outcome::Success } else { metrics::Outcome::Error };
        ctx.metrics.topics.changed(change.cause, result);
        tracing::info!(topic = changed.topic, ?change, failure, "retention is lowered");
        if failure.is_none() {
            topic.applied(change, now.as_millisecond());
            outcomes.push(outcome(changed, Became::Done, ""));
        }
        turned.tried = Some(Tried { change: change.clone(), before: turned.assessment.clone(), failure });
    }
    outcomes
}
