//! Durations as Kubernetes writes them: `90s`, `15m`, `1h30m`, `168h`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time of at least zero, written as a Go duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KubeDuration(Duration);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DurationError {
    #[error("{0:?} is not a duration; write it as `90s`, `15m`, `1h30m` or `168h`")]
    Parse(String),
    #[error("{0:?} is negative; a duration here is at least 0s")]
    Negative(String),
}

impl KubeDuration {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn as_std(self) -> Duration {
        self.0
    }

    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// Microseconds; durations are bounded by the schema, so this does not overflow.
    pub fn as_micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }
}

impl From<Duration> for KubeDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for KubeDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed: kube::core::Duration = text.parse().map_err(|_| DurationError::Parse(text.to_owned()))?;
        if parsed.is_negative() {
            return Err(DurationError::Negative(text.to_owned()));
        }
        Ok(Self(parsed.into()))
    }
}

impl TryFrom<String> for KubeDuration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KubeDuration> for String {
    fn from(duration: KubeDuration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for KubeDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.subsec_millis();
        let (hours, minutes, seconds) = (self.0.as_secs() / 3600, self.0.as_secs() / 60 % 60, self.0.as_secs() % 60);
        for (value, unit) in [(hours, "h"), (minutes, "m"), (seconds, "s"), (u64::from(millis), "ms")] {
            if value > 0 {
                write!(f, "{value}{unit}")?;
            }
        }
        if self.0 < Duration::from_millis(1) { f.write_str("0s") } else { Ok(()) }
    }
}

impl JsonSchema for KubeDuration {
    fn schema_name() -> Cow<'static, str> {
        "KubeDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^([0-9]{1,9}(ms|s|m|h))+$",
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn reads_and_writes_what_kubernetes_writes() {
        for (text, seconds, canonical) in
            [("15m", 900, "15m"), ("168h", 604_800, "168h"), ("1h30m", 5400, "1h30m"), ("90s", 90, "1m30s"), ("0s", 0, "0s")]
        {
            let duration: KubeDuration = text.parse().unwrap();
            assert_eq!((duration.as_secs(), duration.to_string().as_str()), (seconds, canonical));
        }
        assert!("-5m".parse::<KubeDuration>().is_err());
        assert!("soon".parse::<KubeDuration>().is_err());
    }
}
