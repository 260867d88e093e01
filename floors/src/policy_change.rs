//! Whether somebody's change of a policy may pass: one that lets a topic's floor fall below what its consumers need may not.
//!
//! What a consumer needs is as long as it was behind at worst within the look-back: with less it would have lost records.
//! Deleting a policy, taking a topic out of it or a group passes: the floor lives on for the look-back.

use weir_crds::topic_floor::{ConsumerStanding, TopicStanding};

use crate::{
    HOUR_MS, Retention,
    judge::Verdict,
    peaks::Peak,
    policy::{Authority, Policy, round_up_ms},
    retention::share_ms,
    standing::peak,
    text,
};

/// A topic that the old policy governs.
#[derive(Clone, Copy, Debug)]
pub struct Governed<'a> {
    pub topic: &'a str,
    /// What its `TopicFloor` carries; `None`: nothing yet.
    pub standing: Option<&'a TopicStanding>,
    /// What the grants let the policy's namespace do.
    pub authority: Authority,
    /// Other policies that govern it, as they stand for it.
    pub others: &'a [Policy],
}

/// Judges the change of a policy for one topic.
pub fn judge_policy(old: &Policy, new: &Policy, governed: &Governed<'_>, now_ms: i64) -> Verdict {
    let Governed { topic, authority, .. } = *governed;
    let (old, new) = (old.with_authority(authority), new.with_authority(authority));
    if !old.governs() {
        return Verdict::Pass;
    }
    if !new.matches(&old.cluster, topic) {
        return warn(format!("topic {topic} is not governed by this policy any more: its floor lives on for the look-back"), governed);
    }
    let left = left_out(&old, &new, governed);
    if let Some(message) = too_low(&old, &new, governed, now_ms) {
        return Verdict::Refuse { message };
    }
    if new.mode < old.mode {
        return warn(format!("topic {topic}: with mode {:?} changes below its floor are not refused any more", new.mode), governed);
    }
    match left.as_slice() {
        [] => Verdict::Pass,
        groups => warn(format!("topic {topic}: {} does not count any more", groups.join(", ")), governed),
    }
}

fn too_low(old: &Policy, new: &Policy, governed: &Governed<'_>, now_ms: i64) -> Option<String> {
    let asks = |policy: &Policy| asks(policy, governed, now_ms);
    let (before, after) = (asks(old), asks(new));
    if after >= before {
        return None;
    }
    let floor = governed.others.iter().filter(|p| p.governs()).map(asks).fold(after, Retention::max);
    let topic = governed.topic;
    let Some(standing) = governed.standing else {
        return Some(format!(
            "spec.floor lets the floor of topic {topic} fall from {} to {}, and weir has not looked at its consumers yet; change it \
             when its TopicFloor is there",
            text::retention(before),
            text::retention(floor)
        ));
    };
    let needs = |consumer: &&ConsumerStanding| {
        let peak = consumer.peak.map(peak);
        counts(new, &consumer.group) && peak.is_none_or(|p| Retention::Millis(p.value) > floor)
    };
    let consumer = standing.consumers.iter().filter(needs).max_by_key(|c| c.peak.map_or(i64::MAX, |p| p.behind_ms))?;
    let group = &consumer.group;
    let (behind, remedy) = match consumer.peak.map(peak) {
        Some(Peak { hour_ms, value }) => (
            format!("was {} behind on {}", text::rough(value), text::day(hour_ms)),
            format!("keep at least {}, or wait until that is longer ago than the look-back", text::exact(round_up_ms(value))),
        ),
        None => ("is behind by nobody knows how much".to_owned(), "wait until that is known".to_owned()),
    };
    Some(format!(
        "spec.floor lets the floor of topic {topic} fall from {} to {}, below what its consumers need: group {group} {behind}; owner {}; \
         {remedy}, or put the group into spec.consumerGroups.exclude if it may lose records",
        text::retention(before),
        text::retention(floor),
        owners(standing)
    ))
}

/// What a policy asks for, as far as it is known from what the topic's floor carries.
fn asks(policy: &Policy, governed: &Governed<'_>, now_ms: i64) -> Retention {
    let consumers = governed.standing.map_or(&[][..], |s| &s.consumers);
    // An hour longer, as peaks are kept by the hour.
    let since_ms = now_ms.saturating_sub(policy.floor.look_back_ms).saturating_sub(HOUR_MS);
    let peaks = consumers.iter().filter(|c| counts(policy, &c.group)).filter_map(|c| c.peak.map(peak));
    let worst_ms = peaks.filter(|p| p.hour_ms > since_ms).map(|p| p.value).max().unwrap_or(0);
    let lag_ms = round_up_ms(share_ms(worst_ms, policy.floor.lag_multiplier_percent));
    let ms = policy.floor.minimum_ms.max(policy.floor.downtime_allowance_ms).max(lag_ms);
    Retention::Millis(ms).min(policy.maximum())
}

fn counts(policy: &Policy, group: &str) -> bool {
    policy.groups.required.contains(group) || !policy.groups.exclude.iter().any(|e| e.is_match(group))
}

/// Groups that counted, and do not any more.
fn left_out(old: &Policy, new: &Policy, governed: &Governed<'_>) -> Vec<String> {
    let consumers = governed.standing.map_or(&[][..], |s| &s.consumers);
    consumers.iter().map(|c| &c.group).filter(|g| counts(old, g) && !counts(new, g)).cloned().collect()
}

fn owners(standing: &TopicStanding) -> String {
    if standing.owners.is_empty() { "unknown".to_owned() } else { standing.owners.join(", ") }
}

fn warn(said: String, governed: &Governed<'_>) -> Verdict {
    let readers: Vec<&str> = governed.standing.map_or(&[][..], |s| &s.consumers).iter().map(|c| c.group.as_str()).collect();
    let readers = if readers.is_empty() { "nobody that is known".to_owned() } else { readers.join(", ") };
    let owner = governed.standing.map_or_else(|| "unknown".to_owned(), owners);
    Verdict::PassWithWarning { message: format!("{said}; it is read by {readers}; owner {owner}") }
}
