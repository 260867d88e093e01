//! A Kafka cluster in memory, and a Kubernetes API that notes every request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use weir_floors::observed::Read;
use weir_kafka::{
    AdminError, LogDir, LogDirs, LogDirsError, PartitionDescription, RequestError, TopicConfig, TopicDescription,
    admin::{
        Answers, BrokerConfig, CommittedOffsets, ConfigChange, GroupDescription, GroupList, GroupState, OffsetSpec, PartitionOffset,
        RDKafkaErrorCode, TopicPartition,
    },
};

use crate::topic_retention::kafka::{Kafka, Offsets};

#[derive(Clone, Debug)]
pub struct FakeTopic {
    pub id: String,
    pub config: BTreeMap<String, String>,
    /// Start and end of its only partition.
    pub log: (i64, i64),
}

/// What the cluster has, and what was done to it.
#[derive(Debug, Default)]
pub struct FakeCluster {
    pub topics: BTreeMap<String, FakeTopic>,
    /// What groups have committed on partition 0, by topic; `None`: the coordinator does not answer.
    pub groups: BTreeMap<String, Option<BTreeMap<String, i64>>>,
    pub altered: Vec<(String, String, String)>,
    pub refuses: bool,
    pub is_away: bool,
    /// The topics' configurations cannot be read.
    pub hides_configs: bool,
    /// Topics that may not be described; their configurations may be read and altered all the same.
    pub denied: BTreeSet<String>,
    /// Groups that brokers leave out of their lists, as such that may not be described.
    pub unlisted: BTreeSet<String>,
    /// A broker that was not heard when groups were listed.
    pub hides_groups: bool,
    /// No broker says what it is set to.
    pub hides_broker: bool,
    /// The timestamp of every record.
    pub stamp_ms: Option<i64>,
    /// To read records of one topic.
    pub reads_take: Duration,
    /// Of its only disk; `None`: it may not be looked at.
    pub used_percent: Option<u64>,
    /// The size of every log.
    pub bytes: u64,
    /// Topics are altered, and no answer comes any more.
    pub hangs: bool,
    /// In which order it was asked.
    pub asked: Vec<&'static str>,
}

#[derive(Debug, Default)]
pub struct FakeKafka(pub Mutex<FakeCluster>);

impl FakeKafka {
    /// The cluster, if it answers.
    fn ask<T>(&self, question: &'static str, answer: impl FnOnce(&mut FakeCluster) -> T) -> Result<T, AdminError> {
        let mut cluster = self.0.lock().unwrap();
        cluster.asked.push(question);
        if cluster.is_away { Err(AdminError::DescribeCluster(RequestError::NoAnswer)) } else { Ok(answer(&mut cluster)) }
    }
}

impl Kafka for FakeKafka {
    async fn topic_names(&self) -> Result<BTreeSet<String>, AdminError> {
        self.ask("names", |c| c.topics.keys().filter(|name| !c.denied.contains(*name)).cloned().collect())
    }

    async fn topics(&self, names: BTreeSet<String>) -> Result<Answers<Option<TopicDescription>>, AdminError> {
        let partitions = vec![PartitionDescription { partition: 0, leader: Some(1), replicas: 1, in_sync: 1 }];
        let of = |topic: &FakeTopic| TopicDescription { id: topic.id.clone(), partitions: partitions.clone() };
        let denied = || RequestError::Refused { message: String::new(), code: RDKafkaErrorCode::TopicAuthorizationFailed };
        self.ask("topics", |c| {
            let found = |name: &String| if c.denied.contains(name) { Err(denied()) } else { Ok(c.topics.get(name).map(of)) };
            names.into_iter().map(|name| (name.clone(), found(&name))).collect()
        })
    }

    async fn configs(&self, topics: BTreeSet<String>) -> Result<Answers<TopicConfig>, AdminError> {
        let of = |topic: &FakeTopic| topic.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        self.ask("configs", |c| {
            let found = |name: &String| c.topics.get(name).filter(|_| !c.hides_configs).map(of).ok_or(RequestError::NoAnswer);
            topics.into_iter().map(|name| (name.clone(), found(&name))).collect()
        })
    }

