//! Certificates that are replaced because somebody wishes it.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use weir_e2e::fixture::{Fixture, OPERATOR_NAMESPACE};
use weir_e2e::wait;

const SECRET: &str = "weir-webhook-certificates";
/// Both authorities trusted, the new leaf, the old authority dropped: a minute lies between each, and a turn takes 5 s.
const ROTATION_LIMIT: Duration = Duration::from_secs(300);

async fn certificates(fixture: &Fixture) -> anyhow::Result<Value> {
    let path = r"jsonpath={.data.certificates\.json}";
    let system = ["--namespace", OPERATOR_NAMESPACE, "get", "secret", SECRET, "--output", path];
    let encoded = fixture.cluster.kubectl(&system).await?;
    let content: k8s_openapi::ByteString = serde_json::from_value(encoded.trim().into())?;
    Ok(serde_json::from_slice(&content.0)?)
}

/// Wishes for another leaf or authority, and waits until it is there and nothing is under way.
pub async fn rotate(fixture: &Fixture, what: &str) -> anyhow::Result<()> {
    let before = certificates(fixture).await?;
    let numbers =
        |it: &Value| -> Vec<i64> { it["authorities"].as_array().into_iter().flatten().filter_map(|a| a["number"].as_i64()).collect() };
    let wish = format!("weir.dev/rotate={what}");
    fixture.cluster.kubectl(&["--namespace", OPERATOR_NAMESPACE, "annotate", "secret", SECRET, &wish]).await?;
    let is_done = async || {
        let now = certificates(fixture).await?;
        let fresh_leaf = now["leaf"]["certificate"] != before["leaf"]["certificate"];
        let fresh_authority = what == "leaf" || numbers(&now) != numbers(&before);
        let settled = numbers(&now).len() == 1 && now["leaf"]["authority"] == now["authorities"][0]["number"];
        ensure!(fresh_leaf && fresh_authority && settled, "authorities {:?}", numbers(&now));
        Ok(())
    };
    Ok(wait::until(&format!("another {what}"), ROTATION_LIMIT, is_done).await?)
}
