//! What weir changes is in the audit log, once, whatever becomes of the operator; the log is verified by the operator's own
//! program, and what is done to it is found. An exception lets retention fall, and ends by itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use weir_e2e::demo::watch::{condition, number, text};
use weir_e2e::environment::names;
use weir_e2e::fixture::{self, Fixture, LABEL, OPERATOR_NAMESPACE};
use weir_e2e::wait;

const WEEK_MS: &str = "604800000";
const HOUR_MS: &str = "3600000";
const TWO_HOURS_MS: &str = "7200000";
const EXCEPTION_LASTS: Duration = Duration::from_secs(90);
/// Longer than a repair would take.
const STAYS: Duration = Duration::from_secs(20);
const PREFIX: &str = "audit";
/// From a change to its repair, and a little for what is written after it.
const SOON: Duration = Duration::from_secs(40);
/// A leader that is killed is followed after twenty seconds, and its follower's first look takes its time.
const FOLLOWED: Duration = Duration::from_secs(120);

fn kind(name: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("weir.dev", "v1alpha1", name))
}

/// A topic that keeps its records for a week, a policy that wants it so, and a cluster with an audit store in the test's
/// bucket.
async fn set(fixture: &Fixture) -> anyhow::Result<String> {
    let (topic, cluster, secret) = (fixture.name("events"), fixture.name("kafka"), fixture.name("audit"));
    fixture.cluster.kafka.create_topic(&topic, 1, &[("retention.ms", WEEK_MS)]).await?;
    let environment = &fixture.cluster.environment;
    let variable = |name| environment.get(name);
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
            "grants": [{"namespaces": [fixture.namespace], "topics": [format!("^{topic}$")], "verbs": ["Govern"]}],
        },
    });
    fixture.apply(&platform.to_string()).await?;
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
async fn until_kept(fixture: &Fixture, what: &str, entries: u64, limit: Duration) -> anyhow::Result<Value> {
    let is_kept = async || {
        let cluster = cluster(fixture).await?;
        let healthy = ["AuditHealthy", "HistoryKept"].map(|kind| condition(&cluster, kind).0 == "True");
        ensure!(healthy == [true; 2] && number(&cluster, "/status/audit/sequence") >= entries, "{}", cluster["status"]);
        Ok(cluster)
    };
    Ok(wait::until(what, limit, is_kept).await?)
}

async fn lower(fixture: &Fixture, topic: &str, to: &str) -> anyhow::Result<()> {
    let bootstrap = fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?;
    let set = format!("retention.ms={to}");
    let arguments = ["--bootstrap-server", bootstrap, "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", &set];
    fixture.cluster.kafka_tool("kafka.admin.ConfigCommand", &arguments).await?;
    Ok(())
}

async fn until_retention(fixture: &Fixture, topic: &str, expected: &str, limit: Duration) -> anyhow::Result<()> {
    let is = async || {
        let found = fixture.cluster.kafka.topic_setting(topic, "retention.ms").await?.unwrap_or_default();
        ensure!(found == expected, "retention.ms is {found}");
        Ok(())
    };
    Ok(wait::until("retention is what it should be", limit, is).await?)
}

