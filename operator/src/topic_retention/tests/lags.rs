//! What one look at offsets and groups makes of the answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use weir_floors::{
    assess::WantedRead,
    config::{RETENTION_MS, Setting, Source, TopicConfig},
};
use weir_kafka::{PartitionDescription, TopicDescription};

use super::{
    fakes::FakeKafka,
    world::{GROUP, TOPIC, World},
};
use crate::topic_retention::{
    governance::Topic,
    observe::{Lags, Look, UNLISTED_MAX, fair, lags, observed, read},
};

fn topic() -> Topic {
    let partitions = vec![PartitionDescription { partition: 0, leader: Some(1), replicas: 1, in_sync: 1 }];
    Topic { description: TopicDescription { id: "first".into(), partitions }, policies: vec![] }
}

async fn look(kafka: &FakeKafka, before: &Lags) -> Lags {
    look_for(kafka, before, &named(&[GROUP])).await
}

async fn look_for(kafka: &FakeKafka, before: &Lags, expected: &BTreeSet<String>) -> Lags {
    let topics = BTreeMap::from([(TOPIC.to_owned(), topic())]);
    let expected = expected.clone();
    lags(kafka, Look { topics, reads: BTreeMap::new(), expected, before: before.clone(), now_ms: 1000 }).await.unwrap()
}

fn named(groups: &[&str]) -> BTreeSet<String> {
    groups.iter().map(|group| (*group).to_owned()).collect()
}

/// What was committed on the topic, by group; `None`: groups are not known.
fn committed(lags: &Lags) -> Option<BTreeMap<String, Option<i64>>> {
    committed_of(lags, &named(&[GROUP]))
}

fn committed_of(lags: &Lags, expected: &BTreeSet<String>) -> Option<BTreeMap<String, Option<i64>>> {
    let groups = observed(TOPIC, &topic(), None, false, expected, lags, 100).groups?;
    Some(groups.into_iter().map(|(name, seen)| (name, seen.committed.and_then(|c| c.get(&0).copied()))).collect())
}

#[tokio::test]
async fn beginnings_are_asked_for_before_what_is_committed() {
    let world = World::new("Audit");
    look(&world.kafka, &Lags::default()).await;
    let at = |question: &str| world.kafka().asked.iter().position(|asked| *asked == question).unwrap();
    assert!(at("starts") < at("committed"));
}

#[tokio::test]
async fn a_group_that_falls_silent_stays_where_it_was() {
    let world = World::new("Audit");
    world.kafka().groups.insert("elsewhere".into(), Some(BTreeMap::from([("other".to_owned(), 3)])));
    let first = look(&world.kafka, &Lags::default()).await;
    assert_eq!(committed(&first), Some(BTreeMap::from([(GROUP.to_owned(), Some(100))])));
    for group in [GROUP, "elsewhere"] {
        world.kafka().groups.insert(group.into(), None);
    }
    let second = look(&world.kafka, &first).await;
    assert_eq!(committed(&second), Some(BTreeMap::from([(GROUP.to_owned(), None)])));
}

#[tokio::test]
async fn groups_of_which_nothing_was_heard_may_be_anywhere() {
    let world = World::new("Audit");
    world.kafka().groups.insert("mute".into(), None);
    assert_eq!(committed(&look(&world.kafka, &Lags::default()).await), None);
    world.kafka().groups.remove("mute");
    world.kafka().hides_groups = true;
    assert_eq!(committed(&look(&world.kafka, &Lags::default()).await), None);
    world.kafka().hides_groups = false;
    assert!(committed(&look(&world.kafka, &Lags::default()).await).is_some());
}

#[tokio::test]
async fn a_group_that_is_not_listed_is_asked_about_by_name_and_gone_only_if_that_is_the_answer() {
    let world = World::new("Audit");
    let seen = async || committed(&look(&world.kafka, &Lags::default()).await);
    world.kafka().unlisted.insert(GROUP.into());
    assert_eq!(seen().await, Some(BTreeMap::from([(GROUP.to_owned(), Some(100))])));
    world.kafka().groups.insert(GROUP.into(), None);
    assert_eq!(seen().await, Some(BTreeMap::from([(GROUP.to_owned(), None)])));
    world.kafka().groups.remove(GROUP);
    assert_eq!(seen().await, Some(BTreeMap::new()));
}

