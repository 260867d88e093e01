//! Time is claimed before anything is published over it, and given back where nothing ever was.

use weir_crds::{contract::result::Outcome, window::Interval};

use super::world::World;
use crate::backfill_job::{decision::Action, observed::Claimed};

/// A world in which the first `staged` slices are staged and nothing is published.
fn staged(staged: usize) -> World {
    let mut world = World::planned(4);
    world.turn();
    assert_eq!(world.claims, Claimed::Taken);
    world.workers.clear();
    let file = world.plan.clone().unwrap();
    for unit in file.units.iter().filter(|u| u.id.starts_with("extract")) {
        while !world.work(&unit.id) {}
    }
    for slice in &file.plan.slices[..staged] {
        let body = world.staged(slice.id.as_str());
        let timed = crate::backfill_job::observed::Timed { body, seconds: 1.0 };
        world.manifests.staged.insert(slice.id.to_string(), timed.into());
    }
    world
}

fn intervals(world: &World, slices: std::ops::Range<usize>) -> Vec<Interval> {
    world.plan.as_ref().unwrap().plan.slices[slices].iter().map(|slice| slice.interval).collect()
}

#[test]
fn no_work_begins_before_its_time_is_claimed() {
    let mut world = World::planned(4);
    // Once the progress topic is there, nothing else is decided, however often, while somebody else has the time.
    world.topics.insert("main".into());
    for _ in 0..3 {
        let decision = world.decide();
        assert!(matches!(&decision.actions[..], [Action::TakeClaims { scope }] if scope.slices.len() == 4), "{decision:?}");
    }
    world.claims = Claimed::Taken;
    assert!(world.decide().actions.iter().any(|action| matches!(action, Action::CreateJob(_))));
}

#[test]
fn what_was_never_staged_is_given_back_when_the_run_is_over() {
    let mut world = staged(2);
    world.job.spec.cancel = true;
    world.turn();
    assert_eq!(world.outcome.as_ref().unwrap().outcome, Outcome::Canceled);
    assert_eq!((world.claims, world.kept.clone()), (Claimed::Released, Some(intervals(&world, 0..2))));
}

#[test]
fn nothing_is_given_back_while_a_worker_is_left_or_what_was_published_is_not_known() {
    let mut world = staged(0);
    world.job.spec.cancel = true;
    world.turn();
    world.claims = Claimed::Taken;
    let releases = |world: &World| world.decide().actions.iter().any(|action| matches!(action, Action::ReleaseClaims { .. }));
    assert!(releases(&world));
    world.pods_ending = 1;
    assert!(!releases(&world));
    world.pods_ending = 0;
    world.plan = None;
    assert!(!releases(&world), "nothing was claimed without a plan");
}

#[test]
fn one_that_was_never_planned_gives_back_what_earlier_ones_claimed() {
    let mut world = World::new(4);
    world.job.spec.run_generation = 2;
    world.turn();
    world.job.spec.cancel = true;
    world.turn();
    assert_eq!(world.outcome.as_ref().unwrap().outcome, Outcome::Canceled);
    assert_eq!((world.claims, world.kept.clone()), (Claimed::Released, Some(vec![])));
}

#[test]
fn a_run_that_is_complete_keeps_all_of_its_time() {
    let mut world = World::planned(4);
    for _ in 0..200 {
        world.turn();
        let names: Vec<(String, String)> = world.workers.values().map(|w| (w.name.clone(), w.unit.clone())).collect();
        for (name, unit) in names {
            while !world.work(&unit) {}
            world.end(&name, crate::backfill_job::observed::Ending::Succeeded);
        }
        world.pass(1);
    }
    assert_eq!(world.outcome.as_ref().unwrap().outcome, Outcome::Completed);
    assert_eq!((world.claims, world.kept.clone()), (Claimed::Taken, None));
}
