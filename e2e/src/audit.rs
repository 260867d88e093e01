//! What drills about the audit log do: a topic that weir keeps and records, its log as files, and what the operator's own
//! program says of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::Api;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::demo::watch::{condition, number, text};
use crate::environment::names;
use crate::fixture::{Fixture, LABEL, OPERATOR_NAMESPACE};
use crate::retention::{kind, setting};
use crate::wait;

/// What topics keep, and their policy wants.
pub const WEEK_MS: &str = "604800000";
const PREFIX: &str = "audit";

/// A `KafkaCluster` with an audit store in the test's bucket, that lets the test's namespace govern the topics of a pattern.
/// Returns its name.
pub async fn govern(fixture: &Fixture, topics: &str) -> anyhow::Result<String> {
    let (cluster, secret) = (fixture.name("kafka"), fixture.name("audit"));
    let variable = |name| fixture.cluster.environment.get(name);
    let credentials = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": secret, "namespace": OPERATOR_NAMESPACE, "labels": {LABEL: fixture.namespace}},
        "stringData": {
            "aws-access-key-id": variable(names::AWS_ACCESS_KEY_ID)?,
            "aws-secret-access-key": variable(names::AWS_SECRET_ACCESS_KEY)?,
        },
    });
    fixture.cluster.apply(OPERATOR_NAMESPACE, &credentials.to_string()).await?;
    let s3 = json!({"endpoint": variable(names::AWS_ENDPOINT_URL)?, "region": variable(names::AWS_REGION)?, "pathStyle": true});
    let platform = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "KafkaCluster",
        "metadata": {"name": cluster, "labels": {LABEL: fixture.namespace}},
        "spec": {
            "bootstrapServers": [variable(names::KAFKA_BOOTSTRAP)?],
            "audit": {"bucket": fixture.bucket, "prefix": PREFIX, "s3": s3, "credentialsSecretRef": {"name": secret}},
            "grants": [{"namespaces": [fixture.namespace], "topics": [topics], "verbs": ["Govern"]}],
        },
    });
    fixture.apply(&platform.to_string()).await?;
    Ok(cluster)
}

/// A topic that keeps its records for a week, and a policy that wants it so.
pub async fn set(fixture: &Fixture) -> anyhow::Result<String> {
    let topic = fixture.name("events");
    fixture.cluster.kafka.create_topic(&topic, 1, &[("retention.ms", WEEK_MS)]).await?;
    let cluster = govern(fixture, &format!("^{topic}$")).await?;
    let policy = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": "events"},
        "spec": {
            "clusterRef": {"name": cluster}, "topics": {"names": [topic]}, "floor": {"minimum": "168h"},
            "enforcement": {"mode": "Enforce"}, "owners": {"team": "growth-data"},
        },
    });
    fixture.apply(&policy.to_string()).await?;
    Ok(topic)
}

async fn cluster(fixture: &Fixture) -> anyhow::Result<Value> {
    let api: Api<DynamicObject> = Api::all_with(fixture.cluster.kube.clone(), &kind("KafkaCluster"));
    Ok(serde_json::to_value(api.get(&fixture.name("kafka")).await?)?)
}

/// The cluster, once its log is written and its histories are read.
pub async fn until_kept(fixture: &Fixture, what: &str, entries: u64, limit: Duration) -> anyhow::Result<Value> {
    let is_kept = async || {
        let cluster = cluster(fixture).await?;
        let healthy = ["AuditHealthy", "HistoryKept"].map(|kind| condition(&cluster, kind).0 == "True");
        ensure!(healthy == [true; 2] && number(&cluster, "/status/audit/sequence") >= entries, "{}", cluster["status"]);
        Ok(cluster)
    };
    Ok(wait::until(what, limit, is_kept).await?)
}

/// What the cluster's status says of the newest entry, as the program takes it.
pub fn anchor(cluster: &Value) -> String {
    format!("{}:{}", number(cluster, "/status/audit/sequence"), text(cluster, "/status/audit/digest"))
}

/// Waits until the broker says that a topic keeps its records for so long.
pub async fn until_retention(fixture: &Fixture, topic: &str, expected: &str, limit: Duration) -> anyhow::Result<()> {
    let is = async || {
        let found = setting(fixture, topic, "retention.ms").await?;
        ensure!(found == expected, "retention.ms is {found}");
        Ok(())
    };
    Ok(wait::until("retention is what it should be", limit, is).await?)
}

/// The log's objects as files of a folder, and their events.
pub async fn download(fixture: &Fixture, to: &Path) -> anyhow::Result<Vec<Value>> {
    let chain = text(&cluster(fixture).await?, "/status/audit/chain").to_owned();
    let s3 = &fixture.cluster.s3;
    let listed = s3.list_objects_v2().bucket(&fixture.bucket).prefix(format!("{PREFIX}/{chain}/")).send().await?;
    let mut events = Vec::new();
    for key in listed.contents().iter().filter_map(|object| object.key()) {
        let bytes = s3.get_object().bucket(&fixture.bucket).key(key).send().await?.body.collect().await?.into_bytes();
        std::fs::write(to.join(key.rsplit('/').next().unwrap_or(key)), &bytes)?;
        let entry: Value = serde_json::from_slice(&bytes)?;
        events.push(entry["event"].clone());
    }
    Ok(events)
}

/// What `weir-operator audit verify` says of a folder: its exit status and its words. The program lies beside the tests'.
pub async fn verify(folder: &Path, anchor: Option<&str>) -> anyhow::Result<(Option<i32>, String)> {
    let test = std::env::current_exe()?;
    let program = test.ancestors().nth(2).context("the tests lie nowhere")?.join("weir-operator");
    let mut command = tokio::process::Command::new(&program);
    command.args(["audit", "verify", "--dir"]).arg(folder).args(anchor.iter().flat_map(|anchor| ["--anchor", anchor]));
    let output = command.output().await.with_context(|| format!("{} cannot be run; build the workspace's binaries", program.display()))?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}
