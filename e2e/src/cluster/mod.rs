//! The local cluster: brings it up from nothing, and takes it down without a trace.
//!
//! `up` first removes what an earlier one left half-made, and does nothing when the cluster is up and well. The env file is
//! written last: who finds it finds a cluster.

pub mod certificates;
pub mod cleanup;
pub mod control_plane;
pub mod kafka;
pub mod kubeconfig;
pub mod network;
pub mod node;
pub mod postgres;
pub mod s3;
pub mod site;

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::cache;
use crate::command;
use crate::environment::{self, Environment, names};
use crate::layout::Layout;
use crate::parts;

use network::MAIN_ADDRESS;
pub use site::{Place, Site};

/// Why the cluster is not up, or not down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, bridges and mounts are root's.
    #[error("the local cluster needs root: it makes network namespaces, mounts and cgroups")]
    NotRoot,
    /// Another `up` or `down` could not be excluded.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A part is not there and could not be built.
    #[error("cannot build the cluster's parts")]
    Parts(#[source] cache::Error<parts::Error>),
    /// The network could not be made.
    #[error("cannot make the cluster's network")]
    Network(#[source] command::Error),
    /// A component did not come up.
    #[error("cannot start the cluster")]
    Component(#[from] site::Error),
    /// The env file could not be written or read.
    #[error("cannot describe the cluster")]
    Environment(#[from] environment::Error),
    /// Something is still there.
    #[error("cannot take the cluster down")]
    Cleanup(#[from] cleanup::Error),
}

/// Brings the cluster up, unless it is, and returns the path of its env file.
pub async fn up(layout: &Layout) -> Result<PathBuf, Error> {
    must_be_root()?;
    let _lock = lock(layout)?;
    let parts = parts::ensure(layout).await.map_err(Error::Parts)?;
    let site = Site { place: Place::new(layout.clone()), parts };
    if is_up(&site.place).await {
        return Ok(layout.env_file());
    }
    cleanup::remove_all(layout).await?;
    match build(&site).await {
        Ok(()) => Ok(layout.env_file()),
        Err(error) => {
            tracing::error!("what was started is left as it is, for a look at {}; `down` removes it", layout.logs().display());
            Err(error)
        }
    }
}

/// Takes the cluster down. One that is not up, or half up, is fine.
pub async fn down(layout: &Layout) -> Result<(), Error> {
    must_be_root()?;
    let _lock = lock(layout)?;
    Ok(cleanup::remove_all(layout).await?)
}

/// Whether every process runs and the apiserver answers.
async fn is_up(place: &Place) -> bool {
    let Ok(names) = place.supervisor.names() else { return false };
    if names.is_empty() || !place.layout.env_file().exists() {
        return false;
    }
    for name in names {
        if let Err(error) = place.supervisor.find(&name) {
            tracing::warn!("the cluster is damaged and will be made anew: {error}");
            return false;
        }
    }
    let Ok(client) = control_plane::client(place).await else { return false };
    client.apiserver_version().await.is_ok()
}

async fn build(site: &Site) -> Result<(), Error> {
    cleanup::remember_settings(&site.place.layout)?;
    open_to_others(site)?;
    network::create().await.map_err(Error::Network)?;
    control_plane::create_certificates(site)?;
    // Everything starts at once; what needs the apiserver waits for it.
    tokio::try_join!(
        control_plane::start(site),
        kafka::start(site),
        s3::start(site),
        postgres::start(site),
        node::start_runtime(site, 0),
        node::start_runtime(site, 1),
    )?;
    for node in 0..network::NODES {
        node::start_kubelet(site, node)?;
    }
    let client = control_plane::client(&site.place).await?;
    for node in 0..network::NODES {
        node::wait_ready(&site.place, &client, node).await?;
    }
    describe(site)?.write(&site.place.layout.env_file())?;
    Ok(())
}

/// The database's user must be able to walk through the state's folder, whatever our own mask says; keys stay closed.
fn open_to_others(site: &Site) -> Result<(), Error> {
    for (folder, mode) in [(site.place.layout.state().to_path_buf(), 0o755), (site.place.layout.pki(), 0o700)] {
        site.place.folder(&folder)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode))
            .map_err(|source| site::Error::Write { path: folder, source })?;
    }
    Ok(())
}

/// Writes the wrappers and says where everything is.
fn describe(site: &Site) -> Result<Environment, Error> {
    let pki = site.place.layout.pki();
    let kubeconfig = kubeconfig::path(&pki, "admin");
    // What kubectl remembers of a cluster must not outlive it: the next one has the same address.
    let remembered = site.place.layout.state().join("kubectl-cache");
    let kubectl = format!(
        "KUBECONFIG=${{KUBECONFIG:-{}}} KUBECACHEDIR={} exec {} kubectl \"$@\"",
        kubeconfig.display(),
        remembered.display(),
        site.parts.hyperkube.display()
    );
    let kubectl = wrapper(site, "kubectl", &kubectl)?;
    let java = kafka::TOOL_OPTIONS.join(" ");
    let kafka_tools = format!("exec java {java} -cp '{}' \"$@\"", site.parts.kafka_class_path);
    let kafka_tools = wrapper(site, "kafka-tools", &kafka_tools)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let kafka = |port: u16| format!("{MAIN_ADDRESS}:{port}");
    let mut environment = Environment::new(&site.place.layout.env_file());
    for (name, value) in [
        (names::KUBECONFIG, text(&kubeconfig)),
        (names::KUBECTL, text(&kubectl)),
        (names::KAFKA_BOOTSTRAP, kafka(kafka::PLAINTEXT_PORT)),
        (names::KAFKA_SSL_BOOTSTRAP, kafka(kafka::SSL_PORT)),
        (names::KAFKA_SASL_BOOTSTRAP, kafka(kafka::SASL_PORT)),
        (names::KAFKA_CA_FILE, text(&kafka::authority_file(site))),
        (names::KAFKA_CERT_FILE, text(&pki.join("kafka-client.crt"))),
        (names::KAFKA_KEY_FILE, text(&pki.join("kafka-client.key"))),
        (names::KAFKA_USERNAME, kafka::USERNAME.to_owned()),
        (names::KAFKA_PASSWORD, kafka::PASSWORD.to_owned()),
        (names::KAFKA_TOOLS, text(&kafka_tools)),
        (names::AWS_ENDPOINT_URL, format!("http://{MAIN_ADDRESS}:{}", s3::PORT)),
        (names::AWS_ACCESS_KEY_ID, s3::ACCESS_KEY.to_owned()),
        (names::AWS_SECRET_ACCESS_KEY, s3::SECRET_KEY.to_owned()),
        (names::AWS_REGION, s3::REGION.to_owned()),
        (names::DATABASE_URL, database_url()),
    ] {
        environment.set(name, &value);
    }
    Ok(environment)
}

fn database_url() -> String {
    use postgres::{PASSWORD, PORT, USER};
    format!("postgres://{USER}:{PASSWORD}@{MAIN_ADDRESS}:{PORT}/{USER}")
}

fn wrapper(site: &Site, name: &str, line: &str) -> Result<PathBuf, Error> {
    let path = site.place.layout.bin().join(name);
    site.place.write(&path, &format!("#!/bin/sh\n{line}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .map_err(|source| site::Error::Write { path: path.clone(), source })?;
    Ok(path)
}

/// Held until it is dropped, or until we die: the kernel gives it back.
fn lock(layout: &Layout) -> Result<File, Error> {
    let path = layout.lock();
    let lock_error = |source| Error::Lock { path: path.clone(), source };
    std::fs::create_dir_all(layout.cache()).map_err(lock_error)?;
    let file = File::create(&path).map_err(lock_error)?;
    file.lock().map_err(lock_error)?;
    Ok(file)
}

fn must_be_root() -> Result<(), Error> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if effective_user(&status) == Some(0) { Ok(()) } else { Err(Error::NotRoot) }
}

/// The second number of the line `Uid:`.
fn effective_user(status: &str) -> Option<u32> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_decides_who_is_root() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t0\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_user("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_user(""), None);
    }
}
