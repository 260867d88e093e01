//! One run: the demo's job under a namespace of its own, with a topic of its own, written down as the operator would.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_sdk_s3::primitives::ByteStream;
use serde::Deserialize as _;
use weir_crds::contract::keys::RunKeys;
use weir_crds::contract::names::{RunId, progress_topic};
use weir_crds::contract::run::{CONTEXT_ENV, CREDENTIALS_ENV, KafkaConnection, MEMORY_BYTES_ENV, RunSpec, SCRATCH_ENV, WorkerContext};
use weir_crds::{BackfillClass, BackfillJob};

use super::Error;
use super::site::{PARTITIONS, Site};
use crate::demo::scene::JOB;
use crate::environment::names;
use crate::kafka::Kafka;

/// As the demo's topic: event times are weeks old.
const TOPIC_SETTINGS: [(&str, &str); 1] = [("retention.ms", "-1")];
/// As the operator makes progress topics.
const PROGRESS_SETTINGS: [(&str, &str); 1] = [("cleanup.policy", "compact")];
const WORKER_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// The demo's class and cluster, as its YAML is filled.
const CLASS: &str = "isolated";
const CLUSTER: &str = "kafka";

/// Where workers find broker and store: the real ones, or what stands between.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// `host:port`.
    pub kafka: String,
    /// A URL, of the artifact store.
    pub store: String,
    /// A URL, of the source.
    pub source: String,
}

impl Endpoints {
    /// The real ones.
    pub fn real(site: &Site<'_>) -> Result<Self, Error> {
        let environment = &site.fixture.cluster.environment;
        let store = environment.get(names::AWS_ENDPOINT_URL)?.to_owned();
        Ok(Self { kafka: environment.get(names::KAFKA_BOOTSTRAP)?.to_owned(), source: store.clone(), store })
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is called.
    pub run: RunId,
    /// Where it publishes.
    pub topic: String,
    /// Where its objects lie.
    pub keys: RunKeys,
    /// The bucket of everything.
    pub bucket: String,
    /// How many workers the work is cut for, and run at a time.
    pub parallelism: u32,
    context: WorkerContext,
    folder: PathBuf,
    credentials: PathBuf,
    worker: PathBuf,
}

impl Job {
    /// Makes topics and `run.json` of a new job.
    pub async fn create(site: &Site<'_>, name: &str, endpoints: &Endpoints, parallelism: u32) -> Result<Self, Error> {
        let namespace = site.fixture.name(name);
        let kafka = &site.fixture.cluster.kafka;
        create_target(kafka, &topic_of(&namespace)).await?;
        kafka.create_topic(&progress_topic(&namespace), 1, &PROGRESS_SETTINGS).await?;
        Self::generation(site, &namespace, 1, endpoints, parallelism).await
    }

    /// Writes `run.json` of a further generation.
    pub async fn again(&self, site: &Site<'_>, endpoints: &Endpoints) -> Result<Self, Error> {
        Self::generation(site, &self.run.namespace, self.run.generation + 1, endpoints, self.parallelism).await
    }

    async fn generation(site: &Site<'_>, namespace: &str, generation: u32, endpoints: &Endpoints, parallelism: u32) -> Result<Self, Error> {
        let run = RunId { namespace: namespace.to_owned(), name: JOB.to_owned(), generation };
        let (topic, bucket) = (topic_of(namespace), site.fixture.bucket.clone());
        let spec = spec(&run, &topic, &bucket, endpoints, parallelism)?;
        let keys = RunKeys::new(&spec.store.prefix, &run);
        let put = site.fixture.cluster.s3.put_object().bucket(&bucket).key(keys.run()).body(ByteStream::from(spec.to_bytes()));
        put.send().await.map_err(|error| Error::Store { what: "put run.json", source: Box::new(error.into()) })?;
        let connection = KafkaConnection { bootstrap_servers: vec![endpoints.kafka.clone()], security: Default::default() };
        let context = WorkerContext {
            run: run.clone(),
            store: spec.store,
            kafka: BTreeMap::from([(CLUSTER.to_owned(), connection)]),
            unit: String::new(),
            attempt: 0,
            parallelism,
            worker_image: "weir-worker:test".to_owned(),
        };
        let folder = site.path(&format!("{namespace}-g{generation}"));
        std::fs::create_dir_all(&folder).map_err(|source| Error::File { path: folder.clone(), source })?;
        Ok(Self { run, topic, keys, bucket, parallelism, context, folder, credentials: site.credentials(), worker: site.worker.clone() })
    }

    /// A file of an attempt.
    pub fn file(&self, unit: &str, attempt: u32, what: &str) -> PathBuf {
        self.folder.join(format!("{unit}-{attempt:03}.{what}"))
    }

    /// The command of an attempt, as the operator's pods have it.
    pub fn command(&self, verb: &str, unit: &str, attempt: u32) -> tokio::process::Command {
        let context = WorkerContext { unit: unit.to_owned(), attempt, ..self.context.clone() };
        let mut worker = tokio::process::Command::new(&self.worker);
        worker.arg(verb);
        worker.env(CONTEXT_ENV, serde_json::to_string(&context).unwrap_or_default());
        worker.env(CREDENTIALS_ENV, &self.credentials).env(SCRATCH_ENV, &self.folder);
        worker.env(MEMORY_BYTES_ENV, WORKER_MEMORY_BYTES.to_string());
        worker
    }

    /// Removes what the run has written to broker and disk: a matrix has hundreds of them.
    pub async fn remove(&self, site: &Site<'_>) -> Result<(), Error> {
        let (topic, progress) = (self.topic.clone(), progress_topic(&self.run.namespace));
        site.fixture.cluster.kafka.delete_topics(|name| name == topic || name == progress).await?;
        std::fs::remove_dir_all(&self.folder).map_err(|source| Error::File { path: self.folder.clone(), source })
    }
}

/// Makes a target, or one that looks like it.
pub async fn create_target(kafka: &Kafka, topic: &str) -> Result<(), Error> {
    Ok(kafka.create_topic(topic, PARTITIONS, &TOPIC_SETTINGS).await?)
}

fn topic_of(namespace: &str) -> String {
    format!("{namespace}-app-events")
}

/// The demo's YAML, resolved as the operator resolves it.
fn spec(run: &RunId, topic: &str, bucket: &str, endpoints: &Endpoints, parallelism: u32) -> Result<RunSpec, Error> {
    let fill = |yaml: &str| {
        yaml.replace("KAFKA_BOOTSTRAP", &endpoints.kafka)
            .replace("ARTIFACT_ENDPOINT", &endpoints.store)
            .replace("SOURCE_ENDPOINT", &endpoints.source)
            .replace("REGION", "us-east-1")
            .replace("OPERATOR_SECRET", "store")
            .replace("PARALLELISM", &parallelism.to_string())
            .replace("NAMESPACE", &run.namespace)
            .replace("CLUSTER", CLUSTER)
            .replace("CLASS", CLASS)
            .replace("BUCKET", bucket)
            .replace("TOPIC", topic)
    };
    let job: BackfillJob = serde_yaml_ng::from_str(&fill(include_str!("../demo/backfill.yaml")))?;
    let platform = fill(include_str!("../demo/platform.yaml"));
    let class = serde_yaml_ng::Deserializer::from_str(&platform).last().map(BackfillClass::deserialize);
    let class = class.transpose()?.ok_or_else(|| Error::Object { key: "platform.yaml".to_owned(), why: "it is empty".to_owned() })?;
    Ok(RunSpec::resolve(run.clone(), &job.spec, CLASS, &class.spec))
}
