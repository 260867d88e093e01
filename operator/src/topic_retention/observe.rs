//! What is asked of Kafka, turned into what floors are computed from. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use tokio::time::Instant;
use weir_crds::contract::result::error_chain;
use weir_floors::{
    assess::WantedRead,
    config::{RETENTION_MS, Setting, Source, TopicConfig},
    observed::{GroupSeen, GroupState, Log, Observed, Read, Storage},
};
use weir_kafka::{
    AdminError, LogDirs, PartitionDescription,
    admin::{self, Answers, BrokerConfig, CommittedOffsets, ConfigSource, GroupDescription, OffsetSpec, TopicPartition},
};

use super::{
    governance::Topic,
    kafka::{Kafka, Offsets},
};

/// Records that are read in one look, over all topics: a thousand topics are known after a quarter of an hour, and little is read then.
const READS_MAX: usize = 512;
/// No topic is read any more after that.
const READING_MAX: Duration = Duration::from_secs(10);
/// Groups that are asked about in one look without being listed. One that was deleted is known to be so after the first time, and is
/// asked about no more; those beyond are silent until then.
pub const UNLISTED_MAX: usize = 2_000;

/// By topic, those that could be described.
pub async fn configs<K: Kafka>(kafka: &K, topics: BTreeSet<String>) -> Result<BTreeMap<String, TopicConfig>, AdminError> {
    let answers = kafka.configs(topics).await?;
    Ok(answers.into_iter().filter_map(|(topic, answer)| Some((topic, settings(&answer.ok()?)))).collect())
}

fn settings(config: &weir_kafka::TopicConfig) -> TopicConfig {
    let setting = |key: &&str| {
        let (value, source) = (config.get(key)?.to_owned(), source(config.source(key)?));
        let inherited = if source == Source::Topic { config.inherited(key).map(str::to_owned) } else { Some(value.clone()) };
        Some(((*key).to_owned(), Setting { value, source, inherited }))
    };
    weir_floors::config::KEYS.iter().filter_map(setting).collect()
}

const fn source(source: ConfigSource) -> Source {
    match source {
        ConfigSource::Topic => Source::Topic,
        ConfigSource::DynamicBroker => Source::DynamicBroker,
        ConfigSource::DynamicBrokerDefault => Source::DynamicDefault,
        ConfigSource::StaticBroker => Source::Static,
        ConfigSource::Default | ConfigSource::Other => Source::Default,
    }
}

/// Groups by name.
type Groups = BTreeMap<String, GroupSeen>;

/// Where logs begin and end, and how far groups are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lags {
    /// When it was asked for, which is before it was answered.
    pub asked_ms: i64,
    /// By topic, of every partition.
    partitions: BTreeMap<String, BTreeMap<i32, Option<Log>>>,
    /// By topic, of groups that have answered; `None`: groups could not be listed.
    groups: Option<BTreeMap<String, Groups>>,
    /// What was said of groups that were described.
    states: BTreeMap<String, GroupState>,
    /// Groups that have said in this look what they have committed, and be it nothing.
    answered: BTreeSet<String>,
    /// Listed groups that have said so at some time.
    heard_of: BTreeSet<String>,
    brokers: Brokers,
    /// Of the fullest disk; `None`: some disk is not known.
    used_percent: Option<u32>,
    reads: BTreeMap<String, Vec<Read>>,
    /// The topic that a record was last read of: the next look goes on behind it.
    read_to: String,
}

/// What brokers do where nobody says otherwise, as far as this identity may know.
#[derive(Clone, Debug, Default, PartialEq)]
struct Brokers {
    /// For how long they keep the offsets of a group without members.
    offsets_retention_ms: Option<i64>,
    /// `retention.ms` of topics that do not set it.
    retention_ms: Option<String>,
}

