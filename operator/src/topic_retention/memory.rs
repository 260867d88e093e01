//! What is remembered of one Kafka cluster from turn to turn. What matters of it for longer is kept by `histories`; and what
//! weir raised is found again in the `TopicFloor`s.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinSet;
use weir_crds::{TopicFloor, topic_retention_policy::TopicRetentionPolicyStatus};
use weir_floors::{
    History,
    assess::WantedRead,
    config::{TopicConfig, own},
    history::LOOK_BACK_DEFAULT_MS,
    status::Shown,
    wanted::Change,
};
use weir_kafka::AdminError;

use super::{
    governance::{Governance, Topic},
    keeping::Keeping,
    observe::Lags,
    owned::{Fight, Owners},
    told::Told,
};

/// A configuration that cannot be read stays what it was for so long: a broker that restarts is no reason to say that
/// nothing is known.
const CONFIG_STALE_MS: i64 = 60_000;
/// A broker that is behind may show a configuration from before weir's change, in the turn after it: shorter than two turns.
const SHOWN_WITHIN_MS: i64 = 9_000;

#[derive(Default)]
pub struct Memory {
    pub governance: Option<Governance>,
    pub topics: BTreeMap<String, TopicMemory>,
    /// The last look at the lags.
    pub lags: Lags,
    /// Whether there was one, in vain or not.
    pub looked: bool,
    /// The look that is under way.
    pub looking: JoinSet<Result<Lags, AdminError>>,
    /// Other operators' resources that are the cluster's topics.
    pub owners: Owners,
    pub keeping: Keeping,
    /// What was last written of each policy, and when, by uid.
    pub policies: BTreeMap<String, (i64, TopicRetentionPolicyStatus)>,
}

pub struct TopicMemory {
    pub history: History,
    config: Option<(i64, TopicConfig)>,
    /// What was changed, until brokers show it.
    changed: Option<(i64, Change)>,
    /// Records whose times the next look should read.
    pub reads: Vec<WantedRead>,
    /// Whether there is a `TopicFloor`.
    pub exists: bool,
    /// What was last written to it, and when.
    pub shown: Option<(i64, Shown)>,
    pub told: Told,
    /// Against the operator of another resource.
    pub fight: Fight,
    /// A draft that could not be made is not tried again before.
    pub draft_after_ms: i64,
    /// Since when there is no such topic.
    absent_since_ms: Option<i64>,
}

impl TopicMemory {
    /// `floor`: the one that an earlier process left.
    pub fn begin(topic_id: &str, floor: Option<&TopicFloor>) -> Self {
        let mut history = History::new(topic_id);
        if let Some(status) = floor.and_then(|f| f.status.as_ref()) {
            history.resume(status);
        }
        let told = Told::resume(&history);
        Self {
            history,
            config: None,
            changed: None,
            reads: Vec::new(),
            exists: floor.is_some(),
            shown: None,
            told,
            fight: Fight::default(),
            draft_after_ms: 0,
            absent_since_ms: None,
        }
    }

    /// Goes on with what an earlier process remembered, and has told of.
    pub fn take_up(&mut self, earlier: History) {
        self.told.take_up(&earlier);
        self.history.take_up(earlier);
    }

    /// weir has changed it.
    pub fn applied(&mut self, change: &Change, now_ms: i64) {
        self.history.applied(change, now_ms);
        self.changed = Some((now_ms, change.clone()));
    }

    /// Whether a broker shows what was before weir's last change, and has only not got to know of it yet. Where somebody set it
    /// back at once to just that, the turn after sees it.
    pub fn is_from_before(&mut self, config: &TopicConfig, now_ms: i64) -> bool {
        let is_before = |(at_ms, change): &(i64, Change)| {
            let is_recent = (0..=SHOWN_WITHIN_MS).contains(&(now_ms - at_ms));
            is_recent && change.keys.iter().all(|key| own(config, key.key) == key.from.as_deref())
        };
        self.changed = self.changed.take().filter(is_before);
        self.changed.is_some()
    }

