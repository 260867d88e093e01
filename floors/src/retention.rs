//! How long records are kept: a length of time or without end.

use serde::{Deserialize, Serialize};

/// How long records are kept. `Infinite` is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Retention {
    /// At least 0.
    Millis(i64),
    Infinite,
}

impl Retention {
    /// As Kafka writes it: `-1` is infinite, and so is every other negative number.
    pub const fn of_kafka(value: i64) -> Self {
        if value < 0 { Self::Infinite } else { Self::Millis(value) }
    }

    pub const fn to_kafka(self) -> i64 {
        match self {
            Self::Millis(ms) => ms,
            Self::Infinite => -1,
        }
    }

    pub const fn millis(self) -> Option<i64> {
        match self {
            Self::Millis(ms) => Some(ms),
            Self::Infinite => None,
        }
    }
}

/// `percent` of a length of time; it does not overflow.
pub fn share_ms(length_ms: i64, percent: u32) -> i64 {
    i64::try_from(i128::from(length_ms) * i128::from(percent) / 100).unwrap_or(i64::MAX)
}

/// How many percent of `whole` a `part` is, rounded down; 100 and more of a `whole` of 0.
pub fn percent_of(part_ms: i64, whole_ms: i64) -> u32 {
    let whole = i128::from(whole_ms.max(1));
    u32::try_from((i128::from(part_ms.max(0)) * 100 / whole).min(i128::from(u32::MAX))).unwrap_or(u32::MAX)
}
