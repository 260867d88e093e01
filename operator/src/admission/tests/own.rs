//! weir's own kinds: the table of policies, and the checks that the controllers share.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::world::{Answered, HOUR_MS, TOPIC, World, cluster, floor, request, standing};

const TABLE: &str = include_str!("../../../../floors/tables/policies.yaml");

#[derive(Deserialize)]
struct Table {
    base: Value,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default = "behind_100_hours")]
    standing: Option<Vec<Behind>>,
    old: Option<Value>,
    wrong: Value,
    twin: Value,
    says: Vec<String>,
    #[serde(default)]
    warns: Vec<String>,
    /// For the reconciler's test.
    #[serde(default, rename = "reconciler")]
    _reconciler: IgnoredAny,
}

#[derive(Clone, Deserialize)]
struct Behind {
    group: String,
    hours: Option<i64>,
}

fn behind_100_hours() -> Option<Vec<Behind>> {
    Some(vec![Behind { group: "lake-sink".into(), hours: Some(100) }])
}

/// Lays one value over another: objects field by field.
fn laid_over(base: &Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            let mut all = base.clone();
            for (key, value) in over {
                let laid = base.get(key).map_or_else(|| value.clone(), |base| laid_over(base, value));
                all.insert(key.clone(), laid);
            }
            Value::Object(all)
        }
        (_, over) => over.clone(),
    }
}

fn own(kind: &str, old: Option<&Value>, new: &Value) -> Value {
    request("weir.dev", kind, old, Some(new))
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "weir.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "growth", "uid": name}, "spec": spec})
}

fn policy(spec: Value) -> Value {
    object("TopicRetentionPolicy", "events", spec)
}

fn world(consumers: Option<&[Behind]>) -> World {
    // Two days before the request.
    let hour_ms = 1_794_009_600_000 - 48 * HOUR_MS;
    let consumer = |b: &Behind| match b.hours {
        Some(hours) => json!({"group": b.group, "peak": {"behindMs": hours * HOUR_MS, "hourMs": hour_ms}}),
        None => json!({"group": b.group}),
    };
    let standing = consumers.map(|consumers| {
        let mut standing = standing();
        standing["consumers"] = consumers.iter().map(consumer).collect();
        standing
    });
    World { clusters: vec![cluster("main")], floors: vec![floor("app_events", standing)], ..World::default() }
}

#[test]
fn each_wrong_policy_is_refused_and_its_twin_passes() {
    let table: Table = serde_yaml_ng::from_str(TABLE).unwrap();
    for row in &table.rows {
        let world = world(row.standing.as_deref());
        let old = row.old.as_ref().map(|old| policy(laid_over(&table.base, old)));
        let ask = |new: &Value| world.ask(&own("TopicRetentionPolicy", old.as_ref(), &policy(laid_over(&table.base, new))));
        ask(&row.wrong).is_refused_for(&row.says, &row.name);
        let Answered { message, warnings } = ask(&row.twin);
        assert_eq!((message, warnings.is_empty()), (None, row.warns.is_empty()), "{}: {warnings:?}", row.name);
        let said = warnings.join("; ");
        assert!(row.warns.iter().all(|words| said.contains(words)), "{}: {said}", row.name);
    }
}

#[test]
fn a_floor_that_another_policy_holds_up_may_be_lowered() {
    let table: Table = serde_yaml_ng::from_str(TABLE).unwrap();
    let mut world = world(behind_100_hours().as_deref());
    let (old, new) =
        (policy(table.base.clone()), policy(laid_over(&table.base, &json!({"floor": {"minimum": "1h", "lagMultiplierPercent": 0}}))));
    world.policies = vec![old.clone()];
    let ask = |world: &World| world.ask(&own("TopicRetentionPolicy", Some(&old), &new)).message.is_some();
    assert!(ask(&world), "it does not hold itself up");
    let mut other = object("TopicRetentionPolicy", "other", table.base.clone());
    world.policies.push(other.clone());
    assert!(!ask(&world));
    // One that is not granted anything holds nothing up.
    other["metadata"]["namespace"] = "elsewhere".into();
    world.policies[1] = other;
    assert!(ask(&world));
}

