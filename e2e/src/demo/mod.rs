//! The demo: NovaShop lost three event types for nine hours, and gets them back through `kubectl`, while its other phones go
//! on writing to the same topic. In the end the truth is asked, which knows nothing of weir.

pub mod live;
pub mod meter;
pub mod scene;
mod summary;
pub mod truth;
pub mod watch;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::access::Cluster;
use crate::cluster::network;
use crate::command;
use crate::environment::{self, names};
use crate::fixture::{self, Fixture};
use crate::layout::Layout;
use crate::novashop::Settings;

use live::Live;
use meter::Meter;
use scene::{JOB, Job, Scene};
use summary::{Bytes, Summary};
use watch::{Watched, grouped, number, text};

/// From `kubectl apply` to a plan.
const PLAN_LIMIT: Duration = Duration::from_secs(600);
/// From the approval to the end: a million events take minutes, more on a busy machine.
const RUN_LIMIT: Duration = Duration::from_secs(3600);
/// A line of progress at least so often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// What tells one demo's namespace from a test's.
const NAME: &str = "demo";

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no cluster, or it is not ours.
    #[error("cannot prepare the demo")]
    Fixture(#[from] fixture::Error),
    /// The log, the topic or the platform's objects are not there.
    #[error("cannot set the scene")]
    Scene(#[from] scene::Error),
    /// The source could not be metered.
    #[error("cannot listen at {address} to meter what is read")]
    Meter {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The environment lacks something.
    #[error("the cluster is not known well enough")]
    Environment(#[from] environment::Error),
    /// The live producer failed.
    #[error("the live producer failed")]
    Live(#[from] live::Error),
    /// The job did not end well.
    #[error("the job did not end well")]
    Job(#[from] watch::Error),
    /// kubectl refused.
    #[error("kubectl failed")]
    Kubectl(#[from] command::Error),
    /// The summary could not be written.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It ended, and something is wrong.
    #[error("what was seen is not what should be:\n{}", .wrong.join("\n"))]
    Wrong {
        /// What.
        wrong: Vec<String>,
    },
}

/// What may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The log.
    pub settings: Settings,
    /// Workers at a time.
    pub parallelism: u32,
}

/// Runs the demo on a cluster where the operator is. Everything but the log's local copy stays for a look at it, until the
/// next demo.
pub async fn run(layout: &Layout, options: Options) -> Result<(), Error> {
    let began = Instant::now();
    let cluster = Cluster::connect().await.map_err(fixture::Error::from)?;
    remove_earlier(&cluster).await?;
    let fixture = Fixture::create(NAME).await?;
    let meter = start_meter(&cluster).await?;
    let Settings { seed, events } = options.settings;
    say(&format!("Writing the log of a shop that lost {} events (seed {seed})", grouped(events)));
    let scene = Scene::set(&fixture, options.settings, meter.as_ref().map(|meter| meter.endpoint.as_str())).await?;
    let (bytes, objects) = scene.log.planted.readable();
    say(&format!("  {} objects, {:.1} MB, in s3://{}/v2/", grouped(objects), bytes as f64 / 1e6, fixture.bucket));
    let live = Live::start(&cluster.kafka, &scene.topic, &scene.path("live"))?;
    say(&format!("A live producer writes other events to {} from now on", scene.topic));

    let watched = Watched::new(&fixture, JOB);
    let planned = plan(&scene, &watched, options).await?;
    let sampled = meter.as_ref().map(Meter::answered_bytes);
    let approve = text(&planned, "/status/plan/approveCommand").to_owned();
    say(&format!("$ {approve}"));
    shell(&cluster, &approve).await?;
    let approved = Instant::now();
    let mut teller = Teller::default();
    let job = watched.phase("Complete", RUN_LIMIT, |job| teller.tell(job)).await?;
    let (seconds, run_seconds) = (began.elapsed().as_secs(), approved.elapsed().as_secs());

    let (list, live_records) = live.end().await?;
    say(&format!("Complete. The live producer wrote {} events meanwhile.", grouped(live_records)));
    say("Asking the truth: Kafka's console consumer against the log");
    let answer = scene.truth(layout, Some(&list), Some(&job.to_string()), &[scene.run(1)]).await?;
    let repeated = repeated_extracts(&fixture).await?;
    let read = meter.as_ref().map(|meter| Bytes {
        planning: sampled.unwrap_or_default(),
        extracting: meter.answered_bytes() - sampled.unwrap_or_default(),
        objects: bytes,
        object_count: objects,
        repeated,
    });
    let summary = Summary { planned: &planned, job: &job, answer: &answer, read, seconds, run_seconds, live_records };
    say(&summary.text());
    let path = leave(layout, &cluster, &summary)?;
    say(&format!("Summary: {}. Objects: kubectl --namespace {} get bfj,jobs,events", path.display(), fixture.namespace));
    let wrong = summary.wrong();
    if wrong.is_empty() { Ok(()) } else { Err(Error::Wrong { wrong }) }
}

/// How many workers extracted what an earlier one had begun: on an overloaded machine a store may not answer in time, and
/// the next attempt reads its chunk again.
async fn repeated_extracts(fixture: &Fixture) -> Result<u64, Error> {
    let names = "jsonpath={range .items[*]}{.involvedObject.name}{\"\\n\"}{end}";
    let events = fixture.kubectl(&["get", "events", "--field-selector", "reason=Scheduled", "--output", names]).await?;
    let repeated = events.lines().filter(|pod| pod.contains("-extract-") && !pod.contains("-a1-"));
    Ok(repeated.count() as u64)
}

/// Applies the job and waits for the plan that a person would look at.
async fn plan(scene: &Scene<'_>, watched: &Watched, options: Options) -> Result<Value, Error> {
    let yaml = scene.job(Job { generation: 1, approval: "Manual", parallelism: options.parallelism });
    let path = scene.write("backfill.yaml", yaml.as_bytes())?;
    say("$ kubectl apply -f backfill.yaml");
    scene.fixture.kubectl(&["apply", "--filename", &path.to_string_lossy()]).await?;
    let mut teller = Teller::default();
    let planned = watched.phase("AwaitingApproval", PLAN_LIMIT, |job| teller.tell(job)).await?;
    let count = |pointer: &str| grouped(number(&planned, pointer));
    say(&format!(
        "The plan: about {} events in about {}, from {} objects ({} bytes), {} slices, {} chunks",
        count("/status/plan/estimates/events"),
        text(&planned, "/status/plan/estimates/duration"),
        count("/status/plan/estimates/objects"),
        count("/status/plan/estimates/bytes"),
        count("/status/plan/slices"),
        count("/status/plan/chunks"),
    ));
    Ok(planned)
}

/// Workers reach the host by its end of the cluster's link. Somebody else's cluster is not metered.
async fn start_meter(cluster: &Cluster) -> Result<Option<Meter>, Error> {
    if cluster.environment.is_external() {
        return Ok(None);
    }
    let address = network::HOST_ADDRESS.split('/').next().unwrap_or_default().to_owned();
    let upstream = cluster.environment.get(names::AWS_ENDPOINT_URL)?.trim_start_matches("http://").to_owned();
    let meter = Meter::start(&address, &upstream).await.map_err(|source| Error::Meter { address, source })?;
    Ok(Some(meter))
}

/// Removes what earlier demos left.
async fn remove_earlier(cluster: &Cluster) -> Result<(), Error> {
    let listed = cluster.kubectl(&["get", "namespaces", "--selector", fixture::LABEL, "--output", "name"]).await?;
    let prefix = format!("e2e-{NAME}-");
    for namespace in listed.lines().filter_map(|line| line.strip_prefix("namespace/")).filter(|name| name.starts_with(&prefix)) {
        let earlier = Fixture { cluster: cluster.clone(), namespace: namespace.to_owned(), bucket: namespace.to_owned() };
        earlier.remove().await?;
    }
    Ok(())
}

/// Runs a command line as a person would, with the cluster's kubectl as `kubectl`.
async fn shell(cluster: &Cluster, line: &str) -> Result<(), Error> {
    let mut shell = command::command("sh", ["-c", line]);
    shell.envs(cluster.environment.variables());
    if let Some(folder) = cluster.environment.find(names::KUBECTL).and_then(|kubectl| Path::new(kubectl).parent()) {
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", folder.display()));
    }
    command::output_of(shell, command::STEP_TIMEOUT).await?;
    Ok(())
}

/// Leaves the summary where the next one finds and replaces it.
fn leave(layout: &Layout, cluster: &Cluster, summary: &Summary<'_>) -> Result<PathBuf, Error> {
    let folder = if cluster.environment.is_external() { std::env::temp_dir() } else { layout.state().to_path_buf() };
    let path = folder.join("demo-summary.json");
    let file_error = |source| Error::File { path: path.clone(), source };
    std::fs::write(&path, format!("{:#}\n", summary.json())).map_err(file_error)?;
    Ok(path)
}

/// Tells of a job whenever its phase changes, and every few seconds.
#[derive(Debug, Default)]
struct Teller {
    last: Option<(String, Instant)>,
    said: String,
}

impl Teller {
    fn tell(&mut self, job: &Value) {
        let phase = watch::phase(job).to_owned();
        let is_due = self.last.as_ref().is_none_or(|(last, at)| *last != phase || at.elapsed() >= LINE_INTERVAL);
        let line = watch::line(job);
        if is_due && !phase.is_empty() && line != self.said {
            say(&format!("  {line}"));
            self.last = Some((phase, Instant::now()));
            self.said = line;
        }
    }
}

/// Whoever closed the output does not want to hear it.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}
