//! How fast a run is, and how long it will take yet. Pure, and only shown.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use weir_crds::{
    backfill_job::Progress,
    contract::{progress::UnitProgress, units::Verb},
};

use super::{
    observed::{LedgerView, Worker},
    work::Work,
};

/// What each step weighs in a run's work: reading sources and publishing take most of it.
const EXTRACT_WEIGHT: f64 = 0.4;
const ASSEMBLE_WEIGHT: f64 = 0.1;
const PUBLISH_WEIGHT: f64 = 0.4;
const VERIFY_WEIGHT: f64 = 0.1;
/// The pace is taken over the last minutes: long enough to be steady, short enough to follow.
const PACE_WINDOW: Duration = Duration::from_secs(300);
const PACE_SAMPLES_MAX: usize = 150;
/// Less time than this says nothing about the rest.
const PACE_MIN: Duration = Duration::from_secs(10);
/// A worker writes its progress every 5 s; what is older is of a worker that is gone.
const FRESH: Duration = Duration::from_secs(20);

/// The share of a run's work that was done, at some times.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    samples: VecDeque<(Timestamp, f64)>,
}

impl Pace {
    pub fn note(&mut self, now: Timestamp, share: f64) {
        // Less than before is another run.
        if self.samples.back().is_some_and(|(_, last)| *last > share) {
            self.samples.clear();
        }
        self.samples.push_back((now, share));
        let old = |at: Timestamp| now.duration_since(at).unsigned_abs() > PACE_WINDOW;
        while self.samples.len() > PACE_SAMPLES_MAX || self.samples.front().is_some_and(|(at, _)| old(*at)) {
            self.samples.pop_front();
        }
    }

    /// While nothing is meant to go on, no time counts.
    pub fn pause(&mut self) {
        self.samples.clear();
    }

    fn eta(&self) -> Option<Duration> {
        let ((begin, first), (end, last)) = (self.samples.front()?, self.samples.back()?);
        let elapsed = end.duration_since(*begin).unsigned_abs();
        if elapsed < PACE_MIN || last <= first {
            return None;
        }
        Duration::try_from_secs_f64((1.0 - last) / (last - first) * elapsed.as_secs_f64()).ok()
    }
}

/// The share of the work that is done, from 0 to 1.
pub fn share(work: &Work<'_>) -> f64 {
    let plan = work.plan;
    let part = |done: u64, all: u64| if all == 0 { 1.0 } else { done as f64 / all as f64 };
    let count = |flags: &[bool]| flags.iter().filter(|f| **f).count() as u64;
    let slices = plan.slices.len() as u64;
    let all_bytes: u64 = plan.chunks.iter().map(|c| c.bytes).sum();
    let read_bytes: u64 = plan.chunks.iter().zip(&work.done.extracted).filter(|(_, done)| **done).map(|(c, _)| c.bytes).sum();
    let cells: u64 = work.done.published.iter().map(|b| b.len() as u64).sum();
    let published: u64 = work.done.published.iter().map(|b| count(b)).sum();
    EXTRACT_WEIGHT * part(read_bytes, all_bytes)
        + ASSEMBLE_WEIGHT * part(count(&work.done.staged), slices)
        + PUBLISH_WEIGHT * part(published, cells)
        + VERIFY_WEIGHT * part(count(&work.done.verified), slices)
}

pub fn progress(share: f64, workers: &[Worker], view: &LedgerView, pace: &Pace, now: Timestamp) -> Progress {
    let running: Vec<(Verb, &UnitProgress)> = workers
        .iter()
        .filter(|w| w.ours && w.is_open())
        .filter_map(|w| Some((w.verb, view.progress.get(&w.unit)?)))
        .filter(|(_, p)| now.duration_since(p.updated_at).unsigned_abs() <= FRESH)
        .collect();
    // A row passes through every step, so only one step's rows are events: that nearest to the target.
    let rates = |verb: Verb| {
        let of: Vec<&UnitProgress> = running.iter().filter(|(v, _)| *v == verb).map(|(_, p)| *p).collect();
        (!of.is_empty()).then(|| (of.iter().map(|p| rate(p.rows, p)).sum::<f64>(), of.iter().map(|p| rate(p.bytes, p)).sum::<f64>()))
    };
    let furthest = [Verb::Publish, Verb::Verify, Verb::Assemble, Verb::Extract].into_iter().find_map(rates);
    let bytes = rates(Verb::Extract).or(furthest);
    Progress {
        percent: percent(share),
        events_per_second: furthest.map(|(rows, _)| rows as u64),
        bytes_per_second: bytes.map(|(_, bytes)| bytes as u64),
        eta: pace.eta().map(brief),
        workers: u32::try_from(workers.iter().filter(|w| w.is_open()).count()).unwrap_or(u32::MAX),
    }
}

fn rate(amount: u64, progress: &UnitProgress) -> f64 {
    let seconds = progress.updated_at.duration_since(progress.started_at).as_secs_f64();
    if seconds > 0.0 { amount as f64 / seconds } else { 0.0 }
}

/// Rounded down, so that 100% is the end.
pub fn percent(share: f64) -> String {
    format!("{}%", (share * 100.0 + 1e-9).floor().clamp(0.0, 100.0))
}

/// As much as an estimate deserves: `40s`, `12m`, `3h20m`.
fn brief(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m"),
        (hours, 0) => format!("{hours}h"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_rest_takes_as_long_as_the_pace_says() {
        let mut pace = Pace::default();
        pace.note(at(0), 0.25);
        assert_eq!(pace.eta(), None);
        pace.note(at(60), 0.5);
        assert_eq!(pace.eta().map(brief).as_deref(), Some("2m"));
        pace.note(at(120), 0.5);
        assert_eq!(pace.eta().map(brief).as_deref(), Some("4m"));
        // After the window only the standstill is left.
        pace.note(at(421), 0.5);
        assert_eq!(pace.eta(), None);
        pace.note(at(430), 0.1);
        assert_eq!(pace.samples.len(), 1);
    }

    #[test]
    fn estimates_are_brief_and_percent_never_promises() {
        let cases = [(59, "59s"), (61, "1m"), (3600, "1h"), (12_000, "3h20m")];
        for (seconds, text) in cases {
            assert_eq!(brief(Duration::from_secs(seconds)), text);
        }
        assert_eq!((percent(0.999).as_str(), percent(1.0).as_str(), percent(0.0).as_str()), ("99%", "100%", "0%"));
        assert_eq!(percent(EXTRACT_WEIGHT + ASSEMBLE_WEIGHT + PUBLISH_WEIGHT + VERIFY_WEIGHT), "100%");
    }
}
