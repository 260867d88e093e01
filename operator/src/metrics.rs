//! Metrics. Labels are few and bounded; no job or namespace is one.

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
};

use crate::{admission::metrics::AdmissionMetrics, topic_retention::metrics::TopicMetrics};

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
    phase: Phase,
    slices: SliceCounts,
    deadline: Option<Timestamp>,
    looked_at: Option<Instant>,
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
        let facts = jobs.entry(job.uid().unwrap_or_default()).or_default();
        facts.phase = status.phase;
        facts.slices = status.slices.clone().unwrap_or_default();
        facts.deadline = job.spec.execution.deadline.as_ref().map(|d| d.0);
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
}

impl Collector for Jobs {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let jobs: Vec<JobFacts> = self.lock().values().cloned().collect();
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
        let open: Vec<&JobFacts> = jobs.iter().filter(|j| !crate::backfill_job::is_over(j.phase)).collect();
        let now = Timestamp::now();
        let deadline = open.iter().filter_map(|j| j.deadline).min().map(|d| d.duration_since(now).as_secs_f64());
        if let Some(seconds) = deadline {
            let help = "Until the nearest deadline of a job that is not over; negative once it has passed";
            let encoder = encoder.encode_descriptor("backfill_deadline_seconds", help, None, MetricType::Gauge)?;
            ConstGauge::new(seconds).encode(encoder)?;
        }
        let oldest = open.iter().filter_map(|j| j.looked_at).map(|at| at.elapsed().as_secs_f64()).reduce(f64::max);
        let help = "Since the artifact store was last looked at, for the job that waits longest; 0 without jobs";
        let encoder = encoder.encode_descriptor("ledger_look_age_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(oldest.unwrap_or(0.0)).encode(encoder)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod shown;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn jobs_are_summed_up_and_not_named() {
        let metrics = Metrics::default();
        for (uid, phase, verified) in [("a", Phase::Running, 3), ("b", Phase::Running, 4), ("c", Phase::Complete, 5)] {
            let slices = SliceCounts { verified, ..Default::default() };
            let facts = JobFacts { phase, slices, deadline: Some(Timestamp::now()), looked_at: None };
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
}
