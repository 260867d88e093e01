//! From the kinds and back: no field is ignored.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use serde_json::{Value, json};
use weir_crds::{RetentionException, TopicRetentionPolicy, kafka_cluster::KafkaClusterSpec, retention_exception::RetentionExceptionSpec};

use super::world::{BEGIN_MS, GROUP, World};
use crate::{HOUR_MS, Policy, Retention, State, policy::Authority, spec, status};

fn full() -> Value {
    json!({
        "clusterRef": {"name": "msk"},
        "topics": {"names": ["a"], "patterns": ["^orders\\..*"], "exclude": ["-changelog$"]},
        "floor": {"minimum": "168h", "lagMultiplierPercent": 300, "lagLookback": "100h", "downtimeAllowance": "72h", "maximum": "720h"},
        "consumerGroups": {"required": ["lake-sink"], "exclude": ["^console-"], "retireAfter": "300h"},
        "protect": {"retentionBytes": false, "cleanupPolicy": false, "brokerDefaults": false, "deletion": false},
        "enforcement": {"mode": "Enforce",
                        "emergencyExtend": {"whenHeadroomBelowPercent": 50, "factorPercent": 200, "maximum": "336h"}},
        "decreases": {"maxStep": "24h", "every": "48h"},
        "slo": {"warningPercent": 20, "criticalPercent": 40, "minTimeToLoss": "3h", "offsetsExpiryPercent": 60},
        "owners": {"team": "growth", "contacts": ["#growth"],
                   "consumers": [{"group": "lake-sink", "team": "data-lake", "contact": "#data-lake", "tables": ["raw.app_events"]}]},
        "detectors": {"deadConsumer": {"after": "15m"}, "lagTrend": {"over": "6h"}},
    })
}

/// The leaves of a value: where they are, as JSON pointers.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| leaves(field, &format!("{at}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| leaves(item, &format!("{at}/{i}"), found)),
        _ => found.push(at.to_owned()),
    }
}

/// The same of a schema, with the first of each list.
fn schema_leaves(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Some(fields) = schema["properties"].as_object() {
        fields.iter().for_each(|(name, field)| schema_leaves(field, &format!("{at}/{name}"), found));
    } else if schema["items"].is_object() {
        schema_leaves(&schema["items"], &format!("{at}/0"), found);
    } else {
        found.insert(at.to_owned());
    }
}

fn spec_schema(crd: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    schema_leaves(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "", &mut found);
    found
}

/// Another value of the same kind.
fn other(value: &Value) -> Value {
    match value {
        Value::Bool(it) => json!(!it),
        Value::Number(it) => json!(it.as_i64().unwrap() + 1),
        Value::String(it) if it == "Enforce" => json!("Warn"),
        Value::String(it) if it.ends_with('h') && it[..it.len() - 1].parse::<i64>().is_ok() => json!(format!("{it}1m")),
        Value::String(it) if it == "15m" => json!("16m"),
        Value::String(it) => json!(format!("x{it}")),
        it => panic!("{it}"),
    }
}

fn parsed(spec: &Value) -> Policy {
    spec::policy("growth/events", &serde_json::from_value(spec.clone()).unwrap()).unwrap()
}

#[test]
fn no_field_of_a_policy_is_ignored() {
    let mut all = Vec::new();
    leaves(&full(), "", &mut all);
    let crd = serde_json::to_value(TopicRetentionPolicy::crd()).unwrap();
    assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), spec_schema(&crd), "the test knows every field");
    let before = format!("{:?}", parsed(&full()));
    for leaf in all {
        let mut spec = full();
        let field = spec.pointer_mut(&leaf).unwrap();
        *field = other(field);
        assert_ne!(format!("{:?}", parsed(&spec)), before, "{leaf}");
    }
}

#[test]
fn what_is_absent_has_its_default() {
    let least = json!({
        "clusterRef": {"name": "msk"}, "topics": {"names": ["app_events"]}, "floor": {"minimum": "168h"},
        "enforcement": {"mode": "Enforce"}, "owners": {"team": "growth"},
    });
    let policy = parsed(&least);
    assert!(policy.matches("msk", "app_events") && !policy.matches("other", "app_events") && !policy.matches("msk", "other"));
    assert_eq!(policy.floor.lag_multiplier_percent, 200);
    assert_eq!((policy.floor.look_back_ms, policy.floor.maximum), (168 * HOUR_MS, Retention::Infinite));
    assert_eq!((policy.slo.warning_percent, policy.slo.critical_percent), (25, 50));
    assert!(policy.protect.broker_defaults && policy.emergency.is_none() && policy.detectors.dead_consumer_after_ms.is_none());
    assert_eq!(policy.authority, Authority::Observe, "until the cluster grants more");
}

#[test]
fn wrong_patterns_and_contradictions_are_named() {
    for (at, wrong, field) in [
        ("/topics/patterns", json!(["^a", "("]), "spec.topics.patterns[1]"),
        ("/topics/exclude", json!(["*"]), "spec.topics.exclude[0]"),
        ("/consumerGroups/exclude", json!(["[a"]), "spec.consumerGroups.exclude[0]"),
        ("/consumerGroups/exclude", json!(["^lake"]), "spec.consumerGroups.required[0]"),
    ] {
        let mut spec = full();
        *spec.pointer_mut(at).unwrap() = wrong;
        let errors = spec::policy("n/p", &serde_json::from_value(spec).unwrap()).unwrap_err();
        assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [field]);
    }
}

