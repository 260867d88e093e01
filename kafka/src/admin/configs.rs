//! Configurations: what is in effect, where it comes from, and altering it key by key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Admin, AdminError, Answers, REQUEST_TIMEOUT};
use crate::native::{
    self, RequestError,
    configs::{Of, describe, in_unit_of},
};

const BEFORE_MAX: &str = "message.timestamp.before.max.ms";
const DIFFERENCE_MAX: &str = "message.timestamp.difference.max.ms";

/// The value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigValue {
    /// `None`: it has none, or is a secret.
    pub value: Option<String>,
    pub source: ConfigSource,
    /// What it would be if the topic did not set it. `None`: brokers do not say, or it is a secret.
    pub inherited: Option<String>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on the broker while it ran.
    DynamicBroker,
    /// Set on all brokers while they ran.
    DynamicBrokerDefault,
    /// From the broker's file.
    StaticBroker,
    /// Set by nobody.
    Default,
    Other,
}

/// What to do with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    Set(String),
    /// Back to what the brokers give topics that do not set it.
    Reset,
}

/// The settings in effect on a topic, the brokers' defaults included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig(BTreeMap<String, ConfigValue>);

impl TopicConfig {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.value.as_deref()
    }

    /// Where the value comes from; `None`: there is no such key, or it was not asked for.
    pub fn source(&self, key: &str) -> Option<ConfigSource> {
        Some(self.0.get(key)?.source)
    }

    /// What the topic would have if it did not set the key itself; `None`: brokers do not say.
    pub fn inherited(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.inherited.as_deref()
    }

    /// The largest record batch that the topic takes.
    pub fn max_message_bytes(&self) -> Option<u64> {
        self.get("max.message.bytes")?.parse().ok()
    }

    /// Whether `cleanup.policy` contains `policy`.
    pub fn cleans_up_by(&self, policy: &str) -> bool {
        self.get("cleanup.policy").unwrap_or_default().split(',').any(|p| p.trim() == policy)
    }

    /// `None`: records stay for ever.
    pub fn retention(&self) -> Option<Duration> {
        let ms: i64 = self.get("retention.ms")?.parse().ok()?;
        u64::try_from(ms).ok().map(Duration::from_millis)
    }

    /// Whether the brokers replace the records' timestamps by the time of arrival.
    pub fn stamps_on_arrival(&self) -> bool {
        self.get("message.timestamp.type") == Some("LogAppendTime")
    }

    /// How far a record's timestamp may lie before the broker's clock, and the setting that says so; `None`: any time.
    /// The older name, which brokers before 4.0 have too, counts where the newer one is not set.
    pub fn timestamp_before_max(&self) -> Option<(&'static str, Duration)> {
        [BEFORE_MAX, DIFFERENCE_MAX].into_iter().find_map(|name| {
            let ms: i64 = self.get(name)?.parse().ok()?;
            (ms != i64::MAX).then(|| (name, Duration::from_millis(ms.unsigned_abs())))
        })
    }

    /// Whether the brokers know the setting by which times that are too old are refused: they do from 3.6 on.
    pub fn knows_timestamp_before_max(&self) -> bool {
        self.0.contains_key(BEFORE_MAX)
    }

    /// How many replicas must take a record.
    pub fn min_insync_replicas(&self) -> Option<usize> {
        self.get("min.insync.replicas")?.parse().ok()
    }
}

/// As if each of them were set on the topic.
impl<'a> FromIterator<(&'a str, &'a str)> for TopicConfig {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(entries: T) -> Self {
        let value = |value: &str| ConfigValue { value: Some(value.to_owned()), source: ConfigSource::Topic, inherited: None };
        Self(entries.into_iter().map(|(key, text)| (key.to_owned(), value(text))).collect())
    }
}

/// The settings of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerConfig(BTreeMap<String, String>);

impl BrokerConfig {
    /// Whether a record is only taken into a transaction that is under way; `None`: the broker does not know of that.
    pub fn verifies_transactions(&self) -> Option<bool> {
        self.0.get("transaction.partition.verification.enable").map(|value| value == "true")
    }

    /// For how long the offsets of a group without members are kept.
    pub fn offsets_retention(&self) -> Option<Duration> {
        let minutes: u64 = self.0.get("offsets.retention.minutes")?.parse().ok()?;
        Some(Duration::from_secs(minutes.saturating_mul(60)))
    }

