//! What the operator is told when it starts.

use std::{net::SocketAddr, path::PathBuf};

/// weir's operator.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "weir-operator", version, after_help = "`weir-operator audit verify --help` is about audit logs.")]
pub struct Settings {
    /// The namespace that the operator runs in: its lease and its Secrets are there.
    #[arg(long, env = "WEIR_NAMESPACE")]
    pub namespace: String,
    /// Who this replica is among the others: the pod's name.
    #[arg(long, env = "WEIR_POD_NAME")]
    pub pod_name: String,
    /// The image that workers of new plans run; a run keeps that of its plan.
    #[arg(long, env = "WEIR_WORKER_IMAGE")]
    pub worker_image: String,
    /// Where probes and metrics are served.
    #[arg(long, env = "WEIR_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where the apiserver asks the webhooks, over TLS.
    #[arg(long, env = "WEIR_WEBHOOK_LISTEN", default_value = "0.0.0.0:9443")]
    pub webhook_listen: SocketAddr,
    /// A folder in memory: credentials lie in it for the moment in which a client is made of them.
    #[arg(long, env = "WEIR_CREDENTIALS_ROOT", default_value = "/tmp")]
    pub credentials_root: PathBuf,
    /// What is logged, as `info,weir_operator=debug`.
    #[arg(long, env = "WEIR_LOG", default_value = "info")]
    pub log: String,
}
