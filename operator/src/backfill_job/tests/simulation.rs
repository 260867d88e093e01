//! Runs that end, whatever befalls their workers. Everything random comes from a seed that a failure names.

use std::collections::{BTreeMap, BTreeSet};

use weir_crds::{
    backfill_job::Phase,
    contract::result::{Failure, FailureCode, Outcome, WorkerResult},
};

use super::world::World;
use crate::backfill_job::{
    observed::{Ending, StartProblem, Worker, WorkerState},
    phase::follows,
    work::{Standing, Work},
};

/// xorshift64*: enough to disturb, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

struct Simulation {
    world: World,
    random: Random,
    /// Workers that ended by their own error, and were not looked at since.
    erred: BTreeSet<String>,
    /// By unit: endings that must use up an attempt.
    counted: BTreeMap<String, u32>,
    /// In percent of a worker's steps.
    errors: u64,
    disturbances: u64,
}

fn is_silent(worker: &Worker) -> bool {
    match &worker.state {
        WorkerState::Starting { node_silent, .. } | WorkerState::Running { node_silent, .. } => *node_silent,
        WorkerState::Ended { .. } => false,
    }
}

fn reported(code: FailureCode, unit: &str) -> Ending {
    let failure = Failure { code, item: None, field: None, cause: "c".into(), remedy: "r".into() };
    Ending::Reported(WorkerResult { unit: unit.into(), attempt: 1, items_done: 0, failures: vec![failure] })
}

impl Simulation {
    fn new(seed: u64, errors: u64, disturbances: u64) -> Self {
        Self { world: World::new(7), random: Random(seed), erred: BTreeSet::new(), counted: BTreeMap::new(), errors, disturbances }
    }

    /// Until the run is over; every step is checked.
    fn run(&mut self, seed: u64) -> Outcome {
        let mut before = Phase::Pending;
        for _ in 0..5000 {
            self.count();
            let decision = self.world.turn();
            let at_rest = self.world.decide();
            assert!(at_rest.actions.is_empty() && at_rest.phase == decision.phase, "seed {seed}: deciding again does more: {at_rest:?}");
            assert!(follows(before, decision.phase), "seed {seed}: {before:?} -> {:?}", decision.phase);
            before = decision.phase;
            self.check_workers(seed);
            if let Some(outcome) = &self.world.outcome {
                return outcome.outcome;
            }
            self.disturb();
            self.world.pass(3);
        }
        panic!("seed {seed}: the run never ends; it waits for {:?}", self.world.decide().waits);
    }

    /// Where nothing is left to do it does not matter any more how a worker ended; another attempt may have seen to that in
    /// the meantime.
    fn count(&mut self) {
        for name in std::mem::take(&mut self.erred) {
            let unit = self.world.workers[&name].unit.clone();
            if self.is_open(&unit) {
                *self.counted.entry(unit).or_default() += 1;
            }
        }
    }

    fn check_workers(&self, seed: u64) {
        let open: Vec<_> = self.world.workers.values().filter(|w| w.is_open()).collect();
        let heard_of: Vec<_> = open.iter().filter(|w| !is_silent(w)).collect();
        assert!(heard_of.len() <= 3, "seed {seed}: {} workers run", heard_of.len());
        for worker in &open {
            assert!(heard_of.iter().filter(|w| w.unit == worker.unit).count() <= 1, "seed {seed}: {} is run twice", worker.unit);
            let silent = open.iter().filter(|w| is_silent(w) && w.unit == worker.unit).count();
            assert!(silent <= 2, "seed {seed}: {silent} silent workers of {}", worker.unit);
        }
    }

    /// Each worker goes on a bit, or something befalls it.
    fn disturb(&mut self) {
        self.world.pods_ending = 0;
        let names: Vec<String> = self.world.workers.values().filter(|w| w.is_open()).map(|w| w.name.clone()).collect();
        for name in names {
            let worker = self.world.workers[&name].clone();
            match worker.state {
                // One whose node went silent before it began never does.
                WorkerState::Starting { node_silent: true, .. } => {}
                WorkerState::Starting { .. } if self.random.below(100) < self.disturbances / 4 => self.world.silence(&name),
                WorkerState::Starting { .. } => self.world.start(&name),
                // It goes on, unseen, and at times comes to an end that nobody hears of.
                WorkerState::Running { node_silent: true, .. } => match self.random.below(4) {
                    0 => drop(self.world.workers.remove(&name)),
                    _ => drop(self.world.work(&worker.unit)),
                },
                WorkerState::Running { .. } | WorkerState::Ended { .. } => self.befall(&name, &worker.unit),
            }
        }
    }

