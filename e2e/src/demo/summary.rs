//! What came of it, beside what was forecast; and what of it is wrong.

use std::time::Duration;

use serde_json::{Value, json};

use crate::faults;

use super::truth::Answer;
use super::watch::{grouped, number, text};

/// How far the bytes that `extract` read may be from the sizes of the objects, in percent.
const BYTES_TOLERANCE_PERCENT: f64 = 1.0;
/// The head of an answer, which is not the object's: what S3 servers send is well below it.
const HEAD_BYTES_MAX: u64 = 1500;
/// Forecasts of events come from samples of all objects.
const EVENTS_TOLERANCE_PERCENT: f64 = 10.0;
/// Those of the duration, of a class's first run here, and of one of which an earlier one tells.
const FIRST_TOLERANCE_PERCENT: f64 = 40.0;
const LATER_TOLERANCE_PERCENT: f64 = 20.0;

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

    /// Whether the class's earlier run, and not the sample, told how long it will take; and how far off that may be then.
    fn basis(&self) -> (&'static str, f64) {
        match text(self.planned, "/status/plan/estimates/basis") {
            "EarlierRun" => ("class's earlier run", LATER_TOLERANCE_PERCENT),
            _ => ("sample", FIRST_TOLERANCE_PERCENT),
        }
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
            off(forecast as f64, outcome as f64, EVENTS_TOLERANCE_PERCENT)
        ));
        let (duration, (basis, tolerance)) = (self.forecast_seconds(), self.basis());
        lines.push(format!(
            "  duration  {:>10} s ±{:>3} %  {:>10} s  {}, by the {basis}",
            duration,
            number(self.planned, &estimate("durationErrorPercent")),
            self.run_seconds,
            off(duration as f64, self.run_seconds as f64, tolerance),
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
        let ((forecast, outcome), seconds) = (self.forecast(), self.forecast_seconds());
        json!({
            "seconds": self.seconds,
            "accounting": self.job.pointer("/status/accounting"),
            "quarantine": self.job.pointer("/status/quarantine"),
            "forecast": {"events": forecast, "outcome": outcome,
                "isNear": is_near(forecast as f64, outcome as f64, EVENTS_TOLERANCE_PERCENT),
                "seconds": seconds, "outcomeSeconds": self.run_seconds,
                "secondsAreNear": is_near(seconds as f64, self.run_seconds as f64, self.basis().1)},
            "sourceBytes": self.read.map(|read| json!({
                "objects": read.objects, "extract": read.extracting, "planning": read.planning,
                "repeatedAttempts": read.repeated})),
            "liveRecords": self.live_records,
            "truth": {"agrees": self.answer.verdict.agrees, "found": self.answer.verdict.found, "findings": self.answer.verdict.findings},
            "agrees": self.wrong().is_empty(),
        })
    }

    /// Each thing that is not as it should be, as a sentence. How long it took counts only where the whole of everything is
    /// run: a machine that others use too takes longer.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.wrong_anywhere();
        let ((basis, tolerance), forecast) = (self.basis(), self.forecast_seconds());
        if faults::is_full() && !is_near(forecast as f64, self.run_seconds as f64, tolerance) {
            wrong.push(format!("the forecast of {forecast} s by the {basis} is more than {tolerance} % off {}", self.run_seconds));
        }
        wrong
    }

    fn wrong_anywhere(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if !self.answer.verdict.agrees {
            wrong.push("the topic, the log and the accounting do not agree; see above".to_owned());
        }
        if self.answer.verdict.live != self.live_records || self.live_records == 0 {
            wrong.push(format!("of {} live records {} are there", self.live_records, self.answer.verdict.live));
        }
        let (forecast, outcome) = self.forecast();
        if !is_near(forecast as f64, outcome as f64, EVENTS_TOLERANCE_PERCENT) {
            wrong.push(format!("the forecast of {forecast} events is more than {EVENTS_TOLERANCE_PERCENT} % off {outcome}"));
        }
        if let Some(read) = self.read
            && !read.is_once()
        {
            wrong.push(format!("extract read {} bytes of objects that have {}: not each once", read.extracting, read.objects));
        }
        wrong
    }
}

fn is_near(forecast: f64, outcome: f64, tolerance_percent: f64) -> bool {
    (forecast - outcome).abs() * 100.0 <= outcome * tolerance_percent
}

/// How far a forecast is off, and whether that is too far, for people.
fn off(forecast: f64, outcome: f64, tolerance_percent: f64) -> String {
    let verdict = if is_near(forecast, outcome, tolerance_percent) { "within" } else { "MORE THAN" };
    format!("{:+.1} % off, {verdict} {tolerance_percent} %", (forecast - outcome) * 100.0 / outcome.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_off_by_a_share_of_the_outcome() {
        let told = [off(90.0, 100.0, 10.0), off(150.0, 100.0, 40.0), off(0.0, 0.0, 10.0), off(89.0, 100.0, 10.0)];
        let wanted = ["-10.0 % off, within 10 %", "+50.0 % off, MORE THAN 40 %", "+0.0 % off, within 10 %", "-11.0 % off, MORE THAN 10 %"];
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_later_run_is_judged_more_strictly_than_a_first() {
        let answer = Answer {
            text: String::new(),
            verdict: serde_json::from_value(json!({"agrees": true, "found": 7, "live": 1, "bytes": 1, "counts": {}, "findings": {}}))
                .expect("the verdict has these fields"),
        };
        let job = json!({"status": {"accounting": {"selected": 100}}});
        let near = |basis: &str, run_seconds| {
            let planned = json!({"status": {"plan": {"estimates": {"events": 95, "duration": "1m10s", "basis": basis}}}});
            let summary = Summary { planned: &planned, job: &job, answer: &answer, read: None, seconds: 99, run_seconds, live_records: 1 };
            assert!(summary.wrong_anywhere().is_empty());
            let line = summary.text().lines().find(|line| line.contains("duration")).map(str::to_owned);
            let is_near = summary.json()["forecast"]["secondsAreNear"] == true;
            assert_eq!(line.is_some_and(|line| line.contains("within")), is_near);
            is_near
        };
        assert_eq!([50, 49, 116, 117].map(|seconds| near("Sample", seconds)), [true, false, true, false]);
        assert_eq!([59, 58, 87, 88].map(|seconds| near("EarlierRun", seconds)), [true, false, true, false]);
    }

    #[test]
    fn bytes_are_read_once_within_one_percent() {
        let read = |extracting, repeated| Bytes { planning: 0, extracting, objects: 1_000_000, object_count: 10, repeated }.is_once();
        assert!(!read(999_999, 0) && read(1_000_000, 0) && read(1_025_000, 0) && !read(1_030_000, 0) && !read(2_000_000, 0));
        assert!(!read(999_999, 1) && read(1_200_000, 1));
    }
}
