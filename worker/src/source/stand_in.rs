//! A store of a few objects in memory, for tests: gives ranges of them to those who ask for the right ETag.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use weir_crds::refs::S3Service;

use super::{Fetcher, SourceObject};

const ETAG: &str = "\"tag\"";

/// An object as it is planned with.
pub fn object(key: &str, size: usize) -> SourceObject {
    SourceObject { bucket: "bucket".into(), key: key.into(), version: None, etag: ETAG.into(), size: size as u64, arrival: None }
}

/// A store that has `objects`, and what is planned of them.
pub async fn store(objects: &[(&str, &[u8])]) -> (Fetcher, Vec<SourceObject>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    let held: Arc<[_]> = objects.iter().map(|(key, bytes)| (format!("/bucket/{key}").to_lowercase(), bytes.to_vec())).collect();
    tokio::spawn(serve(listener, held));
    let credentials = tempfile::tempdir().unwrap();
    for name in ["aws-access-key-id", "aws-secret-access-key"] {
        std::fs::write(credentials.path().join(name), "test").unwrap();
    }
    let service = S3Service { endpoint, region: "local".into(), path_style: true };
    let client = weir_ledger::s3_client(&service, Some(credentials.path())).await.unwrap();
    (Fetcher::new(client), objects.iter().map(|(key, bytes)| object(key, bytes.len())).collect())
}

async fn serve(listener: TcpListener, objects: Arc<[(String, Vec<u8>)]>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let objects = Arc::clone(&objects);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(&answer(&String::from_utf8(head).unwrap().to_lowercase(), &objects)).await.unwrap();
        });
    }
}

fn answer(head: &str, objects: &[(String, Vec<u8>)]) -> Vec<u8> {
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let path = head.split([' ', '?']).nth(1).unwrap();
    let (_, object) = objects.iter().find(|(held, _)| held == path).unwrap();
    let range = field("range: bytes=").and_then(|range| range.split_once('-'));
    let (status, body) = match range {
        _ if field("if-match: ").is_some_and(|wanted| wanted != ETAG) => ("412 Precondition Failed", &b""[..]),
        _ if head.starts_with("head") => ("200 OK", &b""[..]),
        Some((first, last)) => ("206 Partial Content", &object[first.parse().unwrap()..=last.parse().unwrap()]),
        None => ("200 OK", object.as_slice()),
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: {ETAG}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
