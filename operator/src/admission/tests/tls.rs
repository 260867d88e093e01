//! Over TLS on loopback: certificates and authorities change under load, and a replica that ends drains.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::world::{World, request};
use crate::admission::{
    certificates::{Certificates, Due, SETTLES},
    router,
    server::{self, Serving, TlsListener},
};

const HOST: &str = "weir-operator.weir-system.svc";
const CLIENTS: usize = 8;

/// What an apiserver trusts: it is told of another bundle before anybody serves by it.
type Bundle = Arc<Mutex<String>>;

type Connection = BufReader<TlsStream<TcpStream>>;

async fn connect(port: u16, bundle: &Bundle) -> anyhow::Result<Connection> {
    let mut roots = RootCertStore::empty();
    let pem = bundle.lock().unwrap().clone();
    for authority in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(authority?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions()?;
    // No resumption: each connection verifies the certificate.
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(HOST)?;
    Ok(BufReader::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Asks once; the status line, whether the server ends the connection, and the body.
async fn ask(connection: &mut Connection, body: &[u8]) -> anyhow::Result<(String, bool, String)> {
    let head = format!("POST /validate HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.write_all(&[head.as_bytes(), body].concat()).await?;
    connection.flush().await?;
    let (mut status, mut length, mut closes) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        anyhow::ensure!(connection.read_line(&mut line).await? > 0, "the connection has ended");
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse()?;
        } else if line.starts_with("http/1.1") {
            status = line;
        } else if line == "connection: close" {
            closes = true;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await?;
    Ok((status, closes, String::from_utf8(body)?))
}

fn review() -> Vec<u8> {
    let topic = |config| json!({"metadata": {"name": "app_events", "namespace": "kafka", "labels": {"strimzi.io/cluster": "main"}}, "spec": {"config": config}});
    let low = topic(json!({"retention.ms": 1}));
    let request = request("kafka.strimzi.io", "KafkaTopic", Some(&topic(json!({}))), Some(&low));
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

struct Server {
    port: u16,
    serving: Arc<Serving>,
    drain: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn start() -> Server {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    let serving = Arc::<Serving>::default();
    let listener = TlsListener::new(tcp, Arc::clone(&serving)).unwrap();
    let (drain, is_draining) = watch::channel(false);
    let (stop, stopped) = oneshot::channel::<()>();
    let router = router(World::governed().webhooks(is_draining));
    let task = tokio::spawn(server::serve(listener, router, async {
        _ = stopped.await;
    }));
    Server { port, serving, drain, stop, task }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaf_and_authority_are_renewed_under_load_without_a_failed_request() {
    let server = start().await;
    let mut now: Timestamp = "2026-11-03T00:00:00Z".parse().unwrap();
    // Certificates are verified by the clock of this machine.
    now = now.max(Timestamp::now());
    let mut certificates = Certificates::create(HOST, now).unwrap();
    certificates.note_trusted(now);
    server.serving.load(certificates.leaf()).unwrap();
    let bundle: Bundle = Arc::new(Mutex::new(certificates.bundle()));
    let (answered, goes_on) = (Arc::<AtomicUsize>::default(), Arc::new(AtomicBool::new(true)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (bundle, answered, goes_on, port) = (Arc::clone(&bundle), Arc::clone(&answered), Arc::clone(&goes_on), server.port);
            tokio::spawn(async move {
                let body = review();
                while goes_on.load(Ordering::Relaxed) {
                    let mut connection = connect(port, &bundle).await?;
                    // Some keep their connection for longer.
                    for _ in 0..=client * 4 {
                        let (status, _, answer) = ask(&mut connection, &body).await?;
                        anyhow::ensure!(status.contains("200") && answer.contains("is below the floor"), "{status} {answer}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let more = async |count: usize| {
        let wanted = answered.load(Ordering::Relaxed) + count;
        while answered.load(Ordering::Relaxed) < wanted && !clients.iter().any(|c| c.is_finished()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let first = bundle.lock().unwrap().clone();
    for due in [Due::Leaf, Due::Authority, Due::Leaf, Due::Drop, Due::Leaf] {
        more(40).await;
        now += SETTLES;
        certificates = certificates.step(due, HOST, now - SignedDuration::from_mins(30)).unwrap();
        // The configuration first, then what is served.
        *bundle.lock().unwrap() = certificates.bundle();
        more(40).await;
        server.serving.load(certificates.leaf()).unwrap();
    }
    more(40).await;
    goes_on.store(false, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) >= 11 * 40);
    // And it was another authority: who trusts the first alone is not served any more.
    assert!(connect(server.port, &Arc::new(Mutex::new(first))).await.is_err());
    server.task.abort();
}

#[tokio::test]
async fn a_replica_that_ends_ends_its_connections_one_answer_later() {
    let server = start().await;
    let now = Timestamp::now();
    let certificates = Certificates::create(HOST, now).unwrap();
    let bundle: Bundle = Arc::new(Mutex::new(certificates.bundle()));
    assert!(connect(server.port, &bundle).await.is_err(), "without a certificate there is nothing to be said");
    server.serving.load(certificates.leaf()).unwrap();
    let (mut kept, mut idle) = (connect(server.port, &bundle).await.unwrap(), connect(server.port, &bundle).await.unwrap());
    assert!(!ask(&mut kept, &review()).await.unwrap().1);
    server.drain.send_replace(true);
    // Whoever still asks is answered, on old connections and new ones.
    let (status, closes, _) = ask(&mut kept, &review()).await.unwrap();
    assert!(status.contains("200") && closes);
    assert!(ask(&mut kept, &review()).await.is_err());
    assert!(ask(&mut connect(server.port, &bundle).await.unwrap(), &review()).await.unwrap().1);
    assert!(ask(&mut idle, &review()).await.unwrap().1);
    server.stop.send(()).unwrap();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_review_is_told_so_and_counted() {
    let server = start().await;
    let certificates = Certificates::create(HOST, Timestamp::now()).unwrap();
    server.serving.load(certificates.leaf()).unwrap();
    let bundle: Bundle = Arc::new(Mutex::new(certificates.bundle()));
    let mut connection = connect(server.port, &bundle).await.unwrap();
    let (status, _, body) = ask(&mut connection, b"{}").await.unwrap();
    assert!(status.contains("400") && body.contains("no AdmissionReview"), "{status} {body}");
    let (status, _, body) = ask(&mut connection, &review()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(status.contains("200"));
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"], &response["status"]["code"]), (&json!("review-uid"), &json!(false), &json!(403)));
    server.task.abort();
}

#[test]
fn a_key_of_another_certificate_is_not_served() {
    let serving = Serving::default();
    let [one, mut other] = [1, 2].map(|_| Certificates::create(HOST, Timestamp::now()).unwrap().leaf().clone());
    assert!(serving.load(&one).is_ok());
    other.key = one.key.clone();
    assert!(serving.load(&other).is_err());
    other.key = "no key".into();
    assert!(serving.load(&other).is_err());
}
