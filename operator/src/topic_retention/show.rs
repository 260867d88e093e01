//! Shows a turn: `TopicFloor`s, the policies' status, events. Writes only what is due.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _, runtime::events::Event};
use weir_crds::{TopicFloor, TopicRetentionPolicy, topic_floor::TopicFloorStatus, topic_retention_policy::TopicRetentionPolicyStatus};
use weir_floors::{Assessment, Policy, status::Shown};

use super::{
    Retention, Scene, drafts, events,
    governance::PolicyView,
    memory::{Memory, TopicMemory},
    status::{self, Due, NUMBERS_INTERVAL_MS, Stall},
    told,
    turn::{self, Turned},
    write::{self, WriteError},
};
use crate::text::qualified_name;

/// `TopicFloor`s written in one turn; the rest follows in the next ones, so that a thousand new topics do not hold up a
/// repair.
const FLOORS_PER_TURN_MAX: usize = 200;
/// Events of one turn after which findings are left to the next.
const FINDINGS_PER_TURN_MAX: usize = 50;
/// Writes at a time.
const WRITES: usize = 8;

/// Says everything that is due, however much of it fails; the first failure is the result.
pub async fn show(
    ctx: &Retention,
    scene: &Scene,
    memory: &mut Memory,
    turned: &BTreeMap<String, Turned>,
    now: Timestamp,
) -> Result<(), WriteError> {
    tell(ctx, memory, turned, now.as_millisecond()).await;
    tell_deletions(ctx, memory).await;
    drafts::make(ctx, scene, memory, turned, now).await;
    // Before the first look at the lags everything is unknown, which is no news.
    if !memory.looked {
        return Ok(());
    }
    let written = floors(ctx, scene, memory, turned, now.as_millisecond()).await;
    // Who asked for something within the look-back is not known before what was remembered has been read.
    let looked_ms = memory.governance.as_ref().map_or(0, |g| g.made_ms);
    let is_known = scene.cluster.spec.audit.is_none() || memory.keeping.histories.taken_up_ms().is_some_and(|at_ms| looked_ms > at_ms);
    let removed = if is_known { remove(ctx, scene, memory, turned, now.as_millisecond()).await } else { Ok(()) };
    let shown = policies(ctx, memory, turned, &scene.cluster.name_any(), now).await;
    let denied = denied(ctx, scene, memory).await;
    written.and(removed).and(shown).and(denied)
}

/// Events: a courtesy, status says the same.
async fn tell(ctx: &Retention, memory: &mut Memory, turned: &BTreeMap<String, Turned>, now_ms: i64) {
    let Memory { governance: Some(governance), topics, .. } = memory else { return };
    let mut published = 0;
    for (name, turned) in turned {
        let (Some(topic), Some(remembered)) = (governance.topics.get(name), topics.get_mut(name)) else { continue };
        let mut all = events::of_topic(name, &turned.assessment, &topic.policies, turned.tried.as_ref(), &mut remembered.told);
        if published < FINDINGS_PER_TURN_MAX {
            all.extend(told::of_findings(name, &turned.assessment, &topic.policies, &mut remembered.told, now_ms));
        }
        published += all.len();
        if let Some((outcome, event)) = told::of_verdict(name, &turned.assessment, &topic.policies, &mut remembered.told) {
            ctx.metrics.topics.judged(outcome);
            all.push(event);
        }
        if all.is_empty() {
            continue;
        }
        publish(ctx, name, &all, governance.policies.iter().filter(|view| view.topics.contains(name))).await;
    }
}

/// Of topics that were there before, and are not any more.
async fn tell_deletions(ctx: &Retention, memory: &mut Memory) {
    let Memory { governance: Some(governance), topics, .. } = memory else { return };
    let gone: BTreeSet<&String> = governance.policies.iter().flat_map(|view| &view.gone).collect();
    for name in gone {
        let Some(TopicMemory { history, told, .. }) = topics.get_mut(name) else { continue };
        let Some(event) = told::of_deletion(name, history, told) else { continue };
        publish(ctx, name, &[event], governance.policies.iter().filter(|view| view.gone.contains(name))).await;
    }
}

async fn publish(ctx: &Retention, topic: &str, events: &[Event], policies: impl Iterator<Item = &PolicyView>) {
    for object in policies.map(|view| view.object.object_ref(&())) {
        for event in events {
            tracing::info!(topic, reason = %event.reason, note = event.note.as_deref(), "event");
            if let Err(error) = ctx.recorder.publish(event, &object).await {
                tracing::warn!(%error, "an event cannot be published");
            }
        }
    }
}

