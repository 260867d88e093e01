//! Topics of other operators: the table of edits through each of their kinds, and what else may come.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use weir_crds::TopicFloor;

use super::world::{Answered, HOUR_MS, TOPIC, World, cluster, floor, request, standing};
use crate::topic_retention::floor_name;

const TABLE: &str = include_str!("../../../../floors/tables/edits.yaml");

type Config = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default)]
    standing: Differs,
    old: Config,
    wrong: Config,
    twin: Config,
    says: Vec<String>,
    #[serde(default)]
    warns: bool,
    /// For the reconciler's test.
    #[serde(default, rename = "reconciler")]
    _reconciler: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Differs {
    #[serde(default)]
    inherited: BTreeMap<String, Option<String>>,
    #[serde(default)]
    floor_unknown: bool,
    #[serde(default)]
    rate_unknown: bool,
}

fn world(differs: &Differs) -> World {
    let mut standing = standing();
    let fields = standing.as_object_mut().unwrap();
    if differs.floor_unknown {
        fields.remove("floorMs");
    }
    if differs.rate_unknown {
        fields.remove("bytesPerSecond");
    }
    let inherited = fields["inherited"].as_object_mut().unwrap();
    for (key, value) in &differs.inherited {
        match value {
            Some(value) => inherited.insert(key.clone(), value.as_str().into()),
            None => inherited.remove(key),
        };
    }
    World { floors: vec![floor(TOPIC, Some(standing))], ..World::governed() }
}

/// A kind of another operator: its group, its kind, and a resource that declares this configuration.
type Kind = (&'static str, &'static str, fn(&Config) -> Value);

const KINDS: [Kind; 4] = [
    (
        "kafka.strimzi.io",
        "KafkaTopic",
        |config| json!({"metadata": {"name": "app-events", "namespace": "kafka"}, "spec": {"topicName": TOPIC, "config": config}}),
    ),
    (
        "cluster.redpanda.com",
        "Topic",
        |config| json!({"metadata": {"name": "app-events", "namespace": "kafka"}, "spec": {"overwriteTopicName": TOPIC, "additionalConfig": config}}),
    ),
    ("topic.kafka.m.crossplane.io", "Topic", |config| {
        json!({"metadata": {"name": "app-events", "namespace": "kafka", "annotations": {"crossplane.io/external-name": TOPIC}},
               "spec": {"forProvider": {"config": config}}})
    }),
    ("topic.kafka.crossplane.io", "Topic", |config| json!({"metadata": {"name": TOPIC}, "spec": {"forProvider": {"config": config}}})),
];

fn resource(kind: &Kind, config: &Config) -> Value {
    let mut object = kind.2(config);
    object["metadata"]["labels"] = json!({"strimzi.io/cluster": "main"});
    object
}

fn change(world: &World, kind: &Kind, old: Option<&Value>, new: Option<&Value>) -> Answered {
    world.ask(&request(kind.0, kind.1, old, new))
}

fn strimzi(config: Value) -> Value {
    json!({"metadata": {"name": TOPIC, "namespace": "kafka", "labels": {"strimzi.io/cluster": "main"}}, "spec": {"config": config}})
}

fn strimzi_change(world: &World, old: Option<&Value>, new: Option<&Value>) -> Answered {
    change(world, &KINDS[0], old, new)
}

fn rows() -> Vec<Row> {
    serde_yaml_ng::from_str(TABLE).unwrap()
}

#[test]
fn each_wrong_edit_is_refused_and_its_twin_passes_whatever_the_kind() {
    for row in rows() {
        let world = world(&row.standing);
        for kind in &KINDS {
            let name = format!("{} of {}: {}", kind.1, kind.0, row.name);
            let [old, wrong, twin] = [&row.old, &row.wrong, &row.twin].map(|config| resource(kind, config));
            change(&world, kind, Some(&old), Some(&wrong)).is_refused_for(&row.says, &name);
            let answered = change(&world, kind, Some(&old), Some(&twin));
            answered.passes(&name);
            assert_eq!(!answered.warnings.is_empty(), row.warns, "{name}: {answered:?}");
            // A topic that is below its floor already can be changed otherwise.
            let mut labelled = wrong.clone();
            labelled["metadata"]["labels"]["team"] = "growth".into();
            labelled["spec"]["partitions"] = 12.into();
            change(&world, kind, Some(&wrong), Some(&labelled)).passes_in_silence(&name);
        }
    }
}

#[test]
fn a_refusal_names_the_field_of_its_kind() {
    let world = World::governed();
    for (kind, path) in KINDS.iter().zip(["spec.config", "spec.additionalConfig", "spec.forProvider.config", "spec.forProvider.config"]) {
        let low = Config::from([("retention.ms".to_owned(), "3600000".to_owned())]);
        let answered = change(&world, kind, Some(&resource(kind, &Config::new())), Some(&resource(kind, &low)));
        let expected = format!(
            "{path}.\"retention.ms\": 3600000 (1h) is below the floor of 604800000 (168h) of topic app_events: group lake-sink is 8h12m \
             behind (peak 3d12h, 2026-11-02), twice that is needed; owner data-lake (#data-lake). To go below it for a while, \
             create a RetentionException."
        );
        assert_eq!(answered.message, Some(expected));
    }
    let answered = strimzi_change(&world, Some(&strimzi(json!({"retention.ms": 1_209_600_000}))), Some(&strimzi(json!({}))));
    assert_eq!(answered.message, None);
    assert!(answered.warnings[0].contains("lake-sink (raw.app_events)") && answered.warnings[0].contains("#data-lake"), "{answered:?}");
}

