//! Clients of the Kubernetes API. In a test build each of their writes passes two failpoints; in a release there is
//! nothing between.

use std::task::{Context, Poll};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Request};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{BoxError, Service, layer::layer_fn};

/// A client with this configuration.
pub fn client(config: Config) -> kube::Result<Client> {
    if !weir_failpoints::PRESENT {
        return Client::try_from(config);
    }
    Ok(ClientBuilder::try_from(config)?.with_layer(&layer_fn(|inner| BetweenPoints { inner })).build())
}

/// The client's inner service, with the failpoints of what is written.
struct BetweenPoints<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for BetweenPoints<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let points = points(request.method(), request.uri().path());
        if points.is_some_and(|(send, _)| weir_failpoints::hit(send).is_some()) {
            return std::future::ready(Err("a failpoint kept the request back".into())).boxed();
        }
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await.map_err(Into::into);
            match points.and_then(|(_, done)| weir_failpoints::hit(done)) {
                None => answer,
                Some(_) => Err("a failpoint kept the answer back".into()),
            }
        }
        .boxed()
    }
}

/// The failpoints of a write, before and after it.
fn points(method: &Method, path: &str) -> Option<(&'static str, &'static str)> {
    if method == Method::GET {
        return None;
    }
    let mut parts = path.rsplit('/');
    let (last, second, third) = (parts.next()?, parts.next()?, parts.next()?);
    let points = match (last, second, third) {
        ("jobs", ..) => ("kube.create-job.send", "kube.create-job.done"),
        (_, "jobs", _) => ("kube.delete-job.send", "kube.delete-job.done"),
        ("status", _, "backfilljobs") => ("kube.status.send", "kube.status.done"),
        ("status", _, "topicfloors") => ("kube.floor-status.send", "kube.floor-status.done"),
        ("status", _, "topicretentionpolicies") => ("kube.policy-status.send", "kube.policy-status.done"),
        ("topicfloors", ..) | (_, "topicfloors", _) => ("kube.create-floor.send", "kube.create-floor.done"),
        ("status", ..) => ("kube.platform-status.send", "kube.platform-status.done"),
        ("events", ..) | (_, "events", _) => ("kube.event.send", "kube.event.done"),
        ("leases", ..) | (_, "leases", _) => ("kube.lease.send", "kube.lease.done"),
        _ => ("kube.other.send", "kube.other.done"),
    };
    Some(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_has_points_of_its_own() {
        let jobs = "/apis/batch/v1/namespaces/n/jobs";
        let kinds = "/apis/weir.dev/v1alpha1/namespaces/n/backfilljobs/j/status";
        let cases = [
            (Method::POST, jobs.to_owned(), Some("kube.create-job.send")),
            (Method::DELETE, format!("{jobs}/a"), Some("kube.delete-job.send")),
            (Method::PATCH, kinds.to_owned(), Some("kube.status.send")),
            (Method::PATCH, "/apis/weir.dev/v1alpha1/backfillclasses/c/status".to_owned(), Some("kube.platform-status.send")),
            (Method::PATCH, "/apis/weir.dev/v1alpha1/topicfloors/f/status".to_owned(), Some("kube.floor-status.send")),
            (Method::POST, "/apis/weir.dev/v1alpha1/topicfloors".to_owned(), Some("kube.create-floor.send")),
            (Method::PATCH, "/apis/weir.dev/v1alpha1/topicfloors/f".to_owned(), Some("kube.create-floor.send")),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/n/events".to_owned(), Some("kube.event.send")),
            (Method::PATCH, "/apis/coordination.k8s.io/v1/namespaces/n/leases/l".to_owned(), Some("kube.lease.send")),
            (Method::GET, jobs.to_owned(), None),
        ];
        for (method, path, expected) in cases {
            assert_eq!(points(&method, &path).map(|(send, _)| send), expected, "{method} {path}");
        }
    }
}