impl Brokers {
    fn of(config: &BrokerConfig) -> Self {
        let offsets_retention_ms = config.offsets_retention().map(|kept| i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
        Self { offsets_retention_ms, retention_ms: config.retention_ms() }
    }
}

/// What one look at the lags begins with.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub topics: BTreeMap<String, Topic>,
    /// Records whose times are wanted, by topic.
    pub reads: BTreeMap<String, Vec<WantedRead>>,
    /// Groups of the topics that brokers should still know, whether they list them or not.
    pub expected: BTreeSet<String>,
    pub before: Lags,
    pub now_ms: i64,
}

/// Beginnings first: a group that goes on meanwhile must not seem to stand before what was deleted behind it.
pub async fn lags<K: Kafka>(kafka: &K, look: Look) -> Result<Lags, AdminError> {
    if look.topics.is_empty() {
        return Ok(Lags { asked_ms: look.now_ms, ..Lags::default() });
    }
    let (reads, read_to) = read(kafka, fair(&look.reads, &look.before.read_to, READS_MAX), &look.before.read_to, READING_MAX).await;
    let starts = kafka.offsets(every_partition(&look.topics, OffsetSpec::Earliest)).await?;
    let (listed, broker) = futures::join!(kafka.groups(), kafka.broker_config());
    let listed = listed?;
    let names: BTreeSet<String> = listed.groups.iter().filter(|(_, s)| **s != admin::GroupState::Dead).map(|(g, _)| g.clone()).collect();
    let unlisted: BTreeSet<String> = look.expected.difference(&names).take(UNLISTED_MAX).cloned().collect();
    let (described, committed, of_unlisted, ends, log_dirs) = futures::join!(
        kafka.describe_groups(names.clone()),
        kafka.committed(names.clone()),
        committed_unlisted(kafka, unlisted),
        kafka.offsets(every_partition(&look.topics, OffsetSpec::Latest)),
        log_dirs(kafka, &look.topics)
    );
    let (described, mut committed, ends) = (described?, committed?, ends?);
    committed.extend(of_unlisted?);
    let states = states(&described);
    let answered: BTreeSet<String> = committed.iter().filter(|(_, answer)| answer.is_ok()).map(|(group, _)| group.clone()).collect();
    let was_heard = |group: &&String| answered.contains(*group) || look.before.heard_of.contains(*group);
    let heard_of: BTreeSet<String> = names.iter().filter(was_heard).cloned().collect();
    // A group that never said a word may be on any topic; so may one of a broker that does not answer.
    let all_known = listed.errors.is_empty() && heard_of == names;
    let groups = all_known.then(|| by_topic(&look.topics, &described, &states, &committed));
    Ok(Lags {
        asked_ms: look.now_ms,
        partitions: look.topics.iter().map(|(name, topic)| (name.clone(), logs(name, topic, (&starts, &ends), &log_dirs))).collect(),
        groups,
        states,
        answered,
        heard_of,
        used_percent: log_dirs.used_percent(),
        brokers: broker.map_or(look.before.brokers, |config| config.as_ref().map(Brokers::of).unwrap_or_default()),
        reads,
        read_to,
    })
}

/// Records that are wanted of topics, in the order in which they are to be read.
pub type Chosen = Vec<(String, Vec<(i32, i64)>)>;

/// So many of the records that are wanted. First the urgent ones, of each topic in turn one, behind a topic and round again, so
/// that none waits until others want nothing more. Then the others topic by topic: each is read by one client, and known at once.
pub fn fair(wanted: &BTreeMap<String, Vec<WantedRead>>, behind: &str, max: usize) -> Chosen {
    let rounds = wanted.values().map(Vec::len).max().unwrap_or(0);
    let in_turn = || {
        let later = wanted.range::<str, _>((Bound::Excluded(behind), Bound::Unbounded));
        later.chain(wanted.range::<str, _>((Bound::Unbounded, Bound::Included(behind))))
    };
    let urgent = |round| move |(topic, reads): (_, &Vec<WantedRead>)| Some((topic, *reads.iter().filter(|r| r.urgent).nth(round)?));
    let urgent = (0..rounds).flat_map(|round| in_turn().filter_map(urgent(round)));
    let others = in_turn().flat_map(|(topic, reads)| reads.iter().filter(|r| !r.urgent).map(move |read| (topic, *read)));
    let (mut chosen, mut places) = (Chosen::new(), BTreeMap::<&str, usize>::new());
    for (topic, read) in urgent.chain(others).take(max) {
        let place = *places.entry(topic).or_insert(chosen.len());
        if place == chosen.len() {
            chosen.push((topic.clone(), Vec::new()));
        }
        chosen[place].1.push((read.partition, read.offset));
    }
    chosen
}

