//! The cluster's network: one network namespace, tied to the host by a veth pair and two routes.
//!
//! Nothing in it has a way out, since it has no default route; no rule of the host's firewall changes; ports need no
//! choosing, since every address is the cluster's own. Removing the namespace removes everything in it.

use std::path::Path;

use crate::command::{self, STEP_TIMEOUT, command, output_of, run};

/// The network namespace.
pub const NAMESPACE: &str = "weir";

/// Where ip(8) keeps it.
pub const NAMESPACE_FILE: &str = "/run/netns/weir";

/// Host's end of the pair; its presence says that routes to the cluster exist.
pub const HOST_LINK: &str = "weir-host";

const INNER_LINK: &str = "weir-up";
/// Where pods reach the host.
pub const HOST_ADDRESS: &str = "10.245.0.1/30";
const INNER_ADDRESS: &str = "10.245.0.2/30";
const INNER_GATEWAY: &str = "10.245.0.2";

/// Pods and nodes: node N has 10.244.N.0/24.
pub const POD_RANGE: &str = "10.244.0.0/16";

/// Services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The first address of [`SERVICE_RANGE`]: the apiserver as pods see it.
pub const APISERVER_SERVICE: &str = "10.96.0.1";

/// Where control plane, broker, S3 server and database listen: reachable from the host, both nodes and every pod.
pub const MAIN_ADDRESS: &str = "10.244.0.1";

/// How many nodes there are.
pub const NODES: u8 = 2;

/// The bridge on which a node's pods live.
pub fn bridge(node: u8) -> String {
    format!("weir{node}")
}

/// A node's own address. It may not be a loopback address, so it is that of its bridge.
pub fn node_address(node: u8) -> String {
    format!("10.244.{node}.1")
}

/// The link-layer address of a bridge: locally administered, unicast.
fn gateway_link_address(node: u8) -> String {
    format!("02:00:0a:f4:{node:02x}:01")
}

/// The range of a node's pods.
pub fn node_range(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

/// Wraps a command so that it runs in the cluster's network. Not `ip netns exec`, which would hide the cgroups under a
/// new /sys.
pub fn inside<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Vec<String> {
    let mut wrapped = vec!["nsenter".to_owned(), format!("--net={NAMESPACE_FILE}")];
    wrapped.extend(arguments.into_iter().map(Into::into));
    wrapped
}

/// Runs a command in the cluster's network to its end.
pub async fn run_inside(arguments: &[&str]) -> Result<String, command::Error> {
    output_of(command("nsenter", inside_arguments(arguments)), STEP_TIMEOUT).await
}

fn inside_arguments(arguments: &[&str]) -> Vec<String> {
    inside(arguments.iter().copied()).split_off(1)
}

/// Makes namespace, links, addresses and routes.
pub async fn create() -> Result<(), command::Error> {
    run("ip", ["netns", "add", NAMESPACE]).await?;
    ip(&["link", "add", HOST_LINK, "type", "veth", "peer", "name", INNER_LINK, "netns", NAMESPACE]).await?;
    ip(&["address", "add", HOST_ADDRESS, "dev", HOST_LINK]).await?;
    ip(&["link", "set", HOST_LINK, "up"]).await?;
    ip_inside(&["link", "set", "lo", "up"]).await?;
    ip_inside(&["address", "add", INNER_ADDRESS, "dev", INNER_LINK]).await?;
    ip_inside(&["link", "set", INNER_LINK, "up"]).await?;
    for node in 0..NODES {
        let (bridge, address) = (bridge(node), format!("{}/24", node_address(node)));
        // Without an address of its own a bridge takes on the lowest of its ports', and that changes as pods come and go: those
        // that are there would go on sending to the old one until their entry for the gateway expires.
        ip_inside(&["link", "add", &bridge, "address", &gateway_link_address(node), "type", "bridge"]).await?;
        ip_inside(&["address", "add", &address, "dev", &bridge]).await?;
        ip_inside(&["link", "set", &bridge, "up"]).await?;
    }
    // kube-proxy catches services before routing; this catches nothing but services without endpoints.
    ip_inside(&["route", "add", SERVICE_RANGE, "dev", &bridge(0)]).await?;
    run_inside(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]).await?;
    for range in [POD_RANGE, SERVICE_RANGE] {
        ip(&["route", "replace", range, "via", INNER_GATEWAY]).await?;
    }
    Ok(())
}

/// Removes all of it. What is not there is fine: a half-made network is removed too.
pub async fn remove() -> Result<(), command::Error> {
    if Path::new("/sys/class/net").join(HOST_LINK).exists() {
        // Takes the other end and the host's routes with it.
        ip(&["link", "delete", HOST_LINK]).await?;
    }
    if Path::new(NAMESPACE_FILE).exists() {
        run("ip", ["netns", "delete", NAMESPACE]).await?;
    }
    Ok(())
}

/// Drops every packet from and to a node's pods, as if its cable were pulled. Connections stay open at both ends and get
/// no answer. Doing it twice is fine.
pub async fn cut_pods(node: u8) -> Result<(), command::Error> {
    restore_pods(node).await?;
    for rule in cut_rules(node) {
        run_inside(&iptables("-I", &rule)).await?;
    }
    Ok(())
}

/// Lets packets pass again. Doing it twice is fine.
pub async fn restore_pods(node: u8) -> Result<(), command::Error> {
    for rule in cut_rules(node) {
        if run_inside(&iptables("-C", &rule)).await.is_ok() {
            run_inside(&iptables("-D", &rule)).await?;
        }
    }
    Ok(())
}

struct Rule {
    table: &'static str,
    chain: &'static str,
    direction: &'static str,
    bridge: String,
}

/// The first and the last place that a packet passes, so that kube-proxy's own rules do not matter.
fn cut_rules(node: u8) -> [Rule; 2] {
    [
        Rule { table: "raw", chain: "PREROUTING", direction: "-i", bridge: bridge(node) },
        Rule { table: "mangle", chain: "POSTROUTING", direction: "-o", bridge: bridge(node) },
    ]
}

fn iptables<'a>(action: &'a str, rule: &'a Rule) -> [&'a str; 10] {
    ["iptables", "-w", "-t", rule.table, action, rule.chain, rule.direction, &rule.bridge, "-j", "DROP"]
}

async fn ip(arguments: &[&str]) -> Result<String, command::Error> {
    run("ip", arguments).await
}

async fn ip_inside(arguments: &[&str]) -> Result<String, command::Error> {
    let mut all = vec!["-n", NAMESPACE];
    all.extend_from_slice(arguments);
    run("ip", all).await
}
