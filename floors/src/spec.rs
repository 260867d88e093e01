//! From the kinds' specs to what this crate computes with. What is absent gets its default here, and nowhere else.

use regex::Regex;
use weir_crds::{
    duration::KubeDuration,
    kafka_cluster::{GrantVerb, KafkaClusterSpec},
    retention_exception::RetentionExceptionSpec,
    topic_retention_policy::{EmergencyExtend, EnforcementMode, FloorSpec, ProtectSpec, TopicRetentionPolicySpec},
    validate::{self, FieldError},
};

use crate::{
    DAY_MS, HOUR_MS, Retention,
    exceptions::Exception,
    history::LOOK_BACK_DEFAULT_MS,
    policy::{Authority, Consumer, Decreases, Detectors, Emergency, FloorRule, GroupRule, Mode, Owners, Policy, Protect, Slo, Topics},
};

const LAG_MULTIPLIER_DEFAULT_PERCENT: u32 = 200;
const RETIRE_AFTER_DEFAULT_MS: i64 = 336 * HOUR_MS;
/// An exception ends so long after its creation, whatever it says, unless the cluster allows more.
pub const EXCEPTION_MAX_DEFAULT_MS: i64 = 4 * HOUR_MS;
/// No cluster allows more.
pub const EXCEPTION_MAX_MS: i64 = 24 * HOUR_MS;

/// A policy, which until [`Policy::with_authority`] only looks. `name`: as `namespace/name`.
pub fn policy(name: &str, spec: &TopicRetentionPolicySpec) -> Result<Policy, Vec<FieldError>> {
    let mut errors = Vec::new();
    let groups = spec.consumer_groups.clone().unwrap_or_default();
    let topics = Topics {
        names: spec.topics.names.iter().cloned().collect(),
        patterns: patterns("spec.topics.patterns", &spec.topics.patterns, &mut errors),
        exclude: patterns("spec.topics.exclude", &spec.topics.exclude, &mut errors),
    };
    let excluded_groups = patterns("spec.consumerGroups.exclude", &groups.exclude, &mut errors);
    for (index, group) in groups.required.iter().enumerate().filter(|(_, g)| excluded_groups.iter().any(|e| e.is_match(g))) {
        errors.push(FieldError {
            field: format!("spec.consumerGroups.required[{index}]"),
            message: format!("{group} is excluded as well"),
            remedy: "take it out of one of the two".into(),
        });
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Policy {
        name: name.to_owned(),
        cluster: spec.cluster_ref.name.clone(),
        topics,
        floor: floor(&spec.floor),
        groups: GroupRule {
            required: groups.required.into_iter().collect(),
            exclude: excluded_groups,
            retire_after_ms: ms_or(groups.retire_after, RETIRE_AFTER_DEFAULT_MS),
        },
        authority: Authority::Observe,
        mode: mode(spec.enforcement.mode),
        protect: protect(&spec.protect.clone().unwrap_or_default()),
        emergency: spec.enforcement.emergency_extend.as_ref().map(emergency),
        decreases: decreases(spec),
        slo: slo(spec),
        detectors: Detectors {
            dead_consumer_after_ms: spec.detectors.as_ref().and_then(|d| Some(ms(d.dead_consumer.as_ref()?.after))),
            lag_trend_over_ms: spec.detectors.as_ref().and_then(|d| Some(ms(d.lag_trend.as_ref()?.over))),
        },
        owners: owners(spec),
    })
}

fn floor(spec: &FloorSpec) -> FloorRule {
    FloorRule {
        minimum_ms: ms(spec.minimum),
        lag_multiplier_percent: spec.lag_multiplier_percent.unwrap_or(LAG_MULTIPLIER_DEFAULT_PERCENT),
        look_back_ms: ms_or(spec.lag_lookback, LOOK_BACK_DEFAULT_MS),
        downtime_allowance_ms: ms_or(spec.downtime_allowance, 0),
        maximum: spec.maximum.map_or(Retention::Infinite, |maximum| Retention::Millis(ms(maximum))),
    }
}

fn emergency(spec: &EmergencyExtend) -> Emergency {
    Emergency {
        below_headroom_percent: spec.when_headroom_below_percent,
        factor_percent: spec.factor_percent,
        maximum_ms: ms(spec.maximum),
    }
}

fn decreases(spec: &TopicRetentionPolicySpec) -> Decreases {
    let (max_step, every) = spec.decreases.as_ref().map_or((None, None), |d| (d.max_step, d.every));
    Decreases { max_step_ms: ms_or(max_step, DAY_MS), every_ms: ms_or(every, DAY_MS) }
}

