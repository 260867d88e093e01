//! The keys of a topic's configuration that decide how long its records are kept.

use std::collections::BTreeMap;

use crate::retention::Retention;

pub const RETENTION_MS: &str = "retention.ms";
pub const RETENTION_BYTES: &str = "retention.bytes";
pub const CLEANUP_POLICY: &str = "cleanup.policy";
pub const REMOTE_STORAGE: &str = "remote.storage.enable";
pub const REMOTE_DELETE_ON_DISABLE: &str = "remote.log.delete.on.disable";
pub const LOCAL_RETENTION_MS: &str = "local.retention.ms";
pub const LOCAL_RETENTION_BYTES: &str = "local.retention.bytes";
pub const TIMESTAMP_TYPE: &str = "message.timestamp.type";

/// All that is asked of a topic.
pub const KEYS: [&str; 8] = [
    RETENTION_MS,
    RETENTION_BYTES,
    CLEANUP_POLICY,
    REMOTE_STORAGE,
    REMOTE_DELETE_ON_DISABLE,
    LOCAL_RETENTION_MS,
    LOCAL_RETENTION_BYTES,
    TIMESTAMP_TYPE,
];

/// Where a value comes from: the topic's own, or what it inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Topic,
    DynamicBroker,
    DynamicDefault,
    Static,
    Default,
}

/// One key as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub source: Source,
    /// What the topic would have if it did not set the key itself, where that was observed.
    pub inherited: Option<String>,
}

/// A topic's configuration as the cluster describes it, by key.
pub type TopicConfig = BTreeMap<String, Setting>;

/// What a topic sets itself, by key.
pub type Overrides = BTreeMap<String, String>;

/// What a topic sets a key to itself.
pub fn own<'a>(config: &'a TopicConfig, key: &str) -> Option<&'a str> {
    config.get(key).filter(|setting| setting.source == Source::Topic).map(|setting| setting.value.as_str())
}

/// The keys that decide how long records are kept, as they are in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    pub retention_ms: Retention,
    /// `None`: without limit.
    pub retention_bytes: Option<i64>,
    pub cleanup: Cleanup,
    /// Older segments lie in remote storage as well.
    pub tiered: bool,
    /// Turning tiering off deletes what lies in remote storage.
    pub delete_on_disable: bool,
    pub local_ms: Retention,
    pub local_bytes: Option<i64>,
    /// The broker stamps records as they arrive, so a record's timestamp is its arrival.
    pub log_append_time: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    pub delete: bool,
    pub compact: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key} was not observed; weir needs Describe and DescribeConfigs on the topic")]
    NotObserved { key: &'static str },
    #[error("{key} is {value:?}, which Kafka does not take; set {expected}")]
    Invalid { key: &'static str, value: String, expected: &'static str },
}

impl ConfigError {
    pub const fn key(&self) -> &'static str {
        match self {
            Self::NotObserved { key } | Self::Invalid { key, .. } => key,
        }
    }
}

impl Keys {
    /// Of a configuration as the cluster describes it.
    pub fn observed(config: &TopicConfig) -> Result<Self, ConfigError> {
        Self::read(|key| config.get(key).map(|s| s.value.as_str()))
    }

    /// Of what a topic sets itself, over what it inherits.
    pub fn declared(overrides: &Overrides, inherited: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        Self::read(|key| overrides.get(key).or_else(|| inherited.get(key)).map(String::as_str))
    }

    fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, ConfigError> {
        let needed = |key: &'static str| get(key).ok_or(ConfigError::NotObserved { key });
        let retention_ms = Retention::of_kafka(limit(RETENTION_MS, needed(RETENTION_MS)?, -1)?);
        let retention_bytes = bytes(limit(RETENTION_BYTES, needed(RETENTION_BYTES)?, -1)?);
        // Brokers without tiered storage do not know its keys.
        let local = |key: &'static str| get(key).map_or(Ok(-2), |text| limit(key, text, -2));
        let (local_ms, local_bytes) = (local(LOCAL_RETENTION_MS)?, local(LOCAL_RETENTION_BYTES)?);
        Ok(Self {
            retention_ms,
            retention_bytes,
            cleanup: cleanup(needed(CLEANUP_POLICY)?)?,
            tiered: flag(REMOTE_STORAGE, get(REMOTE_STORAGE))?,
            delete_on_disable: flag(REMOTE_DELETE_ON_DISABLE, get(REMOTE_DELETE_ON_DISABLE))?,
            // -2: as the whole log.
            local_ms: if local_ms == -2 { retention_ms } else { Retention::of_kafka(local_ms) },
            local_bytes: if local_bytes == -2 { retention_bytes } else { bytes(local_bytes) },
            log_append_time: get(TIMESTAMP_TYPE) == Some("LogAppendTime"),
        })
    }
}

const fn bytes(value: i64) -> Option<i64> {
    if value < 0 { None } else { Some(value) }
}

fn limit(key: &'static str, text: &str, least: i64) -> Result<i64, ConfigError> {
    let expected = if least == -2 { "a whole number of at least -2" } else { "a whole number of at least -1" };
    text.trim().parse().ok().filter(|value| *value >= least).ok_or_else(|| ConfigError::Invalid { key, value: text.to_owned(), expected })
}

fn flag(key: &'static str, text: Option<&str>) -> Result<bool, ConfigError> {
    match text.map(str::trim) {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(text) => Err(ConfigError::Invalid { key, value: text.to_owned(), expected: "true or false" }),
    }
}

/// An empty list deletes nothing by retention.
fn cleanup(text: &str) -> Result<Cleanup, ConfigError> {
    let mut found = Cleanup { delete: false, compact: false };
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word {
            "delete" => found.delete = true,
            "compact" => found.compact = true,
            _ => {
                let (value, expected) = (text.to_owned(), "delete, compact, or both with a comma between them");
                return Err(ConfigError::Invalid { key: CLEANUP_POLICY, value, expected });
            }
        }
    }
    Ok(found)
}
