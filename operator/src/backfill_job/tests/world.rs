//! A world without a network: what the operator sees, what becomes of what it does, and workers that do their work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;
use weir_crds::{
    BackfillClass, BackfillJob, KafkaCluster, TopicFloor,
    contract::{
        digest::Sha256Digest,
        keys::RunKeys,
        manifest::{
            Extracted, PartRef, Published, PublishedPartition, RecordsDigest, SliceSegments, Staged, StagedBucket, StagedCounts, Verified,
        },
        result::{FailureRecord, OutcomeRecord},
        units::{Items, Verb, units},
    },
    window::Interval,
};

use super::fixture::{self, JOB_UID, WORKER_IMAGE};
use crate::backfill_job::{
    decide::decide,
    decision::{Action, Decision},
    job_template::{ANNOTATION_TEMPLATE, LABEL_ATTEMPT, LABEL_GENERATION, LABEL_UNIT, LABEL_VERB},
    observed::{
        Account, Claimed, Ending, Ledger, LedgerView, Manifests, Observed, PlanFile, RunFile, StartProblem, Timed, Worker, WorkerState,
    },
    progress::Pace,
    status::status,
};

/// Rows that each chunk holds of each slice that it may hold rows of.
const ROWS: u64 = 5;

#[derive(Clone)]
pub struct World {
    pub now: Timestamp,
    pub job: BackfillJob,
    pub class: BackfillClass,
    pub cluster: KafkaCluster,
    pub floors: Vec<Arc<TopicFloor>>,
    pub account: Account,
    pub run: Option<Arc<RunFile>>,
    pub outcome: Option<OutcomeRecord>,
    pub claims: Claimed,
    /// What stays claimed after the release.
    pub kept: Option<Vec<Interval>>,
    pub plan: Option<Arc<PlanFile>>,
    pub manifests: Manifests,
    pub failures: BTreeMap<(String, u32), Arc<FailureRecord>>,
    pub workers: BTreeMap<String, Worker>,
    pub topics: BTreeSet<String>,
    /// Pods that are about to end, of Jobs that are gone.
    pub pods_ending: usize,
    /// The highest generation in the store besides the run's own.
    pub highest: Option<u32>,
    /// Instead of a look at the store.
    pub broken_ledger: Option<Ledger>,
    /// All Jobs that were ever created.
    pub created: Vec<String>,
}

impl World {
    pub fn new(slices: usize) -> Self {
        Self {
            now: fixture::start(),
            job: fixture::job(slices),
            class: fixture::class(),
            cluster: fixture::cluster(),
            floors: vec![],
            account: Account::Allowed,
            run: None,
            outcome: None,
            claims: Claimed::Nothing,
            kept: None,
            plan: None,
            manifests: Manifests::default(),
            failures: BTreeMap::new(),
            workers: BTreeMap::new(),
            topics: BTreeSet::new(),
            pods_ending: 0,
            highest: None,
            broken_ledger: None,
            created: vec![],
        }
    }

    /// A world whose run has been planned, and whose workers are about to begin.
    pub fn planned(slices: usize) -> Self {
        let mut world = Self::new(slices);
        world.turn();
        world.make_plan();
        world.workers.clear();
        world
    }

    pub fn generation(&self) -> u32 {
        self.job.spec.run_generation.max(self.highest.unwrap_or(0)).max(self.run.as_ref().map_or(0, |r| r.spec.run.generation))
    }

