//! One topic of one partition, one group, one policy.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Client, ResourceExt as _,
    runtime::{
        events::{Recorder, Reporter},
        reflector,
    },
};
use serde_json::{Value, json};
use weir_crds::{KafkaCluster, TopicFloor, TopicRetentionPolicy, topic_floor::TopicFloorSpec};

use super::fakes::{Call, FakeApi, FakeCluster, FakeKafka, FakeTopic};
use crate::{
    audit::{
        chain::{Head, Verified, verify},
        entry::chain_name,
        tests::FakeStore,
    },
    credentials::Credentials,
    stores::Stores,
    topic_retention::{Retention, Scene, TURN, keeping::Kept, memory::Memory, turn, write},
};

pub const PREFIX: &str = "weir";
pub const TOPIC: &str = "app_events";
pub const GROUP: &str = "lake-sink";
pub const WEEK: &str = "604800000";
pub const HOUR: &str = "3600000";

pub struct World {
    pub kafka: Arc<FakeKafka>,
    pub api: FakeApi,
    pub ctx: Retention,
    pub scene: Scene,
    pub memory: Memory,
    /// The audit store, where the cluster names one.
    pub store: Option<Arc<FakeStore>>,
    pub now: Timestamp,
}

fn cluster(verbs: &[&str]) -> KafkaCluster {
    serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "KafkaCluster",
        "metadata": {"name": "main", "uid": "cluster-uid", "generation": 1},
        "spec": {"bootstrapServers": ["kafka:9092"], "storage": {"maxUsedPercent": 80}, "grants": [{"namespaces": ["growth"], "topics": ["^app_.*$"], "verbs": verbs}]},
    }))
    .unwrap()
}

/// A floor of a week.
pub fn policy(mode: &str) -> TopicRetentionPolicy {
    serde_json::from_value(json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy",
        "metadata": {"name": "events", "namespace": "growth", "uid": "policy-uid", "generation": 1},
        "spec": {
            "clusterRef": {"name": "main"}, "topics": {"names": [TOPIC]}, "floor": {"minimum": "168h"},
            "enforcement": {"mode": mode},
            "owners": {"team": "growth", "contacts": ["#growth"],
                       "consumers": [{"group": GROUP, "team": "data-lake", "contact": "#lake", "tables": ["raw.app_events"]}]},
        },
    }))
    .unwrap()
}

impl World {
    /// A topic that keeps its 100 records for a week, which its group has read.
    pub fn new(mode: &str) -> Self {
        let config = [("retention.ms", WEEK), ("retention.bytes", "-1"), ("cleanup.policy", "delete")];
        let config = config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let fake = FakeCluster {
            topics: BTreeMap::from([(TOPIC.to_owned(), FakeTopic { id: "first".into(), config, log: (0, 100) })]),
            groups: BTreeMap::from([(GROUP.to_owned(), Some(BTreeMap::from([(TOPIC.to_owned(), 100)])))]),
            ..FakeCluster::default()
        };
        let api = FakeApi::default();
        let answering = api.clone();
        let client = Client::new(tower::service_fn(move |request| answering.clone().answer(request)), "default");
        let ctx = Retention {
            client: client.clone(),
            credentials: Credentials::new(client.clone(), "weir-system", std::env::temp_dir()),
            stores: Stores::new(Credentials::new(client.clone(), "weir-system", std::env::temp_dir())),
            replica: "a".into(),
            recorder: Recorder::new(client, Reporter { controller: "weir".into(), instance: None }),
            metrics: Arc::default(),
            clusters: reflector::store().0,
            policies: reflector::store().0,
            floors: reflector::store().0,
            jobs: reflector::store().0,
            exceptions: reflector::store().0,
            memories: Default::default(),
        };
        let scene = Scene {
            cluster: Arc::new(cluster(&["Govern"])),
            policies: vec![Arc::new(policy(mode))],
            floors: vec![],
            jobs: vec![],
            exceptions: vec![],
        };
        let now = "2026-11-02T00:00:00Z".parse().unwrap();
        Self { kafka: Arc::new(FakeKafka(fake.into())), api, ctx, scene, memory: Memory::default(), store: None, now }
    }

