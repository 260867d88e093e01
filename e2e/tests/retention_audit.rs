//! What weir changes is in the audit log, once, whatever becomes of the operator; the log is verified by the operator's own
//! program, and what is done to it is found. An exception lets retention fall, and ends by itself.

use std::path::Path;
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

/// The file of an entry.
fn file(sequence: u64) -> String {
    format!("{sequence:012}.json")
}

/// What somebody may do to a log, and what must be said of it.
struct Tampering {
    what: &'static str,
    done: Box<dyn Fn(&Path) -> std::io::Result<()>>,
    says: Vec<String>,
}

/// Of a log of at least four entries, of which the second raises a topic.
fn tamperings(last: u64) -> Vec<Tampering> {
    let of = |what, says: &[&str], done: Box<dyn Fn(&Path) -> std::io::Result<()>>| {
        let says = says.iter().map(|words| (*words).to_owned()).collect();
        Tampering { what, done, says }
    };
    vec![
        of(
            "an entry is edited",
            &["entry 2 was edited"],
            Box::new(|folder| edit(folder, 2, |content| content.replace(WEEK_MS, "604800001"))),
        ),
        of(
            "an object is cut off in its middle",
            &["000000000002.json is not an entry: it was edited or cut"],
            Box::new(|folder| edit(folder, 2, |content| content[..content.len() / 2].to_owned())),
        ),
        of(
            "two objects change places",
            &["000000000002.json says that it is entry 3", "000000000003.json says that it is entry 2"],
            Box::new(|folder| swap(folder, 2, 3)),
        ),
        of(
            "two entries change places, and their numbers",
            &["entry 1 was edited or replaced", "entry 2 was edited or replaced", "entry 3 was edited or replaced"],
            Box::new(|folder| {
                swap(folder, 2, 3)?;
                renumber(folder, 3, 2)?;
                renumber(folder, 2, 3)
            }),
        ),
        of("the beginning is cut off", &["the log begins with entry 2"], Box::new(|folder| std::fs::remove_file(folder.join(file(1))))),
        of("an entry is taken out", &["entry 3 is missing"], Box::new(|folder| std::fs::remove_file(folder.join(file(3))))),
        of("the end is cut off", &["the end was cut off"], Box::new(move |folder| std::fs::remove_file(folder.join(file(last))))),
    ]
}

fn edit(folder: &Path, sequence: u64, to: impl Fn(&str) -> String) -> std::io::Result<()> {
    let path = folder.join(file(sequence));
    let content = std::fs::read_to_string(&path)?;
    let edited = to(&content);
    assert_ne!(edited, content, "nothing is edited");
    std::fs::write(path, edited)
}

fn swap(folder: &Path, one: u64, other: u64) -> std::io::Result<()> {
    let beside = folder.join("beside");
    std::fs::rename(folder.join(file(one)), &beside)?;
    std::fs::rename(folder.join(file(other)), folder.join(file(one)))?;
    std::fs::rename(beside, folder.join(file(other)))
}

/// Has the entry that lies under a number say so.
fn renumber(folder: &Path, from: u64, to: u64) -> std::io::Result<()> {
    let number = |sequence: u64| format!("\"sequence\":{sequence},");
    edit(folder, to, |content| content.replace(&number(from), &number(to)))
}

/// What is done to a copy of the log is found, and named.
async fn must_find(log: &Path, anchor: &str, tampering: &Tampering) -> anyhow::Result<()> {
    let copy = tempfile::tempdir()?;
    for entry in std::fs::read_dir(log)? {
        let entry = entry?;
        std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    (tampering.done)(copy.path())?;
    let (status, said) = verify(copy.path(), Some(anchor)).await?;
    for words in &tampering.says {
        ensure!(status == Some(1) && said.contains(words), "{}: {words:?} is not in {status:?} {said}", tampering.what);
    }
    Ok(())
}

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

        for tampering in tamperings(number(&after, "/status/audit/sequence")) {
            must_find(folder.path(), &anchor, &tampering).await?;
        }
        std::fs::remove_file(folder.path().join(file(number(&after, "/status/audit/sequence"))))?;
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
