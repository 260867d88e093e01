//! One turn: observe, plan, apply, show; raising comes before everything that the audit store may hold up. Whatever cannot be seen is left as it is, and said.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, future::FusedFuture as _};
use jiff::Timestamp;
use kube::ResourceExt as _;
use weir_crds::{TopicFloor, contract::result::error_chain, topic_loss::ACKNOWLEDGED_ANNOTATION};
use weir_floors::{
    Assessment,
    observed::Observed,
    policy::Hold,
    wanted::{Cause, Change},
};

use super::{
    Retention, Scene, apply,
    events::Tried,
    exceptions,
    governance::{self, Governance},
    holds,
    kafka::Kafka,
    keeping::{self, Kept, Recording},
    lower,
    memory::{self, Memory, TopicMemory},
    observe::{self, Lags, Look},
    plan, series, show,
    status::{Stall, has_passed},
    write::WriteError,
};
use crate::{audit::objects::Objects, metrics::Outcome};

/// Between the beginnings of two looks at topics, offsets and groups.
pub const LOOK_INTERVAL_MS: i64 = 30_000;
/// So long a raise waits until it is noted for whoever leads after a crash. After that it is done all the same.
const NOTED_FIRST: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    #[error("the cluster's topics cannot be looked at")]
    Look(#[source] weir_kafka::AdminError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A topic before anything is decided.
pub struct Seen {
    /// By a configuration that is not of this turn nothing is changed: somebody may have raised it since.
    pub observed: Observed,
    pub holds: Vec<Hold>,
}

/// A topic after a turn.
pub struct Turned {
    pub assessment: Assessment,
    pub tried: Option<Tried>,
}

pub async fn turn<K: Kafka, S: Objects>(
    ctx: &Retention,
    kafka: &Arc<K>,
    kept: &Kept<'_, S>,
    scene: &Scene,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<(), TurnError> {
    let now_ms = now.as_millisecond();
    if let Some(error) = memory.take_look() {
        tracing::warn!(error = error_chain(&error), "offsets and groups cannot be looked at");
    }
    forget_future(memory, now_ms);
    keeping::recall(ctx, kept, scene, memory, now).await;
    if let Err(error) = look(ctx, kafka, scene, memory, now_ms).await {
        if memory.governance.is_none() {
            show::blind(ctx, scene, memory, &Stall::unreachable(&error), now).await?;
            return Err(TurnError::Look(error));
        }
        // What was known of the topics serves on; their configurations are asked for all the same.
        tracing::warn!(error = error_chain(&error), "topics cannot be looked at");
    }
    let seen = observe(&**kafka, scene, memory, now_ms).await;
    let is_seen = memory.governance.as_ref().is_some_and(|governance| is_seen(governance, &seen));
    keeping::settle(memory, &seen, now);
    let mut turned = raise(ctx, &**kafka, kept, scene, memory, &seen, now).await;
    // Not before: an API server that does not answer holds up no repair.
    memory.owners.look(&ctx.client, &scene.cluster, now_ms).await;
    let told = exceptions::tell(ctx, scene, memory, now).await;
    keeping::keep(ctx, kept, scene, memory, now).await;
    lower::lower(ctx, &**kafka, kept, memory, &seen, &mut turned, now).await;
    let all = turned.iter().map(|(topic, t)| (topic.as_str(), &t.assessment));
    ctx.metrics.topics.note_findings(&scene.cluster, series::of_cluster(&scene.cluster.name_any(), all, memory.governance.as_ref()));
    ctx.metrics.topics.note(&scene.cluster, turned.iter().map(|(topic, t)| (topic.as_str(), &t.assessment)), is_seen);
    ctx.metrics.topics.note_audit(&scene.cluster, &memory.keeping);
    let kept = keeping::show(ctx, kept, scene, memory, now).await;
    let shown = show::show(ctx, scene, memory, &turned, now).await;
    Ok(shown.and(kept).and(told)?)
}

/// A look that was asked for at a time that is still to come was asked for before the clock was put back: nobody knows how old
/// it is. There is another one at once; until that has ended nothing is shown, as when a process begins.
fn forget_future(memory: &mut Memory, now_ms: i64) {
    if memory.lags.asked_ms <= now_ms {
        return;
    }
    tracing::warn!("the clock was put back: topics, offsets and groups are looked at anew");
    (memory.lags, memory.looked) = (Lags::default(), false);
    if let Some(governance) = &mut memory.governance {
        governance.made_ms = 0;
    }
}

/// Whether the cluster answered, and lets weir look at all that is governed.
fn is_seen(governance: &Governance, seen: &BTreeMap<String, Seen>) -> bool {
    let answered = if seen.is_empty() { governance.unknown.is_empty() } else { seen.values().any(|topic| topic.observed.config_is_fresh) };
    governance.denied.is_empty() && answered
}

/// Topics first, then, beside the turns, their offsets: so that both are about the same incarnations of topics.
async fn look<K: Kafka>(
    ctx: &Retention,
    kafka: &Arc<K>,
    scene: &Scene,
    memory: &mut Memory,
    now_ms: i64,
) -> Result<(), weir_kafka::AdminError> {
    let made_of = governance::made_of(&scene.cluster, &scene.policies);
    // Where the clock was put back since, waiting for that time would mean a look in each turn.
    let remembered_ms = memory.keeping.histories.taken_up_ms().filter(|at_ms| *at_ms <= now_ms).unwrap_or(i64::MIN);
    let is_fresh = |g: &Governance| {
        let is_recent = !has_passed(g.made_ms, LOOK_INTERVAL_MS, now_ms);
        g.is_of(&made_of) && g.made_ms > remembered_ms && is_recent
    };
    let fresh = memory.governance.as_ref().is_some_and(is_fresh);
    if fresh {
        return Ok(());
    }
    let (lives_on, before) = (memory.lives_on(), memory.governance.as_ref());
    let changes = before.map_or(0, |b| b.changes(&made_of));
    let shown: BTreeSet<String> = scene.floors.iter().filter(|floor| !floor.is_left()).map(|floor| floor.spec.topic.clone()).collect();
    let found = Governance::look(&**kafka, &scene.cluster, &scene.policies, &lives_on, &shown, before, now_ms).await?;
    if memory.looking.is_empty() {
        let topics = found.described();
        let expected = memory.expected_groups(&topics);
        let look = Look { topics, reads: memory.reads(), expected, before: memory.lags.clone(), now_ms };
        let kafka = Arc::clone(kafka);
        memory.looking.spawn(async move { observe::lags(&*kafka, look).await });
    }
    memory.governance = Some(found);
    ctx.metrics.topics.policies_changed(changes);
    Ok(())
}

async fn observe<K: Kafka>(kafka: &K, scene: &Scene, memory: &mut Memory, now_ms: i64) -> BTreeMap<String, Seen> {
    let Memory { governance: Some(governance), topics: remembered, lags, .. } = memory else { return BTreeMap::new() };
    memory::retain(remembered, |topic| governance.topics.contains_key(topic), now_ms);
    let names: BTreeSet<String> = governance.topics.keys().cloned().collect();
    if names.is_empty() {
        return BTreeMap::new();
    }
    let mut configs = observe::configs(kafka, names).await.unwrap_or_else(|error| {
        tracing::warn!(error = error_chain(&error), "the topics' configurations cannot be read");
        BTreeMap::new()
    });
    let floors: BTreeMap<&str, &TopicFloor> = scene.floors.iter().map(|f| (f.spec.topic.as_str(), &**f)).collect();
    let mut holds = holds::of_jobs(&scene.jobs, &scene.cluster.name_any(), now_ms);
    let max_used_percent = scene.cluster.spec.storage.as_ref().map_or(100, |storage| storage.max_used_percent);
    let mut seen = BTreeMap::new();
    for (name, topic) in &governance.topics {
        let begin = || TopicMemory::begin(&topic.description.id, floors.get(name.as_str()).copied());
        let memory = remembered.entry(name.clone()).or_insert_with(begin);
        let found = configs.remove(name).filter(|config| !memory.is_from_before(config, now_ms));
        let is_fresh = found.is_some();
        memory.history.acknowledge(&acknowledged(floors.get(name.as_str()).copied()));
        let (config, expected) = (memory.config(found, now_ms), memory.history.expected_groups());
        let observed = observe::observed(name, topic, config, is_fresh, &expected, lags, max_used_percent);
        seen.insert(name.clone(), Seen { observed, holds: holds.remove(name).unwrap_or_default() });
    }
    seen
}

/// The losses and verdicts that somebody has seen to.
pub fn acknowledged(floor: Option<&TopicFloor>) -> Vec<&str> {
    let ids = floor.and_then(|f| f.annotations().get(ACKNOWLEDGED_ANNOTATION));
    ids.map_or_else(Vec::new, |ids| ids.split(',').map(str::trim).collect())
}

/// Assesses all topics, raises what is below its floor, and assesses that once more as it is then.
async fn raise<K: Kafka, S: Objects>(
    ctx: &Retention,
    kafka: &K,
    kept: &Kept<'_, S>,
    scene: &Scene,
    memory: &mut Memory,
    seen: &BTreeMap<String, Seen>,
    now: Timestamp,
) -> BTreeMap<String, Turned> {
    let now_ms = now.as_millisecond();
    let exceptions = exceptions::by_topic(scene, now);
    let exceptions = |topic: &str| exceptions.get(topic).map_or(&[][..], Vec::as_slice);
    let Memory { governance: Some(governance), topics, owners, keeping, .. } = memory else { return BTreeMap::new() };
    let policies = |topic: &str| governance.topics.get(topic).map_or(&[][..], |t| &t.policies);
    let mut turned = BTreeMap::new();
    let mut changes: BTreeMap<String, Change> = BTreeMap::new();
    for (name, seen) in seen {
        let Some(remembered) = topics.get_mut(name) else { continue };
        let assessment = plan::assess(remembered, &seen.observed, policies(name), &seen.holds, exceptions(name), now_ms);
        let may_raise = seen.observed.config_is_fresh && (owners.of(name).is_none() || remembered.fight.may_raise(now_ms));
        if let Some(change) = plan::raise(&assessment).filter(|_| may_raise) {
            changes.insert(name.clone(), change.clone());
        }
        turned.insert(name.clone(), Turned { assessment, tried: None });
    }
    let mut recording = Recording::begin(keeping, seen, &turned, &changes, now);
    let mut answers = {
        let mut note = std::pin::pin!(recording.note(kept).fuse());
        _ = tokio::time::timeout(NOTED_FIRST, &mut note).await;
        let rest = async {
            if !note.is_terminated() {
                note.await;
            }
        };
        futures::join!(apply::alter(kafka, &changes), rest).0
    };
    for (name, change) in changes {
        let (Some(remembered), Some(seen), Some(turned)) = (topics.get_mut(&name), seen.get(&name), turned.get_mut(&name)) else {
            continue;
        };
        let failure = answers.remove(&name).unwrap_or_else(|| Err("no answer".to_owned())).err();
        let outcome = if failure.is_none() { Outcome::Success } else { Outcome::Error };
        ctx.metrics.topics.changed(change.cause, outcome);
        tracing::info!(topic = name, ?change, failure, "retention is raised");
        let before = turned.assessment.clone();
        if failure.is_none() {
            // If this process dies here, the next leader finds the raise in what was noted, and the topic as it should be.
            remembered.applied(&change, now_ms);
            if change.cause == Cause::Restore {
                remembered.fight.raised(now_ms);
            }
            let after = plan::after(seen.observed.clone(), &change);
            turned.assessment = plan::assess(remembered, &after, policies(&name), &seen.holds, exceptions(&name), now_ms);
            _ = remembered.config(after.config, now_ms);
            recording.done(&name);
        }
        turned.tried = Some(Tried { change, before, failure });
    }
    recording.end(keeping, now);
    for (name, turned) in &mut turned {
        if let Some(remembered) = topics.get_mut(name) {
            let conflict = owners.of(name).and_then(|owner| owner.conflict(&turned.assessment, &remembered.fight));
            turned.assessment.findings.extend(conflict);
            remembered.reads.clone_from(&turned.assessment.reads);
        }
    }
    turned
}
