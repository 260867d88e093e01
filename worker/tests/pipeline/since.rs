//! What others, or the clock, have changed of the target since the plan was made.

use tokio_util::sync::CancellationToken;
use weir_crds::contract::{
    result::{Failure, FailureCode},
    units::Verb,
};
use weir_kafka::admin::ConfigChange;
use weir_worker::plan::PlanError;

use crate::{
    ROWS, SLICES, failures, must, once_each, preflight, rows, seen,
    world::{PARTITIONS, World},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn partitions_that_were_added_are_found_and_nothing_is_published() {
    let world = World::new("wider").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble]).await;
    world.add_partitions(PARTITIONS as usize + 1).await;
    let failures = failures(&planned, Verb::Publish, &CancellationToken::new()).await;
    let told = |failure: &Failure| {
        failure.code == FailureCode::TargetChanged
            && failure.cause.contains("partition count of the target is 6; the plan was made for 5")
            && failure.remedy.contains("another topic")
    };
    assert!(!failures.is_empty() && failures.iter().all(told), "{failures:?}");
    assert!(seen(&world).await.is_empty());
    // Nor does another generation go on there.
    let refused = preflight::describe(&world, 2).await.unwrap_err();
    assert!(matches!(refused, PlanError::PartitionCountChanged { found: 6, planned: 5, generation: 1, .. }), "{refused}");
}

/// A plan may be approved long after it was made.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_target_that_would_not_keep_the_events_any_more_is_refused_before_anything_is_published() {
    let cases = [
        ("expiring", "retention.ms", "3600000", "-1", "retention.ms is 3600000"),
        ("refusing", "message.timestamp.before.max.ms", "3600000", "9223372036854775807", "message.timestamp.before.max.ms is 3600000"),
    ];
    for (name, key, now, before, words) in cases {
        let world = World::new(name).await;
        let planned = world.planned(1, &rows()).await;
        must(&planned, &[Verb::Assemble]).await;
        world.set(key, ConfigChange::Set(now.to_owned())).await;
        let failures = failures(&planned, Verb::Publish, &CancellationToken::new()).await;
        let told = |failure: &Failure| {
            (failure.code, failure.field.as_deref()) == (FailureCode::TargetUnsuitable, Some("spec.sinks[0].kafka.timestamps"))
                && failure.cause.contains(words)
                && failure.remedy.contains("raise")
        };
        assert!(!failures.is_empty() && failures.iter().all(told), "{failures:?}");
        assert!(seen(&world).await.is_empty());
        // Nothing was begun that would be in the way.
        world.set(key, ConfigChange::Set(before.to_owned())).await;
        must(&planned, &[Verb::Publish, Verb::Verify]).await;
        assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
    }
}
