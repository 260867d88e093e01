//! The table of topic edits: each wrong one beside a twin that differs in the one thing that was wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    HOUR_MS, Retention,
    config::Overrides,
    judge::{Edit, Standing, Verdict, judge, judge_deletion},
    policy::{Mode, Protect},
};

const TABLE: &str = include_str!("../../tables/edits.yaml");

/// One row. Values are what the topic sets itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Row {
    name: String,
    #[serde(default)]
    standing: Differs,
    old: Overrides,
    wrong: Overrides,
    twin: Overrides,
    /// What the refusal says.
    says: Vec<String>,
    /// Whether the twin passes with a warning.
    #[serde(default)]
    warns: bool,
    /// For the reconciler's test.
    #[serde(default, rename = "reconciler")]
    _reconciler: IgnoredAny,
}

/// How a topic's standing differs from a floor of 168 h over a default of as much, by `Enforce`, with a known rate.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Differs {
    #[serde(default)]
    inherited: BTreeMap<String, Option<String>>,
    #[serde(default)]
    floor_unknown: bool,
    #[serde(default)]
    rate_unknown: bool,
}

fn standing(differs: &Differs) -> Standing {
    let mut inherited: BTreeMap<String, String> = [
        ("retention.ms", "604800000"),
        ("retention.bytes", "-1"),
        ("cleanup.policy", "delete"),
        ("remote.storage.enable", "false"),
        ("remote.log.delete.on.disable", "false"),
        ("local.retention.ms", "-2"),
        ("local.retention.bytes", "-2"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    for (key, value) in &differs.inherited {
        match value {
            Some(value) => inherited.insert(key.clone(), value.clone()),
            None => inherited.remove(key),
        };
    }
    Standing {
        topic: "app_events".into(),
        floor: (!differs.floor_unknown).then_some(Retention::Millis(168 * HOUR_MS)),
        mode: Mode::Enforce,
        protect: Protect::ALL,
        inherited,
        // A thousand bytes a second: 604,800,000 bytes fill in 168 h.
        bytes_per_ms: (!differs.rate_unknown).then_some(1.0),
        why: "group lake-sink is 8h12m behind (peak 3d12h, 2026-11-02), twice that is needed".into(),
        owners: vec!["data-lake (#data-lake)".into()],
        consumers: vec!["lake-sink (raw.app_events)".into()],
    }
}

fn verdict(old: &Overrides, new: &Overrides, standing: &Standing) -> Verdict {
    judge(&Edit { path: "spec.config", old, new }, standing)
}

fn rows() -> Vec<Row> {
    serde_yaml_ng::from_str(TABLE).unwrap()
}

#[test]
fn each_wrong_edit_is_refused_and_its_twin_passes() {
    let rows = rows();
    assert!(rows.len() >= 40, "{}", rows.len());
    for row in &rows {
        let standing = standing(&row.standing);
        match verdict(&row.old, &row.wrong, &standing) {
            Verdict::Refuse { message } => {
                for said in &row.says {
                    assert!(message.contains(said), "{}: {said:?} is not in {message:?}", row.name);
                }
            }
            other => panic!("{}: {other:?}", row.name),
        }
        let twin = verdict(&row.old, &row.twin, &standing);
        assert_eq!(matches!(twin, Verdict::PassWithWarning { .. }), row.warns, "{}: {twin:?}", row.name);
        assert!(!matches!(twin, Verdict::Refuse { .. }), "{}: {twin:?}", row.name);
        // Admission judges a change, the reconciler its result: nothing changed, nothing to say.
        assert_eq!(verdict(&row.wrong, &row.wrong, &standing), Verdict::Pass, "{}: unchanged", row.name);
    }
}

#[test]
fn what_is_not_enforced_warns_or_passes() {
    for row in rows() {
        let mut standing = standing(&row.standing);
        standing.mode = Mode::Warn;
        assert!(matches!(verdict(&row.old, &row.wrong, &standing), Verdict::PassWithWarning { .. }), "{}", row.name);
        standing.mode = Mode::Audit;
        assert_eq!(verdict(&row.old, &row.wrong, &standing), Verdict::Pass, "{}", row.name);
    }
}

fn sets(pairs: &[(&str, &str)]) -> Overrides {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_refusal_says_all_that_its_reader_needs() {
    let standing = standing(&Differs::default());
    let Verdict::Refuse { message } = verdict(&sets(&[]), &sets(&[("retention.ms", "3600000")]), &standing) else { panic!() };
    assert_eq!(
        message,
        "spec.config.\"retention.ms\": 3600000 (1h) is below the floor of 604800000 (168h) of topic app_events: group lake-sink is \
         8h12m behind (peak 3d12h, 2026-11-02), twice that is needed; owner data-lake (#data-lake). To go below it for a while, \
         create a RetentionException."
    );
    let Verdict::PassWithWarning { message } =
        verdict(&sets(&[("retention.ms", "1209600000")]), &sets(&[("retention.ms", "864000000")]), &standing)
    else {
        panic!()
    };
    assert_eq!(
        message,
        "spec.config.\"retention.ms\": 864000000 (240h) lowers the retention of topic app_events, and stays above its floor of 604800000 \
         (168h); it is read by lake-sink (raw.app_events); owner data-lake (#data-lake)"
    );
}

#[test]
fn what_is_not_protected_passes() {
    let mut standing = standing(&Differs::default());
    let fills = (sets(&[]), sets(&[("retention.bytes", "1000000")]));
    let deletes = (sets(&[("cleanup.policy", "compact"), ("retention.ms", "1000")]), sets(&[("retention.ms", "1000")]));
    for (old, new) in [&fills, &deletes] {
        assert!(matches!(verdict(old, new, &standing), Verdict::Refuse { .. }));
    }
    assert!(matches!(judge_deletion(&standing), Verdict::Refuse { message } if message.contains("protect.deletion")));
    standing.protect = Protect::NONE;
    for (old, new) in [&fills, &deletes] {
        assert_eq!(verdict(old, new, &standing), Verdict::Pass);
    }
    assert_eq!(judge_deletion(&standing), Verdict::Pass);
}
