//! A node: a container runtime and a kubelet with their own folders, cgroup, bridge and certificate.
//!
//! Every path that the two use by default on a machine is moved below the node's folder, so that nothing is shared with
//! another node or left on the machine.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::command::run;
use crate::layout::Layout;

use super::kubeconfig;
use super::network::{self, MAIN_ADDRESS, bridge, node_address, node_range};
use super::site::{Error, Place, Site};

/// Where the kernel shows the cgroups.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// Where the health of node 0's kubelet is asked; the next node's is the next port.
const HEALTH_PORT: u16 = 10248;

/// The name of a node, its cgroup's suffix, its certificate's stem.
pub fn name(node: u8) -> String {
    format!("node-{node}")
}

/// The cgroup under which a node's pods run.
pub fn cgroup(node: u8) -> String {
    format!("weir-node-{node}")
}

/// The name of a node's container runtime process.
pub fn containerd_name(node: u8) -> String {
    format!("containerd-{node}")
}

/// The name of a node's kubelet process.
pub fn kubelet_name(node: u8) -> String {
    format!("kubelet-{node}")
}

/// Where a node's container runtime listens.
pub fn socket(layout: &Layout, node: u8) -> PathBuf {
    layout.node(node).join("containerd.sock")
}

/// Starts the container runtime, and gives it the images that every node has.
pub async fn start_runtime(site: &Site, node: u8) -> Result<(), Error> {
    let folder = site.place.layout.node(node);
    for part in ["cni", "ipam", "kubelet", "pods", "plugins", "opt"] {
        site.place.folder(&folder.join(part))?;
    }
    create_cgroup(site, node)?;
    site.place.write(&folder.join("containerd.toml"), &containerd_configuration(&folder))?;
    site.place.write(&folder.join("cni/10-weir.conflist"), &cni_configuration(node, &folder))?;
    let name = containerd_name(node);
    let configuration = folder.join("containerd.toml").to_string_lossy().into_owned();
    site.place.start(site.program(&name, ["containerd", "--config", &configuration]))?;
    wait_for_runtime(&site.place, node).await?;
    for image in &site.parts.images {
        import(&socket(&site.place.layout, node), image).await.map_err(|source| Error::Prepare { component: name.clone(), source })?;
    }
    Ok(())
}

/// Waits until the container runtime answers.
pub async fn wait_for_runtime(place: &Place, node: u8) -> Result<(), Error> {
    let address = socket(&place.layout, node);
    place
        .ready(&containerd_name(node), async || {
            let version = [Path::new("--address"), &address, Path::new("version")];
            run("ctr", version).await.map(drop).map_err(|error| error.to_string())
        })
        .await
}

/// Loads an image archive into a container runtime.
pub async fn import(socket: &Path, archive: &Path) -> Result<(), crate::command::Error> {
    let mut import = crate::command::command("ctr", ["--namespace", "k8s.io", "--address"]);
    import.arg(socket).args(["images", "import"]).arg(archive);
    crate::command::output_of(import, crate::command::STEP_TIMEOUT).await.map(drop)
}

/// Starts the kubelet. The last node is the backfill pool: labelled, and tainted so that nothing else runs there.
pub fn start_kubelet(site: &Site, node: u8) -> Result<(), Error> {
    let folder = site.place.layout.node(node);
    // An own one, so that no name server or search domain of the machine reaches a pod.
    site.place.write(&folder.join("resolv.conf"), &format!("nameserver {MAIN_ADDRESS}\n"))?;
    site.place.write(&folder.join("kubelet.yaml"), &kubelet_configuration(site, node))?;
    let (name, address) = (name(node), node_address(node));
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (configuration, root) = (text(folder.join("kubelet.yaml")), text(folder.join("kubelet")));
    let kubeconfig = text(kubeconfig::path(&site.place.layout.pki(), &name));
    let mut flags = vec!["kubelet", "--config", &configuration, "--kubeconfig", &kubeconfig];
    flags.extend(["--hostname-override", &name, "--root-dir", &root, "--node-ip", &address]);
    flags.extend(match node {
        0 => ["--node-labels", "weir.dev/pool=general"].as_slice(),
        _ => &["--node-labels", "weir.dev/pool=backfill", "--register-with-taints", "weir.dev/pool=backfill:NoSchedule"],
    });
    site.place.start(site.kubernetes(&kubelet_name(node), flags))
}