    /// `retention.ms` of topics that do not set it: of three settings the one of the finest unit counts.
    pub fn retention_ms(&self) -> Option<String> {
        let of = |unit| {
            let name = format!("log.retention.{unit}");
            in_unit_of("retention.ms", &name, self.0.get(&name)?.clone())
        };
        ["ms", "minutes", "hours"].into_iter().find_map(of)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for BrokerConfig {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(entries: T) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
}

impl Admin {
    pub async fn topic_config(&self, topic: &str) -> Result<TopicConfig, AdminError> {
        self.config(Of::Topics, topic, || format!("topic {topic}")).await.map(TopicConfig)
    }

    /// The settings of a broker; `None`: this identity may not read them.
    pub async fn broker_config(&self, broker: i32) -> Result<Option<BrokerConfig>, AdminError> {
        match self.config(Of::Broker, &broker.to_string(), || format!("broker {broker}")).await {
            Ok(config) => Ok(Some(BrokerConfig(config.into_iter().filter_map(|(key, entry)| Some((key, entry.value?))).collect()))),
            Err(error) if error.is_denied() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn config(&self, of: Of, name: &str, shown: impl Fn() -> String) -> Result<BTreeMap<String, ConfigValue>, AdminError> {
        let names: BTreeSet<_> = [name.to_owned()].into();
        let mut answers = self.ask(REQUEST_TIMEOUT, move |client, deadline| describe(client, of, &names, &[], deadline)).await?;
        answers.remove(name).unwrap_or(Err(RequestError::NoAnswer)).map_err(|source| match source {
            RequestError::Refused { code, .. } => AdminError::ConfigRefused { of: shown(), code },
            source @ (RequestError::Request { .. }
            | RequestError::Name(_)
            | RequestError::Null(_)
            | RequestError::Option { .. }
            | RequestError::NoAnswer) => AdminError::DescribeConfig { of: shown(), source },
        })
    }

    /// The values that `keys` have on topics, with an answer about each topic; all keys, if none is named.
    pub async fn topic_configs(
        &self,
        topics: BTreeSet<String>,
        keys: &'static [&'static str],
        within: Duration,
    ) -> Result<Answers<TopicConfig>, AdminError> {
        let described = self.ask(within, move |client, deadline| describe(client, Of::Topics, &topics, keys, deadline)).await?;
        Ok(described.into_iter().map(|(topic, values)| (topic, values.map(TopicConfig))).collect())
    }

    /// Alters keys of topics, and says of each topic whether it was done: all of a topic's changes or none. A key that is not
    /// named stays as it is. A topic without an answer may have been altered: look before trying again.
    pub async fn alter_topic_configs(
        &self,
        changes: BTreeMap<String, BTreeMap<String, ConfigChange>>,
        within: Duration,
    ) -> Result<Answers<()>, AdminError> {
        let unanswered = || changes.keys().map(|topic| (topic.clone(), Err(RequestError::NoAnswer))).collect();
        if weir_failpoints::hit("kafka.alter.send").is_some() {
            return Ok(unanswered());
        }
        let lost = unanswered();
        let answers = self.ask(within, move |client, deadline| native::configs::alter(client, &changes, deadline)).await;
        if weir_failpoints::hit("kafka.alter.done").is_some() { Ok(lost) } else { answers }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use rdkafka::types::RDKafkaErrorCode;

    use super::*;

    fn config(entries: &[(&str, &str)]) -> TopicConfig {
        entries.iter().copied().collect()
    }

    #[test]
    fn infinite_is_not_a_duration() {
        assert_eq!(config(&[("retention.ms", "-1")]).retention(), None);
        assert_eq!(config(&[("retention.ms", "1500")]).retention(), Some(Duration::from_millis(1500)));
        assert_eq!(config(&[("message.timestamp.before.max.ms", "9223372036854775807")]).timestamp_before_max(), None);
        assert_eq!(config(&[(BEFORE_MAX, "7")]).timestamp_before_max(), Some((BEFORE_MAX, Duration::from_millis(7))));
        assert_eq!(config(&[(DIFFERENCE_MAX, "8")]).timestamp_before_max(), Some((DIFFERENCE_MAX, Duration::from_millis(8))));
    }

    /// The mock has no controller to ask.
    #[tokio::test(flavor = "multi_thread")]
    async fn each_topic_has_an_answer_and_a_wrong_one_its_own() {
        let cluster = crate::mock::cluster();
        let admin = Admin::new(&cluster.config).unwrap();
        let timed_out = |error: &RequestError| error.code() == Some(RDKafkaErrorCode::OperationTimedOut);
        let within = Duration::from_secs(1);
        // Those that could not even be asked about.
        let wrong = |error: &RequestError| matches!(error, RequestError::Name(name) if ["", "a\0"].contains(&name.as_str()));

        let topics: BTreeSet<_> = ["", "a\0", "one", "two"].map(str::to_owned).into();
        let described = admin.topic_configs(topics.clone(), &["retention.ms"], within).await.unwrap();
        assert!(described.keys().eq(&topics));
        let errors: Vec<_> = described.into_values().map(Result::unwrap_err).collect();
        assert!(errors[..2].iter().all(wrong) && errors[2..].iter().all(timed_out), "{errors:?}");

        let change = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), ConfigChange::Set(value.to_owned()))]);
        let changes = BTreeMap::from([
            ("a".to_owned(), change("", "1")),
            ("b".to_owned(), change("retention.ms", "a\0")),
            ("c".to_owned(), change("retention.ms", "1")),
            ("d".to_owned(), [("retention.ms".to_owned(), ConfigChange::Reset)].into()),
        ]);
        let altered = admin.alter_topic_configs(changes, within).await.unwrap();
        assert!(altered.keys().eq(["a", "b", "c", "d"]));
        let errors: Vec<_> = altered.into_values().map(Result::unwrap_err).collect();
        assert!(errors[..2].iter().all(wrong) && errors[2..].iter().all(timed_out), "{errors:?}");
    }

    #[test]
    fn the_finest_unit_of_a_brokers_retention_counts() {
        let broker = |entries: &[(&str, &str)]| entries.iter().copied().collect::<BrokerConfig>().retention_ms();
        let (hours, minutes, ms) = (("log.retention.hours", "168"), ("log.retention.minutes", "90"), ("log.retention.ms", "-1"));
        assert_eq!(broker(&[hours]).as_deref(), Some("604800000"));
        assert_eq!(broker(&[hours, minutes]).as_deref(), Some("5400000"));
        assert_eq!(broker(&[hours, minutes, ms]).as_deref(), Some("-1"));
        assert_eq!(broker(&[]), None);
    }

    #[test]
    fn policies_are_a_list() {
        let both = config(&[("cleanup.policy", "compact, delete")]);
        assert!(both.cleans_up_by("compact") && both.cleans_up_by("delete"));
        assert!(!config(&[("cleanup.policy", "compacted")]).cleans_up_by("compact"));
    }
}
