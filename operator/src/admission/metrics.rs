//! Metrics of the webhooks. Kinds are labels, objects are not.

use std::{sync::atomic::AtomicU64, time::Duration};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::review::Judged;

/// From an answer out of memory to the timeout of the configuration.
const SECONDS_BUCKETS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    Passed,
    Warned,
    Refused,
    /// It passed, and says now who asked.
    Stamped,
    /// It was no review of a kind that is judged here.
    Unreadable,
}

impl Outcome {
    pub const fn of(judged: &Judged) -> Self {
        match (judged.refusals.is_empty(), judged.warnings.is_empty()) {
            (false, _) => Self::Refused,
            (true, false) => Self::Warned,
            (true, true) => Self::Passed,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    verdict: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

pub struct AdmissionMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    last_request: Family<KindLabel, Gauge<f64, AtomicU64>>,
    certificate_expiry: Gauge<f64, AtomicU64>,
}

impl AdmissionMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let it = Self {
            requests: Family::default(),
            seconds: Histogram::new(SECONDS_BUCKETS),
            last_request: Family::default(),
            certificate_expiry: Gauge::default(),
        };
        registry.register("admission_requests", "Requests to the webhooks, by kind and verdict", it.requests.clone());
        registry.register("admission_seconds", "How long judging a request took", it.seconds.clone());
        let help = "When this replica was last asked about a kind, in seconds since the epoch";
        registry.register("admission_last_request_timestamp_seconds", help, it.last_request.clone());
        let help = "When the certificate that this replica serves with expires, in seconds since the epoch; 0: it has none yet";
        registry.register("admission_certificate_expiry_timestamp_seconds", help, it.certificate_expiry.clone());
        it
    }

    pub fn judged(&self, kind: &'static str, verdict: Outcome, took: Duration, now: Timestamp) {
        self.requests.get_or_create(&RequestLabels { kind, verdict }).inc();
        self.seconds.observe(took.as_secs_f64());
        self.last_request.get_or_create(&KindLabel { kind }).set(seconds(now));
    }

    pub fn serves_until(&self, expires: Timestamp) {
        self.certificate_expiry.set(seconds(expires));
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
