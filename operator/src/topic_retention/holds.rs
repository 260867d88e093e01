//! Which BackfillJobs need the records of which topics. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt as _;
use weir_crds::{
    BackfillJob, RENEW_HOLD_ANNOTATION,
    backfill_job::{HeldTopic, KafkaSink, RecordTimestamps, RunHolds, Sink, Window},
};
use weir_floors::policy::Hold;

use crate::text::qualified_name;

/// What a run of this content holds: only records that keep their event times can expire at once, and need it.
pub fn needed(window: &Window, sinks: &[Sink]) -> RunHolds {
    let kept = sinks.iter().filter_map(|s| s.kafka.as_ref()).filter(|k| k.timestamps == RecordTimestamps::EventTime);
    let held = |k: &KafkaSink| HeldTopic { cluster: k.cluster_ref.name.clone(), topic: k.topic.clone() };
    RunHolds { window_start: window.start.clone(), topics: kept.map(held).collect() }
}

/// As the run that goes on was begun, whatever the spec says by now: one that was reverted, or that has just been raised, is about
/// another run. What an earlier version of weir has shown does not say; there the spec is all that is known.
fn of_run(job: &BackfillJob) -> RunHolds {
    let shown = job.status.as_ref().and_then(|status| status.run.as_ref()?.holds.clone());
    shown.unwrap_or_else(|| needed(&job.spec.window, &job.spec.sinks))
}

/// Of one cluster, by topic: from planning on until a job is over.
pub fn of_jobs(jobs: &[Arc<BackfillJob>], cluster: &str, now_ms: i64) -> BTreeMap<String, Vec<Hold>> {
    let mut holds: BTreeMap<String, Vec<Hold>> = BTreeMap::new();
    for job in jobs {
        let Some(renewed_ms) = renewed_ms(job, now_ms) else { continue };
        let RunHolds { window_start, topics } = of_run(job);
        for held in topics.into_iter().filter(|held| held.cluster == cluster) {
            let window_start_ms = window_start.0.as_millisecond();
            holds.entry(held.topic).or_default().push(Hold { job: qualified_name(&**job), window_start_ms, renewed_ms });
        }
    }
    holds
}

/// When the run began, or the last time that somebody renewed its holds; `None`: it does not run.
pub fn renewed_ms(job: &BackfillJob, now_ms: i64) -> Option<i64> {
    let status = job.status.as_ref()?;
    let begun = status.run.as_ref().filter(|_| !crate::backfill_job::is_over(status.phase))?.started_at.as_ref()?;
    let renewed = job.annotations().get(RENEW_HOLD_ANNOTATION).and_then(|text| text.parse::<Timestamp>().ok());
    let renewed_ms = renewed.map(Timestamp::as_millisecond).filter(|ms| *ms <= now_ms);
    Some(begun.0.as_millisecond().max(renewed_ms.unwrap_or(i64::MIN)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn job(phase: &str, timestamps: &str, renewed: Option<&str>) -> Arc<BackfillJob> {
        let annotations = renewed.map(|at| json!({RENEW_HOLD_ANNOTATION: at})).unwrap_or(json!({}));
        let sink = json!({
            "clusterRef": {"name": "main"}, "topic": "app_events", "mode": "InPlace", "value": {"format": "Json", "columns": ["event_id"]},
            "partitioner": "Murmur2", "timestamps": timestamps, "ordering": "PerKey",
        });
        let value = json!({
            "apiVersion": "weir.dev/v1alpha1", "kind": "BackfillJob",
            "metadata": {"name": "gap", "namespace": "growth", "annotations": annotations},
            "spec": {
                "reason": "r", "serviceAccountName": "backfill", "runGeneration": 1, "sources": [],
                "window": {"start": "2026-11-01T00:00:00Z", "end": "2026-11-01T01:00:00Z", "slice": "15m"},
                "reconstruct": {"columns": {"eventId": "a", "eventTime": "b", "eventType": "c"}},
                "sinks": [{"name": "events", "kafka": sink}], "approval": {"mode": "Auto"},
            },
            "status": {"phase": phase, "run": {"id": "", "generation": 1, "uri": "", "digest": "", "startedAt": "2026-11-05T00:00:00Z"}},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_job_holds_its_target_from_planning_on_until_it_is_over() {
        let now_ms = at("2026-11-05T01:00:00Z");
        for (phase, timestamps, cluster, held) in [
            ("Planning", "EventTime", "main", true),
            ("Running", "EventTime", "main", true),
            ("Suspended", "EventTime", "main", true),
            ("Complete", "EventTime", "main", false),
            ("Running", "ReplayTime", "main", false),
            ("Running", "EventTime", "other", false),
        ] {
            let holds = of_jobs(&[job(phase, timestamps, None)], cluster, now_ms);
            assert_eq!(holds.contains_key("app_events"), held, "{phase} {timestamps} {cluster}");
        }
        let mut unbegun = (*job("Pending", "EventTime", None)).clone();
        unbegun.status.as_mut().unwrap().run = None;
        assert!(of_jobs(&[Arc::new(unbegun)], "main", now_ms).is_empty());
    }

    #[test]
    fn a_spec_of_another_generation_changes_nothing_of_what_is_held() {
        let now_ms = at("2026-11-05T01:00:00Z");
        for generation in [1, 3] {
            let mut job = (*job("Running", "EventTime", None)).clone();
            let run = job.status.as_mut().unwrap().run.as_mut().unwrap();
            let topics = vec![HeldTopic { cluster: "main".into(), topic: "app_events".into() }];
            (run.generation, run.holds) = (2, Some(RunHolds { window_start: job.spec.window.start.clone(), topics }));
            let before = of_jobs(&[Arc::new(job.clone())], "main", now_ms);
            assert_eq!(before["app_events"][0].window_start_ms, at("2026-11-01T00:00:00Z"));
            job.spec.run_generation = generation;
            job.spec.window.start.0 = "2026-11-01T00:45:00Z".parse().unwrap();
            job.spec.sinks[0].kafka.as_mut().unwrap().topic = "other".into();
            assert_eq!(of_jobs(&[Arc::new(job)], "main", now_ms), before, "{generation}");
        }
    }

    #[test]
    fn it_ends_after_three_days_unless_it_is_renewed() {
        let floor =
            |renewed, now: &str| of_jobs(&[job("Running", "EventTime", renewed)], "main", at(now))["app_events"][0].floor_ms(at(now));
        assert_eq!(floor(None, "2026-11-07T00:00:00Z"), Some(7 * 86_400_000), "six days since the window began, and one more");
        assert_eq!(floor(None, "2026-11-08T00:00:00Z"), None);
        assert!(floor(Some("2026-11-07T12:00:00Z"), "2026-11-08T00:00:00Z").is_some());
        assert_eq!(floor(Some("2027-01-01T00:00:00Z"), "2026-11-08T00:00:00Z"), None, "nobody renews in advance");
        assert_eq!(floor(Some("soon"), "2026-11-08T00:00:00Z"), None);
    }
}
