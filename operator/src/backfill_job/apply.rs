//! Carries out what was decided, in order, without any choice of its own.
//!
//! Each write can be made twice: puts are once-only and read back, names are derived, deletions name the very object. So
//! whoever dies between two of them, and decides anew, arrives at the same state.

use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};
use weir_crds::{
    KafkaCluster,
    contract::{manifest::to_bytes, result::error_chain, run::KafkaConnection},
    window::Interval,
};
use weir_kafka::{Admin, AdminError, KafkaConfig};
use weir_ledger::{Cause, Ledger, LedgerError, claims::ClaimError};

use super::{
    authority,
    claims::{self, Scope},
    decision::Action,
    job_template::{LABEL_ATTEMPT, LABEL_GENERATION, LABEL_UNIT},
    observed::Observed,
    wait::{Wait, Waiting},
};
use crate::{
    context::{Context, FIELD_MANAGER},
    credentials::CredentialsError,
    stores::StoreError,
};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("the artifact store cannot be used")]
    Store(#[from] StoreError),
    #[error("{key} cannot be put")]
    Put {
        key: String,
        #[source]
        source: LedgerError,
    },
    #[error("Job {name} cannot be created")]
    Create {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("there is a Job {name} that is not this run's: delete it")]
    NameTaken { name: String },
    #[error("Job {name} cannot be deleted")]
    Delete {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("what the target's hours are claimed for cannot be changed")]
    Claims(#[from] ClaimError),
    #[error("the class that the decision was made with is not there")]
    NoClass,
}

impl ApplyError {
    /// What to tell of it, unless it passes by itself.
    pub fn waiting(&self) -> Option<Waiting> {
        let wait = match self {
            Self::Store(_) => Wait::StoreDenied,
            Self::Put { source, .. } | Self::Claims(ClaimError::Store(source)) => match source.cause() {
                Some(Cause::Denied | Cause::Refused) => Wait::StoreDenied,
                Some(Cause::Unavailable) => Wait::StoreUnavailable,
                None => Wait::ArtifactCorrupt,
            },
            Self::Claims(ClaimError::Decode { .. } | ClaimError::Format { .. }) => Wait::ArtifactCorrupt,
            Self::NameTaken { .. } => Wait::WorkerCannotStart,
            Self::Claims(ClaimError::Conflict(_) | ClaimError::Busy { .. }) | Self::Create { .. } | Self::Delete { .. } | Self::NoClass => {
                return None;
            }
        };
        Some(Waiting::new(wait, error_chain(self)))
    }
}

/// What could not be done, and is waited for.
pub async fn apply(ctx: &Context, seen: &Observed, actions: &[Action]) -> Result<Vec<Waiting>, ApplyError> {
    let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), seen.namespace());
    let mut waits = Vec::new();
    for action in actions {
        match action {
            Action::PutRun { key, bytes } => put(ctx, seen, key, bytes.clone()).await?,
            Action::RecordFailure { key, record } => put(ctx, seen, key, to_bytes(record).into()).await?,
            Action::PutOutcome { key, record } => put(ctx, seen, key, to_bytes(record).into()).await?,
            Action::EnsureProgressTopic { cluster, topic } => waits.extend(ensure_progress_topic(ctx, seen, cluster, topic).await),
            Action::TakeClaims { scope } => waits.extend(take_claims(ctx, seen, scope).await?),
            Action::ReleaseClaims { scope, kept } => release_claims(ctx, seen, scope, kept).await?,
            Action::CreateJob(job) => waits.extend(create(&jobs, job).await?),
            Action::DeleteJob { name, uid, resource_version } => delete(&jobs, name, uid, resource_version).await?,
        }
    }
    Ok(waits)
}

/// The artifact store of the job's class, and the prefix below which everything lies there.
async fn artifact_store<'a>(ctx: &Context, seen: &'a Observed) -> Result<(Ledger, &'a str), ApplyError> {
    let class = authority::class(seen).map_err(|_| ApplyError::NoClass)?.class;
    Ok((ctx.stores.of(class).await?, &class.spec.artifact_store.prefix))
}

/// What was there first stays; the next look reads it.
async fn put(ctx: &Context, seen: &Observed, key: &str, bytes: bytes::Bytes) -> Result<(), ApplyError> {
    let (store, _) = artifact_store(ctx, seen).await?;
    store.put_once(key, bytes).await.map(drop).map_err(|source| ApplyError::Put { key: key.into(), source })
}

async fn take_claims(ctx: &Context, seen: &Observed, scope: &Scope) -> Result<Option<Waiting>, ApplyError> {
    let ((store, prefix), view) = (artifact_store(ctx, seen).await?, seen.ledger().ok_or(ApplyError::NoClass)?);
    Ok(claims::take(&store, prefix, view, scope).await?)
}

async fn release_claims(ctx: &Context, seen: &Observed, scope: &Scope, kept: &[Interval]) -> Result<(), ApplyError> {
    let ((store, prefix), view) = (artifact_store(ctx, seen).await?, seen.ledger().ok_or(ApplyError::NoClass)?);
    Ok(claims::release(&store, prefix, view, scope, kept).await?)
}