    pub fn observe(&self) -> Observed {
        let run_id = fixture::run_id(self.generation());
        let keys = RunKeys::new("runs", &run_id);
        let view = LedgerView {
            uri: format!("s3://artifacts/{}", keys.root()),
            run_id: run_id.clone(),
            keys,
            highest: self.highest.or(self.run.as_ref().map(|r| r.spec.run.generation)),
            run: self.run.clone().filter(|r| r.spec.run == run_id),
            outcome: self.outcome.clone(),
            claims: self.claims,
            plan: self.plan.clone(),
            manifests: self.manifests.clone(),
            failures: self.failures.clone(),
            progress: BTreeMap::new(),
        };
        Observed {
            job: Arc::new(self.job.clone()),
            classes: BTreeMap::from([("isolated".to_owned(), Arc::new(self.class.clone()))]),
            clusters: BTreeMap::from([("main".to_owned(), Arc::new(self.cluster.clone()))]),
            floors: self.floors.clone(),
            account: self.account,
            workers: self.workers.values().cloned().collect(),
            pods_left: self.workers.values().filter(|w| w.is_open()).count() + self.pods_ending,
            pod_attempts: BTreeMap::new(),
            ledger: self.broken_ledger.clone().unwrap_or_else(|| Ledger::Read(Box::new(view))),
            progress_topics: self.topics.clone(),
            worker_image: WORKER_IMAGE.to_owned(),
        }
    }

    pub fn decide(&self) -> Decision {
        decide(&self.observe(), self.now)
    }

