//! The operator's own Secrets, as the folders that clients read credentials from.
//!
//! A folder lives only while a client is made of it: clients read their credentials once, so nothing stays on disk, and a
//! rotated Secret is taken up by the next client. Only Secrets of the operator's own namespace can be named.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use weir_crds::refs::ObjectRef;

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("there is no Secret {name} in namespace {namespace}, the operator's; create it")]
    Missing { name: String, namespace: String },
    #[error("Secret {name} cannot be read")]
    Get {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("Secret {name} has the key {key:?}, which is no file name")]
    Key { name: String, key: String },
    #[error("the credentials' folder {path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

#[derive(Clone)]
pub struct Credentials {
    client: Client,
    namespace: String,
    /// A folder in memory: it must be the operator's alone.
    root: PathBuf,
}

/// A folder with one file for each key of a Secret; it goes when this is dropped.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    /// The Secret's, as [`Credentials::version`] says it.
    pub version: Option<String>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a credentials' folder is left behind");
        }
    }
}

/// So that two clients that are made at a time do not share a folder.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Credentials {
    pub fn new(client: Client, namespace: impl Into<String>, root: PathBuf) -> Self {
        Self { client, namespace: namespace.into(), root }
    }

    /// The files of a Secret; without a Secret there is no folder, and clients use the process's identity.
    pub async fn folder(&self, secret: Option<&ObjectRef>) -> Result<Option<Folder>, CredentialsError> {
        let Some(ObjectRef { name }) = secret else { return Ok(None) };
        let secret = self.secret(name).await?;
        let path = self.root.join(format!("weir-credentials-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let failed = |source| CredentialsError::Write { path: path.clone(), source };
        private_folder(&path).map_err(failed)?;
        let folder = Folder { path: path.clone(), version: secret.metadata.resource_version };
        for (key, value) in secret.data.unwrap_or_default() {
            if key.contains('/') || key.starts_with("..") {
                return Err(CredentialsError::Key { name: name.clone(), key });
            }
            std::fs::write(path.join(key), value.0).map_err(failed)?;
        }
        Ok(Some(folder))
    }

    /// Which version of a Secret there is: another one has other credentials.
    pub async fn version(&self, secret: Option<&ObjectRef>) -> Result<Option<String>, CredentialsError> {
        let Some(ObjectRef { name }) = secret else { return Ok(None) };
        Ok(self.secret(name).await?.metadata.resource_version)
    }

    async fn secret(&self, name: &str) -> Result<Secret, CredentialsError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(name).await.map_err(|source| CredentialsError::Get { name: name.to_owned(), source })?;
        found.ok_or_else(|| CredentialsError::Missing { name: name.to_owned(), namespace: self.namespace.clone() })
    }
}

fn private_folder(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}
