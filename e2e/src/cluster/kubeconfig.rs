//! Writes the files by which the cluster's own parts, and its users, reach the apiserver.

use std::path::{Path, PathBuf};

use super::network::MAIN_ADDRESS;

/// The apiserver's port.
pub const APISERVER_PORT: u16 = 16443;

/// The apiserver as host, nodes and pods reach it.
pub fn server() -> String {
    format!("https://{MAIN_ADDRESS}:{APISERVER_PORT}")
}

/// Writes a kubeconfig for the user whose certificate is `<pki>/<user>.crt`.
pub fn write(pki: &Path, user: &str) -> std::io::Result<PathBuf> {
    let path = path(pki, user);
    let (server, pki) = (server(), pki.display());
    std::fs::write(
        &path,
        format!(
            "apiVersion: v1
kind: Config
clusters: [{{name: weir-e2e, cluster: {{server: '{server}', certificate-authority: {pki}/ca.crt}}}}]
users: [{{name: {user}, user: {{client-certificate: {pki}/{user}.crt, client-key: {pki}/{user}.key}}}}]
contexts: [{{name: weir-e2e, context: {{cluster: weir-e2e, user: {user}}}}}]
current-context: weir-e2e
"
        ),
    )?;
    Ok(path)
}

/// Where the kubeconfig of a user lies.
pub fn path(pki: &Path, user: &str) -> PathBuf {
    pki.join(format!("{user}.kubeconfig"))
}
