//! Images of the operator and the worker, as they are built now, on both nodes.
//!
//! The same Dockerfile as everyone's, with binaries from the development build and a base image made of this machine's own
//! libraries, since no registry is asked. An image's tag is the digest of what it is made of, so what is loaded is never stale
//! and never loaded twice.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::buildah::{self, Build};
use crate::cache::Inputs;
use crate::cluster::{network, node};
use crate::command::{self, BUILD_TIMEOUT, STEP_TIMEOUT, command, output_of, run};
use crate::environment::{self, Environment, names};
use crate::layout::Layout;

/// Debian's packages whose libraries a Rust program is linked with.
const BASE_PACKAGES: [&str; 4] = ["libc6", "libgcc-s1", "libstdc++6", "zlib1g"];

/// The certificates of the world's authorities, as Debian has them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What the base image has beside libraries. Numbers of users need no names, but some programs want one.
const BASE_FILES: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"),
    ("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

/// A program with its stage in the Dockerfile and its variable in the env file.
#[derive(Debug, Clone, Copy)]
struct Image {
    binary: &'static str,
    target: &'static str,
    variable: &'static str,
}

const IMAGES: [Image; 2] = [
    Image { binary: "weir-operator", target: "operator", variable: names::WEIR_OPERATOR_IMAGE },
    Image { binary: "weir-worker", target: "worker", variable: names::WEIR_WORKER_IMAGE },
];

/// Why the images are not on the nodes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cargo failed.
    #[error("cannot compile operator and worker")]
    Compile(#[source] command::Error),
    /// cargo did not say where a binary is.
    #[error("the build made no binary named {binary}")]
    NoBinary {
        /// The binary.
        binary: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Debian's package database could not be asked.
    #[error("cannot find this machine's libraries")]
    Libraries(#[source] command::Error),
    /// An image could not be built.
    #[error("cannot build an image")]
    Build(#[from] buildah::Error),
    /// A node did not take an image.
    #[error("cannot load an image on node-{node}")]
    Load {
        /// The node.
        node: u8,
        /// Why not.
        #[source]
        source: command::Error,
    },
    /// The env file could not be read or written.
    #[error("cannot update the env file")]
    Environment(#[from] environment::Error),
}

/// Compiles operator and worker, makes their images, loads them on both nodes and names them in the env file.
pub async fn load(layout: &Layout) -> Result<Vec<String>, Error> {
    let mut environment = Environment::read(&layout.env_file())?;
    let binaries = compile(layout).await?;
    let base = Base::describe(layout).await?;
    let mut references = Vec::new();
    for (image, binary) in IMAGES.iter().zip(&binaries) {
        let reference = reference(layout, *image, binary, &base)?;
        let mut missing = Vec::new();
        for node in 0..network::NODES {
            if !is_loaded(layout, node, &reference).await? {
                missing.push(node);
            }
        }
        if !missing.is_empty() {
            build_and_load(layout, *image, binary, &base, &reference, &missing).await?;
        }
        environment.set(image.variable, &reference);
        references.push(reference);
    }
    environment.write(&layout.env_file())?;
    Ok(references)
}

/// Builds both programs in the development profile and returns where they are, in the order of [`IMAGES`].
async fn compile(layout: &Layout) -> Result<Vec<PathBuf>, Error> {
    // Of the whole workspace, so that the libraries get the same features, and are compiled only once, whatever is built.
    let mut build = command("cargo", ["build", "--quiet", "--locked", "--workspace"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    for image in IMAGES {
        build.args(["--bin", image.binary]);
    }
    build.current_dir(layout.checkout());
    let messages = output_of(build, BUILD_TIMEOUT).await.map_err(Error::Compile)?;
    IMAGES.iter().map(|image| executable(&messages, image.binary).ok_or(Error::NoBinary { binary: image.binary })).collect()
}

/// Where cargo says that it put a binary: one JSON message a line.
fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let made = messages.filter(|message| message["target"]["name"] == binary);
    made.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

async fn build_and_load(layout: &Layout, image: Image, binary: &Path, base: &Base, reference: &str, nodes: &[u8]) -> Result<(), Error> {
    tracing::info!("building and loading {reference}");
    base.ensure(layout).await?;
    let context = folder_in(layout.cache())?;
    link_or_copy(binary, &context.path().join(image.binary))?;
    link_or_copy(Path::new(AUTHORITIES), &context.path().join("ca-certificates.crt"))?;
    // Beside the context, which would otherwise be copied into itself.
    let output = folder_in(layout.cache())?;
    let archive = output.path().join("image.tar");
    Build {
        containerfile: &layout.checkout().join("Dockerfile"),
        context: context.path(),
        target: image.target,
        arguments: &[format!("BASE_IMAGE={}", base.image), "BINARIES=prebuilt".to_owned()],
        image: reference,
        archive: &archive,
    }
    .run(layout)
    .await?;
    let loads = nodes.iter().map(|number| {
        let (socket, archive) = (node::socket(layout, *number), &archive);
        async move { node::import(&socket, archive).await.map_err(|source| Error::Load { node: *number, source }) }
    });
    futures::future::try_join_all(loads).await?;
    Ok(())
}

async fn is_loaded(layout: &Layout, node: u8, reference: &str) -> Result<bool, Error> {
    let mut list = command("ctr", ["--namespace", "k8s.io", "--address"]);
    list.arg(node::socket(layout, node)).args(["images", "list", "--quiet"]).arg(format!("name=={reference}"));
    let listed = output_of(list, STEP_TIMEOUT).await.map_err(|source| Error::Load { node, source })?;
    Ok(listed.lines().any(|line| line == reference))
}

/// An image with this machine's libraries, in buildah's storage.
#[derive(Debug)]
struct Base {
    containerfile: PathBuf,
    /// Named by the versions of what is in it.
    image: String,
}

impl Base {
    async fn describe(layout: &Layout) -> Result<Self, Error> {
        let containerfile = layout.sources().join("images/Dockerfile");
        let versions = run("dpkg-query", ["--show"].into_iter().chain(BASE_PACKAGES)).await.map_err(Error::Libraries)?;
        let mut inputs = Inputs::default().add("Dockerfile", &read(&containerfile)?).add("packages", versions.as_bytes());
        for (path, content) in BASE_FILES {
            inputs = inputs.add(path, content.as_bytes());
        }
        Ok(Self { containerfile, image: format!("localhost/weir-base:{}", inputs.digest()) })
    }

    async fn ensure(&self, layout: &Layout) -> Result<(), Error> {
        if buildah::has(layout, &self.image).await {
            return Ok(());
        }
        let context = folder_in(layout.cache())?;
        fill_base(context.path()).await?;
        let (containerfile, archive) = (&self.containerfile, Path::new(""));
        let image = &self.image;
        Ok(Build { containerfile, context: context.path(), target: "base", arguments: &[], image, archive }.build(layout).await?)
    }
}

async fn fill_base(root: &Path) -> Result<(), Error> {
    let listed = run("dpkg", ["--listfiles"].into_iter().chain(BASE_PACKAGES)).await.map_err(Error::Libraries)?;
    let files = listed.lines().map(Path::new).filter(|path| is_shared_library(path));
    for file in files {
        let target = root.join(file.strip_prefix("/").unwrap_or(file));
        if let Some(folder) = target.parent() {
            create_folder(folder)?;
        }
        let copied = if file.is_symlink() {
            std::fs::read_link(file).and_then(|link| std::os::unix::fs::symlink(link, &target))
        } else {
            std::fs::copy(file, &target).map(drop)
        };
        copied.map_err(|source| Error::File { what: "copy", path: file.to_path_buf(), source })?;
    }
    for folder in ["tmp", "etc/ssl/certs", "home/nonroot"] {
        create_folder(&root.join(folder))?;
    }
    for (path, content) in BASE_FILES {
        std::fs::write(root.join(path), content).map_err(|source| Error::File { what: "write", path: root.join(path), source })?;
    }
    let (tmp, everyone) = (root.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777));
    std::fs::set_permissions(&tmp, everyone).map_err(|source| Error::File { what: "open", path: tmp, source })
}

/// The libraries and the loader, without the character sets, plug-ins and documentation of the same packages.
fn is_shared_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(path).to_string_lossy();
    let is_library = name.ends_with(".so") || name.contains(".so.");
    is_library && !path.is_dir() && !folder.contains("/gconv") && !folder.contains("/share/") && !folder.contains("/audit")
}

fn reference(layout: &Layout, image: Image, binary: &Path, base: &Base) -> Result<String, Error> {
    let inputs = Inputs::default()
        .add("Dockerfile", &read(&layout.checkout().join("Dockerfile"))?)
        .add("base", base.image.as_bytes())
        .add("binary", &digest(binary)?);
    Ok(format!("weir.local/{}:{}", image.binary, inputs.digest()))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { what: "read", path: path.to_path_buf(), source })
}

fn digest(file: &Path) -> Result<Vec<u8>, Error> {
    let read_error = |source| Error::File { what: "read", path: file.to_path_buf(), source };
    let mut hasher = Sha256::new();
    let mut open = std::fs::File::open(file).map_err(read_error)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut open, &mut buffer).map_err(read_error)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().to_vec())
}

fn folder_in(parent: &Path) -> Result<tempfile::TempDir, Error> {
    create_folder(parent)?;
    tempfile::tempdir_in(parent).map_err(|source| Error::File { what: "create a folder in", path: parent.to_path_buf(), source })
}

fn create_folder(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::File { what: "create", path: folder.to_path_buf(), source })
}

/// A link costs nothing where both lie on one disk.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop)).map_err(|source| Error::File {
        what: "copy",
        path: from.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"weir_crds","kind":["lib"]},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"weir-worker","kind":["bin"]},"executable":"/t/weir-worker"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages, "weir-worker"), Some(PathBuf::from("/t/weir-worker")));
        assert_eq!(executable(messages, "weir_crds"), None);
    }

    #[test]
    fn libraries_are_told_from_what_else_a_package_has() {
        for library in ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"] {
            assert!(is_shared_library(Path::new(library)), "{library}");
        }
        for other in ["/usr/lib/x86_64-linux-gnu/gconv/CP1250.so", "/usr/share/doc/libc6/copyright", "/lib"] {
            assert!(!is_shared_library(Path::new(other)), "{other}");
        }
    }
}
