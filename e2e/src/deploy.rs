//! Puts the operator into the cluster, as `config/` says, with the images that the nodes have.

use std::path::{Path, PathBuf};

use crate::access::Cluster;
use crate::command::{self, STEP_TIMEOUT, command, output_of};
use crate::environment::{self, names};
use crate::layout::Layout;

/// Where `config/` puts the operator, and what it names it.
const NAMESPACE: &str = "weir-system";
const DEPLOYMENT: &str = "weir-operator";
const CONTAINER: &str = "operator";

/// The operator's image as `config/` names it.
const IMAGE: &str = "weir-operator";

/// The variable by which the operator learns which image its workers run.
const WORKER_IMAGE_VARIABLE: &str = "WEIR_WORKER_IMAGE";

/// How long the operator's replicas may take to be ready: they start in seconds, and wait for each other's lease.
const ROLLOUT_TIMEOUT: &str = "--timeout=120s";

/// Why the operator is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The images are not known.
    #[error("the images are not known; `just images` builds and loads them")]
    Environment(#[from] environment::Error),
    /// The overlay could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A step failed.
    #[error("cannot apply config/")]
    Apply(#[source] command::Error),
    /// The operator did not become ready.
    #[error("the operator did not become ready; it says:\n{log}")]
    NotReady {
        /// The end of its log.
        log: String,
        /// What kubectl said.
        #[source]
        source: command::Error,
    },
}

/// Applies `config/` with an overlay that names the images, and waits until every replica runs them and is ready.
pub async fn deploy(layout: &Layout, cluster: &Cluster) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(|source| Error::Write { path: std::env::temp_dir(), source })?;
    let (base, overlay) = (folder.path().join("config"), folder.path().join("overlay"));
    // A copy, because an overlay may name its base by a relative path only.
    let mut copy = command("cp", ["--recursive"]);
    copy.arg(layout.checkout().join("config")).arg(&base);
    output_of(copy, STEP_TIMEOUT).await.map_err(Error::Apply)?;
    let environment = &cluster.environment;
    let overlaid = kustomization(environment.get(names::WEIR_OPERATOR_IMAGE)?, environment.get(names::WEIR_WORKER_IMAGE)?);
    write(&overlay.join("kustomization.yaml"), &overlaid)?;
    let overlay = overlay.to_string_lossy().into_owned();
    // By the server, since schemas of this size do not fit the annotation in which kubectl would note them.
    let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager", "weir-e2e", "--kustomize", &overlay];
    cluster.kubectl(&apply).await.map_err(Error::Apply)?;
    let crds = ["wait", "--for=condition=Established", "customresourcedefinitions", "--all", ROLLOUT_TIMEOUT];
    cluster.kubectl(&crds).await.map_err(Error::Apply)?;
    let deployment = format!("deployment/{DEPLOYMENT}");
    let rollout = ["--namespace", NAMESPACE, "rollout", "status", &deployment, ROLLOUT_TIMEOUT];
    if let Err(source) = cluster.kubectl(&rollout).await {
        let logs = ["--namespace", NAMESPACE, "logs", &deployment, "--tail=40", "--all-pods", "--prefix"];
        let log = cluster.kubectl(&logs).await.unwrap_or_else(|error| error.to_string());
        return Err(Error::NotReady { log, source });
    }
    Ok(())
}

/// Deletes all that `config/` brings, as a person would.
pub async fn undeploy(layout: &Layout, cluster: &Cluster) -> Result<(), Error> {
    let base = layout.checkout().join("config").to_string_lossy().into_owned();
    let delete = ["delete", "--kustomize", &base, "--ignore-not-found", "--timeout=180s"];
    cluster.kubectl(&delete).await.map(drop).map_err(Error::Apply)
}

fn kustomization(operator: &str, worker: &str) -> String {
    let (name, tag) = operator.rsplit_once(':').unwrap_or((operator, "latest"));
    let patch = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT, "namespace": NAMESPACE},
        "spec": {"template": {"spec": {"containers": [
            {"name": CONTAINER, "env": [{"name": WORKER_IMAGE_VARIABLE, "value": worker}]},
        ]}}},
    });
    serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../config"],
        "images": [{"name": IMAGE, "newName": name, "newTag": tag}],
        "patches": [{"patch": patch.to_string()}],
    })
    .to_string()
}

fn write(path: &Path, content: &str) -> Result<(), Error> {
    let write_error = |source| Error::Write { path: path.to_path_buf(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(write_error)?;
    }
    std::fs::write(path, content).map_err(write_error)
}
