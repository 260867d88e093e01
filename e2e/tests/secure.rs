//! The broker's other doors. A job publishes through TLS, and through SCRAM over TLS with no more rights than the
//! documentation lists; with the wrong password, or a right too few, it waits, says so, and goes on when that is mended. So does
//! a retention policy, and a new password is taken up without a restart.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use weir_e2e::demo::scene::{JOB, Job, Scene};
use weir_e2e::demo::watch::{Watched, condition, text};
use weir_e2e::environment::names;
use weir_e2e::fixture::{self, Fixture, LABEL, OPERATOR_NAMESPACE, SECRET};
use weir_e2e::handles::{Component, Handles};
use weir_e2e::novashop::Settings;
use weir_e2e::retention::{govern, policy, set_retention, setting, until_shown};
use weir_e2e::scale::measures::metrics;
use weir_e2e::scale::say;
use weir_e2e::wait;

const SETTINGS: Settings = Settings { seed: 11, events: 10_000 };
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// A cluster that is not ready is looked at every ten seconds.
const SOON: Duration = Duration::from_secs(60);
/// Topics are looked at every thirty seconds, and shown after the next look at offsets.
const LOOKED: Duration = Duration::from_secs(120);
const WEEK_MS: &str = "604800000";
const HOUR_MS: &str = "3600000";
/// Longer than a repair takes.
const STAYS: Duration = Duration::from_secs(30);
/// Secrets are looked at every fifteen seconds, between turns; one that waits for a broker that lets nobody in takes its time.
const RE_READ: Duration = Duration::from_secs(60);
const AUTO: Job<'_> = Job { generation: 1, approval: "Auto", parallelism: 2 };

/// Has the scene's KafkaCluster reached by another door, and waits until the operator has come through it.
async fn enter_by(fixture: &Fixture, bootstrap: &str, mut spec: Value) -> anyhow::Result<()> {
    let environment = &fixture.cluster.environment;
    let authority = std::fs::read_to_string(environment.get(names::KAFKA_CA_FILE)?)?;
    spec["bootstrapServers"] = json!([bootstrap]);
    spec["security"]["caCertificates"] = authority.into();
    let (name, patch) = (fixture.name("kafka"), json!({"spec": spec}).to_string());
    fixture.cluster.kubectl(&["patch", "kafkacluster", &name, "--type", "merge", "--patch", &patch]).await?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("weir.dev", "v1alpha1", "KafkaCluster"));
    let api: Api<DynamicObject> = Api::all_with(fixture.cluster.kube.clone(), &resource);
    let is_ready = async || {
        let object = serde_json::to_value(api.get(&name).await?)?;
        let is_fresh = object.pointer("/status/observedGeneration") == object.pointer("/metadata/generation");
        ensure!(is_fresh && condition(&object, "Ready").0 == "True", "{:?}", object.pointer("/status"));
        Ok(())
    };
    Ok(wait::until("the operator comes through the other door", SOON, is_ready).await?)
}

async fn set_password(fixture: &Fixture, password: &str) -> anyhow::Result<()> {
    let patch = json!({"stringData": {"kafka-username": user(fixture, "worker"), "kafka-password": password}}).to_string();
    fixture.kubectl(&["patch", "secret", SECRET, "--type", "merge", "--patch", &patch]).await?;
    Ok(())
}

fn user(fixture: &Fixture, role: &str) -> String {
    fixture.name(role)
}

async fn create_user(fixture: &Fixture, role: &str, password: &str) -> anyhow::Result<()> {
    let (bootstrap, user) = (fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?, user(fixture, role));
    let scram = format!("SCRAM-SHA-512=[password={password}]");
    let arguments = ["--bootstrap-server", bootstrap, "--alter", "--add-config", &scram, "--entity-type", "users", "--entity-name", &user];
    fixture.cluster.kafka_tool("kafka.admin.ConfigCommand", &arguments).await?;
    Ok(())
}

/// Allows what a line of the documentation's table allows.
async fn allow(fixture: &Fixture, role: &str, operations: &[&str], resource: &[&str]) -> anyhow::Result<()> {
    let (bootstrap, principal) = (fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?, format!("User:{}", user(fixture, role)));
    let mut arguments = vec!["--bootstrap-server", bootstrap, "--add", "--force", "--allow-principal", &principal];
    arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
    arguments.extend_from_slice(resource);
    fixture.cluster.kafka_tool("org.apache.kafka.tools.AclCommand", &arguments).await?;
    Ok(())
}