    async fn offsets(&self, wanted: BTreeMap<TopicPartition, OffsetSpec>) -> Result<Offsets, AdminError> {
        let spec = *wanted.values().next().unwrap();
        self.ask(if spec == OffsetSpec::Earliest { "starts" } else { "ends" }, |c| {
            let of = |at: &TopicPartition| {
                let (start, end) = c.topics.get(&at.topic).ok_or(RequestError::NoAnswer)?.log;
                Ok(PartitionOffset { offset: Some(if spec == OffsetSpec::Earliest { start } else { end }), timestamp_ms: None })
            };
            wanted.keys().map(|at| (at.clone(), of(at))).collect()
        })
    }

    async fn groups(&self) -> Result<GroupList, AdminError> {
        self.ask("groups", |c| GroupList {
            groups: c.groups.keys().filter(|group| !c.unlisted.contains(*group)).map(|g| (g.clone(), GroupState::Stable)).collect(),
            errors: if c.hides_groups { vec![RequestError::NoAnswer] } else { vec![] },
        })
    }

    async fn describe_groups(&self, groups: BTreeSet<String>) -> Result<Answers<GroupDescription>, AdminError> {
        let described = GroupDescription { state: GroupState::Stable, members: vec![] };
        self.ask("members", |_| groups.into_iter().map(|group| (group, Ok(described.clone()))).collect())
    }

    async fn committed(&self, groups: BTreeSet<String>) -> Result<Answers<CommittedOffsets>, AdminError> {
        let at = |topic: &String| TopicPartition { topic: topic.clone(), partition: 0 };
        self.ask("committed", |c| {
            // Brokers leave out topics that may not be described.
            let offsets = |committed: &BTreeMap<String, i64>| -> CommittedOffsets {
                let described = committed.iter().filter(|(topic, _)| !c.denied.contains(*topic));
                described.map(|(topic, offset)| (at(topic), Ok(*offset))).collect()
            };
            let of = |group: &String| match c.groups.get(group) {
                Some(committed) => committed.as_ref().map(offsets).ok_or(RequestError::NoAnswer),
                // There is none of that name.
                None => Ok(CommittedOffsets::new()),
            };
            groups.into_iter().map(|group| (group.clone(), of(&group))).collect()
        })
    }

    async fn broker_config(&self) -> Result<Option<BrokerConfig>, AdminError> {
        let settings = [("offsets.retention.minutes", "10080"), ("log.retention.hours", "168")];
        self.ask("broker", |c| if c.hides_broker { Err(RequestError::NoAnswer) } else { Ok(Some(settings.into_iter().collect())) })?
            .map_err(AdminError::DescribeCluster)
    }

    async fn first_records(&self, _: String, at: Vec<(i32, i64)>) -> Vec<Read> {
        let takes = self.0.lock().unwrap().reads_take;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let cluster = self.0.lock().unwrap();
        let Some(timestamp_ms) = cluster.stamp_ms else { return Vec::new() };
        let stamp = |offset| weir_floors::observed::Stamp { offset, timestamp_ms };
        at.into_iter().map(|(partition, offset)| Read { partition, offset, found: Some(stamp(offset)), end: i64::MAX }).collect()
    }

    async fn log_dirs(&self, topics: BTreeMap<String, BTreeSet<i32>>) -> Result<LogDirs, AdminError> {
        self.ask("disks", |c| {
            let at = |topic: &String| TopicPartition { topic: topic.clone(), partition: 0 };
            let replicas = topics.keys().map(|topic| (at(topic), c.bytes)).collect();
            let dir = c.used_percent.map(|used| LogDir { total_bytes: Some(100), usable_bytes: Some(100 - used), replicas });
            LogDirs { brokers: BTreeMap::from([(1, dir.map(|dir| vec![dir]).ok_or(LogDirsError::Denied))]) }
        })
    }