    /// With an audit store, disks that are half full, and a policy that returns within minutes.
    pub fn kept() -> Self {
        let mut world = Self::new("Enforce");
        let mut cluster = (*world.scene.cluster).clone();
        let store = json!({"bucket": "audit", "prefix": PREFIX, "s3": {"region": "eu"}});
        cluster.spec.audit = Some(serde_json::from_value(store).unwrap());
        world.scene.cluster = Arc::new(cluster);
        let mut policy = policy("Enforce");
        policy.spec.floor.lag_lookback = Some("1h".parse().unwrap());
        policy.spec.decreases = Some(serde_json::from_value(json!({"maxStep": "24h", "every": "10m"})).unwrap());
        world.scene.policies = vec![Arc::new(policy)];
        world.store = Some(Arc::default());
        world.kafka().used_percent = Some(50);
        world
    }

    /// What the store has of the audit log.
    pub fn audit_log(&self) -> Vec<Value> {
        let files = self.store.as_ref().unwrap().files(PREFIX, &self.chain());
        files.iter().map(|file| serde_json::from_slice::<Value>(&file.bytes).unwrap()["event"].clone()).collect()
    }

    pub fn chain(&self) -> String {
        chain_name("main", "cluster-uid", self.scene.cluster.spec.audit.as_ref().unwrap())
    }

    /// The log is whole, and each change in it once.
    pub fn audited(&self) -> Verified {
        let anchor = self.scene.cluster.status.as_ref().and_then(|s| s.audit.clone()).unwrap();
        let head = Head { sequence: anchor.sequence, digest: anchor.digest };
        let found = verify(self.store.as_ref().unwrap().files(PREFIX, &self.chain()), Some(&anchor.chain), Some(head));
        assert_eq!(found.problems, vec![]);
        found
    }

    pub fn grant(&mut self, verbs: &[&str]) {
        self.scene.cluster = Arc::new(cluster(verbs));
    }