    /// The configuration to go by; `None`: it has not been known for too long.
    pub fn config(&mut self, found: Option<TopicConfig>, now_ms: i64) -> Option<TopicConfig> {
        if let Some(config) = found {
            self.config = Some((now_ms, config));
        }
        // One that was read at a time that is still to come was read before the clock was put back: nobody knows how old it is.
        let known = self.config.as_ref().filter(|(at_ms, _)| (0..=CONFIG_STALE_MS).contains(&(now_ms - at_ms)));
        known.map(|(_, config)| config.clone())
    }

    /// As it was last read.
    pub fn last_config(&self) -> Option<&TopicConfig> {
        self.config.as_ref().map(|(_, config)| config)
    }
}

impl Memory {
    /// Takes in the look that was under way, if it has ended.
    pub fn take_look(&mut self) -> Option<AdminError> {
        let ended = self.looking.try_join_next()?;
        self.looked = true;
        match ended {
            Ok(Ok(lags)) => {
                self.lags = lags;
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => Some(AdminError::Interrupted),
        }
    }

    /// Topics of which policies that are gone still ask for something.
    pub fn lives_on(&self) -> BTreeSet<String> {
        self.topics.iter().filter(|(_, t)| t.history.is_governed()).map(|(name, _)| name.clone()).collect()
    }

    /// Groups of topics that brokers should still know. Those of a topic that is new to this process come with the next look, and
    /// are silent until then, if they are not listed.
    pub fn expected_groups(&self, topics: &BTreeMap<String, Topic>) -> BTreeSet<String> {
        topics.keys().filter_map(|topic| self.topics.get(topic)).flat_map(|topic| topic.history.expected_groups()).collect()
    }

    pub fn reads(&self) -> BTreeMap<String, Vec<WantedRead>> {
        self.topics.iter().filter(|(_, t)| !t.reads.is_empty()).map(|(name, t)| (name.clone(), t.reads.clone())).collect()
    }
}

/// Of topics that are gone the history stays for the look-back: they may be made again.
pub fn retain(topics: &mut BTreeMap<String, TopicMemory>, present: impl Fn(&str) -> bool, now_ms: i64) {
    topics.retain(|name, topic| {
        if present(name) {
            topic.absent_since_ms = None;
            return true;
        }
        (topic.exists, topic.shown) = (false, None);
        now_ms - *topic.absent_since_ms.get_or_insert(now_ms) < LOOK_BACK_DEFAULT_MS
    });
}

#[cfg(test)]
mod tests {
    use weir_floors::{
        config::{RETENTION_MS, Setting, Source},
        wanted::{Cause, KeyChange},
    };

    use super::*;

    #[test]
    fn what_a_broker_shows_from_before_a_change_is_not_believed_for_a_while_and_once_it_shows_the_change_everything_is() {
        let config = |value: &str| {
            let setting = Setting { value: value.to_owned(), source: Source::Topic, inherited: None };
            TopicConfig::from([(RETENTION_MS.to_owned(), setting)])
        };
        let keys = vec![KeyChange { key: RETENTION_MS, from: Some("1".to_owned()), to: Some("2".to_owned()) }];
        let change = Change { cause: Cause::Restore, keys };
        let mut topic = TopicMemory::begin("first", None);
        let mut believed = |changed: bool, value: &str, now_ms: i64| {
            if changed {
                topic.applied(&change, 0);
            }
            !topic.is_from_before(&config(value), now_ms)
        };
        assert!(believed(false, "1", 0));
        assert_eq!([believed(true, "1", 5_000), believed(false, "1", 10_000)], [false, true]);
        assert_eq!([believed(true, "2", 1_000), believed(false, "1", 2_000)], [true, true]);
        assert!(believed(true, "3", 1_000), "somebody else's");
        assert!(believed(true, "1", -1), "the clock was put back");
    }
}
