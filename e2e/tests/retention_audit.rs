//! What weir changes is in the audit log, once, whatever becomes of the operator; the log is verified by the operator's own
//! program, and what is done to it is found. An exception lets retention fall, and ends by itself.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::Api;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use weir_e2e::audit::{WEEK_MS, anchor, download, set, until_kept, until_retention, verify};
use weir_e2e::demo::watch::{condition, number, text};
use weir_e2e::fixture::{self, OPERATOR_NAMESPACE};
use weir_e2e::retention::{kind, set_retention};
use weir_e2e::wait;

const HOUR_MS: &str = "3600000";
const TWO_HOURS_MS: &str = "7200000";
const EXCEPTION_LASTS: Duration = Duration::from_secs(90);
/// Longer than a repair would take.
const STAYS: Duration = Duration::from_secs(20);
const REQUESTED_BY: &str = "weir.dev/requested-by";
/// From a change to its repair, and a little for what is written after it.
const SOON: Duration = Duration::from_secs(40);
/// A leader that is killed is followed after twenty seconds, and its follower's first look takes its time.
const FOLLOWED: Duration = Duration::from_secs(120);

#[tokio::test]
async fn every_change_is_in_the_log_once_and_what_is_done_to_the_log_is_found() {
    fixture::run("retention-log", async |fixture| {
        let topic = set(fixture).await?;
        until_kept(fixture, "the log is begun", 1, FOLLOWED).await?;
        set_retention(fixture, &topic, HOUR_MS).await?;
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
        set_retention(fixture, &topic, HOUR_MS).await?;
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
        let anchor = anchor(&after);
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
            "apiVersion": "weir.dev/v1alpha1", "kind": "RetentionException",
            "metadata": {"name": "now", "annotations": {REQUESTED_BY: "somebody else"}},
            "spec": {
                "clusterRef": {"name": fixture.name("kafka")}, "topics": [topic], "floor": "2h", "reason": "disks are full", "until": until.to_string(),
            },
        });
        fixture.apply(&exception.to_string()).await?;
        fixture.kubectl(&["annotate", "retentionexception", "now", "--overwrite", &format!("{REQUESTED_BY}=another")]).await?;
        let who = fixture.cluster.kubectl(&["auth", "whoami", "--output", "jsonpath={.status.userInfo.username}"]).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(fixture.cluster.kube.clone(), &fixture.namespace, &kind("RetentionException"));
        let is_in_force = async || {
            let found = serde_json::to_value(api.get("now").await?)?;
            ensure!(condition(&found, "Active").0 == "True", "{}", found["status"]);
            let said = &found["metadata"]["annotations"][REQUESTED_BY];
            ensure!(said == who.as_str(), "{said} made it, and {who} did");
            Ok(())
        };
        wait::until("the exception is in force", SOON, is_in_force).await?;
        set_retention(fixture, &topic, TWO_HOURS_MS).await?;
        tokio::time::sleep(STAYS).await;
        until_retention(fixture, &topic, TWO_HOURS_MS, Duration::from_secs(1)).await?;
        until_retention(fixture, &topic, WEEK_MS, EXCEPTION_LASTS + SOON).await?;

        let is_recorded = async || {
            let folder = tempfile::tempdir()?;
            let events = download(fixture, folder.path()).await?;
            let kinds: Vec<&str> = events.iter().map(|event| text(event, "/kind")).filter(|kind| *kind != "Leads").collect();
            ensure!(kinds == ["ExceptionBegan", "Raised", "ExceptionEnded"] || kinds == ["ExceptionBegan", "ExceptionEnded", "Raised"], "{kinds:?}");
            let began = events.iter().find(|event| event["kind"] == "ExceptionBegan").context("it began")?;
            ensure!(began["exception"]["requestedBy"] == who.as_str(), "{began}");
            Ok(())
        };
        wait::until("its beginning and its end are in the log", SOON, is_recorded).await?;
        Ok(())
    })
    .await;
}
