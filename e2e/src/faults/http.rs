//! A reverse proxy that is bad to a part of the requests, by a seed: before the S3 server, whose clients' signatures it
//! leaves as they are, or before the apiserver, to which it goes as whoever the kubeconfig says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::novashop::random::Random;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is answered so and goes no further.
    Refuse(u16),
    /// It takes effect, and is answered so.
    RefuseAfter(u16),
    /// It takes effect, and the connection is closed without an answer.
    LoseAnswer,
    /// It goes no further and is never answered.
    Hang,
}

impl Trouble {
    fn name(self) -> String {
        match self {
            Self::Refuse(status) => format!("{status}"),
            Self::RefuseAfter(status) => format!("{status} after it took effect"),
            Self::LoseAnswer => "answer lost".to_owned(),
            Self::Hang => "never answered".to_owned(),
        }
    }
}

/// How bad it is.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Requests of a thousand that get into trouble.
    pub per_mille: u64,
    /// Into which, each as often.
    pub troubles: Vec<Trouble>,
    /// Only requests of this method; absent: of any.
    pub method: Option<Method>,
    /// Requests in trouble, at most; absent: any number.
    pub most: Option<u64>,
    /// Nobody is there: connections are closed at once.
    pub is_away: bool,
}

/// The proxy, until it is dropped.
#[derive(Debug)]
pub struct HttpProxy {
    /// Where clients reach it, as a URL.
    pub endpoint: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Upstream,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: Random,
    weather: Weather,
    requests: u64,
    troubled: BTreeMap<String, u64>,
    /// Watches that were opened, and how many of them, from the first on, became mute each time.
    watches: u64,
    mute: Vec<u64>,
}

enum Upstream {
    Plain { client: Box<Client<HttpConnector, Body>>, authority: Authority },
    Kubernetes(kube::Client),
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Plain { .. } => "Plain",
            Self::Kubernetes(_) => "Kubernetes",
        })
    }
}

impl HttpProxy {
    /// Before a server at a URL without a path.
    pub async fn before(url: &str, seed: u64) -> std::io::Result<Self> {
        let authority = url.trim_start_matches("http://").trim_end_matches('/').parse::<Authority>().map_err(std::io::Error::other)?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self::start(Upstream::Plain { client: Box::new(client), authority }, seed).await
    }

    /// Before the apiserver.
    pub async fn before_apiserver(client: kube::Client, seed: u64) -> std::io::Result<Self> {
        Self::start(Upstream::Kubernetes(client), seed).await
    }

