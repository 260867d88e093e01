//! Stands before the broker's listener that advertises it, and holds back one request: the client's connection is closed, the
//! client goes on as it sees fit, and later the request reaches the broker on a connection of its own, as one that was under
//! way in the network does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::cluster::kafka::{PROXIED_PORT, PROXY_ADDRESS, PROXY_PORT};
use crate::cluster::network::MAIN_ADDRESS;

/// No request of these tests is larger.
const FRAME_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The broker answers a request within milliseconds, or does not answer it at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries to listen, and all of them together.
const BIND_PAUSE: Duration = Duration::from_millis(50);
const BIND_LIMIT: Duration = Duration::from_secs(10);
/// Transactional ids stand at the head of a request.
const HEAD_BYTES: usize = 1024;

/// Requests that can be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Records.
    Produce,
    /// The end of a transaction.
    Commit,
    /// The end of a transaction, without its records.
    Abort,
}

/// What is held back.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Which request.
    pub api: Api,
    /// The how manieth of a transactional id that begins so, from 1.
    pub number: u64,
    /// How the transactional id begins. What comes after it is looked at under the very id of the request.
    pub id: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It has not come yet.
    NotYet,
    /// It is held, and later requests are watched for the right time.
    Waiting {
        /// Whether a later transaction has ended since.
        ended: bool,
        /// Requests with records of the transaction after that.
        produced: u64,
    },
    /// It was delivered, in the middle of a later transaction; the broker's error code, if it is one that has one.
    Delivered {
        /// `None`: no answer, or one without a code.
        code: Option<i16>,
    },
}

/// The proxy, until it is dropped.
#[derive(Debug)]
pub struct KafkaProxy {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    hold: Hold,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: u64,
    held: Held,
    /// With its transactional id.
    frame: Option<(Vec<u8>, Vec<u8>)>,
}

/// What is done with a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// It is held back; its connection ends.
    Hold,
    /// First the held request, then this one.
    Deliver(Vec<u8>),
}

impl KafkaProxy {
    /// Starts to listen where the broker says that it can be reached.
    pub async fn start(hold: Hold) -> std::io::Result<Self> {
        let listener = bind().await?;
        let shared = Arc::new(Shared { hold, state: Mutex::new(State { seen: 0, held: Held::NotYet, frame: None }) });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// Where clients begin.
    pub fn bootstrap(&self) -> String {
        format!("{PROXY_ADDRESS}:{PROXY_PORT}")
    }

    /// What became of the request.
    pub fn held(&self) -> Held {
        self.shared.state().held.clone()
    }
}

impl Drop for KafkaProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The port of a proxy that was dropped is free in a moment.
async fn bind() -> std::io::Result<TcpListener> {
    let deadline = Instant::now() + BIND_LIMIT;
    loop {
        match TcpListener::bind((PROXY_ADDRESS, PROXY_PORT)).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(BIND_PAUSE).await;
            }
            bound => return bound,
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            if let Err(error) = relay(client, &shared).await {
                tracing::debug!("a connection to the broker ended: {error}");
            }
        });
    }
}

async fn relay(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let server = TcpStream::connect((MAIN_ADDRESS, PROXIED_PORT)).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    tokio::select! {
        asked = requests(from_client, to_server, shared) => asked,
        answered = copy(&mut from_server, &mut to_client) => answered.map(drop),
    }
}

/// Passes requests on, one by one. Returning ends the connection on both sides.
async fn requests(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, shared: &Shared) -> std::io::Result<()> {
    while let Some(frame) = read_frame(&mut client).await? {
        match shared.judge(&frame) {
            Verdict::Pass => {}
            Verdict::Hold => return Ok(()),
            Verdict::Deliver(held) => {
                let code = deliver(&held).await?;
                shared.state().held = Held::Delivered { code };
            }
        }
        server.write_all(&frame).await?;
    }
    Ok(())
}

/// With its length in front; `None` at the end of the connection.
async fn read_frame(from: &mut OwnedReadHalf) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map(drop)?,
    }
    let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX {
        return Err(std::io::Error::other(format!("a request of {bytes} bytes")));
    }
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    from.read_exact(&mut frame[4..]).await?;
    Ok(Some(frame))
}

/// Sends the held request on a connection of its own and waits for the broker's word.
async fn deliver(frame: &[u8]) -> std::io::Result<Option<i16>> {
    let server = TcpStream::connect((MAIN_ADDRESS, PROXIED_PORT)).await?;
    let (mut from_server, mut to_server) = server.into_split();
    to_server.write_all(frame).await?;
    let answer = tokio::time::timeout(ANSWER_LIMIT, read_frame(&mut from_server)).await;
    let Ok(Ok(Some(answer))) = answer else { return Ok(None) };
    Ok(Request::parse(frame).filter(|request| request.api != Api::Produce).and_then(|_| error_code(&answer)))
}

/// Of an answer to EndTxn: length, correlation id, perhaps tags, throttle time, code. With tags there is one byte more.
fn error_code(answer: &[u8]) -> Option<i16> {
    const CODE_OFFSET: usize = 4 + 4 + 4;
    let offset = if answer.len() > CODE_OFFSET + 2 { CODE_OFFSET + 1 } else { CODE_OFFSET };
    Some(i16::from_be_bytes(answer.get(offset..offset + 2)?.try_into().ok()?))
}

