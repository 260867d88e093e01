//! Builds images with buildah, without a daemon, a registry or a namespace of its own.
//!
//! Images are archives in the cache; buildah's own storage holds base images only and may be thrown away at any time.

use std::path::Path;

use crate::command::{self, BUILD_TIMEOUT, command, output_of};
use crate::layout::Layout;

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// buildah could not build it.
    #[error("buildah cannot build {image}")]
    Build {
        /// The image.
        image: String,
        /// Why not.
        #[source]
        source: command::Error,
    },
    /// buildah could not write the archive.
    #[error("buildah cannot write {image} to an archive")]
    Export {
        /// The image.
        image: String,
        /// Why not.
        #[source]
        source: command::Error,
    },
    /// buildah could not forget the image.
    #[error("buildah cannot remove {image} from its storage")]
    Remove {
        /// The image.
        image: String,
        /// Why not.
        #[source]
        source: command::Error,
    },
}

/// One image.
#[derive(Debug)]
pub struct Build<'a> {
    /// How it is built.
    pub containerfile: &'a Path,
    /// The folder that it may copy from.
    pub context: &'a Path,
    /// The stage that becomes the image.
    pub target: &'a str,
    /// Build arguments, `NAME=value`.
    pub arguments: &'a [String],
    /// The image's name.
    pub image: &'a str,
    /// The archive to write.
    pub archive: &'a Path,
}

impl Build<'_> {
    /// Builds the image, writes the archive, and removes the image from buildah's storage, which would otherwise grow
    /// by the size of every build.
    pub async fn run(&self, layout: &Layout) -> Result<(), Error> {
        self.build(layout).await?;
        let target = format!("docker-archive:{}:{}", self.archive.display(), self.image);
        let push = buildah(layout, &["push", "--quiet", self.image, &target]);
        output_of(push, BUILD_TIMEOUT).await.map_err(|source| Error::Export { image: self.image.to_owned(), source })?;
        // Earlier stages are kept as containers and images without a name.
        for forget in [["rmi", "--force", self.image].as_slice(), &["rm", "--all"], &["rmi", "--prune", "--force"]] {
            output_of(buildah(layout, forget), BUILD_TIMEOUT)
                .await
                .map_err(|source| Error::Remove { image: self.image.to_owned(), source })?;
        }
        Ok(())
    }

    /// Builds the image and leaves it in buildah's storage, for others to be built on it.
    pub async fn build(&self, layout: &Layout) -> Result<(), Error> {
        let mut build = buildah(layout, &["build", "--quiet", "--isolation", "chroot", "--layers=false"]);
        build.args(["--pull-never", "--target", self.target, "--tag", self.image]);
        for argument in self.arguments {
            build.args(["--build-arg", argument]);
        }
        build.arg("--file").arg(self.containerfile).arg(self.context);
        output_of(build, BUILD_TIMEOUT).await.map_err(|source| Error::Build { image: self.image.to_owned(), source })?;
        Ok(())
    }
}

/// Whether buildah's storage has an image.
pub async fn has(layout: &Layout, image: &str) -> bool {
    output_of(buildah(layout, &["inspect", "--type", "image", image]), BUILD_TIMEOUT).await.is_ok()
}

/// `vfs` needs no overlay mount and leaves none behind.
fn buildah(layout: &Layout, arguments: &[&str]) -> tokio::process::Command {
    let storage = layout.cache().join("buildah");
    let mut buildah = command("buildah", ["--storage-driver", "vfs", "--root"]);
    buildah.arg(storage.join("root")).arg("--runroot").arg(storage.join("run")).args(arguments);
    buildah
}