/// The operator's rights, and a worker's but for publishing: as docs/src/operations.md lists them.
async fn allow_all_but_publishing(fixture: &Fixture, topic: &str) -> anyhow::Result<()> {
    let progress = format!("weir.{}.progress", fixture.namespace);
    allow(fixture, "operator", &["Create", "Describe", "DescribeConfigs"], &["--topic", "weir.", "--resource-pattern-type", "prefixed"])
        .await?;
    allow(fixture, "worker", &["Read", "DescribeConfigs"], &["--topic", topic]).await?;
    allow(fixture, "worker", &["Read", "Write"], &["--topic", &progress]).await?;
    allow(fixture, "worker", &["Describe"], &["--group", "weir"]).await
}

async fn until_refused(watched: &Watched, what: &str, words: &str) -> anyhow::Result<()> {
    let is_refused = |job: &Value| {
        let (status, reason, message) = condition(job, "Stalled");
        (status, reason) == ("True", "KafkaDenied") && message.contains(words)
    };
    watched.until(what, RUN_LIMIT, is_refused, |_| {}).await?;
    Ok(())
}

/// The Secret that the operator comes with.
async fn operators_secret(fixture: &Fixture, password: &str) -> anyhow::Result<String> {
    let secret = fixture.name("broker");
    let operators = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": secret, "namespace": OPERATOR_NAMESPACE, "labels": {LABEL: fixture.namespace}},
        "stringData": {"kafka-username": user(fixture, "operator"), "kafka-password": password},
    });
    fixture.cluster.apply(OPERATOR_NAMESPACE, &operators.to_string()).await?;
    Ok(secret)
}

fn scram(secret: &str) -> Value {
    json!({"security": {"protocol": "SaslTls", "mechanism": "ScramSha512"}, "credentialsSecretRef": {"name": secret}})
}

/// Waits until the policy says so of `Stalled`, with these words, and the topic is shown in that state.
async fn until_policy_says(fixture: &Fixture, topic: &str, reason: &str, state: &str) -> anyhow::Result<()> {
    let says = async || {
        let policy = policy(fixture, "events").await?;
        let (_, found, message) = condition(&policy, "Stalled");
        ensure!(found == reason && (reason == "Watching" || message.contains(topic)), "{}", policy["status"]);
        Ok(())
    };
    wait::until(&format!("the policy says {reason}"), LOOKED, says).await?;
    let is_shown = |floor: &Value| text(floor, "/status/state") == state;
    until_shown(fixture, topic, &format!("the topic is {state}"), LOOKED, is_shown).await?;
    Ok(())
}

/// A topic that only the operator's user may look at and alter, and a policy that keeps it.
async fn keep_by_password(fixture: &Fixture, password: &str) -> anyhow::Result<String> {
    let topic = fixture.name("events");
    fixture.cluster.kafka.create_topic(&topic, 1, &[("retention.ms", WEEK_MS)]).await?;
    create_user(fixture, "operator", password).await?;
    allow_keeping(fixture, &topic).await?;
    allow(fixture, "operator", &["Describe", "DescribeConfigs"], &["--cluster"]).await?;
    allow(fixture, "operator", &["Describe"], &["--group", "*"]).await?;
    let (cluster, secret) = (govern(fixture).await?, operators_secret(fixture, password).await?);
    enter_by(fixture, fixture.cluster.environment.get(names::KAFKA_SASL_BOOTSTRAP)?, scram(&secret)).await?;
    let policy = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": "events"},
        "spec": {
            "clusterRef": {"name": cluster}, "topics": {"patterns": [format!("^{}-.*$", fixture.namespace)]},
            "floor": {"minimum": "168h"}, "enforcement": {"mode": "Enforce"}, "owners": {"team": "growth-data"},
        },
    });
    fixture.apply(&policy.to_string()).await?;
    until_policy_says(fixture, &topic, "Watching", "Healthy").await?;
    Ok(topic)
}

async fn allow_keeping(fixture: &Fixture, topic: &str) -> anyhow::Result<()> {
    allow(fixture, "operator", &["Describe", "DescribeConfigs", "AlterConfigs", "Read"], &["--topic", topic]).await
}

#[tokio::test]
async fn a_policy_says_which_topic_weir_may_not_look_at() {
    fixture::run("denied", async |fixture| {
        let topic = keep_by_password(fixture, "the-right-one").await?;
        let bootstrap = fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?;
        let remove = ["--bootstrap-server", bootstrap, "--remove", "--force", "--topic", &topic];
        fixture.cluster.kafka_tool("org.apache.kafka.tools.AclCommand", &remove).await?;
        until_policy_says(fixture, &topic, "DescribeDenied", "Unknown").await?;

        allow_keeping(fixture, &topic).await?;
        until_policy_says(fixture, &topic, "Watching", "Healthy").await
    })
    .await;
}