/// What a request is, as far as it concerns us.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    api: Api,
    head: Vec<u8>,
}

impl Request {
    fn parse(frame: &[u8]) -> Option<Self> {
        const PRODUCE: i16 = 0;
        const END_TXN: i16 = 26;
        let key = i16::from_be_bytes(frame.get(4..6)?.try_into().ok()?);
        let head = frame[..frame.len().min(HEAD_BYTES)].to_vec();
        match key {
            PRODUCE => Some(Self { api: Api::Produce, head }),
            END_TXN => {
                const FLEXIBLE_SINCE: i16 = 3;
                let version = i16::from_be_bytes(frame.get(6..8)?.try_into().ok()?);
                // The last field; behind it only the tags of a flexible version, of which there are none.
                let behind = usize::from(version >= FLEXIBLE_SINCE);
                let is_commit = *frame.get(frame.len().checked_sub(1 + behind)?)? != 0;
                Some(Self { api: if is_commit { Api::Commit } else { Api::Abort }, head })
            }
            _ => None,
        }
    }

    /// The whole transactional id, if it begins so: up to the first byte that no id has.
    fn id(&self, begins: &str) -> Option<&[u8]> {
        let start = self.head.windows(begins.len()).position(|window| window == begins.as_bytes())?;
        let id = &self.head[start..];
        let end = id.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(id.len());
        Some(&id[..end])
    }
}

impl Shared {
    fn judge(&self, frame: &[u8]) -> Verdict {
        let Some(request) = Request::parse(frame) else { return Verdict::Pass };
        let Some(id) = request.id(&self.hold.id) else { return Verdict::Pass };
        let mut state = self.state();
        match state.held {
            Held::NotYet => {
                state.seen += u64::from(request.api == self.hold.api);
                if request.api != self.hold.api || state.seen != self.hold.number {
                    return Verdict::Pass;
                }
                state.held = Held::Waiting { ended: false, produced: 0 };
                state.frame = Some((frame.to_vec(), id.to_vec()));
                Verdict::Hold
            }
            Held::Waiting { ended, produced } => {
                if state.frame.as_ref().is_none_or(|(_, held)| held != id) {
                    return Verdict::Pass;
                }
                let produced = produced + u64::from(ended && request.api == Api::Produce);
                state.held = Held::Waiting { ended: ended || request.api != Api::Produce, produced };
                // The first request of a later transaction has records, the second has the progress.
                match produced {
                    2 => state.frame.take().map_or(Verdict::Pass, |(frame, _)| Verdict::Deliver(frame)),
                    _ => Verdict::Pass,
                }
            }
            Held::Delivered { .. } => Verdict::Pass,
        }
    }

    /// The state is whole whenever the lock is free.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn frame(key: i16, version: i16, id: &str, tail: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 4];
        frame.extend(key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0]);
        frame.extend(i16::try_from(id.len()).unwrap().to_be_bytes());
        frame.extend(id.as_bytes());
        frame.extend(tail);
        frame
    }

    #[test]
    fn the_request_is_held_and_delivered_in_the_middle_of_a_later_transaction() {
        let hold = Hold { api: Api::Commit, number: 2, id: "weir.a".to_owned() };
        let shared = Shared { hold, state: Mutex::new(State { seen: 0, held: Held::NotYet, frame: None }) };
        let commit = frame(26, 1, "weir.a-0", &[0, 0, 1]);
        let produce = frame(0, 7, "weir.a-0", b"\0records");
        let rotated = frame(0, 7, "weir.a-1", b"\0records");
        assert_eq!(shared.judge(&commit), Verdict::Pass);
        assert_eq!(shared.judge(&frame(26, 1, "weir.a-0", &[0, 0, 0])), Verdict::Pass, "an abort");
        assert_eq!(shared.judge(&frame(26, 1, "weir.b-0", &[0, 0, 1])), Verdict::Pass, "another's");
        assert_eq!(shared.judge(&commit), Verdict::Hold);
        assert_eq!(shared.judge(&produce), Verdict::Pass, "of the same transaction");
        assert_eq!(shared.judge(&commit), Verdict::Pass, "sent again");
        assert_eq!(shared.judge(&produce), Verdict::Pass);
        assert_eq!(shared.judge(&rotated), Verdict::Pass, "of another id");
        assert_eq!(shared.judge(&produce), Verdict::Deliver(commit.clone()));
        assert_eq!(shared.judge(&produce), Verdict::Pass, "once");
    }

    #[test]
    fn the_flag_of_an_end_is_found_with_and_without_tags() {
        assert_eq!(Request::parse(&frame(26, 3, "x", &[0, 1, 0])).unwrap().api, Api::Commit);
        assert_eq!(Request::parse(&frame(26, 3, "x", &[0, 0, 0])).unwrap().api, Api::Abort);
        assert_eq!(Request::parse(&frame(26, 1, "x", &[0, 0])).unwrap().api, Api::Abort);
        assert_eq!(Request::parse(&frame(18, 1, "x", &[0])), None);
    }
}
