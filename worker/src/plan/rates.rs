//! What work takes here: as the newest completed run of the same class in this namespace took, or else as the sample did.
//!
//! Only a forecast follows from it, so what cannot be read is left out with a warning.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::time::SystemTime;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use weir_crds::backfill_job::EstimateBasis;
use weir_crds::contract::keys::{Folder, RunKeys};
use weir_crds::contract::names::RunId;
use weir_crds::contract::plan::Plan;
use weir_crds::contract::progress::UnitProgress;
use weir_crds::contract::result::{Outcome, OutcomeRecord};
use weir_crds::contract::run::RunSpec;
use weir_crds::contract::units::{Items, Unit, Verb, units};
use weir_ledger::LedgerError;

use super::forecast::{Rates, duration_seconds};
use super::sample::Cost;
use crate::run::Run;

/// Jobs of the namespace that are looked at, the last by name: dates and numbers in names grow.
const JOBS_MAX: usize = 50;
/// Generations of each.
const GENERATIONS_MAX: usize = 3;
/// Reports of an earlier run's units that are read.
const REPORTS_MAX: usize = 500;
/// Requests under way at once.
const IN_FLIGHT: usize = 16;

/// What the verbs take for each row, as multiples of decompressing, decoding and selecting one: `just bench` measures them.
const EXTRACT_OF_SAMPLE: f64 = 1.6;
const ASSEMBLE_OF_SAMPLE: f64 = 1.2;
const PUBLISH_OF_SAMPLE: f64 = 2.4;
const VERIFY_OF_SAMPLE: f64 = 0.9;
/// Where it is not known what a Job takes to start.
const UNIT_SECONDS_DEFAULT: f64 = 5.0;
/// At least so much, since clocks differ.
const UNIT_SECONDS_MIN: f64 = 1.0;
/// A pod is there sooner where its node and its image are. The run's first Job, which plans, may have waited longer for them, or for a
/// controller: that is waited for once.
const FIRST_UNIT_SECONDS_MAX: f64 = 10.0;
/// What is looked for in an earlier run, whose Jobs may each have waited.
const UNIT_SECONDS_MAX: f64 = 120.0;
/// Until the operator has seen that a Job has ended.
const SEEN_SECONDS: f64 = 1.0;
/// Within so many percent first runs, and later ones, have been seen to end.
const SAMPLE_ERROR_PERCENT: u32 = 40;
const EARLIER_ERROR_PERCENT: u32 = 20;
/// A run of so many times the bytes, or as much less, tells no more than a sample does: what does not grow with the bytes is in
/// its rates as well.
const LIKE_SIZED: u64 = 2;

/// Rates, and how much they are worth.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub rates: Rates,
    pub basis: EstimateBasis,
    pub error_percent: u32,
}

/// What is known of the run's class, for a run of so many bytes. `began_at`: when this worker began to plan.
pub async fn known(run: &Run, bytes: u64, cost: &Cost, began_at: Timestamp) -> Known {
    let earlier = earlier(run).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "earlier runs cannot be read; the forecast follows from the sample");
        None
    });
    if let Some(earlier) = earlier {
        let error_percent = error_percent(bytes, earlier.plan.estimates.bytes);
        if let Some(rates) = earlier.rates() {
            return Known { rates, basis: EstimateBasis::EarlierRun, error_percent };
        }
    }
    let begun = run.ledger.modified(&run.keys.run()).await.ok().flatten().and_then(|at: SystemTime| Timestamp::try_from(at).ok());
    let waited = begun.map(|begun| began_at.duration_since(begun).as_secs_f64());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let rates = of_sample(cost, threads, first_unit_seconds(waited));
    Known { rates, basis: EstimateBasis::Sample, error_percent: SAMPLE_ERROR_PERCENT }
}

fn error_percent(bytes: u64, earlier_bytes: u64) -> u32 {
    let (less, more) = (bytes.min(earlier_bytes), bytes.max(earlier_bytes));
    if more <= less.saturating_mul(LIKE_SIZED) { EARLIER_ERROR_PERCENT } else { SAMPLE_ERROR_PERCENT }
}

/// What the start of this very Job took is about what each takes, but for what was waited for once. `waited`: seconds from when it was
/// begun, where the store says so.
fn first_unit_seconds(waited: Option<f64>) -> f64 {
    match waited.map(|waited| (waited + SEEN_SECONDS).max(UNIT_SECONDS_MIN)) {
        Some(seconds) if seconds <= FIRST_UNIT_SECONDS_MAX => seconds,
        Some(_) | None => UNIT_SECONDS_DEFAULT,
    }
}

fn of_sample(cost: &Cost, threads: usize, unit_seconds: f64) -> Rates {
    let per_row = cost.seconds / cost.rows.max(1) as f64;
    Rates {
        extract_seconds_per_byte: cost.seconds / cost.bytes.max(1) as f64 * EXTRACT_OF_SAMPLE / threads as f64,
        assemble_seconds_per_event: per_row * ASSEMBLE_OF_SAMPLE,
        publish_seconds_per_event: per_row * PUBLISH_OF_SAMPLE,
        verify_seconds_per_event: per_row * VERIFY_OF_SAMPLE,
        unit_seconds,
    }
}