#[tokio::test]
async fn what_was_not_asked_about_is_silent_and_what_is_not_expected_is_not_asked_about() {
    let world = World::new("Audit");
    world.kafka().groups.clear();
    let mut expected: BTreeSet<String> = (0..UNLISTED_MAX).map(|number| format!("batch-{number}")).collect();
    expected.insert("later".into());
    let lags = look_for(&world.kafka, &Lags::default(), &expected).await;
    assert_eq!(committed_of(&lags, &expected), Some(BTreeMap::from([("later".to_owned(), None)])));
    // A history that was taken up behind the look.
    assert_eq!(committed(&lags), Some(BTreeMap::from([(GROUP.to_owned(), None)])));
    let asked = || world.kafka().asked.iter().filter(|asked| **asked == "committed").count();
    let before = asked();
    look_for(&world.kafka, &lags, &BTreeSet::new()).await;
    assert_eq!(asked() - before, 1, "of those that are listed, and no others");
}

#[tokio::test]
async fn a_group_that_is_silent_after_a_look_in_vain_stays_where_it_was() {
    let world = World::new("Audit");
    let first = look(&world.kafka, &Lags::default()).await;
    world.kafka().hides_groups = true;
    let second = look(&world.kafka, &first).await;
    assert_eq!(committed(&second), None);
    world.kafka().hides_groups = false;
    world.kafka().groups.insert(GROUP.into(), None);
    assert_eq!(committed(&look(&world.kafka, &second).await), Some(BTreeMap::from([(GROUP.to_owned(), None)])));
}

/// What a topic of an hour would have without it.
fn inherited(lags: &Lags, said: Option<&str>) -> Option<String> {
    let setting = Setting { value: "3600000".into(), source: Source::Topic, inherited: said.map(str::to_owned) };
    let config: TopicConfig = [(RETENTION_MS.to_owned(), setting)].into();
    observed(TOPIC, &topic(), Some(config), true, &BTreeSet::new(), lags, 100).config.unwrap().remove(RETENTION_MS).unwrap().inherited
}

#[tokio::test]
async fn a_brokers_own_default_counts_where_nothing_is_said_beside_the_topics() {
    let world = World::new("Audit");
    assert_eq!(inherited(&Lags::default(), None), None, "no broker was asked yet");
    let first = look(&world.kafka, &Lags::default()).await;
    assert_eq!(inherited(&first, None).as_deref(), Some("604800000"));
    assert_eq!(inherited(&first, Some("7200000")).as_deref(), Some("7200000"));
    // A broker that is silent for once has not changed its mind.
    world.kafka().hides_broker = true;
    let second = look(&world.kafka, &first).await;
    assert_eq!(inherited(&second, None), inherited(&first, None));
}

fn wanted(topics: &[&str], urgent: bool) -> BTreeMap<String, Vec<WantedRead>> {
    let every: Vec<WantedRead> = (0..12).map(|partition| WantedRead { partition, offset: 7, urgent }).collect();
    topics.iter().map(|topic| ((*topic).to_owned(), every.clone())).collect()
}

#[test]
fn every_topic_has_its_turn_to_be_read_however_much_others_want() {
    let counts = |wanted: &BTreeMap<String, Vec<WantedRead>>, behind: &str, max: usize| -> Vec<(String, usize)> {
        fair(wanted, behind, max).into_iter().map(|(topic, at)| (topic, at.len())).collect()
    };
    let of = |topics: &[(&str, usize)]| topics.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect::<Vec<_>>();
    let urgent = wanted(&["a", "b", "c"], true);
    assert_eq!(counts(&urgent, "", 2), of(&[("a", 1), ("b", 1)]));
    assert_eq!(counts(&urgent, "b", 2), of(&[("c", 1), ("a", 1)]));
    // Topics that are gone leave their place to the next.
    assert_eq!(fair(&urgent, "bb", 4)[..2], [("c".to_owned(), vec![(0, 7), (1, 7)]), ("a".to_owned(), vec![(0, 7)])]);
    // What is not urgent is read of one topic after the other, and only behind what is.
    let mut both = wanted(&["a", "b", "c"], false);
    assert_eq!(counts(&both, "a", 14), of(&[("b", 12), ("c", 2)]));
    both.append(&mut wanted(&["d"], true));
    assert_eq!(counts(&both, "a", 14), of(&[("d", 12), ("b", 2)]));
    assert_eq!(counts(&both, "d", 100), of(&[("d", 12), ("a", 12), ("b", 12), ("c", 12)]));
    assert_eq!(fair(&BTreeMap::new(), "c", 100), []);
}

#[tokio::test]
async fn a_topic_that_is_slow_to_be_read_keeps_others_waiting_for_one_look() {
    let world = World::new("Audit");
    world.kafka().reads_take = Duration::from_millis(2);
    let (wanted, mut behind) = (wanted(&["a", "b"], true), String::new());
    for expected in ["a", "b", "a"] {
        let (found, last) = read(&*world.kafka, fair(&wanted, &behind, 100), &behind, Duration::from_millis(1)).await;
        assert_eq!((found.into_keys().collect::<Vec<_>>(), last.as_str()), (vec![expected.to_owned()], expected));
        behind = last;
    }
}
