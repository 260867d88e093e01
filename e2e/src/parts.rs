//! The programs that the cluster consists of, built from package registries on first use and cached.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::buildah;
use crate::cache::{self, Inputs};
use crate::command::{self, BUILD_TIMEOUT, command, output_of, run};
use crate::layout::Layout;

/// The version that `e2e/hyperkube/go.mod` names. Without these flags the server would say that it is v0.0.0.
const KUBERNETES_FLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35";

/// The S3 server: conditional writes, versions, object lock.
const S3_SERVER: &str = "github.com/versity/versitygw/cmd/versitygw@v1.8.0";

/// Copies the broker's libraries; pinned, because without a version Maven takes the latest there is.
const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies";

/// Debian's statically linked busybox, which every test image and the pods' sandboxes consist of.
const BUSYBOX: &str = "/bin/busybox";

/// The image of the pods' sandboxes.
pub const PAUSE_IMAGE: &str = "weir.local/pause:1";

/// An image with a shell, for tests.
pub const BUSYBOX_IMAGE: &str = "weir.local/busybox:1";

/// Why the parts are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source file of a part could not be read.
    #[error("cannot read {path}")]
    ReadSource {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file of an image could not be written.
    #[error("cannot prepare {path}")]
    Prepare {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A tool failed.
    #[error("a build tool failed; is everything installed that e2e/install-debian.sh installs?")]
    Tool(#[from] command::Error),
    /// An image could not be built.
    #[error("cannot build an image")]
    Image(#[from] buildah::Error),
}

/// Where the parts lie.
#[derive(Debug, Clone)]
pub struct Parts {
    /// One binary with everything of Kubernetes, etcd and CoreDNS.
    pub hyperkube: PathBuf,
    /// The S3 server.
    pub s3_server: PathBuf,
    /// The Java class path of broker and tools.
    pub kafka_class_path: String,
    /// Image archives that every node gets.
    pub images: Vec<PathBuf>,
}

/// Returns the parts; builds those that are not cached.
pub async fn ensure(layout: &Layout) -> Result<Parts, cache::Error<Error>> {
    let failed = |name: &'static str| move |source: Error| cache::Error::Build { name: name.to_owned(), source };
    let go = run("go", ["version"]).await.map_err(Error::from).map_err(failed("Go"))?;
    let hyperkube = hyperkube(layout, &go).await?;
    let s3_server = s3_server(layout, &go).await?;
    let kafka = kafka(layout).await?;
    let images = images(layout).await?;
    Ok(Parts {
        hyperkube: hyperkube.join("hyperkube"),
        s3_server: s3_server.join("versitygw"),
        kafka_class_path: kafka.join("*").to_string_lossy().into_owned(),
        images: vec![images.join("pause.tar"), images.join("busybox.tar")],
    })
}

async fn hyperkube(layout: &Layout, go: &str) -> Result<PathBuf, cache::Error<Error>> {
    let source = layout.sources().join("hyperkube");
    let mut inputs = Inputs::default().add("go", go.as_bytes()).add("flags", KUBERNETES_FLAGS.as_bytes());
    for file in ["go.mod", "go.sum", "main.go"] {
        inputs = inputs.add(file, &read(&source.join(file)).map_err(|source| build_error("hyperkube", source))?);
    }
    cache::entry(layout.cache(), "hyperkube", &inputs.digest(), async |folder: &Path| {
        let mut build = command("go", ["build", "-trimpath", "-ldflags", KUBERNETES_FLAGS, "-o"]);
        build.arg(folder.join("hyperkube")).arg(".").current_dir(&source).env("CGO_ENABLED", "0");
        output_of(build, BUILD_TIMEOUT).await?;
        Ok(())
    })
    .await
}

async fn s3_server(layout: &Layout, go: &str) -> Result<PathBuf, cache::Error<Error>> {
    let digest = Inputs::default().add("go", go.as_bytes()).add("module", S3_SERVER.as_bytes()).digest();
    cache::entry(layout.cache(), "versitygw", &digest, async |folder: &Path| {
        let mut build = command("go", ["install", "-trimpath", "-ldflags", "-s -w", S3_SERVER]);
        build.env("GOBIN", folder).env("CGO_ENABLED", "0");
        output_of(build, BUILD_TIMEOUT).await?;
        Ok(())
    })
    .await
}

async fn kafka(layout: &Layout) -> Result<PathBuf, cache::Error<Error>> {
    let pom = layout.sources().join("kafka/pom.xml");
    let content = read(&pom).map_err(|source| build_error("kafka", source))?;
    let digest = Inputs::default().add("pom", &content).add("plugin", MAVEN_COPY.as_bytes()).digest();
    cache::entry(layout.cache(), "kafka", &digest, async |folder: &Path| {
        let mut copy = command("mvn", ["-q", "-B", "-f"]);
        copy.arg(&pom).arg(MAVEN_COPY).arg(format!("-DoutputDirectory={}", folder.display()));
        output_of(copy, BUILD_TIMEOUT).await?;
        Ok(())
    })
    .await
}

/// The sandbox image is busybox that sleeps: the container runtime ends it by SIGKILL, so it needs no signal handler.
async fn images(layout: &Layout) -> Result<PathBuf, cache::Error<Error>> {
    let containerfile = layout.sources().join("images/Dockerfile");
    let failed = |source| build_error("images", source);
    let inputs = Inputs::default()
        .add("Dockerfile", &read(&containerfile).map_err(failed)?)
        .add("busybox", &read(Path::new(BUSYBOX)).map_err(failed)?);
    cache::entry(layout.cache(), "images", &inputs.digest(), async |folder: &Path| {
        let context = folder.join("context");
        let prepare_error = |source| Error::Prepare { path: context.clone(), source };
        std::fs::create_dir_all(context.join("bin")).map_err(prepare_error)?;
        std::fs::copy(BUSYBOX, context.join("bin/busybox")).map_err(prepare_error)?;
        for applet in run(BUSYBOX, ["--list"]).await?.lines().filter(|applet| *applet != "busybox") {
            std::os::unix::fs::symlink("busybox", context.join("bin").join(applet)).map_err(prepare_error)?;
        }
        for (target, image) in [("pause", PAUSE_IMAGE), ("busybox", BUSYBOX_IMAGE)] {
            let archive = folder.join(format!("{target}.tar"));
            buildah::Build { containerfile: &containerfile, context: &context, target, arguments: &[], image, archive: &archive }
                .run(layout)
                .await?;
        }
        std::fs::remove_dir_all(&context).map_err(prepare_error)
    })
    .await
}

fn build_error(name: &str, source: Error) -> cache::Error<Error> {
    cache::Error::Build { name: name.to_owned(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::ReadSource { path: path.to_path_buf(), source })
}

/// A command that runs one of Kubernetes' programs in the foreground.
pub fn kubectl(parts: &Parts, kubeconfig: &Path) -> Command {
    let mut kubectl = command(&parts.hyperkube, ["kubectl"]);
    kubectl.env("KUBECONFIG", kubeconfig);
    kubectl
}