/// How often each of the operator's containers was started, by its pod.
async fn starts(fixture: &Fixture) -> anyhow::Result<BTreeMap<String, i32>> {
    let restarts = |pod: &Pod| pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count).sum();
    let pods = metrics(fixture).await?;
    Ok(pods.iter().map(|(pod, _)| (pod.metadata.uid.clone().unwrap_or_default(), restarts(pod))).collect())
}

#[tokio::test]
async fn a_new_password_is_taken_up_without_a_restart() {
    fixture::run("new-password", async |fixture| {
        const NEW: &str = "another-one";
        let topic = keep_by_password(fixture, "the-right-one").await?;
        let before = starts(fixture).await?;
        // Nobody is thrown out by a new password: whoever is connected stays so until the broker begins anew.
        create_user(fixture, "operator", NEW).await?;
        let handles = Handles::of(&fixture.cluster)?;
        handles.stop(Component::Kafka)?;
        handles.start(Component::Kafka).await?;
        set_retention(fixture, &topic, HOUR_MS).await?;

        // By what its Secret says weir does not come in.
        tokio::time::sleep(STAYS).await;
        ensure!(setting(fixture, &topic, "retention.ms").await? == HOUR_MS, "it was raised with the old password");

        operators_secret(fixture, NEW).await?;
        let changed = Instant::now();
        let is_back = async || {
            let found = setting(fixture, &topic, "retention.ms").await?;
            ensure!(found == WEEK_MS, "retention.ms is {found}");
            Ok(())
        };
        wait::until("retention is raised with the new password", RE_READ, is_back).await?;
        say(&format!("| from a Secret's change to a raise by it | {:.1} s |", changed.elapsed().as_secs_f64()));
        ensure!(starts(fixture).await? == before, "the operator was started anew");
        until_policy_says(fixture, &topic, "Watching", "Healthy").await
    })
    .await;
}

#[tokio::test]
async fn a_job_publishes_over_tls() {
    fixture::run("tls", async |fixture| {
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        let bootstrap = fixture.cluster.environment.get(names::KAFKA_SSL_BOOTSTRAP)?;
        enter_by(fixture, bootstrap, json!({"security": {"protocol": "Tls"}})).await?;
        fixture.apply(&scene.job(AUTO)).await?;
        let job = Watched::new(fixture, JOB).phase("Complete", RUN_LIMIT, |_| {}).await?;
        Ok(scene.must_agree(None, Some(&job), &[1]).await?)
    })
    .await;
}

#[tokio::test]
async fn a_job_needs_the_right_password_and_the_rights_that_are_listed() {
    fixture::run("scram", async |fixture| {
        const PASSWORD: &str = "the-right-one";
        let scene = Scene::set(fixture, SETTINGS, None).await?;
        for role in ["operator", "worker"] {
            create_user(fixture, role, PASSWORD).await?;
        }
        allow_all_but_publishing(fixture, &scene.topic).await?;
        let secret = operators_secret(fixture, PASSWORD).await?;
        enter_by(fixture, fixture.cluster.environment.get(names::KAFKA_SASL_BOOTSTRAP)?, scram(&secret)).await?;

        set_password(fixture, "not-the-password").await?;
        fixture.apply(&scene.job(AUTO)).await?;
        let watched = Watched::new(fixture, JOB);
        until_refused(&watched, "the broker refuses the password", "kafka-password").await?;
        set_password(fixture, PASSWORD).await?;

        until_refused(&watched, "the broker refuses the transactional id", "transactional").await?;
        let ids = format!("weir.{}.", fixture.namespace);
        allow(fixture, "worker", &["Write"], &["--transactional-id", &ids, "--resource-pattern-type", "prefixed"]).await?;

        until_refused(&watched, "the broker refuses the topic", "Topic authorization failed").await?;
        allow(fixture, "worker", &["Write"], &["--topic", &scene.topic]).await?;

        let job = watched.phase("Complete", RUN_LIMIT, |_| {}).await.context("after everything was mended")?;
        ensure!(condition(&job, "Stalled").0 != "True", "{job}");
        Ok(scene.must_agree(None, Some(&job), &[1]).await?)
    })
    .await;
}
