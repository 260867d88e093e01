//! What is wrong now, as series of the metric `weir_finding`: only there while it is, so that topics and groups can be
//! labels. Pure.

use weir_floors::{Assessment, Policy, findings::Finding, policy::Mode, text};

use super::{governance::Governance, told::whose};

/// Series of one cluster, what pages first; the rest is counted.
pub const SERIES_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub cluster: String,
    pub topic: String,
    /// Empty where it is about no group.
    pub group: String,
    /// As in conditions and events.
    pub finding: &'static str,
    /// `critical` or `warning`.
    pub severity: &'static str,
    /// As `data-lake (#data-lake)`.
    pub owner: String,
    /// What does not change from turn to turn.
    pub detail: String,
    /// See [`value`].
    pub value: f64,
}

/// The series of a cluster, and how many there are beyond the bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllSeries {
    pub shown: Vec<Series>,
    pub left_out: usize,
}

pub fn of_cluster<'a>(
    cluster: &str,
    topics: impl Iterator<Item = (&'a str, &'a Assessment)>,
    governance: Option<&Governance>,
) -> AllSeries {
    let policies = |topic: &str| governance.and_then(|g| g.topics.get(topic)).map_or(&[][..], |t| &t.policies);
    let mut shown: Vec<Series> = topics.flat_map(|(topic, it)| of_topic(cluster, topic, it, policies(topic))).collect();
    shown.sort_by_key(|s| s.severity != "critical");
    let left_out = shown.len().saturating_sub(SERIES_MAX);
    shown.truncate(SERIES_MAX);
    AllSeries { shown, left_out }
}

/// One for each kind and group: a group that missed records of many partitions is one piece of news.
fn of_topic(cluster: &str, topic: &str, it: &Assessment, policies: &[Policy]) -> Vec<Series> {
    let mode = it.rules.map_or(Mode::Audit, |rules| rules.mode);
    let mut all: Vec<Series> = Vec::new();
    for finding in &it.findings {
        // The group that stands to lose by a lowered retention.
        let group = match finding {
            Finding::BelowFloor { .. } | Finding::SizeLowered { .. } | Finding::Restored(_) | Finding::Deleted(_) => it.limiting.as_deref(),
            Finding::Missed(_)
            | Finding::FloorCapped { .. }
            | Finding::EnforcementConflict { .. }
            | Finding::DeadConsumer { .. }
            | Finding::OffsetsExpiring { .. }
            | Finding::OffsetsForgotten { .. }
            | Finding::LagTrend { .. }
            | Finding::LagAboveSlo { .. }
            | Finding::LossNear { .. } => finding.group(),
        };
        let (name, found) = (group.unwrap_or_default(), value(finding));
        if let Some(known) = all.iter_mut().find(|s| s.finding == finding.as_str() && s.group == name) {
            known.value += found;
            continue;
        }
        all.push(Series {
            cluster: cluster.to_owned(),
            topic: topic.to_owned(),
            group: name.to_owned(),
            finding: finding.as_str(),
            severity: if finding.pages(mode) { "critical" } else { "warning" },
            owner: whose(group, policies),
            detail: detail(finding),
            value: found,
        });
    }
    all
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Records that were missed or deleted, at most; seconds until something is lost or forgotten; seconds since the epoch when
/// a consumer stopped, was forgotten or will lose records; percent of the effective retention; how often a topic was set
/// back; the floor in seconds; bytes that are left of a limit.
fn value(finding: &Finding) -> f64 {
    match finding {
        Finding::Missed(gap) => gap.records_max() as f64,
        Finding::Deleted(repair) => repair.verdict.as_ref().map_or(0.0, |v| v.records_max() as f64),
        Finding::OffsetsExpiring { within_ms, .. } | Finding::LossNear { within_ms, .. } => seconds(*within_ms),
        Finding::DeadConsumer { since_ms, .. } | Finding::OffsetsForgotten { since_ms, .. } => seconds(*since_ms),
        Finding::LagTrend { crosses_ms, .. } => seconds(*crosses_ms),
        Finding::LagAboveSlo { percent, .. } => f64::from(*percent),
        Finding::EnforcementConflict { reverted, .. } => *reverted as f64,
        Finding::Restored(repair) => seconds(repair.at_ms),
        Finding::BelowFloor { floor, .. } => floor.millis().map_or(f64::INFINITY, seconds),
        Finding::SizeLowered { to, .. } => *to as f64,
        Finding::FloorCapped { wanted, .. } => wanted.millis().map_or(f64::INFINITY, seconds),
    }
}

/// What stays as it is for as long as the finding does: with a number that moves it would be another series at each look, and no
/// alert that waits a minute would ever fire.
fn detail(finding: &Finding) -> String {
    match finding {
        Finding::BelowFloor { .. } => "it is below its floor; kubectl get topicfloors tells by how much".to_owned(),
        Finding::FloorCapped { maximum, .. } => format!("the maximum of {} caps it", text::retention(*maximum)),
        Finding::SizeLowered { .. } => finding.says(),
        Finding::Deleted(repair) | Finding::Restored(repair) => repair.says(),
        Finding::Missed(gap) => format!("incident {}, found at {}", gap.incident, text::second(gap.found_ms)),
        Finding::EnforcementConflict { resource, patch, .. } => format!("{resource}: {patch}"),
        Finding::DeadConsumer { .. }
        | Finding::OffsetsExpiring { .. }
        | Finding::OffsetsForgotten { .. }
        | Finding::LagTrend { .. }
        | Finding::LagAboveSlo { .. }
        | Finding::LossNear { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use weir_floors::{HOUR_MS, Retention};

    use super::*;

    #[test]
    fn a_number_that_moves_makes_no_other_series() {
        let hours = |hours| Retention::Millis(hours * HOUR_MS);
        let moved = [
            (
                Finding::BelowFloor { from: None, to: hours(90), floor: hours(168) },
                Finding::BelowFloor { from: Some(hours(90)), to: hours(89), floor: hours(170) },
            ),
            (
                Finding::FloorCapped { wanted: hours(300), maximum: hours(168) },
                Finding::FloorCapped { wanted: hours(301), maximum: hours(168) },
            ),
        ];
        for (before, after) in moved {
            assert_eq!(detail(&before), detail(&after));
        }
    }
}