fn slo(spec: &TopicRetentionPolicySpec) -> Slo {
    let slo = spec.slo.clone().unwrap_or_default();
    Slo {
        warning_percent: slo.warning_percent.unwrap_or(25),
        critical_percent: slo.critical_percent.unwrap_or(50),
        min_time_to_loss_ms: ms_or(slo.min_time_to_loss, 4 * HOUR_MS),
        offsets_expiry_percent: slo.offsets_expiry_percent.unwrap_or(50),
    }
}

pub fn owners(spec: &TopicRetentionPolicySpec) -> Owners {
    let consumer = |c: &weir_crds::topic_retention_policy::ConsumerSpec| {
        (c.group.clone(), Consumer { team: c.team.clone(), contact: c.contact.clone(), tables: c.tables.clone() })
    };
    Owners {
        team: spec.owners.team.clone(),
        contacts: spec.owners.contacts.clone(),
        consumers: spec.owners.consumers.iter().map(consumer).collect(),
    }
}

pub(crate) const fn mode(mode: EnforcementMode) -> Mode {
    match mode {
        EnforcementMode::Enforce => Mode::Enforce,
        EnforcementMode::Warn => Mode::Warn,
        EnforcementMode::Audit => Mode::Audit,
    }
}

fn protect(spec: &ProtectSpec) -> Protect {
    Protect {
        retention_bytes: spec.retention_bytes.unwrap_or(true),
        cleanup_policy: spec.cleanup_policy.unwrap_or(true),
        broker_defaults: spec.broker_defaults.unwrap_or(true),
        deletion: spec.deletion.unwrap_or(true),
    }
}

/// What a cluster lets a namespace do with a topic; `None`: nothing.
pub fn authority(cluster: &KafkaClusterSpec, namespace: &str, topic: &str) -> Option<Authority> {
    let mut found = None;
    for grant in validate::grants(cluster, namespace, topic) {
        let max_floor = grant.max_floor.map_or(Retention::Infinite, |max| Retention::Millis(ms(max)));
        found = match found {
            Some(Authority::Govern { max_floor: before }) if grant.verbs.contains(&GrantVerb::Govern) => {
                Some(Authority::Govern { max_floor: max_floor.max(before) })
            }
            Some(Authority::Govern { .. }) => found,
            _ if grant.verbs.contains(&GrantVerb::Govern) => Some(Authority::Govern { max_floor }),
            _ if grant.verbs.contains(&GrantVerb::Observe) => Some(Authority::Observe),
            before => before,
        };
    }
    found
}

/// Whether a namespace may change a topic's retention.
pub fn governs(cluster: &KafkaClusterSpec, namespace: &str, topic: &str) -> bool {
    matches!(authority(cluster, namespace, topic), Some(Authority::Govern { .. }))
}

/// How long an exception may last on a cluster.
pub fn exception_max_ms(cluster: &KafkaClusterSpec) -> i64 {
    ms_or(cluster.exception_maximum, EXCEPTION_MAX_DEFAULT_MS).min(EXCEPTION_MAX_MS)
}

/// Whether an exception is about a topic of a cluster.
pub fn covers(spec: &RetentionExceptionSpec, cluster: &str, topic: &str) -> bool {
    spec.cluster_ref.name == cluster && spec.topics.iter().any(|t| t == topic)
}

/// An exception, as it ends by itself. `name`: as `namespace/name`.
pub fn exception(name: &str, spec: &RetentionExceptionSpec, created_ms: i64, max_ms: i64) -> Exception {
    Exception {
        name: name.to_owned(),
        reason: spec.reason.clone(),
        floor_ms: ms(spec.floor),
        until_ms: spec.until.0.as_millisecond().min(created_ms.saturating_add(max_ms)),
    }
}

fn patterns(field: &str, patterns: &[String], errors: &mut Vec<FieldError>) -> Vec<Regex> {
    let mut parsed = Vec::new();
    for (index, pattern) in patterns.iter().enumerate() {
        match Regex::new(pattern) {
            Ok(regex) => parsed.push(regex),
            Err(e) => errors.push(FieldError {
                field: format!("{field}[{index}]"),
                message: format!("{pattern:?} is not a regular expression: {e}"),
                remedy: "correct it; it matches any part of a name".into(),
            }),
        }
    }
    parsed
}

fn ms(duration: KubeDuration) -> i64 {
    duration.as_micros() / 1000
}

fn ms_or(duration: Option<KubeDuration>, default_ms: i64) -> i64 {
    duration.map_or(default_ms, ms)
}