#[test]
fn what_is_left_of_a_topic_that_is_gone_refuses_no_policy() {
    let table: Table = serde_yaml_ng::from_str(TABLE).unwrap();
    let mut world = world(None);
    let old = policy(table.base.clone());
    let new = policy(laid_over(&table.base, &json!({"floor": {"minimum": "1h", "lagMultiplierPercent": 0}})));
    let ask = |world: &World| world.ask(&own("TopicRetentionPolicy", Some(&old), &new)).message.is_some();
    assert!(ask(&world), "nothing is known of a topic that is governed");
    world.floors[0]["status"]["state"] = "TopicDeleted".into();
    assert!(!ask(&world));
}

fn class(default: bool) -> Value {
    json!({
        "default": default, "artifactStore": {"bucket": "weir", "s3": {"region": "x"}},
        "workers": {"cpu": "2", "memory": "4Gi", "scratch": "20Gi"}, "limits": {"maxParallelism": 4, "maxWindow": "24h"},
    })
}

fn job() -> Value {
    json!({
        "reason": "test", "serviceAccountName": "backfill", "runGeneration": 1,
        "window": {"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T07:00:00Z", "slice": "1m"},
        "sources": [{"name": "logs", "s3": {"bucket": "logs", "prefix": "v2/{date}/", "format": "JsonLines"}, "columns": "ts timestamp, id string",
                     "arrival": "PathTime", "allowedLateness": "2h", "select": "SELECT id, ts, 'x' AS kind FROM logs"}],
        "reconstruct": {"columns": {"eventId": "id", "eventTime": "ts", "eventType": "kind"}},
        "sinks": [{"name": "events", "kafka": {"clusterRef": {"name": "main"}, "topic": "app_events", "mode": "InPlace",
                   "value": {"format": "Json", "columns": ["id"]}, "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey"}}],
        "approval": {"mode": "Manual"}, "execution": {"parallelism": 2},
    })
}

