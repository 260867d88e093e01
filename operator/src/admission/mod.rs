//! Admission: whether a change of weir's own kinds, or of another operator's topic, may pass. Every replica answers, from
//! caches alone; it writes nothing, and asks nobody.
//!
//! `certificates` and what `own`, `topics` and `review` do is pure; `rotation` writes, on the leader; `server` and this file
//! listen.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONNECTION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{StreamExt as _, stream::select_all};
use jiff::Timestamp;
use kube::{Api, Client};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::Instant,
};

mod caches;
mod certificates;
mod exceptions;
pub mod metrics;
mod overlaps;
mod own;
mod review;
pub mod rotation;
mod server;
mod stamp;
#[cfg(test)]
mod tests;
mod topics;

use crate::{
    controllers::{self, spec_or_phase, watched, watched_for},
    metrics::Metrics,
    server::Readiness,
    topic_resource,
};
use caches::Caches;
use metrics::Outcome;
use review::{Answer, Judged, Review};
use server::{Serving, TlsListener};

/// Two objects of at most 1.5 MB each, as etcd takes them, and what is around them.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Apiservers and proxies hear of a pod that ends within seconds. For so long it goes on answering, and ends each connection
/// with its next answer.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("the webhooks' server has ended")]
    Serve(#[source] std::io::Error),
    #[error("the webhooks' watches have ended")]
    Watch,
}

/// What requests are answered with.
struct Webhooks {
    caches: Caches,
    metrics: Arc<Metrics>,
    is_draining: watch::Receiver<bool>,
}

/// Serves the webhooks until `stop`, and then until nobody asks any more.
pub async fn serve(
    address: SocketAddr,
    client: Client,
    namespace: &str,
    metrics: Arc<Metrics>,
    readiness: &Readiness,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let tcp = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let serving = Arc::<Serving>::default();
    let listener = TlsListener::new(tcp, Arc::clone(&serving)).map_err(Error::Tls)?;
    let (floors, floor_changes) = watched(Api::all(client.clone()));
    let (policies, policy_changes) = watched(Api::all(client.clone()));
    let (clusters, cluster_changes) = watched(Api::all(client.clone()));
    let (classes, class_changes) = watched(Api::all(client.clone()));
    let (jobs, job_changes) = watched_for(Api::all(client.clone()), spec_or_phase);
    let changes = [
        floor_changes.map(drop).boxed(),
        policy_changes.map(drop).boxed(),
        cluster_changes.map(drop).boxed(),
        class_changes.map(drop).boxed(),
        job_changes.map(drop).boxed(),
    ];
    let fill = select_all(changes).for_each(|()| async {});
    let (drain, is_draining) = watch::channel(false);
    let caches = Caches::new(floors, policies, clusters, classes, jobs);
    let webhooks = Arc::new(Webhooks { caches, metrics: Arc::clone(&metrics), is_draining });
    let (loaded, mut has_loaded) = watch::channel(false);
    let follow = rotation::follow(client, namespace, controllers::watch(), serving, metrics, || _ = loaded.send_replace(true));
    let ready = async {
        if webhooks.caches.filled().await && has_loaded.wait_for(|is| *is).await.is_ok() {
            readiness.webhooks_are_ready();
        }
    };
    let (end, ended) = oneshot::channel::<()>();
    let stopping = async {
        stop.await;
        drain.send_replace(true);
        tokio::time::sleep(DRAIN).await;
        // Whoever has ended before hears nothing.
        _ = end.send(());
    };
    let served = server::serve(listener, router(Arc::clone(&webhooks)), async {
        _ = ended.await;
    });
    tokio::select! {
        result = served => result.map_err(Error::Serve),
        _ = async { futures::join!(fill, follow, ready, stopping) } => Err(Error::Watch),
    }
}

fn router(webhooks: Arc<Webhooks>) -> Router {
    Router::new()
        .route("/validate", post(validate))
        .route("/stamp", post(stamp))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(webhooks)
}

async fn validate(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    answer(&webhooks, &body, |review| {
        let (kind, judged) = judge(&review, &webhooks.caches, Timestamp::now());
        let verdict = if kind == "Unknown" { Outcome::Unreadable } else { Outcome::of(&judged) };
        for refusal in &judged.refusals {
            tracing::info!(kind, name = review.request.name, namespace = review.request.namespace, refusal, "a change is refused");
        }
        (kind, verdict, Answer::of(review.request.uid, judged))
    })
}

/// Of whatever the configuration asks about; the kinds of its rules are the ones that say who asked.
async fn stamp(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    answer(&webhooks, &body, |review| {
        let kind = own::Kind::of(&review.request.kind.group, &review.request.kind.kind).map_or("Unknown", own::Kind::as_str);
        let changes = stamp::stamp(&review.request);
        (kind, Outcome::Stamped, Answer::changed(review.request.uid, &changes))
    })
}

/// `decide`: the kind, what is counted, and the answer.
fn answer(webhooks: &Webhooks, body: &[u8], decide: impl FnOnce(Review) -> (&'static str, Outcome, Answer)) -> Response {
    let begun = Instant::now();
    let (kind, verdict, mut response) = match serde_json::from_slice::<Review>(body) {
        Err(error) => ("Unknown", Outcome::Unreadable, (StatusCode::BAD_REQUEST, format!("no AdmissionReview: {error}\n")).into_response()),
        Ok(review) => {
            let (kind, verdict, answer) = decide(review);
            (kind, verdict, answered(&answer))
        }
    };
    webhooks.metrics.admission.judged(kind, verdict, begun.elapsed(), Timestamp::now());
    if *webhooks.is_draining.borrow() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn answered(answer: &Answer) -> Response {
    match serde_json::to_vec(answer) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}\n")).into_response(),
    }
}

/// The kind, and what was found of the change. Pure, but for the log.
fn judge(review: &Review, caches: &Caches, now: Timestamp) -> (&'static str, Judged) {
    let request = &review.request;
    let (group, kind) = (&request.kind.group, &request.kind.kind);
    if let Some(kind) = own::Kind::of(group, kind) {
        return (kind.as_str(), own::judge_own(kind, request, caches, now));
    }
    match topic_resource::kind(group, kind) {
        Some(kind) => (topics::name(kind), topics::judge_topic(kind, request, caches)),
        None => ("Unknown", Judged::refuse(format!("weir does not judge {kind} of {group}; take it out of the webhook's rules"))),
    }
}