/// Topics that are slow do not hold up for long what is asked of all: the next look goes on behind the one that was read last,
/// which is returned too.
pub async fn read<K: Kafka>(kafka: &K, chosen: Chosen, behind: &str, within: Duration) -> (BTreeMap<String, Vec<Read>>, String) {
    let (mut found, mut last, begun) = (BTreeMap::new(), behind.to_owned(), Instant::now());
    for (topic, at) in chosen {
        if begun.elapsed() >= within {
            break;
        }
        last.clone_from(&topic);
        found.insert(topic.clone(), kafka.first_records(topic, at).await);
    }
    (found, last)
}

fn every_partition(topics: &BTreeMap<String, Topic>, spec: OffsetSpec) -> BTreeMap<TopicPartition, OffsetSpec> {
    let partitions = |(name, topic): (&String, &Topic)| {
        let name = name.clone();
        let of = move |partition: i32| (TopicPartition { topic: name.clone(), partition }, spec);
        topic.description.partitions.iter().map(|p| p.partition).map(of).collect::<Vec<_>>()
    };
    topics.iter().flat_map(partitions).collect()
}

fn logs(name: &str, topic: &Topic, (starts, ends): (&Offsets, &Offsets), log_dirs: &LogDirs) -> BTreeMap<i32, Option<Log>> {
    let one = |p: &PartitionDescription| {
        let at = TopicPartition { topic: name.to_owned(), partition: p.partition };
        let offset = |of: &Offsets| of.get(&at)?.as_ref().ok()?.offset;
        let bytes = p.leader.and_then(|leader| log_dirs.replica_bytes(leader, &at)).and_then(|bytes| i64::try_from(bytes).ok());
        Some(Log { start: offset(starts)?, end: offset(ends)?, bytes })
    };
    topic.description.partitions.iter().map(|p| (p.partition, one(p))).collect()
}

/// Without an answer sizes and disks are unknown, which is said where it matters.
async fn log_dirs<K: Kafka>(kafka: &K, topics: &BTreeMap<String, Topic>) -> LogDirs {
    let partitions = |topic: &Topic| topic.description.partitions.iter().map(|p| p.partition).collect();
    let asked = topics.iter().map(|(name, topic)| (name.clone(), partitions(topic))).collect();
    let found = kafka.log_dirs(asked).await.unwrap_or_else(|error| {
        tracing::debug!(error = error_chain(&error), "the brokers' disks cannot be looked at");
        LogDirs::default()
    });
    for (broker, error) in found.brokers.iter().filter_map(|(broker, answer)| Some((broker, answer.as_ref().err()?))) {
        tracing::debug!(broker, error = error_chain(error), "a broker's disks cannot be looked at");
    }
    found
}

/// What groups have committed that are not listed. They are asked about beside the others: a coordinator that is away takes until the
/// deadline, and only so many groups are asked about at the same time.
async fn committed_unlisted<K: Kafka>(kafka: &K, groups: BTreeSet<String>) -> Result<Answers<CommittedOffsets>, AdminError> {
    if groups.is_empty() {
        return Ok(Answers::new());
    }
    kafka.committed(groups).await
}

fn states(described: &Answers<GroupDescription>) -> BTreeMap<String, GroupState> {
    described.iter().filter_map(|(group, answer)| Some((group.clone(), state(answer.as_ref().ok()?.state)))).collect()
}