/// Kind, what is laid over the right spec, and what the refusal says.
fn wrong_specs() -> Vec<(&'static str, Value, Value, &'static [&'static str])> {
    let grants = |topics: &str| json!([{"namespaces": ["growth"], "topics": [topics], "verbs": ["Write"]}]);
    let cluster = json!({"bootstrapServers": ["kafka:9092"]});
    vec![
        (
            "BackfillJob",
            job(),
            json!({"window": {"exclude": [{"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T07:00:00Z", "reason": "all"}]}}),
            &["spec.window.exclude", "the whole window"],
        ),
        (
            "BackfillJob",
            job(),
            json!({"window": {"exclude": [{"start": "2026-11-04T06:00:00Z", "end": "2026-11-04T07:00:00Z", "reason": "out"}]}}),
            &["spec.window.exclude[0]", "outside the window"],
        ),
        (
            "BackfillJob",
            job(),
            json!({"window": {"start": "2026-11-01T06:00:00Z"}}),
            &["spec.window", "longer than the 24h", "class isolated"],
        ),
        ("BackfillJob", job(), json!({"execution": {"parallelism": 5}}), &["spec.execution.parallelism", "more than the 4"]),
        (
            "BackfillJob",
            job(),
            json!({"sinks": [{"name": "events", "kafka": {"clusterRef": {"name": "main"}, "topic": "theirs", "mode": "InPlace",
            "value": {"format": "Json", "columns": ["id"]}, "partitioner": "Murmur2", "timestamps": "EventTime", "ordering": "PerKey"}}]}),
            &["spec.sinks[0].kafka.topic", "does not grant Write on topic theirs", "spec.grants"],
        ),
        ("KafkaCluster", cluster.clone(), json!({"grants": grants("^app_($")}), &["spec.grants[0].topics[0]", "not a regular expression"]),
        ("KafkaCluster", cluster, json!({"grants": grants("^a)$")}), &["spec.grants[0].topics[0]"]),
        ("BackfillClass", class(false), json!({"workers": {"memory": "4 GB"}}), &["spec.workers.memory", "not a quantity of bytes", "4Gi"]),
        ("BackfillClass", class(false), json!({"workers": {"scratch": "lots"}}), &["spec.workers.scratch"]),
        ("BackfillClass", class(false), json!({"default": true}), &["spec.default", "isolated is the default already"]),
    ]
}

fn platform() -> World {
    let mut world = World { clusters: vec![cluster("main")], ..World::default() };
    world.clusters[0]["spec"]["grants"][0]["topics"] = json!(["^app_.*$"]);
    world.classes = vec![object("BackfillClass", "isolated", class(true))];
    world
}

#[test]
fn what_the_controllers_would_not_take_is_refused_and_only_what_is_new_of_it() {
    let world = platform();
    for (kind, right, over, says) in wrong_specs() {
        let (right, wrong) = (object(kind, "one", right.clone()), object(kind, "one", laid_over(&right, &over)));
        let says: Vec<String> = says.iter().map(|s| (*s).to_owned()).collect();
        let name = format!("{kind} {over}");
        world.ask(&own(kind, None, &right)).passes_in_silence(&name);
        world.ask(&own(kind, None, &wrong)).is_refused_for(&says, &name);
        world.ask(&own(kind, Some(&right), &wrong)).is_refused_for(&says, &name);
        // What was wrong before does not hold up a change of something else, and can be mended.
        world.ask(&own(kind, Some(&wrong), &wrong)).passes_in_silence(&name);
        world.ask(&own(kind, Some(&wrong), &right)).passes_in_silence(&name);
    }
}

#[test]
fn what_may_still_come_is_waited_for_and_a_draft_need_not_be_granted() {
    let mut world = platform();
    let theirs = laid_over(&job(), &wrong_specs()[4].2);
    let suspended = laid_over(&theirs, &json!({"suspend": true}));
    let [theirs, suspended] = [theirs, suspended].map(|spec| object("BackfillJob", "one", spec));
    world.ask(&own("BackfillJob", None, &suspended)).passes_in_silence("a draft");
    world.ask(&own("BackfillJob", Some(&suspended), &theirs)).is_refused_for(&["does not grant".into()], "it would begin");
    let wide = |suspend| object("BackfillJob", "one", laid_over(&job(), &json!({"execution": {"parallelism": 50}, "suspend": suspend})));
    world.ask(&own("BackfillJob", None, &wide(true))).passes_in_silence("a draft of more than its class allows");
    world.ask(&own("BackfillJob", Some(&wide(true)), &wide(false))).is_refused_for(&["parallelism".into()], "it would begin");
    let begun = |suspend| {
        let mut job = wide(suspend);
        job["status"] = json!({"phase": "Running", "run": {"id": "", "generation": 1, "uri": "", "digest": ""}});
        job
    };
    for (from, to) in [(false, true), (true, false)] {
        world.ask(&own("BackfillJob", Some(&begun(from)), &begun(to))).passes_in_silence("it had begun when its class allowed more");
    }
    world.clusters.clear();
    world.ask(&own("BackfillJob", None, &theirs)).passes_in_silence("its cluster may come");
    world.classes.clear();
    let long = object("BackfillJob", "one", laid_over(&job(), &json!({"execution": {"parallelism": 50}})));
    world.ask(&own("BackfillJob", None, &long)).passes_in_silence("its class may come");
}

#[test]
fn jobs_about_the_same_time_of_a_topic_are_told_of() {
    let mut world = platform();
    let other = object(
        "BackfillJob",
        "other",
        laid_over(&job(), &json!({"window": {"start": "2026-11-03T06:30:00Z", "end": "2026-11-03T09:00:00Z"}})),
    );
    world.jobs = vec![other.clone(), object("BackfillJob", "one", job())];
    let ask = |world: &World, over: Value| world.ask(&own("BackfillJob", None, &object("BackfillJob", "one", laid_over(&job(), &over))));
    let Answered { message, warnings } = ask(&world, json!({}));
    assert_eq!(message, None);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    for said in
        ["BackfillJob growth/other (Pending)", "topic app_events", "from 2026-11-03T06:30:00Z to 2026-11-03T07:00:00Z", "spec.window"]
    {
        assert!(warning.contains(said), "{said:?} is not in {warning:?}");
    }
    ask(&world, json!({"window": {"end": "2026-11-03T06:30:00Z"}})).passes_in_silence("it ends as the other begins");
    let mut sink = job()["sinks"][0].clone();
    sink["kafka"]["topic"] = "app_clicks".into();
    ask(&world, json!({"sinks": [sink]})).passes_in_silence("another topic");
    world.jobs[0]["spec"]["suspend"] = true.into();
    ask(&world, json!({})).passes_in_silence("a draft publishes nothing");
    world.jobs[0]["status"] = json!({"phase": "Suspended", "run": {"id": "", "generation": 1, "uri": "", "digest": ""}});
    assert_eq!(ask(&world, json!({})).warnings.len(), 1, "one that has begun does");
}

#[test]
fn what_cannot_be_read_and_what_is_not_judged_here_is_refused() {
    let world = platform();
    world
        .ask(&own("KafkaCluster", None, &json!({"metadata": {"name": "x"}, "spec": {}})))
        .is_refused_for(&["cannot be read".into()], "no spec");
    world
        .ask(&request("apps", "Deployment", None, Some(&json!({"metadata": {"name": "x"}}))))
        .is_refused_for(&["does not judge Deployment of apps".into()], "rules");
}

fn exception(over: &Value) -> Value {
    let right = json!({
        "clusterRef": {"name": "main"}, "topics": [TOPIC], "floor": "2h", "reason": "disks are full", "until": "2026-11-07T03:00:00Z",
    });
    object("RetentionException", "now", laid_over(&right, over))
}

#[test]
fn an_exception_that_would_not_hold_is_refused() {
    let ask = |world: &World, over: Value| world.ask(&own("RetentionException", None, &exception(&over)));
    let world = World::governed();
    ask(&world, json!({})).passes_in_silence("right");
    let far = json!({"until": "2026-11-07T05:30:00Z"});
    let rows: [(Value, &[&str]); 3] = [
        (json!({"clusterRef": {"name": "mian"}}), &["spec.clusterRef.name", "no KafkaCluster mian"]),
        (json!({"until": "2026-11-06T23:59:00Z"}), &["spec.until", "is past", "up to 2026-11-07T04:00:00Z"]),
        (far.clone(), &["spec.until", "is in 5h30m", "at most 4h"]),
    ];
    for (over, says) in rows {
        let says: Vec<String> = says.iter().map(|s| (*s).to_owned()).collect();
        ask(&world, over.clone()).is_refused_for(&says, &over.to_string());
    }
    let mut longer = world.clone();
    longer.clusters[0]["spec"]["exceptionMaximum"] = "24h".into();
    ask(&longer, far).passes_in_silence("the cluster allows more");
    let mut denied = world;
    denied.clusters[0]["spec"]["grants"][0]["verbs"] = json!(["Observe"]);
    let says = ["spec.topics[0]", "does not grant Govern on topic app_events to namespace growth", "spec.grants"].map(String::from);
    ask(&denied, json!({})).is_refused_for(&says, "not granted");
}

#[test]
fn an_exception_that_changes_nothing_says_so() {
    let world = World::governed();
    for (over, says) in [
        (json!({"topics": [TOPIC, "app_evnets"]}), "topic app_evnets has no floor"),
        (json!({"floor": "168h"}), "the floor of topic app_events is 168h, which 168h does not lower"),
    ] {
        let Answered { message, warnings } = world.ask(&own("RetentionException", None, &exception(&over)));
        assert!(message.is_none() && warnings.len() == 1 && warnings[0].contains(says), "{over}: {message:?} {warnings:?}");
    }
}
