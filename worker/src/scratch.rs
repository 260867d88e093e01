//! The worker's scratch disk: files that go when their handle does, and a bound on all of them together.
//!
//! A pod that writes more than its volume's size is evicted, which looks like somebody else's fault; so the bound is
//! kept here and the failure has a name.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use datafusion::parquet::errors::ParquetError;
use tempfile::{NamedTempFile, TempDir};

/// A folder of this process. Cheap to clone; the folder goes with the last clone.
#[derive(Clone, Debug)]
pub struct Scratch {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: TempDir,
    bytes_used: AtomicU64,
    bytes_max: u64,
}

impl Scratch {
    /// Makes a folder below `parent`. Without a bound the disk's own holds.
    pub fn new(parent: &Path, bytes_max: Option<u64>) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        let dir = tempfile::Builder::new().prefix("weir-").tempdir_in(parent)?;
        Ok(Self { inner: Arc::new(Inner { dir, bytes_used: AtomicU64::new(0), bytes_max: bytes_max.unwrap_or(u64::MAX) }) })
    }

    /// An empty file.
    pub fn file(&self) -> io::Result<ScratchFile> {
        let file = NamedTempFile::new_in(self.inner.dir.path())?;
        Ok(ScratchFile { file, bytes: 0, scratch: self.clone() })
    }

    /// Whether an error says that the disk, or this worker's share of it, is full.
    pub fn is_full(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// The same of an error in which the Parquet library has wrapped what the disk said.
    pub fn is_full_beneath(error: &ParquetError) -> bool {
        // Others are about Parquet itself.
        let ParquetError::External(error) = error else { return false };
        error.downcast_ref::<io::Error>().is_some_and(Self::is_full)
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let before = self.inner.bytes_used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.inner.bytes_max {
            self.inner.bytes_used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("more than the {} bytes of scratch space are needed", self.inner.bytes_max),
            ));
        }
        Ok(())
    }
}

/// A file that is deleted when this is dropped.
#[derive(Debug)]
pub struct ScratchFile {
    file: NamedTempFile,
    bytes: u64,
    scratch: Scratch,
}

impl ScratchFile {
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub fn to_path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// Opens the file again, from its start.
    pub fn reopen(&self) -> io::Result<File> {
        self.file.reopen()
    }

    /// Counts bytes that somebody else writes to [`ScratchFile::path`].
    pub fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        self.scratch.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Write for ScratchFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.reserve(data.len() as u64)?;
        self.file.write_all(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        self.scratch.inner.bytes_used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_bound_holds_for_all_files_together_and_is_given_back() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path(), Some(100)).unwrap();
        let mut first = scratch.file().unwrap();
        first.write_all(&[0; 60]).unwrap();
        let mut second = scratch.file().unwrap();
        let error = second.write_all(&[0; 60]).unwrap_err();
        assert!(Scratch::is_full(&error), "{error}");
        let path = first.to_path();
        drop(first);
        assert!(!path.exists());
        second.write_all(&[0; 60]).unwrap();
        drop((second, scratch));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
