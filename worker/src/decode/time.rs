//! Instants and days from text: RFC 3339 to the microsecond, nothing guessed.

use super::reject::{Fault, Reason, excerpt};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Microseconds since the epoch of an RFC 3339 date-time. The offset is required, a leap second is refused (it has no
/// instant of its own), and digits finer than a microsecond must be zeros.
pub fn parse_rfc3339(text: &[u8]) -> Result<i64, Fault> {
    let fault = |what: &str| Fault::new(Reason::InvalidTimestamp, format!("\"{}\" {what}", excerpt(text)));
    // yyyy-mm-ddThh:mm:ssZ is the shortest.
    if text.len() < 20 {
        return Err(fault("is not RFC 3339 (such as 2026-11-03T06:00:00.123456Z)"));
    }
    let day = days(&text[..10]).ok_or_else(|| fault("has no valid date"))?;
    if !matches!(text[10], b'T' | b't' | b' ') || text[13] != b':' || text[16] != b':' {
        return Err(fault("is not RFC 3339 (such as 2026-11-03T06:00:00.123456Z)"));
    }
    let two = |at: usize| two_digits(&text[at..at + 2]);
    let (Some(hour), Some(minute), Some(second)) = (two(11), two(14), two(17)) else {
        return Err(fault("has no valid time of day"));
    };
    if second == 60 {
        return Err(fault("is a leap second, which has no instant of its own"));
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(fault("has no valid time of day"));
    }
    let mut at = 19;
    let mut micros = 0;
    if text[at] == b'.' {
        let fraction = &text[at + 1..];
        let len = fraction.iter().position(|b| !b.is_ascii_digit()).unwrap_or(fraction.len());
        if len == 0 {
            return Err(fault("has no digits behind the point"));
        }
        if fraction[..len].iter().skip(6).any(|b| *b != b'0') {
            return Err(Fault::new(Reason::NotExact, format!("\"{}\" is finer than a microsecond", excerpt(text))));
        }
        let digits = fraction[..len].iter().chain(std::iter::repeat(&b'0')).take(6);
        micros = digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        at += 1 + len;
    }
    let offset = offset_seconds(&text[at..]).ok_or_else(|| fault("has no offset (Z or +hh:mm)"))?;
    let seconds = day * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
    Ok(seconds * MICROS_PER_SECOND + micros)
}

/// Days since the epoch of `yyyy-mm-dd`.
pub fn parse_date(text: &[u8]) -> Result<i32, Fault> {
    days(text)
        .and_then(|days| i32::try_from(days).ok())
        .ok_or_else(|| Fault::new(Reason::InvalidDate, format!("\"{}\" is not a day as yyyy-mm-dd", excerpt(text))))
}

fn offset_seconds(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let hours = two_digits(&[*h1, *h2])?;
            let minutes = two_digits(&[*m1, *m2])?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return None;
    };
    let year = two_digits(&[*y1, *y2])? * 100 + two_digits(&[*y3, *y4])?;
    let month = two_digits(&[*m1, *m2])?;
    let day = two_digits(&[*d1, *d2])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    // Days of the proleptic Gregorian calendar, counted in years that begin in March so that the leap day comes last.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn two_digits(text: &[u8]) -> Option<i64> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn instants_agree_with_an_independent_calendar() {
        let texts = [
            "1970-01-01T00:00:00Z",
            "2026-11-03T06:00:00.123456Z",
            "2000-02-29T23:59:59.9Z",
            "1969-12-31T23:59:59.999999Z",
            "0001-01-01T00:00:00Z",
            "9999-12-30T21:59:59.999999Z",
            "2026-11-03T06:00:00+05:30",
            "2026-11-03T06:00:00.5-08:00",
            "2024-02-29t12:00:00.100000000z",
        ];
        for text in texts {
            let expected: jiff::Timestamp = text.parse().unwrap();
            assert_eq!(parse_rfc3339(text.as_bytes()).unwrap(), expected.as_microsecond(), "{text}");
        }
        for day in (-700_000..2_900_000).step_by(9973) {
            let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(day)).unwrap();
            assert_eq!(i64::from(parse_date(date.to_string().as_bytes()).unwrap()), day, "{date}");
        }
    }

    #[test]
    fn refuses_what_is_not_an_instant() {
        for text in [
            "",
            "2026-11-03",
            "2026-11-03T06:00:00",
            "2026-11-03T06:00Z",
            "2026-11-03T06:00:00+0530",
            "2026-11-03T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-03T06:60:00Z",
            "2026-12-31T23:59:60Z",
            "2026-11-03T06:00:00.Z",
            "2026-11-03T06:00:00Zz",
            "2026-11-03X06:00:00Z",
            "2026-11-03T06:00:00+24:00",
            "+2026-11-03T06:00:00Z",
            "1699000000000",
        ] {
            assert_eq!(parse_rfc3339(text.as_bytes()).unwrap_err().reason, Reason::InvalidTimestamp, "{text}");
        }
        let too_fine = parse_rfc3339(b"2026-11-03T06:00:00.1234567Z").unwrap_err();
        assert_eq!(too_fine.reason, Reason::NotExact);
        for text in ["2026-1-03", "2026-00-10", "2026-04-31", "20261103", "1900-02-29"] {
            assert_eq!(parse_date(text.as_bytes()).unwrap_err().reason, Reason::InvalidDate, "{text}");
        }
    }
}
