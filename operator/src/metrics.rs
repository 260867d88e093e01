//! Metrics. Labels are few and bounded; a job is one only while it is in trouble.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::ResourceExt as _;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, text::encode},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};
use weir_crds::{
    BackfillJob,
    backfill_job::{BackfillJobStatus, Phase, SliceCounts},
    conditions::ConditionType,
};

use crate::{admission::metrics::AdmissionMetrics, backfill_job::is_over, text::qualified_name, topic_retention::metrics::TopicMetrics};

/// From an answer out of memory to a store that is away.
const SECONDS_BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

const PHASES: [Phase; 9] = [
    Phase::Pending,
    Phase::Planning,
    Phase::AwaitingApproval,
    Phase::Running,
    Phase::Verifying,
    Phase::Suspended,
    Phase::Complete,
    Phase::Failed,
    Phase::Canceled,
];

/// Every job that is there has a turn within ten minutes: one that has had none for so long was deleted.
const GONE_AFTER: Duration = Duration::from_secs(1200);

/// Series of jobs in trouble.
const TROUBLES_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    Success,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: String,
    outcome: Outcome,
}

pub struct Metrics {
    registry: Registry,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_seconds: Family<KindLabel, Histogram, fn() -> Histogram>,
    published_records: Counter,
    published_bytes: Counter,
    leader: Gauge,
    jobs: std::sync::Arc<Jobs>,
    pub topics: TopicMetrics,
    pub admission: AdmissionMetrics,
}

/// What is known of each job, by uid; summed up when it is asked for.
#[derive(Debug, Default)]
struct Jobs(Mutex<HashMap<String, JobFacts>>);

#[derive(Clone, Debug, Default)]
struct JobFacts {
    /// As `namespace/name`.
    name: String,
    phase: Phase,
    slices: SliceCounts,
    deadline: Option<Timestamp>,
    /// Nobody waits for it.
    is_suspended: bool,
    trouble: Option<Trouble>,
    /// When the artifact store was last looked at, or since when it is to be.
    looked_at: Option<Instant>,
    /// Its last turn.
    noted_at: Option<Instant>,
}

/// What somebody must see to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    what: &'static str,
    reason: String,
}

impl JobFacts {
    fn is_gone(&self) -> bool {
        self.noted_at.is_some_and(|at| at.elapsed() > GONE_AFTER)
    }

    fn troubles(&self, now: Timestamp) -> impl Iterator<Item = Trouble> {
        // weir ends such a job as soon as it can: it stays open where workers do not end, or the store is away.
        let is_late = !is_over(self.phase) && self.deadline.is_some_and(|deadline| deadline <= now);
        let late = is_late.then(|| Trouble { what: "DeadlinePassed", reason: format!("{:?}", self.phase) });
        self.trouble.clone().into_iter().chain(late)
    }
}

/// A suspended job, as a draft is, may lack what it likes.
fn trouble(job: &BackfillJob, status: &BackfillJobStatus) -> Option<Trouble> {
    let what = match status.phase {
        Phase::Failed => ConditionType::Failed,
        Phase::Complete | Phase::Canceled => return None,
        Phase::Pending | Phase::Planning | Phase::AwaitingApproval | Phase::Running | Phase::Verifying | Phase::Suspended => {
            if job.spec.suspend {
                return None;
            }
            ConditionType::Stalled
        }
    };
    let stands = status.conditions.iter().find(|c| c.type_ == what.as_str() && c.status == "True");
    stands.map(|c| Trouble { what: what.as_str(), reason: c.reason.clone() })
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("weir");
        let reconciles = Family::default();
        registry.register("reconciles", "Reconciliations, by kind and outcome", reconciles.clone());
        let reconcile_seconds = Family::new_with_constructor((|| Histogram::new(SECONDS_BUCKETS)) as fn() -> Histogram);
        registry.register("reconcile_seconds", "How long a reconciliation took", reconcile_seconds.clone());
        let (published_records, published_bytes) = (Counter::<u64, AtomicU64>::default(), Counter::default());
        registry.register("published_records", "Records that workers published, as this replica saw it", published_records.clone());
        registry.register(
            "published_bytes",
            "Bytes of the staged parts that were published, as this replica saw it",
            published_bytes.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica leads", leader.clone());
        let jobs = std::sync::Arc::<Jobs>::default();
        registry.register_collector(Box::new(std::sync::Arc::clone(&jobs)));
        let topics = TopicMetrics::register(&mut registry);
        let admission = AdmissionMetrics::register(&mut registry);
        Self { registry, reconciles, reconcile_seconds, published_records, published_bytes, leader, jobs, topics, admission }
    }
}

