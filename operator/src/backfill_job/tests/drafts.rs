//! Jobs that weir drafted, and nobody has completed.

use weir_crds::backfill_job::Phase;

use super::{
    fixture::{stalled, waits},
    world::World,
};
use crate::backfill_job::wait::Wait;

fn draft() -> World {
    let mut world = World::new(4);
    world.job.spec.suspend = true;
    world.job.spec.sources.clear();
    world.job.spec.service_account_name.clear();
    world
}

#[test]
fn a_draft_says_what_it_lacks_and_runs_once_it_is_complete() {
    let mut world = draft();
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Suspended, vec![Wait::Incomplete]));
    assert_eq!(stalled(&world), ("True".to_owned(), "Incomplete".to_owned()));
    let message = &decision.waits[0].message;
    assert!(message.contains("spec.sources: it is empty") && message.contains("spec.serviceAccountName: it is empty"), "{message}");
    let complete = World::new(4).job.spec;
    world.job.spec.sources = complete.sources;
    let decision = world.turn();
    assert!(!decision.waits[0].message.contains("spec.sources"), "{:?}", decision.waits);
    world.job.spec.service_account_name = complete.service_account_name;
    assert_eq!(world.turn().waits, vec![]);
    world.job.spec.suspend = false;
    assert_eq!(world.turn().phase, Phase::Planning);
}

#[test]
fn a_draft_that_is_let_run_all_the_same_begins_nothing() {
    let mut world = draft();
    world.job.spec.suspend = false;
    let decision = world.turn();
    assert_eq!((decision.phase, waits(&decision)), (Phase::Pending, vec![Wait::Incomplete]));
    assert!(world.run.is_none() && world.created.is_empty());
    world.job.spec.cancel = true;
    let decision = world.turn();
    assert_eq!((decision.phase, decision.waits), (Phase::Canceled, vec![]));
}
