//! Administration of a real broker, at `KAFKA_BOOTSTRAP`: what librdkafka's mock of a cluster does not know.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{FutureProducer, FutureRecord},
};
use weir_crds::kafka_cluster::{KafkaProtocol, KafkaSecurity, SaslMechanism};
use weir_kafka::{
    Admin, KafkaConfig, RequestError,
    admin::{ConfigChange, ConfigSource, GroupState, OffsetSpec, PartitionOffset, TopicPartition},
};

/// Of every call; a deadline that is missed fails its test.
const WITHIN: Duration = Duration::from_secs(20);
/// A busy broker on two cores takes its time to make two thousand logs.
const APPEAR: Duration = Duration::from_secs(120);
/// Topics that are made or deleted by one request.
const MADE_AT_ONCE: usize = 100;

fn bootstrap() -> String {
    std::env::var("KAFKA_BOOTSTRAP").expect("KAFKA_BOOTSTRAP names a broker")
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap());
    config
}

fn admin() -> Admin {
    let config = KafkaConfig { bootstrap_servers: vec![bootstrap()], security: KafkaSecurity::default(), credentials_dir: None };
    Admin::new(&config).unwrap()
}

/// A name that no other test and no other run has.
fn unique(name: &str) -> String {
    format!("admin-{name}-{:x}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros())
}

fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.to_owned(), partition }
}

fn set(value: &str) -> ConfigChange {
    ConfigChange::Set(value.to_owned())
}

