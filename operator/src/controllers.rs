//! Puts the parts together: the server, leadership, and while this replica leads the controllers.

use std::{
    fmt::Debug,
    future::Future,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt as _,
        controller::{self, Action},
        events::{Recorder, Reporter},
        predicates,
        reflector::{self, ObjectRef, Store},
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;
use weir_crds::{BackfillClass, BackfillJob, KafkaCluster, RetentionException, TopicFloor, TopicRetentionPolicy};

use crate::{
    admission::{self, rotation::Rotation},
    backfill_class,
    backfill_job::{
        self,
        job_template::{ANNOTATION_JOB, LABEL_JOB},
    },
    client::client,
    context::{Context, FIELD_MANAGER},
    credentials::Credentials,
    kafka_cluster, leader,
    metrics::Metrics,
    reconcile::{measured, measured_as},
    server::{self, Readiness},
    settings::Settings,
    stores::Stores,
    topic_retention::{self, Retention},
};

/// Changes of a pod, its Job and its node come in bursts: one look is enough for them.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Reconciliations of a kind at a time: each waits for the network most of its time.
const CONCURRENCY: u16 = 16;
/// An answer of the apiserver to anything but a watch.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The apiserver ends a watch after this, and one that says nothing for a little longer is made anew: a connection that
/// died in silence hides an edit for no longer.
const WATCH_SECONDS: u32 = 45;

/// For what is written as the process ends; with it the pod still ends within its grace period of 30 s.
const END_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no configuration for the Kubernetes API")]
    Config(#[source] Box<kube::config::InferConfigError>),
    #[error("no client of the Kubernetes API can be made")]
    Client(#[source] kube::Error),
    #[error("signals cannot be listened to")]
    Signal(#[source] std::io::Error),
    #[error(transparent)]
    Server(#[from] server::ServerError),
    #[error(transparent)]
    Admission(#[from] admission::Error),
    #[error(transparent)]
    Leader(#[from] leader::LeaderError),
}

/// Runs until SIGTERM or SIGINT, or until something fails that a restart may cure.
pub async fn serve(settings: Settings) -> Result<(), Error> {
    let config = Config::infer().await.map_err(|e| Error::Config(Box::new(e)))?;
    let (metrics, readiness) = (Arc::new(Metrics::default()), Readiness::default());
    let watches = client(config.clone()).map_err(Error::Client)?;
    // A connection that hangs must not hold up a reconciliation; a watch is silent for minutes.
    let mut impatient = config.clone();
    (impatient.read_timeout, impatient.write_timeout) = (Some(REQUEST_TIMEOUT), Some(REQUEST_TIMEOUT));
    let requests = client(impatient).map_err(Error::Client)?;
    let signal = signals()?.shared();
    let webhooks =
        admission::serve(settings.webhook_listen, watches.clone(), &settings.namespace, Arc::clone(&metrics), &readiness, signal.clone());
    let leading = LeadingRetention::default();
    let ending = Arc::clone(&leading);
    let stop = async move {
        signal.await;
        let retention = ending.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(retention) = retention {
            // The controllers go on meanwhile: this replica still leads.
            _ = tokio::time::timeout(END_TIMEOUT, retention.end()).await;
        }
    };
    let term = || {
        let (watches, requests, settings) = (watches.clone(), requests.clone(), settings.clone());
        let (metrics, readiness, leading) = (Arc::clone(&metrics), readiness.clone(), Arc::clone(&leading));
        async move {
            metrics.leads(true);
            // Dropped with the term, however it ends.
            let _leading = Leading(Arc::clone(&metrics));
            run(watches, requests, &settings, metrics, &readiness, &leading).await;
        }
    };
    let server = server::serve(settings.listen, readiness.clone(), Arc::clone(&metrics));
    let lead = leader::lead(config, &settings.namespace, &settings.pod_name, &readiness, term, stop);
    // The lease is given back at once, and the webhooks go on until nobody asks them any more.
    let work = async { futures::try_join!(async { lead.await.map_err(Error::from) }, async { webhooks.await.map_err(Error::from) }) };
    tokio::select! {
        result = server => result.map_err(Into::into),
        result = work => result.map(drop),
    }
}

/// What the leader remembers of topics, while this replica leads.
type LeadingRetention = Arc<Mutex<Weak<Retention>>>;

struct Leading(Arc<Metrics>);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.leads(false);
    }
}

fn signals() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The controllers of one term. What they remember is made anew for each: another replica may have led in between.
async fn run(
    watches: Client,
    client: Client,
    settings: &Settings,
    metrics: Arc<Metrics>,
    readiness: &Readiness,
    leading: &LeadingRetention,
) {
    readiness.waits_for("the caches of BackfillClasses, KafkaClusters and BackfillJobs");
    let (classes, class_changes) = watched::<BackfillClass>(Api::all(watches.clone()));
    let (clusters, cluster_changes) = watched::<KafkaCluster>(Api::all(watches.clone()));
    let (jobs, job_changes) = watched::<BackfillJob>(Api::all(watches.clone()));
    let (floors, floor_changes) = watched::<TopicFloor>(Api::all(watches.clone()));
    let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(settings.pod_name.clone()) };
    let ctx = Arc::new(Context::new(
        client.clone(),
        settings.worker_image.clone(),
        Credentials::new(client.clone(), &settings.namespace, settings.credentials_root.clone()),
        Recorder::new(client, reporter),
        metrics,
        classes.clone(),
        clusters.clone(),
        jobs.clone(),
        floors.clone(),
    ));
    let config = || controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
    let classes_run = Controller::for_stream(class_changes, classes.clone())
        .with_config(config())
        .run(
            |class, ctx| measured(Arc::clone(&class), Arc::clone(&ctx.metrics), backfill_class::reconcile(class, ctx)),
            retry,
            Arc::clone(&ctx),
        )
        .for_each(|_| async {});
    let clusters_run = Controller::for_stream(cluster_changes, clusters.clone())
        .with_config(config())
        .run(
            |cluster, ctx| measured(Arc::clone(&cluster), Arc::clone(&ctx.metrics), kafka_cluster::reconcile(cluster, ctx)),
            retry,
            Arc::clone(&ctx),
        )
        .for_each(|_| async {});
    let jobs_run = async {
        // A job must not be told that its class is missing because the cache is still empty.
        let ready = futures::try_join!(classes.wait_until_ready(), clusters.wait_until_ready(), floors.wait_until_ready());
        if ready.is_err() {
            return;
        }
        Controller::for_stream(job_changes, jobs.clone())
            .with_config(config())
            .reconcile_on(owners::<Pod>(watches.clone()))
            .reconcile_on(owners::<Job>(watches.clone()))
            .reconcile_all_on(any_change::<BackfillClass>(watches.clone()))
            .reconcile_all_on(any_change::<KafkaCluster>(watches.clone()))
            .run(
                |job, ctx| measured(Arc::clone(&job), Arc::clone(&ctx.metrics), backfill_job::reconcile(job, ctx)),
                retry,
                Arc::clone(&ctx),
            )
            .for_each(|_| async {})
            .await;
    };
    let retention_run = retention(&watches, &ctx, &settings.pod_name, leading, floor_changes);
    let rotation = Rotation::new(ctx.client.clone(), &settings.namespace);
    let ready = async {
        let (a, b, c) = futures::join!(classes.wait_until_ready(), clusters.wait_until_ready(), jobs.wait_until_ready());
        if a.is_ok() && b.is_ok() && c.is_ok() {
            readiness.ready("leads");
        }
    };
    futures::join!(ready, classes_run, clusters_run, jobs_run, retention_run, rotation.run());
}

/// A turn per KafkaCluster, again and again. It needs no debounce: nothing but a cluster's own change and the clock wakes it.
async fn retention(
    watches: &Client,
    ctx: &Context,
    replica: &str,
    leading: &LeadingRetention,
    floor_changes: impl Stream<Item = Result<TopicFloor, watcher::Error>>,
) {
    let (policies, policy_changes) = watched::<TopicRetentionPolicy>(Api::all(watches.clone()));
    let (exceptions, exception_changes) = watched::<RetentionException>(Api::all(watches.clone()));
    let (clusters, cluster_changes) = watched::<KafkaCluster>(Api::all(watches.clone()));
    let retention = Arc::new(Retention {
        client: ctx.client.clone(),
        credentials: ctx.credentials.clone(),
        stores: Stores::new(ctx.credentials.clone()),
        replica: replica.to_owned(),
        recorder: ctx.recorder.clone(),
        metrics: Arc::clone(&ctx.metrics),
        clusters: ctx.clusters.clone(),
        policies: policies.clone(),
        floors: ctx.floors.clone(),
        jobs: ctx.jobs.clone(),
        exceptions: exceptions.clone(),
        memories: Default::default(),
    });
    *leading.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&retention);
    let turns = async {
        // What a cache lacks must not be taken for gone: a job's hold, above all, before anything is lowered.
        let Retention { clusters: known, floors, jobs, .. } = &*retention;
        let ready = futures::try_join!(
            policies.wait_until_ready(),
            known.wait_until_ready(),
            floors.wait_until_ready(),
            jobs.wait_until_ready(),
            exceptions.wait_until_ready()
        );
        if ready.is_err() {
            return;
        }
        Controller::for_stream(cluster_changes, clusters)
            .with_config(controller::Config::default().concurrency(CONCURRENCY))
            .run(
                |cluster, ctx: Arc<Retention>| {
                    let turn = topic_retention::reconcile(Arc::clone(&cluster), Arc::clone(&ctx));
                    measured_as("TopicRetention".to_owned(), cluster, Arc::clone(&ctx.metrics), turn)
                },
                |_, _, _| Action::requeue(backfill_job::ERROR_INTERVAL),
                Arc::clone(&retention),
            )
            .for_each(|_| async {})
            .await;
    };
    let orphans = async {
        // Filled by the controller of KafkaClusters, which waits for nobody.
        if retention.clusters.wait_until_ready().await.is_err() {
            return;
        }
        Controller::for_stream(policy_changes, retention.policies.clone())
            .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY))
            .run(
                |policy, ctx: Arc<Retention>| {
                    measured(Arc::clone(&policy), Arc::clone(&ctx.metrics), topic_retention::reconcile_policy(policy, ctx))
                },
                |_, _, _| Action::requeue(backfill_job::ERROR_INTERVAL),
                Arc::clone(&retention),
            )
            .for_each(|_| async {})
            .await;
    };
    let (floors, exceptions) = (floor_changes.for_each(|_| async {}), exception_changes.for_each(|_| async {}));
    futures::join!(turns, orphans, floors, exceptions, retention.forget_gone());
}

