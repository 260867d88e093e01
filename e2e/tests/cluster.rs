//! The cluster itself: what every other test takes for granted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use weir_e2e::command::{STEP_TIMEOUT, command, output_of};
use weir_e2e::environment::names;
use weir_e2e::fixture::{self, Fixture};
use weir_e2e::handles::{Component, Handles, Signal};
use weir_e2e::kafka::Listener;
use weir_e2e::parts::BUSYBOX_IMAGE;
use weir_e2e::wait;

/// How long a pod of a local image may take to run and end.
const POD_TIMEOUT: Duration = Duration::from_secs(60);

/// A pod of the strictest profile that runs a shell script on a pool.
fn script_pod(name: &str, pool: &str, script: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"weir.dev/pool": pool},
            "tolerations": [{"key": "weir.dev/pool", "operator": "Equal", "value": pool, "effect": "NoSchedule"}],
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "script", "image": BUSYBOX_IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-ec", script],
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
    .to_string()
}

/// A command that succeeds when something listens there.
fn connect(address: &str) -> String {
    format!("nc -w 1 {address} -e /bin/true")
}

fn pods(fixture: &Fixture) -> Api<Pod> {
    Api::namespaced(fixture.cluster.kube.clone(), &fixture.namespace)
}

async fn until_phase(fixture: &Fixture, name: &str, phase: &str) -> anyhow::Result<Pod> {
    let what = format!("the pod {name} is {phase}");
    let pod = wait::until_object(pods(fixture), name, &what, POD_TIMEOUT, |pod: &Pod| {
        let current = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("without a phase");
        if current == phase { Ok(()) } else { Err(format!("it is {current}")) }
    });
    Ok(pod.await?)
}

