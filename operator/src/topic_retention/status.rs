//! What policies show, and when what is shown has to be written. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use weir_crds::{
    TopicRetentionPolicy,
    conditions::{self, ConditionType, Wanted},
    contract::result::error_chain,
    topic_floor::{NOT_GOVERNED, TOPIC_DELETED, TopicFloorStatus},
    topic_loss::{LossStatus, RepairStatus, RepairVerdict},
    topic_retention_policy::TopicRetentionPolicyStatus,
};
use weir_floors::{
    Assessment, DAY_MS, State, spec,
    status::{Shown, summary},
};

use super::governance::PolicyView;

/// Between two writes of an object that says nothing new but numbers.
pub const NUMBERS_INTERVAL_MS: i64 = 60_000;
/// So long what was lost of a topic that is gone waits for somebody to see to it: as long as the longest look-back that a policy
/// may have, after which it would be forgotten of any other topic as well.
const LEFT_MAX_MS: i64 = 90 * DAY_MS;

/// Whether so much time has passed since then. A time that is still to come is not waited for: the clock was put back.
pub fn has_passed(since_ms: i64, interval_ms: i64, now_ms: i64) -> bool {
    !(0..interval_ms).contains(&now_ms.saturating_sub(since_ms))
}

/// Why a policy does not do what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    pub reason: &'static str,
    pub message: String,
}

impl Stall {
    pub fn unreachable(error: &dyn std::error::Error) -> Self {
        Self { reason: "ClusterUnreachable", message: error_chain(error) }
    }
}

/// Of a policy as it stands beside the topics and the grants; `None`: nothing is in its way.
pub fn stall(view: &PolicyView, cluster: &str) -> Option<Stall> {
    let namespace = view.object.metadata.namespace.as_deref().unwrap_or_default();
    let stall = |reason, message| Some(Stall { reason, message });
    if let Some(error) = &view.error {
        return stall("InvalidSpec", error.clone());
    }
    if let [first, more @ ..] = &view.denied[..] {
        let remedy = "grant that, or leave what is no longer there out by spec.topics";
        let whose = "weir's user lacks Describe on topic";
        return stall("DescribeDenied", format!("KafkaCluster {cluster}: {whose} {first}{}; {remedy}", and_more(more)));
    }
    if let [first, more @ ..] = &view.not_granted[..] {
        let (more, remedy) = (and_more(more), "grant it Govern, or leave the topic out by spec.topics.exclude");
        return stall(
            "GrantMissing",
            format!("KafkaCluster {cluster} grants namespace {namespace} nothing on topic {first}{more}; {remedy}"),
        );
    }
    if view.topics.is_empty() {
        return stall("NoTopic", format!("spec.topics: no topic of KafkaCluster {cluster} matches; correct it, or create the topic"));
    }
    let is_named = |topic: &&String| view.object.spec.topics.names.contains(topic);
    match &view.gone.iter().filter(is_named).cloned().collect::<Vec<_>>()[..] {
        [] => None,
        [first, more @ ..] => {
            let more = and_more(more);
            stall(
                "TopicMissing",
                format!("spec.topics.names: KafkaCluster {cluster} has no topic {first}{more}; correct it, or create the topic"),
            )
        }
    }
}

fn and_more(topics: &[String]) -> String {
    if topics.is_empty() { String::new() } else { format!(" and {} more topics", topics.len()) }
}

/// Of a topic that the brokers do not let weir describe, and that this process has never seen: what an earlier one found out
/// stands, and changes are judged by it. `None`: it is said already.
pub fn denied(found: &TopicFloorStatus) -> Option<TopicFloorStatus> {
    let unknown = || "Unknown".to_owned();
    let new = TopicFloorStatus {
        state: State::Unknown.as_str().to_owned(),
        retention: unknown(),
        why: "weir's user lacks Describe on the topic: nothing is known of it now".to_owned(),
        behind: found.behind.as_ref().map(|_| unknown()),
        headroom: unknown(),
        time_to_loss: unknown(),
        ..found.clone()
    };
    (new != *found).then_some(new)
}

