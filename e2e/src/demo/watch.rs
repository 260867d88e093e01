//! Looks at a BackfillJob as a user does, by what its status says, and tells what changed.

use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

use crate::fixture::Fixture;

/// How often it is looked at; the operator writes at most every two seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Why it did not come to what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It ended, and not so.
    #[error("{name} is {phase}: {message}")]
    Ended {
        /// The job.
        name: String,
        /// Its last phase.
        phase: String,
        /// Why.
        message: String,
    },
    /// It takes too long.
    #[error("{name} did not become {wanted} within {seconds} s; it is {phase}: {message}")]
    TooLong {
        /// The job.
        name: String,
        /// What was waited for.
        wanted: String,
        /// The limit.
        seconds: u64,
        /// Where it is.
        phase: String,
        /// What it says.
        message: String,
    },
}

/// One job.
#[derive(Clone, Debug)]
pub struct Watched {
    api: Api<DynamicObject>,
    name: String,
}

/// Of a message in a line of progress; all of it is in the status.
const MESSAGE_CHARACTERS_MAX: usize = 120;

/// Phases that a job does not leave by itself.
const FINAL: [&str; 3] = ["Complete", "Failed", "Canceled"];

impl Watched {
    /// A job of the fixture's namespace, whether it is there or not.
    pub fn new(fixture: &Fixture, name: &str) -> Self {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("weir.dev", "v1alpha1", "BackfillJob"));
        let api = Api::namespaced_with(fixture.cluster.kube.clone(), &fixture.namespace, &resource);
        Self { api, name: name.to_owned() }
    }

    /// The object as JSON, or null.
    pub async fn look(&self) -> Value {
        match self.api.get_opt(&self.name).await {
            Ok(Some(object)) => serde_json::to_value(object).unwrap_or_default(),
            // An apiserver that is away is looked at again.
            Ok(None) | Err(_) => Value::Null,
        }
    }

    /// Waits until `is_there` holds; every look is shown to `seen`. A final phase that is not it ends the wait.
    pub async fn until(
        &self,
        wanted: &str,
        limit: Duration,
        is_there: impl Fn(&Value) -> bool,
        mut seen: impl FnMut(&Value),
    ) -> Result<Value, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let job = self.look().await;
            seen(&job);
            if is_there(&job) {
                return Ok(job);
            }
            let (phase, message) = (phase(&job).to_owned(), text(&job, "/status/message").to_owned());
            // The status may still be about an older spec.
            let is_fresh = job.pointer("/status/observedGeneration") == job.pointer("/metadata/generation");
            if is_fresh && FINAL.contains(&phase.as_str()) {
                return Err(Error::Ended { name: self.name.clone(), phase, message });
            }
            if Instant::now() > deadline {
                let wanted = wanted.to_owned();
                return Err(Error::TooLong { name: self.name.clone(), wanted, seconds: limit.as_secs(), phase, message });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits for a phase of the spec as it is now.
    pub async fn phase(&self, wanted: &str, limit: Duration, seen: impl FnMut(&Value)) -> Result<Value, Error> {
        let is_there =
            |job: &Value| phase(job) == wanted && job.pointer("/status/observedGeneration") == job.pointer("/metadata/generation");
        self.until(wanted, limit, is_there, seen).await
    }
}

/// `status.phase`.
pub fn phase(job: &Value) -> &str {
    text(job, "/status/phase")
}

/// Whether a run of this generation is complete.
pub fn is_complete(job: &Value, generation: u32) -> bool {
    phase(job) == "Complete" && number(job, "/status/run/generation") == u64::from(generation)
}

/// A text, or an empty one.
pub fn text<'a>(job: &'a Value, pointer: &str) -> &'a str {
    job.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A count, or 0.
pub fn number(job: &Value, pointer: &str) -> u64 {
    job.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// A condition's status, reason and message; empty where there is none.
pub fn condition<'a>(job: &'a Value, kind: &str) -> (&'a str, &'a str, &'a str) {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|condition| text(condition, "/type") == kind);
    found.map_or(("", "", ""), |found| (text(found, "/status"), text(found, "/reason"), text(found, "/message")))
}

/// What a user sees of the progress, in one line.
pub fn line(job: &Value) -> String {
    let count = |pointer: &str| grouped(number(job, pointer));
    let mut line = format!("{:<17}", phase(job));
    if job.pointer("/status/progress").is_some() {
        line += &format!(
            " {:>4}  chunks {}/{}  slices {}/{} published, {} verified  {} events",
            text(job, "/status/progress/percent"),
            count("/status/chunks/extracted"),
            count("/status/chunks/total"),
            grouped(number(job, "/status/slices/published") + number(job, "/status/slices/verified")),
            count("/status/slices/total"),
            count("/status/slices/verified"),
            count("/status/accounting/published"),
        );
        if let Some(rate) = job.pointer("/status/progress/eventsPerSecond").and_then(Value::as_u64) {
            line += &format!("  {} events/s", grouped(rate));
        }
        if let Some(eta) = job.pointer("/status/progress/eta").and_then(Value::as_str) {
            line += &format!("  ETA {eta}");
        }
    }
    let (stalled, reason, message) = condition(job, "Stalled");
    if stalled == "True" {
        let short: String = message.chars().take(MESSAGE_CHARACTERS_MAX).collect();
        line += &format!("  stalled: {reason}: {short}");
    }
    line
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let shown = [0, 12, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "12", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_line_tells_the_phase_and_the_progress() {
        let job = serde_json::json!({"status": {
            "phase": "Running", "progress": {"percent": "42%", "eventsPerSecond": 51000, "eta": "12s"},
            "chunks": {"total": 40, "extracted": 8}, "slices": {"total": 36, "published": 2, "verified": 4},
            "accounting": {"published": 123_456},
            "conditions": [{"type": "Stalled", "status": "True", "reason": "GrantMissing", "message": "no grant"}],
        }});
        let line = line(&job);
        for part in ["Running", "42%", "8/40", "6/36", "4 verified", "123,456", "51,000", "12s", "GrantMissing: no grant"] {
            assert!(line.contains(part), "{line}");
        }
    }
}
