//! What the operator costs: CPU and memory of its process, its requests to the broker, its writes to the apiserver. None of it is
//! told by weir itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use super::broker::OWN;
use crate::cluster::{cleanup, kafka, network};
use crate::command;
use crate::environment::names;
use crate::fixture::{Fixture, OPERATOR_NAMESPACE};
use crate::layout::Layout;
use crate::supervisor::Supervisor;

const REPLICAS: &str = "app.kubernetes.io/name=weir-operator";
const CONTAINER: &str = "operator";
/// In what the kernel counts CPU time, whatever it ticks by.
const TICKS_A_SECOND: f64 = 100.0;
/// Kafka's own tool, which reads what a broker counts.
const METER: &str = "org.apache.kafka.tools.JmxTool";
const REQUESTS: &str = "kafka.network:type=RequestMetrics,name=RequestsPerSec";
/// Requests of the broker itself, those of producers, and one that stands for a `Fetch` again.
const NOT_WEIRS: [&str; 5] = ["BrokerHeartbeat", "BrokerRegistration", "ControllerRegistration", "Produce", "FetchConsumer"];
/// Groups of the API in which weir writes. Its lease lies in another one, with everybody's.
const WRITTEN_GROUPS: [&str; 2] = ["weir.dev", "events.k8s.io"];
const WRITES: [&str; 5] = ["APPLY", "PATCH", "POST", "PUT", "DELETE"];

/// What each replica says of itself, by pod.
pub async fn metrics(fixture: &Fixture) -> anyhow::Result<Vec<(Pod, String)>> {
    let api: Api<Pod> = Api::namespaced(fixture.cluster.kube.clone(), OPERATOR_NAMESPACE);
    let pods = api.list(&ListParams::default().labels(REPLICAS).fields("status.phase=Running")).await?;
    let mut found = Vec::new();
    for pod in pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let url = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{name}:8080/proxy/metrics");
        let text = fixture.cluster.kubectl(&["get", "--raw", &url]).await?;
        found.push((pod, text));
    }
    Ok(found)
}

/// The value of a series, or 0 as long as there is none.
pub fn value(metrics: &str, series: &str) -> f64 {
    let of_line = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok();
    metrics.lines().find_map(of_line).unwrap_or(0.0)
}

/// The replica that leads, as a process of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its pod.
    pub pod: String,
    folder: PathBuf,
}

impl Leader {
    /// The one that says so.
    pub async fn find(fixture: &Fixture) -> anyhow::Result<Self> {
        let all = metrics(fixture).await?;
        let (pod, _) = all.iter().find(|(_, text)| value(text, "weir_leader") > 0.0).context("nobody leads")?;
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let status = statuses.into_iter().flatten().find(|status| status.name == CONTAINER).context("it runs no operator")?;
        let id = status.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://")).context("its container has no id")?;
        let process = (0..network::NODES).flat_map(|node| cleanup::processes_of(node, id)).next();
        let folder = PathBuf::from(format!("/proc/{}", process.context("its container has no process")?.pid()));
        Ok(Self { pod: pod.metadata.name.clone().unwrap_or_default(), folder })
    }

    /// User and system, in seconds, since it began.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        // Fields behind the name, which is in parentheses and may have any characters.
        const USER: usize = 11;
        let stat = std::fs::read_to_string(self.folder.join("stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("a stat without a name")?;
        let ticks = fields.split_ascii_whitespace().skip(USER).take(2).map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        Ok(ticks.iter().sum::<u64>() as f64 / TICKS_A_SECOND)
    }

    /// From now on the peak is that of what comes.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        const PEAK: &str = "5";
        Ok(std::fs::write(self.folder.join("clear_refs"), PEAK)?)
    }

    /// The most that it had in memory.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        const KIB: u64 = 1024;
        let status = std::fs::read_to_string(self.folder.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel does not say its peak")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * KIB)
    }
}

/// Counts that only grow, at one time.
#[derive(Clone, Debug)]
pub struct Counters {
    at: Instant,
    cpu_seconds: f64,
    requests: BTreeMap<String, f64>,
    writes: BTreeMap<String, f64>,
}

/// What was counted between two times.
#[derive(Clone, Debug)]
pub struct Costs {
    /// How long it was.
    pub length: Duration,
    /// CPU time over time.
    pub cores: f64,
    /// A minute, by what was asked.
    pub requests: BTreeMap<String, f64>,
    /// A minute, by what was written.
    pub writes: BTreeMap<String, f64>,
}

impl Counters {
    /// Reads all of them.
    pub async fn read(fixture: &Fixture, leader: &Leader) -> anyhow::Result<Self> {
        let requests = broker_requests(fixture).await?;
        let writes = written(&fixture.cluster.kubectl(&["get", "--raw", "/metrics"]).await?);
        Ok(Self { at: Instant::now(), cpu_seconds: leader.cpu_seconds()?, requests, writes })
    }

