//! etcd, the apiserver, the controllers, the scheduler, the service proxy and the name server.

use std::net::IpAddr;
use std::path::Path;

use super::certificates::{self, Authority, Subject};
use super::kubeconfig::{self, APISERVER_PORT};
use super::network::{APISERVER_SERVICE, MAIN_ADDRESS, NODES, POD_RANGE, SERVICE_RANGE, node_address};
use super::site::{Error, Place, Site, accepts};

/// etcd's clients come from its own network only.
const ETCD: &str = "http://127.0.0.1:12379";
const ETCD_PEER: &str = "http://127.0.0.1:12380";

/// The name server's port.
const DNS_PORT: u16 = 53;

/// The name of etcd's process.
pub const ETCD_NAME: &str = "etcd";
/// The name of the apiserver's process.
pub const APISERVER_NAME: &str = "apiserver";
/// The name of the controllers' process.
pub const CONTROLLERS_NAME: &str = "controllers";
/// The name of the scheduler's process.
pub const SCHEDULER_NAME: &str = "scheduler";

/// Makes every key, certificate and kubeconfig of Kubernetes.
pub fn create_certificates(site: &Site) -> Result<(), Error> {
    let pki = site.place.layout.pki();
    site.place.folder(&pki)?;
    let authority = Authority::create(&pki, "ca")?;
    let addresses = ["127.0.0.1", APISERVER_SERVICE, MAIN_ADDRESS].map(address);
    authority.issue(&Subject {
        name: "apiserver",
        common_name: "kube-apiserver",
        organization: None,
        dns_names: &["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"],
        addresses: &addresses,
    })?;
    let users = [
        ("admin", "admin", Some("system:masters")),
        ("controllers", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("proxy", "system:kube-proxy", None),
    ];
    for (name, common_name, organization) in users {
        authority.issue(&Subject { name, common_name, organization, ..Subject::default() })?;
        write_kubeconfig(&pki, name)?;
    }
    for node in 0..NODES {
        let name = format!("node-{node}");
        authority.issue(&Subject {
            name: &name,
            common_name: &format!("system:node:{name}"),
            organization: Some("system:nodes"),
            dns_names: &[&name],
            addresses: &[address(&node_address(node))],
        })?;
        write_kubeconfig(&pki, &name)?;
    }
    Ok(certificates::create_key_pair(&pki, "service-accounts")?)
}

/// Our addresses are constants, so each of them parses.
fn address(text: &str) -> IpAddr {
    text.parse().expect("the cluster's addresses are well-formed constants")
}

fn write_kubeconfig(pki: &Path, user: &str) -> Result<(), Error> {
    kubeconfig::write(pki, user).map(drop).map_err(|source| Error::Write { path: kubeconfig::path(pki, user), source })
}

/// Starts all of it; returns when the apiserver is ready and names are answered.
pub async fn start(site: &Site) -> Result<(), Error> {
    start_etcd(site)?;
    site.place.start(apiserver(site))?;
    wait_for_apiserver(&site.place).await?;
    start_controllers(site)?;
    start_proxy(site)?;
    start_name_server(site)?;
    site.place.ready("coredns", async || accepts(MAIN_ADDRESS, DNS_PORT).await).await
}

fn start_etcd(site: &Site) -> Result<(), Error> {
    let data = site.place.layout.state().join("etcd");
    site.place.folder(&data)?;
    // Nothing here survives a crash of the machine, and must not: no fsync.
    let cluster = format!("default={ETCD_PEER}");
    let flags = ["etcd", "--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "warn"]
        .into_iter()
        .chain(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
        .chain(["--listen-peer-urls", ETCD_PEER, "--initial-advertise-peer-urls", ETCD_PEER])
        .chain(["--initial-cluster", &cluster]);
    site.place.start(site.kubernetes(ETCD_NAME, flags))
}

fn apiserver(site: &Site) -> crate::supervisor::Program {
    let port = APISERVER_PORT.to_string();
    let flags = ["kube-apiserver", "--etcd-servers", ETCD, "--secure-port", &port, "--bind-address", "0.0.0.0"]
        .into_iter()
        .chain(["--advertise-address", MAIN_ADDRESS, "--service-cluster-ip-range", SERVICE_RANGE])
        .chain(["--client-ca-file", "pki/ca.crt"])
        .chain(["--tls-cert-file", "pki/apiserver.crt", "--tls-private-key-file", "pki/apiserver.key"])
        .chain(["--service-account-key-file", "pki/service-accounts.pub"])
        .chain(["--service-account-signing-key-file", "pki/service-accounts.key"])
        .chain(["--service-account-issuer", "https://kubernetes.default.svc"])
        .chain(["--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"])
        .chain(["--allow-privileged", "--kubelet-certificate-authority", "pki/ca.crt"])
        .chain(["--kubelet-client-certificate", "pki/admin.crt", "--kubelet-client-key", "pki/admin.key"])
        .chain(["--kubelet-preferred-address-types", "InternalIP"]);
    site.kubernetes(APISERVER_NAME, flags)
}

/// Waits until the apiserver says that it is ready, etcd and its own start-up hooks included.
pub async fn wait_for_apiserver(place: &Place) -> Result<(), Error> {
    let client = client(place).await?;
    place
        .ready(APISERVER_NAME, async || {
            let request = http::Request::get("/readyz").body(Vec::new()).map_err(|error| error.to_string())?;
            client.request_text(request).await.map(drop).map_err(|error| error.to_string())
        })
        .await
}

/// A client with all rights.
pub async fn client(place: &Place) -> Result<kube::Client, Error> {
    let path = kubeconfig::path(&place.layout.pki(), "admin");
    crate::environment::client(&path).await.map_err(|error| Error::Client { path, reason: error.to_string() })
}

fn start_controllers(site: &Site) -> Result<(), Error> {
    let manager = ["kube-controller-manager", "--kubeconfig", "pki/controllers.kubeconfig", "--leader-elect=false"]
        .into_iter()
        .chain(["--bind-address", "127.0.0.1", "--root-ca-file", "pki/ca.crt"])
        // Half of the default, with leases renewed twice as often: tests of lost nodes need not wait for a minute.
        .chain(["--node-monitor-grace-period", "25s"])
        .chain(["--service-account-private-key-file", "pki/service-accounts.key", "--use-service-account-credentials"])
        .chain(["--cluster-signing-cert-file", "pki/ca.crt", "--cluster-signing-key-file", "pki/ca.key"]);
    site.place.start(site.kubernetes(CONTROLLERS_NAME, manager))?;
    let scheduler = ["kube-scheduler", "--kubeconfig", "pki/scheduler.kubeconfig", "--leader-elect=false"]
        .into_iter()
        .chain(["--bind-address", "127.0.0.1"]);
    site.place.start(site.kubernetes(SCHEDULER_NAME, scheduler))
}

/// One proxy for both nodes, since they share the network namespace.
fn start_proxy(site: &Site) -> Result<(), Error> {
    let kubeconfig = kubeconfig::path(&site.place.layout.pki(), "proxy");
    let configuration = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
bindAddress: 127.0.0.1
clientConnection: {{kubeconfig: {kubeconfig}}}
clusterCIDR: {POD_RANGE}
hostnameOverride: node-0
# The table of connections belongs to the machine; it is not ours to resize.
conntrack: {{maxPerCore: 0, min: 0}}
",
        kubeconfig = kubeconfig.display()
    );
    site.place.write(&site.place.layout.state().join("proxy.yaml"), &configuration)?;
    site.place.start(site.kubernetes("proxy", ["kube-proxy", "--config", "proxy.yaml"]))
}

fn start_name_server(site: &Site) -> Result<(), Error> {
    let kubeconfig = kubeconfig::path(&site.place.layout.pki(), "admin");
    let configuration = format!(
        ".:{DNS_PORT} {{
    bind {MAIN_ADDRESS}
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig} weir-e2e
    }}
}}
",
        kubeconfig = kubeconfig.display()
    );
    site.place.write(&site.place.layout.state().join("Corefile"), &configuration)?;
    site.place.start(site.kubernetes("coredns", ["coredns", "-conf", "Corefile"]))
}
