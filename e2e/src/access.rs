//! A running cluster, as tests and the demo use it: `kubectl`, clients, the broker, the store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use tokio::process::Command;

use crate::cluster::network::HOST_LINK;
use crate::command::{self, command, output_of, output_with_input};
use crate::environment::{self, Environment, names};
use crate::kafka::Kafka;

/// How long a `kubectl` may take. `kubectl wait` and its like bring limits of their own, which must be shorter.
pub const KUBECTL_TIMEOUT: Duration = Duration::from_secs(600);

/// Why the cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known where it is.
    #[error("cannot find a cluster")]
    Environment(#[from] environment::Error),
    /// There is an env file, and no way to the cluster.
    #[error("the env file names a local cluster, but its network is gone; `just up` makes it anew")]
    NoNetwork,
    /// The apiserver does not answer.
    #[error("the apiserver of {path} does not answer; `just up` mends a damaged local cluster")]
    NoAnswer {
        /// The kubeconfig.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A running cluster.
#[derive(Clone)]
pub struct Cluster {
    /// Where everything is.
    pub environment: Environment,
    /// Kubernetes, with all rights.
    pub kube: kube::Client,
    /// The store.
    pub s3: aws_sdk_s3::Client,
    /// The broker.
    pub kafka: Kafka,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cluster").field("environment", &self.environment).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster that is up, or the one that the environment names.
    pub async fn connect() -> Result<Self, Error> {
        let environment = Environment::load()?;
        // Without this, calls to a cluster that is gone would leave by the machine's own network.
        if !environment.is_external() && !Path::new("/sys/class/net").join(HOST_LINK).exists() {
            return Err(Error::NoNetwork);
        }
        let path = PathBuf::from(environment.get(names::KUBECONFIG)?);
        let kube = environment::client(&path).await?;
        kube.apiserver_version().await.map_err(|source| Error::NoAnswer { path, source: Box::new(source) })?;
        Ok(Self { s3: s3(&environment)?, kafka: Kafka::new(environment.clone()), kube, environment })
    }

    /// Runs `kubectl` and returns what it wrote.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, command::Error> {
        output_of(self.kubectl_command(arguments), KUBECTL_TIMEOUT).await
    }

    /// Runs `kubectl apply` on YAML, in a namespace unless the YAML names another. What the apiserver refuses is in the
    /// error, as a person would see it.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> Result<String, command::Error> {
        let apply = self.kubectl_command(&["--namespace", namespace, "apply", "--filename", "-"]);
        output_with_input(apply, yaml.as_bytes(), KUBECTL_TIMEOUT).await
    }

    /// Runs one of Kafka's own tools, by its class.
    pub async fn kafka_tool(&self, class: &str, arguments: &[&str]) -> Result<String, KafkaToolError> {
        let mut tool = command(self.environment.get(names::KAFKA_TOOLS)?, [class]);
        tool.args(arguments);
        Ok(output_of(tool, KUBECTL_TIMEOUT).await?)
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut kubectl = command(self.environment.find(names::KUBECTL).unwrap_or("kubectl"), arguments);
        kubectl.envs(self.environment.variables());
        kubectl
    }
}

/// Why one of Kafka's own tools did not run.
#[derive(Debug, thiserror::Error)]
pub enum KafkaToolError {
    /// It is not known where they are.
    #[error("Kafka's tools are not known")]
    Environment(#[from] environment::Error),
    /// It failed.
    #[error("one of Kafka's tools failed")]
    Tool(#[from] command::Error),
}

/// The store's client; path style, since buckets have no names of their own in the local network.
fn s3(environment: &Environment) -> Result<aws_sdk_s3::Client, environment::Error> {
    let credentials = Credentials::new(
        environment.get(names::AWS_ACCESS_KEY_ID)?,
        environment.get(names::AWS_SECRET_ACCESS_KEY)?,
        None,
        None,
        "weir-e2e",
    );
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(environment.find(names::AWS_REGION).unwrap_or("us-east-1").to_owned()))
        .credentials_provider(credentials)
        .force_path_style(true);
    if let Some(endpoint) = environment.find(names::AWS_ENDPOINT_URL) {
        config = config.endpoint_url(endpoint);
    }
    Ok(aws_sdk_s3::Client::from_conf(config.build()))
}
