//! Metrics of topics, summed up over all clusters: no topic is a label.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use kube::ResourceExt as _;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};
use weir_crds::{KafkaCluster, topic_retention_policy::TopicCounts};
use weir_floors::{Assessment, findings::Finding, status::summary, wanted::Cause};

use super::keeping::Keeping;
use crate::metrics::Outcome;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    cause: &'static str,
    outcome: Outcome,
}

#[derive(Default)]
pub struct TopicMetrics {
    changes: Family<ChangeLabels, Counter>,
    clusters: Arc<Clusters>,
}

/// By the cluster's uid.
#[derive(Debug, Default)]
struct Clusters(Mutex<BTreeMap<String, ClusterFacts>>);

#[derive(Clone, Copy, Debug)]
struct ClusterFacts {
    counts: TopicCounts,
    missed_records: i64,
    looked_at: Instant,
    audit: AuditFacts,
}

#[derive(Clone, Copy, Debug, Default)]
struct AuditFacts {
    is_failing: bool,
    waiting_changes: i64,
}

impl TopicMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("retention_changes", "Changes of retention that weir tried, by cause and outcome", metrics.changes.clone());
        registry.register_collector(Box::new(Arc::clone(&metrics.clusters)));
        metrics
    }

    pub fn changed(&self, cause: Cause, outcome: Outcome) {
        self.changes.get_or_create(&ChangeLabels { cause: cause.as_str(), outcome }).inc();
    }

    /// From now on it is to be looked at: a cluster that never answers grows old as well.
    pub fn expect(&self, cluster: &KafkaCluster) {
        let facts =
            || ClusterFacts { counts: TopicCounts::default(), missed_records: 0, looked_at: Instant::now(), audit: AuditFacts::default() };
        self.clusters.lock().entry(cluster.uid().unwrap_or_default()).or_insert_with(facts);
    }

    /// Of a turn; `is_seen`: whether the cluster answered.
    pub fn note<'a>(&self, cluster: &KafkaCluster, topics: impl Iterator<Item = (&'a str, &'a Assessment)> + Clone, is_seen: bool) {
        let (counts, _) = summary(topics.clone());
        let missed_records = topics.flat_map(|(_, it)| &it.findings).map(missed).sum();
        self.expect(cluster);
        if let Some(facts) = self.clusters.lock().get_mut(&cluster.uid().unwrap_or_default()) {
            let looked_at = if is_seen { Instant::now() } else { facts.looked_at };
            *facts = ClusterFacts { counts, missed_records, looked_at, audit: facts.audit };
        }
    }

    /// Of a turn: how the cluster's audit log is.
    pub fn note_audit(&self, cluster: &KafkaCluster, keeping: &Keeping) {
        let waiting_changes = i64::try_from(keeping.waiting_changes()).unwrap_or(i64::MAX);
        if let Some(facts) = self.clusters.lock().get_mut(&cluster.uid().unwrap_or_default()) {
            facts.audit = AuditFacts { is_failing: !keeping.is_healthy(), waiting_changes };
        }
    }

    /// Nobody asks for anything of it any more.
    pub fn forget(&self, cluster: &KafkaCluster) {
        self.clusters.lock().remove(&cluster.uid().unwrap_or_default());
    }

    /// Forgets clusters that are gone.
    pub fn retain(&self, present: &BTreeSet<String>) {
        self.clusters.lock().retain(|uid, _| present.contains(uid));
    }

    pub fn clear(&self) {
        self.clusters.lock().clear();
    }
}

fn missed(finding: &Finding) -> i64 {
    if let Finding::Missed(gap) = finding { gap.records_max() } else { 0 }
}

impl Clusters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ClusterFacts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let clusters: Vec<ClusterFacts> = self.lock().values().copied().collect();
        let sum = |of: fn(&TopicCounts) -> u32| clusters.iter().map(|c| i64::from(of(&c.counts))).sum::<i64>();
        let mut by_state = encoder.encode_descriptor("topics", "Topics that policies are about, by state", None, MetricType::Gauge)?;
        let states = [
            ("Healthy", sum(|c| c.healthy)),
            ("AtRisk", sum(|c| c.at_risk)),
            ("Violated", sum(|c| c.violated)),
            ("Lost", sum(|c| c.lost)),
            ("Unknown", sum(|c| c.unknown)),
        ];
        for (state, count) in states {
            ConstGauge::new(count).encode(by_state.encode_family(&[("state", state)])?)?;
        }
        let help = "Records that groups missed within the look-back, at most";
        let missed = encoder.encode_descriptor("topics_missed_records", help, None, MetricType::Gauge)?;
        ConstGauge::new(clusters.iter().map(|c| c.missed_records).sum::<i64>()).encode(missed)?;
        let help = "Clusters whose audit log cannot be written: their topics are raised, and none is lowered";
        let failing = encoder.encode_descriptor("audit_failing_clusters", help, None, MetricType::Gauge)?;
        ConstGauge::new(clusters.iter().filter(|c| c.audit.is_failing).count() as i64).encode(failing)?;
        let help = "Changes of topics that were made and wait to be written to their audit logs";
        let waiting = encoder.encode_descriptor("audit_waiting_changes", help, None, MetricType::Gauge)?;
        ConstGauge::new(clusters.iter().map(|c| c.audit.waiting_changes).sum::<i64>()).encode(waiting)?;
        let oldest = clusters.iter().map(|c| c.looked_at.elapsed().as_secs_f64()).fold(0.0, f64::max);
        let help = "Since the topics were last looked at, of the cluster that waits longest; 0 without clusters";
        let age = encoder.encode_descriptor("topics_look_age_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(oldest).encode(age)
    }
}
