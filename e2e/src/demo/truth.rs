//! Asks the truth: what the broker's own console consumer reads, held against the log by `e2e/truth`, in another language.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;

use crate::access::Cluster;
use crate::command::command;
use crate::environment::{self, names};
use crate::kafka;
use crate::layout::Layout;

/// A million records take half a minute to print and less to compare.
const LIMIT: Duration = Duration::from_secs(900);

/// The console consumer ends when nothing has come for so long: nobody writes any more when it is asked. On a busy machine that may
/// be before the topic's end, so it is asked again then, with more patience.
const IDLE_MS: [&str; 3] = ["4000", "15000", "90000"];
/// What comes last is what a transaction ends with, which consumers do not get.
const MARKERS: i64 = 1;

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
    /// What it has read could not be looked at.
    #[error("cannot read {path}")]
    Consumed {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The topic's ends are not known.
    #[error("cannot ask where the topic ends")]
    Ends(#[from] kafka::Error),
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
    pub counts: BTreeMap<String, u64>,
    /// What is wrong, by kind.
    pub findings: BTreeMap<String, u64>,
}

/// Reads a topic into a file, as a `read_committed` reader sees it.
pub async fn consume(cluster: &Cluster, topic: &str, into: &Path) -> Result<(), Error> {
    for idle_ms in IDLE_MS {
        consume_once(cluster, topic, into, idle_ms).await?;
        let bounds = cluster.kafka.bounds(topic).await?;
        let read = ends_of(into).map_err(|source| Error::Consumed { path: into.to_path_buf(), source })?;
        if bounds.into_iter().all(|(partition, (begin, end))| end - read.get(&partition).copied().unwrap_or(begin) <= MARKERS) {
            break;
        }
        tracing::info!("the console consumer stopped before the end of {topic}, or nothing but an aborted transaction is there");
    }
    Ok(())
}

/// Behind the last record of each partition in the console consumer's output.
fn ends_of(consumed: &Path) -> std::io::Result<BTreeMap<i32, i64>> {
    let mut ends = BTreeMap::new();
    for line in BufReader::new(File::open(consumed)?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let named = |name: &str| line.split('\t').take(3).find_map(|field| field.strip_prefix(name)?.parse::<i64>().ok());
        if let (Some(partition), Some(offset)) = (named("Partition:"), named("Offset:")) {
            ends.insert(i32::try_from(partition).unwrap_or(-1), offset + 1);
        }
    }
    Ok(ends)
}

async fn consume_once(cluster: &Cluster, topic: &str, into: &Path, idle_ms: &str) -> Result<(), Error> {
    let environment = &cluster.environment;
    let bootstrap = environment.get(names::KAFKA_BOOTSTRAP)?;
    let file = File::create(into).map_err(|source| Error::File { path: into.to_path_buf(), source })?;
    let mut consumer = command(environment.get(names::KAFKA_TOOLS)?, ["org.apache.kafka.tools.consumer.ConsoleConsumer"]);
    consumer.args(["--bootstrap-server", bootstrap, "--topic", topic, "--from-beginning"]);
    consumer.args(["--isolation-level", "read_committed", "--timeout-ms", idle_ms]);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_has_been_read_ends_behind_each_partitions_last_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("consumed");
        std::fs::write(&path, "CreateTime:1\tPartition:0\tOffset:6\t\tk\tv\nCreateTime:1\tPartition:11\tOffset:0\t\tk\tOffset:9\n")
            .unwrap();
        assert_eq!(ends_of(&path).unwrap(), BTreeMap::from([(0, 7), (11, 1)]));
        std::fs::write(&path, "").unwrap();
        assert_eq!(ends_of(&path).unwrap(), BTreeMap::new());
    }
}
