//! Admission, as people and operators meet it: what is refused and what passes, while certificates and replicas come and go,
//! while nobody answers, and when weir is taken away.

mod admission {
    pub mod load;
    pub mod rotation;
    pub mod topics;
}

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use admission::load::{Load, kind};
use admission::rotation::rotate;
use admission::topics::{KINDS, STRIMZI, must_refuse, refusal, resource, with_kinds};
use anyhow::{Context as _, ensure};
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use serde_json::{Value, json};
use weir_e2e::deploy;
use weir_e2e::environment::names;
use weir_e2e::fixture::{self, Fixture, LABEL, OPERATOR_NAMESPACE};
use weir_e2e::layout::Layout;
use weir_e2e::wait;

const WEEK_MS: &str = "604800000";
const TWO_WEEKS_MS: &str = "1209600000";
const HOUR_MS: &str = "3600000";
const GROUP: &str = "lake-sink";
const POLICY: &str = "events";
/// Topics are looked at at once, offsets every thirty seconds, and records that are needed for a lag in the look after.
const KNOWN_LIMIT: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(60);
const ROLLOUT_TIMEOUT: &str = "--timeout=300s";
const DEPLOYMENT: &str = "deployment/weir-operator";
/// Enough for each step to have been asked in. How many a second weir bears is for the test at size.
const REQUESTS_MIN: usize = 5000;

fn platform(fixture: &Fixture, topic: &str) -> anyhow::Result<Value> {
    let cluster = fixture.name("kafka");
    let kinds = ["StrimziKafkaTopic", "RedpandaTopic", "CrossplaneTopic"];
    let resources: Vec<Value> = kinds.iter().map(|kind| json!({"kind": kind, "matchLabels": {"strimzi.io/cluster": cluster}})).collect();
    Ok(json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": cluster, "labels": {LABEL: fixture.namespace}},
        "spec": {
            "bootstrapServers": [fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?], "topicResources": resources,
            "grants": [{"namespaces": [fixture.namespace], "topics": [format!("^{topic}$")], "verbs": ["Govern"]}],
        },
    }))
}

fn policy(fixture: &Fixture, topic: &str) -> Value {
    json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": POLICY},
        "spec": {
            "clusterRef": {"name": fixture.name("kafka")}, "topics": {"names": [topic]}, "floor": {"minimum": "168h"},
            "consumerGroups": {"required": [fixture.name(GROUP)]}, "enforcement": {"mode": "Enforce"},
            "owners": {"team": "growth-data", "contacts": ["#growth-data"]},
        },
    })
}

/// A topic that keeps its records for a week and whose group is half an hour behind, a policy, and weir knows of it.
async fn governed(fixture: &Fixture) -> anyhow::Result<String> {
    let topic = fixture.name("events");
    fixture.cluster.kafka.create_topic(&topic, 1, &[("retention.ms", WEEK_MS)]).await?;
    let half_an_hour_ago = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())? - 30 * 60 * 1000;
    for number in 0..20 {
        fixture.cluster.kafka.produce(&topic, None, b"{}", half_an_hour_ago + number).await?;
    }
    let (bootstrap, group) = (fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?, fixture.name(GROUP));
    let commit =
        ["--bootstrap-server", bootstrap, "--group", &group, "--topic", &topic, "--reset-offsets", "--to-offset", "5", "--execute"];
    fixture.cluster.kafka_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &commit).await?;
    fixture.apply(&platform(fixture, &topic)?.to_string()).await?;
    fixture.apply(&policy(fixture, &topic).to_string()).await?;
    let known = async || {
        let standing = standing(fixture, &topic).await?;
        let peak = standing.pointer("/consumers/0/peak/behindMs").and_then(Value::as_i64).unwrap_or(0);
        ensure!(standing["floorMs"] == 604_800_000 && peak > 20 * 60 * 1000, "{standing}");
        Ok(())
    };
    wait::until("the floor and the group's lag are known", KNOWN_LIMIT, known).await?;
    Ok(topic)
}

/// What admission judges changes of a topic by.
async fn standing(fixture: &Fixture, topic: &str) -> anyhow::Result<Value> {
    let api: Api<DynamicObject> = Api::all_with(fixture.cluster.kube.clone(), &kind("TopicFloor"));
    let listed = api.list(&ListParams::default()).await?;
    let found = listed.items.into_iter().find(|f| f.data.pointer("/spec/topic").and_then(Value::as_str) == Some(topic));
    let floor = found.with_context(|| format!("there is no TopicFloor of {topic}"))?;
    floor.data.pointer("/status/standing").cloned().context("it says nothing to admission yet")
}

