//! The controller of KafkaClusters: whether each can be reached, and as which cluster.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use weir_crds::{
    KafkaCluster,
    conditions::{self, ConditionType, Wanted},
    contract::{result::error_chain, run::KafkaConnection},
    kafka_cluster::KafkaClusterStatus,
    validate,
};
use weir_kafka::{Admin, AdminError, ClusterDescription, KafkaConfig};

use crate::{
    context::{Context, FIELD_MANAGER},
    credentials::CredentialsError,
};

/// A cluster that is ready is looked at again after this.
const READY_INTERVAL: Duration = Duration::from_secs(60);
/// One that is not: whoever mends it sees it within this.
const UNREADY_INTERVAL: Duration = Duration::from_secs(10);
/// Making a connection, authenticating and one answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(25);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("status cannot be written")]
    Status(#[source] kube::Error),
}

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("the operator's credentials are not there")]
    Credentials(#[from] CredentialsError),
    #[error("the cluster does not answer as it should")]
    Admin(#[from] AdminError),
    #[error("the cluster did not answer within {} s", PROBE_TIMEOUT.as_secs())]
    Timeout,
}

pub async fn reconcile(cluster: Arc<KafkaCluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    let errors = validate::kafka_cluster(&cluster.spec);
    let found = if errors.is_empty() {
        probe(&cluster, &ctx).await.map_err(|e| (reason(&e), error_chain(&e)))
    } else {
        Err(("InvalidSpec", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(". ")))
    };
    let again = if found.is_ok() { READY_INTERVAL } else { UNREADY_INTERVAL };
    let status = status(&cluster, found, Timestamp::now());
    if cluster.status.as_ref().map(own) != Some(status.clone()) {
        write(&cluster, &ctx, &status).await?;
    }
    Ok(Action::requeue(again))
}

fn reason(error: &ProbeError) -> &'static str {
    match error {
        ProbeError::Credentials(_) => "CredentialsMissing",
        ProbeError::Admin(AdminError::Config(_)) => "CredentialsMissing",
        ProbeError::Admin(error) if error.is_denied() => "Denied",
        ProbeError::Admin(_) | ProbeError::Timeout => "Unreachable",
    }
}

async fn probe(cluster: &KafkaCluster, ctx: &Context) -> Result<ClusterDescription, ProbeError> {
    let folder = ctx.credentials.folder(cluster.spec.credentials_secret_ref.as_ref()).await?;
    let KafkaConnection { bootstrap_servers, security } = (&cluster.spec).into();
    let admin = Admin::new(&KafkaConfig { bootstrap_servers, security, credentials_dir: folder.as_ref().map(|f| f.path.clone()) })?;
    tokio::time::timeout(PROBE_TIMEOUT, admin.cluster()).await.map_err(|_| ProbeError::Timeout)?.map_err(Into::into)
}

/// What this controller writes of a status; the audit log and what is remembered of topics are said by the cluster's turns.
fn own(status: &KafkaClusterStatus) -> KafkaClusterStatus {
    let conditions = status.conditions.iter().filter(|c| c.type_ == ConditionType::Ready.as_str()).cloned().collect();
    KafkaClusterStatus { audit: None, conditions, ..status.clone() }
}

/// Pure. What was last known of a cluster stays while it cannot be reached.
fn status(cluster: &KafkaCluster, found: Result<ClusterDescription, (&'static str, String)>, now: Timestamp) -> KafkaClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let (ready, reason, message) = match &found {
        Ok(description) => (true, "Reachable", format!("cluster {}", description.id)),
        Err((reason, message)) => (false, *reason, message.clone()),
    };
    let generation = cluster.metadata.generation;
    let wanted = vec![Wanted { kind: ConditionType::Ready, status: Some(ready), reason: reason.into(), message }];
    let known = found.ok().map(|d| (d.id, i32::try_from(d.brokers.len()).unwrap_or(i32::MAX)));
    KafkaClusterStatus {
        observed_generation: generation,
        cluster_id: known.as_ref().map(|(id, _)| id.clone()).or(old.cluster_id),
        brokers: known.map(|(_, brokers)| brokers).or(old.brokers),
        audit: None,
        conditions: conditions::merge(&old.conditions, wanted, generation, now),
    }
}

async fn write(cluster: &KafkaCluster, ctx: &Context, status: &KafkaClusterStatus) -> Result<(), Error> {
    let name = cluster.name_any();
    let patch = serde_json::json!({
        "apiVersion": KafkaCluster::api_version(&()),
        "kind": KafkaCluster::kind(&()),
        "metadata": {"name": name, "uid": cluster.uid()},
        "status": status,
    });
    let api: Api<KafkaCluster> = Api::all(ctx.client.clone());
    match api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(gone)) if gone.code == 404 || gone.code == 409 => Ok(()),
        Err(error) => Err(Error::Status(error)),
    }
}

#[cfg(test)]
mod tests {
    use weir_crds::kafka_cluster::KafkaClusterSpec;
    use weir_kafka::BrokerNode;

    use super::*;

    #[test]
    fn a_cluster_that_is_away_keeps_its_id_but_is_not_ready() {
        let mut cluster = KafkaCluster::new("c", KafkaClusterSpec::default());
        cluster.metadata.generation = Some(3);
        let broker = BrokerNode { id: 1, host: "h".into(), port: 1 };
        let (t1, t2) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        cluster.status = Some(status(&cluster, Ok(ClusterDescription { id: "x".into(), brokers: vec![broker] }), t1));
        let seen = cluster.status.clone().unwrap_or_default();
        assert_eq!((seen.cluster_id.as_deref(), seen.brokers, seen.conditions[0].status.as_str()), (Some("x"), Some(1), "True"));
        assert_eq!(crate::backfill_job::readiness(&seen.conditions, Some(3)), Ok(()));
        assert!(crate::backfill_job::readiness(&seen.conditions, Some(4)).is_err());
        let away = status(&cluster, Err(("Unreachable", "no answer".into())), t2);
        assert_eq!((away.cluster_id.as_deref(), away.conditions[0].reason.as_str()), (Some("x"), "Unreachable"));
        assert_eq!(away.conditions[0].last_transition_time.0, t2);
        cluster.status = Some(away.clone());
        assert_eq!(status(&cluster, Err(("Unreachable", "no answer".into())), t1), away);
    }
}
