//! Takes a cluster down, whatever state it is in, and leaves nothing: processes, mounts, network, cgroups, sockets, files.
//!
//! Order matters. Kubelets go first, or they would start again what is killed; then pods; then everything that carries
//! the cluster's mark, by SIGKILL, since a graceful apiserver takes half a minute once etcd is gone. Each step is fine with
//! finding nothing, so a `down` that died half-way is simply run again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command::{self, run};
use crate::layout::Layout;
use crate::supervisor::{self, Process, Signal, Supervisor};

use super::{network, node, postgres};

/// How long processes may take to be gone, all in all.
const GONE_TIMEOUT: Duration = Duration::from_secs(20);

/// How often to look whether they are.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long the database may take to end by itself and to free what it holds in the kernel.
const DATABASE_GRACE: Duration = Duration::from_secs(3);

/// Where container runtimes put the sockets of their shims, whatever their configuration says.
const SHIM_SOCKETS: &str = "/run/containerd/s";

/// Where kubelets link the logs of containers, whatever their configuration says.
const LOG_LINKS: &str = "/var/log/containers";

/// Where the container runtime remembers networks that it set up.
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// Where kubelets listen for device plugins, whatever their configuration says.
const DEVICE_SOCKET: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";

/// Folders that are made on the way to these. They go when they are empty, and then nobody misses them.
const SHARED_FOLDERS: [&str; 7] =
    [SHIM_SOCKETS, "/run/containerd", LOG_LINKS, CNI_RESULTS, "/var/lib/cni", "/var/lib/kubelet/device-plugins", "/var/lib/kubelet"];

/// Settings of the whole machine that a kubelet changes.
const SETTINGS: [&str; 5] = [
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
];

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A process could not be signalled.
    #[error("cannot stop the cluster's processes")]
    Stop(#[from] supervisor::Error),
    /// Processes do not end.
    #[error("processes are still there {seconds} s after they were killed: {pids:?}")]
    Survivors {
        /// Which.
        pids: Vec<i32>,
        /// How long we waited.
        seconds: u64,
    },
    /// A mount, link or namespace could not be removed.
    #[error("cannot remove {what}")]
    Remove {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: command::Error,
    },
    /// The state folder holds something else.
    #[error("{path} holds files that are not a cluster's; name another folder in WEIR_E2E_STATE")]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder could not be removed.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Remembers the machine's settings, before a kubelet changes them.
pub fn remember_settings(layout: &Layout) -> Result<(), Error> {
    let path = settings_file(layout);
    let values = SETTINGS.iter().filter_map(|setting| Some((*setting, std::fs::read_to_string(setting).ok()?)));
    let text = serde_json::json!(values.collect::<BTreeMap<_, _>>()).to_string();
    std::fs::create_dir_all(layout.state()).and_then(|()| std::fs::write(&path, text)).map_err(|source| Error::File {
        what: "write",
        path,
        source,
    })
}

/// Removes the cluster.
pub async fn remove_all(layout: &Layout) -> Result<(), Error> {
    must_be_ours(layout)?;
    let supervisor = Supervisor::new(layout);
    // Whoever still finds the env file would find no cluster.
    remove_file(&layout.env_file())?;
    for name in supervisor.names()?.iter().filter(|name| name.starts_with("kubelet")) {
        supervisor.kill(name)?;
    }
    if supervisor.find(postgres::NAME).is_ok() {
        supervisor.stop(postgres::NAME, Signal::QUIT, DATABASE_GRACE)?;
    }
    kill_all(&supervisor)?;
    free_shared_memory(layout).await;
    let sockets = shim_sockets(layout);
    unmount(layout.state()).await?;
    network::remove().await.map_err(|source| Error::Remove { what: "the network", source })?;
    for node in 0..network::NODES {
        node::cgroup_folders(node).iter().try_for_each(|folder| remove_cgroup(folder))?;
    }
    for left in sockets.iter().chain(&cni_results()) {
        remove_file(left)?;
    }
    let state = layout.state().to_path_buf();
    remove_matching(Path::new(LOG_LINKS), |path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(&state)))?;
    remove_file(Path::new(DEVICE_SOCKET))?;
    for folder in SHARED_FOLDERS {
        drop(std::fs::remove_dir(folder));
    }
    restore_settings(layout);
    remove_state(layout)
}

/// The settings go last: their presence says that the folder is ours to remove.
fn remove_state(layout: &Layout) -> Result<(), Error> {
    let remove_error = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::File { what: "remove", path, source }
    };
    for entry in std::fs::read_dir(layout.state()).into_iter().flatten() {
        let path = entry.map_err(remove_error(layout.state()))?.path();
        if path == settings_file(layout) {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path).map_err(remove_error(&path))?;
        } else {
            remove_file(&path)?;
        }
    }
    remove_file(&settings_file(layout))?;
    match std::fs::remove_dir(layout.state()) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(remove_error(layout.state())(source)),
        _ => Ok(()),
    }
}

/// A state folder is either ours, or empty, or not there. Anything else is somebody's data.
fn must_be_ours(layout: &Layout) -> Result<(), Error> {
    let is_empty = || std::fs::read_dir(layout.state()).map_or(true, |mut entries| entries.next().is_none());
    if settings_file(layout).exists() || is_empty() {
        return Ok(());
    }
    Err(Error::Foreign { path: layout.state().to_path_buf() })
}

