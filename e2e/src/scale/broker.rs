//! Requests of Kafka's protocol that the client library's crate has no calls for, or only one by one: where logs begin and end, by
//! the thousand; offsets that are committed for a group from outside; one key of a configuration.
//!
//! Written by hand, so that weir is tested by something other than itself, in forms so old that they need no library, and that neither weir
//! nor Kafka's tools use.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::environment::{Environment, names};

/// By topic, of each partition in order.
pub type Offsets = BTreeMap<String, Vec<i64>>;

/// Where a log begins, and where its next record goes: what stands in for a time.
pub const EARLIEST: i64 = -2;
/// See [`EARLIEST`].
pub const LATEST: i64 = -1;

/// The broker answers within milliseconds, but while it makes thousands of logs.
const ANSWER: Duration = Duration::from_secs(60);
/// Of an answer; twelve thousand partitions take a few hundred kilobytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Keys and versions of requests: versions that only this has, so that the broker counts them apart.
const LIST_OFFSETS: (i16, i16) = (2, 1);
const OFFSET_COMMIT: (i16, i16) = (8, 2);
const FIND_COORDINATOR: (i16, i16) = (10, 0);
const DESCRIBE_CONFIGS: (i16, i16) = (32, 2);
const INCREMENTAL_ALTER_CONFIGS: (i16, i16) = (44, 0);
/// These requests as the broker names them.
pub const OWN: [&str; 5] = [
    "ListOffsets,version=1",
    "OffsetCommit,version=2",
    "FindCoordinator,version=0",
    "DescribeConfigs,version=2",
    "IncrementalAlterConfigs,version=0",
];

/// What a configuration belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// A topic.
    Topic(&'a str),
    /// All brokers that have no value of their own.
    Brokers,
}

/// A connection to the only broker.
#[derive(Debug)]
pub struct Broker {
    stream: TcpStream,
    requests: i32,
}