#[tokio::test]
async fn pods_run_on_both_pools_and_reach_every_service() {
    fixture::run("pools", async |fixture: &Fixture| {
        let port = |name| -> anyhow::Result<String> {
            let address = fixture.cluster.environment.get(name)?.trim_start_matches("http://").to_owned();
            Ok(address.replace(':', " "))
        };
        let script = format!(
            "nslookup kubernetes.default.svc.cluster.local\n{}\n{}\n{}",
            connect("kubernetes.default.svc 443"),
            connect(&port(names::KAFKA_BOOTSTRAP)?),
            connect(&port(names::AWS_ENDPOINT_URL)?)
        );
        for pool in ["general", "backfill"] {
            fixture.apply(&script_pod(pool, pool, &script)).await?;
        }
        for (pool, node) in [("general", "node-0"), ("backfill", "node-1")] {
            let pod = until_phase(fixture, pool, "Succeeded").await?;
            ensure!(pod.spec.context("a pod has a spec")?.node_name.as_deref() == Some(node));
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_backfill_pool_takes_only_pods_that_tolerate_it() {
    fixture::run("taint", async |fixture: &Fixture| {
        let mut pod: serde_json::Value = serde_json::from_str(&script_pod("intruder", "backfill", "true"))?;
        pod["spec"]["tolerations"] = serde_json::json!([]);
        fixture.apply(&pod.to_string()).await?;
        let what = "the pod is refused by the scheduler";
        wait::until_object(pods(fixture), "intruder", what, POD_TIMEOUT, |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let message = conditions.filter_map(|condition| condition.message.clone()).collect::<String>();
            if message.contains("untolerated taint") { Ok(()) } else { Err(message) }
        })
        .await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn every_listener_of_the_broker_takes_and_gives_records() {
    fixture::run("listeners", async |fixture: &Fixture| {
        let (kafka, topic) = (&fixture.cluster.kafka, fixture.name("listeners"));
        kafka.create_topic(&topic, 2, &[("retention.ms", "-1")]).await?;
        kafka.produce(&topic, Some(b"key"), b"value", 1_762_150_000_000).await?;
        for listener in [Listener::Plaintext, Listener::Ssl, Listener::SaslSsl] {
            let records = kafka.read_committed_by(listener, &topic).await?;
            ensure!(records.len() == 1, "{listener:?} gives {} records", records.len());
            ensure!(records[0].value.as_deref() == Some(b"value".as_slice()));
            ensure!(records[0].timestamp == Some(1_762_150_000_000));
        }
        let witness = ["--topic", &topic, "--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", "8000"];
        let bootstrap = ["--bootstrap-server", fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?];
        let arguments = [bootstrap.as_slice(), &witness].concat();
        let seen = fixture.cluster.kafka_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments).await?;
        ensure!(seen.trim() == "value", "the console consumer read {seen:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_broker_refuses_a_wrong_password_and_an_unknown_authority() {
    fixture::run("strangers", async |fixture: &Fixture| {
        let mut wrong_password = fixture.cluster.kafka.client(Listener::SaslSsl)?;
        wrong_password.set("sasl.password", "wrong");
        let mut unknown_authority = fixture.cluster.kafka.client(Listener::Ssl)?;
        unknown_authority.remove("ssl.ca.location");
        for config in [wrong_password, unknown_authority] {
            let refused = tokio::task::spawn_blocking(move || {
                let consumer = config.create::<BaseConsumer>().unwrap();
                consumer.fetch_metadata(None, Duration::from_secs(3)).map(drop)
            });
            ensure!(refused.await?.is_err());
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_committed_reader_does_not_see_an_aborted_transaction() {
    fixture::run("aborted", async |fixture: &Fixture| {
        let (kafka, topic) = (&fixture.cluster.kafka, fixture.name("aborted"));
        kafka.create_topic(&topic, 1, &[]).await?;
        let mut config = kafka.client(Listener::Plaintext)?;
        config.set("transactional.id", &topic);
        let (written, timeout) = (topic.clone(), Duration::from_secs(20));
        tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            let producer = config.create::<BaseProducer>()?;
            producer.init_transactions(timeout)?;
            for (value, commit) in [("aborted", false), ("committed", true)] {
                producer.begin_transaction()?;
                producer.send(BaseRecord::<[u8], str>::to(&written).payload(value)).map_err(|(error, _)| error)?;
                producer.flush(timeout)?;
                if commit { producer.commit_transaction(timeout)? } else { producer.abort_transaction(timeout)? }
            }
            Ok(())
        })
        .await??;
        let values = kafka.read_committed(&topic).await?.into_iter().filter_map(|record| record.value).collect::<Vec<_>>();
        ensure!(values == [b"committed"], "{values:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_store_lets_one_writer_win_and_keeps_old_versions() {
    fixture::run("store", async |fixture: &Fixture| {
        let s3 = &fixture.cluster.s3;
        let put = |content: &'static str| {
            s3.put_object().bucket(&fixture.bucket).key("manifest").body(ByteStream::from_static(content.as_bytes()))
        };
        let first = put("one").if_none_match("*").send().await?;
        let status = match put("two").if_none_match("*").send().await {
            Err(SdkError::ServiceError(refused)) => refused.raw().status().as_u16(),
            other => anyhow::bail!("the second writer was not refused: {other:?}"),
        };
        ensure!(status == 412, "refused with {status}");
        put("three").send().await?;
        let old = s3.get_object().bucket(&fixture.bucket).key("manifest");
        let old = old.version_id(first.version_id().context("the bucket keeps versions")?).send().await?;
        ensure!(old.body.collect().await?.into_bytes() == "one");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_database_answers() {
    fixture::run("database", async |fixture: &Fixture| {
        let url = fixture.cluster.environment.get(names::DATABASE_URL)?;
        let answer = output_of(command("psql", [url, "--tuples-only", "--command", "SELECT 6 * 7"]), STEP_TIMEOUT).await?;
        ensure!(answer.trim() == "42", "{answer}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_stopped_comes_back_with_its_data() {
    fixture::run("restart", async |fixture: &Fixture| {
        let handles = Handles::of(&fixture.cluster)?;
        let (kafka, topic) = (&fixture.cluster.kafka, fixture.name("restart"));
        kafka.create_topic(&topic, 1, &[]).await?;
        kafka.produce(&topic, None, b"kept", 1_762_150_000_000).await?;
        fixture.put_object("kept", b"kept".to_vec()).await?;
        handles.kill(Component::Kafka)?;
        handles.stop(Component::S3)?;
        handles.kill(Component::Apiserver)?;
        ensure!(fixture.kubectl(&["get", "pods", "--request-timeout=5s"]).await.is_err());
        for component in [Component::Kafka, Component::S3, Component::Apiserver] {
            handles.start(component).await?;
        }
        // A broker that was killed finds out anew how far its log is committed, and shows a reader nothing until then.
        let kept = async || match kafka.read_committed(&topic).await {
            Ok(records) if records.len() == 1 => Ok(()),
            read => Err(format!("{read:?}")),
        };
        wait::until("the record is there again", Duration::from_secs(30), kept).await?;
        let object = fixture.cluster.s3.get_object().bucket(&fixture.bucket).key("kept").send().await?;
        ensure!(object.body.collect().await?.into_bytes() == "kept");
        fixture.kubectl(&["get", "pods"]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_pods_process_is_killed_behind_kubernetes_back() {
    fixture::run("kill", async |fixture: &Fixture| {
        let handles = Handles::of(&fixture.cluster)?;
        fixture.apply(&script_pod("victim", "backfill", "sleep 1000")).await?;
        let pod = until_phase(fixture, "victim", "Running").await?;
        handles.signal_pod(&pod, "script", Signal::KILL)?;
        let pod = until_phase(fixture, "victim", "Failed").await?;
        let status = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let ended = status.first().and_then(|status| status.state.as_ref()?.terminated.as_ref());
        ensure!(ended.map(|ended| ended.exit_code) == Some(137), "{ended:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_is_lost_and_comes_back() {
    fixture::run("node", async |fixture: &Fixture| {
        let handles = Handles::of(&fixture.cluster)?;
        fixture.apply(&script_pod("before", "backfill", "sleep 1000")).await?;
        until_phase(fixture, "before", "Running").await?;
        handles.stop_node(1)?;
        handles.start_node(&fixture.cluster, 1).await?;
        until_phase(fixture, "before", "Failed").await?;
        fixture.apply(&script_pod("after", "backfill", "true")).await?;
        until_phase(fixture, "after", "Succeeded").await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_reaches_nobody_until_it_is_reconnected() {
    fixture::run("cut", async |fixture: &Fixture| {
        let handles = Handles::of(&fixture.cluster)?;
        let broker = fixture.cluster.environment.get(names::KAFKA_BOOTSTRAP)?.replace(':', " ");
        // Ends as soon as the broker is reached after it could not be.
        let script = format!(
            "{connect}; echo connected\nwhile {connect}; do sleep 0.2; done; echo cut\n\
             until {connect}; do sleep 0.2; done; echo connected",
            connect = connect(&broker)
        );
        fixture.apply(&script_pod("prober", "backfill", &script)).await?;
        until_phase(fixture, "prober", "Running").await?;
        handles.cut_off_node(1).await?;
        let lost = wait::until_object(
            Api::<k8s_openapi::api::core::v1::Node>::all(fixture.cluster.kube.clone()),
            "node-1",
            "the node is missed",
            Duration::from_secs(90),
            |node| {
                let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let ready =
                    conditions.filter(|condition| condition.type_ == "Ready").map(|condition| condition.status.clone()).collect::<String>();
                if ready == "Unknown" { Ok(()) } else { Err(format!("Ready is {ready}")) }
            },
        )
        .await;
        // Whatever came of it, the next test needs the node.
        handles.reconnect_node(1).await?;
        lost?;
        until_phase(fixture, "prober", "Succeeded").await?;
        Ok(())
    })
    .await;
}