async fn create(jobs: &Api<Job>, job: &Job) -> Result<Option<Waiting>, ApplyError> {
    let name = job.name_any();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    let failed = |source| ApplyError::Create { name: name.clone(), source };
    match jobs.create(&params, job).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => match jobs.get_opt(&name).await.map_err(failed)? {
            Some(found) if !is_same(&found, job) => Err(ApplyError::NameTaken { name }),
            // Ours, from a turn whose answer was lost; or gone again, which the next look sees.
            Some(_) | None => Ok(None),
        },
        // A quota, or another policy of the namespace: whoever looks after it can tell.
        Err(kube::Error::Api(status)) if is_refusal(status.code) => {
            Ok(Some(Waiting::new(Wait::WorkerCannotStart, format!("{name}: {}: {}", status.reason, status.message))))
        }
        Err(error) => Err(failed(error)),
    }
}

/// The apiserver, or an admission webhook, understood and said no. Neither a conflict nor an overload is a no.
const fn is_refusal(code: u16) -> bool {
    matches!(code, 400..=499) && !matches!(code, 408 | 409 | 429)
}

fn is_same(found: &Job, wanted: &Job) -> bool {
    let owner = |job: &Job| job.owner_references().first().map(|o| o.uid.clone());
    let labels = [LABEL_GENERATION, LABEL_UNIT, LABEL_ATTEMPT];
    owner(found) == owner(wanted) && labels.iter().all(|l| found.labels().get(*l) == wanted.labels().get(*l))
}

async fn delete(jobs: &Api<Job>, name: &str, uid: &str, resource_version: &str) -> Result<(), ApplyError> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: Some(resource_version.to_owned()) };
    match jobs.delete(name, &DeleteParams::background().preconditions(preconditions)).await {
        Ok(_) => Ok(()),
        // It is gone, or has changed since it was looked at: the next look decides anew.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(ApplyError::Delete { name: name.into(), source }),
    }
}

async fn ensure_progress_topic(ctx: &Context, seen: &Observed, cluster_name: &str, topic: &str) -> Option<Waiting> {
    let cluster = seen.clusters.get(cluster_name)?;
    match ensure(ctx, cluster, topic).await {
        Ok(cluster_id) => {
            ctx.note_progress_topic(cluster_id, topic.to_owned());
            None
        }
        Err(error) => Some(Waiting::new(error.wait(), format!("topic {topic} on KafkaCluster {cluster_name}: {}", error_chain(&error)))),
    }
}

/// Why a progress topic is not there, or not fit.
#[derive(Debug, thiserror::Error)]
enum TopicError {
    #[error("the operator's credentials are not there")]
    Credentials(#[from] CredentialsError),
    #[error("it cannot be seen to")]
    Admin(#[from] AdminError),
}

impl TopicError {
    /// What was refused needs somebody; what is away comes back.
    fn wait(&self) -> Wait {
        match self {
            Self::Admin(error) if error.is_denied() => Wait::ProgressTopicRefused,
            Self::Credentials(_)
            | Self::Admin(
                AdminError::Config(_)
                | AdminError::Client(_)
                | AdminError::ConfigRefused { .. }
                | AdminError::TurnedAway { .. }
                | AdminError::CreationRefused { .. }
                | AdminError::Unfit { .. },
            ) => Wait::ProgressTopicRefused,
            Self::Admin(
                AdminError::DescribeCluster(_)
                | AdminError::DescribeTopic { .. }
                | AdminError::DescribeConfig { .. }
                | AdminError::CreateTopic { .. }
                | AdminError::NotYetThere { .. }
                | AdminError::Interrupted,
            ) => Wait::ProgressTopicUnavailable,
        }
    }
}

async fn ensure(ctx: &Context, cluster: &KafkaCluster, topic: &str) -> Result<String, TopicError> {
    let folder = ctx.credentials.folder(cluster.spec.credentials_secret_ref.as_ref()).await?;
    let KafkaConnection { bootstrap_servers, security } = (&cluster.spec).into();
    let config = KafkaConfig { bootstrap_servers, security, credentials_dir: folder.as_ref().map(|f| f.path.clone()) };
    let admin = Admin::new(&config)?;
    admin.ensure_progress_topic(topic).await?;
    Ok(admin.cluster().await?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_told() {
        let put = |cause| {
            let (key, message) = ("run.json".to_owned(), "no".to_owned());
            let source = LedgerError::Request { operation: "PUT", bucket: "b".into(), key: key.clone(), cause, message };
            ApplyError::Put { key, source }.waiting().map(|told| told.wait)
        };
        assert_eq!(put(Cause::Denied), Some(Wait::StoreDenied));
        assert_eq!(put(Cause::Refused), Some(Wait::StoreDenied));
        assert_eq!(put(Cause::Unavailable), Some(Wait::StoreUnavailable));
        let told = ApplyError::NameTaken { name: "gap-1".into() }.waiting();
        assert!(told.as_ref().is_some_and(|told| told.wait.stalls() && told.message.contains("delete it")), "{told:?}");
        for (code, is_told) in [(400, true), (403, true), (422, true), (409, false), (429, false), (500, false)] {
            assert_eq!(is_refusal(code), is_told, "{code}");
        }
    }

    #[test]
    fn only_what_is_refused_needs_somebody() {
        let topic = || "t".to_owned();
        let unfit = AdminError::Unfit { topic: topic(), partitions: 2, cleanup_policy: "delete".into() };
        for (error, stalls) in [(unfit, true), (AdminError::NotYetThere { topic: topic() }, false), (AdminError::Interrupted, false)] {
            assert_eq!(TopicError::Admin(error).wait().stalls(), stalls);
        }
    }
}