/// What was there, and is not in the watch's cache long after it was last written, somebody has deleted: it is made again, since
/// without it nobody judges changes of the topic.
fn forget_deleted(topics: &mut BTreeMap<String, TopicMemory>, found: &BTreeMap<&str, Option<&TopicFloorStatus>>, now_ms: i64) {
    for (name, topic) in topics {
        let may_lag = topic.shown.as_ref().is_some_and(|(at_ms, _)| !status::has_passed(*at_ms, NUMBERS_INTERVAL_MS, now_ms));
        if topic.exists && !may_lag && !found.contains_key(name.as_str()) {
            (topic.exists, topic.shown) = (false, None);
        }
    }
}

async fn floors(
    ctx: &Retention,
    scene: &Scene,
    memory: &mut Memory,
    turned: &BTreeMap<String, Turned>,
    now_ms: i64,
) -> Result<(), WriteError> {
    let found: BTreeMap<&str, _> = scene.floors.iter().map(|f| (f.spec.topic.as_str(), f.status.as_ref())).collect();
    forget_deleted(&mut memory.topics, &found, now_ms);
    let mut due: Vec<(Due, &str, Shown, bool)> = Vec::new();
    for (name, turned) in turned.iter().filter(|(_, t)| t.assessment.rules.is_some()) {
        let Some(remembered @ TopicMemory { shown, exists, .. }) = memory.topics.get(name) else { continue };
        let policies: Vec<&Policy> = memory.governance.iter().filter_map(|g| g.topics.get(name)).flat_map(|t| &t.policies).collect();
        let standing = turned.assessment.shown_standing(name, remembered.last_config(), &policies);
        let new = Shown::of(&turned.assessment, standing);
        let found = if *exists { found.get(name.as_str()).copied().flatten() } else { None };
        if let Some(when) = status::floor_is_due(shown.as_ref(), found, &new, now_ms) {
            due.push((when, name, new, *exists));
        }
    }
    due.sort_by_key(|(when, ..)| *when);
    due.truncate(FLOORS_PER_TURN_MAX);
    let write = |(_, name, new, exists): (Due, &str, Shown, bool)| {
        let name = name.to_owned();
        async move {
            let written = write::floor(&ctx.client, &scene.cluster, &name, exists, &new.status).await;
            (name, new, written)
        }
    };
    let written: Vec<_> = stream::iter(due.into_iter().map(write)).buffer_unordered(WRITES).collect().await;
    let mut result = Ok(());
    for (name, new, written) in written {
        let Some(remembered) = memory.topics.get_mut(&name) else { continue };
        match written {
            Ok(true) => (remembered.exists, remembered.shown) = (true, Some((now_ms, new))),
            // Somebody deleted it: the next turn makes it again.
            Ok(false) => (remembered.exists, remembered.shown) = (false, None),
            Err(error) => result = result.and(Err(error)),
        }
    }
    result
}

/// Those of topics that weir may not describe, and of which this process knows nothing: their state is not what it was.
async fn denied(ctx: &Retention, scene: &Scene, memory: &Memory) -> Result<(), WriteError> {
    let Some(governance) = &memory.governance else { return Ok(()) };
    let is_denied = |topic: &str| governance.unknown.contains(topic) && governance.denied.contains(topic);
    let of_denied = scene.floors.iter().filter(|floor| is_denied(&floor.spec.topic) && !floor.is_left());
    let due = of_denied.filter_map(|floor| Some((&floor.spec.topic, status::denied(floor.status.as_ref()?)?)));
    let due: Vec<_> = due.take(FLOORS_PER_TURN_MAX).collect();
    for (topic, status) in due {
        // One that somebody has deleted stays away until the topic is seen: there is nothing to fill it with.
        write::floor(&ctx.client, &scene.cluster, topic, true, &status).await?;
    }
    Ok(())
}

/// Those of topics that are gone, or of which nobody asks for anything any more.
async fn remove(
    ctx: &Retention,
    scene: &Scene,
    memory: &mut Memory,
    turned: &BTreeMap<String, Turned>,
    now_ms: i64,
) -> Result<(), WriteError> {
    let Memory { governance: Some(governance), topics, .. } = memory else { return Ok(()) };
    for floor in &scene.floors {
        let topic = &floor.spec.topic;
        let is_governed = turned.get(topic).is_some_and(|t| t.assessment.rules.is_some());
        if is_governed || governance.unknown.contains(topic) && !floor.is_left() {
            continue;
        }
        if let Some(remembered) = topics.get_mut(topic) {
            // It may be made again, and what somebody has seen to is not told again.
            remembered.history.acknowledge(&turn::acknowledged(Some(floor)));
        }
        leave(ctx, scene, floor, governance.gone.contains(topic), now_ms).await?;
    }
    topics.retain(|name, _| turned.get(name).is_none_or(|t| t.assessment.rules.is_some()));
    Ok(())
}

