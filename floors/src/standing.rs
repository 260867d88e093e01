//! What a topic's changes are judged by, as a `TopicFloor` carries it from the controller to admission.

use std::collections::BTreeMap;

use weir_crds::{
    topic_floor::{ConsumerStanding, PeakStanding, Protected, TopicFloorStatus, TopicStanding},
    topic_retention_policy::EnforcementMode,
};

use crate::{
    Assessment, Retention,
    assess::GroupLag,
    config::{CLEANUP_POLICY, Overrides, RETENTION_BYTES, RETENTION_MS, Source, TopicConfig},
    judge::{GUARDED, Standing},
    peaks::Peak,
    policy::{Mode, Policy, Protect},
    spec,
};

/// A `TopicFloor` names so many owners and groups; a topic with more names those that are furthest behind.
const OWNERS_MAX: usize = 16;
const CONSUMERS_MAX: usize = 64;
const TABLES_MAX: usize = 32;

impl Assessment {
    /// What a `TopicFloor` carries; `None`: nobody asks for anything.
    pub fn shown_standing(&self, topic: &str, config: Option<&TopicConfig>, policies: &[&Policy]) -> Option<TopicStanding> {
        let it = self.standing(topic, config, policies)?;
        let guarded = |key: &String| GUARDED.contains(&key.as_str());
        let own = config.into_iter().flatten().filter(|(key, setting)| guarded(key) && setting.source == Source::Topic);
        let mut counting: Vec<(&String, &GroupLag)> = self.groups.iter().filter(|(_, g)| g.standing.counts()).collect();
        counting.sort_by_key(|(_, g)| std::cmp::Reverse(g.peak.map(|p| p.value)));
        let consumer = |(group, lag): (&String, &GroupLag)| ConsumerStanding {
            group: group.clone(),
            tables: policies
                .iter()
                .filter_map(|p| p.owners.consumers.get(group))
                .flat_map(|c| c.tables.iter().cloned())
                .take(TABLES_MAX)
                .collect(),
            peak: lag.peak.map(|p| PeakStanding { behind_ms: p.value, hour_ms: p.hour_ms }),
        };
        Some(TopicStanding {
            floor_ms: it.floor.map(Retention::to_kafka),
            mode: shown_mode(it.mode),
            protect: Protected {
                retention_bytes: it.protect.retention_bytes,
                cleanup_policy: it.protect.cleanup_policy,
                deletion: it.protect.deletion,
            },
            own: own.map(|(key, setting)| (key.clone(), setting.value.clone())).collect(),
            inherited: it.inherited.into_iter().filter(|(key, _)| guarded(key)).collect(),
            bytes_per_second: it.bytes_per_ms.map(|rate| (rate * 1000.0).ceil() as i64),
            owners: it.owners.into_iter().take(OWNERS_MAX).collect(),
            consumers: counting.into_iter().take(CONSUMERS_MAX).map(consumer).collect(),
        })
    }
}

/// What changes of a topic are judged by; `None`: its `TopicFloor` does not say yet.
pub fn of_floor(topic: &str, status: &TopicFloorStatus) -> Option<Standing> {
    let it = status.standing.as_ref()?;
    let consumer = |c: &ConsumerStanding| {
        if c.tables.is_empty() { c.group.clone() } else { format!("{} ({})", c.group, c.tables.join(", ")) }
    };
    Some(Standing {
        topic: topic.to_owned(),
        floor: it.floor_ms.map(Retention::of_kafka),
        mode: spec::mode(it.mode),
        protect: Protect {
            retention_bytes: it.protect.retention_bytes,
            cleanup_policy: it.protect.cleanup_policy,
            deletion: it.protect.deletion,
            ..Protect::NONE
        },
        inherited: it.inherited.clone(),
        bytes_per_ms: it.bytes_per_second.map(|rate| rate as f64 / 1000.0),
        why: status.why.clone(),
        owners: it.owners.clone(),
        consumers: it.consumers.iter().map(consumer).collect(),
    })
}

/// Of a topic that policies govern, and of which nothing has been shown yet: nothing may be lowered.
pub fn unseen(topic: &str, policies: &[&Policy]) -> Standing {
    let strictest = |pick: fn(&Policy) -> bool| policies.iter().any(|p| pick(p));
    let owner = |p: &&Policy| {
        let contacts = p.owners.contacts.join(", ");
        if contacts.is_empty() { p.owners.team.clone() } else { format!("{} ({contacts})", p.owners.team) }
    };
    Standing {
        topic: topic.to_owned(),
        floor: None,
        mode: policies.iter().map(|p| p.mode).max().unwrap_or(Mode::Audit),
        protect: Protect {
            retention_bytes: strictest(|p| p.protect.retention_bytes),
            cleanup_policy: strictest(|p| p.protect.cleanup_policy),
            broker_defaults: strictest(|p| p.protect.broker_defaults),
            deletion: strictest(|p| p.protect.deletion),
        },
        inherited: BTreeMap::new(),
        bytes_per_ms: None,
        why: "weir has not looked at it yet".to_owned(),
        owners: policies.iter().map(owner).collect(),
        consumers: Vec::new(),
    }
}

/// Where it is not known what a topic inherits: a key that neither side sets is the same before and after, whatever it is.
pub fn assume_same(inherited: &mut BTreeMap<String, String>, old: &Overrides, new: &Overrides) {
    for (key, value) in [(RETENTION_MS, "-1"), (RETENTION_BYTES, "-1"), (CLEANUP_POLICY, "delete")] {
        if !old.contains_key(key) && !new.contains_key(key) {
            inherited.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
}

/// A peak as it was shown.
pub fn peak(shown: PeakStanding) -> Peak<i64> {
    Peak { hour_ms: shown.hour_ms, value: shown.behind_ms }
}

const fn shown_mode(mode: Mode) -> EnforcementMode {
    match mode {
        Mode::Enforce => EnforcementMode::Enforce,
        Mode::Warn => EnforcementMode::Warn,
        Mode::Audit => EnforcementMode::Audit,
    }
}
