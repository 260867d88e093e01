//! Keeps what is expensive to build, by digest of what it was built from.
//!
//! An entry is a folder that appears whole, by rename, or not at all. Entries are never changed; one whose inputs changed
//! is another entry.

use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Hexadecimal digits of a digest that name an entry: 64 bits, far more than the handful of entries there ever are.
const NAME_DIGITS: usize = 16;

/// Why an entry could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error<B: std::error::Error + 'static> {
    /// The cache's folder could not be used.
    #[error("cannot {what} {path}")]
    Folder {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Building the entry failed.
    #[error("cannot build {name}")]
    Build {
        /// The entry.
        name: String,
        /// Why not.
        #[source]
        source: B,
    },
}

/// What an entry is built from.
#[derive(Debug, Clone, Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// Adds one input. Lengths are hashed too, so that no two different lists of inputs run together.
    pub fn add(mut self, label: &str, content: &[u8]) -> Self {
        for part in [label.as_bytes(), content] {
            self.0.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            self.0.update(part);
        }
        self
    }

    /// The name of what is built from these inputs.
    pub fn digest(self) -> String {
        let mut digits = hex::encode(self.0.finalize());
        digits.truncate(NAME_DIGITS);
        digits
    }
}

/// Returns the folder of the entry `name`/`digest`; `build` fills it when it is not there. Others who want the same entry
/// meanwhile wait.
pub async fn entry<B, F>(root: &Path, name: &str, digest: &str, build: F) -> Result<PathBuf, Error<B>>
where
    B: std::error::Error + 'static,
    F: AsyncFnOnce(&Path) -> Result<(), B>,
{
    let folder = root.join(name);
    let entry = folder.join(digest);
    if entry.is_dir() {
        return Ok(entry);
    }
    let attempt = |what, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Folder { what, path, source }
    };
    std::fs::create_dir_all(&folder).map_err(attempt("create", &folder))?;
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).map_err(attempt("create", &lock_path))?;
    // Blocks this thread while another process builds; there is nothing else for this one to do.
    lock.lock().map_err(attempt("lock", &lock_path))?;
    if entry.is_dir() {
        return Ok(entry);
    }
    tracing::info!("building {name} (once; kept in {})", entry.display());
    let unfinished = folder.join("unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(attempt("remove", &unfinished))?;
    }
    std::fs::create_dir_all(&unfinished).map_err(attempt("create", &unfinished))?;
    build(&unfinished).await.map_err(|source| Error::Build { name: name.to_owned(), source })?;
    std::fs::rename(&unfinished, &entry).map_err(attempt("rename", &unfinished))?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("broken")]
    struct Broken;

    #[tokio::test]
    async fn an_entry_is_built_once_and_not_kept_when_building_failed() {
        let root = tempfile::tempdir().unwrap();
        let failed = entry(root.path(), "part", "1", async |folder: &Path| {
            std::fs::write(folder.join("half"), "x").unwrap();
            Err(Broken)
        });
        assert!(matches!(failed.await, Err(Error::Build { .. })));
        let build = async |folder: &Path| {
            assert!(!folder.join("half").exists());
            std::fs::write(folder.join("whole"), "x").unwrap();
            Ok::<(), Broken>(())
        };
        let built = entry(root.path(), "part", "1", build).await.unwrap();
        assert!(built.join("whole").exists());
        let again = entry(root.path(), "part", "1", async |_: &Path| Err(Broken)).await.unwrap();
        assert_eq!(again, built);
    }

    #[test]
    fn inputs_do_not_run_together() {
        let one = Inputs::default().add("ab", b"c").digest();
        let other = Inputs::default().add("a", b"bc").digest();
        assert_ne!(one, other);
        assert_eq!(one.len(), NAME_DIGITS);
    }
}