/// Kills pods and marked processes until there are none. More than once, because a process may start another before it
/// dies.
fn kill_all(supervisor: &Supervisor) -> Result<(), Error> {
    let deadline = Instant::now() + GONE_TIMEOUT;
    loop {
        let ourselves = i32::try_from(std::process::id()).unwrap_or_default();
        let mut processes = (0..network::NODES).flat_map(pod_processes).collect::<Vec<_>>();
        processes.extend(supervisor.marked());
        processes.retain(|process| process.pid() != ourselves);
        if processes.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids = processes.iter().map(Process::pid).collect();
            return Err(Error::Survivors { pids, seconds: GONE_TIMEOUT.as_secs() });
        }
        for process in &processes {
            // One that cannot be killed is still there in the next round.
            let _refused = process.signal(Signal::KILL);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Every process in a node's cgroup: those of its pods.
pub fn pod_processes(node: u8) -> Vec<Process> {
    processes_in(node, |_| true)
}

/// The processes of one container, or of one pod: its cgroup has that name.
pub fn processes_of(node: u8, cgroup: &str) -> Vec<Process> {
    processes_in(node, |folder| folder.iter().any(|part| part == cgroup))
}

fn processes_in(node: u8, wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
    let mut processes = BTreeMap::new();
    for folder in node::cgroup_folders(node).iter().flat_map(|root| folders_below(root)).filter(|folder| wanted(folder)) {
        let pids = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for process in pids.lines().filter_map(|pid| Process::find(pid.parse().ok()?)) {
            processes.insert(process.pid(), process);
        }
    }
    processes.into_values().collect()
}

/// A folder and every folder below it, outermost first.
pub fn folders_below(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.to_path_buf()];
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let entries = std::fs::read_dir(&folder).into_iter().flatten();
        folders.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir() && !path.is_symlink()));
    }
    folders
}

fn remove_cgroup(root: &Path) -> Result<(), Error> {
    if !root.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + GONE_TIMEOUT;
    for folder in folders_below(root).iter().rev() {
        // A cgroup stays busy for a moment after its last process is gone.
        while let Err(source) = std::fs::remove_dir(folder) {
            if source.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::File { what: "remove the cgroup", path: folder.clone(), source });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
    Ok(())
}

/// Takes off every mount below a folder, the last one first.
async fn unmount(below: &Path) -> Result<(), Error> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|target| Path::new(target).starts_with(below));
    for target in targets.collect::<Vec<_>>().into_iter().rev() {
        run("umount", ["--lazy", target]).await.map_err(|source| Error::Remove { what: "a mount", source })?;
    }
    Ok(())
}

/// The sockets of this cluster's shims, from the folders in which the container runtime noted them.
fn shim_sockets(layout: &Layout) -> Vec<PathBuf> {
    (0..network::NODES)
        .map(|number| layout.node(number).join("containerd/state/io.containerd.runtime.v2.task/k8s.io"))
        .flat_map(|tasks| std::fs::read_dir(tasks).into_iter().flatten())
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("address")).ok())
        .filter_map(|address| Some(PathBuf::from(address.trim().strip_prefix("unix://")?)))
        .filter(|socket| socket.starts_with(SHIM_SOCKETS))
        .collect()
}

/// What the container runtime remembers of our pods' networks: for each pod a file named after our bridge and the pod, and one
/// named after its loopback device and the pod.
fn cni_results() -> Vec<PathBuf> {
    let files = || std::fs::read_dir(CNI_RESULTS).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let bridges = (0..network::NODES).map(|node| format!("{}-", network::bridge(node))).collect::<Vec<_>>();
    let pods = files()
        .filter_map(|path| {
            let name = file_name(&path);
            let pod = bridges.iter().find_map(|bridge| name.strip_prefix(bridge))?;
            Some(pod.split('-').next()?.to_owned())
        })
        .collect::<Vec<_>>();
    files().filter(|path| pods.iter().any(|pod| file_name(path).contains(pod))).collect()
}

/// A database that was killed, not stopped, leaves a small segment of shared memory.
async fn free_shared_memory(layout: &Layout) {
    let pid_file = postgres::data(layout).join("postmaster.pid");
    let Ok(content) = std::fs::read_to_string(pid_file) else { return };
    if let Some(segment) = postgres::shared_memory(&content) {
        // Fails when the database did free it.
        drop(run("ipcrm", ["--shmem-id", segment]).await);
    }
}

fn settings_file(layout: &Layout) -> PathBuf {
    layout.state().join("settings.json")
}

/// Puts the machine's settings back. A machine that refuses did not let them be changed either.
fn restore_settings(layout: &Layout) {
    let text = std::fs::read(settings_file(layout)).unwrap_or_default();
    for (setting, value) in serde_json::from_slice::<BTreeMap<String, String>>(&text).unwrap_or_default() {
        if std::fs::read_to_string(&setting).is_ok_and(|current| current != value) {
            drop(std::fs::write(&setting, value));
        }
    }
}

fn remove_matching(folder: &Path, matches: impl Fn(&Path) -> bool) -> Result<(), Error> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| matches(path)).try_for_each(|path| remove_file(&path))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path: path.to_path_buf(), source: error })
        }
        _ => Ok(()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
