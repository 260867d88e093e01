//! `weir-operator audit verify`: whether a log is whole. It needs no cluster, only the log's objects, or copies of them.

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use weir_crds::{
    contract::{digest::Sha256Digest, run::StoreLocation},
    kafka_cluster::AuditAnchor,
    refs::S3Service,
};
use weir_ledger::Ledger;

use super::{
    chain::{File, Head, Verified, verify},
    entry::folder,
};

/// The log is whole, and ends where the anchor says, or later.
const WHOLE: u8 = 0;
const BROKEN: u8 = 1;
/// It could not be read.
const UNREADABLE: u8 = 2;
/// It is whole as far as it goes; without an anchor nobody can tell whether its end was cut off or its last entry edited.
const UNANCHORED: u8 = 3;

/// weir's audit log.
#[derive(Debug, Parser)]
#[command(name = "weir-operator audit")]
pub struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says whether a log is whole. Exit status: 0 whole; 1 edited, cut, reordered or forked; 2 it cannot be read;
    /// 3 whole as far as it goes, but no anchor was given.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    /// A folder with the log's objects: the numbered JSON files of one chain, and nothing else.
    #[arg(long, conflicts_with_all = ["bucket", "chain", "prefix", "endpoint", "region", "path_style"], required_unless_present = "bucket")]
    dir: Option<PathBuf>,
    /// The bucket that the log lies in.
    #[arg(long, requires = "chain")]
    bucket: Option<String>,
    /// As spec.audit.prefix of the KafkaCluster.
    #[arg(long, default_value = "")]
    prefix: String,
    /// As status.audit.chain of the KafkaCluster.
    #[arg(long)]
    chain: Option<String>,
    /// The S3 service's URL; AWS's own where it is left out.
    #[arg(long)]
    endpoint: Option<String>,
    #[arg(long, default_value = "us-east-1")]
    region: String,
    #[arg(long)]
    path_style: bool,
    /// A folder with the files aws-access-key-id and aws-secret-access-key; without it, AWS's usual variables and profiles.
    #[arg(long, requires = "bucket")]
    credentials: Option<PathBuf>,
    /// The newest entry that is known from elsewhere, as SEQUENCE:DIGEST.
    #[arg(long, value_parser = anchor, conflicts_with = "status")]
    anchor: Option<Head>,
    /// A file with the KafkaCluster as JSON, as `kubectl get kafkacluster NAME -o json` prints it: its status is the anchor.
    #[arg(long)]
    status: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a KafkaCluster with status.audit")]
    Status {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("no client of the store can be made")]
    Client(#[from] weir_ledger::ClientError),
    #[error("the log cannot be read")]
    Store(#[from] weir_ledger::LedgerError),
}

fn anchor(text: &str) -> Result<Head, String> {
    let parse = || {
        let (sequence, digest) = text.split_once(':')?;
        Some(Head { sequence: sequence.parse().ok()?, digest: Sha256Digest::try_from(digest.to_owned()).ok()? })
    };
    parse().ok_or_else(|| "write it as SEQUENCE:DIGEST, the digest with 64 hexadecimal digits".to_owned())
}

/// Runs a command, with everything behind `weir-operator`.
pub async fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Command::Verify(command) = Audit::parse_from(arguments).command;
    ExitCode::from(exit_status(&command).await)
}

#[expect(clippy::print_stderr, reason = "command-line output")]
async fn exit_status(command: &Verify) -> u8 {
    match verified(command).await {
        Ok((found, anchored)) => report(&found, anchored),
        Err(error) => {
            eprintln!("{}", weir_crds::contract::result::error_chain(&error));
            UNREADABLE
        }
    }
}

async fn verified(command: &Verify) -> Result<(Verified, bool), CliError> {
    let from_status = command.status.as_ref().map(|path| status(path.clone())).transpose()?;
    let chain = command.chain.clone().or_else(|| from_status.as_ref().map(|a| a.chain.clone()));
    let anchor = command.anchor.or(from_status.map(|AuditAnchor { sequence, digest, .. }| Head { sequence, digest }));
    let files = match (&command.dir, &command.bucket, &chain) {
        (Some(dir), ..) => from_folder(dir.clone())?,
        (None, Some(bucket), Some(chain)) => from_store(command, bucket, chain).await?,
        // The command line does not take it.
        (None, ..) => Vec::new(),
    };
    Ok((verify(files, chain.as_deref(), anchor), anchor.is_some()))
}

