//! Probes and metrics over HTTP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};

use crate::metrics::Metrics;

/// Whether this replica is ready, and what it waits for while it is not.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Standings>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Waiting(&'static str),
    Ready(&'static str),
}

/// It is ready when both are.
#[derive(Debug)]
struct Standings {
    controllers: Standing,
    webhooks: Standing,
}

impl Default for Readiness {
    fn default() -> Self {
        let controllers = Standing::Waiting("the Kubernetes API to answer about the lease");
        let webhooks = Standing::Waiting("the webhooks' caches and certificate");
        Self(Arc::new(Mutex::new(Standings { controllers, webhooks })))
    }
}

impl Readiness {
    pub fn waits_for(&self, what: &'static str) {
        self.set(Standing::Waiting(what));
    }

    /// `what` this replica does.
    pub fn ready(&self, what: &'static str) {
        self.set(Standing::Ready(what));
    }

    pub fn webhooks_are_ready(&self) {
        self.lock().webhooks = Standing::Ready("answers");
    }

    fn set(&self, state: Standing) {
        self.lock().controllers = state;
    }

    fn lock(&self) -> MutexGuard<'_, Standings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> (StatusCode, String) {
        let standings = self.lock();
        match (&standings.controllers, &standings.webhooks) {
            (Standing::Waiting(what), _) | (_, Standing::Waiting(what)) => (StatusCode::SERVICE_UNAVAILABLE, format!("waits for {what}\n")),
            (Standing::Ready(what), Standing::Ready(_)) => (StatusCode::OK, format!("{what}\n")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the HTTP server has ended")]
    Serve(#[source] std::io::Error),
}

pub async fn serve(address: SocketAddr, readiness: Readiness, metrics: Arc<Metrics>) -> Result<(), ServerError> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
    axum::serve(listener, router(readiness, metrics)).await.map_err(ServerError::Serve)
}

fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        // That an answer comes is the answer.
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(|State(readiness): State<Readiness>| async move { readiness.answer() }))
        .with_state(readiness)
        .route("/metrics", get(move || async move { render(&metrics) }))
}

fn render(metrics: &Metrics) -> axum::response::Response {
    match metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be written: {error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_it_waits_for() {
        let readiness = Readiness::default();
        let (code, body) = readiness.answer();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("lease"), "{body}");
        readiness.waits_for("the caches to be filled");
        assert!(readiness.answer().1.contains("caches"));
        readiness.ready("stands by");
        assert!(readiness.answer().1.contains("webhooks"), "a replica that cannot answer the apiserver is not ready");
        readiness.webhooks_are_ready();
        assert_eq!(readiness.answer(), (StatusCode::OK, "stands by\n".to_owned()));
    }
}