/// What `kubectl` says beside its result, where that is a warning.
async fn warning(fixture: &Fixture, manifest: &Value) -> anyhow::Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), manifest.to_string())?;
    let path = file.path().to_string_lossy();
    match fixture.kubectl(&["apply", "--warnings-as-errors", "--filename", &path]).await {
        Ok(_) => anyhow::bail!("it passes without a warning"),
        Err(error) => Ok(error.to_string()),
    }
}

#[tokio::test]
async fn changes_of_topics_are_judged_by_their_floor_whoever_owns_them() {
    fixture::run("admission-topics", async |fixture| {
        let (topic, cluster) = (governed(fixture).await?, fixture.name("kafka"));
        with_kinds(fixture, async || {
            for (kind, path) in KINDS {
                let at = |retention: &str| resource(kind, "events", &topic, &cluster, retention);
                fixture.apply(&at(TWO_WEEKS_MS).to_string()).await.context(kind)?;
                let refused = refusal(fixture, &at(HOUR_MS)).await?;
                let field = format!("spec.{path}.\"retention.ms\": 3600000 (1h) is below the floor of 604800000 (168h) of topic {topic}");
                for words in [field.as_str(), "growth-data (#growth-data)", "create a RetentionException", &fixture.name(GROUP)] {
                    ensure!(refused.contains(words), "{kind}: the refusal does not say {words:?}: {refused}");
                }
                let warned = warning(fixture, &at("864000000")).await?;
                ensure!(warned.contains("stays above its floor") && warned.contains(&fixture.name(GROUP)), "{kind}: {warned}");
                must_refuse(fixture, &at("7200000"), &["7200000 (2h)"]).await?;
                // A label, status, a finalizer.
                fixture.kubectl(&["label", kind, "events", "team=growth"]).await?;
                fixture
                    .kubectl(&["patch", kind, "events", "--subresource=status", "--type=merge", "--patch", r#"{"status":{"seen":"yes"}}"#])
                    .await?;
                // Its topic would go with it.
                let deleted = fixture.kubectl(&["delete", kind, "events"]).await;
                ensure!(deleted.is_err_and(|error| error.to_string().contains("protected from deletion")), "{kind}: it was deleted");
            }
            // Of another cluster, and of a topic that nobody governs.
            fixture.apply(&resource(STRIMZI, "theirs", &topic, "another", HOUR_MS).to_string()).await?;
            fixture.apply(&resource(STRIMZI, "free", "nobody-governs-it", &cluster, HOUR_MS).to_string()).await?;
            // One that was below its floor before anybody looked is changed otherwise, and raised, but not lowered.
            let mut low = resource(STRIMZI, "theirs", &topic, &cluster, HOUR_MS);
            fixture.apply(&low.to_string()).await.context("a label ties it to the cluster")?;
            low["spec"]["partitions"] = 3.into();
            fixture.apply(&low.to_string()).await.context("another field")?;
            fixture.apply(&resource(STRIMZI, "theirs", &topic, &cluster, "7200000").to_string()).await.context("raised")?;
            must_refuse(fixture, &low, &["3600000 (1h)"]).await
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn a_policy_is_not_changed_below_what_its_consumers_need() {
    fixture::run("admission-policy", async |fixture| {
        let topic = governed(fixture).await?;
        let changed = |floor: Value| {
            let mut policy = policy(fixture, &topic);
            policy["spec"]["floor"] = floor;
            policy
        };
        let group = fixture.name(GROUP);
        let says = ["spec.floor lets the floor of topic", "below what its consumers need", &group, "keep at least"];
        must_refuse(fixture, &changed(json!({"minimum": "1m", "lagMultiplierPercent": 0})), &says).await?;
        fixture.apply(&changed(json!({"minimum": "24h", "lagMultiplierPercent": 0})).to_string()).await.context("enough for the group")?;
        // Deleting it passes; what it asked for lives on.
        fixture.kubectl(&["delete", "topicretentionpolicy", POLICY]).await?;
        Ok(())
    })
    .await;
}

/// Floors of topics of a cluster that there is not, so that nobody looks after them.
async fn add_floors(fixture: &Fixture, count: usize) -> anyhow::Result<()> {
    let floor = |number: usize| {
        json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "TopicFloor",
            "metadata": {"name": format!("{}-{number}", fixture.namespace), "labels": {LABEL: fixture.namespace}},
            "spec": {"clusterRef": {"name": fixture.name("nowhere")}, "topic": format!("topic-{number}")},
        })
    };
    for chunk in (0..count).collect::<Vec<_>>().chunks(250) {
        let items: Vec<Value> = chunk.iter().map(|number| floor(*number)).collect();
        fixture.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).await?;
    }
    Ok(())
}

/// The share of judgements that took at most so many seconds, on all replicas that run.
async fn within(fixture: &Fixture, seconds: &str) -> anyhow::Result<f64> {
    let names = "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}";
    let selector = ["get", "pods", "--selector", "app.kubernetes.io/name=weir-operator", "--output", names];
    let listed = fixture.cluster.kubectl(&[["--namespace", OPERATOR_NAMESPACE].as_slice(), &selector].concat()).await?;
    let (mut fast, mut all) = (0.0, 0.0);
    for pod in listed.split_ascii_whitespace() {
        let url = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}:8080/proxy/metrics");
        let metrics = fixture.cluster.kubectl(&["get", "--raw", &url]).await?;
        let value = |series: &str| metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok());
        fast += value(&format!("weir_admission_seconds_bucket{{le=\"{seconds}\"}}")).with_context(|| format!("{pod} has no buckets"))?;
        all += value("weir_admission_seconds_count").unwrap_or(0.0);
    }
    ensure!(all > 0.0, "nobody was asked");
    Ok(fast / all)
}

#[tokio::test]
async fn no_request_fails_while_certificates_and_replicas_are_replaced() {
    fixture::run("admission-load", async |fixture| {
        let topic = governed(fixture).await?;
        add_floors(fixture, 1000).await?;
        let load = Load::start(fixture, POLICY);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let share = within(fixture, "0.01").await?;
        rotate(fixture, "leaf").await?;
        let system = ["--namespace", OPERATOR_NAMESPACE];
        fixture.cluster.kubectl(&[&system[..], &["rollout", "restart", DEPLOYMENT]].concat()).await?;
        fixture.cluster.kubectl(&[&system[..], &["rollout", "status", DEPLOYMENT, ROLLOUT_TIMEOUT]].concat()).await?;
        rotate(fixture, "authority").await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let share = share.min(within(fixture, "0.01").await?);
        let (answered, rate) = load.stop().await?;
        tracing::info!("{answered} requests, {rate:.0} a second, {:.2} % judged within 10 ms", share * 100.0);
        ensure!(share >= 0.99, "only {:.2} % were judged within 10 ms", share * 100.0);
        ensure!(answered >= REQUESTS_MIN, "this machine asked {answered} times only");
        must_refuse(
            fixture,
            &{
                let mut low = policy(fixture, &topic);
                low["spec"]["topics"]["patterns"] = json!(["("]);
                low
            },
            &["spec.topics.patterns[0]"],
        )
        .await
    })
    .await;
}

/// Runs the body while no replica runs.
async fn without_replicas<F>(fixture: &Fixture, body: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce() -> anyhow::Result<()>,
{
    let system = ["--namespace", OPERATOR_NAMESPACE];
    fixture.cluster.kubectl(&[&system[..], &["scale", DEPLOYMENT, "--replicas=0"]].concat()).await?;
    let pods = ["wait", "--for=delete", "pods", "--selector", "app.kubernetes.io/name=weir-operator", "--timeout=120s"];
    let outcome = match fixture.cluster.kubectl(&[&system[..], &pods].concat()).await {
        Ok(_) => body().await,
        Err(error) => Err(error.into()),
    };
    fixture.cluster.kubectl(&[&system[..], &["scale", DEPLOYMENT, "--replicas=2"]].concat()).await?;
    fixture.cluster.kubectl(&[&system[..], &["rollout", "status", DEPLOYMENT, ROLLOUT_TIMEOUT]].concat()).await?;
    outcome
}

#[tokio::test]
async fn while_nobody_answers_own_specs_are_refused_and_everything_else_passes() {
    fixture::run("admission-down", async |fixture| {
        let (topic, cluster) = (governed(fixture).await?, fixture.name("kafka"));
        with_kinds(fixture, async || {
            fixture.apply(&resource(STRIMZI, "events", &topic, &cluster, TWO_WEEKS_MS).to_string()).await?;
            without_replicas(fixture, async || {
                let mut longer = policy(fixture, &topic);
                longer["spec"]["floor"]["minimum"] = "169h".into();
                must_refuse(fixture, &longer, &["kinds.weir.dev"]).await?;
                longer["metadata"]["name"] = "another".into();
                must_refuse(fixture, &longer, &["kinds.weir.dev"]).await?;
                let policy = ["topicretentionpolicy", POLICY];
                let patch = async |patch: &str, more: &[&str]| {
                    let all = [&["patch"][..], &policy, &["--type=merge", "--patch", patch], more].concat();
                    fixture.kubectl(&all).await.map(drop).with_context(|| format!("{patch} does not pass"))
                };
                patch(r#"{"metadata":{"labels":{"team":"growth"}}}"#, &[]).await?;
                patch(r#"{"metadata":{"finalizers":["weir.dev/e2e"]}}"#, &[]).await?;
                patch(r#"{"status":{"observedGeneration":1}}"#, &["--subresource=status"]).await?;
                fixture.kubectl(&["delete", "topicretentionpolicy", POLICY, "--wait=false"]).await?;
                patch(r#"{"metadata":{"finalizers":null}}"#, &[]).await?;
                fixture.kubectl(&["wait", "--for=delete", "topicretentionpolicy", POLICY, "--timeout=30s"]).await?;
                // Others' kinds pass, but for the minimum that needs nobody.
                fixture.apply(&resource(STRIMZI, "events", &topic, &cluster, HOUR_MS).to_string()).await?;
                must_refuse(
                    fixture,
                    &resource(STRIMZI, "events", &topic, &cluster, "604800"),
                    &["below the minimum of 3600000 ms", "milliseconds"],
                )
                .await?;
                fixture.kubectl(&["delete", STRIMZI, "events"]).await?;
                Ok(())
            })
            .await
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn a_namespace_with_policies_and_protected_topics_is_deleted() {
    fixture::run("admission-namespace", async |fixture| {
        let (topic, cluster) = (governed(fixture).await?, fixture.name("kafka"));
        with_kinds(fixture, async || {
            for (kind, _) in KINDS {
                fixture.apply(&resource(kind, "events", &topic, &cluster, WEEK_MS).to_string()).await?;
                ensure!(fixture.kubectl(&["delete", kind, "events"]).await.is_err(), "{kind} is not protected");
            }
            fixture.cluster.kubectl(&["delete", "namespace", &fixture.namespace, "--timeout=120s"]).await.context("it hangs")?;
            Ok(())
        })
        .await
    })
    .await;
}

/// Cluster-wide objects that carry weir's name.
async fn remains(fixture: &Fixture) -> anyhow::Result<BTreeSet<String>> {
    let kinds = "validatingwebhookconfigurations,mutatingwebhookconfigurations,validatingadmissionpolicies,\
                 validatingadmissionpolicybindings,customresourcedefinitions,namespaces,clusterroles,clusterrolebindings";
    let listed = fixture.cluster.kubectl(&["get", kinds, "--output", "name"]).await?;
    let is_ours = |line: &&str| line.contains("/weir-") || line.ends_with(".weir.dev");
    Ok(listed.lines().filter(is_ours).map(str::to_owned).collect())
}

#[tokio::test]
async fn taken_away_weir_leaves_nothing_that_blocks() {
    fixture::run("admission-uninstall", async |fixture| {
        let layout = Layout::from_environment();
        let (topic, cluster) = (governed(fixture).await?, fixture.name("kafka"));
        let outcome = with_kinds(fixture, async || {
            fixture.apply(&resource(STRIMZI, "events", &topic, &cluster, TWO_WEEKS_MS).to_string()).await?;
            ensure!(!remains(fixture).await?.is_empty(), "nothing of weir is found, so nothing is shown");
            deploy::undeploy(&layout, &fixture.cluster).await?;
            let is_gone = async || {
                let left = remains(fixture).await?;
                ensure!(left.is_empty(), "{left:?}");
                Ok(())
            };
            wait::until("all of weir is gone", SOON, is_gone).await?;
            fixture.apply(&resource(STRIMZI, "events", &topic, &cluster, "1000").to_string()).await.context("something still blocks")?;
            fixture.kubectl(&["delete", STRIMZI, "events"]).await?;
            Ok(())
        })
        .await;
        // Whatever came of it: the other tests need it.
        deploy::deploy(&layout, &fixture.cluster).await?;
        outcome
    })
    .await;
}
