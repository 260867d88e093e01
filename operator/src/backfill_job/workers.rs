//! Reads Jobs and their pods as workers. Pure: what Kubernetes says in, what it means out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Event, Node, Pod, PodStatus},
};
use kube::ResourceExt as _;
use weir_crds::contract::{
    names::{RunId, job_name},
    result::WorkerResult,
    units::Verb,
};

use super::{
    job_template::{ANNOTATION_TEMPLATE, CONTAINER, LABEL_ATTEMPT, LABEL_GENERATION, LABEL_UNIT, LABEL_VERB},
    observed::{Ending, StartProblem, Worker, WorkerState},
};

/// A node that is not ready for so long is taken for lost.
const NODE_SILENT_SECONDS: i64 = 60;
/// A pod that is not scheduled within this is not just being scheduled.
const UNSCHEDULABLE_SECONDS: i64 = 15;
/// A pod that still does not run is said to, whatever the reason.
const STARTING_SECONDS_MAX: i64 = 45;

/// Waiting reasons that do not pass by themselves, or not soon.
const WAITING_PROBLEMS: [&str; 8] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "ImageInspectError",
];
/// Why a pod ended that was not the worker's doing.
const DISRUPTIONS: [&str; 8] =
    ["Evicted", "NodeLost", "NodeShutdown", "Preempted", "Preempting", "Shutdown", "Terminated", "UnexpectedAdmissionError"];
/// Why a container ended that never ran.
const NEVER_RAN: [&str; 3] = ["StartError", "ContainerCannotRun", "CreateContainerError"];
/// What containerd (255) and CRI-O (255, -1) say of a container whose end they have not seen, as after a restart of its node. A
/// worker never ends so.
const UNSEEN_EXITS: [i32; 2] = [255, -1];
/// Events that tell why a pod does not start; the kubelet's and the Job controller's. The scheduler's are not among them:
/// the pod's own condition says the same, and says too when it is over.
const START_EVENTS: [&str; 4] = ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedCreate"];

/// What else is known of a Job's surroundings.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Of Jobs and pods that do not start, by the name of the object.
    pub events: BTreeMap<String, Vec<Event>>,
    /// Nodes of pods that are not ready.
    pub nodes: BTreeMap<String, Node>,
}

/// Which Job this is, by its labels; `None` where its name is not the one that weir derives from them.
pub fn worker(job: &Job, pods: &[&Pod], around: &Surroundings, namespace: &str, name: &str, uid: &str, now: Timestamp) -> Option<Worker> {
    let labels = job.labels();
    let generation = labels.get(LABEL_GENERATION)?.parse().ok()?;
    let attempt = labels.get(LABEL_ATTEMPT)?.parse().ok()?;
    let unit = labels.get(LABEL_UNIT)?.clone();
    let run = RunId { namespace: namespace.into(), name: name.into(), generation };
    if job.name_any() != job_name(&run, &unit, attempt) {
        return None;
    }
    let created_at = job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    Some(Worker {
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        resource_version: job.resource_version().unwrap_or_default(),
        generation,
        verb: verb(labels.get(LABEL_VERB)?)?,
        unit,
        attempt,
        ours: job.owner_references().iter().any(|o| o.uid == uid),
        deleting: job.metadata.deletion_timestamp.is_some(),
        template: job.annotations().get(ANNOTATION_TEMPLATE).cloned(),
        created_at,
        state: state(job, pods, around, created_at, now),
    })
}

fn verb(text: &str) -> Option<Verb> {
    [Verb::Plan, Verb::Extract, Verb::Assemble, Verb::Publish, Verb::Verify].into_iter().find(|v| v.as_str() == text)
}

/// Whether a pod may still run something.
pub fn is_left(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether it is worth while to ask for events about this Job or pod.
pub fn is_slow_to_start(pod: Option<&Pod>, created_at: Timestamp, now: Timestamp) -> bool {
    let waits = pod.is_none_or(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Pending"));
    waits && now.duration_since(created_at).as_secs() >= UNSCHEDULABLE_SECONDS
}

/// Whether a pod's node should be asked after: the cluster itself has stopped to hear of it, or it is slow to start there.
pub fn is_suspicious(pod: &Pod, job_created_at: Timestamp, now: Timestamp) -> bool {
    let runs = pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
    is_left(pod) && condition(pod, "Ready").is_none_or(|c| c.0 != "True") && (runs || is_slow_to_start(Some(pod), job_created_at, now))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)?;
    Some((&found.status, found.reason.as_deref().unwrap_or_default(), found.message.as_deref().unwrap_or_default()))
}

fn state(job: &Job, pods: &[&Pod], around: &Surroundings, created_at: Timestamp, now: Timestamp) -> WorkerState {
    let finished = job
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed")));
    // The pod that was made last; there is one but for the moments in which one replaces another.
    let pod = pods.iter().copied().max_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
    if let Some(condition) = finished {
        let at = condition.last_transition_time.as_ref().map_or(now, |t| t.0);
        let how = if condition.type_ == "Complete" { Ending::Succeeded } else { ending(pod) };
        return WorkerState::Ended { at, how };
    }
    let Some(pod) = pod else {
        return WorkerState::Starting { problem: by_events(around, &job.name_any()), node_silent: false };
    };
    match container(pod).and_then(|c| c.state.as_ref()) {
        Some(ContainerState { running: Some(running), .. }) => {
            let since = running.started_at.as_ref().map_or(created_at, |t| t.0);
            WorkerState::Running { since, node_silent: node_silent(pod, around, now) }
        }
        // It has ended, and the Job is about to say so.
        Some(ContainerState { terminated: Some(terminated), .. }) => {
            let since = terminated.started_at.as_ref().map_or(created_at, |t| t.0.max(created_at));
            WorkerState::Running { since, node_silent: node_silent(pod, around, now) }
        }
        Some(_) | None => {
            WorkerState::Starting { problem: start_problem(pod, around, created_at, now), node_silent: node_silent(pod, around, now) }
        }
    }
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|c| c.name == CONTAINER)
}