    /// Decides and applies until nothing is left to do; what then stands is what a later turn would decide again.
    pub fn turn(&mut self) -> Decision {
        for _ in 0..10 {
            let decision = self.decide();
            let seen = self.observe();
            self.job.status = Some(status(&seen, &decision, &decision.waits, &Pace::default(), self.now));
            if decision.actions.is_empty() {
                return decision;
            }
            for action in decision.actions {
                self.apply(action);
            }
        }
        panic!("the decision never comes to rest");
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::PutRun { bytes, .. } => {
                assert!(self.run.is_none(), "run.json is put twice");
                let spec = serde_json::from_slice(&bytes).unwrap();
                self.run = Some(Arc::new(RunFile { spec, digest: Sha256Digest::of(&bytes), bytes: bytes.to_vec() }));
            }
            Action::EnsureProgressTopic { cluster, topic } => {
                assert_eq!(topic, "weir.growth.progress");
                self.topics.insert(cluster);
            }
            Action::CreateJob(job) => self.create(&job),
            Action::RecordFailure { record, .. } => {
                self.failures.entry((record.unit.clone(), record.attempt)).or_insert_with(|| Arc::new(record));
            }
            Action::DeleteJob { name, uid, resource_version } => {
                let worker = self.workers.remove(&name).unwrap_or_else(|| panic!("{name} is deleted but was not there"));
                assert_eq!((worker.uid, worker.resource_version), (uid, resource_version));
                self.pods_ending += usize::from(matches!(worker.state, WorkerState::Running { .. }));
            }
            Action::TakeClaims { scope } => {
                assert_eq!(scope.slices, self.plan.as_ref().unwrap().plan.slices);
                assert_eq!(self.claims, Claimed::Nothing);
                assert!(self.manifests.published.is_empty(), "something was published before it was claimed");
                self.claims = Claimed::Taken;
            }
            Action::ReleaseClaims { kept, .. } => {
                assert!(self.outcome.is_some() && self.workers.values().all(|w| !w.is_open()) && self.pods_ending == 0);
                self.kept = Some(kept);
                self.claims = Claimed::Released;
            }
            Action::PutOutcome { record, .. } => {
                self.outcome.get_or_insert(record);
            }
        }
    }

    fn create(&mut self, job: &Job) {
        let label = |name: &str| job.labels().get(name).unwrap().clone();
        let name = job.name_any();
        assert!(!self.workers.contains_key(&name), "{name} is there already");
        let verb =
            [Verb::Plan, Verb::Extract, Verb::Assemble, Verb::Publish, Verb::Verify].into_iter().find(|v| v.as_str() == label(LABEL_VERB));
        self.created.push(name.clone());
        let worker = Worker {
            uid: format!("uid-{}", self.created.len()),
            resource_version: "1".into(),
            generation: label(LABEL_GENERATION).parse().unwrap(),
            unit: label(LABEL_UNIT),
            verb: verb.unwrap(),
            attempt: label(LABEL_ATTEMPT).parse().unwrap(),
            ours: job.owner_references()[0].uid == JOB_UID,
            deleting: false,
            template: job.annotations().get(ANNOTATION_TEMPLATE).cloned(),
            created_at: self.now,
            state: WorkerState::Starting { problem: None, node_silent: false },
            name: name.clone(),
        };
        self.workers.insert(name, worker);
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now.checked_add(Duration::from_secs(seconds)).unwrap();
    }

    pub fn end(&mut self, name: &str, how: Ending) {
        let at = self.now;
        self.workers.get_mut(name).unwrap().state = WorkerState::Ended { at, how };
    }

    pub fn start(&mut self, name: &str) {
        let since = self.now;
        self.workers.get_mut(name).unwrap().state = WorkerState::Running { since, node_silent: false };
    }

    /// Nothing is heard of its node any more.
    pub fn silence(&mut self, name: &str) {
        match &mut self.workers.get_mut(name).unwrap().state {
            WorkerState::Starting { node_silent, .. } | WorkerState::Running { node_silent, .. } => *node_silent = true,
            WorkerState::Ended { .. } => panic!("{name} has ended"),
        }
    }

    pub fn block(&mut self, name: &str, reason: &str) {
        let problem = StartProblem { reason: reason.into(), message: "m".into() };
        self.workers.get_mut(name).unwrap().state = WorkerState::Starting { problem: Some(problem), node_silent: false };
    }

    pub fn make_plan(&mut self) {
        let plan = fixture::plan(&self.job, self.run.as_ref().unwrap());
        self.plan = Some(Arc::new(PlanFile { hash: Sha256Digest::of(&plan.to_bytes()), units: units(&plan), plan }));
    }

    /// Does the next item of a unit; says whether it was the last.
    pub fn work(&mut self, unit: &str) -> bool {
        let Some(file) = self.plan.clone() else {
            self.make_plan();
            return true;
        };
        let Some(unit) = file.units.iter().find(|u| u.id == unit) else { return true };
        let ids = |slices: &[usize]| slices.iter().map(|s| file.plan.slices[*s].id.to_string()).collect::<Vec<_>>();
        let seconds = 1.0;
        match (&unit.items, unit.verb) {
            (Items::Chunks(chunks), _) => {
                let open: Vec<usize> =
                    chunks.iter().copied().filter(|c| !self.manifests.extracted.contains_key(&file.plan.chunks[*c].id)).collect();
                if let Some(chunk) = open.first() {
                    let body = self.extracted(*chunk);
                    self.manifests.extracted.insert(body.chunk.clone(), Arc::new(Timed { body, seconds }));
                }
                open.len() <= 1
            }
            (Items::Slices(slices), Verb::Assemble) => {
                // A slice whose chunks are not there has failed, and is left alone.
                let covered = |s: &String| {
                    let slice = file.plan.slice(s).unwrap();
                    file.plan.covering(slice).all(|c| self.manifests.extracted.contains_key(&c.id))
                };
                let open = ids(slices).into_iter().filter(|s| !self.manifests.staged.contains_key(s));
                let open: Vec<String> = open.filter(covered).collect();
                if let Some(slice) = open.first() {
                    let body = self.staged(slice);
                    self.manifests.staged.insert(slice.clone(), Arc::new(Timed { body, seconds }));
                }
                open.len() <= 1
            }
            (Items::Slices(slices), _) => {
                // What is not published wholly has failed, and there is nothing to look at.
                let buckets = file.plan.buckets();
                let published = |s: &String| buckets.iter().all(|b| self.manifests.published.contains_key(&(s.clone(), b.id.clone())));
                let open = ids(slices).into_iter().filter(|s| !self.manifests.verified.contains_key(s));
                let open: Vec<String> = open.filter(published).collect();
                if let Some(slice) = open.first() {
                    let sent = self.manifests.published.iter().filter(|((s, _), _)| s == slice);
                    let records = sent.flat_map(|(_, p)| p.body.partitions.values()).map(|p| p.sent.records).sum();
                    let body = Verified { slice: self.slice_id(slice), records, others: 0 };
                    self.manifests.verified.insert(slice.clone(), Arc::new(Timed { body, seconds }));
                }
                open.len() <= 1
            }
            (Items::Buckets { buckets, slices }, _) => {
                let all = file.plan.buckets();
                // What is not staged has failed, and nothing may overtake it.
                let staged: Vec<String> = ids(slices).into_iter().take_while(|s| self.manifests.staged.contains_key(s)).collect();
                let pairs = buckets.iter().flat_map(|b| staged.iter().map(|s| (s.clone(), all[*b].id.clone())));
                let open: Vec<(String, String)> = pairs.filter(|p| !self.manifests.published.contains_key(p)).collect();
                if let Some((slice, bucket)) = open.first() {
                    let body = self.published(slice, bucket);
                    self.manifests.published.insert((slice.clone(), bucket.clone()), Arc::new(Timed { body, seconds }));
                }
                open.len() <= 1
            }
        }
    }

    fn slice_id(&self, slice: &str) -> weir_crds::window::SliceId {
        self.plan.as_ref().unwrap().plan.slice(slice).unwrap().id.clone()
    }

    pub fn extracted(&self, chunk: usize) -> Extracted {
        let plan = &self.plan.as_ref().unwrap().plan;
        let chunk = &plan.chunks[chunk];
        let slices = plan.slices.iter().filter(|s| chunk.event_times.unwrap().overlaps(&s.interval));
        let index: Vec<SliceSegments> = slices.map(|s| SliceSegments { slice: s.id.clone(), rows: ROWS, segments: vec![] }).collect();
        let selected = index.len() as u64 * ROWS;
        Extracted {
            chunk: chunk.id.clone(),
            source: "logs".into(),
            bytes_read: chunk.bytes,
            read: selected + 3,
            expanded: 1,
            filtered_out: 2,
            invalid: 1,
            invalid_outside: 0,
            outside_window: 0,
            late: 1,
            selected,
            invalid_by: vec![],
            by_times: vec![],
            unknown_fields: BTreeMap::new(),
            data: None,
            index,
            quarantine: None,
            reasons: vec![weir_crds::contract::manifest::ReasonCount { reason: "NotAnInteger at id".into(), rows: 1 }],
        }
    }

    pub fn staged(&self, slice: &str) -> Staged {
        let extracted = self.manifests.extracted.values().flat_map(|m| &m.body.index);
        let selected: u64 = extracted.filter(|s| s.slice.as_str() == slice).map(|s| s.rows).sum();
        let staged = selected - 2;
        let records = |n| RecordsDigest { records: n, chain: Default::default() };
        let part = |rows| PartRef { key: "k".into(), digest: Sha256Digest::default().into(), bytes: 7, rows };
        let bucket = |number: i32, rows| StagedBucket {
            bucket: format!("events-{number}"),
            part: part(rows),
            partitions: BTreeMap::from([(number, records(rows))]),
        };
        Staged {
            slice: self.slice_id(slice),
            by: vec![StagedCounts { source: "logs".into(), event_type: "x".into(), selected, duplicates: 1, quarantined: 1, staged }],
            buckets: vec![bucket(0, 1), bucket(2, staged - 1)],
            quarantine: None,
            reasons: vec![],
        }
    }

    pub fn published(&self, slice: &str, bucket: &str) -> Published {
        let staged = &self.manifests.staged[slice].body;
        let partitions = staged.buckets.iter().find(|b| b.bucket == bucket).map(|b| b.partitions.clone()).unwrap_or_default();
        let all = |staged: RecordsDigest| PublishedPartition { staged, sent: staged, offsets: None };
        Published {
            slice: self.slice_id(slice),
            bucket: bucket.to_owned(),
            partitions: partitions.into_iter().map(|(p, staged)| (p, all(staged))).collect(),
        }
    }
}