/// A completed run: what it did, and when.
struct Earlier {
    plan: Plan,
    reports: Vec<UnitProgress>,
    ended_at: Timestamp,
}

/// The newest completed run of this class in this namespace.
async fn earlier(run: &Run) -> Result<Option<Earlier>, LedgerError> {
    let mut completed = completed(run).await?;
    completed.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    for (keys, ended_at) in completed {
        // An object of another format is not of this version of weir, and tells nothing.
        let spec = run.ledger.get_json::<RunSpec>(&keys.run()).await.ok().flatten();
        let plan = run.ledger.get_json::<Plan>(&keys.plan()).await.ok().flatten();
        if let (Some(spec), Some(plan)) = (spec, plan)
            && spec.class == run.spec.class
        {
            let folder = run.ledger.list(&keys.folder(Folder::Progress), None).await?;
            let keys: Vec<_> = folder.into_iter().take(REPORTS_MAX).map(|report| report.key).collect();
            let reports: Vec<Option<UnitProgress>> = futures::stream::iter(keys)
                .map(|key| async move { run.ledger.get_json(&key).await })
                .buffered(IN_FLIGHT)
                .try_collect()
                .await?;
            return Ok(Some(Earlier { plan, reports: reports.into_iter().flatten().collect(), ended_at }));
        }
    }
    Ok(None)
}

/// Completed runs of this namespace's jobs, and when they were.
async fn completed(run: &Run) -> Result<Vec<(RunKeys, Timestamp)>, LedgerError> {
    let prefix = &run.context.store.prefix;
    let namespace = &run.context.run.namespace;
    let root = if prefix.is_empty() { format!("{namespace}/") } else { format!("{prefix}/{namespace}/") };
    let jobs = run.ledger.folders(&root).await?;
    let mut runs = Vec::new();
    for job in jobs.iter().rev().take(JOBS_MAX) {
        let generations = run.ledger.folders(&format!("{root}{job}")).await?;
        let mut numbers: Vec<u32> = generations.iter().filter_map(|folder| RunKeys::generation_of(folder)).collect();
        numbers.sort_unstable();
        let name = job.trim_end_matches('/');
        runs.extend(numbers.into_iter().rev().take(GENERATIONS_MAX).map(|generation| {
            let id = RunId { namespace: namespace.clone(), name: name.to_owned(), generation };
            RunKeys::new(prefix, &id)
        }));
    }
    let outcomes: Vec<(RunKeys, Option<OutcomeRecord>)> = futures::stream::iter(runs)
        .map(|keys| async move {
            let outcome = run.ledger.get_json(&keys.outcome()).await?;
            Ok::<_, LedgerError>((keys, outcome))
        })
        .buffered(IN_FLIGHT)
        .try_collect()
        .await?;
    let completed = outcomes
        .into_iter()
        .filter_map(|(keys, outcome)| outcome.filter(|outcome| outcome.outcome == Outcome::Completed).map(|outcome| (keys, outcome.at)));
    Ok(completed.collect())
}

impl Earlier {
    /// What it took; `None` where its reports do not tell.
    fn rates(mut self) -> Option<Rates> {
        let by_id: BTreeMap<String, Unit> = units(&self.plan).into_iter().map(|unit| (unit.id.clone(), unit)).collect();
        let mut work = [(0.0, 0.0); 4];
        let mut events = 0;
        for report in &self.reports {
            let Some(unit) = by_id.get(&report.unit) else { continue };
            let seconds = report.updated_at.duration_since(report.started_at).as_secs_f64();
            let (slot, amount) = match (&unit.items, unit.verb) {
                (Items::Chunks(chunks), _) => (0, chunks.iter().map(|chunk| self.plan.chunks[*chunk].bytes).sum::<u64>()),
                (Items::Slices(_), Verb::Assemble) => {
                    events += report.rows;
                    (1, report.rows)
                }
                (Items::Buckets { .. }, _) => (2, report.rows),
                (Items::Slices(_), Verb::Plan | Verb::Extract | Verb::Publish | Verb::Verify) => (3, report.rows),
            };
            work[slot] = (work[slot].0 + seconds, work[slot].1 + amount as f64);
        }
        if work.iter().any(|(_, amount)| *amount <= 0.0) {
            return None;
        }
        self.plan.estimates.events = events;
        let [extract, assemble, publish, verify] = work.map(|(seconds, amount)| seconds / amount);
        let rates = Rates {
            extract_seconds_per_byte: extract,
            assemble_seconds_per_event: assemble,
            publish_seconds_per_event: publish,
            verify_seconds_per_event: verify,
            unit_seconds: 0.0,
        };
        Some(Rates { unit_seconds: self.unit_seconds(rates)?, ..rates })
    }

