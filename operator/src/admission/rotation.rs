//! Keeps the certificates in a Secret and the webhook configurations' trust in step. The leader alone writes; every replica
//! loads what it serves with from the Secret, whenever that changes.
//!
//! The order of writes is that of trust: what a configuration does not trust yet is not served. If the process dies between
//! two of them, the next turn, here or elsewhere, finds out from what there is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use weir_crds::contract::result::error_chain;

use super::{
    certificates::{Certificates, Due, Wanted},
    server::{CertificateError, Serving},
};
use crate::{context::FIELD_MANAGER, metrics::Metrics};

/// Of the Secret in the operator's namespace.
pub const SECRET: &str = "weir-webhook-certificates";
/// Where the certificates lie in it, as JSON.
const KEY: &str = "certificates.json";
/// On the Secret: `leaf` or `authority` is renewed at once. weir takes it away when it begins.
pub const ROTATE_ANNOTATION: &str = "weir.dev/rotate";
/// The configurations that `config/` brings, the name of each, and the Service that they name.
const CONFIGURATION_KINDS: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
pub const CONFIGURATION: &str = "weir-operator";
const SERVICE: &str = "weir-operator";
/// Between two turns: so long a configuration that somebody applied anew trusts nobody.
const TURN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} {name} cannot be read")]
    Read {
        kind: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("{kind} {name} cannot be written")]
    Write {
        kind: &'static str,
        name: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("a certificate cannot be made")]
    Make(#[source] rcgen::Error),
    #[error("certificates cannot be put into the Secret")]
    Encode(#[source] serde_json::Error),
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("{KEY} of the Secret is not there, or is not what weir wrote")]
    Content,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// What the leader does, again and again.
pub struct Rotation {
    client: Client,
    namespace: String,
    host: String,
    /// The operator's namespace, asked for once: it outlives this process.
    owner: OnceCell<OwnerReference>,
}

impl Rotation {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, host: format!("{SERVICE}.{namespace}.svc"), namespace: namespace.to_owned(), owner: OnceCell::new() }
    }

    /// Until it is dropped.
    pub async fn run(&self) {
        loop {
            if let Err(error) = self.turn(Timestamp::now()).await {
                tracing::warn!(error = error_chain(&error), "the webhooks' certificates cannot be looked after");
            }
            tokio::time::sleep(TURN).await;
        }
    }

    /// Looks, and takes at most one step.
    pub async fn turn(&self, now: Timestamp) -> Result<(), Error> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let read = |source| Error::Read { kind: "Secret", name: SECRET.to_owned(), source };
        let found = secrets.get_opt(SECRET).await.map_err(read)?;
        let Some((secret, mut certificates)) = found.as_ref().and_then(|secret| Some((secret, certificates(secret)?))) else {
            let first = Certificates::create(&self.host, now).map_err(Error::Make)?;
            // Trusted before it is served: who is ready has been loaded, and is believed.
            self.trust(&first.bundle()).await?;
            return self.write(&secrets, found.as_ref(), &first, false).await;
        };
        let is_trusted = self.trust(&certificates.bundle()).await?;
        let news = is_trusted && certificates.note_trusted(now);
        let wanted = secret.annotations().get(ROTATE_ANNOTATION).and_then(|wish| match wish.as_str() {
            "leaf" => Some(Wanted::Leaf),
            "authority" => Some(Wanted::Authority),
            _ => None,
        });
        let due = certificates.due(wanted, now);
        if due == Due::Nothing && !news {
            return Ok(());
        }
        tracing::info!(?due, ?wanted, "the webhooks' certificates take a step");
        let next = certificates.step(due, &self.host, now).map_err(Error::Make)?;
        let is_granted = matches!((wanted, due), (Some(Wanted::Leaf), Due::Leaf) | (Some(Wanted::Authority), Due::Authority));
        self.write(&secrets, Some(secret), &next, is_granted).await
    }

    /// Another leader's write in between is a conflict, and the next turn looks again. `is_granted`: what was wished for.
    async fn write(&self, secrets: &Api<Secret>, old: Option<&Secret>, certificates: &Certificates, is_granted: bool) -> Result<(), Error> {
        let write = |source| Error::Write { kind: "Secret", name: SECRET, source };
        let content = serde_json::to_vec(certificates).map_err(Error::Encode)?;
        let mut secret = old.cloned().unwrap_or_else(|| Secret {
            metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
            type_: Some("Opaque".into()),
            ..Secret::default()
        });
        secret.data = Some(BTreeMap::from([(KEY.to_owned(), ByteString(content))]));
        if is_granted {
            secret.annotations_mut().remove(ROTATE_ANNOTATION);
        }
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match old {
            Some(_) => secrets.replace(SECRET, &parameters, &secret).await.map(drop).map_err(write),
            None => secrets.create(&parameters, &secret).await.map(drop).map_err(write),
        }
    }

    /// Makes the configurations trust the bundle, and go when the operator's namespace goes. `false`: there is none, so
    /// nobody asks.
    async fn trust(&self, bundle: &str) -> Result<bool, Error> {
        let mut is_asked = false;
        for kind in CONFIGURATION_KINDS {
            is_asked |= self.trust_in(kind, bundle).await?;
        }
        Ok(is_asked)
    }

    async fn trust_in(&self, kind: &'static str, bundle: &str) -> Result<bool, Error> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind));
        let configurations: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let read = |source| Error::Read { kind, name: CONFIGURATION.to_owned(), source };
        let Some(found) = configurations.get_opt(CONFIGURATION).await.map_err(read)? else { return Ok(false) };
        let owner = self.owner().await?;
        let webhooks = found.data["webhooks"].as_array().map_or(&[][..], Vec::as_slice);
        let ca_bundle = json!(ByteString(bundle.as_bytes().to_vec()));
        if found.owner_references().contains(owner) && webhooks.iter().all(|w| w["clientConfig"]["caBundle"] == ca_bundle) {
            return Ok(true);
        }
        let webhooks: Vec<Value> = webhooks.iter().map(|w| json!({"name": w["name"], "clientConfig": {"caBundle": ca_bundle}})).collect();
        let patch = json!({"metadata": {"ownerReferences": [owner], "uid": found.uid()}, "webhooks": webhooks});
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let write = |source| Error::Write { kind, name: CONFIGURATION, source };
        configurations.patch(CONFIGURATION, &parameters, &Patch::Strategic(patch)).await.map_err(write)?;
        Ok(true)
    }

    async fn owner(&self) -> Result<&OwnerReference, Error> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let read = |source| Error::Read { kind: "Namespace", name: self.namespace.clone(), source };
        let ask = async || {
            let found = namespaces.get(&self.namespace).await.map_err(read)?;
            // What the apiserver answers with has a name and a uid.
            Ok(found.owner_ref(&()).unwrap_or_default())
        };
        self.owner.get_or_try_init(ask).await
    }
}

