//! When a line arrives, given when its event happened: most at once, some hours later, some before it by their clock.

use super::random::Random;
use super::{ALLOWED_LATENESS_MS, ALLOWED_SKEW_MS, HOUR_MS, WINDOW_END_MS, WINDOW_START_MS};

const MINUTE_MS: i64 = 60 * 1000;
/// Lateness is counted from the start of the hour of arrival, so an hour more is late wherever in the hour it arrives.
const LATE_MS: i64 = ALLOWED_LATENESS_MS + HOUR_MS + MINUTE_MS;
/// And a clock that is ahead is counted from the hour's end.
const AHEAD_MS: i64 = ALLOWED_SKEW_MS + HOUR_MS + MINUTE_MS;
/// The first and the last time of arrival that a job reads.
pub const READ_START_MS: i64 = WINDOW_START_MS - HOUR_MS;
pub const READ_END_MS: i64 = WINDOW_END_MS + ALLOWED_LATENESS_MS;

/// Within what is declared.
pub fn in_time(time_ms: i64, random: &mut Random) -> i64 {
    match random.below(1000) {
        // A clock that is a little ahead.
        0..10 => time_ms - random.between(1, ALLOWED_SKEW_MS),
        10..40 => time_ms + random.between(10 * MINUTE_MS, ALLOWED_LATENESS_MS - 10 * MINUTE_MS),
        40..100 => time_ms + random.between(3_000, 10 * MINUTE_MS),
        _ => time_ms + random.between(20, 3_000),
    }
}

/// A phone that got no answer tries again; still within what is declared.
pub fn retried(time_ms: i64, before_ms: i64, random: &mut Random) -> i64 {
    let again = before_ms + random.between(500, 40 * MINUTE_MS);
    again.min(time_ms + ALLOWED_LATENESS_MS - MINUTE_MS)
}

/// Beyond the lateness; `None` where that would be after the last object that is read.
pub fn late(time_ms: i64, random: &mut Random) -> Option<i64> {
    let earliest = time_ms + LATE_MS;
    (earliest < READ_END_MS).then(|| random.between(earliest, READ_END_MS))
}

/// Beyond the skew: a clock that is hours ahead; `None` where that would be before the first object that is read.
pub fn ahead(time_ms: i64, random: &mut Random) -> Option<i64> {
    let latest = time_ms - AHEAD_MS;
    (latest > READ_START_MS).then(|| random.between(READ_START_MS.max(latest - 2 * HOUR_MS), latest))
}