impl Broker {
    /// By the door without encryption.
    pub async fn connect(environment: &Environment) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(environment.get(names::KAFKA_BOOTSTRAP)?).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, requests: 0 })
    }

    /// Where the logs of topics begin, or end.
    pub async fn offsets(&mut self, topics: impl IntoIterator<Item = &str>, partitions: usize, at: i64) -> anyhow::Result<Offsets> {
        const NO_REPLICA: i32 = -1;
        let mut body = BytesMut::new();
        body.put_i32(NO_REPLICA);
        put_all(&mut body, topics, |body, topic| {
            put_text(body, topic)?;
            put_all(body, 0..partitions, |body, partition| {
                body.put_i32(i32::try_from(partition)?);
                body.put_i64(at);
                Ok(())
            })
        })?;
        let mut answer = self.ask(LIST_OFFSETS, &body).await?;
        let of_topic = |answer: &mut Bytes| {
            let topic = text(answer)?.context("a topic without a name")?;
            let of_partition = |answer: &mut Bytes| {
                let (partition, code, _time, offset) =
                    (answer.try_get_i32()?, answer.try_get_i16()?, answer.try_get_i64()?, answer.try_get_i64()?);
                ensure!(code == 0, "{topic}/{partition} has no offset: code {code}");
                Ok((partition, offset))
            };
            let by_partition: BTreeMap<i32, i64> = all(answer, of_partition)?.into_iter().collect();
            Ok((topic, by_partition.into_values().collect()))
        };
        Ok(all(&mut answer, of_topic)?.into_iter().collect())
    }

    /// Whether the broker has taken a group up; the first time that one is asked about it makes the topic for their offsets.
    pub async fn coordinates(&mut self, group: &str) -> anyhow::Result<()> {
        let mut body = BytesMut::new();
        put_text(&mut body, group)?;
        let code = self.ask(FIND_COORDINATOR, &body).await?.try_get_i16()?;
        ensure!(code == 0, "nobody coordinates {group}: code {code}");
        Ok(())
    }

    /// Commits offsets for a group without members.
    pub async fn commit<'a>(&mut self, group: &str, offsets: impl IntoIterator<Item = (&'a str, Vec<i64>)>) -> anyhow::Result<()> {
        const NO_MEMBER: (i32, &str) = (-1, "");
        const KEPT_AS_LONG_AS_THE_BROKER_SAYS: i64 = -1;
        let mut body = BytesMut::new();
        put_text(&mut body, group)?;
        body.put_i32(NO_MEMBER.0);
        put_text(&mut body, NO_MEMBER.1)?;
        body.put_i64(KEPT_AS_LONG_AS_THE_BROKER_SAYS);
        put_all(&mut body, offsets, |body, (topic, offsets)| {
            put_text(body, topic)?;
            put_all(body, offsets.into_iter().enumerate(), |body, (partition, offset)| {
                body.put_i32(i32::try_from(partition)?);
                body.put_i64(offset);
                put_text(body, "")
            })
        })?;
        let mut answer = self.ask(OFFSET_COMMIT, &body).await?;
        let of_topic = |answer: &mut Bytes| {
            let topic = text(answer)?.unwrap_or_default();
            all(answer, |answer| {
                let (partition, code) = (answer.try_get_i32()?, answer.try_get_i16()?);
                ensure!(code == 0, "{group} cannot commit on {topic}/{partition}: code {code}");
                Ok(())
            })
        };
        all(&mut answer, of_topic).map(drop)
    }

    /// The values in effect of a key of topics.
    pub async fn settings(&mut self, topics: impl IntoIterator<Item = &str>, key: &str) -> anyhow::Result<BTreeMap<String, String>> {
        const WITHOUT_SYNONYMS: u8 = 0;
        let mut body = BytesMut::new();
        put_all(&mut body, topics, |body, topic| {
            put_resource(body, Of::Topic(topic))?;
            put_all(body, [key], put_text)
        })?;
        body.put_u8(WITHOUT_SYNONYMS);
        let mut answer = self.ask(DESCRIBE_CONFIGS, &body).await?;
        let _throttled = answer.try_get_i32()?;
        let of_topic = |answer: &mut Bytes| {
            let (code, why, _kind, topic) = (answer.try_get_i16()?, text(answer)?, answer.try_get_i8()?, text(answer)?.unwrap_or_default());
            ensure!(code == 0, "{topic} cannot be described: code {code} {why:?}");
            let values = all(answer, |answer| {
                let (_key, value) = (text(answer)?, text(answer)?.unwrap_or_default());
                let (_read_only, _source, _sensitive) = (answer.try_get_u8()?, answer.try_get_i8()?, answer.try_get_u8()?);
                all(answer, |answer| Ok((text(answer)?, text(answer)?, answer.try_get_i8()?)))?;
                Ok(value)
            })?;
            Ok((topic, values.into_iter().next().unwrap_or_default()))
        };
        Ok(all(&mut answer, of_topic)?.into_iter().collect())
    }

    /// Alters one key and no other; `None` takes the value away.
    pub async fn set(&mut self, of: Of<'_>, key: &str, value: Option<&str>) -> anyhow::Result<()> {
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        const FOR_GOOD: u8 = 0;
        let mut body = BytesMut::new();
        put_all(&mut body, [of], |body, of| {
            put_resource(body, of)?;
            put_all(body, [key], |body, key| {
                put_text(body, key)?;
                body.put_i8(if value.is_some() { SET } else { DELETE });
                put_optional_text(body, value)
            })
        })?;
        body.put_u8(FOR_GOOD);
        let mut answer = self.ask(INCREMENTAL_ALTER_CONFIGS, &body).await?;
        let _throttled = answer.try_get_i32()?;
        all(&mut answer, |answer| {
            let (code, why, _kind, _name) = (answer.try_get_i16()?, text(answer)?, answer.try_get_i8()?, text(answer)?);
            ensure!(code == 0, "{key} of {of:?} cannot be set: code {code} {why:?}");
            Ok(())
        })
        .map(drop)
    }

    async fn ask(&mut self, request: (i16, i16), body: &[u8]) -> anyhow::Result<Bytes> {
        tokio::time::timeout(ANSWER, self.exchange(request, body)).await.context("the broker does not answer")?
    }

    async fn exchange(&mut self, (key, version): (i16, i16), body: &[u8]) -> anyhow::Result<Bytes> {
        self.requests += 1;
        let mut head = BytesMut::new();
        head.put_i16(key);
        head.put_i16(version);
        head.put_i32(self.requests);
        put_text(&mut head, "weir-e2e")?;
        self.stream.write_i32(i32::try_from(head.len() + body.len())?).await?;
        self.stream.write_all(&head).await?;
        self.stream.write_all(body).await?;
        let length = usize::try_from(self.stream.read_i32().await?)?;
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        let mut answer = Bytes::from(answer);
        ensure!(answer.try_get_i32()? == self.requests, "an answer to another request");
        Ok(answer)
    }
}

fn put_resource(body: &mut BytesMut, of: Of<'_>) -> anyhow::Result<()> {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    let (kind, name) = match of {
        Of::Topic(name) => (TOPIC, name),
        Of::Brokers => (BROKER, ""),
    };
    body.put_i8(kind);
    put_text(body, name)
}

fn put_text(body: &mut BytesMut, text: &str) -> anyhow::Result<()> {
    body.put_i16(i16::try_from(text.len())?);
    body.put_slice(text.as_bytes());
    Ok(())
}

fn put_optional_text(body: &mut BytesMut, text: Option<&str>) -> anyhow::Result<()> {
    const NONE: i16 = -1;
    match text {
        Some(text) => put_text(body, text)?,
        None => body.put_i16(NONE),
    }
    Ok(())
}

/// An array.
fn put_all<T>(
    body: &mut BytesMut,
    items: impl IntoIterator<Item = T>,
    mut put: impl FnMut(&mut BytesMut, T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut content, mut count) = (BytesMut::new(), 0);
    for item in items {
        put(&mut content, item)?;
        count += 1;
    }
    body.put_i32(count);
    body.put_slice(&content);
    Ok(())
}

fn text(answer: &mut Bytes) -> anyhow::Result<Option<String>> {
    let Ok(length) = usize::try_from(answer.try_get_i16()?) else { return Ok(None) };
    ensure!(length <= answer.len(), "an answer that is cut off");
    Ok(Some(String::from_utf8(answer.split_to(length).to_vec())?))
}

/// An array; none is an empty one.
fn all<T>(answer: &mut Bytes, mut one: impl FnMut(&mut Bytes) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    let count = answer.try_get_i32()?.max(0);
    (0..count).map(|_| one(answer)).collect()
}
