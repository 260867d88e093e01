//! What Jobs and pods tell of a worker.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Node, Pod},
};
use serde_json::{Value, json};
use weir_crds::contract::{names::job_name, result::FailureCode};

use super::fixture::{JOB_UID, run_id, time};
use crate::backfill_job::{
    observed::{Ending, Worker, WorkerState},
    workers::{Surroundings, is_left, is_slow_to_start, is_suspicious, worker},
};

const CREATED: &str = "2026-11-04T00:00:00Z";
const NOW: &str = "2026-11-04T00:01:30Z";

fn job(condition: Option<&str>) -> Job {
    let conditions = condition.map(|c| json!([{"type": c, "status": "True", "lastTransitionTime": "2026-11-04T00:01:00Z"}]));
    serde_json::from_value(json!({
        "metadata": {
            "name": job_name(&run_id(1), "extract-0001", 2), "uid": "u", "resourceVersion": "7", "creationTimestamp": CREATED,
            "ownerReferences": [{"apiVersion": "weir.dev/v1alpha1", "kind": "BackfillJob", "name": "gap", "uid": JOB_UID}],
            "labels": {"weir.dev/generation": "1", "weir.dev/unit": "extract-0001", "weir.dev/verb": "extract", "weir.dev/attempt": "2"},
        },
        "status": {"conditions": conditions},
    }))
    .unwrap()
}

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "creationTimestamp": CREATED}, "spec": {"nodeName": "n", "containers": []}, "status": status,
    }))
    .unwrap()
}

/// A pod whose container is in a state.
fn with(state: Value) -> Pod {
    pod(
        json!({"phase": "Running", "containerStatuses": [{"name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}),
    )
}

fn look(job: &Job, pod: Option<&Pod>, around: &Surroundings) -> Worker {
    let pods: Vec<&Pod> = pod.into_iter().collect();
    worker(job, &pods, around, "growth", "gap", JOB_UID, time(NOW)).unwrap()
}

fn ending(pod: Option<&Pod>) -> Ending {
    match look(&job(Some("Failed")), pod, &Surroundings::default()).state {
        WorkerState::Ended { how, .. } => how,
        other @ (WorkerState::Starting { .. } | WorkerState::Running { .. }) => panic!("it has ended, not {other:?}"),
    }
}

#[test]
fn a_job_is_known_by_its_labels_and_its_derived_name() {
    let found = look(&job(None), None, &Surroundings::default());
    assert_eq!((found.unit.as_str(), found.attempt, found.generation, found.ours), ("extract-0001", 2, 1, true));
    let again = worker(&job(None), &[], &Surroundings::default(), "growth", "gap", "another", time(NOW)).unwrap();
    assert!(!again.ours, "an object of the same name is another");
    let mut foreign = job(None);
    foreign.metadata.name = Some("tenants-own".into());
    assert!(worker(&foreign, &[], &Surroundings::default(), "growth", "gap", JOB_UID, time(NOW)).is_none());
}

#[test]
fn ends_that_are_the_workers_own_are_told_from_those_that_are_not() {
    let exit = |code: i32, reason: &str, message: Option<&str>| {
        with(json!({"terminated": {"exitCode": code, "reason": reason, "message": message}}))
    };
    let message = r#"{"unit":"extract-0001","attempt":2,"itemsDone":0,"failures":[{"code":"SourceDenied","cause":"c","remedy":"r"}]}"#;
    assert!(
        matches!(ending(Some(&exit(1, "Error", Some(message)))), Ending::Reported(r) if r.failures[0].code == FailureCode::SourceDenied)
    );
    assert!(matches!(ending(Some(&exit(137, "OOMKilled", None))), Ending::Crashed { reason, .. } if reason == "OOMKilled"));
    assert!(matches!(ending(Some(&exit(101, "Error", None))), Ending::Crashed { message, .. } if message.contains("101")));
    assert!(matches!(ending(Some(&exit(128, "StartError", Some("no such file")))), Ending::NotStarted(p) if p.message == "no such file"));
    assert!(matches!(ending(Some(&exit(137, "ContainerStatusUnknown", None))), Ending::Disrupted { .. }));
    for (code, reason) in [(255, "Unknown"), (255, "Error"), (-1, "Error")] {
        assert!(matches!(ending(Some(&exit(code, reason, None))), Ending::Disrupted { .. }), "its node was started again");
    }
    assert!(matches!(ending(None), Ending::Disrupted { .. }), "its pod is gone, so nobody knows");
    let mut deleted = exit(143, "Error", None);
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(NOW)));
    assert!(matches!(ending(Some(&deleted)), Ending::Disrupted { .. }));
    for status in [
        json!({"phase": "Failed", "reason": "Evicted"}),
        json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]}),
    ] {
        assert!(matches!(ending(Some(&pod(status))), Ending::Disrupted { .. }));
    }
    let complete = look(&job(Some("Complete")), None, &Surroundings::default()).state;
    assert_eq!(complete, WorkerState::Ended { at: time("2026-11-04T00:01:00Z"), how: Ending::Succeeded });
}