/// `None`: there is nothing in the Secret that weir wrote.
fn certificates(secret: &Secret) -> Option<Certificates> {
    serde_json::from_slice(&secret.data.as_ref()?.get(KEY)?.0).ok()
}

fn load(secret: &Secret, serving: &Serving, metrics: &Metrics) -> Result<(), LoadError> {
    let certificates = certificates(secret).ok_or(LoadError::Content)?;
    serving.load(certificates.leaf())?;
    metrics.admission.serves_until(certificates.leaf().expires);
    Ok(())
}

/// Loads what the Secret says whenever it changes; `loaded` is told of each time. What was loaded is served on while the
/// Secret is gone or cannot be read.
pub async fn follow(
    client: Client,
    namespace: &str,
    watch: watcher::Config,
    serving: Arc<Serving>,
    metrics: Arc<Metrics>,
    loaded: impl Fn(),
) {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let mut changes =
        std::pin::pin!(watcher(secrets, watch.fields(&format!("metadata.name={SECRET}"))).default_backoff().applied_objects());
    while let Some(change) = changes.next().await {
        match change {
            Ok(secret) => match load(&secret, &serving, &metrics) {
                Ok(()) => loaded(),
                Err(error) => tracing::warn!(error = error_chain(&error), "the webhooks' certificate cannot be loaded"),
            },
            Err(error) => tracing::debug!(%error, "the watch of the webhooks' Secret was interrupted"),
        }
    }
}
