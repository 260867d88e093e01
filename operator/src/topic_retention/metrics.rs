//! Metrics of topics, summed up over all clusters; a topic is a label only while something is wrong with it.

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
use weir_crds::{
    KafkaCluster, TopicRetentionPolicy,
    conditions::ConditionType,
    topic_retention_policy::{TopicCounts, TopicRetentionPolicyStatus},
};
use weir_floors::{Assessment, findings::Finding, status::summary, verdict::Outcome, wanted::Cause};

use super::{keeping::Keeping, series::AllSeries};
use crate::text::qualified_name;

/// Series of policies that are stalled.
const STALLED_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    cause: &'static str,
    outcome: crate::metrics::Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Default)]
pub struct TopicMetrics {
    changes: Family<ChangeLabels, Counter>,
    verdicts: Family<VerdictLabel, Counter>,
    policy_changes: Counter,
    clusters: Arc<Clusters>,
    stalled: Arc<Stalled>,
}

/// By the cluster's uid.
#[derive(Debug, Default)]
struct Clusters(Mutex<BTreeMap<String, ClusterFacts>>);

/// By the policy's uid: its name, and why it does not do what it says.
#[derive(Debug, Default)]
struct Stalled(Mutex<BTreeMap<String, (String, String)>>);

#[derive(Clone, Debug)]
struct ClusterFacts {
    name: String,
    counts: TopicCounts,
    missed_records: i64,
    findings: AllSeries,
    looked_at: Instant,
    /// When a turn began, whether or not the cluster answered.
    turned_at: Instant,
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
        for (cause, outcome) in CAUSES.iter().flat_map(|cause| OUTCOMES.map(|outcome| (cause, outcome))) {
            // From the first scrape on, so that the first change is an increase.
            let _ = metrics.changes.get_or_create(&ChangeLabels { cause: cause.as_str(), outcome });
        }
        registry.register("repair_verdicts", "Repairs, by whether records were deleted before", metrics.verdicts.clone());
        for outcome in Outcome::ALL {
            let _ = metrics.verdicts.get_or_create(&VerdictLabel { verdict: outcome.as_str() });
        }
        let help = "Changes of policies and clusters that were seen to take effect: each must have passed the webhook";
        registry.register("policy_changes", help, metrics.policy_changes.clone());
        registry.register_collector(Box::new(Arc::clone(&metrics.clusters)));
        registry.register_collector(Box::new(Arc::clone(&metrics.stalled)));
        metrics
    }

    pub fn judged(&self, outcome: Outcome) {
        self.verdicts.get_or_create(&VerdictLabel { verdict: outcome.as_str() }).inc();
    }

    pub fn policies_changed(&self, changes: usize) {
        self.policy_changes.inc_by(changes as u64);
    }

    pub fn changed(&self, cause: Cause, outcome: crate::metrics::Outcome) {
        self.changes.get_or_create(&ChangeLabels { cause: cause.as_str(), outcome }).inc();
    }

    /// A turn begins. From now on the cluster is to be looked at: one that never answers grows old as well.
    pub fn expect(&self, cluster: &KafkaCluster) {
        let now = Instant::now();
        let facts = || ClusterFacts {
            name: cluster.name_any(),
            counts: TopicCounts::default(),
            missed_records: 0,
            findings: AllSeries::default(),
            looked_at: now,
            turned_at: now,
            audit: AuditFacts::default(),
        };
        self.clusters.lock().entry(cluster.uid().unwrap_or_default()).or_insert_with(facts).turned_at = now;
    }

    /// What is wrong with its topics.
    pub fn note_findings(&self, cluster: &KafkaCluster, findings: AllSeries) {
        self.expect(cluster);
        if let Some(facts) = self.clusters.lock().get_mut(&cluster.uid().unwrap_or_default()) {
            facts.findings = findings;
        }
    }

    /// Of a turn; `is_seen`: whether the cluster answered, and lets weir look at all that is governed.
    pub fn note<'a>(&self, cluster: &KafkaCluster, topics: impl Iterator<Item = (&'a str, &'a Assessment)> + Clone, is_seen: bool) {
        let (counts, _) = summary(topics.clone());
        let missed_records = topics.flat_map(|(_, it)| &it.findings).map(missed).sum();
        self.expect(cluster);
        if let Some(facts) = self.clusters.lock().get_mut(&cluster.uid().unwrap_or_default()) {
            (facts.counts, facts.missed_records) = (counts, missed_records);
            if is_seen {
                facts.looked_at = Instant::now();
            }
        }
    }

    /// Of a turn: how the cluster's audit log is.
    pub fn note_audit(&self, cluster: &KafkaCluster, keeping: &Keeping) {
        let waiting_changes = i64::try_from(keeping.waiting_changes()).unwrap_or(i64::MAX);
        if let Some(facts) = self.clusters.lock().get_mut(&cluster.uid().unwrap_or_default()) {
            facts.audit = AuditFacts { is_failing: !keeping.is_healthy(), waiting_changes };
        }
    }

    /// What a policy says of itself.
    pub fn note_policy(&self, policy: &TopicRetentionPolicy, status: &TopicRetentionPolicyStatus) {
        let (uid, mut stalled) = (policy.uid().unwrap_or_default(), self.stalled.lock());
        stalled.remove(&uid);
        if let Some(why) = status.conditions.iter().find(|c| c.type_ == ConditionType::Stalled.as_str() && c.status == "True") {
            stalled.insert(uid, (qualified_name(policy), why.reason.clone()));
        }
    }

    /// Nobody asks for anything of it any more.
    pub fn forget(&self, cluster: &KafkaCluster) {
        self.clusters.lock().remove(&cluster.uid().unwrap_or_default());
    }

    /// Forgets clusters and policies that are gone.
    pub fn retain(&self, clusters: &BTreeSet<String>, policies: &BTreeSet<String>) {
        self.clusters.lock().retain(|uid, _| clusters.contains(uid));
        self.stalled.lock().retain(|uid, _| policies.contains(uid));
    }

    pub fn clear(&self) {
        self.clusters.lock().clear();
        self.stalled.lock().clear();
    }
}

