//! Which BackfillJobs need the records of which topics. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt as _;
use weir_crds::{
    BackfillJob, RENEW_HOLD_ANNOTATION,
    backfill_job::{KafkaSink, RecordTimestamps},
};
use weir_floors::policy::Hold;

use crate::text::qualified_name;

/// The sinks whose records keep their event times: only they can expire at once, and need the hold.
pub fn sinks(job: &BackfillJob) -> impl Iterator<Item = &KafkaSink> {
    job.spec.sinks.iter().filter_map(|s| s.kafka.as_ref()).filter(|k| k.timestamps == RecordTimestamps::EventTime)
}

/// Of one cluster, by topic: from planning on until a job is over.
pub fn of_jobs(jobs: &[Arc<BackfillJob>], cluster: &str, now_ms: i64) -> BTreeMap<String, Vec<Hold>> {
    let mut holds: BTreeMap<String, Vec<Hold>> = BTreeMap::new();
    for job in jobs {
        let Some(renewed_ms) = renewed_ms(job, now_ms) else { continue };
        for sink in sinks(job).filter(|k| k.cluster_ref.name == cluster) {
            holds.entry(sink.topic.clone()).or_default().push(Hold {
                job: qualified_name(&**job),
                window_start_ms: job.spec.window.start.0.as_millisecond(),
                renewed_ms,
            });
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
