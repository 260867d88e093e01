//! Prefix templates: `v2/dt={date}/hr={hour}/` to the prefixes of an interval of arrival, and back. Pure.

use thiserror::Error;
use weir_crds::window::Interval;

/// Prefixes of one source: each costs a listing. Two months of minutes.
pub const PREFIXES_MAX: usize = 100_000;

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;

/// A parsed prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    parts: Vec<Part>,
    /// How much time one prefix covers; `None` where the prefix has no placeholder.
    step_us: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Date,
    Hour,
    Minute,
}

/// Why a prefix was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A placeholder that weir does not know.
    #[error("position {position}: unknown placeholder {found}; use {{date}}, {{hour}} and {{minute}}")]
    Unknown {
        /// Byte, from 1.
        position: usize,
        /// As written.
        found: String,
    },
    /// An hour without a date, or a minute without an hour.
    #[error("{{{finer}}} needs {{{coarser}}} beside it")]
    Missing {
        /// What is there.
        finer: &'static str,
        /// What is not.
        coarser: &'static str,
    },
    /// Too many listings.
    #[error("the window and its lateness span more than {PREFIXES_MAX} prefixes; use a coarser prefix or a shorter window")]
    TooMany,
}

/// One prefix and the time in which its objects arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedPrefix {
    /// To list.
    pub prefix: String,
    /// `None` where the prefix does not say.
    pub arrival: Option<Interval>,
}

impl PathTemplate {
    /// Parses a prefix.
    pub fn parse(prefix: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = prefix;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, tail) = rest.split_at(at);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let end = tail.find('}').map_or(tail.len(), |end| end + 1);
            parts.push(match &tail[..end] {
                "{date}" => Part::Date,
                "{hour}" => Part::Hour,
                "{minute}" => Part::Minute,
                found => {
                    let position = prefix.len() - tail.len() + 1;
                    return Err(TemplateError::Unknown { position, found: found.to_owned() });
                }
            });
            rest = &tail[end..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let has = |part| parts.contains(&part);
        let (date, hour, minute) = (has(Part::Date), has(Part::Hour), has(Part::Minute));
        if minute && !hour {
            return Err(TemplateError::Missing { finer: "minute", coarser: "hour" });
        }
        if hour && !date {
            return Err(TemplateError::Missing { finer: "hour", coarser: "date" });
        }
        let step_us = match (date, hour, minute) {
            (_, _, true) => Some(MINUTE_US),
            (_, true, false) => Some(HOUR_US),
            (true, false, false) => Some(DAY_US),
            (false, false, false) => None,
        };
        Ok(Self { parts, step_us })
    }

    /// Whether the prefix says when its objects arrived.
    pub fn is_timed(&self) -> bool {
        self.step_us.is_some()
    }

    /// The prefixes whose times overlap `arrival`, oldest first; one that says nothing is its only one.
    pub fn expand(&self, arrival: Interval) -> Result<Vec<TimedPrefix>, TemplateError> {
        let Some(step_us) = self.step_us else {
            return Ok(vec![TimedPrefix { prefix: self.render(0), arrival: None }]);
        };
        let first = arrival.start_us.div_euclid(step_us);
        let last = (arrival.end_us - 1).div_euclid(step_us);
        let count = usize::try_from(last - first + 1).unwrap_or(0);
        if count > PREFIXES_MAX {
            return Err(TemplateError::TooMany);
        }
        Ok((first..=last)
            .map(|step| {
                let start_us = step * step_us;
                TimedPrefix { prefix: self.render(start_us), arrival: Some(Interval { start_us, end_us: start_us + step_us }) }
            })
            .collect())
    }

    fn render(&self, at_us: i64) -> String {
        let at = jiff::Timestamp::from_microsecond(at_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        self.parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.clone(),
                Part::Date => at.strftime("%Y-%m-%d").to_string(),
                Part::Hour => at.strftime("%H").to_string(),
                Part::Minute => at.strftime("%M").to_string(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn interval(start: &str, end: &str) -> Interval {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        Interval { start_us: at(start), end_us: at(end) }
    }

    fn prefixes(template: &str, start: &str, end: &str) -> Vec<String> {
        let expanded = PathTemplate::parse(template).unwrap().expand(interval(start, end)).unwrap();
        expanded.into_iter().map(|timed| timed.prefix).collect()
    }

    #[test]
    fn an_interval_has_every_prefix_that_it_touches() {
        let hours = prefixes("v2/dt={date}/hr={hour}/", "2026-11-03T22:59:59.999999Z", "2026-11-04T01:00:00Z");
        assert_eq!(hours, ["v2/dt=2026-11-03/hr=22/", "v2/dt=2026-11-03/hr=23/", "v2/dt=2026-11-04/hr=00/"]);
        let days = prefixes("{date}", "2024-02-28T12:00:00Z", "2024-03-01T00:00:00Z");
        assert_eq!(days, ["2024-02-28", "2024-02-29"]);
        let minutes = prefixes("{date}T{hour}{minute}", "2026-11-03T06:59:00Z", "2026-11-03T07:00:01Z");
        assert_eq!(minutes, ["2026-11-03T0659", "2026-11-03T0700"]);
        assert_eq!(prefixes("static/", "2026-11-03T06:59:00Z", "2026-11-03T07:00:01Z"), ["static/"]);
    }

    #[test]
    fn each_prefix_knows_its_time() {
        let template = PathTemplate::parse("{date}/{hour}/").unwrap();
        let timed = template.expand(interval("2026-11-03T06:30:00Z", "2026-11-03T06:31:00Z")).unwrap();
        assert_eq!(timed[0].arrival, Some(interval("2026-11-03T06:00:00Z", "2026-11-03T07:00:00Z")));
        assert!(template.is_timed() && !PathTemplate::parse("a/").unwrap().is_timed());
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let refused = |text: &str| PathTemplate::parse(text).unwrap_err().to_string();
        assert_eq!(refused("a/{day}/"), "position 3: unknown placeholder {day}; use {date}, {hour} and {minute}");
        assert!(refused("a/{date").contains("unknown placeholder {date"));
        assert!(refused("a}").contains("position 2"));
        assert_eq!(refused("{hour}/"), "{hour} needs {date} beside it");
        assert_eq!(refused("{date}/{minute}"), "{minute} needs {hour} beside it");
        let minutes = PathTemplate::parse("{date}{hour}{minute}").unwrap();
        assert_eq!(minutes.expand(interval("2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z")), Err(TemplateError::TooMany));
    }
}
