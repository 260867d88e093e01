//! A small disk for one worker, which the kernel itself says is full.

use std::path::{Path, PathBuf};

use super::Error;
use crate::command;

/// A file system in memory, mounted until it is dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one of a size, as mount(8) has it.
    pub async fn mount(path: PathBuf, size: &str) -> Result<Self, Error> {
        std::fs::create_dir_all(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        mount(&path, &format!("size={size}")).await?;
        Ok(Self { path })
    }

    /// Gives it another size; what is on it stays.
    pub async fn resize(&self, size: &str) -> Result<(), Error> {
        mount(&self.path, &format!("remount,size={size}")).await
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

async fn mount(path: &Path, options: &str) -> Result<(), Error> {
    let path = path.to_string_lossy();
    let mounted = command::run("mount", ["-t", "tmpfs", "-o", options, "weir-e2e", &path]).await;
    mounted.map(drop).map_err(|source| Error::Mount(Box::new(source)))
}

impl Drop for Disk {
    /// Whoever still holds a file of it keeps nobody from going on.
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !unmounted.as_ref().is_ok_and(std::process::ExitStatus::success) {
            tracing::warn!("{} stays mounted: {unmounted:?}", self.path.display());
        }
    }
}
