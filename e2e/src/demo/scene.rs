//! What the story needs before it can begin: the log in S3, the topic, the platform team's objects. And the job, as YAML.

use std::path::{Path, PathBuf};

use aws_sdk_s3::primitives::ByteStream;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tempfile::TempDir;

use crate::command;
use crate::environment::{self, names};
use crate::fixture::{Fixture, LABEL, OPERATOR_NAMESPACE};
use crate::kafka;
use crate::layout::Layout;
use crate::novashop::{self, Generated, Settings};

use super::truth::{self, Answer, Question};

/// The target has as many partitions as it takes for buckets to hold more than one.
pub const PARTITIONS: i32 = 12;
/// Event times are weeks old: with any retention they would expire at once.
pub const TOPIC_SETTINGS: [(&str, &str); 1] = [("retention.ms", "-1")];
/// As the YAML names it.
pub const JOB: &str = "sdk-8-2-gap";
const UPLOADS: usize = 2;

/// Why the scene could not be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log could not be written.
    #[error("cannot generate the log")]
    Generate(#[from] novashop::Error),
    /// The generator's task died.
    #[error("the generator died")]
    Died,
    /// A file could not be written.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The log could not be uploaded.
    #[error("cannot upload {key}")]
    Upload {
        /// The object.
        key: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The topic could not be made.
    #[error("cannot make the topic")]
    Topic(#[from] kafka::Error),
    /// The environment lacks something.
    #[error("the cluster is not known well enough")]
    Environment(#[from] environment::Error),
    /// kubectl refused.
    #[error("kubectl failed")]
    Kubectl(#[from] command::Error),
    /// The truth could not be told.
    #[error("cannot ask the truth")]
    Truth(#[from] truth::Error),
    /// The topic, or how the job counted, is not as the log says.
    #[error("the topic is not as the log says: {text}")]
    Disagrees {
        /// What is not.
        text: String,
    },
}

/// A set scene. Local copies of the log go with it.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Namespace, bucket, cluster.
    pub fixture: &'a Fixture,
    /// The log.
    pub log: Generated,
    /// The topic that lost its events.
    pub topic: String,
    folder: TempDir,
}

/// What may differ between jobs over one scene.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// `spec.runGeneration`.
    pub generation: u32,
    /// `Auto` or `Manual`.
    pub approval: &'a str,
    /// Workers at a time.
    pub parallelism: u32,
}

impl<'a> Scene<'a> {
    /// Writes and uploads the log, makes the topic and the platform's objects. Sources are read through
    /// `source_endpoint`, or where everyone else reads.
    pub async fn set(fixture: &'a Fixture, settings: Settings, source_endpoint: Option<&str>) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
        let log_folder = folder.path().join("log");
        let generated = tokio::task::spawn_blocking(move || novashop::generate(settings, &log_folder));
        let log = generated.await.map_err(|_| Error::Died)??;
        let scene = Self { topic: fixture.name("app-events"), fixture, log, folder };
        scene.write("planted.json", &serde_json::to_vec(&scene.log.planted).unwrap_or_default())?;
        upload(fixture, &scene.log).await?;
        fixture.cluster.kafka.create_topic(&scene.topic, PARTITIONS, &TOPIC_SETTINGS).await?;
        fixture.cluster.apply(OPERATOR_NAMESPACE, &scene.store_secret()?).await?;
        fixture.apply(&scene.platform(source_endpoint)?).await?;
        Ok(scene)
    }

    /// The job's YAML.
    pub fn job(&self, job: Job<'_>) -> String {
        let filled = self.fill(include_str!("backfill.yaml"));
        filled
            .replace("PARALLELISM", &job.parallelism.to_string())
            .replace("runGeneration: 1", &format!("runGeneration: {}", job.generation))
            .replace("mode: Manual", &format!("mode: {}", job.approval))
    }

    /// As the header `weir-run` says it.
    pub fn run(&self, generation: u32) -> String {
        format!("{}/{JOB}/{generation}", self.fixture.namespace)
    }

    /// A file beside the log.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file beside the log.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, Error> {
        let path = self.path(name);
        std::fs::write(&path, content).map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(path)
    }

    /// Reads the topic and holds it against the log, and the job's accounting too if `job` is its JSON.
    pub async fn truth(&self, layout: &Layout, live: Option<&Path>, job: Option<&str>, runs: &[String]) -> Result<Answer, Error> {
        let consumed = self.path("consumed");
        truth::consume(&self.fixture.cluster, &self.topic, &consumed).await?;
        let job = job.map(|json| self.write("job.json", json.as_bytes())).transpose()?;
        let question = Question {
            objects: &self.log.folder,
            planted: &self.path("planted.json"),
            consumed: &consumed,
            live,
            job: job.as_deref(),
            runs,
            partitions: PARTITIONS,
        };
        Ok(truth::compare(layout, &question).await?)
    }

    /// Fails unless the topic has every event of the log once, by these generations of the job, and the job counted so if
    /// `job` is given.
    pub async fn must_agree(&self, live: Option<&Path>, job: Option<&Value>, generations: &[u32]) -> Result<(), Error> {
        let runs: Vec<String> = generations.iter().map(|generation| self.run(*generation)).collect();
        let job = job.map(Value::to_string);
        let answer = self.truth(&Layout::from_environment(), live, job.as_deref(), &runs).await?;
        if answer.verdict.agrees { Ok(()) } else { Err(Error::Disagrees { text: answer.text }) }
    }

    fn platform(&self, source_endpoint: Option<&str>) -> Result<String, Error> {
        let environment = &self.fixture.cluster.environment;
        let endpoint = environment.get(names::AWS_ENDPOINT_URL)?;
        let filled = self.fill(include_str!("platform.yaml"));
        Ok(filled
            .replace("KAFKA_BOOTSTRAP", environment.get(names::KAFKA_BOOTSTRAP)?)
            .replace("ARTIFACT_ENDPOINT", endpoint)
            .replace("SOURCE_ENDPOINT", source_endpoint.unwrap_or(endpoint))
            .replace("REGION", environment.find(names::AWS_REGION).unwrap_or("us-east-1")))
    }

    fn fill(&self, yaml: &str) -> String {
        let fixture = self.fixture;
        yaml.replace("OPERATOR_SECRET", &fixture.name("store"))
            .replace("CLUSTER", &fixture.name("kafka"))
            .replace("CLASS", &fixture.name("isolated"))
            .replace("NAMESPACE", &fixture.namespace)
            .replace("BUCKET", &fixture.bucket)
            .replace("TOPIC", &self.topic)
    }

    /// The operator's own credentials for the artifact store.
    fn store_secret(&self) -> Result<String, Error> {
        let environment = &self.fixture.cluster.environment;
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": self.fixture.name("store"), "namespace": OPERATOR_NAMESPACE,
                "labels": {LABEL: self.fixture.namespace}},
            "stringData": {
                "aws-access-key-id": environment.get(names::AWS_ACCESS_KEY_ID)?,
                "aws-secret-access-key": environment.get(names::AWS_SECRET_ACCESS_KEY)?,
            },
        });
        Ok(secret.to_string())
    }
}

/// Puts the log's objects into the test's bucket.
pub async fn upload(fixture: &Fixture, log: &Generated) -> Result<(), Error> {
    let uploads = log.planted.objects.iter().map(|object| upload_object(fixture, log, &object.key));
    futures::stream::iter(uploads).buffer_unordered(UPLOADS).try_collect::<()>().await
}

async fn upload_object(fixture: &Fixture, log: &Generated, key: &str) -> Result<(), Error> {
    let upload_error = |source: Box<dyn std::error::Error + Send + Sync>| Error::Upload { key: key.to_owned(), source };
    // From the file as it goes, never whole in memory.
    let body = ByteStream::from_path(log.folder.join(key)).await.map_err(|error| upload_error(error.into()))?;
    let put = fixture.cluster.s3.put_object().bucket(&fixture.bucket).key(key).body(body).send().await;
    put.map(drop).map_err(|error| upload_error(Box::new(aws_sdk_s3::Error::from(error))))
}
