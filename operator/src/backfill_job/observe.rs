//! Looks at a BackfillJob and all around it. Reads only.
//!
//! Jobs and pods are listed from the API, never taken from a watch's cache: a Job that was created a moment ago must be
//! seen. They are read before the artifact store, so that a worker that has ended is found with all its manifests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Node, Pod, ServiceAccount},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use weir_crds::{
    ALLOW_BACKFILLS_ANNOTATION, BackfillJob, KafkaCluster, TopicFloor,
    contract::{names::progress_topic, result::error_chain},
};
use weir_ledger::Cause;

use super::{
    authority,
    job_template::{LABEL_ATTEMPT, LABEL_GENERATION, LABEL_JOB, LABEL_UNIT, job_label},
    ledger_view::{self, RunCache, Wanted},
    observed::{Account, Ledger, Observed, Worker},
    phase,
    workers::{self, Surroundings},
};
use crate::context::Context;

/// A store that has not answered by then counts as away for this look; what was read so far is kept for the next.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects whose events are asked for in one look: the first ones tell enough.
const EVENTS_MAX: usize = 5;
/// A page of a list: a run has as many Jobs as it has workers, and a few that have just ended.
const LIST_PAGE: u32 = 500;

#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("the workers' {kind} cannot be listed")]
    List {
        kind: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("{kind} {name} cannot be read")]
    Get {
        kind: &'static str,
        name: String,
        #[source]
        source: kube::Error,
    },
}

pub async fn observe(ctx: &Context, job: Arc<BackfillJob>, cache: &mut RunCache, now: Timestamp) -> Result<Observed, ObserveError> {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let selector = ListParams::default().labels(&format!("{LABEL_JOB}={}", job_label(&name))).limit(LIST_PAGE);
    let jobs = list::<Job>(ctx, &namespace, &selector, "Jobs").await?;
    let pods = list::<Pod>(ctx, &namespace, &selector, "pods").await?;
    let around = surroundings(ctx, &namespace, &jobs, &pods, now).await?;
    let uid = job.uid().unwrap_or_default();
    let found: Vec<Worker> = jobs.iter().filter_map(|j| workers::worker(j, &of(&pods, j), &around, &namespace, &name, &uid, now)).collect();
    let mut seen = Observed {
        classes: ctx.classes.state().into_iter().map(|c| (c.name_any(), c)).collect(),
        clusters: ctx.clusters.state().into_iter().map(|c| (c.name_any(), c)).collect(),
        floors: floors(ctx, &job),
        account: account(ctx, &namespace, &job.spec.service_account_name).await?,
        workers: found,
        pods_left: pods.iter().filter(|p| workers::is_left(p)).count(),
        pod_attempts: BTreeMap::new(),
        ledger: Ledger::Unknown,
        progress_topics: BTreeSet::new(),
        worker_image: ctx.worker_image.clone(),
        job,
    };
    seen.progress_topics = progress_topics(ctx, &seen);
    seen.ledger = ledger(ctx, &seen, cache).await;
    seen.pod_attempts = pod_attempts(&pods, seen.generation());
    Ok(seen)
}

