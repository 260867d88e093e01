//! Drills about records that are lost, or are about to be: A1 with both verdicts, A2 up to the draft, A3 up to the draft, C1, C9,
//! C12, C14. Each has a control: what happens to a topic that weir does not enforce, or does not look at.

mod retention_losses {
    mod lagging;
    mod lost;
    mod near_loss;
    mod own_broker;
    mod skipped;
}

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use weir_e2e::demo::watch::text;
use weir_e2e::fixture::Fixture;
use weir_e2e::retention::{ago_ms, drafts, floor, produce_each, ranges};
use weir_e2e::wait;

const WEEK_MS: &str = "604800000";
const HOUR_MS: &str = "3600000";
const THREE_HOURS: Duration = Duration::from_secs(3 * 3600);
const RECORDS: i64 = 20;
const READ: i64 = 5;
/// Topics and lags are known: two looks, and a write.
const KNOWN: Duration = Duration::from_secs(120);
/// A verdict takes half a minute to a minute, and the writes of all of them their time.
const JUDGED: Duration = Duration::from_secs(180);
/// A loss settles in two minutes.
const DRAFTED: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(60);
/// Between two looks, by which weir dates what has arrived, and a little for a look that is late.
const LOOK_SECONDS: i64 = 45;

/// A topic of records that are three hours old.
async fn old_topic(fixture: &Fixture, topic: &str, retention_ms: &str) -> anyhow::Result<()> {
    fixture.cluster.kafka.create_topic(topic, 1, &[("retention.ms", retention_ms)]).await?;
    produce_each(fixture, topic, ago_ms(THREE_HOURS)?, RECORDS).await
}

fn policy_yaml(name: &str, cluster: &str, topics: &[String], minimum: &str, mode: &str, rest: &Value) -> String {
    let mut policy = json!({
        "apiVersion": "weir.dev/v1alpha1", "kind": "TopicRetentionPolicy", "metadata": {"name": name},
        "spec": {
            "clusterRef": {"name": cluster}, "topics": {"names": topics}, "floor": {"minimum": minimum},
            "enforcement": {"mode": mode}, "owners": {"team": "growth-data", "contacts": ["#growth-data"]},
        },
    });
    for (key, value) in rest.as_object().into_iter().flatten() {
        policy["spec"][key] = value.clone();
    }
    policy.to_string()
}

fn is_known(floor: &Value) -> bool {
    !text(floor, "/status/limitingGroup").is_empty() && text(floor, "/status/behind").contains('h')
}

/// Offsets are looked at: what arrives from now on is dated.
fn is_watched(floor: &Value) -> bool {
    text(floor, "/status/state") == "Healthy"
}

/// Whether weir dates an arrival within a look of when it was.
fn is_dated(said_seconds: i64, at_ms: i64) -> bool {
    (said_seconds - at_ms / 1000).abs() <= LOOK_SECONDS
}

/// The draft of the only loss of the test: suspended, nobody's, and of exactly the time in which the missed records arrived.
async fn until_drafted(fixture: &Fixture, topic: &str) -> anyhow::Result<Value> {
    let is_drafted = async || {
        let (found, floor) = (drafts(fixture).await?, floor(fixture, topic).await?);
        ensure!(found.len() == 1, "{} drafts", found.len());
        let losses = floor["status"]["losses"].as_array().map_or(&[][..], Vec::as_slice);
        let [loss] = losses else { anyhow::bail!("{} incidents: {losses:?}", losses.len()) };
        let name = format!("{}/{}", fixture.namespace, text(&found[0], "/metadata/name"));
        ensure!(loss["draft"] == name.as_str(), "{name} is drafted, and {loss} says otherwise");
        Ok((found[0].clone(), loss.clone()))
    };
    let (draft, loss) = wait::until("a BackfillJob is drafted", DRAFTED, is_drafted).await?;
    ensure!(draft["metadata"]["labels"]["weir.dev/draft"] == loss["id"], "the draft of another incident: {draft}");
    ensure!(draft["spec"]["suspend"] == true && draft["metadata"].get("ownerReferences").is_none(), "{draft}");
    let missed = ranges(&loss["missed"])?;
    let (first, last) = (missed.values().map(|it| it.first).min(), missed.values().map(|it| it.last).max());
    let second = |pointer: &str| text(&draft, pointer).parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second).ok();
    let window = (second("/spec/window/start"), second("/spec/window/end"));
    ensure!(window == (first, last.map(|at| at + 1)), "the window is {}, and what is missed {missed:?}", draft["spec"]["window"]);
    Ok(draft)
}