const CAUSES: [Cause; 4] = [Cause::Raise, Cause::Restore, Cause::Extend, Cause::StepDown];
const OUTCOMES: [crate::metrics::Outcome; 2] = [crate::metrics::Outcome::Success, crate::metrics::Outcome::Error];

fn missed(finding: &Finding) -> i64 {
    if let Finding::Missed(gap) = finding { gap.records_max() } else { 0 }
}

impl Clusters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ClusterFacts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stalled {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Stalled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "A TopicRetentionPolicy that does not do what it says, and why";
        let mut series = encoder.encode_descriptor("policy_stalled", help, None, MetricType::Gauge)?;
        for (policy, reason) in self.lock().values().take(STALLED_MAX) {
            let labels = [("policy", policy.as_str()), ("reason", reason.as_str())];
            ConstGauge::new(1_i64).encode(series.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let clusters: Vec<ClusterFacts> = self.lock().values().cloned().collect();
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
        let help = "Since all governed topics of a cluster could last be looked at";
        let mut looked = encoder.encode_descriptor("topics_look_age_seconds", help, None, MetricType::Gauge)?;
        for c in &clusters {
            ConstGauge::new(c.looked_at.elapsed().as_secs_f64()).encode(looked.encode_family(&[("cluster", &c.name)])?)?;
        }
        let help = "Since a cluster's last turn began, whether or not the cluster answered";
        let mut turned = encoder.encode_descriptor("turn_age_seconds", help, None, MetricType::Gauge)?;
        for c in &clusters {
            ConstGauge::new(c.turned_at.elapsed().as_secs_f64()).encode(turned.encode_family(&[("cluster", &c.name)])?)?;
        }
        let help = "What is wrong with a topic or a group now; the value is what the finding is measured in";
        let mut findings = encoder.encode_descriptor("finding", help, None, MetricType::Gauge)?;
        for s in clusters.iter().flat_map(|c| &c.findings.shown) {
            let labels = [
                ("cluster", s.cluster.as_str()),
                ("topic", &s.topic),
                ("group", &s.group),
                ("finding", s.finding),
                ("severity", s.severity),
                ("owner", &s.owner),
                ("detail", &s.detail),
            ];
            ConstGauge::new(s.value).encode(findings.encode_family(&labels)?)?;
        }
        let help = "Findings beyond what is shown as series";
        let left_out = encoder.encode_descriptor("findings_left_out", help, None, MetricType::Gauge)?;
        ConstGauge::new(clusters.iter().map(|c| c.findings.left_out as i64).sum::<i64>()).encode(left_out)
    }
}
