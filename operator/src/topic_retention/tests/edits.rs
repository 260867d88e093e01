//! The table of topic edits, as the reconciler meets them: somebody has made them on the broker, and asked nobody.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::{Deserialize, de::IgnoredAny};
use weir_crds::topic_floor::TopicFloorStatus;
use weir_floors::{
    judge::{Edit, Standing, Verdict, judge},
    standing::of_floor,
};

use super::world::{GROUP, TOPIC, WEEK, World};

const TABLE: &str = include_str!("../../../../floors/tables/edits.yaml");
/// As long as a topic is watched before its edit: longer than a rate needs to be known.
const MINUTES: i64 = 15;
/// From this one on nobody knows how far the group is, where the floor is not to be known.
const SILENT_FROM: i64 = 12;

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
    #[serde(rename = "says")]
    _says: IgnoredAny,
    #[serde(default, rename = "warns")]
    _warns: IgnoredAny,
    #[serde(default)]
    reconciler: Reconciler,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Differs {
    inherited: BTreeMap<String, Option<String>>,
    floor_unknown: bool,
    rate_unknown: bool,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Reconciler {
    raises: Config,
    raises_twin: Config,
    /// Why no broker ever has it.
    never: Option<String>,
}

impl Default for Reconciler {
    fn default() -> Self {
        Self { raises: Config::from([("retention.ms".to_owned(), WEEK.to_owned())]), raises_twin: Config::new(), never: None }
    }
}

/// The rows that a broker can have.
fn rows() -> Vec<Row> {
    let rows: Vec<Row> = serde_yaml_ng::from_str(TABLE).unwrap();
    rows.into_iter().filter(|row| row.reconciler.never.is_none()).collect()
}

impl Row {
    /// What a topic has that sets nothing itself.
    fn inherited(&self) -> Config {
        let all = [
            ("retention.ms", WEEK),
            ("retention.bytes", "-1"),
            ("cleanup.policy", "delete"),
            ("remote.storage.enable", "false"),
            ("remote.log.delete.on.disable", "false"),
            ("local.retention.ms", "-2"),
            ("local.retention.bytes", "-2"),
        ];
        let all = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let differs = self.standing.inherited.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        all.chain(differs).collect()
    }

    /// Makes the topic set this and nothing else.
    fn set(&self, world: &World, own: &Config) {
        let mut config = self.inherited();
        config.extend(own.clone());
        world.kafka().topics.get_mut(TOPIC).unwrap().config = config;
    }

    /// The topic before the edit. It has grown by 1,000 bytes a second, and its group has kept up.
    async fn watched(&self, mode: &str) -> World {
        let mut world = World::new(mode);
        self.set(&world, &self.old);
        world.kafka().used_percent = (!self.standing.rate_unknown).then_some(50);
        for minute in 0..MINUTES {
            let end = 60 * (minute + 1);
            world.log(0, end);
            world.kafka().bytes = 1000 * end.unsigned_abs();
            let is_known = !self.standing.floor_unknown || minute < SILENT_FROM;
            world.kafka().groups.insert(GROUP.into(), is_known.then(|| BTreeMap::from([(TOPIC.to_owned(), end)])));
            world.now += SignedDuration::from_secs(55);
            world.turn().await;
        }
        world.altered();
        world
    }

    /// What one turn after the edit has set, and the state that it shows.
    async fn met(&self, mode: &str, edited: &Config) -> (Config, String) {
        let mut world = self.watched(mode).await;
        self.set(&world, edited);
        world.turn().await;
        (world.altered().into_iter().map(|(_, key, value)| (key, value)).collect(), shown(&world).state.clone())
    }

    fn edits(&self) -> [(&Config, &Config); 2] {
        [(&self.wrong, &self.reconciler.raises), (&self.twin, &self.reconciler.raises_twin)]
    }
}

fn shown(world: &World) -> &TopicFloorStatus {
    world.scene.floors[0].status.as_ref().unwrap()
}

#[test]
fn what_no_broker_has_says_why_and_enough_is_left() {
    let all: Vec<Row> = serde_yaml_ng::from_str(TABLE).unwrap();
    assert!(all.iter().filter_map(|row| row.reconciler.never.as_ref()).all(|why| !why.is_empty()));
    let raised = rows().iter().filter(|row| !row.reconciler.raises.is_empty()).count();
    assert!(raised >= 40, "{raised} of {}", all.len());
}

#[tokio::test]
async fn each_wrong_edit_is_raised_within_a_turn_and_its_twin_is_left_alone() {
    for row in rows() {
        for (edited, raises) in row.edits() {
            let (raised, state) = row.met("Enforce", edited).await;
            assert_eq!(raised, *raises, "{}: {edited:?}", row.name);
            assert_ne!(state, "Violated", "{}: {edited:?}", row.name);
        }
    }
}

#[tokio::test]
async fn what_is_not_enforced_is_only_told() {
    for mode in ["Audit", "Warn"] {
        for row in rows() {
            for (edited, raises) in row.edits() {
                let (raised, state) = row.met(mode, edited).await;
                assert_eq!(raised, Config::new(), "{mode}: {}: {edited:?}", row.name);
                assert_eq!(state == "Violated", !raises.is_empty(), "{mode}: {}: {edited:?} is {state}", row.name);
            }
        }
    }
}

/// Admission judges by what the reconciler shows, and both come to the same.
#[tokio::test]
async fn what_is_raised_is_what_admission_refuses_and_it_is_raised_to_what_passes() {
    for row in rows() {
        let world = row.watched("Enforce").await;
        // The broker in memory does not tell what a topic inherits from what it sets.
        let standing = Standing { inherited: row.inherited(), ..of_floor(TOPIC, shown(&world)).unwrap() };
        let is_refused = |new: &Config| {
            let verdict = judge(&Edit { path: "spec.config", old: &row.old, new }, &standing);
            matches!(verdict, Verdict::Refuse { .. })
        };
        assert!(is_refused(&row.wrong) && !is_refused(&row.twin), "{}", row.name);
        if !row.reconciler.raises.is_empty() {
            let mut raised = row.wrong.clone();
            raised.extend(row.reconciler.raises.clone());
            assert!(!is_refused(&raised), "{}", row.name);
        }
    }
}