    async fn alter(&self, changes: BTreeMap<String, BTreeMap<String, ConfigChange>>) -> Result<Answers<()>, AdminError> {
        let answer = self.ask("alter", |c| {
            let mut answers = Answers::new();
            for (topic, keys) in changes {
                for (key, change) in keys {
                    let ConfigChange::Set(value) = change else { panic!("{key} of {topic} is reset") };
                    c.altered.push((topic.clone(), key.clone(), value.clone()));
                    if !c.refuses {
                        c.topics.get_mut(&topic).unwrap().config.insert(key, value);
                    }
                }
                answers.insert(topic, if c.refuses { Err(RequestError::NoAnswer) } else { Ok(()) });
            }
            answers
        });
        let hangs = self.0.lock().unwrap().hangs;
        if hangs { std::future::pending().await } else { answer }
    }
}

/// What is written.
const KINDS: [&str; 5] = ["topicfloors", "topicretentionpolicies", "kafkaclusters", "retentionexceptions", "events"];

/// One request to the Kubernetes API.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub path: String,
    pub body: Value,
}

impl Call {
    /// The `TopicFloor` that it is about.
    pub fn floor(&self) -> Option<&str> {
        self.path.split("/topicfloors/").nth(1)?.split('/').next()
    }

    /// `PATCH topicfloors/main.events-1b2c3d4e/status`
    pub fn short(&self) -> String {
        let parts: Vec<&str> = self.path.split('/').collect();
        let from = parts.iter().position(|part| KINDS.contains(part)).unwrap();
        format!("{} {}", self.method, parts[from..].join("/"))
    }
}

#[derive(Clone, Debug)]
pub struct FakeApi {
    pub calls: Arc<Mutex<Vec<Call>>>,
    /// Answers 404 to writes of status.
    pub forgets: Arc<Mutex<bool>>,
    /// BackfillJobs that are there already, by name; `None`: the API refuses to make any.
    pub drafts: Arc<Mutex<Option<Vec<String>>>>,
    /// Strimzi's resources.
    pub kafka_topics: Arc<Mutex<Vec<Value>>>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self { calls: Arc::default(), forgets: Arc::default(), drafts: Arc::new(Mutex::new(Some(vec![]))), kafka_topics: Arc::default() }
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": "", "code": code}))
}

impl FakeApi {
    fn draft(&self, body: &Value) -> (u16, Value) {
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        match &mut *self.drafts.lock().unwrap() {
            None => failure(403, "Forbidden"),
            Some(names) if names.contains(&name) => failure(409, "AlreadyExists"),
            Some(names) => {
                names.push(name);
                (201, body.clone())
            }
        }
    }

    pub async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let is_forgotten = *self.forgets.lock().unwrap() && path.contains("topicfloors") && path.ends_with("/status");
        let (code, answer) = if is_forgotten {
            failure(404, "NotFound")
        } else if path.ends_with("/backfilljobs") {
            self.draft(&body)
        } else if path.ends_with("/kafkatopics") {
            (
                200,
                json!({"apiVersion": "kafka.strimzi.io/v1beta2", "kind": "KafkaTopicList", "metadata": {}, "items": *self.kafka_topics.lock().unwrap()}),
            )
        } else if method == Method::DELETE {
            (200, json!({"kind": "Status", "status": "Success"}))
        } else {
            (200, answered(&path))
        };
        self.calls.lock().unwrap().push(Call { method, path, body });
        Ok(Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap())).unwrap())
    }
}

/// An object of the kind that a path is about.
fn answered(path: &str) -> Value {
    if path.contains("topicfloors") {
        json!({"metadata": {"name": "f"}, "spec": {"clusterRef": {"name": "main"}, "topic": "t"}})
    } else if path.contains("topicretentionpolicies") {
        let spec = json!({"clusterRef": {"name": "main"}, "topics": {}, "floor": {"minimum": "1h"}, "enforcement": {"mode": "Audit"}, "owners": {"team": "t"}});
        json!({"metadata": {"name": "p"}, "spec": spec})
    } else if path.contains("kafkaclusters") {
        json!({"metadata": {"name": "main"}, "spec": {"bootstrapServers": ["kafka:9092"]}})
    } else if path.contains("retentionexceptions") {
        let spec = json!({"clusterRef": {"name": "main"}, "topics": ["t"], "floor": "1h", "reason": "r", "until": "2026-11-02T00:00:00Z"});
        json!({"metadata": {"name": "e"}, "spec": spec})
    } else {
        json!({"metadata": {}})
    }
}