/// Deletes a `TopicFloor`, or leaves in it what was lost, as long as nobody has seen to that.
async fn leave(ctx: &Retention, scene: &Scene, floor: &TopicFloor, is_gone: bool, now_ms: i64) -> Result<(), WriteError> {
    let found = floor.status.as_ref();
    match found.and_then(|found| status::left(found, &turn::acknowledged(Some(floor)), is_gone, now_ms)) {
        None => write::delete_floor(&ctx.client, floor).await,
        Some(left) if found == Some(&left) => Ok(()),
        Some(left) => write::floor(&ctx.client, &scene.cluster, &floor.spec.topic, true, &left).await.map(drop),
    }
}

/// Those that were left, in a cluster of which nobody asks for anything any more.
pub async fn let_go(ctx: &Retention, scene: &Scene, now: Timestamp) -> Result<(), WriteError> {
    for floor in &scene.floors {
        leave(ctx, scene, floor, false, now.as_millisecond()).await?;
    }
    Ok(())
}

async fn policies(
    ctx: &Retention,
    memory: &mut Memory,
    turned: &BTreeMap<String, Turned>,
    cluster: &str,
    now: Timestamp,
) -> Result<(), WriteError> {
    let Memory { governance: Some(governance), policies, .. } = memory else { return Ok(()) };
    let mut result = Ok(());
    for view in &governance.policies {
        let of_view = view.topics.iter().filter_map(|topic| turned.get_key_value(topic));
        let topics: Vec<(&str, &Assessment)> = of_view.map(|(topic, turned)| (topic.as_str(), &turned.assessment)).collect();
        let stall = status::stall(view, cluster);
        let new = |old: &TopicRetentionPolicyStatus| status::policy(&view.object, &topics, stall, old, now);
        result = result.and(write_policy(ctx, policies, &view.object, new, now).await);
    }
    let present: Vec<_> = governance.policies.iter().filter_map(|view| view.object.uid()).collect();
    policies.retain(|uid, _| present.contains(uid));
    result
}

/// Of policies whose cluster cannot be reached.
pub async fn blind(ctx: &Retention, scene: &Scene, memory: &mut Memory, stall: &Stall, now: Timestamp) -> Result<(), WriteError> {
    let mut result = Ok(());
    for policy in &scene.policies {
        let new = |old: &TopicRetentionPolicyStatus| status::blind(policy.metadata.generation, stall.clone(), old, now);
        result = result.and(write_policy(ctx, &mut memory.policies, policy, new, now).await);
    }
    result
}

/// Of a policy that no cluster's turn is about.
pub async fn orphan(ctx: &Retention, policy: &TopicRetentionPolicy, stall: Stall, now: Timestamp) -> Result<(), WriteError> {
    let new = |old: &TopicRetentionPolicyStatus| status::blind(policy.metadata.generation, stall, old, now);
    write_policy(ctx, &mut BTreeMap::new(), policy, new, now).await
}

/// Writes a policy's status where it is due; `new` is made of what it showed before.
async fn write_policy(
    ctx: &Retention,
    written: &mut BTreeMap<String, (i64, TopicRetentionPolicyStatus)>,
    policy: &TopicRetentionPolicy,
    new: impl FnOnce(&TopicRetentionPolicyStatus) -> TopicRetentionPolicyStatus,
    now: Timestamp,
) -> Result<(), WriteError> {
    let (uid, now_ms) = (policy.uid().unwrap_or_default(), now.as_millisecond());
    let before = match written.get(&uid) {
        Some((at_ms, status)) => Some((*at_ms, status)),
        None => policy.status.as_ref().map(|status| (0, status)),
    };
    let new = new(before.map_or(&TopicRetentionPolicyStatus::default(), |(_, status)| status));
    ctx.metrics.topics.note_policy(policy, &new);
    if status::policy_is_due(before, &new, now_ms) {
        write::policy(&ctx.client, policy, &new).await?;
        tracing::debug!(policy = qualified_name(policy), "status is written");
        written.insert(uid, (now_ms, new));
    }
    Ok(())
}
