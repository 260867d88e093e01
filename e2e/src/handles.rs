//! Handles to break a local cluster, and to mend it: processes, nodes, networks, pods.
//!
//! Whoever breaks something mends it before the test ends; what stays broken breaks the next test. `up` makes a cluster with
//! dead processes anew.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::access::Cluster;
use crate::cluster::{self, Place, cleanup, control_plane, kafka, network, node, postgres, s3};
use crate::command;
use crate::layout::Layout;
use crate::supervisor::{self, Process};

pub use crate::supervisor::Signal;

/// How long a component may take to end by itself before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// The worker's program.
const WORKER: &str = "weir-worker";

/// Why something could not be broken or mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster is somebody else's.
    #[error("the cluster that the environment names is not ours to break")]
    NotOurs,
    /// A process could not be stopped, started or signalled.
    #[error("cannot handle a process")]
    Process(#[from] supervisor::Error),
    /// It did not come back.
    #[error("a component did not come back")]
    Back(#[from] cluster::site::Error),
    /// The network could not be changed.
    #[error("cannot change the network")]
    Network(#[from] command::Error),
    /// The pod has no container of that name that runs.
    #[error("the pod {pod} runs no container {container}")]
    NoContainer {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// A log could not be read.
    #[error("cannot read {path}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A signal was refused.
    #[error("cannot signal pid {pid}")]
    Signal {
        /// The process.
        pid: i32,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What can be stopped and started again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The broker.
    Kafka,
    /// The S3 server.
    S3,
    /// The database.
    Postgres,
    /// The apiserver.
    Apiserver,
    /// etcd.
    Etcd,
    /// The controllers.
    Controllers,
    /// The scheduler.
    Scheduler,
}

impl Component {
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => kafka::NAME,
            Self::S3 => s3::NAME,
            Self::Postgres => postgres::NAME,
            Self::Apiserver => control_plane::APISERVER_NAME,
            Self::Etcd => control_plane::ETCD_NAME,
            Self::Controllers => control_plane::CONTROLLERS_NAME,
            Self::Scheduler => control_plane::SCHEDULER_NAME,
        }
    }
}

/// A local cluster to be broken.
#[derive(Debug, Clone)]
pub struct Handles {
    place: Place,
}

impl Handles {
    /// The handles of a cluster, if it is ours.
    pub fn of(cluster: &Cluster) -> Result<Self, Error> {
        if cluster.environment.is_external() {
            return Err(Error::NotOurs);
        }
        Ok(Self { place: Place::new(Layout::from_environment()) })
    }

    /// Asks a component to end, as an operator of it would, and returns when it is gone.
    pub fn stop(&self, component: Component) -> Result<(), Error> {
        Ok(self.place.supervisor.stop(component.name(), Signal::TERM, STOP_GRACE)?)
    }

    /// Kills a component without warning and returns when it is gone.
    pub fn kill(&self, component: Component) -> Result<(), Error> {
        Ok(self.place.supervisor.kill(component.name())?)
    }

    /// Freezes a component: its connections stay open and are not answered.
    pub fn freeze(&self, component: Component) -> Result<(), Error> {
        Ok(self.place.supervisor.signal(component.name(), Signal::STOP)?)
    }

    /// Lets a frozen component go on.
    pub fn thaw(&self, component: Component) -> Result<(), Error> {
        Ok(self.place.supervisor.signal(component.name(), Signal::CONT)?)
    }

    /// Starts a stopped component again, with its data, and returns when it serves.
    pub async fn start(&self, component: Component) -> Result<(), Error> {
        self.place.supervisor.start_again(component.name())?;
        match component {
            Component::Kafka => kafka::wait(&self.place).await?,
            Component::S3 => s3::wait(&self.place).await?,
            Component::Postgres => postgres::wait(&self.place).await?,
            // Ready means that etcd is, too. Controllers and scheduler have nobody to tell.
            Component::Apiserver | Component::Etcd => control_plane::wait_for_apiserver(&self.place).await?,
            Component::Controllers | Component::Scheduler => {}
        }
        Ok(())
    }

    /// Cuts a node's power: kubelet, container runtime and every pod are gone at once, without a word to anyone.
    pub fn stop_node(&self, number: u8) -> Result<(), Error> {
        let supervisor = &self.place.supervisor;
        supervisor.kill(&node::kubelet_name(number))?;
        supervisor.kill(&node::containerd_name(number))?;
        let folder = self.place.layout.node(number).to_string_lossy().into_owned();
        let shims = supervisor.marked().into_iter().filter(|process| mentions(process, &folder));
        for process in shims.chain(cleanup::pod_processes(number)) {
            signal(&process, Signal::KILL)?;
        }
        Ok(())
    }

    /// Starts a stopped node again, and returns when Kubernetes has it as ready.
    pub async fn start_node(&self, cluster: &Cluster, number: u8) -> Result<(), Error> {
        let supervisor = &self.place.supervisor;
        supervisor.start_again(&node::containerd_name(number))?;
        node::wait_for_runtime(&self.place, number).await?;
        supervisor.start_again(&node::kubelet_name(number))?;
        Ok(node::wait_ready(&self.place, &cluster.kube, number).await?)
    }

    /// Cuts a node off: its pods run on and reach nobody, and nobody hears of the node. The kubelet, which lives in the
    /// control plane's own network, is frozen for it.
    pub async fn cut_off_node(&self, number: u8) -> Result<(), Error> {
        network::cut_pods(number).await?;
        self.freeze_kubelet(number)
    }

    /// Ends that.
    pub async fn reconnect_node(&self, number: u8) -> Result<(), Error> {
        network::restore_pods(number).await?;
        self.thaw_kubelet(number)
    }

    /// Freezes a node's kubelet: its pods run on, and nobody hears of them.
    pub fn freeze_kubelet(&self, number: u8) -> Result<(), Error> {
        Ok(self.place.supervisor.signal(&node::kubelet_name(number), Signal::STOP)?)
    }

    /// Lets it go on.
    pub fn thaw_kubelet(&self, number: u8) -> Result<(), Error> {
        Ok(self.place.supervisor.signal(&node::kubelet_name(number), Signal::CONT)?)
    }

    /// What a pod's container has written so far, as its node keeps it: without asking the kubelet.
    pub fn pod_log(&self, number: u8, pod: &Pod, container: &str) -> Result<String, Error> {
        let metadata = &pod.metadata;
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        let folder = format!("{}_{}_{}", name(&metadata.namespace), name(&metadata.name), name(&metadata.uid));
        let path = node::pod_logs(&self.place.layout, number).join(folder).join(container).join("0.log");
        std::fs::read_to_string(&path).map_err(|source| Error::Log { path, source })
    }

    /// Signals every process of a pod's container: kills, freezes or thaws it without Kubernetes having a hand in it.
    pub fn signal_pod(&self, pod: &Pod, container: &str, with: Signal) -> Result<(), Error> {
        let no_container = || Error::NoContainer { pod: pod.metadata.name.clone().unwrap_or_default(), container: container.to_owned() };
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let status = statuses.into_iter().flatten().find(|status| status.name == container).ok_or_else(no_container)?;
        let id = status.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://")).ok_or_else(no_container)?;
        let processes = (0..network::NODES).flat_map(|number| cleanup::processes_of(number, id)).collect::<Vec<_>>();
        if processes.is_empty() {
            return Err(no_container());
        }
        processes.iter().try_for_each(|process| signal(process, with))
    }

    /// The worker's process of a pod, if it runs: Kubernetes says so only a second or two later, and by then it may have ended.
    pub fn worker(&self, pod: &Pod) -> Option<Process> {
        let cgroup = format!("pod{}", pod.metadata.uid.as_deref()?);
        let mut processes = (0..network::NODES).flat_map(|number| cleanup::processes_of(number, &cgroup));
        processes.find(|process| process.name().as_deref() == Some(WORKER))
    }

    /// The log of a component, for what it said.
    pub fn log(&self, component: Component) -> PathBuf {
        self.place.supervisor.log(component.name())
    }
}

fn signal(process: &Process, with: Signal) -> Result<(), Error> {
    process.signal(with).map_err(|source| Error::Signal { pid: process.pid(), source })
}

/// Whether a process was started with something of this folder, as a container's shim is with its node's.
fn mentions(process: &Process, folder: &str) -> bool {
    let arguments = std::fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains(&format!("{folder}/"))
}
