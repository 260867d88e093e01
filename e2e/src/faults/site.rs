//! What all runs of a matrix share: the log in the store, the worker's binary, credentials.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Error;
use crate::demo::scene;
use crate::environment::names;
use crate::fixture::Fixture;
use crate::layout::Layout;
use crate::novashop::{self, Generated, Settings};

/// Three partitions, and as many buckets.
pub const PARTITIONS: i32 = 3;

/// The shared parts. Local copies of the log go with it.
#[derive(Debug)]
pub struct Site<'a> {
    /// Bucket and cluster.
    pub fixture: &'a Fixture,
    /// The log.
    pub log: Generated,
    /// The worker's binary, a test build.
    pub worker: PathBuf,
    folder: TempDir,
}

impl<'a> Site<'a> {
    /// Writes and uploads the log.
    pub async fn set(fixture: &'a Fixture, settings: Settings) -> Result<Self, Error> {
        let worker = beside_this_program("weir-worker")?;
        let folder = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
        let log_folder = folder.path().join("log");
        let log = tokio::task::spawn_blocking(move || novashop::generate(settings, &log_folder)).await.map_err(|_| Error::Died)??;
        scene::upload(fixture, &log).await?;
        let site = Self { fixture, log, worker, folder };
        site.write("planted.json", &serde_json::to_vec(&site.log.planted).unwrap_or_default())?;
        std::fs::create_dir_all(site.credentials()).map_err(|source| Error::File { path: site.credentials(), source })?;
        let environment = &fixture.cluster.environment;
        for (file, name) in [("aws-access-key-id", names::AWS_ACCESS_KEY_ID), ("aws-secret-access-key", names::AWS_SECRET_ACCESS_KEY)] {
            site.write(&format!("credentials/{file}"), environment.get(name)?.as_bytes())?;
        }
        Ok(site)
    }

    /// A file of the matrix's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of credential files.
    pub fn credentials(&self) -> PathBuf {
        self.path("credentials")
    }

    /// Writes a file of the matrix's own.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, Error> {
        let path = self.path(name);
        std::fs::write(&path, content).map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(path)
    }
}

/// A binary of the same build: cargo puts tests into a folder beside the programs.
pub fn beside_this_program(name: &str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(|source| Error::File { path: PathBuf::from("/proc/self/exe"), source })?;
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(Path::new("/"));
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::NoWorker { path }) }
}

/// Where the checkout is, for the truth's programs.
pub fn layout() -> Layout {
    Layout::from_environment()
}