    fn is_open(&self, unit: &str) -> bool {
        let seen = self.world.observe();
        let Some(file) = &self.world.plan else { return true };
        let work = Work::new(file, seen.ledger().unwrap(), 3);
        work.unit(unit).is_some_and(|u| matches!(work.standing(u), Standing::Ready | Standing::Waiting))
    }

    fn befall(&mut self, name: &str, unit: &str) {
        let fate = self.random.below(100);
        if fate < self.errors {
            self.erred.insert(name.to_owned());
            let crash = Ending::Crashed { reason: "OOMKilled".into(), message: String::new() };
            let how = if fate.is_multiple_of(2) { crash } else { reported(FailureCode::Internal, unit) };
            self.world.end(name, how);
        } else if fate < self.errors + self.disturbances {
            match self.random.below(6) {
                // `kubectl delete job`, or its TTL.
                0 => drop(self.world.workers.remove(name)),
                1 => self.world.end(name, Ending::Disrupted { reason: "Evicted".into(), message: String::new() }),
                2 => self.world.end(name, reported(FailureCode::StoreUnavailable, unit)),
                3 => self.world.end(name, reported(FailureCode::Fenced, unit)),
                4 => self.world.end(name, Ending::NotStarted(StartProblem { reason: "StartError".into(), message: "m".into() })),
                _ => self.world.silence(name),
            }
        } else if fate < 95 && self.world.work(unit) {
            self.world.end(name, Ending::Succeeded);
        }
    }
}

#[test]
fn a_run_completes_whatever_is_deleted_evicted_or_away() {
    for seed in 1..60 {
        let mut simulation = Simulation::new(seed, 0, 30);
        assert_eq!(simulation.run(seed), Outcome::Completed, "seed {seed}");
        assert!(simulation.world.failures.is_empty(), "seed {seed}: what befell from outside used up attempts");
        assert_eq!(simulation.world.manifests.verified.len(), 7);
    }
}

#[test]
fn the_workers_own_errors_use_up_attempts_and_nothing_else_does() {
    let mut outcomes = BTreeMap::new();
    for seed in 1..200 {
        let mut simulation = Simulation::new(seed, 8, 15);
        let outcome = simulation.run(seed);
        let mut recorded: BTreeMap<String, u32> = BTreeMap::new();
        simulation.world.failures.keys().for_each(|(unit, _)| *recorded.entry(unit.clone()).or_default() += 1);
        assert_eq!(recorded, simulation.counted, "seed {seed}");
        let exhausted = recorded.values().any(|n| *n >= 3);
        let all = simulation.world.manifests.verified.len() == 7;
        assert_eq!(outcome == Outcome::Completed, all, "seed {seed}");
        assert!(all || exhausted, "seed {seed}: it failed with attempts left");
        assert!(recorded.values().all(|n| *n <= 3), "seed {seed}: more attempts than allowed: {recorded:?}");
        *outcomes.entry(format!("{outcome:?}")).or_insert(0) += 1;
    }
    // Both ends are met, or the test says nothing.
    assert!(outcomes.get("Completed").is_some_and(|n| *n > 10) && outcomes.get("Failed").is_some_and(|n| *n > 5), "{outcomes:?}");
}

/// One worker at a time shows the order. With more, what is ready takes a free place whatever it is.
#[test]
fn what_ends_a_slice_comes_before_what_begins_one() {
    let mut simulation = Simulation::new(7, 0, 0);
    simulation.world.job.spec.execution.parallelism = Some(1);
    assert_eq!(simulation.run(7), Outcome::Completed);
    let created: Vec<&str> = simulation.world.created.iter().map(|name| &name["gap-538dc10e-g1-".len()..]).collect();
    let group = |n: u32| [format!("assemble-000{n}"), format!("publish-000{n}-0"), format!("publish-000{n}-1"), format!("verify-000{n}")];
    let extract = |n: u32| format!("extract-000{n}");
    let mut expected = vec!["plan".to_owned(), extract(0), extract(1)];
    expected.extend(group(0));
    expected.extend([extract(2), extract(3)]);
    expected.extend([group(1), group(2)].concat());
    assert_eq!(created, expected.iter().map(|unit| format!("{unit}-a1")).collect::<Vec<_>>());
}
