//! Writes to the Kubernetes API.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use weir_crds::{
    KafkaCluster, RetentionException, TopicFloor, TopicRetentionPolicy, contract::digest::Sha256Digest, kafka_cluster::AuditAnchor,
    retention_exception::RetentionExceptionStatus, topic_floor::TopicFloorStatus, topic_retention_policy::TopicRetentionPolicyStatus,
};

use crate::context::FIELD_MANAGER;

/// Who writes what the turns say of a `KafkaCluster`, beside its own controller.
const TURNS_MANAGER: &str = "weir-operator-topics";
/// Of the readable part of a name, of cluster and topic each: the whole is a DNS subdomain, which may have 253.
const NAME_PART_MAX: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("TopicFloor {name} cannot be written")]
    Floor {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("TopicFloor {name} cannot be deleted")]
    Delete {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the status of KafkaCluster {name} cannot be written")]
    Cluster {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the status of RetentionException {name} cannot be written")]
    Exception {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("the status of TopicRetentionPolicy {name} cannot be written")]
    Policy {
        name: String,
        #[source]
        source: kube::Error,
    },
}

/// The name of a topic's `TopicFloor`: `<cluster>.<topic>-<hash>`, the same whoever derives it.
pub fn floor_name(cluster: &str, topic: &str) -> String {
    let part = |text: &str| {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let text: String = text.chars().take(NAME_PART_MAX).map(plain).collect();
        text.trim_matches('-').to_owned()
    };
    let hash = Sha256Digest::of(format!("{cluster}/{topic}").as_bytes()).short();
    let readable = [part(cluster), part(topic)].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(".");
    format!("{readable}-{}", &hash[..8])
}

/// Creates the `TopicFloor`, unless it is there, and writes its status. It goes with its cluster. `false`: it was deleted
/// meanwhile.
pub async fn floor(
    client: &Client,
    cluster: &KafkaCluster,
    topic: &str,
    exists: bool,
    status: &TopicFloorStatus,
) -> Result<bool, WriteError> {
    let (api, name): (Api<TopicFloor>, _) = (Api::all(client.clone()), floor_name(&cluster.name_any(), topic));
    let failed = |source| WriteError::Floor { name: name.clone(), source };
    if !exists {
        let object = json!({
            "apiVersion": TopicFloor::api_version(&()),
            "kind": TopicFloor::kind(&()),
            "metadata": {"name": name, "ownerReferences": [cluster.owner_ref(&())]},
            "spec": {"clusterRef": {"name": cluster.name_any()}, "topic": topic},
        });
        api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await.map_err(failed)?;
    }
    patch_status(&api, &name, None, status).await.map_err(failed)
}

pub async fn delete_floor(client: &Client, floor: &TopicFloor) -> Result<(), WriteError> {
    let (api, name): (Api<TopicFloor>, _) = (Api::all(client.clone()), floor.name_any());
    // As it was seen: whatever it says since may have to stay.
    let preconditions = Preconditions { uid: floor.uid(), resource_version: floor.resource_version() };
    match api.delete(&name, &DeleteParams::default().preconditions(preconditions)).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(source) => Err(WriteError::Delete { name, source }),
    }
}

pub async fn policy(client: &Client, policy: &TopicRetentionPolicy, status: &TopicRetentionPolicyStatus) -> Result<(), WriteError> {
    let (name, namespace) = (policy.name_any(), policy.namespace().unwrap_or_default());
    let api: Api<TopicRetentionPolicy> = Api::namespaced(client.clone(), &namespace);
    // One of the same name that was created since is another policy.
    let written = patch_status(&api, &name, policy.uid(), status).await;
    written.map(drop).map_err(|source| WriteError::Policy { name: format!("{namespace}/{name}"), source })
}

/// What the turns say of a cluster; the rest of its status is the business of the controller of KafkaClusters.
pub async fn cluster(
    client: &Client,
    cluster: &KafkaCluster,
    audit: Option<&AuditAnchor>,
    conditions: &[Condition],
) -> Result<(), WriteError> {
    let (name, api): (_, Api<KafkaCluster>) = (cluster.name_any(), Api::all(client.clone()));
    let mut status = json!({"conditions": conditions});
    if let Some(audit) = audit {
        status["audit"] = json!(audit);
    }
    let written = patch_status_as(TURNS_MANAGER, &api, &name, cluster.uid(), &status).await;
    written.map(drop).map_err(|source| WriteError::Cluster { name, source })
}

pub async fn exception(client: &Client, exception: &RetentionException, status: &RetentionExceptionStatus) -> Result<(), WriteError> {
    let (name, namespace) = (exception.name_any(), exception.namespace().unwrap_or_default());
    let api: Api<RetentionException> = Api::namespaced(client.clone(), &namespace);
    let written = patch_status(&api, &name, exception.uid(), status).await;
    written.map(drop).map_err(|source| WriteError::Exception { name: format!("{namespace}/{name}"), source })
}

/// `false`: there is no such object any more.
async fn patch_status<K>(api: &Api<K>, name: &str, uid: Option<String>, status: &impl Serialize) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    patch_status_as(FIELD_MANAGER, api, name, uid, status).await
}

async fn patch_status_as<K>(
    manager: &str,
    api: &Api<K>,
    name: &str,
    uid: Option<String>,
    status: &impl Serialize,
) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    if let Some(uid) = uid {
        patch["metadata"]["uid"] = uid.into();
    }
    match api.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(&patch)).await {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}
