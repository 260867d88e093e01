//! The exact calls that are made to the Kubernetes API, and then silence.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use kube::{
    Client,
    client::Body,
    runtime::{
        events::{Recorder, Reporter},
        reflector,
    },
};
use serde_json::{Value, json};

use super::{fixture::JOB_UID, world::World};
use crate::{
    backfill_job::{
        STATUS_INTERVAL,
        apply::{ApplyError, apply},
        decision::Action,
        observed::{Claimed, Ending},
        show,
        wait::Wait,
        with_latest_status,
    },
    context::{Context, Memory},
    credentials::Credentials,
};

struct Call {
    method: Method,
    path: &'static str,
    /// What the request's body must say, where it matters.
    body: fn(&Value),
    answer: (u16, Value),
}

/// An API that answers what the script says and nothing else.
#[derive(Clone)]
struct Script(Arc<Mutex<VecDeque<Call>>>);

impl Script {
    fn new(calls: Vec<Call>) -> (Self, Context) {
        let script = Self(Arc::new(Mutex::new(calls.into())));
        let answer = script.clone();
        let service = tower::service_fn(move |request: Request<Body>| answer.clone().answer(request));
        let client = Client::new(service, "default");
        let credentials = Credentials::new(client.clone(), "weir-system", std::env::temp_dir());
        let recorder = Recorder::new(client.clone(), Reporter { controller: "weir".into(), instance: None });
        let (classes, clusters, jobs) = (reflector::store().0, reflector::store().0, reflector::store().0);
        let floors = reflector::store().0;
        let context = Context::new(client, "w".into(), credentials, recorder, Arc::default(), classes, clusters, jobs, floors);
        (script, context)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        let call = self.0.lock().unwrap().pop_front().unwrap_or_else(|| panic!("nothing more was to be asked, but {}", request.uri()));
        assert_eq!((request.method(), request.uri().path()), (&call.method, call.path));
        let bytes = request.into_body().collect_bytes().await.unwrap();
        (call.body)(&serde_json::from_slice(&bytes).unwrap_or(Value::Null));
        let (code, body) = call.answer;
        Ok(Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap())
    }

    fn is_silent(&self) {
        assert_eq!(self.0.lock().unwrap().len(), 0, "something was not asked");
    }
}

fn error(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}))
}

const JOBS: &str = "/apis/batch/v1/namespaces/growth/jobs";

/// A world that is about to create its first Job.
fn about_to_plan() -> (World, Vec<Action>) {
    let mut world = World::new(2);
    let put = world.decide().actions;
    assert!(matches!(&put[..], [Action::PutRun { key, .. }] if key == "runs/growth/gap/g1/run.json"), "{put:?}");
    world.turn();
    world.workers.clear();
    let actions = world.decide().actions;
    (world, actions)
}