impl Metrics {
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn reconciled(&self, kind: String, outcome: Outcome, took: Duration) {
        self.reconcile_seconds.get_or_create(&KindLabel { kind: kind.clone() }).observe(took.as_secs_f64());
        self.reconciles.get_or_create(&ReconcileLabels { kind, outcome }).inc();
    }

    pub fn published(&self, records: u64, bytes: u64) {
        self.published_records.inc_by(records);
        self.published_bytes.inc_by(bytes);
    }

    /// A replica that does not lead knows nothing of jobs and topics.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
        if !leads {
            self.jobs.lock().clear();
            self.topics.clear();
        }
    }

    pub fn looked_at_ledger(&self, job: &BackfillJob) {
        self.jobs.lock().entry(job.uid().unwrap_or_default()).or_default().looked_at = Some(Instant::now());
    }

    pub fn note_job(&self, job: &BackfillJob, status: &BackfillJobStatus) {
        let mut jobs = self.jobs.lock();
        let (facts, now) = (jobs.entry(job.uid().unwrap_or_default()).or_default(), Instant::now());
        *facts = JobFacts {
            name: qualified_name(job),
            phase: status.phase,
            slices: status.slices.clone().unwrap_or_default(),
            deadline: job.spec.execution.deadline.as_ref().map(|d| d.0),
            is_suspended: job.spec.suspend,
            trouble: trouble(job, status),
            // A store that has never answered grows old as well.
            looked_at: facts.looked_at.or(Some(now)),
            noted_at: Some(now),
        };
    }

    /// Forgets jobs that are gone.
    pub fn retain(&self, present: &HashSet<String>) {
        self.jobs.lock().retain(|uid, _| present.contains(uid));
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, JobFacts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> Vec<JobFacts> {
        let mut jobs = self.lock();
        jobs.retain(|_, job| !job.is_gone());
        jobs.values().cloned().collect()
    }
}

impl Collector for Jobs {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let jobs = self.present();
        let mut by_phase = encoder.encode_descriptor("backfill_jobs", "BackfillJobs, by phase", None, MetricType::Gauge)?;
        for phase in PHASES {
            let count = jobs.iter().filter(|j| j.phase == phase).count() as i64;
            ConstGauge::new(count).encode(by_phase.encode_family(&[("phase", format!("{phase:?}"))])?)?;
        }
        let mut by_state = encoder.encode_descriptor("backfill_slices", "Slices of all BackfillJobs, by state", None, MetricType::Gauge)?;
        let sum = |of: fn(&SliceCounts) -> u32| jobs.iter().map(|j| i64::from(of(&j.slices))).sum::<i64>();
        let states = [
            ("Pending", sum(|s| s.pending)),
            ("Running", sum(|s| s.running)),
            ("Staged", sum(|s| s.staged)),
            ("Published", sum(|s| s.published)),
            ("Verified", sum(|s| s.verified)),
            ("Failed", sum(|s| s.failed)),
        ];
        for (state, count) in states {
            ConstGauge::new(count).encode(by_state.encode_family(&[("state", state)])?)?;
        }
        encode_open(&jobs, &mut encoder)
    }
}

