//! Lengths of time and days as people read them.

use crate::{DAY_MS, HOUR_MS, MINUTE_MS, Retention};

/// Exact, as Kubernetes writes it: `168h`, `1h30m`, `0s`.
pub fn exact(length_ms: i64) -> String {
    if length_ms <= 0 {
        return "0s".to_owned();
    }
    let parts = [(length_ms / HOUR_MS, "h"), (length_ms / MINUTE_MS % 60, "m"), (length_ms / 1000 % 60, "s"), (length_ms % 1000, "ms")];
    parts.iter().filter(|(value, _)| *value > 0).map(|(value, unit)| format!("{value}{unit}")).collect()
}

/// The two greatest units, rounded down: `3d4h`, `8h12m`, `45s`.
pub fn rough(length_ms: i64) -> String {
    let units = [(DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m"), (1000, "s")];
    let Some(first) = units.iter().position(|(unit, _)| length_ms >= *unit) else { return "0s".to_owned() };
    let (unit, name) = units[first];
    let mut text = format!("{}{name}", length_ms / unit);
    if let Some((smaller, name)) = units.get(first + 1) {
        let rest = length_ms % unit / smaller;
        if rest > 0 {
            text.push_str(&format!("{rest}{name}"));
        }
    }
    text
}

/// `604800000 (168h)`, or `-1 (unlimited)`.
pub fn retention(retention: Retention) -> String {
    match retention {
        Retention::Millis(ms) => format!("{ms} ({})", exact(ms)),
        Retention::Infinite => "-1 (unlimited)".to_owned(),
    }
}

/// The day of a time, in UTC: `2026-11-02`.
pub fn day(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |at| at.strftime("%Y-%m-%d").to_string())
}

/// A time to the second, in UTC: `2026-11-02T14:03:00Z`.
pub fn second(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A share in percent as a factor: `twice that`, `150 % of that`.
pub fn multiple(percent: u32) -> String {
    match percent {
        100 => "as much".to_owned(),
        200 => "twice that".to_owned(),
        300 => "three times that".to_owned(),
        percent => format!("{percent} % of that"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_people_write_them() {
        for (ms, exactly, roughly) in [
            (0, "0s", "0s"),
            (999, "999ms", "0s"),
            (3_600_000, "1h", "1h"),
            (604_800_000, "168h", "7d"),
            (29_520_000, "8h12m", "8h12m"),
            (29_529_000, "8h12m9s", "8h12m"),
            (76 * HOUR_MS, "76h", "3d4h"),
            (DAY_MS + MINUTE_MS, "24h1m", "1d"),
        ] {
            assert_eq!((exact(ms).as_str(), rough(ms).as_str()), (exactly, roughly), "{ms}");
        }
        assert_eq!(retention(Retention::Millis(3_600_000)), "3600000 (1h)");
        assert_eq!((day(1_793_577_600_000).as_str(), second(1_793_577_600_000).as_str()), ("2026-11-02", "2026-11-02T00:00:00Z"));
    }
}