/// Makes topics, and waits until the brokers know them.
async fn create(topics: &[String], partitions: i32, config: &[(&str, &str)]) {
    let client: AdminClient<DefaultClientContext> = client().create().unwrap();
    let new = |topic| {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        config.iter().fold(new, |new, (key, value)| new.set(key, value))
    };
    for topics in topics.chunks(MADE_AT_ONCE) {
        let new: Vec<_> = topics.iter().map(|topic| new(topic)).collect();
        for created in client.create_topics(&new, &AdminOptions::new()).await.unwrap() {
            created.unwrap();
        }
    }
    let names: BTreeSet<_> = topics.iter().cloned().collect();
    let begun = Instant::now();
    while !admin().topics(names.clone(), WITHIN).await.unwrap().values().all(|found| matches!(found, Ok(Some(_)))) {
        assert!(begun.elapsed() < APPEAR, "the topics do not appear");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn delete(topics: &[String]) {
    let client: AdminClient<DefaultClientContext> = client().create().unwrap();
    for topics in topics.chunks(MADE_AT_ONCE) {
        let names: Vec<_> = topics.iter().map(String::as_str).collect();
        for deleted in client.delete_topics(&names, &AdminOptions::new()).await.unwrap() {
            deleted.unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "needs a broker"]
async fn raising_one_key_leaves_the_others_as_they_are() {
    let (admin, topic) = (admin(), unique("keys"));
    let given = [
        ("cleanup.policy", "delete"),
        ("max.message.bytes", "777777"),
        ("retention.bytes", "123456789"),
        ("retention.ms", "3600000"),
        ("segment.ms", "1800000"),
    ];
    create(std::slice::from_ref(&topic), 1, &given).await;
    let before = admin.topic_config(&topic).await.unwrap();
    for (key, value) in given {
        assert_eq!((before.get(key), before.source(key)), (Some(value), Some(ConfigSource::Topic)), "{key}");
    }
    assert!(matches!(before.source("segment.index.bytes"), Some(ConfigSource::Default | ConfigSource::StaticBroker)));

    let alter = async |change: ConfigChange| {
        let expected = if let ConfigChange::Set(value) = &change { Some(value.clone()) } else { None };
        let changes = BTreeMap::from([(topic.clone(), BTreeMap::from([("retention.ms".to_owned(), change)]))]);
        assert_eq!(admin.alter_topic_configs(changes, WITHIN).await.unwrap(), BTreeMap::from([(topic.clone(), Ok(()))]));
        // The controller has it; the broker that is asked may hear of it a moment later.
        let deadline = Instant::now() + WITHIN;
        loop {
            let config = admin.topic_config(&topic).await.unwrap();
            let has_heard = match &expected {
                Some(value) => config.get("retention.ms") == Some(value),
                None => config.source("retention.ms") != Some(ConfigSource::Topic),
            };
            if has_heard || Instant::now() > deadline {
                return config;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let raised = alter(set("604800000")).await;
    assert_eq!((raised.get("retention.ms"), raised.source("retention.ms")), (Some("604800000"), Some(ConfigSource::Topic)));
    let reset = alter(ConfigChange::Reset).await;
    assert_ne!(reset.source("retention.ms"), Some(ConfigSource::Topic));
    // Brokers that set no retention themselves do not tell of the built-in one.
    assert!(raised.inherited("retention.ms").is_none_or(|inherited| Some(inherited) == reset.get("retention.ms")), "what it falls back to");
    assert_eq!(raised.inherited("max.message.bytes"), Some("1048588"));
    for (key, value) in given.into_iter().filter(|(key, _)| *key != "retention.ms") {
        for config in [&raised, &reset] {
            assert_eq!((config.get(key), config.source(key)), (Some(value), Some(ConfigSource::Topic)), "{key}");
        }
    }
    // And what it never had.
    assert_eq!(alter(set("3600000")).await, before);
    delete(&[topic]).await;
}

#[tokio::test]
#[ignore = "needs a broker"]
async fn only_the_keys_that_are_named_are_told() {
    let (admin, topic) = (admin(), unique("few"));
    create(std::slice::from_ref(&topic), 1, &[("retention.ms", "3600000")]).await;
    let mut few = admin.topic_configs([topic.clone()].into(), &["retention.ms", "cleanup.policy"], WITHIN).await.unwrap();
    let few = few.remove(&topic).unwrap().unwrap();
    assert_eq!((few.get("retention.ms"), few.get("cleanup.policy")), (Some("3600000"), Some("delete")));
    assert_eq!((few.get("segment.ms"), few.source("segment.ms")), (None, None));
    delete(&[topic]).await;
}

#[tokio::test]
#[ignore = "needs a broker"]
async fn a_change_that_the_broker_refuses_harms_no_other() {
    let (admin, topics) = (admin(), [unique("good"), unique("bad")]);
    create(&topics, 1, &[]).await;
    let [good, bad] = &topics;
    let change = |value| BTreeMap::from([("retention.ms".to_owned(), set(value)), ("segment.ms".to_owned(), set("1800000"))]);
    let changes = BTreeMap::from([(good.clone(), change("3600000")), (bad.clone(), change("a week"))]);
    let altered = admin.alter_topic_configs(changes, WITHIN).await.unwrap();
    assert_eq!(altered[good], Ok(()));
    assert!(matches!(&altered[bad], Err(RequestError::Refused { message, .. }) if message.contains("retention.ms")), "{altered:?}");
    assert_eq!(admin.topic_config(good).await.unwrap().get("retention.ms"), Some("3600000"));
    assert_ne!(admin.topic_config(bad).await.unwrap().source("segment.ms"), Some(ConfigSource::Topic), "half of it was done");
    delete(&topics).await;
}

#[tokio::test]
#[ignore = "needs a broker"]
async fn a_topic_that_does_not_exist_harms_none_that_does() {
    let (admin, there, missing) = (admin(), unique("there"), unique("missing"));
    create(std::slice::from_ref(&there), 2, &[]).await;
    let both: BTreeSet<_> = [there.clone(), missing.clone()].into();

    let described = admin.topics(both.clone(), WITHIN).await.unwrap();
    assert_eq!(described[&there].as_ref().unwrap().as_ref().unwrap().partitions.len(), 2);
    assert_eq!(described[&missing], Ok(None));
    let names = admin.topic_names(WITHIN).await.unwrap();
    assert_eq!((names.contains(&there), names.contains(&missing)), (true, false));

    let configs = admin.topic_configs(both.clone(), &[], WITHIN).await.unwrap();
    assert!(configs[&there].as_ref().unwrap().get("retention.ms").is_some());
    assert!(configs[&missing].as_ref().unwrap_err().is_missing(), "{configs:?}");

    let changes = both.iter().map(|topic| (topic.clone(), BTreeMap::from([("retention.ms".to_owned(), set("3600000"))])));
    let altered = admin.alter_topic_configs(changes.collect(), WITHIN).await.unwrap();
    assert_eq!(altered[&there], Ok(()));
    assert!(altered[&missing].as_ref().unwrap_err().is_missing(), "{altered:?}");

    let wanted = [at(&there, 0), at(&there, 2), at(&missing, 0)].map(|partition| (partition, OffsetSpec::Latest));
    let offsets = admin.offsets(wanted.into(), WITHIN).await.unwrap();
    assert_eq!(offsets[&at(&there, 0)], Ok(PartitionOffset { offset: Some(0), timestamp_ms: None }));
    for absent in [at(&there, 2), at(&missing, 0)] {
        assert!(offsets[&absent].as_ref().unwrap_err().is_missing(), "{offsets:?}");
    }
    delete(&[there]).await;
}

#[tokio::test]
#[ignore = "needs a broker"]
async fn records_are_found_by_time() {
    let (admin, topic) = (admin(), unique("times"));
    create(std::slice::from_ref(&topic), 2, &[("retention.ms", "-1")]).await;
    let producer: FutureProducer = client().create().unwrap();
    for timestamp in [1_000, 3_000, 2_000] {
        let record = FutureRecord::<(), str>::to(&topic).partition(0).payload("r").timestamp(timestamp);
        producer.send(record, WITHIN).await.unwrap();
    }
    let none = PartitionOffset { offset: None, timestamp_ms: None };
    let found = |offset, timestamp_ms| PartitionOffset { offset: Some(offset), timestamp_ms };
    for (spec, expected, in_the_empty_one) in [
        (OffsetSpec::Earliest, found(0, None), found(0, None)),
        (OffsetSpec::Latest, found(3, None), found(0, None)),
        (OffsetSpec::At(0), found(0, Some(1_000)), none),
        (OffsetSpec::At(1_500), found(1, Some(3_000)), none),
        (OffsetSpec::At(3_001), none, none),
        (OffsetSpec::MaxTimestamp, found(1, Some(3_000)), none),
    ] {
        let offsets = admin.offsets([0, 1].map(|partition| (at(&topic, partition), spec)).into(), WITHIN).await.unwrap();
        assert_eq!((&offsets[&at(&topic, 0)], &offsets[&at(&topic, 1)]), (&Ok(expected), &Ok(in_the_empty_one)), "{spec:?}");
    }
    delete(&[topic]).await;
}

#[tokio::test]
#[ignore = "needs a broker"]
async fn a_thousand_topics_are_asked_at_once() {
    let (admin, prefix) = (admin(), unique("many"));
    let topics: Vec<_> = (0..1_000).map(|number| format!("{prefix}-{number}")).collect();
    create(&topics, 2, &[]).await;
    let names: BTreeSet<_> = topics.iter().cloned().collect();

    let changes = topics
        .iter()
        .enumerate()
        .map(|(number, topic)| (topic.clone(), BTreeMap::from([("retention.ms".to_owned(), set(&format!("{}", 3_600_000 + number)))])));
    let altered = admin.alter_topic_configs(changes.collect(), WITHIN).await.unwrap();
    assert!(altered.keys().eq(&names) && altered.values().all(Result::is_ok));

    // The controller has them; the brokers hear of it a moment later.
    let deadline = Instant::now() + WITHIN;
    loop {
        let configs = admin.topic_configs(names.clone(), &["retention.ms"], WITHIN).await.unwrap();
        let is_as_set = |(number, topic): (usize, &String)| {
            configs[topic].as_ref().unwrap().get("retention.ms") == Some(&*format!("{}", 3_600_000 + number))
        };
        let right = topics.iter().enumerate().filter(|found| is_as_set(*found)).count();
        if right == topics.len() {
            break;
        }
        assert!(Instant::now() < deadline, "only {right} topics have what they were given");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let partitions = topics.iter().flat_map(|topic| [at(topic, 0), at(topic, 1)]);
    let offsets = admin.offsets(partitions.map(|partition| (partition, OffsetSpec::Latest)).collect(), WITHIN).await.unwrap();
    assert_eq!(offsets.len(), 2_000);
    assert!(offsets.values().all(|offset| *offset == Ok(PartitionOffset { offset: Some(0), timestamp_ms: None })));
    delete(&topics).await;
}

/// A consumer of this group.
fn consumer(group: &str) -> BaseConsumer {
    client().set("group.id", group).set("client.id", "a consumer").set("enable.auto.commit", "false").create().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker"]
async fn a_group_is_described_with_its_members_and_offsets() {
    let (admin, topic, group, missing) = (admin(), unique("read"), unique("group"), unique("nobody"));
    create(std::slice::from_ref(&topic), 3, &[]).await;
    let member = consumer(&group);
    member.subscribe(&[&topic]).unwrap();
    let begun = Instant::now();
    while member.assignment().unwrap().count() < 3 {
        assert!(begun.elapsed() < WITHIN, "nothing is assigned");
        assert!(member.poll(Duration::from_millis(100)).is_none_or(|polled| polled.is_ok()));
    }
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 1, Offset::Offset(0)).unwrap();
    member.commit(&offsets, CommitMode::Sync).unwrap();

    let both: BTreeSet<_> = [group.clone(), missing.clone()].into();
    let list = admin.groups(WITHIN).await.unwrap();
    assert_eq!((list.groups.get(&group), list.groups.get(&missing)), (Some(&GroupState::Stable), None));
    assert_eq!(list.errors, []);
    let described = admin.describe_groups(both.clone(), WITHIN).await.unwrap();
    let description = described[&group].as_ref().unwrap();
    assert_eq!((description.state, description.members.len()), (GroupState::Stable, 1));
    let only = &description.members[0];
    assert_eq!((only.client_id.as_str(), only.instance_id.as_deref()), ("a consumer", None));
    assert_eq!(only.partitions, (0..3).map(|partition| at(&topic, partition)).collect());
    let nobody = described[&missing].as_ref().unwrap();
    assert_eq!((nobody.state, nobody.members.len()), (GroupState::Dead, 0));

    let committed = || admin.committed_offsets(both.clone(), WITHIN);
    let expected = BTreeMap::from([(group.clone(), Ok(BTreeMap::from([(at(&topic, 1), Ok(0))]))), (missing, Ok(BTreeMap::new()))]);
    assert_eq!(committed().await.unwrap(), expected);
    // What was committed outlives its members.
    tokio::task::spawn_blocking(|| drop(member)).await.unwrap();
    let left = admin.describe_groups([group.clone()].into(), WITHIN).await.unwrap();
    assert_eq!(left[&group].as_ref().unwrap().state, GroupState::Empty);
    assert_eq!(committed().await.unwrap(), expected);
    delete(&[topic]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker"]
async fn a_hundred_groups_are_asked_at_once() {
    let (admin, topic, prefix) = (admin(), unique("shared"), unique("groups"));
    create(std::slice::from_ref(&topic), 1, &[]).await;
    let producer: FutureProducer = client().create().unwrap();
    for _ in 0..100 {
        producer.send(FutureRecord::<(), str>::to(&topic).partition(0).payload("r"), WITHIN).await.unwrap();
    }
    let groups: Vec<_> = (0..100).map(|number| format!("{prefix}-{number}")).collect();
    for (number, group) in groups.iter().enumerate() {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&topic, 0, Offset::Offset(number as i64)).unwrap();
        consumer(group).commit(&offsets, CommitMode::Sync).unwrap();
    }
    let names: BTreeSet<_> = groups.iter().cloned().collect();
    let committed = admin.committed_offsets(names.clone(), WITHIN).await.unwrap();
    for (number, group) in groups.iter().enumerate() {
        assert_eq!(committed[group], Ok(BTreeMap::from([(at(&topic, 0), Ok(number as i64))])), "{group}");
    }
    let described = admin.describe_groups(names, WITHIN).await.unwrap();
    assert!(described.values().all(|group| group.as_ref().is_ok_and(|group| group.state == GroupState::Empty)), "{described:?}");
    delete(&[topic]).await;
}

/// Of a topic with a log of some size, by one of the broker's doors.
async fn must_know_log_dirs(config: &KafkaConfig) {
    let topic = unique("disks");
    create(std::slice::from_ref(&topic), 2, &[]).await;
    let producer: FutureProducer = client().create().unwrap();
    let payload = "r".repeat(1000);
    for _ in 0..100 {
        producer.send(FutureRecord::<(), str>::to(&topic).partition(0).payload(&payload), WITHIN).await.unwrap();
    }
    let admin = Admin::new(config).unwrap();
    let description = admin.topic(&topic).await.unwrap().unwrap();
    let leader = |partition: usize| description.partitions[partition].leader.unwrap();
    let asked = BTreeMap::from([(topic.clone(), BTreeSet::from([0, 1])), (unique("missing"), BTreeSet::from([0]))]);
    let found = admin.log_dirs(asked, WITHIN).await.unwrap();
    let written = found.replica_bytes(leader(0), &at(&topic, 0)).unwrap();
    assert!((100_000..1_000_000).contains(&written), "{written}");
    assert_eq!(found.replica_bytes(leader(1), &at(&topic, 1)), Some(0));
    let used = found.used_percent().unwrap();
    assert!((1..=100).contains(&used), "{used}");
    delete(&[topic]).await;
}

fn variable(name: &str) -> String {
    std::env::var(name).expect(name)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker"]
async fn log_dirs_are_known_by_every_door() {
    let authority = std::fs::read_to_string(variable("KAFKA_CA_FILE")).unwrap();
    let security = |protocol, mechanism| KafkaSecurity { protocol, mechanism, ca_certificates: Some(authority.clone()) };
    let credentials = tempfile::tempdir().unwrap();
    for (file, variable_name) in [("kafka-username", "KAFKA_USERNAME"), ("kafka-password", "KAFKA_PASSWORD")] {
        std::fs::write(credentials.path().join(file), variable(variable_name)).unwrap();
    }
    let certificate = tempfile::tempdir().unwrap();
    for (file, variable_name) in [("kafka-tls.crt", "KAFKA_CERT_FILE"), ("kafka-tls.key", "KAFKA_KEY_FILE")] {
        std::fs::copy(variable(variable_name), certificate.path().join(file)).unwrap();
    }
    let config = |bootstrap: &str, security, dir: Option<&tempfile::TempDir>| KafkaConfig {
        bootstrap_servers: vec![variable(bootstrap)],
        security,
        credentials_dir: dir.map(|dir| dir.path().to_owned()),
    };
    must_know_log_dirs(&config("KAFKA_BOOTSTRAP", KafkaSecurity::default(), None)).await;
    must_know_log_dirs(&config("KAFKA_SSL_BOOTSTRAP", security(KafkaProtocol::Tls, None), Some(&certificate))).await;
    let mechanisms = [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
    let scram = mechanisms.map(|mechanism| security(KafkaProtocol::SaslTls, Some(mechanism)));
    for scram in &scram {
        must_know_log_dirs(&config("KAFKA_SASL_BOOTSTRAP", scram.clone(), Some(&credentials))).await;
    }
    // Who is not let in finds no brokers either.
    std::fs::write(credentials.path().join("kafka-password"), "not-the-password").unwrap();
    for scram in scram {
        let wrong = Admin::new(&config("KAFKA_SASL_BOOTSTRAP", scram, Some(&credentials))).unwrap();
        assert!(wrong.log_dirs(BTreeMap::new(), Duration::from_secs(5)).await.is_err());
    }
}