#[test]
fn a_worker_that_has_just_ended_is_as_old_as_its_container() {
    let ended = |started_at: &str| with(json!({"terminated": {"exitCode": 101, "reason": "Error", "startedAt": started_at}}));
    let since = |pod: &Pod| match look(&job(None), Some(pod), &Surroundings::default()).state {
        WorkerState::Running { since, node_silent: false } => since,
        other @ (WorkerState::Starting { .. } | WorkerState::Running { .. } | WorkerState::Ended { .. }) => {
            panic!("its Job has not said so yet: {other:?}")
        }
    };
    let late = "2026-11-04T00:00:45Z";
    assert_eq!(since(&ended(late)), time(late), "its pod has waited for a node");
    assert_eq!(since(&ended("0001-01-01T00:00:00Z")), time(CREATED), "the kubelet does not know");
}

fn event(reason: &str) -> Event {
    serde_json::from_value(json!({"metadata": {}, "involvedObject": {}, "reason": reason, "message": "why", "lastTimestamp": CREATED}))
        .unwrap()
}

fn problem(pod: Option<&Pod>, events: &[(&str, &str)]) -> Option<String> {
    let mut around = Surroundings::default();
    for (object, reason) in events {
        around.events.entry((*object).to_owned()).or_default().push(event(reason));
    }
    match look(&job(None), pod, &around).state {
        WorkerState::Starting { problem, .. } => problem.map(|p| p.reason),
        other @ (WorkerState::Running { .. } | WorkerState::Ended { .. }) => panic!("it is starting, not {other:?}"),
    }
}

#[test]
fn a_pod_that_cannot_start_tells_why() {
    let unscheduled =
        pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}));
    let waiting = |reason: &str| with(json!({"waiting": {"reason": reason}}));
    let name = job_name(&run_id(1), "extract-0001", 2);
    type Case<'a> = (Option<Pod>, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 6] = [
        (Some(unscheduled), &[], "Unschedulable"),
        (Some(waiting("ImagePullBackOff")), &[], "ImagePullBackOff"),
        (Some(waiting("CreateContainerConfigError")), &[], "CreateContainerConfigError"),
        (Some(waiting("ContainerCreating")), &[("p", "Scheduled"), ("p", "FailedMount")], "FailedMount"),
        (Some(waiting("ContainerCreating")), &[], "ContainerCreating"),
        (None, &[(&name, "FailedCreate")], "FailedCreate"),
    ];
    for (pod, events, expected) in cases {
        assert_eq!(problem(pod.as_ref(), events).as_deref(), Some(expected));
    }
    assert_eq!(problem(None, &[]), None);
    // It was without a node for a while and has one now: that event is of the past.
    let early = time("2026-11-04T00:00:20Z");
    let mut around = Surroundings::default();
    around.events.insert("p".into(), vec![event("FailedScheduling")]);
    let scheduled = worker(&job(None), &[&waiting("ContainerCreating")], &around, "growth", "gap", JOB_UID, early).unwrap();
    assert_eq!(scheduled.state, WorkerState::Starting { problem: None, node_silent: false });
    // What is said of a pod that hangs is the same however late it is looked at.
    let said =
        |now: &str| worker(&job(None), &[&waiting("ContainerCreating")], &Surroundings::default(), "growth", "gap", JOB_UID, time(now));
    assert_eq!(said("2026-11-04T00:00:45Z"), said("2026-11-04T01:00:00Z"));
    let early = time("2026-11-04T00:00:10Z");
    let young = worker(&job(None), &[&waiting("ContainerCreating")], &Surroundings::default(), "growth", "gap", JOB_UID, early).unwrap();
    assert_eq!(young.state, WorkerState::Starting { problem: None, node_silent: false }, "it has just been created");
    assert!(!is_slow_to_start(None, time(CREATED), early) && is_slow_to_start(None, time(CREATED), time(NOW)));
}

#[test]
fn a_node_is_silent_after_a_minute() {
    let state = json!({"running": {"startedAt": CREATED}});
    let running = with(state);
    let node = |ready: &str, since: &str| -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}}),
        )
        .unwrap()
    };
    let starting = with(json!({"waiting": {"reason": "ContainerCreating"}}));
    let silent = |pod: &Pod, ready: &str, since: &str| {
        let around = Surroundings { nodes: BTreeMap::from([("n".to_owned(), node(ready, since))]), events: BTreeMap::new() };
        match look(&job(None), Some(pod), &around).state {
            WorkerState::Running { node_silent, .. } | WorkerState::Starting { node_silent, .. } => node_silent,
            other @ WorkerState::Ended { .. } => panic!("it has not ended: {other:?}"),
        }
    };
    for pod in [&running, &starting] {
        assert!(silent(pod, "Unknown", "2026-11-04T00:00:30Z"));
        assert!(silent(pod, "False", "2026-11-04T00:00:30Z"));
        assert!(!silent(pod, "Unknown", "2026-11-04T00:00:31Z"));
        assert!(!silent(pod, "True", CREATED));
    }
    // Only then is the node asked after.
    let of = |phase: &str, ready: &str| pod(json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}));
    let suspicious = |pod: &Pod, now: &str| is_suspicious(pod, time(CREATED), time(now));
    let soon = "2026-11-04T00:00:10Z";
    assert!(suspicious(&of("Running", "False"), soon) && !suspicious(&of("Running", "True"), NOW));
    assert!(suspicious(&of("Pending", "False"), NOW) && !suspicious(&of("Pending", "False"), soon));
    assert!(!suspicious(&of("Failed", "False"), NOW) && is_left(&of("Running", "False")));
    assert!(!is_left(&pod(json!({"phase": "Failed"}))));
}
