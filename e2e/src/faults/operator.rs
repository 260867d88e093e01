//! The operator as a child process, in the place of its pods: so that it can be told where to die, whom to ask, and be
//! stopped and continued.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use weir_failpoints::{FAULTS_ENV, FIRED_ENV};

use super::Error;
use super::attempt::{Fault, Fired, fired_of};
use super::site::beside_this_program;
use crate::command;
use crate::environment::names;
use crate::fixture::{self, Fixture, OPERATOR_NAMESPACE};
use crate::supervisor::{Process, Signal};

/// How long pods of the deployment may take to be gone.
const GONE_TIMEOUT: &str = "--timeout=60s";

/// The place of the operator's pods, until it is given back.
#[derive(Debug)]
pub struct Place<'a> {
    fixture: &'a Fixture,
    binary: PathBuf,
    folder: TempDir,
    started: std::cell::Cell<u32>,
}

/// One process.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    fired: PathBuf,
    log: PathBuf,
    /// What it was told to suffer.
    pub faults: Vec<Fault>,
}

/// Runs a test in the place of the operator's pods, which come back whatever became of it.
pub async fn in_its_place(name: &str, test: impl AsyncFnOnce(&Fixture, &Place<'_>) -> anyhow::Result<()>) {
    fixture::run(name, async |fixture| {
        let place = Place::take(fixture).await?;
        let outcome = test(fixture, &place).await;
        place.give_back().await?;
        outcome
    })
    .await;
}

impl<'a> Place<'a> {
    /// Sends the pods away.
    pub async fn take(fixture: &'a Fixture) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
        let place = Self { fixture, binary: beside_this_program("weir-operator")?, folder, started: 0.into() };
        // The apiserver asks pods alone: as long as a process stands in for them, changes pass without an answer.
        place.webhooks_may("Ignore").await?;
        place.scale(0).await?;
        let pods = ["wait", "--for=delete", "pods", "--selector", "app.kubernetes.io/name=weir-operator", GONE_TIMEOUT];
        place.kubectl(&pods).await?;
        // What they held.
        place.kubectl(&["delete", "lease", "weir-operator", "--ignore-not-found"]).await?;
        Ok(place)
    }

    /// Lets the pods come back. To be called whatever happened.
    pub async fn give_back(&self) -> Result<(), Error> {
        self.scale(2).await?;
        self.webhooks_may("Fail").await
    }

    async fn webhooks_may(&self, failure_policy: &str) -> Result<(), Error> {
        let patch = serde_json::json!({"webhooks": [{"name": "kinds.weir.dev", "failurePolicy": failure_policy}]}).to_string();
        self.kubectl(&["patch", "validatingwebhookconfiguration", "weir-operator", "--patch", &patch]).await
    }

    async fn scale(&self, replicas: u32) -> Result<(), Error> {
        self.kubectl(&["scale", "deployment/weir-operator", &format!("--replicas={replicas}")]).await
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<(), Error> {
        let all = [["--namespace", OPERATOR_NAMESPACE].as_slice(), arguments].concat();
        self.fixture.cluster.kubectl(&all).await.map(drop).map_err(|source: command::Error| Error::Kubectl(Box::new(source)))
    }

    /// Starts a process with an identity. `apiserver`: through something that stands before the apiserver.
    pub fn start(&self, identity: &str, faults: Vec<Fault>, apiserver: Option<&str>) -> Result<Operator, Error> {
        let number = self.started.get() + 1;
        self.started.set(number);
        let file = |name: &str| self.folder.path().join(format!("{number:03}.{name}"));
        let file_error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::File { path, source }
        };
        let environment = &self.fixture.cluster.environment;
        let kubeconfig = match apiserver {
            None => PathBuf::from(environment.get(names::KUBECONFIG)?),
            Some(url) => {
                let path = file("kubeconfig");
                std::fs::write(&path, kubeconfig(url)).map_err(file_error(&path))?;
                path
            }
        };
        let (log, fired) = (file("log"), file("fired"));
        let output = std::fs::File::create(&log).map_err(file_error(&log))?;
        let mut command = Command::new(&self.binary);
        command.env("KUBECONFIG", kubeconfig).env("WEIR_NAMESPACE", OPERATOR_NAMESPACE).env("WEIR_POD_NAME", identity);
        command
            .env("WEIR_WORKER_IMAGE", environment.get(names::WEIR_WORKER_IMAGE)?)
            .env("WEIR_LISTEN", "127.0.0.1:0")
            .env("WEIR_WEBHOOK_LISTEN", "127.0.0.1:0");
        command.env("WEIR_CREDENTIALS_ROOT", self.folder.path()).env(FIRED_ENV, &fired);
        command.env(FAULTS_ENV, faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(output).kill_on_drop(true);
        Ok(Operator { child: command.spawn().map_err(Error::Worker)?, fired, log, faults })
    }
}

/// Of a server that asks for no identity.
fn kubeconfig(url: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
    })
    .to_string()
}

impl Operator {
    /// What has fired so far.
    pub fn fired(&self) -> Vec<Fired> {
        fired_of(&self.fired)
    }

    /// Whether it has said something.
    pub fn has_said(&self, what: &str) -> bool {
        std::fs::read_to_string(&self.log).unwrap_or_default().contains(what)
    }

    /// Whether a fault that it was told to suffer has fired.
    pub fn has_suffered(&self, fault: &Fault) -> bool {
        let wanted = Fired { point: fault.point.clone(), hit: fault.hit, action: fault.action.to_owned() };
        self.fired().contains(&wanted)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> Result<bool, Error> {
        Ok(self.child.try_wait().map_err(Error::Worker)?.is_none())
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(Error::Worker)
    }

    /// Freezes it, or lets it go on.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let process = self.child.id().and_then(|pid| Process::find(pid.cast_signed()));
        process.map_or(Ok(()), |process| process.signal(signal)).map_err(Error::Worker)
    }

    /// Waits until it has ended by itself, or for so long.
    pub async fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(ended) => ended.map(|_| true).map_err(Error::Worker),
            Err(_elapsed) => Ok(false),
        }
    }
}