fn start_problem(pod: &Pod, around: &Surroundings, created_at: Timestamp, now: Timestamp) -> Option<StartProblem> {
    let problem = |reason: &str, message: &str| Some(StartProblem { reason: reason.into(), message: message.into() });
    let age = now.duration_since(created_at).as_secs();
    if let Some(("False", reason, message)) = condition(pod, "PodScheduled")
        && age >= UNSCHEDULABLE_SECONDS
    {
        return problem(reason, message);
    }
    let waiting = container(pod).and_then(|c| c.state.as_ref()).and_then(|s| s.waiting.as_ref());
    if let Some(waiting) = waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if WAITING_PROBLEMS.contains(&reason) {
            return problem(reason, waiting.message.as_deref().unwrap_or_default());
        }
    }
    by_events(around, &pod.name_any()).or_else(|| {
        let reason = waiting.and_then(|w| w.reason.as_deref()).unwrap_or("Pending");
        // Since when, and not for how long: status is not written for the time that passes.
        if age >= STARTING_SECONDS_MAX { problem(reason, &format!("its pod has not started since {created_at:.0}")) } else { None }
    })
}

fn by_events(around: &Surroundings, object: &str) -> Option<StartProblem> {
    let events = around.events.get(object)?;
    let telling = events.iter().filter(|e| e.reason.as_deref().is_some_and(|r| START_EVENTS.contains(&r)));
    let last = telling.max_by_key(|e| e.last_timestamp.as_ref().map(|t| t.0).or(e.event_time.as_ref().map(|t| t.0)))?;
    Some(StartProblem { reason: last.reason.clone().unwrap_or_default(), message: last.message.clone().unwrap_or_default() })
}

fn node_silent(pod: &Pod, around: &Surroundings, now: Timestamp) -> bool {
    let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) else { return false };
    let Some(node) = around.nodes.get(node) else { return false };
    let ready = node.status.as_ref().and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
    let Some(ready) = ready.filter(|c| c.status != "True") else { return false };
    ready.last_transition_time.as_ref().is_some_and(|since| now.duration_since(since.0).as_secs() >= NODE_SILENT_SECONDS)
}

/// How a pod ended whose Job has failed.
fn ending(pod: Option<&Pod>) -> Ending {
    let disrupted = |reason: &str, message: &str| Ending::Disrupted { reason: reason.into(), message: message.into() };
    let Some(pod) = pod else { return disrupted("its pod is gone", "") };
    let said = |of: fn(&PodStatus) -> Option<&String>| pod.status.as_ref().and_then(of).map_or("", String::as_str);
    let (reason, message) = (said(|s| s.reason.as_ref()), said(|s| s.message.as_ref()));
    let terminated = container(pod).and_then(|c| c.state.as_ref()).and_then(|s| s.terminated.as_ref());
    let reported = terminated.and_then(|t| t.message.as_deref()).and_then(|m| serde_json::from_str::<WorkerResult>(m).ok());
    if let Some(("True", reason, message)) = condition(pod, "DisruptionTarget") {
        return disrupted(reason, message);
    }
    if DISRUPTIONS.contains(&reason) {
        return disrupted(reason, message);
    }
    match (terminated, reported) {
        (_, Some(result)) => Ending::Reported(result),
        (None, None) => disrupted("its container's end is not known", ""),
        (Some(terminated), None) => ended_silently(pod, terminated),
    }
}

fn ended_silently(pod: &Pod, terminated: &ContainerStateTerminated) -> Ending {
    let reason = terminated.reason.as_deref().unwrap_or("Error");
    let message = terminated.message.clone().unwrap_or_default();
    if NEVER_RAN.contains(&reason) {
        return Ending::NotStarted(StartProblem { reason: reason.into(), message });
    }
    // Somebody deleted the pod, or its node came back without it.
    let is_unseen = reason == "ContainerStatusUnknown" || UNSEEN_EXITS.contains(&terminated.exit_code);
    if pod.metadata.deletion_timestamp.is_some() || is_unseen {
        return Ending::Disrupted { reason: reason.into(), message };
    }
    let message = format!("exit code {}; {message}", terminated.exit_code);
    Ending::Crashed { reason: reason.into(), message: message.trim_end_matches("; ").to_owned() }
}
