//! What came of it, beside what was forecast; and what of it is wrong.

use std::time::Duration;

use serde_json::{Value, json};

use super::truth::Answer;
use super::watch::{grouped, number, text};

/// How far the bytes that `extract` read may be from the sizes of the objects, in percent.
const BYTES_TOLERANCE_PERCENT: f64 = 1.0;
/// The head of an answer, which is not the object's: what S3 servers send is well below it.
const HEAD_BYTES_MAX: u64 = 1500;
/// Forecasts of events come from samples of all objects. Those of the duration are told and not judged: the machine is shared.
const FORECAST_TOLERANCE_PERCENT: f64 = 10.0;

/// Bytes that the S3 server answered, counted outside of weir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// While the plan was made: listings and samples.
    pub planning: u64,
    /// After that.
    pub extracting: u64,
    /// Sizes of the objects.
    pub objects: u64,
    /// How many there are.
    pub object_count: u64,
    /// Attempts that began again where an earlier one was cut off.
    pub repeated: u64,
}

impl Bytes {
    /// Each byte once: not less, and not more than the tolerance and the heads of answers. A repeated attempt reads its
    /// chunk again.
    fn is_once(&self) -> bool {
        let over = self.extracting.saturating_sub(self.object_count * HEAD_BYTES_MAX);
        if self.repeated > 0 {
            return self.extracting >= self.objects;
        }
        self.extracting >= self.objects && (over as f64) <= self.objects as f64 * (1.0 + BYTES_TOLERANCE_PERCENT / 100.0)
    }
}

/// Everything that was seen.
#[derive(Debug)]
pub struct Summary<'a> {
    /// The job when its plan was there.
    pub planned: &'a Value,
    /// The job in the end.
    pub job: &'a Value,
    /// The truth's answer.
    pub answer: &'a Answer,
    /// Absent where the source was not metered.
    pub read: Option<Bytes>,
    /// From the first step on.
    pub seconds: u64,
    /// From the approval to the end.
    pub run_seconds: u64,
    /// Acknowledged to the live producer.
    pub live_records: u64,
}

/// What the accounting has, in the order in which it is told.
const FATES: [(&str, &str); 9] = [
    ("rows read", "read"),
    ("filtered out", "filteredOut"),
    ("outside the window", "outsideWindow"),
    ("late, quarantined", "late"),
    ("invalid, quarantined", "quarantined"),
    ("duplicates dropped", "duplicates"),
    ("recovered", "published"),
    ("already present", "alreadyPresent"),
    ("verified", "verified"),
];

