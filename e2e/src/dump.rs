//! Writes what a cluster looks like, when a test failed: objects, events, pods, their logs, and the operator's.

use std::io::Write as _;

use crate::access::Cluster;

/// Lines of each log; enough for a stack and what led to it.
const LOG_LINES: &str = "--tail=60";

/// Where the operator runs.
const OPERATOR_NAMESPACE: &str = "weir-system";

/// Writes to standard error, which cargo shows beside the test's own words. What cannot be had is left out: the failure
/// that is being explained may be the reason.
pub async fn write(cluster: &Cluster, namespace: &str) {
    let kinds = cluster.kubectl(&["api-resources", "--api-group", "weir.dev", "--output", "name"]).await;
    let kinds = kinds.unwrap_or_default().split_ascii_whitespace().map(|kind| format!(",{kind}")).collect::<String>();
    let all = format!("nodes,namespaces,pods,jobs{kinds}");
    show(cluster, &["get", &all, "--all-namespaces", "--output", "wide"]).await;
    if !kinds.is_empty() {
        show(cluster, &["get", kinds.trim_start_matches(','), "--namespace", namespace, "--output", "yaml"]).await;
    }
    show(cluster, &["get", "events", "--namespace", namespace, "--sort-by", ".lastTimestamp"]).await;
    show(cluster, &["describe", "pods", "--namespace", namespace]).await;
    for namespace in [namespace, OPERATOR_NAMESPACE] {
        let listed = cluster.kubectl(&["get", "pods", "--namespace", namespace, "--output", "name"]).await;
        for pod in listed.unwrap_or_default().lines() {
            show(cluster, &["logs", "--namespace", namespace, pod, "--all-containers", "--prefix", LOG_LINES]).await;
        }
    }
}

async fn show(cluster: &Cluster, arguments: &[&str]) {
    let said = match cluster.kubectl(arguments).await {
        Ok(said) => said,
        Err(error) => error.to_string(),
    };
    // Nobody is left to tell when standard error is closed.
    drop(writeln!(std::io::stderr(), "--- kubectl {}\n{said}", arguments.join(" ")));
}