#[test]
fn numbers_flags_and_lists_are_read_as_their_operator_hands_them_to_kafka() {
    let world = World::governed();
    let old = strimzi(json!({"cleanup.policy": ["compact"], "retention.ms": 60_000}));
    let refused =
        strimzi_change(&world, Some(&old), Some(&strimzi(json!({"cleanup.policy": ["compact", "delete"], "retention.ms": 60_000}))));
    refused.is_refused_for(&["compact,delete deletes records after 60000 (1m)".into()], "a list");
    let off = strimzi(json!({"remote.storage.enable": false, "remote.log.delete.on.disable": true, "local.retention.ms": 60_000}));
    let on = strimzi(json!({"remote.storage.enable": true, "remote.log.delete.on.disable": true, "local.retention.ms": 60_000}));
    strimzi_change(&world, Some(&on), Some(&off)).is_refused_for(&["remote.storage.enable".into()], "a flag");
    strimzi_change(&world, Some(&strimzi(json!({"retention.ms": null}))), Some(&strimzi(json!({})))).passes_in_silence("null is not set");
}

#[test]
fn a_resource_that_is_made_is_laid_over_what_the_topic_sets_now() {
    let low = strimzi(json!({"retention.ms": "3600000"}));
    let mut world = World::governed();
    strimzi_change(&world, None, Some(&low)).is_refused_for(&["3600000 (1h)".into()], "over the default");
    let mut already_low = standing();
    already_low["own"] = json!({"retention.ms": "3600000"});
    world.floors = vec![floor(TOPIC, Some(already_low))];
    strimzi_change(&world, None, Some(&low)).passes_in_silence("it is so already");
    // A topic that nobody has seen may not be there yet.
    world.floors.clear();
    world.policies = vec![policy("Enforce")];
    strimzi_change(&world, None, Some(&low)).passes_in_silence("it may be new");
}

fn policy(mode: &str) -> Value {
    json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy",
        "metadata": {"name": "events", "namespace": "growth", "uid": format!("policy-{mode}"), "generation": 1},
        "spec": {"clusterRef": {"name": "main"}, "topics": {"patterns": ["^app_"]}, "floor": {"minimum": "168h"},
                 "enforcement": {"mode": mode}, "owners": {"team": "growth", "contacts": ["#growth"]}},
    })
}

#[test]
fn what_is_governed_and_not_known_is_not_lowered_and_what_is_not_governed_passes() {
    let [week, two_weeks, unset] = [json!({"retention.ms": "604800000"}), json!({"retention.ms": "1209600000"}), json!({})].map(strimzi);
    let mut unseen = World { policies: vec![policy("Enforce")], floors: vec![], ..World::governed() };
    let mut empty = unseen.clone();
    empty.floors = vec![floor(TOPIC, None)];
    for world in [&unseen, &empty] {
        let says = ["whose floor is not known now".to_owned(), "weir has not looked at it yet".into(), "growth (#growth)".into()];
        strimzi_change(world, Some(&two_weeks), Some(&week)).is_refused_for(&says, "lowered");
        strimzi_change(world, Some(&week), Some(&unset)).is_refused_for(&["does not know what topic".into()], "left out");
        strimzi_change(world, Some(&week), Some(&two_weeks)).passes_in_silence("raised");
        strimzi_change(world, Some(&week), None).is_refused_for(&["protected from deletion".into()], "deleted");
    }
    unseen.policies = vec![policy("Audit")];
    strimzi_change(&unseen, Some(&two_weeks), Some(&week)).passes_in_silence("audit");
    unseen.policies = vec![];
    strimzi_change(&unseen, Some(&two_weeks), Some(&week)).passes_in_silence("nobody governs it");
    // Without a grant a policy governs nothing.
    unseen.policies = vec![policy("Enforce")];
    unseen.clusters[0]["spec"]["grants"][0]["verbs"] = json!(["Observe"]);
    strimzi_change(&unseen, Some(&two_weeks), Some(&week)).passes_in_silence("not granted");
}