    async fn start(upstream: Upstream, seed: u64) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let state = State {
            random: Random::of(seed, 2),
            weather: Weather::default(),
            requests: 0,
            troubled: BTreeMap::new(),
            watches: 0,
            mute: Vec::new(),
        };
        let shared = Arc::new(Shared { upstream, state: Mutex::new(state) });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { endpoint, shared, task })
    }

    /// From now on it is so bad.
    pub fn set(&self, weather: Weather) {
        self.shared.state().weather = weather;
    }

    /// The watches that are open bring nothing any more, and stay open. Returns what is told of those that have something to bring.
    pub fn mute_watches(&self) -> String {
        let mut state = self.shared.state();
        let watches = state.watches;
        state.mute.push(watches);
        mute(state.mute.len())
    }

    /// Requests so far, and how many had which trouble.
    pub fn told(&self) -> (u64, BTreeMap<String, u64>) {
        let state = self.shared.state();
        (state.requests, state.troubled.clone())
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the set, and the set with the proxy.
    let mut connections = JoinSet::new();
    loop {
        // A connection that could not be taken is the client's to try again.
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if shared.state().weather.is_away {
            shared.note("connection closed");
            continue;
        }
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let serve = service_fn(|request| serve(&shared, request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
}

async fn serve(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    match shared.trouble(request.method()) {
        Err(away) => Err(away),
        Ok(None) => shared.forward(request).await,
        Ok(Some(Trouble::Refuse(status))) => Ok(refusal(status)),
        Ok(Some(Trouble::RefuseAfter(status))) => {
            // Read to its end: it has taken effect then.
            shared.forward(request).await?.into_body().collect().await?;
            Ok(refusal(status))
        }
        Ok(Some(Trouble::LoseAnswer)) => {
            shared.forward(request).await?.into_body().collect().await?;
            Err("the answer is lost".into())
        }
        Ok(Some(Trouble::Hang)) => std::future::pending().await,
    }
}

impl Shared {
    /// What happens to the next request; an error: nobody is there.
    fn trouble(&self, method: &Method) -> Result<Option<Trouble>, BoxError> {
        let mut state = self.state();
        state.requests += 1;
        let State { random, weather, troubled, .. } = &mut *state;
        if weather.is_away {
            *troubled.entry("connection closed".to_owned()).or_default() += 1;
            return Err("nobody is there".into());
        }
        let concerned = weather.method.as_ref().is_none_or(|only| only == method) && weather.most != Some(0);
        if !concerned || weather.troubles.is_empty() || !random.chance(weather.per_mille) {
            return Ok(None);
        }
        let trouble = random.pick(&weather.troubles);
        *troubled.entry(trouble.name()).or_default() += 1;
        weather.most = weather.most.map(|most| most - 1);
        Ok(Some(trouble))
    }

    fn note(&self, what: &str) {
        *self.state().troubled.entry(what.to_owned()).or_default() += 1;
    }

    async fn forward(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
        let (mut head, body) = request.into_parts();
        match &self.upstream {
            Upstream::Plain { client, authority } => {
                // Path and query byte for byte, and the client's own Host: both are signed.
                let mut uri = head.uri.into_parts();
                (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(authority.clone()));
                head.uri = Uri::from_parts(uri)?;
                let body = body.map_err(BoxError::from).boxed_unsync();
                let response = client.request(Request::from_parts(head, body)).await?;
                Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
            }
            Upstream::Kubernetes(client) => {
                head.headers.remove(http::header::HOST);
                // What is sent to the apiserver is small; what it answers may be a watch, and is passed on as it comes.
                let body = kube::client::Body::from(body.collect().await?.to_bytes());
                let is_watch = head.uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
                let response = client.send(Request::from_parts(head, body)).await?;
                let shared = Arc::clone(self);
                Ok(response.map(|body| if is_watch { shared.until_mute(body) } else { body.map_err(BoxError::from).boxed_unsync() }))
            }
        }
    }

    /// A body that ends in silence when the watches so far become mute.
    fn until_mute(self: Arc<Self>, body: kube::client::Body) -> Body {
        let number = {
            let mut state = self.state();
            state.watches += 1;
            state.watches
        };
        let frames = futures::stream::try_unfold(body, move |mut body| {
            let shared = Arc::clone(&self);
            async move {
                let frame = body.frame().await.transpose().map_err(BoxError::from)?;
                let since = shared.state().mute.iter().position(|watches| number <= *watches);
                if let Some(before) = since {
                    shared.note(&mute(before + 1));
                    std::future::pending::<()>().await;
                }
                Ok(frame.map(|frame| (frame, body)))
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// The state is whole whenever the lock is free.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mute(times: usize) -> String {
    format!("watch mute since time {times}")
}

/// As S3 servers and the apiserver say it; clients look at the status.
fn refusal(status: u16) -> Response<Body> {
    let code = if status == 503 { "SlowDown" } else { "InternalError" };
    let text = format!("<Error><Code>{code}</Code><Message>a fault of the matrix</Message></Error>");
    let mut response = Response::new(Full::from(text).map_err(BoxError::from).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == 429 {
        response.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// A server that counts what reaches it.
    async fn server() -> (String, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, count) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let serve = service_fn(|request: Request<Incoming>| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        async move {
                            let host = request.headers()["host"].to_str().unwrap().to_owned();
                            let text = format!("{} {host} ", request.uri());
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from([text.as_bytes(), &body].concat())))
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        (url, count)
    }

    async fn ask(proxy: &HttpProxy) -> String {
        let mut stream = TcpStream::connect(proxy.endpoint.trim_start_matches("http://")).await.unwrap();
        let request = "PUT /a%2Fb?c=%20d HTTP/1.1\r\nhost: signed\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn requests_pass_unchanged_or_get_into_the_trouble_that_is_asked_for() {
        let (url, count) = server().await;
        let proxy = HttpProxy::before(&url, 1).await.unwrap();
        let answer = ask(&proxy).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/a%2Fb?c=%20d signed body"), "{answer}");
        let cases =
            [(Trouble::Refuse(503), "HTTP/1.1 503", 1), (Trouble::RefuseAfter(500), "HTTP/1.1 500", 2), (Trouble::LoseAnswer, "", 3)];
        for (trouble, begins, reached) in cases {
            proxy.set(Weather { per_mille: 1000, troubles: vec![trouble], most: Some(1), ..Weather::default() });
            let answer = ask(&proxy).await;
            assert!(if begins.is_empty() { answer.is_empty() } else { answer.starts_with(begins) }, "{trouble:?}: {answer}");
            assert_eq!(count.load(Ordering::Relaxed), reached, "{trouble:?}");
        }
        assert!(ask(&proxy).await.starts_with("HTTP/1.1 200"), "one was to get into trouble");
        proxy.set(Weather { is_away: true, ..Weather::default() });
        assert_eq!(ask(&proxy).await, "");
        assert_eq!((proxy.told().0, count.load(Ordering::Relaxed)), (5, 4));
    }
}