#[test]
fn topics_are_matched_by_name_or_pattern_unless_excluded() {
    let policy = parsed(&full());
    for (topic, matched) in [("a", true), ("ab", false), ("orders.x", true), ("my.orders.x", false), ("orders.x-changelog", false)] {
        assert_eq!(policy.matches("msk", topic), matched, "{topic}");
    }
}

#[test]
fn the_strongest_grant_of_a_topic_counts() {
    let grants = json!([
        {"namespaces": ["growth"], "topics": ["^app_.*$"], "verbs": ["Govern"], "maxFloor": "100h"},
        {"namespaces": ["*"], "topics": ["^app_events$"], "verbs": ["Govern", "Read"], "maxFloor": "200h"},
        {"namespaces": ["growth"], "topics": ["^.*$"], "verbs": ["Observe"]},
        {"namespaces": ["growth"], "topics": ["^free$"], "verbs": ["Govern"]},
        {"namespaces": ["other"], "topics": ["^.*$"], "verbs": ["Read", "Write"]},
    ]);
    let cluster: KafkaClusterSpec = serde_json::from_value(json!({"bootstrapServers": ["b:9092"], "grants": grants})).unwrap();
    let hours = |hours: i64| Some(Authority::Govern { max_floor: Retention::Millis(hours * HOUR_MS) });
    for (namespace, topic, expected) in [
        ("growth", "app_x", hours(100)),
        ("growth", "app_events", hours(200)),
        ("growth", "free", Some(Authority::Govern { max_floor: Retention::Infinite })),
        ("growth", "orders", Some(Authority::Observe)),
        ("other", "app_events", hours(200)),
        ("other", "orders", None),
    ] {
        assert_eq!(spec::authority(&cluster, namespace, topic), expected, "{namespace} {topic}");
    }
}

#[test]
fn an_exception_covers_its_topics_for_four_hours_at_most() {
    let spec = |until: &str| -> RetentionExceptionSpec {
        serde_json::from_value(json!({
            "clusterRef": {"name": "msk"}, "topics": ["a", "b"], "floor": "2h", "reason": "disks", "until": until,
        }))
        .unwrap()
    };
    let crd = serde_json::to_value(RetentionException::crd()).unwrap();
    let known: BTreeSet<String> = ["/clusterRef/name", "/topics/0", "/floor", "/reason", "/until"].map(str::to_owned).into();
    assert_eq!(spec_schema(&crd), known);
    let max_ms = spec::exception_max_ms(&KafkaClusterSpec::default());
    let soon = spec::exception("n/e", &spec("2026-11-02T01:00:00Z"), BEGIN_MS, max_ms);
    assert_eq!((soon.name.as_str(), soon.reason.as_str()), ("n/e", "disks"));
    assert_eq!((soon.floor_ms, soon.until_ms), (2 * HOUR_MS, BEGIN_MS + HOUR_MS));
    let late = |max_ms| spec::exception("n/e", &spec("2026-12-01T00:00:00Z"), BEGIN_MS, max_ms).until_ms;
    assert_eq!(late(max_ms), BEGIN_MS + 4 * HOUR_MS);
    for (allowed, hours) in [("1h", 1), ("24h", 24), ("48h", 24)] {
        let cluster = KafkaClusterSpec { exception_maximum: Some(allowed.parse().unwrap()), ..Default::default() };
        assert_eq!(late(spec::exception_max_ms(&cluster)), BEGIN_MS + hours * HOUR_MS, "{allowed}");
    }
    for (cluster, topic, covers) in [("msk", "a", true), ("msk", "b", true), ("msk", "c", false), ("other", "a", false)] {
        assert_eq!(spec::covers(&spec("2026-11-02T01:00:00Z"), cluster, topic), covers, "{cluster} {topic}");
    }
}

#[test]
fn a_topic_floor_shows_an_assessment() {
    let mut world = World::new();
    world.pass(100 * HOUR_MS, HOUR_MS, 60, 0);
    let said = world.look();
    world.apply(&said);
    let said = world.look();
    let shown = status::topic_floor(&said, None);
    let columns = (shown.retention.as_str(), shown.floor.as_deref(), shown.decided_by.as_deref(), shown.limiting_group.as_deref());
    assert_eq!(columns, ("200h", Some("200h"), Some("Lag"), Some(GROUP)));
    let columns = (shown.behind.as_deref(), shown.peak.as_deref(), shown.headroom.as_str(), shown.time_to_loss.as_str());
    assert_eq!(columns, (Some("4d4h"), Some("4d4h"), "Unknown", "Unknown"));
    assert_eq!((shown.state.as_str(), shown.raised["retention.ms"].set.as_str()), ("AtRisk", "720000000"));
}

#[test]
fn a_policy_counts_its_topics_and_names_the_worst() {
    let (mut well, mut ill) = (World::new(), World::new());
    let well = well.keeps_up(HOUR_MS);
    ill.set("retention.ms", HOUR_MS);
    let ill = ill.keeps_up(HOUR_MS);
    let names: Vec<String> = (0..12).map(|i| format!("t{i:02}")).collect();
    let topics = names.iter().map(|n| (n.as_str(), &ill)).chain([("well", &well)]);
    let (counts, worst) = status::summary(topics);
    assert_eq!((counts.matched, counts.violated, counts.healthy), (13, 12, 1));
    assert_eq!((worst.len(), worst[0].topic.as_str(), worst[0].state.as_str()), (10, "t00", State::Violated.as_str()));
}