fn status(path: PathBuf) -> Result<AuditAnchor, CliError> {
    let text = std::fs::read(&path).map_err(|source| CliError::Read { path: path.clone(), source })?;
    let mut object: Value = serde_json::from_slice(&text).map_err(|source| CliError::Status { path: path.clone(), source })?;
    serde_json::from_value(object["status"]["audit"].take()).map_err(|source| CliError::Status { path, source })
}

fn from_folder(dir: PathBuf) -> Result<Vec<File>, CliError> {
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source| CliError::Read { path, source }
    };
    let mut files = Vec::new();
    for found in std::fs::read_dir(&dir).map_err(failed(&dir))? {
        let path = found.map_err(failed(&dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(File { name, bytes: std::fs::read(&path).map_err(failed(&path))? });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

async fn from_store(command: &Verify, bucket: &str, chain: &str) -> Result<Vec<File>, CliError> {
    let s3 = S3Service { endpoint: command.endpoint.clone(), region: command.region.clone(), path_style: command.path_style };
    let location = StoreLocation { bucket: bucket.to_owned(), prefix: command.prefix.clone(), s3 };
    let store = Ledger::connect(&location, command.credentials.as_deref()).await?;
    let folder = folder(&command.prefix, chain);
    let mut files = Vec::new();
    for listed in store.list(&folder, None).await? {
        // One that goes while it is listed is missed by its number.
        if let Some(bytes) = store.get(&listed.key).await? {
            let name = listed.key.strip_prefix(&folder).unwrap_or(&listed.key).to_owned();
            files.push(File { name, bytes: bytes.to_vec() });
        }
    }
    Ok(files)
}

/// Says what was found; the exit status.
#[expect(clippy::print_stdout, reason = "command-line output")]
fn report(found: &Verified, anchored: bool) -> u8 {
    let chain = found.chain.as_deref().unwrap_or("unknown");
    for problem in &found.problems {
        println!("BROKEN {problem}");
    }
    for open in &found.open {
        println!("NOTE   entry {} intends to lower topic {}, and no entry says what became of it", open.sequence, open.topic);
    }
    let newest = found.newest.map_or_else(String::new, |Head { sequence, digest }| format!(", newest {sequence}:{digest}"));
    println!("chain {chain}: {} entries{newest}", found.entries);
    if !found.problems.is_empty() {
        println!("the log is not what was written: {} problems", found.problems.len());
        return BROKEN;
    }
    if !anchored {
        println!("whole as far as it goes; give --anchor or --status to know whether its end was cut off or its last entry edited");
        return UNANCHORED;
    }
    println!("whole");
    WHOLE
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use futures::executor::block_on;

    use super::*;
    use crate::audit::tests::a_log;

    fn status_of(arguments: &[&str]) -> u8 {
        let Command::Verify(command) = Audit::try_parse_from(["audit", "verify"].iter().chain(arguments)).unwrap().command;
        block_on(exit_status(&command))
    }

    #[test]
    fn each_kind_of_log_has_its_exit_status() {
        let (files, head) = a_log();
        let folder = tempfile::tempdir().unwrap();
        for File { name, bytes } in &files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let dir = folder.path().to_str().unwrap();
        let anchor = format!("{}:{}", head.sequence, head.digest);
        assert_eq!(status_of(&["--dir", dir, "--anchor", &anchor]), WHOLE);
        assert_eq!(status_of(&["--dir", dir]), UNANCHORED);
        let cluster = tempfile::NamedTempFile::new().unwrap();
        let audit = AuditAnchor { chain: "main-0123456789ab".into(), sequence: head.sequence, digest: head.digest };
        std::fs::write(cluster.path(), serde_json::json!({"status": {"audit": audit}}).to_string()).unwrap();
        assert_eq!(status_of(&["--dir", dir, "--status", cluster.path().to_str().unwrap()]), WHOLE);
        std::fs::remove_file(folder.path().join(&files.last().unwrap().name)).unwrap();
        assert_eq!(status_of(&["--dir", dir, "--anchor", &anchor]), BROKEN);
        assert_eq!(status_of(&["--dir", "/nowhere/at/all"]), UNREADABLE);
        for wrong in [&["verify"][..], &["verify", "--bucket", "b"], &["verify", "--dir", "d", "--anchor", "1:2"]] {
            assert!(Audit::try_parse_from(["audit"].iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
