//! What every component of the cluster needs to start: folders, built parts, the supervisor; and how each is waited for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command;
use crate::layout::Layout;
use crate::parts::Parts;
use crate::supervisor::{self, Program, Supervisor};

use super::certificates;
use super::network::inside;

/// The longest that one component may take to be ready. The slowest, the broker, takes 5 s on two idle cores; this
/// leaves room for cores that compile something at the same time.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// How often a component is asked whether it is ready.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// At most this much of a failed component's log goes into the error, from its end.
const LOG_SHOWN_BYTES: usize = 3000;

/// Why a component is not up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make the cluster's certificates")]
    Certificates(#[from] certificates::Error),
    /// A process could not be started.
    #[error("cannot start a component")]
    Start(#[from] supervisor::Error),
    /// A step that prepares a component failed.
    #[error("cannot prepare {component}")]
    Prepare {
        /// The component.
        component: String,
        /// Why not.
        #[source]
        source: command::Error,
    },
    /// A component's process ended while it was waited for.
    #[error("{component} ended while it was starting; the end of {log}:\n{tail}")]
    Ended {
        /// The component.
        component: String,
        /// Its log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// A component was not ready in time.
    #[error("{component} was not ready within {seconds} s: {reason}; the end of {log}:\n{tail}")]
    NotReady {
        /// The component.
        component: String,
        /// What was still missing.
        reason: String,
        /// The limit.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// No client for the apiserver could be made.
    #[error("cannot make a client from {path}: {reason}")]
    Client {
        /// The kubeconfig.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Where a cluster is, or will be.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its folders.
    pub layout: Layout,
    /// Its processes.
    pub supervisor: Supervisor,
}

/// A place with all that is needed to build a cluster there.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where.
    pub place: Place,
    /// The cluster's programs.
    pub parts: Parts,
}

impl Site {
    /// A program in the cluster's network, run from the state's folder.
    pub fn program<S: Into<String>>(&self, name: &str, command: impl IntoIterator<Item = S>) -> Program {
        Program::new(name, self.place.layout.state(), inside(command))
    }

    /// One of the programs in Kubernetes' binary.
    pub fn kubernetes<S: Into<String>>(&self, name: &str, command: impl IntoIterator<Item = S>) -> Program {
        let binary = self.parts.hyperkube.to_string_lossy().into_owned();
        self.program(name, std::iter::once(binary).chain(command.into_iter().map(Into::into)))
    }
}

impl Place {
    /// The cluster in those folders.
    pub fn new(layout: Layout) -> Self {
        let supervisor = Supervisor::new(&layout);
        Self { layout, supervisor }
    }

    /// Starts a program; its readiness is another matter.
    pub fn start(&self, program: Program) -> Result<(), Error> {
        self.supervisor.start(program).map(drop).map_err(Error::Start)
    }

    /// Writes a file under the state's folder.
    pub fn write(&self, path: &Path, content: &str) -> Result<(), Error> {
        let write_error = |source| Error::Write { path: path.to_path_buf(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(write_error)?;
        }
        std::fs::write(path, content).map_err(write_error)
    }

    /// Makes a folder under the state's folder.
    pub fn folder(&self, path: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(path).map_err(|source| Error::Write { path: path.to_path_buf(), source })
    }

    /// Waits until `check` says that a component is ready, and notices when its process ends instead. What `check`
    /// answers as an error is what is still missing.
    pub async fn ready<F>(&self, component: &str, check: F) -> Result<(), Error>
    where
        F: AsyncFn() -> Result<(), String>,
    {
        let started = Instant::now();
        loop {
            let reason = match check().await {
                Ok(()) => {
                    tracing::info!("{component} is ready after {:.1} s", started.elapsed().as_secs_f64());
                    return Ok(());
                }
                Err(reason) => reason,
            };
            let (log, tail) = (self.supervisor.log(component), self.tail(component));
            let component = component.to_owned();
            if matches!(self.supervisor.find(&component), Err(supervisor::Error::NotRunning { .. })) {
                return Err(Error::Ended { component, log, tail });
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(Error::NotReady { component, reason, seconds: READY_TIMEOUT.as_secs(), log, tail });
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }

    fn tail(&self, component: &str) -> String {
        let log = std::fs::read(self.supervisor.log(component)).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_SHOWN_BYTES)..]).into_owned()
    }
}

/// Whether something accepts connections there.
pub async fn accepts(address: &str, port: u16) -> Result<(), String> {
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    match tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect((address, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{address}:{port}: {error}")),
        Err(_elapsed) => Err(format!("{address}:{port} does not answer")),
    }
}