#[test]
fn a_resource_is_tied_by_kind_namespace_and_labels() {
    let (week, low) = (strimzi(json!({})), strimzi(json!({"retention.ms": "1000"})));
    let ask = |resources: Value| {
        let mut world = World::governed();
        world.clusters[0]["spec"]["topicResources"] = resources;
        strimzi_change(&world, Some(&week), Some(&low)).message.is_some()
    };
    for (resources, tied) in [
        (json!([{"kind": "StrimziKafkaTopic", "matchLabels": {"strimzi.io/cluster": "main"}}]), true),
        (json!([{"kind": "StrimziKafkaTopic", "namespaces": ["kafka"]}]), true),
        (json!([{"kind": "StrimziKafkaTopic", "namespaces": ["kafka"], "matchLabels": {"strimzi.io/cluster": "main"}}]), true),
        (json!([{"kind": "RedpandaTopic", "namespaces": ["kafka"]}]), false),
        (json!([{"kind": "StrimziKafkaTopic", "namespaces": ["other"]}]), false),
        (json!([{"kind": "StrimziKafkaTopic", "matchLabels": {"strimzi.io/cluster": "other"}}]), false),
        (json!([{"kind": "StrimziKafkaTopic", "namespaces": ["other"], "matchLabels": {"strimzi.io/cluster": "main"}}]), false),
        (json!([{"kind": "StrimziKafkaTopic", "namespaces": ["other"]}, {"kind": "StrimziKafkaTopic", "namespaces": ["kafka"]}]), true),
        (json!([]), false),
    ] {
        assert_eq!(ask(resources.clone()), tied, "{resources}");
    }
    // Of two clusters each one judges.
    let mut world = World::governed();
    world.clusters.insert(0, cluster("other"));
    world.clusters[0]["spec"]["topicResources"] = json!([{"kind": "StrimziKafkaTopic", "namespaces": ["kafka"]}]);
    assert!(strimzi_change(&world, Some(&week), Some(&low)).message.is_some());
}

#[test]
fn a_topic_is_not_deleted_with_its_resource_unless_it_may_be() {
    let owned = strimzi(json!({}));
    let world = World::governed();
    strimzi_change(&world, Some(&owned), None).is_refused_for(&["protected from deletion".into(), "protect.deletion".into()], "deleted");
    let mut unmanaged = owned.clone();
    unmanaged["metadata"]["annotations"] = json!({"strimzi.io/managed": "false"});
    strimzi_change(&world, Some(&unmanaged), None).passes_in_silence("the topic stays");
    let mut going = owned.clone();
    going["metadata"]["deletionTimestamp"] = "2026-11-07T00:00:00Z".into();
    strimzi_change(&world, Some(&going), None).passes_in_silence("it is going already");
    let mut low = strimzi(json!({"retention.ms": "1000"}));
    low["metadata"]["deletionTimestamp"] = "2026-11-07T00:00:00Z".into();
    strimzi_change(&world, Some(&owned), Some(&low)).passes_in_silence("nothing holds up what is going");
    for (kind, spec) in
        [(&KINDS[2], json!({"managementPolicies": ["Observe", "Update"]})), (&KINDS[3], json!({"deletionPolicy": "Orphan"}))]
    {
        let mut orphan = resource(kind, &Config::new());
        change(&world, kind, Some(&orphan), None).is_refused_for(&[TOPIC.into()], kind.0);
        orphan["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        change(&world, kind, Some(&orphan), None).passes_in_silence(kind.0);
    }
    let mut free = standing();
    free["protect"]["deletion"] = false.into();
    let world = World { floors: vec![floor(TOPIC, Some(free))], ..World::governed() };
    strimzi_change(&world, Some(&owned), None).passes_in_silence("its policy lets it go");
}

#[test]
fn another_topic_under_the_same_resource_is_judged_by_its_own_floor() {
    let named = |name: &str, ms: i64| {
        let mut object = strimzi(json!({"retention.ms": ms}));
        object["spec"]["topicName"] = name.into();
        object
    };
    let world = World::governed();
    strimzi_change(&world, Some(&named("other", HOUR_MS)), Some(&named(TOPIC, HOUR_MS))).is_refused_for(&[TOPIC.into()], "it takes over");
    strimzi_change(&world, Some(&named(TOPIC, HOUR_MS)), Some(&named("other", 1))).passes_in_silence("nobody governs the other");
}

#[test]
fn a_thousand_floors_are_answered_from_within_milliseconds() {
    let mut world = World::governed();
    for number in 0..1000 {
        world.floors.push(floor(&format!("topic-{number}"), Some(standing())));
    }
    let caches = world.caches();
    let named: Option<std::sync::Arc<TopicFloor>> = caches.floor("main", "topic-777");
    assert_eq!(named.unwrap().metadata.name.as_deref(), Some(floor_name("main", "topic-777").as_str()));
    let asked = request("kafka.strimzi.io", "KafkaTopic", Some(&strimzi(json!({}))), Some(&strimzi(json!({"retention.ms": 1}))));
    let review = serde_json::from_value(json!({"request": asked})).unwrap();
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        assert!(!crate::admission::judge(&review, &caches, jiff::Timestamp::UNIX_EPOCH).1.refusals.is_empty());
    }
    // Generous: this machine may be busy. A scan of the floors, or parsing policies each time, would take longer still.
    assert!(begun.elapsed().as_millis() < 200 * 10, "{:?}", begun.elapsed());
}