/// Of jobs that are not over, and of those that somebody must see to.
fn encode_open(jobs: &[JobFacts], encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let open: Vec<&JobFacts> = jobs.iter().filter(|j| !is_over(j.phase)).collect();
    let now = Timestamp::now();
    let deadline = open.iter().filter_map(|j| j.deadline).min().map(|d| d.duration_since(now).as_secs_f64());
    if let Some(seconds) = deadline {
        let help = "Until the nearest deadline of a job that is not over; negative once it has passed";
        let encoder = encoder.encode_descriptor("backfill_deadline_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(seconds).encode(encoder)?;
    }
    let waiting = open.iter().filter(|j| !j.is_suspended).filter_map(|j| j.looked_at);
    let oldest = waiting.map(|at| at.elapsed().as_secs_f64()).reduce(f64::max);
    let help = "Since the artifact store was last looked at, for the job that waits longest; 0 without jobs";
    let looked = encoder.encode_descriptor("ledger_look_age_seconds", help, None, MetricType::Gauge)?;
    ConstGauge::new(oldest.unwrap_or(0.0)).encode(looked)?;
    let help = "A BackfillJob that has failed, stands still until somebody acts, or goes on after its deadline";
    let mut troubles = encoder.encode_descriptor("backfill_job_trouble", help, None, MetricType::Gauge)?;
    let all = jobs.iter().flat_map(|job| job.troubles(now).map(move |trouble| (&job.name, trouble)));
    for (name, trouble) in all.take(TROUBLES_MAX) {
        let labels = [("backfill", name.as_str()), ("trouble", trouble.what), ("reason", &trouble.reason)];
        ConstGauge::new(1_i64).encode(troubles.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod shown;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use weir_crds::conditions;

    use super::*;

    #[test]
    fn jobs_are_summed_up_and_not_named() {
        let metrics = Metrics::default();
        for (uid, phase, verified) in [("a", Phase::Running, 3), ("b", Phase::Running, 4), ("c", Phase::Complete, 5)] {
            let slices = SliceCounts { verified, ..Default::default() };
            let facts = JobFacts { phase, slices, deadline: Some(Timestamp::now()), ..JobFacts::default() };
            metrics.jobs.lock().insert(uid.into(), facts);
        }
        metrics.reconciled("BackfillJob".into(), Outcome::Error, Duration::from_millis(5));
        metrics.published(7, 70);
        let text = metrics.render().unwrap();
        for line in [
            "weir_backfill_jobs{phase=\"Running\"} 2",
            "weir_backfill_jobs{phase=\"Failed\"} 0",
            "weir_backfill_slices{state=\"Verified\"} 12",
            "weir_reconciles_total{kind=\"BackfillJob\",outcome=\"Error\"} 1",
            "weir_published_records_total 7",
            "weir_published_bytes_total 70",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("weir_backfill_deadline_seconds"));
        metrics.retain(&HashSet::from(["c".to_owned()]));
        // A job that is over has no deadline any more.
        assert!(!metrics.render().unwrap().contains("weir_backfill_deadline_seconds"));
        metrics.leads(false);
        assert!(metrics.render().unwrap().contains("weir_backfill_jobs{phase=\"Complete\"} 0"));
    }

    fn job(execution: serde_json::Value, suspend: bool) -> BackfillJob {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "BackfillJob",
            "metadata": {"name": "gap", "namespace": "growth", "uid": "a"},
            "spec": {
                "reason": "test",
                "runGeneration": 1,
                "window": {"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T07:00:00Z", "slice": "15m"},
                "reconstruct": {"columns": {"eventId": "id", "eventTime": "at", "eventType": "type"}},
                "sinks": [],
                "approval": {"mode": "Auto"},
                "execution": execution,
                "suspend": suspend,
            },
        }))
        .unwrap()
    }

    /// `stands`: the condition that is true, and its reason.
    fn status(phase: Phase, stands: Option<(ConditionType, &str)>) -> BackfillJobStatus {
        let wanted =
            |(kind, reason): (_, &str)| conditions::Wanted { kind, status: Some(true), reason: reason.into(), message: String::new() };
        let conditions = conditions::merge(&[], stands.map(wanted).into_iter().collect(), None, Timestamp::UNIX_EPOCH);
        BackfillJobStatus { phase, conditions, ..Default::default() }
    }

    fn troubles(metrics: &Metrics) -> Vec<String> {
        let text = metrics.render().unwrap();
        text.lines().filter_map(|l| l.strip_prefix("weir_backfill_job_trouble")).map(str::to_owned).collect()
    }

    #[test]
    fn a_job_is_named_while_somebody_must_see_to_it() {
        use ConditionType::{Failed, Stalled};
        let metrics = Metrics::default();
        let told = |job: &BackfillJob, phase, stands| {
            metrics.note_job(job, &status(phase, stands));
            troubles(&metrics)
        };
        let line = |what, reason| format!("{{backfill=\"growth/gap\",trouble=\"{what}\",reason=\"{reason}\"}} 1");
        let plain = job(serde_json::json!({}), false);
        let denied = Some((Stalled, "KafkaDenied"));
        assert_eq!(told(&plain, Phase::Running, denied), [line("Stalled", "KafkaDenied")]);
        assert!(told(&plain, Phase::Running, None).is_empty());
        assert_eq!(told(&plain, Phase::Failed, Some((Failed, "VerifyMismatch"))), [line("Failed", "VerifyMismatch")]);
        assert!(told(&plain, Phase::Complete, denied).is_empty());
        // A draft.
        assert!(told(&job(serde_json::json!({}), true), Phase::Suspended, Some((Stalled, "Incomplete"))).is_empty());
        let late = job(serde_json::json!({"deadline": "2026-11-03T08:00:00Z"}), false);
        assert_eq!(told(&late, Phase::Running, denied), [line("Stalled", "KafkaDenied"), line("DeadlinePassed", "Running")]);
        assert!(told(&late, Phase::Complete, None).is_empty());
        let early = job(serde_json::json!({"deadline": "9999-01-01T00:00:00Z"}), false);
        assert!(told(&early, Phase::Running, None).is_empty());
    }

    #[test]
    fn a_job_that_has_no_turns_any_more_is_forgotten() {
        let metrics = Metrics::default();
        metrics.note_job(&job(serde_json::json!({}), false), &status(Phase::Failed, Some((ConditionType::Failed, "TooLarge"))));
        assert_eq!(troubles(&metrics).len(), 1);
        metrics.jobs.lock().values_mut().for_each(|facts| facts.noted_at = Instant::now().checked_sub(GONE_AFTER));
        assert!(troubles(&metrics).is_empty());
        assert!(metrics.render().unwrap().contains("weir_backfill_jobs{phase=\"Failed\"} 0"));
    }

    #[test]
    fn a_store_that_never_answered_grows_old_unless_nobody_waits_for_it() {
        let metrics = Metrics::default();
        let age = |metrics: &Metrics| {
            metrics.jobs.lock().values_mut().for_each(|facts| facts.looked_at = Instant::now().checked_sub(Duration::from_secs(70)));
            let text = metrics.render().unwrap();
            text.lines().find_map(|l| l.strip_prefix("weir_ledger_look_age_seconds ")).unwrap().parse::<f64>().unwrap()
        };
        metrics.note_job(&job(serde_json::json!({}), false), &status(Phase::Pending, None));
        assert!(metrics.jobs.lock().values().all(|facts| facts.looked_at.is_some()));
        assert!(age(&metrics) >= 70.0);
        metrics.note_job(&job(serde_json::json!({}), true), &status(Phase::Suspended, None));
        assert_eq!(age(&metrics), 0.0);
    }
}
