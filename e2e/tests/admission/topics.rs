//! Kinds of other operators, and resources of theirs.

use anyhow::ensure;
use serde_json::{Value, json};
use weir_e2e::fixture::{Fixture, LABEL};

const CRDS: &str = include_str!("crds.yaml");
pub const STRIMZI: &str = "kafkatopics.kafka.strimzi.io";
const REDPANDA: &str = "topics.cluster.redpanda.com";
const CROSSPLANE: &str = "topics.topic.kafka.m.crossplane.io";

/// Each kind, as kubectl names it, and where it has the configuration.
pub const KINDS: [(&str, &str); 3] = [(STRIMZI, "config"), (REDPANDA, "additionalConfig"), (CROSSPLANE, "forProvider.config")];

/// Runs the body with the kinds installed. Those that the cluster had before are not touched.
pub async fn with_kinds<F>(fixture: &Fixture, body: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce() -> anyhow::Result<()>,
{
    let there = fixture.cluster.kubectl(&["get", "customresourcedefinitions", "--output", "name"]).await?;
    let mut ours = Vec::new();
    for part in CRDS.split("\n---\n") {
        let mut crd: Value = serde_yaml_ng::from_str(part)?;
        let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !there.lines().any(|line| line.ends_with(&format!("/{name}"))) {
            crd["metadata"]["labels"] = json!({ LABEL: fixture.namespace });
            fixture.apply(&crd.to_string()).await?;
            ours.push(name);
        }
    }
    for name in &ours {
        let crd = format!("customresourcedefinition/{name}");
        fixture.cluster.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=60s"]).await?;
    }
    let outcome = body().await;
    for name in &ours {
        fixture.cluster.kubectl(&["delete", "customresourcedefinition", name, "--ignore-not-found"]).await?;
    }
    outcome
}

/// A resource of a kind for a topic, with its `retention.ms`, tied to a cluster by its label.
pub fn resource(kind: &str, name: &str, topic: &str, cluster: &str, retention_ms: &str) -> Value {
    let metadata = json!({"name": name, "labels": {"strimzi.io/cluster": cluster}});
    let config = json!({"retention.ms": retention_ms});
    let (api_version, kind, mut metadata, spec) = match kind {
        STRIMZI => ("kafka.strimzi.io/v1beta2", "KafkaTopic", metadata, json!({"topicName": topic, "config": config})),
        REDPANDA => ("cluster.redpanda.com/v1alpha2", "Topic", metadata, json!({"overwriteTopicName": topic, "additionalConfig": config})),
        _ => ("topic.kafka.m.crossplane.io/v1alpha1", "Topic", metadata, json!({"forProvider": {"config": config}})),
    };
    if api_version.starts_with("topic.") {
        metadata["annotations"] = json!({"crossplane.io/external-name": topic});
    }
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// What the refusal of a manifest says.
pub async fn refusal(fixture: &Fixture, manifest: &Value) -> anyhow::Result<String> {
    match fixture.apply(&manifest.to_string()).await {
        Ok(_) => anyhow::bail!("it was taken: {manifest}"),
        Err(error) => Ok(error.to_string()),
    }
}

pub async fn must_refuse(fixture: &Fixture, manifest: &Value, says: &[&str]) -> anyhow::Result<()> {
    let refusal = refusal(fixture, manifest).await?;
    for words in says {
        ensure!(refusal.contains(words), "the refusal does not say {words:?}: {refusal}");
    }
    Ok(())
}