    /// What came since.
    pub fn since(&self, before: &Self) -> Costs {
        let length = self.at - before.at;
        let minutes = length.as_secs_f64() / 60.0;
        let grown = |now: &BTreeMap<String, f64>, before: &BTreeMap<String, f64>| {
            let more = |(name, count): (&String, &f64)| (name.clone(), (count - before.get(name).unwrap_or(&0.0)) / minutes);
            now.iter().map(more).filter(|(_, more)| *more > 0.0).collect()
        };
        Costs {
            length,
            cores: (self.cpu_seconds - before.cpu_seconds) / length.as_secs_f64(),
            requests: grown(&self.requests, &before.requests),
            writes: grown(&self.writes, &before.writes),
        }
    }
}

/// Requests that the broker has had, by their names: all but its own, producers' and the test's.
async fn broker_requests(fixture: &Fixture) -> anyhow::Result<BTreeMap<String, f64>> {
    let pid = Supervisor::new(&Layout::from_environment()).find(kafka::NAME)?.pid().to_string();
    command::run("jcmd", [&pid, "ManagementAgent.start_local"]).await?;
    let counters = command::run("jcmd", [&pid, "PerfCounter.print"]).await?;
    let address = counters.lines().find_map(|line| line.strip_prefix("sun.management.JMXConnectorServer.address="));
    let address = address.context("the broker does not say where it is asked")?.trim_matches('"');
    let pattern = format!("{REQUESTS},*");
    let tools = fixture.cluster.environment.get(names::KAFKA_TOOLS)?;
    let all = [tools, METER, "--jmx-url", address, "--object-name", &pattern, "--attributes", "Count", "--one-time"];
    let told = network::run_inside(&[&all[..], &["--report-format", "properties"]].concat()).await?;
    let counts = counted(&told);
    ensure!(!counts.is_empty(), "the broker has counted nothing: {told}");
    Ok(counts)
}

/// Of lines like `…,request=ListOffsets,version=9:Count=16`, by name over all versions.
fn counted(told: &str) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for line in told.lines() {
        let Some((request, count)) = line.split_once("request=").and_then(|(_, rest)| rest.split_once(":Count=")) else { continue };
        let name = request.split(',').next().unwrap_or_default();
        if !NOT_WEIRS.contains(&name) && !OWN.contains(&request) {
            *counts.entry(name.to_owned()).or_default() += count.parse().unwrap_or(0.0);
        }
    }
    counts
}

/// What the apiserver has had to write, by kind of object, of groups in which nobody but weir writes often.
fn written(metrics: &str) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
        let Some((labels, count)) = line.split_once("} ") else { continue };
        let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        if WRITTEN_GROUPS.contains(&label("group")) && WRITES.contains(&label("verb")) {
            *counts.entry(label("resource").to_owned()).or_default() += count.trim().parse().unwrap_or(0.0);
        }
    }
    counts
}

impl Costs {
    /// All requests a minute.
    pub fn requests_a_minute(&self) -> f64 {
        self.requests.values().sum()
    }

    /// All writes a minute.
    pub fn writes_a_minute(&self) -> f64 {
        self.writes.values().sum()
    }

    /// Rows of a table: what was counted, and how much.
    pub fn rows(&self, leader: &Leader) -> anyhow::Result<Vec<String>> {
        let by_name =
            |all: &BTreeMap<String, f64>| all.iter().map(|(name, count)| format!("{name} {count:.1}")).collect::<Vec<_>>().join(", ");
        Ok(vec![
            format!("| CPU of the leader | {:.3} cores, over {:.1} min |", self.cores, self.length.as_secs_f64() / 60.0),
            format!("| peak of its memory | {:.0} MB |", leader.peak_bytes()? as f64 / 1e6),
            format!("| requests to the broker a minute | {:.1}: {} |", self.requests_a_minute(), by_name(&self.requests)),
            format!("| writes to the apiserver a minute | {:.1}: {} |", self.writes_a_minute(), by_name(&self.writes)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_up_without_those_of_others() {
        let line = |request: &str, version: u8, count: u32| format!("{REQUESTS},request={request},version={version}:Count={count}\n");
        let told = ["time=1\n".to_owned(), line("ListOffsets", 1, 5), line("ListOffsets", 9, 7), line("ListOffsets", 10, 3)];
        let told = told.into_iter().chain([line("Produce", 11, 900), line("Fetch", 16, 2)]).collect::<String>();
        assert_eq!(counted(&told), BTreeMap::from([("Fetch".to_owned(), 2.0), ("ListOffsets".to_owned(), 10.0)]));
    }

    #[test]
    fn writes_are_counted_by_kind() {
        let line = |group: &str, resource: &str, verb: &str, code: u32, count: u32| {
            format!("apiserver_request_total{{code=\"{code}\",group=\"{group}\",resource=\"{resource}\",verb=\"{verb}\"}} {count}\n")
        };
        let metrics = line("weir.dev", "topicfloors", "APPLY", 200, 4) + &line("weir.dev", "topicfloors", "APPLY", 409, 1);
        let metrics = metrics + &line("weir.dev", "topicfloors", "LIST", 200, 50) + &line("", "pods", "PATCH", 200, 9);
        assert_eq!(written(&metrics), BTreeMap::from([("topicfloors".to_owned(), 5.0)]));
    }
}