/// After an error; what can be foreseen is not one, and says itself when to come back.
fn retry<K, E>(_: Arc<K>, _: &E, _: Arc<Context>) -> Action {
    Action::requeue(backfill_job::ERROR_INTERVAL)
}

/// How everything is watched.
pub fn watch() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// A cache of all objects of a kind, and the changes of their specs: our own writes of status wake nobody.
pub fn watched<K>(api: Api<K>) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    watched_for(api, predicates::generation)
}

/// A job's spec, and what it is shown to be: a leader that has slept may show something else on waking, of a job that nothing
/// else would wake.
pub fn spec_or_phase(job: &BackfillJob) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let shown = job.status.as_ref().map(|status| (status.phase, &status.message));
    (job.metadata.generation, shown).hash(&mut hasher);
    Some(hasher.finish())
}

/// A cache of all objects of a kind, and those changes of them that `property` tells.
pub fn watched_for<K>(
    api: Api<K>,
    property: fn(&K) -> Option<u64>,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let changes = watcher(api, watch()).default_backoff().reflect(writer).applied_objects().predicate_filter(property, Default::default());
    (reader, changes)
}

/// The BackfillJobs whose workers change in whatever way: a pod that ends wakes its job at once.
fn owners<K>(client: Client) -> impl Stream<Item = ObjectRef<BackfillJob>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client);
    watcher(api, watch().labels(LABEL_JOB)).default_backoff().touched_objects().filter_map(|changed| async move {
        let changed = changed.inspect_err(|error| tracing::debug!(%error, "a watch of workers was interrupted")).ok()?;
        let name = changed.annotations().get(ANNOTATION_JOB)?;
        Some(ObjectRef::new(name).within(&changed.namespace()?))
    })
}

/// Any change at all, status included: a class that becomes ready lets its jobs begin.
fn any_change<K>(client: Client) -> impl Stream<Item = ()> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client);
    watcher(api, watch()).default_backoff().touched_objects().filter_map(|changed| async move { changed.ok().map(drop) })
}
