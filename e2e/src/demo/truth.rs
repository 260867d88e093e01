//! Asks the truth: what the broker's own console consumer reads, held against the log by `e2e/truth`, in another language.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;

use crate::access::Cluster;
use crate::command::command;
use crate::environment::{self, names};
use crate::layout::Layout;

/// A million records take half a minute to print and less to compare.
const LIMIT: Duration = Duration::from_secs(900);

/// The console consumer ends when nothing has come for so long: nobody writes any more when it is asked.
const IDLE_MS: &str = "8000";

/// Why the truth could not be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known where Kafka's tools are.
    #[error("Kafka's tools are not known")]
    Environment(#[from] environment::Error),
    /// A file could not be written.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The console consumer did not run.
    #[error("cannot read the topic with Kafka's console consumer")]
    Consumer(#[source] std::io::Error),
    /// The comparison did not run to its end.
    #[error("cannot compare: {output}")]
    Comparison {
        /// What it said.
        output: String,
    },
    /// Python could not be started.
    #[error("cannot start python3")]
    Python(#[source] std::io::Error),
    /// The comparison took too long.
    #[error("the comparison did not end within {} s", LIMIT.as_secs())]
    TooLong,
}

/// What to compare.
#[derive(Debug)]
pub struct Question<'a> {
    /// The log's objects.
    pub objects: &'a Path,
    /// The generator's list.
    pub planted: &'a Path,
    /// Where the console consumer's output goes.
    pub consumed: &'a Path,
    /// The live producer's list.
    pub live: Option<&'a Path>,
    /// The BackfillJob as JSON, if its accounting is to be judged.
    pub job: Option<&'a Path>,
    /// As the header `weir-run` may say.
    pub runs: &'a [String],
    /// Of the topic.
    pub partitions: i32,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// For the summary.
    pub verdict: Verdict,
}

/// The comparison's last line.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// Whether everything agrees.
    pub agrees: bool,
    /// Events of the log that are in the topic.
    pub found: u64,
    /// Records of the live producer that are.
    pub live: u64,
    /// Bytes of the objects that are to be read.
    pub bytes: u64,
    /// Rows by what should become of them.
    pub counts: std::collections::BTreeMap<String, u64>,
    /// What is wrong, by kind.
    pub findings: std::collections::BTreeMap<String, u64>,
}

/// Reads a topic into a file, as a `read_committed` reader sees it.
pub async fn consume(cluster: &Cluster, topic: &str, into: &Path) -> Result<(), Error> {
    let environment = &cluster.environment;
    let bootstrap = environment.get(names::KAFKA_BOOTSTRAP)?;
    let file = std::fs::File::create(into).map_err(|source| Error::File { path: into.to_path_buf(), source })?;
    let mut consumer = command(environment.get(names::KAFKA_TOOLS)?, ["org.apache.kafka.tools.consumer.ConsoleConsumer"]);
    consumer.args(["--bootstrap-server", bootstrap, "--topic", topic, "--from-beginning"]);
    consumer.args(["--isolation-level", "read_committed", "--timeout-ms", IDLE_MS]);
    for property in ["print.timestamp", "print.partition", "print.offset", "print.headers", "print.key"] {
        consumer.args(["--property", &format!("{property}=true")]);
    }
    consumer.args(["--property", "null.literal=<null>"]);
    // It says on its standard error that nothing came any more, which is how it ends.
    consumer.stdout(Stdio::from(file)).stderr(Stdio::null()).stdin(Stdio::null()).kill_on_drop(true);
    let mut child = consumer.spawn().map_err(Error::Consumer)?;
    let ended = tokio::time::timeout(LIMIT, child.wait()).await.map_err(|_elapsed| Error::TooLong)?;
    ended.map(drop).map_err(Error::Consumer)
}

/// Holds the file against the log.
pub async fn compare(layout: &Layout, question: &Question<'_>) -> Result<Answer, Error> {
    let mut python = command("python3", ["-B"]);
    python.arg(layout.sources().join("truth/compare.py"));
    python.arg("--objects").arg(question.objects).arg("--planted").arg(question.planted);
    python.arg("--consumed").arg(question.consumed).args(["--partitions", &question.partitions.to_string()]);
    for (name, path) in [("--live", question.live), ("--job", question.job)] {
        if let Some(path) = path {
            python.arg(name).arg(path);
        }
    }
    for run in question.runs {
        python.args(["--run", run]);
    }
    // It exits with 1 when something is wrong, and says so in its last line as well.
    let output = tokio::time::timeout(LIMIT, python.kill_on_drop(true).output()).await.map_err(|_elapsed| Error::TooLong)?;
    let output = output.map_err(Error::Python)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (text, last) = text.trim_end().rsplit_once('\n').unwrap_or((&text, ""));
    let verdict = serde_json::from_str::<Verdict>(last)
        .map_err(|_| Error::Comparison { output: format!("{text}\n{last}\n{}", String::from_utf8_lossy(&output.stderr)) })?;
    Ok(Answer { text: text.to_owned(), verdict: Verdict { agrees: verdict.agrees && output.status.success(), ..verdict } })
}