/// The log's objects as files of a folder, and their events.
async fn download(fixture: &Fixture, to: &Path) -> anyhow::Result<Vec<Value>> {
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
async fn verify(folder: &Path, anchor: Option<&str>) -> anyhow::Result<(Option<i32>, String)> {
    let test = std::env::current_exe()?;
    let program = test.ancestors().nth(2).context("the tests lie nowhere")?.join("weir-operator");
    let mut command = tokio::process::Command::new(&program);
    command.args(["audit", "verify", "--dir"]).arg(folder).args(anchor.iter().flat_map(|anchor| ["--anchor", anchor]));
    let output = command.output().await.with_context(|| format!("{} cannot be run; build the workspace's binaries", program.display()))?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

#[tokio::test]
async fn every_change_is_in_the_log_once_and_what_is_done_to_the_log_is_found() {
    fixture::run("retention-log", async |fixture| {
        let topic = set(fixture).await?;
        until_kept(fixture, "the log is begun", 1, FOLLOWED).await?;
        lower(fixture, &topic, HOUR_MS).await?;
        until_retention(fixture, &topic, WEEK_MS, SOON).await?;
        let before = until_kept(fixture, "the raise is in the log", 2, SOON).await?;

        // Whoever leads next begins behind what there is.
        let pods = [
            "delete",
            "pods",
            "--namespace",
            OPERATOR_NAMESPACE,
            "--selector",
            "app.kubernetes.io/name=weir-operator",
            "--grace-period=0",
            "--force",
        ];
        fixture.cluster.kubectl(&pods).await?;
        let entries = number(&before, "/status/audit/sequence") + 1;
        until_kept(fixture, "another replica leads", entries, FOLLOWED).await?;
        lower(fixture, &topic, HOUR_MS).await?;
        until_retention(fixture, &topic, WEEK_MS, SOON).await?;
        let after = until_kept(fixture, "the second raise is in the log", entries + 1, SOON).await?;

        let folder = tempfile::tempdir()?;
        let events = download(fixture, folder.path()).await?;
        let raised: Vec<&Value> = events.iter().filter(|event| event["kind"] == "Raised").collect();
        ensure!(raised.len() == 2, "{events:?}");
        for event in raised {
            let change = &event["changes"][0];
            ensure!(change["topic"] == topic.as_str() && change["cause"] == "Restore" && change["keys"][0]["from"] == HOUR_MS, "{change}");
        }
        let anchor = format!("{}:{}", number(&after, "/status/audit/sequence"), text(&after, "/status/audit/digest"));
        let whole = verify(folder.path(), Some(&anchor)).await?;
        ensure!(whole.0 == Some(0), "{whole:?}");

        let second = folder.path().join("000000000002.json");
        let content = std::fs::read_to_string(&second)?;
        std::fs::write(&second, content.replace(WEEK_MS, "604800001"))?;
        let edited = verify(folder.path(), Some(&anchor)).await?;
        ensure!(edited.0 == Some(1) && edited.1.contains("entry 2 was edited"), "{edited:?}");
        std::fs::write(&second, content)?;
        let last = format!("{:012}.json", number(&after, "/status/audit/sequence"));
        std::fs::remove_file(folder.path().join(last))?;
        let cut = verify(folder.path(), Some(&anchor)).await?;
        ensure!(cut.0 == Some(1) && cut.1.contains("the end was cut off"), "{cut:?}");
        let unanchored = verify(folder.path(), None).await?;
        ensure!(unanchored.0 == Some(3), "{unanchored:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_exception_lets_retention_fall_and_ends_by_itself() {
    fixture::run("retention-exception", async |fixture| {
        let topic = set(fixture).await?;
        until_kept(fixture, "the log is begun", 1, FOLLOWED).await?;
        let until = jiff::Timestamp::now() + EXCEPTION_LASTS;
        let exception = json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "RetentionException", "metadata": {"name": "now"},
            "spec": {
                "clusterRef": {"name": fixture.name("kafka")}, "topics": [topic], "floor": "2h", "reason": "disks are full", "until": until.to_string(),
            },
        });
        fixture.apply(&exception.to_string()).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(fixture.cluster.kube.clone(), &fixture.namespace, &kind("RetentionException"));
        let is_in_force = async || {
            let found = serde_json::to_value(api.get("now").await?)?;
            ensure!(condition(&found, "Active").0 == "True", "{}", found["status"]);
            Ok(())
        };
        wait::until("the exception is in force", SOON, is_in_force).await?;
        lower(fixture, &topic, TWO_HOURS_MS).await?;
        tokio::time::sleep(STAYS).await;
        until_retention(fixture, &topic, TWO_HOURS_MS, Duration::from_secs(1)).await?;
        until_retention(fixture, &topic, WEEK_MS, EXCEPTION_LASTS + SOON).await?;

        let is_recorded = async || {
            let folder = tempfile::tempdir()?;
            let events = download(fixture, folder.path()).await?;
            let kinds: Vec<&str> = events.iter().map(|event| text(event, "/kind")).filter(|kind| *kind != "Leads").collect();
            ensure!(kinds == ["ExceptionBegan", "Raised", "ExceptionEnded"] || kinds == ["ExceptionBegan", "ExceptionEnded", "Raised"], "{kinds:?}");
            Ok(())
        };
        wait::until("its beginning and its end are in the log", SOON, is_recorded).await?;
        Ok(())
    })
    .await;
}
