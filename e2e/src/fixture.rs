//! What one test has for itself: a namespace, a prefix for topics and cluster-wide objects, a bucket. Made before it, removed
//! after it; when it fails, what the cluster looked like is written out first.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, Delete, ObjectIdentifier, VersioningConfiguration};
use futures::FutureExt as _;

use crate::access::{self, Cluster};
use crate::command;
use crate::dump;
use crate::environment::names;
use crate::kafka;

/// The service account as which tests' jobs run.
pub const SERVICE_ACCOUNT: &str = "backfill";

/// The Secret with the tests' credentials.
pub const SECRET: &str = "backfill";

/// Where the operator runs, and the Secrets lie that are its own.
pub const OPERATOR_NAMESPACE: &str = "weir-system";

/// The label on cluster-wide objects that belong to a test; its value is the test's namespace.
pub const LABEL: &str = "weir.dev/e2e";

/// Characters of a test's name in its namespace, which may have 63 and is part of longer names.
const NAME_LENGTH_MAX: usize = 24;

/// Keeps what a failed test made, for a look at it.
const KEEP: &str = "WEIR_E2E_KEEP_FAILED";

/// How long removing what a test made may take before the next test starts anyway.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a test could not be set up or cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no cluster.
    #[error(transparent)]
    Cluster(#[from] access::Error),
    /// The test's own objects could not be made or removed.
    #[error("cannot prepare the test's namespace")]
    Namespace(#[from] command::Error),
    /// The cluster's environment lacks something.
    #[error("cannot make the test's credentials")]
    Environment(#[from] crate::environment::Error),
    /// A file of credentials could not be read.
    #[error("cannot read {path}")]
    Credentials {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The bucket could not be made, filled or emptied.
    #[error("cannot {what} in the bucket {bucket}")]
    Bucket {
        /// What was tried.
        what: &'static str,
        /// The bucket.
        bucket: String,
        /// Why not.
        #[source]
        source: Box<aws_sdk_s3::Error>,
    },
    /// The test's topics could not be removed.
    #[error("cannot use the test's topics")]
    Kafka(#[from] kafka::Error),
}

/// What one test has for itself.
#[derive(Debug)]
pub struct Fixture {
    /// The cluster that all tests share.
    pub cluster: Cluster,
    /// The test's namespace, which is also its prefix for everything that has none.
    pub namespace: String,
    /// The test's bucket, with versions.
    pub bucket: String,
}

/// Runs a test with a fixture of its own. Fails by panicking, as tests do.
#[expect(clippy::panic, reason = "this is how a test says that it failed")]
pub async fn run<F>(test: &str, body: F)
where
    F: AsyncFnOnce(&Fixture) -> anyhow::Result<()>,
{
    let fixture = match Fixture::create(test).await {
        Ok(fixture) => fixture,
        Err(error) => panic!("{:#}", anyhow::Error::new(error)),
    };
    let outcome = AssertUnwindSafe(body(&fixture)).catch_unwind().await;
    let failed = !matches!(outcome, Ok(Ok(())));
    if failed {
        dump::write(&fixture.cluster, &fixture.namespace).await;
    }
    if !(failed && std::env::var_os(KEEP).is_some()) {
        // A test that passed must not fail because of what comes after it, but it must be seen.
        if let Err(error) = fixture.remove().await {
            tracing::warn!("{:#}", anyhow::Error::new(error));
        }
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{test}: {error:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Fixture {
    /// Makes namespace, service account, credentials and bucket.
    pub async fn create(test: &str) -> Result<Self, Error> {
        let cluster = Cluster::connect().await?;
        let namespace = unique_name(test);
        let fixture = Self { bucket: namespace.clone(), cluster, namespace };
        let yaml = fixture.objects()?;
        fixture.cluster.apply(&fixture.namespace, &yaml).await?;
        let bucket_error = |error: aws_sdk_s3::Error| fixture.bucket_error("create", error);
        let create = fixture.cluster.s3.create_bucket().bucket(&fixture.bucket).send().await;
        create.map_err(|error| bucket_error(error.into()))?;
        let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let versioning = fixture.cluster.s3.put_bucket_versioning().bucket(&fixture.bucket);
        let enabled = versioning.versioning_configuration(versions).send().await;
        enabled.map_err(|error| bucket_error(error.into()))?;
        Ok(fixture)
    }

    /// A name that no other test uses, for topics and cluster-wide objects.
    pub fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.namespace)
    }

    /// Applies YAML in the test's namespace.
    pub async fn apply(&self, yaml: &str) -> Result<String, command::Error> {
        self.cluster.apply(&self.namespace, yaml).await
    }

    /// Runs `kubectl` in the test's namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, command::Error> {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend_from_slice(arguments);
        self.cluster.kubectl(&all).await
    }

    /// Changes fields of a BackfillJob's spec.
    pub async fn patch_job(&self, name: &str, spec: serde_json::Value) -> Result<(), command::Error> {
        let patch = serde_json::json!({ "spec": spec }).to_string();
        self.kubectl(&["patch", "backfilljob", name, "--type", "merge", "--patch", &patch]).await.map(drop)
    }

    /// Puts an object into the test's bucket.
    pub async fn put_object(&self, key: &str, content: Vec<u8>) -> Result<(), Error> {
        let put = self.cluster.s3.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(content));
        put.send().await.map(drop).map_err(|error| self.bucket_error("put an object", error.into()))
    }

    /// Removes everything. The namespace goes in the background: waiting for pods to end would only hold up other tests.
    pub async fn remove(&self) -> Result<(), Error> {
        let removal = async {
            self.remove_cluster_wide().await?;
            self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait=false", "--ignore-not-found"]).await?;
            self.cluster.kafka.delete_topics(|topic| topic.contains(&self.namespace)).await?;
            self.empty_bucket().await?;
            let delete = self.cluster.s3.delete_bucket().bucket(&self.bucket).send().await;
            delete.map(drop).map_err(|error| self.bucket_error("delete", error.into()))
        };
        // A broken broker or store, which the test may have left so, must not hang it.
        tokio::time::timeout(REMOVE_TIMEOUT, removal).await.unwrap_or_else(|_elapsed| {
            tracing::warn!("{} could not be removed within {} s", self.namespace, REMOVE_TIMEOUT.as_secs());
            Ok(())
        })
    }

    /// Removes the test's cluster-wide objects of weir's kinds, where the cluster has those kinds.
    async fn remove_cluster_wide(&self) -> Result<(), Error> {
        let listing = ["api-resources", "--api-group", "weir.dev", "--namespaced=false", "--output", "name"];
        let kinds = self.cluster.kubectl(&listing).await?;
        let kinds = kinds.split_ascii_whitespace().collect::<Vec<_>>().join(",");
        if kinds.is_empty() {
            return Ok(());
        }
        // And the Secrets that those name, which are the operator's.
        let (kinds, selector) = (format!("{kinds},secrets"), format!("{LABEL}={}", self.namespace));
        self.cluster.kubectl(&["delete", &kinds, "--namespace", OPERATOR_NAMESPACE, "--selector", &selector, "--wait=false"]).await?;
        Ok(())
    }

    async fn empty_bucket(&self) -> Result<(), Error> {
        loop {
            let page = self.cluster.s3.list_object_versions().bucket(&self.bucket).send().await;
            let page = page.map_err(|error| self.bucket_error("list objects", error.into()))?;
            let versions = page.versions().iter().map(|version| (version.key(), version.version_id()));
            let markers = page.delete_markers().iter().map(|marker| (marker.key(), marker.version_id()));
            let objects = versions
                .chain(markers)
                .filter_map(|(key, version)| {
                    ObjectIdentifier::builder()
                        .set_key(key.map(ToOwned::to_owned))
                        .set_version_id(version.map(ToOwned::to_owned))
                        .build()
                        .ok()
                })
                .collect::<Vec<_>>();
            if objects.is_empty() {
                return Ok(());
            }
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
            let delete = delete.map_err(|error| self.bucket_error("name objects", error.into()))?;
            let deleted = self.cluster.s3.delete_objects().bucket(&self.bucket).delete(delete).send().await;
            deleted.map_err(|error| self.bucket_error("delete objects", error.into()))?;
        }
    }

    fn bucket_error(&self, what: &'static str, source: aws_sdk_s3::Error) -> Error {
        Error::Bucket { what, bucket: self.bucket.clone(), source: Box::new(source) }
    }

    /// The namespace, which takes only pods of the strictest profile, with an account that may run backfills and with
    /// credentials under the names that a job's Secret has.
    fn objects(&self) -> Result<String, Error> {
        let environment = &self.cluster.environment;
        let mut secret = serde_json::Map::new();
        for (key, name) in [
            ("aws-access-key-id", names::AWS_ACCESS_KEY_ID),
            ("aws-secret-access-key", names::AWS_SECRET_ACCESS_KEY),
            ("kafka-username", names::KAFKA_USERNAME),
            ("kafka-password", names::KAFKA_PASSWORD),
        ] {
            secret.extend(environment.find(name).map(|value| (key.to_owned(), value.into())));
        }
        if let Some(path) = environment.find(names::KAFKA_CA_FILE) {
            let authority = std::fs::read_to_string(path).map_err(|source| Error::Credentials { path: path.to_owned(), source })?;
            secret.insert("kafka-ca.crt".to_owned(), authority.into());
        }
        let objects = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": {
                LABEL: self.namespace, "pod-security.kubernetes.io/enforce": "restricted"}}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": SERVICE_ACCOUNT, "namespace": self.namespace,
                "annotations": {"weir.dev/allow-backfills": "true"}}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": self.namespace}, "stringData": secret},
        ]});
        // JSON is YAML.
        Ok(objects.to_string())
    }
}

/// `e2e-<test>-<6 random digits>`, as a namespace and a bucket may be named.
fn unique_name(test: &str) -> String {
    const RANDOM_DIGITS: usize = 6;
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let random = uuid.get(..RANDOM_DIGITS).unwrap_or("000000");
    let mut name = test.to_ascii_lowercase().replace(|character: char| !character.is_ascii_alphanumeric(), "-");
    name.truncate(NAME_LENGTH_MAX);
    format!("e2e-{}-{random}", name.trim_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_namespace() {
        let name = unique_name("A_test::with a very long name that would not fit");
        assert!(name.starts_with("e2e-a-test--with-a-very-long-"), "{name}");
        assert!(name.len() <= 40, "{name}");
        assert_ne!(name, unique_name("A_test::with a very long name that would not fit"));
    }
}
