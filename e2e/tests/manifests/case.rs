//! A case of the tables: the base manifest with one thing wrong, and with that thing right.

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;
use weir_e2e::environment::names;
use weir_e2e::fixture::Fixture;

/// One row of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    pub kind: String,
    /// Keys and indexes, with points between them.
    pub at: String,
    pub wrong: Option<Value>,
    pub right: Option<Value>,
    pub says: Vec<String>,
    /// Of those that the schema takes: `Failed`, `Stalled` or `NotReady`, and the condition's reason; or `Refused`.
    pub ends: Option<String>,
    pub reason: Option<String>,
}

/// The test's own names, for the words in capitals.
#[derive(Debug)]
pub struct Names(Vec<(&'static str, String)>);

impl Names {
    pub fn of(fixture: &Fixture) -> anyhow::Result<Self> {
        let environment = &fixture.cluster.environment;
        Ok(Self(vec![
            ("KAFKA_BOOTSTRAP", environment.get(names::KAFKA_BOOTSTRAP)?.to_owned()),
            ("S3_ENDPOINT", environment.get(names::AWS_ENDPOINT_URL)?.to_owned()),
            ("STORE_SECRET", fixture.name("store")),
            ("NAMESPACE", fixture.namespace.clone()),
            ("CLUSTER", fixture.name("kafka")),
            ("CLASS", fixture.name("isolated")),
            ("BUCKET", fixture.bucket.clone()),
            ("TOPIC", fixture.name("events")),
            ("JOB", "gap".to_owned()),
        ]))
    }

    pub fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (word, name)| text.replace(word, name))
    }
}

impl Case {
    /// The wrong manifest, as JSON, which is YAML.
    pub fn wrong(&self, names: &Names) -> anyhow::Result<Value> {
        self.manifest(names, self.wrong.as_ref())
    }

    /// Its twin.
    pub fn right(&self, names: &Names) -> anyhow::Result<Value> {
        self.manifest(names, self.right.as_ref())
    }

    fn manifest(&self, names: &Names, value: Option<&Value>) -> anyhow::Result<Value> {
        let mut manifest: Value = serde_yaml_ng::from_str(base(&self.kind)?)?;
        put(&mut manifest, &self.at, value).with_context(|| format!("{}: {} is nowhere", self.name, self.at))?;
        Ok(serde_json::from_str(&names.fill(&manifest.to_string()))?)
    }
}

/// The manifest that every case of a kind is one change away from.
pub fn base(kind: &str) -> anyhow::Result<&'static str> {
    Ok(match kind {
        "BackfillJob" => include_str!("job.yaml"),
        "KafkaCluster" => include_str!("cluster.yaml"),
        "BackfillClass" => include_str!("class.yaml"),
        "TopicRetentionPolicy" => include_str!("policy.yaml"),
        other => bail!("there is no base for {other}"),
    })
}

/// Puts a value at a path, or removes what is there; `None` where the way to it does not exist.
fn put(manifest: &mut Value, at: &str, value: Option<&Value>) -> Option<()> {
    let (parent, last) = at.rsplit_once('.')?;
    let parent = parent.split('.').try_fold(manifest, |inner, key| match key.parse::<usize>() {
        Ok(index) => inner.get_mut(index),
        Err(_) => inner.get_mut(key),
    })?;
    match (parent, value) {
        (Value::Array(items), Some(value)) => *items.get_mut(last.parse::<usize>().ok()?)? = value.clone(),
        (Value::Object(fields), Some(value)) => drop(fields.insert(last.to_owned(), value.clone())),
        (Value::Object(fields), None) => drop(fields.remove(last)),
        _ => return None,
    }
    Some(())
}