    /// What the starts must have taken, for the earlier run to have taken as long as it did: found by halving.
    fn unit_seconds(&self, rates: Rates) -> Option<f64> {
        const HALVINGS: u32 = 30;
        let working: Vec<&UnitProgress> = self.reports.iter().filter(|report| report.rows > 0).collect();
        let began_at = working.iter().map(|report| report.started_at).min()?;
        let seconds = self.ended_at.duration_since(began_at).as_secs_f64();
        let workers = most_at_once(&working);
        let (mut low, mut high) = (0.0, UNIT_SECONDS_MAX);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            // The start of the first unit lies before the first report.
            let is_too_long = duration_seconds(&self.plan, workers, &Rates { unit_seconds: middle, ..rates }) > seconds + middle;
            (low, high) = if is_too_long { (low, middle) } else { (middle, high) };
        }
        Some(low)
    }
}

/// How many units were worked on at the same time.
fn most_at_once(reports: &[&UnitProgress]) -> u32 {
    let overlapping = |at: Timestamp| reports.iter().filter(|r| r.started_at <= at && at <= r.updated_at).count();
    let most = reports.iter().map(|report| overlapping(report.started_at)).max().unwrap_or(1);
    u32::try_from(most).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn plan() -> Plan {
        let digest = "0".repeat(64);
        serde_json::from_value(serde_json::json!({
            "format": 1, "run": {"namespace": "n", "name": "j", "generation": 1}, "runDigest": digest, "workerImage": "w",
            "slices": [{"id": "20261103T060000Z", "startUs": 0, "endUs": 100}], "sources": [{"name": "logs", "objects": 1, "bytes": 1000}],
            "objects": {"key": "o", "sha256": digest, "bytes": 0, "rows": 1},
            "chunks": [{"id": "logs-00001", "source": 0, "firstObject": 0, "objects": 1, "bytes": 1000}],
            "sinks": [{"name": "e", "cluster": "k", "clusterId": "c", "topic": "t", "topicId": "i", "partitions": 1, "maxMessageBytes": 1}],
            "resultColumns": [], "sizing": {"extractBytes": 1000, "slicesPerUnit": 1, "bucketsPerUnit": 1},
            "estimates": {"events": 77, "bytes": 1000, "objects": 1}, "sampledBytes": 0
        }))
        .unwrap()
    }

    fn report(unit: &str, rows: u64, from: i64, to: i64) -> UnitProgress {
        let at = |second| Timestamp::from_second(second).unwrap();
        UnitProgress {
            unit: unit.into(),
            attempt: 1,
            items_done: 1,
            items_total: 1,
            rows,
            bytes: 1,
            started_at: at(from),
            updated_at: at(to),
        }
    }

    #[test]
    fn an_earlier_run_forecasts_itself() {
        // Five seconds lie between the units, and ten go by before the last is seen to have ended.
        let reports = vec![
            report("plan", 0, 0, 1),
            report("extract-0000", 200, 100, 110),
            report("assemble-0000", 100, 115, 135),
            report("publish-0000-0", 100, 140, 180),
            report("verify-0000", 100, 185, 190),
        ];
        let earlier = Earlier { plan: plan(), reports, ended_at: Timestamp::from_second(195).unwrap() };
        let rates = earlier.rates().unwrap();
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-3, "{found} is not {wanted}");
        near(rates.extract_seconds_per_byte, 0.01);
        near(rates.assemble_seconds_per_event, 0.2);
        near(rates.publish_seconds_per_event, 0.4);
        near(rates.verify_seconds_per_event, 0.05);
        // 95 seconds from the first report to the end, of which 75 were work, in four units of which three starts show.
        near(rates.unit_seconds, 20.0 / 3.0);
        let mut again = plan();
        again.estimates.events = 100;
        near(duration_seconds(&again, 1, &rates), 95.0 + rates.unit_seconds);
    }

    #[test]
    fn a_run_without_reports_tells_nothing() {
        let reports = vec![report("extract-0000", 200, 100, 110)];
        assert!(Earlier { plan: plan(), reports, ended_at: Timestamp::from_second(120).unwrap() }.rates().is_none());
    }

    #[test]
    fn a_run_of_another_size_tells_less() {
        for (bytes, earlier, percent) in [(100, 100, 20), (200, 100, 20), (100, 200, 20), (201, 100, 40), (100, 201, 40), (1, 0, 40)] {
            assert_eq!(error_percent(bytes, earlier), percent, "{bytes} after {earlier}");
        }
    }

    #[test]
    fn what_is_waited_for_once_is_not_what_each_job_takes() {
        for (waited, seconds) in [(Some(3.0), 4.0), (Some(-2.0), 1.0), (Some(9.0), 10.0), (Some(9.5), 5.0), (Some(90.0), 5.0), (None, 5.0)]
        {
            assert!((first_unit_seconds(waited) - seconds).abs() < 1e-12, "{waited:?}");
        }
    }

    #[test]
    fn a_sample_is_scaled_to_all_verbs() {
        let cost = Cost { seconds: 2.0, bytes: 1000, rows: 100 };
        let rates = of_sample(&cost, 2, 5.0);
        assert!((rates.extract_seconds_per_byte - 0.002 * EXTRACT_OF_SAMPLE / 2.0).abs() < 1e-12);
        assert!((rates.publish_seconds_per_event - 0.02 * PUBLISH_OF_SAMPLE).abs() < 1e-12);
    }
}
