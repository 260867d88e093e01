//! The table of policies, as the reconciler meets them: somebody has written them, and admission was not asked.

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use weir_crds::{TopicRetentionPolicy, duration::KubeDuration, topic_floor::TopicFloorStatus};

use super::world::{GROUP, TOPIC, World, condition, status};

const TABLE: &str = include_str!("../../../../floors/tables/policies.yaml");
/// Where the topic ends all the time.
const END: i64 = 100;
const HOUR_MS: i64 = 3_600_000;

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
    #[serde(default, rename = "warns")]
    _warns: IgnoredAny,
    #[serde(default)]
    reconciler: Reconciler,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Behind {
    group: String,
    hours: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Reconciler {
    takes: Option<Then>,
    never: Option<String>,
}

/// What becomes of the floor under a wrong policy that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum Then {
    LivesOn,
    Capped,
}

fn behind_100_hours() -> Option<Vec<Behind>> {
    Some(vec![Behind { group: GROUP.into(), hours: Some(100) }])
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

impl Table {
    fn read() -> Self {
        serde_yaml_ng::from_str(TABLE).unwrap()
    }

    fn policy(&self, over: &Value, generation: i64) -> Arc<TopicRetentionPolicy> {
        let policy = json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy",
            "metadata": {"name": "events", "namespace": "growth", "uid": "policy-uid", "generation": generation},
            "spec": laid_over(&self.base, over),
        });
        Arc::new(serde_json::from_value(policy).unwrap())
    }

    /// Puts the policy into the world, in place of the one that is there; returns what its status says then.
    async fn put(&self, world: &mut World, over: &Value) -> Value {
        world.scene.policies = vec![self.policy(over, 2)];
        let status = status(&world.pass(2).await, "topicretentionpolicies");
        assert_eq!(status["observedGeneration"], 2);
        status
    }

    /// Under the policy of before, if there was one.
    async fn before(&self, row: &Row) -> World {
        let mut world = World::new("Enforce");
        world.scene.policies = row.old.iter().map(|old| self.policy(old, 1)).collect();
        if row.old.is_some() {
            world.pass(2).await;
        }
        world
    }

    /// Under the policy of before, and two days ago groups were behind as the row says.
    async fn behind(&self, row: &Row) -> World {
        let mut world = World::new("Enforce");
        let mut cluster = (*world.scene.cluster).clone();
        cluster.spec.grants[0].topics = vec!["^.*$".into()];
        world.scene.cluster = Arc::new(cluster);
        let mut other = world.kafka().topics[TOPIC].clone();
        other.id = "second".into();
        world.kafka().topics.insert("other".into(), other);
        world.scene.policies = vec![self.policy(row.old.as_ref().unwrap(), 1)];
        let mut groups = row.standing.clone().unwrap();
        // Older records lie further back, and are read later: one that was not read is taken for as old as the last before it.
        groups.sort_by_key(|behind| behind.hours);
        for (offset, Behind { group, hours }) in (0..END).rev().step_by(20).zip(&groups) {
            commit(&world, group, hours.map(|_| offset));
            world.kafka().stamp_ms = hours.map(|hours| world.now.as_millisecond() + 120_000 - hours * HOUR_MS);
            world.pass(2).await;
            commit(&world, group, hours.map(|_| END));
        }
        world.now += SignedDuration::from_hours(48);
        world.pass(2).await;
        groups.reverse();
        assert_eq!(peaks(&world), groups, "{}", row.name);
        world
    }
}

impl Row {
    /// What consumers need of the floor of before: as long as they were behind, and all of it where that is not known.
    fn needed_ms(&self, before_ms: i64) -> i64 {
        let hours = self.standing.iter().flatten().map(|behind| behind.hours.unwrap_or(i64::MAX / HOUR_MS)).max();
        before_ms.min(hours.unwrap() * HOUR_MS)
    }
}

/// `None`: its coordinator does not answer.
fn commit(world: &World, group: &str, offset: Option<i64>) {
    let committed = offset.map(|offset| BTreeMap::from([(TOPIC.to_owned(), offset)]));
    world.kafka().groups.insert(group.into(), committed);
}

fn shown(world: &World) -> &TopicFloorStatus {
    world.scene.floors.iter().find(|floor| floor.spec.topic == TOPIC).unwrap().status.as_ref().unwrap()
}

fn floor_ms(world: &World) -> i64 {
    let floor: KubeDuration = shown(world).floor.as_ref().unwrap().parse().unwrap();
    floor.as_micros() / 1000
}

/// How far groups were behind at worst, as admission is told: in whole hours, the furthest first.
fn peaks(world: &World) -> Vec<Behind> {
    let hours = |ms: i64| (ms + HOUR_MS - 1) / HOUR_MS;
    let consumers = &shown(world).standing.as_ref().unwrap().consumers;
    consumers.iter().map(|c| Behind { group: c.group.clone(), hours: c.peak.map(|peak| hours(peak.behind_ms)) }).collect()
}

fn message(status: &Value, kind: &str) -> String {
    let found = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap();
    found["message"].as_str().unwrap().to_owned()
}

fn watching() -> (String, String) {
    ("False".into(), "Watching".into())
}

#[test]
fn what_is_never_met_says_why() {
    let table = Table::read();
    let never: Vec<&String> = table.rows.iter().filter_map(|row| row.reconciler.never.as_ref()).collect();
    assert!(never.len() == 1 && !never[0].is_empty(), "{never:?}");
}

#[tokio::test]
async fn a_policy_that_is_wrong_by_itself_is_not_taken_and_its_status_says_what_the_refusal_says() {
    let table = Table::read();
    let rows: Vec<&Row> = table.rows.iter().filter(|row| row.reconciler.takes.is_none() && row.reconciler.never.is_none()).collect();
    assert_eq!(rows.len(), 8);
    for row in rows {
        let mut world = table.before(row).await;
        let status = table.put(&mut world, &row.wrong).await;
        assert_eq!(condition(&status, "Stalled"), ("True".into(), "InvalidSpec".into()), "{}", row.name);
        let message = message(&status, "Stalled");
        assert!(row.says.iter().all(|said| message.contains(said)), "{}: {message}", row.name);
        // What was asked for before it was wrong still is.
        assert_eq!(world.scene.floors.len(), row.old.iter().count(), "{}", row.name);
        let mut world = table.before(row).await;
        let status = table.put(&mut world, &row.twin).await;
        assert_eq!((condition(&status, "Stalled"), world.scene.floors.len()), (watching(), 1), "{}", row.name);
    }
}

#[tokio::test]
async fn a_change_that_asks_for_too_little_is_taken_and_what_consumers_need_is_kept_or_said_to_be_capped() {
    let table = Table::read();
    let rows: Vec<(&Row, Then)> = table.rows.iter().filter_map(|row| Some((row, row.reconciler.takes?))).collect();
    assert_eq!(rows.len(), 12);
    for (row, then) in rows {
        for (over, then) in [(&row.wrong, then), (&row.twin, Then::LivesOn)] {
            let mut world = table.behind(row).await;
            let needed_ms = row.needed_ms(floor_ms(&world));
            let status = table.put(&mut world, over).await;
            assert_eq!(condition(&status, "Stalled"), watching(), "{}: {over}", row.name);
            let lives_on = if floor_ms(&world) >= needed_ms { Then::LivesOn } else { Then::Capped };
            assert_eq!(lives_on, then, "{}: {over}", row.name);
            let is_capped = condition(&status, "FloorCapped").0 == "True";
            assert!(is_capped || then == Then::LivesOn, "{}: {over}", row.name);
        }
    }
}