async fn list<K>(ctx: &Context, namespace: &str, selector: &ListParams, kind: &'static str) -> Result<Vec<K>, ObserveError>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    let mut found = Vec::new();
    let mut page = selector.clone();
    loop {
        let list = api.list(&page).await.map_err(|source| ObserveError::List { kind, source })?;
        let next = list.metadata.continue_.clone().filter(|c| !c.is_empty());
        found.extend(list.items);
        match next {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

fn of<'a>(pods: &'a [Pod], job: &Job) -> Vec<&'a Pod> {
    let uid = job.metadata.uid.as_deref();
    pods.iter().filter(|p| p.owner_references().iter().any(|o| Some(o.uid.as_str()) == uid)).collect()
}

/// Events and nodes, of what is slow or silent only.
async fn surroundings(ctx: &Context, namespace: &str, jobs: &[Job], pods: &[Pod], now: Timestamp) -> Result<Surroundings, ObserveError> {
    let mut slow = Vec::new();
    for job in jobs.iter().filter(|j| j.status.as_ref().is_none_or(|s| s.completion_time.is_none() && s.failed.unwrap_or(0) == 0)) {
        let created = job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let own = of(pods, job);
        if own.is_empty() && workers::is_slow_to_start(None, created, now) {
            slow.push(job.name_any());
        }
        slow.extend(own.into_iter().filter(|p| workers::is_slow_to_start(Some(p), created, now)).map(|p| p.name_any()));
    }
    slow.truncate(EVENTS_MAX);
    let api: Api<Event> = Api::namespaced(ctx.client.clone(), namespace);
    let events = try_join_all(slow.into_iter().map(|name| {
        let (api, params) = (api.clone(), ListParams::default().fields(&format!("involvedObject.name={name}")).limit(LIST_PAGE));
        async move {
            let events = api.list(&params).await.map_err(|source| ObserveError::List { kind: "events", source })?;
            Ok::<_, ObserveError>((name, events.items))
        }
    }))
    .await?;
    let mut silent = BTreeSet::new();
    for job in jobs {
        let created = job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let suspicious = of(pods, job).into_iter().filter(|p| workers::is_suspicious(p, created, now));
        silent.extend(suspicious.filter_map(|p| p.spec.as_ref()?.node_name.clone()));
    }
    let api: Api<Node> = Api::all(ctx.client.clone());
    let nodes = try_join_all(silent.into_iter().map(|name| {
        let api = api.clone();
        async move {
            let found = api.get_opt(&name).await.map_err(|source| ObserveError::Get { kind: "Node", name: name.clone(), source })?;
            Ok::<_, ObserveError>(found.map(|node| (name, node)))
        }
    }))
    .await?;
    Ok(Surroundings { events: events.into_iter().collect(), nodes: nodes.into_iter().flatten().collect() })
}

fn pod_attempts(pods: &[Pod], generation: u32) -> BTreeMap<String, u32> {
    let mut attempts: BTreeMap<String, u32> = BTreeMap::new();
    for labels in pods.iter().map(|p| p.labels()).filter(|l| l.get(LABEL_GENERATION) == Some(&generation.to_string())) {
        if let (Some(unit), Some(attempt)) = (labels.get(LABEL_UNIT), labels.get(LABEL_ATTEMPT).and_then(|a| a.parse::<u32>().ok())) {
            let highest = attempts.entry(unit.clone()).or_default();
            *highest = attempt.max(*highest);
        }
    }
    attempts
}

/// Of the topics that it publishes to, and of those that its run holds: a spec of another generation may name others.
fn floors(ctx: &Context, job: &BackfillJob) -> Vec<Arc<TopicFloor>> {
    let sinks = job.spec.sinks.iter().filter_map(|s| s.kafka.as_ref()).map(|k| (&k.cluster_ref.name, &k.topic));
    let holds = job.status.iter().filter_map(|s| s.run.as_ref()?.holds.as_ref());
    let topics: Vec<_> = sinks.chain(holds.flat_map(|h| &h.topics).map(|held| (&held.cluster, &held.topic))).collect();
    let is_of = |f: &TopicFloor| topics.contains(&(&f.spec.cluster_ref.name, &f.spec.topic));
    ctx.floors.state().into_iter().filter(|f| is_of(f)).collect()
}

async fn account(ctx: &Context, namespace: &str, name: &str) -> Result<Account, ObserveError> {
    if name.is_empty() {
        return Ok(Account::Missing);
    }
    let api: Api<ServiceAccount> = Api::namespaced(ctx.client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(|source| ObserveError::Get { kind: "ServiceAccount", name: name.into(), source })?;
    Ok(match found {
        None => Account::Missing,
        Some(account) if account.annotations().get(ALLOW_BACKFILLS_ANNOTATION).is_some_and(|v| v == "true") => Account::Allowed,
        Some(_) => Account::NotAllowed,
    })
}

fn progress_topics(ctx: &Context, seen: &Observed) -> BTreeSet<String> {
    let topic = progress_topic(seen.namespace());
    let has = |cluster: &KafkaCluster| {
        let id = cluster.status.as_ref().and_then(|s| s.cluster_id.as_deref());
        id.is_some_and(|id| ctx.has_progress_topic(id, &topic))
    };
    seen.clusters.iter().filter(|(_, cluster)| has(cluster)).map(|(name, _)| name.clone()).collect()
}

async fn ledger(ctx: &Context, seen: &Observed, cache: &mut RunCache) -> Ledger {
    let Ok(class) = authority::class(seen) else { return Ledger::Unknown };
    let store = match ctx.stores.of(class.class).await {
        Ok(store) => store,
        Err(error) => return Ledger::Unreadable { denied: true, message: error_chain(&error) },
    };
    let status = seen.job.status.as_ref();
    let wanted = Wanted {
        namespace: seen.namespace(),
        name: seen.name(),
        generation: seen.job.spec.run_generation,
        prefix: &class.class.spec.artifact_store.prefix,
        running: &seen.workers.iter().filter(|w| w.ours && w.is_open()).map(|w| w.unit.clone()).collect(),
        // The numbers of a run that is over are in status already, and do not change.
        settled: status.filter(|s| phase::is_over(s.phase)).and_then(|s| s.run.as_ref()).map(|r| r.generation),
    };
    match tokio::time::timeout(LEDGER_TIMEOUT, ledger_view::read(&store, &wanted, cache)).await {
        Ok(Ok(view)) => {
            ctx.metrics.looked_at_ledger(&seen.job);
            Ledger::Read(Box::new(view))
        }
        Ok(Err(error)) => match error.cause() {
            Some(Cause::Denied | Cause::Refused) => Ledger::Unreadable { denied: true, message: error_chain(&error) },
            Some(Cause::Unavailable) => Ledger::Unreadable { denied: false, message: error_chain(&error) },
            None => Ledger::Corrupt { message: error_chain(&error) },
        },
        Err(_) => Ledger::Unreadable {
            denied: false,
            message: format!("the artifact store did not answer within {} s", LEDGER_TIMEOUT.as_secs()),
        },
    }
}
