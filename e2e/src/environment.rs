//! What a client needs to know of the cluster: the env file that `up` writes, or the same variables from elsewhere.
//!
//! The file can be read by a shell: one `NAME=value` a line, values without blanks or quotes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::layout::Layout;

/// With `1`, the tests use the cluster that the environment names, and none of ours.
pub const EXTERNAL: &str = "WEIR_E2E_EXTERNAL";

/// Why the cluster's environment is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No local cluster is up.
    #[error(
        "no cluster is up: {path} is not there. `just up` brings one up; or set {EXTERNAL}=1 and KUBECONFIG, \
         KAFKA_BOOTSTRAP, AWS_ENDPOINT_URL and so on to use another"
    )]
    NotUp {
        /// The env file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot access {path}")]
    File {
        /// The env file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A line of the file is not a variable.
    #[error("line {line} of {path} is not NAME=value")]
    Line {
        /// The env file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable that is needed is not set.
    #[error("{name} is not set in {origin}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// Where it was looked for.
        origin: String,
    },
    /// The kubeconfig could not be read.
    #[error("cannot read the kubeconfig {path}")]
    Kubeconfig {
        /// The kubeconfig.
        path: PathBuf,
        /// Why not.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No client could be made from the kubeconfig.
    #[error("cannot make a client from the kubeconfig {path}")]
    Client {
        /// The kubeconfig.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The variables, and where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    origin: String,
    external: bool,
}

/// Every variable that the env file may hold.
pub mod names {
    /// The kubeconfig of a cluster administrator.
    pub const KUBECONFIG: &str = "KUBECONFIG";
    /// Plain listener.
    pub const KAFKA_BOOTSTRAP: &str = "KAFKA_BOOTSTRAP";
    /// TLS listener.
    pub const KAFKA_SSL_BOOTSTRAP: &str = "KAFKA_SSL_BOOTSTRAP";
    /// SCRAM-SHA-512 over TLS.
    pub const KAFKA_SASL_BOOTSTRAP: &str = "KAFKA_SASL_BOOTSTRAP";
    /// The broker's authority.
    pub const KAFKA_CA_FILE: &str = "KAFKA_CA_FILE";
    /// A client certificate that the TLS listener takes as identity.
    pub const KAFKA_CERT_FILE: &str = "KAFKA_CERT_FILE";
    /// Its key.
    pub const KAFKA_KEY_FILE: &str = "KAFKA_KEY_FILE";
    /// The SCRAM user.
    pub const KAFKA_USERNAME: &str = "KAFKA_USERNAME";
    /// Its password.
    pub const KAFKA_PASSWORD: &str = "KAFKA_PASSWORD";
    /// `$KAFKA_TOOLS <class> <arguments>` runs one of Kafka's own tools.
    pub const KAFKA_TOOLS: &str = "KAFKA_TOOLS";
    /// The S3 server.
    pub const AWS_ENDPOINT_URL: &str = "AWS_ENDPOINT_URL";
    /// Its user.
    pub const AWS_ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
    /// The user's secret.
    pub const AWS_SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
    /// The server's region.
    pub const AWS_REGION: &str = "AWS_REGION";
    /// PostgreSQL.
    pub const DATABASE_URL: &str = "DATABASE_URL";
    /// A kubectl of the cluster's version.
    pub const KUBECTL: &str = "KUBECTL";
    /// The operator's image on the nodes.
    pub const WEIR_OPERATOR_IMAGE: &str = "WEIR_OPERATOR_IMAGE";
    /// The worker's image on the nodes.
    pub const WEIR_WORKER_IMAGE: &str = "WEIR_WORKER_IMAGE";
}

/// All of [`names`], in the order in which they are written.
const ALL: [&str; 18] = [
    names::KUBECONFIG,
    names::KUBECTL,
    names::KAFKA_BOOTSTRAP,
    names::KAFKA_SSL_BOOTSTRAP,
    names::KAFKA_SASL_BOOTSTRAP,
    names::KAFKA_CA_FILE,
    names::KAFKA_CERT_FILE,
    names::KAFKA_KEY_FILE,
    names::KAFKA_USERNAME,
    names::KAFKA_PASSWORD,
    names::KAFKA_TOOLS,
    names::AWS_ENDPOINT_URL,
    names::AWS_ACCESS_KEY_ID,
    names::AWS_SECRET_ACCESS_KEY,
    names::AWS_REGION,
    names::DATABASE_URL,
    names::WEIR_OPERATOR_IMAGE,
    names::WEIR_WORKER_IMAGE,
];

impl Environment {
    /// The environment of the cluster to use: ours, or the one that the process environment names.
    pub fn load() -> Result<Self, Error> {
        if std::env::var(EXTERNAL).is_ok_and(|value| value == "1") {
            let variables = ALL
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok().filter(|value| !value.is_empty())?)))
                .collect();
            return Ok(Self { variables, origin: "the environment".to_owned(), external: true });
        }
        Self::read(&Layout::from_environment().env_file())
    }

    /// Starts an environment from nothing.
    pub fn new(origin: &Path) -> Self {
        Self { variables: BTreeMap::new(), origin: origin.display().to_string(), external: false }
    }

    /// Reads an env file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotUp { path: path.to_path_buf() }),
            other => other.map_err(|source| Error::File { path: path.to_path_buf(), source })?,
        };
        let mut environment = Self::new(path);
        for (index, line) in text.lines().enumerate() {
            let (name, value) = line.split_once('=').ok_or_else(|| Error::Line { path: path.to_path_buf(), line: index + 1 })?;
            environment.set(name, value);
        }
        Ok(environment)
    }

    /// Writes an env file, whole or not at all: its presence says that the cluster is up.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let file_error = |source| Error::File { path: path.to_path_buf(), source };
        let known = ALL.iter().filter_map(|name| Some((*name, self.variables.get(*name)?)));
        let text = known.map(|(name, value)| format!("{name}={value}\n")).collect::<String>();
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).map_err(file_error)?;
        std::fs::rename(&beside, path).map_err(file_error)
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// A variable that must be there.
    pub fn get(&self, name: &'static str) -> Result<&str, Error> {
        self.find(name).ok_or_else(|| Error::Missing { name, origin: self.origin.clone() })
    }

    /// A variable that may be there.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Whether the cluster is not ours, so that its processes cannot be stopped.
    pub fn is_external(&self) -> bool {
        self.external
    }

    /// All variables, for a child process.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }
}

/// A Kubernetes client from a kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client, Error> {
    // Whichever comes first sets the process's provider; there is only one choice.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let path = || kubeconfig.to_path_buf();
    let file = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|source| Error::Kubeconfig { path: path(), source })?;
    let config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
        .await
        .map_err(|source| Error::Kubeconfig { path: path(), source })?;
    kube::Client::try_from(config).map_err(|source| Error::Client { path: path(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        let mut environment = Environment::new(&path);
        environment.set(names::AWS_REGION, "us-east-1");
        environment.set(names::DATABASE_URL, "postgres://u:p@h/d?a=b");
        environment.write(&path).unwrap();
        let read = Environment::read(&path).unwrap();
        assert_eq!(read, environment);
        assert_eq!(read.get(names::DATABASE_URL).unwrap(), "postgres://u:p@h/d?a=b");
        assert!(matches!(read.get(names::KUBECONFIG), Err(Error::Missing { name: "KUBECONFIG", .. })));
    }

    #[test]
    fn a_missing_file_says_how_to_bring_a_cluster_up() {
        let folder = tempfile::tempdir().unwrap();
        let error = Environment::read(&folder.path().join("env")).unwrap_err();
        assert!(error.to_string().contains("just up"), "{error}");
    }
}