/// What stays of a `TopicFloor` whose topic is gone, or of which nobody asks for anything any more: what was lost, until somebody
/// has seen to it. Nothing that changes are judged by, or that another topic of that name could be taken for. `None`: it goes.
pub fn left(found: &TopicFloorStatus, acknowledged: &[&str], is_gone: bool, now_ms: i64) -> Option<TopicFloorStatus> {
    let seen_to = |before: bool, id: &String| before || acknowledged.contains(&id.as_str());
    let is_recent = |at: &Time| now_ms.saturating_sub(at.0.as_millisecond()) < LEFT_MAX_MS;
    let loss = |loss: LossStatus| LossStatus { acknowledged: seen_to(loss.acknowledged, &loss.id), ..loss };
    let losses: Vec<LossStatus> = found.losses.iter().cloned().map(loss).collect();
    let repair = found.repair.clone().map(|it| RepairStatus { acknowledged: seen_to(it.acknowledged, &it.id), ..it });
    let has_lost = |it: &RepairStatus| it.verdict == RepairVerdict::Lost && !it.acknowledged && is_recent(&it.at);
    let is_open = losses.iter().any(|loss| !loss.acknowledged && is_recent(&loss.grown_at)) || repair.as_ref().is_some_and(has_lost);
    let (state, why) = if is_gone || found.state == TOPIC_DELETED {
        (TOPIC_DELETED, "the topic was deleted")
    } else {
        (NOT_GOVERNED, "no policy asks for anything of the topic any more")
    };
    let unknown = || "Unknown".to_owned();
    is_open.then(|| TopicFloorStatus {
        state: state.to_owned(),
        retention: unknown(),
        why: format!("{why}; what was lost of it is shown until it is acknowledged"),
        headroom: unknown(),
        time_to_loss: unknown(),
        repair,
        losses,
        ..TopicFloorStatus::default()
    })
}

/// Of a policy whose topics are assessed. `old`: what it showed before.
pub fn policy(
    policy: &TopicRetentionPolicy,
    topics: &[(&str, &Assessment)],
    stall: Option<Stall>,
    old: &TopicRetentionPolicyStatus,
    now: Timestamp,
) -> TopicRetentionPolicyStatus {
    let generation = policy.metadata.generation;
    let (counts, worst) = summary(topics.iter().copied());
    let mut wanted = weir_floors::conditions::conditions(topics, &spec::owners(&policy.spec));
    wanted.push(stalled(stall));
    TopicRetentionPolicyStatus {
        observed_generation: generation,
        topics: Some(counts),
        worst,
        conditions: conditions::merge(&old.conditions, wanted, generation, now),
    }
}

/// Of a policy whose topics cannot be looked at: what it showed stays, and it says why it is old.
pub fn blind(generation: Option<i64>, stall: Stall, old: &TopicRetentionPolicyStatus, now: Timestamp) -> TopicRetentionPolicyStatus {
    let mut conditions: Vec<Condition> = old.conditions.iter().filter(|c| c.type_ != ConditionType::Stalled.as_str()).cloned().collect();
    conditions.extend(conditions::merge(&old.conditions, vec![stalled(Some(stall))], generation, now));
    TopicRetentionPolicyStatus { conditions, ..old.clone() }
}

fn stalled(stall: Option<Stall>) -> Wanted {
    let (status, reason, message) = match stall {
        Some(Stall { reason, message }) => (true, reason, message),
        None => (false, "Watching", String::new()),
    };
    Wanted { kind: ConditionType::Stalled, status: Some(status), reason: reason.to_owned(), message }
}

/// Whether a policy's status has to be written now; a text that moved with the numbers in it can wait for a while.
pub fn policy_is_due(old: Option<(i64, &TopicRetentionPolicyStatus)>, new: &TopicRetentionPolicyStatus, now_ms: i64) -> bool {
    let Some((at_ms, old)) = old else { return true };
    let conditions = |s: &TopicRetentionPolicyStatus| -> Vec<[String; 3]> {
        s.conditions.iter().map(|c| [c.type_.clone(), c.status.clone(), c.reason.clone()]).collect()
    };
    let messages = |s: &TopicRetentionPolicyStatus| s.conditions.iter().map(|c| c.message.clone()).collect::<Vec<_>>();
    let worst = |s: &TopicRetentionPolicyStatus| s.worst.iter().map(|w| (w.topic.clone(), w.state.clone())).collect::<Vec<_>>();
    if conditions(old) != conditions(new) || old.observed_generation != new.observed_generation {
        return true;
    }
    let is_news = old.topics != new.topics || worst(old) != worst(new) || messages(old) != messages(new);
    is_news && has_passed(at_ms, NUMBERS_INTERVAL_MS, now_ms)
}

/// Whether a `TopicFloor` has to be written: at once, in its time, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    AtOnce,
    InTime,
}

/// `shown`: what was last written, and when; `found`: what it said when this process began.
pub fn floor_is_due(shown: Option<&(i64, Shown)>, found: Option<&TopicFloorStatus>, new: &Shown, now_ms: i64) -> Option<Due> {
    match (shown, found) {
        (Some((_, before)), _) if new.is_another_state(&before.status) => Some(Due::AtOnce),
        (Some((at_ms, before)), _) => (new.is_news(before) && has_passed(*at_ms, NUMBERS_INTERVAL_MS, now_ms)).then_some(Due::InTime),
        (None, Some(found)) if found.state == new.status.state => (*found != new.status).then_some(Due::InTime),
        (None, _) => Some(Due::AtOnce),
    }
}
