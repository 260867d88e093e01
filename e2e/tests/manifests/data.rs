//! The second table: what the manifests are judged against, and what becomes of them.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, phase, text};
use weir_e2e::environment::names;
use weir_e2e::fixture::{Fixture, LABEL, OPERATOR_NAMESPACE};
use weir_e2e::wait;

use super::case::{Case, Names, base};

/// A worker starts within seconds; a few start at a time, and one that cannot says so within a minute.
const LIMIT: Duration = Duration::from_secs(180);

/// A watch tells within milliseconds, on a busy machine within seconds.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
const HEARD_TRIES: usize = 3;

/// Two events of the window, of which one has everything.
const OBJECT: &str = r#"{"ts":"2026-11-03T06:10:00Z","id":"a","kind":"view","customer":7,"score":0.5}
{"ts":"2026-11-03T06:20:00Z","id":"b","kind":"view"}
"#;

/// Makes what the twins need: an object, topics, the platform's objects.
pub async fn prepare(fixture: &Fixture, names: &Names) -> anyhow::Result<()> {
    // Under an hour, and for the twin that has minutes under a minute.
    for key in ["dt=2026-11-03/hr=06/part-0.jsonl", "dt=2026-11-03/06/10/part-0.jsonl"] {
        fixture.put_object(key, OBJECT.as_bytes().to_vec()).await?;
    }
    let kafka = &fixture.cluster.kafka;
    let topic = |name: &str| names.fill(name);
    kafka.create_topic(&topic("TOPIC"), 3, &[("retention.ms", "-1")]).await?;
    kafka.create_topic(&topic("NAMESPACE-compacted"), 3, &[("cleanup.policy", "compact")]).await?;
    kafka.create_topic(&topic("NAMESPACE-shared"), 3, &[("retention.ms", "-1")]).await?;
    kafka.produce(&topic("NAMESPACE-shared"), None, b"{}", 0).await?;
    let environment = &fixture.cluster.environment;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": topic("STORE_SECRET"), "namespace": OPERATOR_NAMESPACE, "labels": {LABEL: fixture.namespace}},
        "stringData": {
            "aws-access-key-id": environment.get(names::AWS_ACCESS_KEY_ID)?,
            "aws-secret-access-key": environment.get(names::AWS_SECRET_ACCESS_KEY)?,
        },
    });
    fixture.cluster.apply(OPERATOR_NAMESPACE, &secret.to_string()).await?;
    for kind in ["KafkaCluster", "BackfillClass"] {
        fixture.apply(&names.fill(base(kind)?)).await?;
        let name = topic(if kind == "KafkaCluster" { "CLUSTER" } else { "CLASS" });
        until(fixture, kind, &name, "it is ready", |object| condition(object, "Ready").0 == "True").await?;
    }
    Ok(())
}

/// Applies both twins and waits for what should become of each.
pub async fn judge(fixture: &Fixture, names: &Names, number: usize, case: &Case) -> anyhow::Result<()> {
    let ends = case.ends.as_deref().context("the case does not say how it ends")?;
    let wrong = apply(fixture, case, &format!("case-{number}-wrong"), case.wrong(names)?).await;
    let right = apply(fixture, case, &format!("case-{number}-twin"), case.right(names)?).await?;
    if ends == "Refused" {
        let refusal = refusal(fixture, names, case, wrong).await?;
        says(names, case, "the refusal", &format!("{refusal:#}"))?;
        until(fixture, &case.kind, &right, "the twin passes", passes(case)).await?;
        fixture.kubectl(&["delete", &case.kind, &right, "--wait=false"]).await?;
        return Ok(());
    }
    let wrong = wrong?;
    let reason = case.reason.as_deref().context("the case does not say why")?;
    let found = |object: &Value| {
        let (kind, wanted) = if ends == "NotReady" { ("Ready", "False") } else { (ends, "True") };
        let (status, why, message) = condition(object, kind);
        (status == wanted && why == reason).then(|| message.to_owned())
    };
    let object = until(fixture, &case.kind, &wrong, &format!("it is {ends}: {reason}"), |object| found(object).is_some()).await?;
    let message = found(&object).unwrap_or_default();
    if ends == "Failed" {
        ensure!(phase(&object) == "Failed", "its phase is {}", phase(&object));
    }
    says(names, case, reason, &message)?;
    until(fixture, &case.kind, &right, "the twin passes", passes(case)).await?;
    for name in [wrong, right] {
        fixture.kubectl(&["delete", &case.kind, &name, "--wait=false"]).await?;
    }
    Ok(())
}

/// A replica whose webhook has not heard yet of what was just made lets pass what the operator then judges: so what was taken
/// is taken back, and tried again.
async fn refusal(fixture: &Fixture, names: &Names, case: &Case, mut wrong: anyhow::Result<String>) -> anyhow::Result<anyhow::Error> {
    for _ in 0..HEARD_TRIES {
        let name = match wrong {
            Err(refusal) => return Ok(refusal),
            Ok(name) => name,
        };
        fixture.kubectl(&["delete", &case.kind, &name]).await?;
        tokio::time::sleep(HEARD_WITHIN).await;
        wrong = apply(fixture, case, &name, case.wrong(names)?).await;
    }
    wrong.err().context("it was taken")
}

fn passes(case: &Case) -> impl Fn(&Value) -> bool {
    move |object: &Value| match case.kind.as_str() {
        "BackfillJob" => phase(object) == "AwaitingApproval",
        _ => condition(object, "Ready").0 == "True",
    }
}

fn says(names: &Names, case: &Case, who: &str, message: &str) -> anyhow::Result<()> {
    for words in &case.says {
        let words = names.fill(words);
        if !message.contains(&words) {
            bail!("{who} does not say {words:?}: {message}");
        }
    }
    Ok(())
}

/// Names of objects without a namespace are the fixture's.
async fn apply(fixture: &Fixture, case: &Case, name: &str, mut manifest: Value) -> anyhow::Result<String> {
    let name = if case.kind == "BackfillJob" { name.to_owned() } else { fixture.name(name) };
    manifest["metadata"]["name"] = name.as_str().into();
    fixture.apply(&manifest.to_string()).await.context("the apiserver refused it")?;
    Ok(name)
}

async fn until(fixture: &Fixture, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("weir.dev", "v1alpha1", kind));
    let client = fixture.cluster.kube.clone();
    let api: Api<DynamicObject> =
        if kind == "BackfillJob" { Api::namespaced_with(client, &fixture.namespace, &resource) } else { Api::all_with(client, &resource) };
    let what = format!("{kind} {name}: {what}");
    let waited = wait::until(&what, LIMIT, async || {
        let object = serde_json::to_value(api.get(name).await?)?;
        let is_fresh = object.pointer("/status/observedGeneration") == object.pointer("/metadata/generation");
        if is_fresh && holds(&object) {
            return Ok(object);
        }
        let conditions = object.pointer("/status/conditions").cloned().unwrap_or_default();
        Err(anyhow::anyhow!("{} {} {conditions}", phase(&object), text(&object, "/status/message")))
    });
    Ok(waited.await?)
}
