//! A count of source bytes that is not weir's own: a relay in front of the S3 server that the workers read their source
//! through, and that adds up what the server answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What is moved at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// The relay, until it is dropped.
#[derive(Debug)]
pub struct Meter {
    /// Where clients reach it, as a URL.
    pub endpoint: String,
    answered_bytes: Arc<AtomicU64>,
    relay: JoinHandle<()>,
}

impl Meter {
    /// Starts to listen on an address and to relay to another (`host:port`).
    pub async fn start(address: &str, upstream: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let answered_bytes = Arc::new(AtomicU64::new(0));
        let relay = tokio::spawn(accept(listener, upstream.to_owned(), Arc::clone(&answered_bytes)));
        Ok(Self { endpoint, answered_bytes, relay })
    }

    /// Bytes that the server has answered so far, a few hundred for the head of each answer included.
    pub fn answered_bytes(&self) -> u64 {
        self.answered_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

async fn accept(listener: TcpListener, upstream: String, answered_bytes: Arc<AtomicU64>) {
    // Connections end with the set, and the set with the relay.
    let mut connections = JoinSet::new();
    loop {
        // A connection that could not be taken is the client's to try again.
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (upstream, answered_bytes) = (upstream.clone(), Arc::clone(&answered_bytes));
        connections.spawn(async move {
            if let Err(error) = relay(client, &upstream, &answered_bytes).await {
                tracing::debug!("a metered connection ended: {error}");
            }
        });
    }
}

async fn relay(client: TcpStream, upstream: &str, answered_bytes: &AtomicU64) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asked = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let answered = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            answered_bytes.fetch_add(read as u64, Ordering::Relaxed);
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    tokio::try_join!(asked, answered).map(|_| ())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test]
    async fn what_is_answered_is_counted_and_what_is_asked_is_not() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = server.local_addr().unwrap().to_string();
        let served = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(&vec![b'x'; 300_000]).await.unwrap();
            asked
        });
        let meter = Meter::start("127.0.0.1", &upstream).await.unwrap();
        let mut client = TcpStream::connect(meter.endpoint.trim_start_matches("http://")).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((answer.len(), meter.answered_bytes()), (300_000, 300_000));
        assert_eq!(&served.await.unwrap(), b"hello");
    }
}