/// Every group that has answered, on each topic on which it has committed offsets or members.
fn by_topic(
    topics: &BTreeMap<String, Topic>,
    described: &Answers<GroupDescription>,
    states: &BTreeMap<String, GroupState>,
    committed: &Answers<CommittedOffsets>,
) -> BTreeMap<String, Groups> {
    let mut all: BTreeMap<String, Groups> = topics.keys().map(|topic| (topic.clone(), Groups::new())).collect();
    for (group, answer) in committed {
        let Ok(offsets) = answer else { continue };
        let state = states.get(group).copied().unwrap_or(GroupState::Unknown);
        let description = described.get(group).and_then(|d| d.as_ref().ok());
        let members = description.into_iter().flat_map(|d| &d.members).flat_map(|m| &m.partitions).map(|p| &p.topic);
        let named: BTreeSet<&String> = offsets.keys().map(|p| &p.topic).chain(members).collect();
        for topic in named {
            if let Some(groups) = all.get_mut(topic) {
                groups.insert(group.clone(), GroupSeen { state, committed: of_topic(topic, offsets) });
            }
        }
    }
    all
}

/// `None`: that of some partition is not known.
fn of_topic(topic: &str, offsets: &CommittedOffsets) -> Option<BTreeMap<i32, i64>> {
    // A group may be on thousands of topics.
    let at = |partition| TopicPartition { topic: topic.to_owned(), partition };
    let on_topic = offsets.range(at(i32::MIN)..=at(i32::MAX));
    on_topic.map(|(at, offset)| Some((at.partition, *offset.as_ref().ok()?))).collect()
}

const fn state(state: admin::GroupState) -> GroupState {
    match state {
        admin::GroupState::Stable => GroupState::Stable,
        admin::GroupState::PreparingRebalance | admin::GroupState::CompletingRebalance => GroupState::Rebalancing,
        admin::GroupState::Empty | admin::GroupState::Dead => GroupState::Empty,
        admin::GroupState::Unknown => GroupState::Unknown,
    }
}

/// Beside a topic's own `retention.ms` brokers do not say what they have built in; about themselves they do.
fn with_default(mut config: TopicConfig, retention_ms: Option<&String>) -> TopicConfig {
    if let Some(setting) = config.get_mut(RETENTION_MS) {
        setting.inherited = setting.inherited.take().or_else(|| retention_ms.cloned());
    }
    config
}

/// Groups on a topic: those that have answered, and those that should be there and have not, which are silent. Brokers leave out of
/// their lists what this identity may not describe, and what has no coordinator, and do not say so: that a group is not listed
/// does not mean that it is gone.
fn groups(answered_here: &Groups, expected: &BTreeSet<String>, lags: &Lags) -> Groups {
    let silent = |group: &String| {
        let state = lags.states.get(group).copied().unwrap_or(GroupState::Unknown);
        (group.clone(), GroupSeen { state, committed: None })
    };
    let mut groups = answered_here.clone();
    groups.extend(expected.difference(&lags.answered).map(silent));
    groups
}

/// One topic as it was observed. `expected`: groups of it that brokers should still know. `lags`: the last look, which may be older
/// than the configuration, and may have asked about others.
pub fn observed(
    name: &str,
    topic: &Topic,
    config: Option<TopicConfig>,
    config_is_fresh: bool,
    expected: &BTreeSet<String>,
    lags: &Lags,
    max_used_percent: u32,
) -> Observed {
    let known = lags.partitions.get(name);
    let answered_here = lags.groups.as_ref().and_then(|groups| groups.get(name));
    Observed {
        topic_id: topic.description.id.clone(),
        config: config.map(|config| with_default(config, lags.brokers.retention_ms.as_ref())),
        config_is_fresh,
        offsets_at_ms: if known.is_some() { lags.asked_ms } else { 0 },
        partitions: known.cloned().unwrap_or_default(),
        groups: answered_here.map(|answered_here| groups(answered_here, expected, lags)),
        offsets_retention_ms: lags.brokers.offsets_retention_ms,
        storage: Storage { used_percent: lags.used_percent, max_used_percent },
        reads: lags.reads.get(name).cloned().unwrap_or_default(),
    }
}
