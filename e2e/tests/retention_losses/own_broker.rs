//! A broker of a drill's own, in the cluster's network, for what the one that all tests share must not do: forget the offsets of
//! groups within minutes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use tempfile::TempDir;
use tokio::process::Child;
use weir_e2e::access::Cluster;
use weir_e2e::cluster::network::{self, MAIN_ADDRESS};
use weir_e2e::command::command;
use weir_e2e::environment::names;
use weir_e2e::fixture::Fixture;
use weir_e2e::kafka::Kafka;
use weir_e2e::scale::broker::Broker;
use weir_e2e::wait;

/// Beside the shared broker's.
const PORT: u16 = 19192;
const CONTROLLER_PORT: u16 = 19195;
/// A broker is up within seconds; on a machine that is busy otherwise it takes its time.
const STARTED: Duration = Duration::from_secs(120);
const STORAGE_TOOL: &str = "kafka.tools.StorageTool";

/// It runs until this is dropped.
pub struct OwnBroker {
    process: Child,
    folder: TempDir,
}

fn properties(data: &Path, settings: &str) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{CONTROLLER_PORT}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{MAIN_ADDRESS}:{PORT},CONTROLLER://127.0.0.1:{CONTROLLER_PORT}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
{settings}
",
        data.display()
    )
}

impl OwnBroker {
    /// Starts it with settings of its own. The other fixture is the same but for its broker, which is this one.
    pub async fn start(fixture: &Fixture, settings: &str) -> anyhow::Result<(Self, Fixture)> {
        ensure!(!fixture.cluster.environment.is_external(), "a broker of its own needs the local cluster's network");
        let folder = tempfile::tempdir()?;
        let configuration = folder.path().join("broker.properties");
        std::fs::write(&configuration, properties(&folder.path().join("data"), settings))?;
        let configuration = configuration.to_string_lossy().into_owned();
        let id = fixture.cluster.kafka_tool(STORAGE_TOOL, &["random-uuid"]).await?;
        fixture.cluster.kafka_tool(STORAGE_TOOL, &["format", "--cluster-id", id.trim(), "--config", &configuration]).await?;

        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut inside = network::inside([fixture.cluster.environment.get(names::KAFKA_TOOLS)?, "kafka.Kafka", &configuration]);
        let mut program = command(inside.remove(0), inside);
        program.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let mut broker = Self { process: program.spawn()?, folder };
        let at_it = at(fixture, &format!("{MAIN_ADDRESS}:{PORT}"));
        broker.wait(&at_it).await?;
        Ok((broker, at_it))
    }

    /// Until it answers, and keeps offsets of groups.
    async fn wait(&mut self, at_it: &Fixture) -> anyhow::Result<()> {
        let answers = async || {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            ensure!(self.process.try_wait()?.is_none(), "it has ended: {}", log());
            Broker::connect(&at_it.cluster.environment).await?.coordinates("anybody").await
        };
        Ok(wait::until("a broker of its own answers", STARTED, answers).await?)
    }
}

fn at(fixture: &Fixture, bootstrap: &str) -> Fixture {
    let mut environment = fixture.cluster.environment.clone();
    environment.set(names::KAFKA_BOOTSTRAP, bootstrap);
    let cluster = Cluster { kafka: Kafka::new(environment.clone()), environment, ..fixture.cluster.clone() };
    Fixture { cluster, namespace: fixture.namespace.clone(), bucket: fixture.bucket.clone() }
}
