//! The table of policies and their changes: each wrong one beside a twin that differs in the one thing that was wrong.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use weir_crds::topic_floor::{ConsumerStanding, PeakStanding, TopicStanding};

use crate::{
    HOUR_MS, Policy, Retention,
    judge::Verdict,
    policy::Authority,
    policy_change::{Governed, judge_policy},
    spec,
};

const TABLE: &str = include_str!("../../tables/policies.yaml");
/// 2026-11-07T00:00:00Z
const NOW_MS: i64 = 1_794_009_600_000;
const GOVERN: Authority = Authority::Govern { max_floor: Retention::Infinite };

#[derive(Deserialize)]
struct Table {
    base: Value,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default = "behind_100_hours")]
    standing: Option<Vec<Behind>>,
    old: Option<Value>,
    wrong: Value,
    twin: Value,
    says: Vec<String>,
    #[serde(default)]
    warns: Vec<String>,
    /// For the reconciler's test.
    #[serde(default, rename = "reconciler")]
    _reconciler: IgnoredAny,
}

#[derive(Deserialize)]
struct Behind {
    group: String,
    hours: Option<i64>,
}

fn behind_100_hours() -> Option<Vec<Behind>> {
    Some(vec![Behind { group: "lake-sink".into(), hours: Some(100) }])
}

/// Lays one value over another: objects field by field.
fn laid_over(base: &Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            let mut all = base.clone();
            for (key, value) in over {
                let laid = base.get(key).map_or_else(|| value.clone(), |base| laid_over(base, value));
                all.insert(key.clone(), laid);
            }
            Value::Object(all)
        }
        (_, over) => over.clone(),
    }
}

fn standing(consumers: &[Behind]) -> TopicStanding {
    let two_days_ago = NOW_MS - 48 * HOUR_MS;
    let peak = |hours: i64| PeakStanding { behind_ms: hours * HOUR_MS, hour_ms: two_days_ago };
    let consumer = |b: &Behind| ConsumerStanding { group: b.group.clone(), tables: vec![], peak: b.hours.map(peak) };
    let mut standing: TopicStanding = serde_json::from_value(json!({
        "floorMs": 200 * HOUR_MS, "mode": "Enforce", "owners": ["data-lake (#data-lake)"],
        "protect": {"retentionBytes": true, "cleanupPolicy": true, "deletion": true},
    }))
    .unwrap();
    standing.consumers = consumers.iter().map(consumer).collect();
    standing
}

fn policy(spec: &Value) -> Result<Policy, String> {
    let spec = serde_json::from_value(spec.clone()).unwrap();
    spec::policy("growth/events", &spec).map_err(|errors| errors[0].to_string())
}

/// As the webhook and the controller do: the spec by itself first, then the change.
fn judged(table: &Table, row: &Row, new: &Value) -> Verdict {
    let new = match policy(&laid_over(&table.base, new)) {
        Ok(new) => new,
        Err(message) => return Verdict::Refuse { message },
    };
    let Some(old) = &row.old else { return Verdict::Pass };
    let old = policy(&laid_over(&table.base, old)).unwrap();
    let standing = row.standing.as_deref().map(standing);
    judge_policy(&old, &new, &Governed { topic: "app_events", standing: standing.as_ref(), authority: GOVERN, others: &[] }, NOW_MS)
}

fn table() -> Table {
    serde_yaml_ng::from_str(TABLE).unwrap()
}

#[test]
fn each_wrong_policy_is_refused_and_its_twin_passes() {
    let table = table();
    for row in &table.rows {
        match judged(&table, row, &row.wrong) {
            Verdict::Refuse { message } => {
                for said in &row.says {
                    assert!(message.contains(said), "{}: {said:?} is not in {message:?}", row.name);
                }
            }
            other => panic!("{}: {other:?}", row.name),
        }
        match judged(&table, row, &row.twin) {
            Verdict::Pass => assert!(row.warns.is_empty(), "{}: no warning", row.name),
            Verdict::PassWithWarning { message } => {
                assert!(!row.warns.is_empty() && row.warns.iter().all(|said| message.contains(said)), "{}: {message}", row.name);
            }
            refused @ Verdict::Refuse { .. } => panic!("{}: {refused:?}", row.name),
        }
    }
}

#[test]
fn a_floor_that_another_policy_holds_up_may_be_lowered_here() {
    let table = table();
    let of = |over: Value| policy(&laid_over(&table.base, &over)).unwrap();
    let (old, new) = (of(json!({})), of(json!({"floor": {"minimum": "1h", "lagMultiplierPercent": 0}})));
    let standing = standing(&behind_100_hours().unwrap());
    let judged = |others: &[Policy], authority| {
        judge_policy(&old, &new, &Governed { topic: "app_events", standing: Some(&standing), authority, others }, NOW_MS)
    };
    let other = of(json!({"floor": {"minimum": "100h"}}));
    assert!(matches!(judged(std::slice::from_ref(&other), GOVERN), Verdict::Refuse { .. }), "one that only looks holds nothing up");
    assert_eq!(judged(&[other.with_authority(GOVERN)], GOVERN), Verdict::Pass);
    // What binds nobody is lowered by nobody.
    assert_eq!(judged(&[], Authority::Observe), Verdict::Pass);
    // The grant caps both: nothing falls.
    assert_eq!(judged(&[], Authority::Govern { max_floor: Retention::Millis(24 * HOUR_MS) }), Verdict::Pass);
}
