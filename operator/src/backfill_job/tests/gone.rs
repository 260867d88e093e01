//! Jobs that have ended and are gone before anybody has looked, as by their TTL while no operator ran: what was done is known by
//! what lies in the store, and no Job is created for it again.

use std::{
    collections::BTreeSet,
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
use serde_json::Value;
use weir_crds::{
    backfill_job::{ApprovalMode, Phase},
    contract::result::Outcome,
};

use super::{fixture::waits, world::World};
use crate::{
    backfill_job::{apply::apply, decision::Action, wait::Wait},
    context::Context,
    credentials::Credentials,
};

/// An API that creates Jobs and does nothing else.
#[derive(Clone, Default)]
struct Jobs(Arc<Mutex<Vec<String>>>);

impl Jobs {
    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/apis/batch/v1/namespaces/growth/jobs"));
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let job: Value = serde_json::from_slice(&bytes).unwrap();
        self.0.lock().unwrap().push(job["metadata"]["name"].as_str().unwrap().to_owned());
        Ok(Response::builder().status(201).body(Body::from(bytes.to_vec())).unwrap())
    }

    fn context(&self) -> Context {
        let answering = self.clone();
        let client = Client::new(tower::service_fn(move |request| answering.clone().answer(request)), "default");
        let credentials = Credentials::new(client.clone(), "weir-system", std::env::temp_dir());
        let recorder = Recorder::new(client.clone(), Reporter { controller: "weir".into(), instance: None });
        let (classes, clusters, jobs) = (reflector::store().0, reflector::store().0, reflector::store().0);
        let floors = reflector::store().0;
        Context::new(client, "w".into(), credentials, recorder, Arc::default(), classes, clusters, jobs, floors)
    }
}

/// What is asked of the Kubernetes API now: the Jobs that are created, by unit and attempt.
async fn asked(world: &World) -> Vec<String> {
    let jobs = Jobs::default();
    let actions: Vec<Action> =
        world.decide().actions.into_iter().filter(|a| matches!(a, Action::CreateJob(_) | Action::DeleteJob { .. })).collect();
    assert_eq!(apply(&jobs.context(), &world.observe(), &actions).await.unwrap(), vec![]);
    let names = std::mem::take(&mut *jobs.0.lock().unwrap());
    names.iter().map(|name| name["gap-538dc10e-g1-".len()..].to_owned()).collect()
}

/// Every worker does what it is for, ends, and is gone with its pod.
fn end_unseen(world: &mut World) {
    for worker in std::mem::take(&mut world.workers).into_values() {
        while !world.work(&worker.unit) {}
    }
}

#[tokio::test]
async fn no_job_is_created_again_for_what_lies_in_the_store() {
    let mut world = World::planned(1);
    world.turn();
    for expected in [&["assemble-0000-a1"][..], &["publish-0000-0-a1", "publish-0000-1-a1"], &["verify-0000-a1"], &[]] {
        end_unseen(&mut world);
        assert_eq!(asked(&world).await, expected);
        world.turn();
    }
    assert_eq!(world.outcome.as_ref().map(|o| o.outcome), Some(Outcome::Completed));
    assert_eq!((asked(&world).await, world.failures.len()), (vec![], 0));
}

#[tokio::test]
async fn a_plan_that_was_made_unseen_is_not_made_again() {
    let mut world = World::new(4);
    world.job.spec.approval.mode = ApprovalMode::Manual;
    world.turn();
    assert_eq!(world.created.len(), 1);
    end_unseen(&mut world);
    assert_eq!(asked(&world).await, Vec::<String>::new());
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision), world.created.len()), (Phase::AwaitingApproval, vec![Wait::Approval], 1));
}

/// The control: where something is missing in the store there is work to do, and a Job for it.
#[tokio::test]
async fn what_is_missing_in_the_store_is_done() {
    let mut world = World::planned(4);
    world.turn();
    let units: BTreeSet<String> = world.workers.values().map(|worker| worker.unit.clone()).collect();
    assert_eq!(units.iter().collect::<Vec<_>>(), ["extract-0000", "extract-0001"]);
    world.workers.clear();
    while !world.work("extract-0000") {}
    assert_eq!(asked(&world).await, ["extract-0001-a1"]);
}

#[test]
fn a_whole_run_of_jobs_that_nobody_sees_end_creates_each_once() {
    let mut world = World::new(7);
    for _ in 0..20 {
        world.turn();
        if world.outcome.is_some() {
            break;
        }
        end_unseen(&mut world);
    }
    assert_eq!(world.outcome.as_ref().map(|o| o.outcome), Some(Outcome::Completed), "{:?}", world.created);
    let units = world.plan.as_ref().unwrap().units.len();
    let once: BTreeSet<&String> = world.created.iter().collect();
    assert_eq!((world.created.len(), once.len()), (1 + units, 1 + units), "{:?}", world.created);
    assert!(world.failures.is_empty());
}