fn created(body: &Value) {
    let pod = &body["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(body["metadata"]["name"], "gap-538dc10e-g1-plan-a1");
    assert_eq!(
        body["metadata"]["ownerReferences"],
        json!([{"apiVersion": "weir.dev/v1alpha1", "kind": "BackfillJob", "name": "gap", "uid": JOB_UID, "controller": true}])
    );
    let labels = json!({"app.kubernetes.io/name": "weir-worker", "app.kubernetes.io/managed-by": "weir", "weir.dev/job": "gap",
        "weir.dev/generation": "1", "weir.dev/unit": "plan", "weir.dev/verb": "plan", "weir.dev/attempt": "1"});
    assert_eq!((&body["metadata"]["labels"], &body["spec"]["template"]["metadata"]["labels"]), (&labels, &labels));
    let spec = &body["spec"];
    assert_eq!((&spec["backoffLimit"], &spec["completions"], &spec["podReplacementPolicy"]), (&json!(0), &json!(1), &json!("Failed")));
    assert_eq!(spec["ttlSecondsAfterFinished"], 3600);
    assert_eq!((&pod["restartPolicy"], &pod["serviceAccountName"]), (&json!("Never"), &json!("backfill")));
    assert_eq!((&pod["automountServiceAccountToken"], &pod["terminationGracePeriodSeconds"]), (&json!(false), &json!(30)));
    assert_eq!((&pod["nodeSelector"], &pod["priorityClassName"]), (&json!({"weir.dev/pool": "backfill"}), &json!("low")));
    assert_eq!(pod["tolerations"], json!([{"key": "weir.dev/pool", "operator": "Exists"}]));
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["seccompProfile"]["type"]),
        (&json!(true), &json!("RuntimeDefault"))
    );
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
    assert_eq!(container["resources"]["limits"], container["resources"]["requests"]);
    assert_eq!(container["resources"]["limits"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!((&container["args"], &container["imagePullPolicy"]), (&json!(["plan"]), &json!("IfNotPresent")));
    assert_eq!(pod["volumes"][0]["emptyDir"], json!({"sizeLimit": "2Gi"}));
    assert_eq!(pod["volumes"][1]["secret"]["secretName"], "backfill");
    let variable = |name: &str| {
        container["env"].as_array().unwrap().iter().find(|e| e["name"] == name).map(|e| e["value"].as_str().unwrap().to_owned())
    };
    assert_eq!(variable("WEIR_SCRATCH_BYTES").as_deref(), Some("2147483648"));
    assert_eq!(variable("WEIR_MEMORY_BYTES").as_deref(), Some("1073741824"));
    assert_eq!(variable("WEIR_CREDENTIALS_DIR").as_deref(), Some("/var/run/weir/credentials"));
    let context: weir_crds::contract::run::WorkerContext = serde_json::from_str(&variable("WEIR_CONTEXT").unwrap()).unwrap();
    assert_eq!((context.unit.as_str(), context.attempt, context.parallelism), ("plan", 1, 3));
    assert_eq!(context.kafka["main"].bootstrap_servers, ["kafka:9092"]);
}

#[tokio::test]
async fn a_worker_is_created_once_and_exactly_so() {
    let (world, actions) = about_to_plan();
    let (script, ctx) = Script::new(vec![Call { method: Method::POST, path: JOBS, body: created, answer: (201, json!({"metadata": {}})) }]);
    assert_eq!(apply(&ctx, &world.observe(), &actions).await.unwrap(), vec![]);
    script.is_silent();
}

#[tokio::test]
async fn a_name_that_is_taken_is_fine_only_if_it_is_the_same_worker() {
    let (world, actions) = about_to_plan();
    let Some(Action::CreateJob(job)) = actions.first() else { panic!("{actions:?}") };
    let ours = serde_json::to_value(job).unwrap();
    let mut others = ours.clone();
    others["metadata"]["ownerReferences"][0]["uid"] = json!("another");
    for (found, fine) in [(ours, true), (others, false)] {
        let (script, ctx) = Script::new(vec![
            Call { method: Method::POST, path: JOBS, body: |_| {}, answer: error(409, "AlreadyExists") },
            Call {
                method: Method::GET,
                path: "/apis/batch/v1/namespaces/growth/jobs/gap-538dc10e-g1-plan-a1",
                body: |_| {},
                answer: (200, found),
            },
        ]);
        let applied = apply(&ctx, &world.observe(), &actions).await;
        assert_eq!(applied.is_ok(), fine);
        assert!(fine || matches!(applied, Err(ApplyError::NameTaken { .. })));
        script.is_silent();
    }
}

#[tokio::test]
async fn a_quota_is_said_and_not_an_error() {
    let (world, actions) = about_to_plan();
    let (script, ctx) = Script::new(vec![Call { method: Method::POST, path: JOBS, body: |_| {}, answer: error(403, "exceeded quota") }]);
    let waits = apply(&ctx, &world.observe(), &actions).await.unwrap();
    assert_eq!((waits[0].wait, waits[0].message.contains("exceeded quota")), (Wait::WorkerCannotStart, true));
    script.is_silent();
}

#[tokio::test]
async fn deletions_name_the_very_object() {
    let (mut world, _) = about_to_plan();
    world.turn();
    let name = world.created.last().unwrap().clone();
    world.make_plan();
    world.end(&name, Ending::Succeeded);
    world.topics.insert("main".into());
    world.claims = Claimed::Taken;
    let delete: Vec<Action> = world.decide().actions.into_iter().filter(|a| matches!(a, Action::DeleteJob { .. })).collect();
    for answer in [(200, json!({"kind": "Status", "status": "Success"})), error(404, "NotFound"), error(409, "Conflict")] {
        let call = Call {
            method: Method::DELETE,
            path: "/apis/batch/v1/namespaces/growth/jobs/gap-538dc10e-g1-plan-a1",
            body: |body| {
                assert_eq!(body["propagationPolicy"], "Background");
                assert!(body["preconditions"]["uid"].as_str().is_some_and(|u| u.starts_with("uid-")));
                assert_eq!(body["preconditions"]["resourceVersion"], "1");
            },
            answer,
        };
        let (script, ctx) = Script::new(vec![call]);
        apply(&ctx, &world.observe(), &delete).await.unwrap();
        script.is_silent();
    }
    let (script, ctx) = Script::new(vec![]);
    apply(&ctx, &world.observe(), &[]).await.unwrap();
    script.is_silent();
}

/// Status and one event at a change of phase; nothing while nothing changes; nothing sooner than it may be.
#[tokio::test]
async fn status_is_written_when_it_changes_and_not_too_often() {
    const STATUS: &str = "/apis/weir.dev/v1alpha1/namespaces/growth/backfilljobs/gap/status";
    const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/growth/events";
    let (mut world, _) = about_to_plan();
    world.job.status = None;
    // Of which the watch never brings what was written.
    world.job.metadata.resource_version = Some("7".into());
    let mut job = serde_json::to_value(&world.job).unwrap();
    job["metadata"]["resourceVersion"] = json!("8");
    let written = |body: fn(&Value)| {
        [
            Call { method: Method::PATCH, path: STATUS, body, answer: (200, job.clone()) },
            Call { method: Method::POST, path: EVENTS, body: |_| {}, answer: (201, json!({"metadata": {}})) },
        ]
    };
    let planning = written(|body| {
        assert_eq!((&body["status"]["phase"], &body["metadata"]["uid"]), (&json!("Planning"), &json!(JOB_UID)));
    });
    let suspended = written(|body| assert_eq!(body["status"]["phase"], "Suspended"));
    let (script, ctx) = Script::new(planning.into_iter().chain(suspended).collect());
    let mut memory = Memory::default();
    let left = async |world: &World, memory: &mut Memory| {
        let mut seen = world.observe();
        seen.job = with_latest_status(seen.job, memory);
        let decision = world.decide();
        let pause = show(&ctx, &seen, &decision, &decision.waits, memory, world.now).await.unwrap();
        (pause, script.0.lock().unwrap().len())
    };
    assert_eq!(left(&world, &mut memory).await, (None, 2));
    assert_eq!(left(&world, &mut memory).await, (None, 2), "nothing has changed");
    world.job.spec.suspend = true;
    world.workers.clear();
    let (pause, calls) = left(&world, &mut memory).await;
    assert!(pause.is_some_and(|p| p <= STATUS_INTERVAL) && calls == 2, "{pause:?}");
    memory.written.as_mut().unwrap().at -= STATUS_INTERVAL;
    assert_eq!(left(&world, &mut memory).await, (None, 0));
    assert_eq!(left(&world, &mut memory).await, (None, 0));
    script.is_silent();
}