    pub fn kafka(&self) -> std::sync::MutexGuard<'_, FakeCluster> {
        self.kafka.0.lock().unwrap()
    }

    pub fn set(&self, key: &str, value: &str) {
        self.kafka().topics.get_mut(TOPIC).unwrap().config.insert(key.into(), value.into());
    }

    pub fn commit(&self, offset: i64) {
        self.kafka().groups.insert(GROUP.into(), Some(BTreeMap::from([(TOPIC.to_owned(), offset)])));
    }

    pub fn altered(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.kafka().altered)
    }

    pub fn log(&self, start: i64, end: i64) {
        self.kafka().topics.get_mut(TOPIC).unwrap().log = (start, end);
    }

    /// The next turn, with what was written in it; looks beside the turns have ended when it returns.
    pub async fn try_turn(&mut self) -> (Result<(), turn::TurnError>, Vec<Call>) {
        self.now += SignedDuration::try_from(TURN).unwrap();
        let kept = self.store.as_deref().map_or(Kept::Nowhere, Kept::At);
        let result = turn::turn(&self.ctx, &self.kafka, &kept, &self.scene, &mut self.memory, self.now).await;
        // Time enough for what the turn started; its result is taken by the next one.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut calls = std::mem::take(&mut *self.api.calls.lock().unwrap());
        calls.iter().for_each(|call| self.watch_floor(call));
        // The cluster as the watch would bring it; it is looked at by itself.
        for call in calls.extract_if(.., |call| call.path.contains("kafkaclusters")) {
            let mut cluster = (*self.scene.cluster).clone();
            cluster.status = Some(serde_json::from_value(call.body["status"].clone()).unwrap());
            self.scene.cluster = Arc::new(cluster);
        }
        (result, calls)
    }

    /// The `TopicFloor`s as the watch would bring them.
    fn watch_floor(&mut self, call: &Call) {
        let Some(name) = call.floor() else { return };
        let is_status = call.path.ends_with("/status");
        let found = self.scene.floors.extract_if(.., |floor| floor.name_any() == name).next();
        if call.method == Method::DELETE || (is_status && *self.api.forgets.lock().unwrap()) {
            return;
        }
        let made = || Some(TopicFloor::new(name, serde_json::from_value(call.body.get("spec")?.clone()).unwrap()));
        let Some(mut floor) = found.map(|floor| (*floor).clone()).or_else(made) else { return };
        if is_status {
            floor.status = Some(serde_json::from_value(call.body["status"].clone()).unwrap());
        }
        self.scene.floors.push(Arc::new(floor));
    }

    /// A turn in which the process is killed when it gets no further.
    pub async fn die(mut self) -> Self {
        self.now += SignedDuration::try_from(TURN).unwrap();
        {
            let kept = self.store.as_deref().map_or(Kept::Nowhere, Kept::At);
            let turn = turn::turn(&self.ctx, &self.kafka, &kept, &self.scene, &mut self.memory, self.now);
            let stuck = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                _ = turn => panic!("the turn came to its end"),
                () = stuck => {}
            }
        }
        self.kafka().hangs = false;
        self.store.as_ref().unwrap().trouble(None);
        self
    }

    /// Another replica leads: it knows what lies in the store and in the API.
    pub fn succeed(&mut self, replica: &str, floor: Option<&Value>) {
        self.ctx.replica = replica.into();
        self.memory = Memory::default();
        self.scene.floors.clear();
        if let Some(status) = floor {
            self.restart(status);
        }
    }

    /// What the cluster's status says of the log or the histories.
    pub fn says(&self, kind: &str) -> (String, String) {
        condition(&serde_json::to_value(self.scene.cluster.status.as_ref().unwrap()).unwrap(), kind)
    }

    pub async fn turn(&mut self) -> Vec<Call> {
        let (result, calls) = self.try_turn().await;
        result.unwrap();
        calls
    }

    /// Turns for so many minutes.
    pub async fn pass(&mut self, minutes: i64) -> Vec<Call> {
        let (mut calls, end) = (Vec::new(), self.now + SignedDuration::from_mins(minutes));
        while self.now < end {
            calls.extend(self.turn().await);
        }
        calls
    }

    /// The first turns: the topic is known, and shown.
    pub async fn begin(&mut self) {
        self.turn().await;
        self.turn().await;
    }

    /// Another process takes over: of what was remembered there is only what lies in the API.
    pub fn restart(&mut self, status: &Value) {
        let spec: TopicFloorSpec = serde_json::from_value(json!({"clusterRef": {"name": "main"}, "topic": TOPIC})).unwrap();
        let mut floor = TopicFloor::new(&write::floor_name("main", TOPIC), spec);
        floor.status = Some(serde_json::from_value(status.clone()).unwrap());
        self.scene.floors = vec![Arc::new(floor)];
        self.memory = Memory::default();
    }
}

pub fn short(calls: &[Call]) -> Vec<String> {
    calls.iter().map(Call::short).collect()
}

/// The last status that was written of a kind.
pub fn status(calls: &[Call], kind: &str) -> Value {
    let of = |call: &&Call| call.path.contains(kind) && call.path.ends_with("/status");
    calls.iter().rfind(of).unwrap_or_else(|| panic!("no status of {kind} in {:?}", short(calls))).body["status"].clone()
}

pub fn events(calls: &[Call]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    calls.iter().filter(|c| c.path.ends_with("/events")).map(|c| (text(&c.body["reason"]), text(&c.body["note"]))).collect()
}

pub fn condition(status: &Value, kind: &str) -> (String, String) {
    let found = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap();
    (found["status"].as_str().unwrap().to_owned(), found["reason"].as_str().unwrap().to_owned())
}
