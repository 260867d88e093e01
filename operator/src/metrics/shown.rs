//! What alert rules, dashboard and runbooks say is there: metrics, findings, alerts.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use weir_crds::KafkaCluster;
use weir_floors::{
    Retention,
    findings::{Finding, Gap, GapCause},
    policy::Mode,
    verdict::Repair,
};

use super::*;

const RULES: &str = include_str!("../../../config/alerts/rules.yaml");
const DASHBOARD: &str = include_str!("../../../config/dashboards/weir.json");
const RUNBOOKS: &str = include_str!("../../../docs/src/runbooks.md");

/// All matches of a pattern's first group.
fn all<'a>(pattern: &str, text: &'a str) -> BTreeSet<&'a str> {
    Regex::new(pattern).unwrap().captures_iter(text).filter_map(|found| found.get(1)).map(|m| m.as_str()).collect()
}

/// Every metric that is ever served, by the names that Prometheus has for them.
fn served() -> BTreeSet<String> {
    let metrics = Metrics::default();
    let facts = JobFacts { deadline: Some(Timestamp::now()), ..JobFacts::default() };
    metrics.jobs.lock().insert("job".into(), facts);
    let spec = serde_json::json!({"apiVersion": "weir.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "main"}, "spec": {"bootstrapServers": []}});
    let cluster: KafkaCluster = serde_json::from_value(spec).unwrap();
    metrics.topics.expect(&cluster);
    metrics.reconciled("Kind".to_owned(), Outcome::Success, Duration::ZERO);
    metrics.admission.judged("Kind", crate::admission::metrics::Outcome::Unreadable, Duration::ZERO, Timestamp::now());
    let text = metrics.render().unwrap();
    let mut names = BTreeSet::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    names
}

#[test]
fn every_metric_of_rules_and_dashboard_is_served() {
    let served = served();
    for (file, text) in [("rules", RULES), ("dashboard", DASHBOARD)] {
        for name in all(r"\b(weir_[a-z0-9_]+)", text) {
            assert!(served.contains(name), "{file}: nobody serves {name}");
        }
    }
}

#[test]
fn every_alert_has_its_runbook_and_every_runbook_its_alert() {
    let alerts = all(r"- alert: (\w+)", RULES);
    assert_eq!(alerts, all(r"(?m)^## (\w+)$", RUNBOOKS));
    let anchors: BTreeSet<String> = alerts.iter().map(|alert| alert.to_lowercase()).collect();
    let linked = all(r"runbook_url: \S+/runbooks\.html#(\w+)", RULES);
    assert_eq!(anchors.iter().map(String::as_str).collect::<BTreeSet<_>>(), linked);
    // Each alert links its own.
    for rule in RULES.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        assert!(rule.contains(&format!("#{}", name.to_lowercase())), "{name}");
    }
}

/// One of each.
fn findings() -> Vec<Finding> {
    let group = || "g".to_owned();
    let gap = |cause| Gap {
        topic_id: String::new(),
        group: group(),
        partition: 0,
        from: 0,
        to: 1,
        first_ms: None,
        last_ms: None,
        cause,
        found_ms: 0,
        grown_ms: 0,
        between: 0,
        closed: false,
        incident: String::new(),
    };
    let repair = || Repair {
        id: String::new(),
        since_ms: 0,
        at_ms: 0,
        key: String::new(),
        before: None,
        lowered_to: None,
        put_back: String::new(),
        verdict: None,
        acknowledged: false,
    };
    let (to, floor) = (Retention::Millis(0), Retention::Infinite);
    vec![
        Finding::BelowFloor { from: None, to, floor },
        Finding::SizeLowered { from: None, to: 0 },
        Finding::FloorCapped { wanted: floor, maximum: to },
        Finding::Missed(gap(GapCause::LogStartMoved)),
        Finding::Missed(gap(GapCause::Skipped)),
        Finding::Deleted(repair()),
        Finding::Restored(repair()),
        Finding::EnforcementConflict { resource: String::new(), declared: vec![("retention.ms", None)], patch: String::new(), reverted: 0 },
        Finding::DeadConsumer { group: group(), partitions: vec![], since_ms: 0 },
        Finding::OffsetsExpiring { group: group(), within_ms: 0 },
        Finding::OffsetsForgotten { group: group(), since_ms: 0 },
        Finding::LagTrend { group: group(), crosses_ms: 0 },
        Finding::LagAboveSlo { group: group(), percent: 25, critical: false },
        Finding::LagAboveSlo { group: group(), percent: 50, critical: true },
        Finding::LossNear { group: group(), within_ms: 0 },
    ]
}

#[test]
fn every_finding_has_an_alert_of_its_severity() {
    // Where the rule names no severity, the one of the series stands.
    let severities: BTreeMap<&str, Option<&str>> = RULES
        .split("- alert: ")
        .flat_map(|rule| {
            let found = all(r#"weir_finding\{finding=~?"([\w|]+)"\}"#, rule).into_iter().next();
            let severity = all(r"severity: (\w+)\}", rule).into_iter().next();
            found.into_iter().flat_map(|found| found.split('|')).map(move |finding| (finding, severity))
        })
        .collect();
    let mut named = BTreeSet::new();
    for (finding, mode) in findings().iter().flat_map(|finding| [Mode::Audit, Mode::Warn, Mode::Enforce].map(|mode| (finding, mode))) {
        let alert = severities.get(finding.as_str());
        assert!(alert.is_some(), "{} has no alert", finding.as_str());
        let told = if finding.pages(mode) { "critical" } else { "warning" };
        assert_eq!(alert.copied().flatten().unwrap_or(told), told, "{} in {mode:?}", finding.as_str());
        named.insert(finding.as_str());
    }
    assert_eq!(severities.into_keys().collect::<BTreeSet<_>>(), named, "an alert that nothing sets off");
    let below = Finding::BelowFloor { from: None, to: Retention::Millis(0), floor: Retention::Infinite };
    assert!(below.pages(Mode::Enforce) && !below.pages(Mode::Audit), "a trial wakes nobody");
}