/// Waits until the apiserver has the node as ready.
pub async fn wait_ready(place: &Place, client: &kube::Client, node: u8) -> Result<(), Error> {
    let nodes = Api::<Node>::all(client.clone());
    let name = name(node);
    place
        .ready(&kubelet_name(node), async || {
            let node = nodes.get(&name).await.map_err(|error| error.to_string())?;
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            match conditions.into_iter().find(|condition| condition.type_ == "Ready") {
                Some(condition) if condition.status == "True" => Ok(()),
                Some(condition) => Err(condition.message.unwrap_or_default()),
                None => Err("it has not said whether it is ready".to_owned()),
            }
        })
        .await
}

/// The folders of a cgroup: one in each hierarchy of version 1, or the only one of version 2.
pub fn cgroup_folders(node: u8) -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(cgroup(node))];
    }
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        // A link is another name of a hierarchy.
        .filter(|path| path.is_dir() && !path.is_symlink())
        .map(|path| path.join(cgroup(node)))
        .collect()
}

fn create_cgroup(site: &Site, node: u8) -> Result<(), Error> {
    for folder in cgroup_folders(node) {
        site.place.folder(&folder)?;
    }
    // In version 1 a new cgroup has no cpus and no memory nodes, and takes no process until it has.
    let (parent, child) = (Path::new(CGROUPS).join("cpuset"), Path::new(CGROUPS).join("cpuset").join(cgroup(node)));
    for file in ["cpuset.cpus", "cpuset.mems"].map(Path::new).into_iter().filter(|file| parent.join(file).exists()) {
        std::fs::read(parent.join(file))
            .and_then(|content| std::fs::write(child.join(file), content))
            .map_err(|source| Error::Write { path: child.join(file), source })?;
    }
    Ok(())
}

fn containerd_configuration(folder: &Path) -> String {
    format!(
        r#"version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  # Without CAP_SYS_RESOURCE a container may not lower its score, and would not start.
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
  # Below `state`, where `down` finds them, rather than in a folder that the whole machine shares.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{folder}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"#,
        folder = folder.display(),
        pause = crate::parts::PAUSE_IMAGE,
    )
}

fn cni_configuration(node: u8, folder: &Path) -> String {
    let ipam = serde_json::json!({
        "type": "host-local",
        "ranges": [[{"subnet": node_range(node)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": folder.join("ipam"),
    });
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": bridge(node),
        "plugins": [{"type": "bridge", "bridge": bridge(node), "isGateway": true, "hairpinMode": true, "ipam": ipam}],
    })
    .to_string()
}

/// Where a node keeps what containers write: of each pod a folder, of each container one in it.
pub fn pod_logs(layout: &Layout, node: u8) -> PathBuf {
    layout.node(node).join("pods")
}

fn kubelet_configuration(site: &Site, node: u8) -> String {
    let (pki, folder) = (site.place.layout.pki(), site.place.layout.node(node));
    let logs = pod_logs(&site.place.layout, node).display().to_string();
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
healthzPort: {health_port}
readOnlyPort: 0
authentication: {{x509: {{clientCAFile: {pki}/ca.crt}}, anonymous: {{enabled: false}}, webhook: {{enabled: true}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/{name}.crt
tlsPrivateKeyFile: {pki}/{name}.key
containerRuntimeEndpoint: unix://{folder}/containerd.sock
podLogsDir: {logs}
volumePluginDir: {folder}/plugins
resolvConf: {folder}/resolv.conf
clusterDNS: [{dns}]
clusterDomain: cluster.local
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
# The disk is the machine's: how full it is says nothing about this node.
evictionHard: {{nodefs.available: "1%", imagefs.available: "1%", memory.available: 200Mi}}
imageGCHighThresholdPercent: 100
# Sooner than the default of 10 s, and still rare enough for two cores.
nodeStatusUpdateFrequency: 5s
nodeLeaseDurationSeconds: 20
# Tests start many pods at once; the default of 5 a second would hide how fast weir itself is.
registryPullQPS: 0
eventRecordQPS: 0
serializeImagePulls: false
"#,
        address = node_address(node),
        health_port = HEALTH_PORT + u16::from(node),
        pki = pki.display(),
        name = name(node),
        folder = folder.display(),
        dns = network::MAIN_ADDRESS,
        cgroup = cgroup(node),
    )
}