impl Summary<'_> {
    fn forecast(&self) -> (u64, u64) {
        // Both are before duplicates are known.
        (number(self.planned, "/status/plan/estimates/events"), number(self.job, "/status/accounting/selected"))
    }

    fn forecast_seconds(&self) -> u64 {
        let duration = text(self.planned, "/status/plan/estimates/duration").parse::<kube::core::Duration>().ok();
        duration.map_or(0, |duration| Duration::from(duration).as_secs())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut lines = vec![String::new(), format!("What became of the rows ({} s in all)", self.seconds)];
        for (what, name) in FATES {
            lines.push(format!("  {what:<22}{:>12}", grouped(number(self.job, &format!("/status/accounting/{name}")))));
        }
        let by_type = self.job.pointer("/status/accounting/byEventType").and_then(Value::as_array);
        for row in by_type.into_iter().flatten() {
            lines.push(format!("    {:<20}{:>12}", text(row, "/eventType"), grouped(number(row, "/staged"))));
        }
        lines.push("Why rows are in quarantine".to_owned());
        for row in self.job.pointer("/status/quarantine/reasons").and_then(Value::as_array).into_iter().flatten() {
            lines.push(format!("  {:<42}{:>6}", text(row, "/reason"), grouped(number(row, "/rows"))));
        }
        lines.push(format!("  they lie in {}", text(self.job, "/status/quarantine/uri")));
        let (forecast, outcome) = self.forecast();
        let estimate = |name: &str| format!("/status/plan/estimates/{name}");
        lines.push("Forecast and outcome".to_owned());
        lines.push(format!(
            "  events    {:>12} ±{:>3} %  {:>12}  {}",
            grouped(forecast),
            number(self.planned, &estimate("eventsErrorPercent")),
            grouped(outcome),
            off(forecast as f64, outcome as f64)
        ));
        let duration = self.forecast_seconds();
        lines.push(format!(
            "  duration  {:>10} s ±{:>3} %  {:>10} s  {}, by the {}",
            duration,
            number(self.planned, &estimate("durationErrorPercent")),
            self.run_seconds,
            off(duration as f64, self.run_seconds as f64),
            if text(self.planned, &estimate("basis")) == "EarlierRun" { "class's earlier run" } else { "sample" },
        ));
        if let Some(read) = self.read {
            let percent = read.extracting as f64 * 100.0 / read.objects as f64;
            lines.push(format!(
                "Source bytes, counted in front of the S3 server: objects {}, extract read {} ({percent:.2} %), planning {}",
                grouped(read.objects),
                grouped(read.extracting),
                grouped(read.planning)
            ));
        }
        lines.push(self.answer.text.clone());
        lines.join("\n")
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (forecast, outcome) = self.forecast();
        json!({
            "seconds": self.seconds,
            "accounting": self.job.pointer("/status/accounting"),
            "quarantine": self.job.pointer("/status/quarantine"),
            "forecast": {"events": forecast, "outcome": outcome,
                "seconds": self.forecast_seconds(), "outcomeSeconds": self.run_seconds},
            "sourceBytes": self.read.map(|read| json!({
                "objects": read.objects, "extract": read.extracting, "planning": read.planning,
                "repeatedAttempts": read.repeated})),
            "liveRecords": self.live_records,
            "truth": {"agrees": self.answer.verdict.agrees, "found": self.answer.verdict.found, "findings": self.answer.verdict.findings},
            "agrees": self.wrong().is_empty(),
        })
    }

    /// Each thing that is not as it should be, as a sentence.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if !self.answer.verdict.agrees {
            wrong.push("the topic, the log and the accounting do not agree; see above".to_owned());
        }
        if self.answer.verdict.live != self.live_records || self.live_records == 0 {
            wrong.push(format!("of {} live records {} are there", self.live_records, self.answer.verdict.live));
        }
        let (forecast, outcome) = self.forecast();
        if (forecast as f64 - outcome as f64).abs() * 100.0 > outcome as f64 * FORECAST_TOLERANCE_PERCENT {
            wrong.push(format!("the forecast of {forecast} events is more than {FORECAST_TOLERANCE_PERCENT} % off {outcome}"));
        }
        if let Some(read) = self.read
            && !read.is_once()
        {
            wrong.push(format!("extract read {} bytes of objects that have {}: not each once", read.extracting, read.objects));
        }
        wrong
    }
}

/// How far a forecast is off, for people.
fn off(forecast: f64, outcome: f64) -> String {
    format!("{:+.1} % off", (forecast - outcome) * 100.0 / outcome.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_off_by_a_share_of_the_outcome() {
        assert_eq!([off(90.0, 100.0), off(150.0, 100.0), off(100.0, 100.0)], ["-10.0 % off", "+50.0 % off", "+0.0 % off"]);
    }

    #[test]
    fn bytes_are_read_once_within_one_percent() {
        let read = |extracting, repeated| Bytes { planning: 0, extracting, objects: 1_000_000, object_count: 10, repeated }.is_once();
        assert!(!read(999_999, 0) && read(1_000_000, 0) && read(1_025_000, 0) && !read(1_030_000, 0) && !read(2_000_000, 0));
        assert!(!read(999_999, 1) && read(1_200_000, 1));
    }
}
