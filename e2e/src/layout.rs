//! Where everything lies: the state of the running cluster, the cache of what was built, the checkout.
//!
//! Only names paths; it neither reads nor writes them.

use std::path::{Path, PathBuf};

/// Owned by root and readable by all, because PostgreSQL runs as another user inside it. Short, because the sockets
/// under it may have at most 107 characters.
const STATE_DEFAULT: &str = "/var/lib/weir-e2e";

/// The folders that the local cluster uses.
#[derive(Debug, Clone)]
pub struct Layout {
    state: PathBuf,
    cache: PathBuf,
    checkout: PathBuf,
}

impl Layout {
    /// `WEIR_E2E_STATE` moves the cluster's state, `WEIR_E2E_CACHE` the cache of built parts.
    pub fn from_environment() -> Self {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("weir");
        Self {
            state: std::env::var_os("WEIR_E2E_STATE").map_or_else(|| PathBuf::from(STATE_DEFAULT), PathBuf::from),
            cache: std::env::var_os("WEIR_E2E_CACHE").map_or(cache, PathBuf::from),
            checkout: checkout(std::env::current_dir().unwrap_or_default()),
        }
    }

    /// A layout in the given folders, for tests.
    pub fn new(state: PathBuf, cache: PathBuf, checkout: PathBuf) -> Self {
        Self { state, cache, checkout }
    }

    /// Everything that `down` removes.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What `down` leaves: built binaries and images, by digest of what they were built from.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The root of the workspace.
    pub fn checkout(&self) -> &Path {
        &self.checkout
    }

    /// Sources of the cluster's own parts.
    pub fn sources(&self) -> PathBuf {
        self.checkout.join("e2e")
    }

    /// The file that names the cluster to `kubectl`, Kafka clients, S3 clients and tests.
    pub fn env_file(&self) -> PathBuf {
        self.state.join("env")
    }

    /// Keys and certificates.
    pub fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// One record a supervised process.
    pub fn processes(&self) -> PathBuf {
        self.state.join("processes")
    }

    /// One log a supervised process.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// Wrapper scripts for people: `kubectl`, Kafka's tools.
    pub fn bin(&self) -> PathBuf {
        self.state.join("bin")
    }

    /// Everything of one node.
    pub fn node(&self, number: u8) -> PathBuf {
        self.state.join(format!("node-{number}"))
    }

    /// Held while `up` or `down` runs. Outside of the state, which `down` removes.
    pub fn lock(&self) -> PathBuf {
        self.cache.join("cluster.lock")
    }
}

/// The workspace around a folder. Not the one that this was compiled in: clean clones share what was compiled.
fn checkout(inside: PathBuf) -> PathBuf {
    inside.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).map_or_else(|| inside.clone(), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_checkout_is_the_one_around_the_current_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("e2e/src");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(folder.path().join("Cargo.lock"), "").unwrap();
        assert_eq!(checkout(inside), folder.path());
    }
}
