//! What an earlier generation published and the topic's retention has deleted since was published all the same.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;
use weir_crds::contract::{
    manifest::to_bytes,
    names::{progress_key, transactional_id},
    progress::BucketProgress,
    result::FailureCode,
    units::Verb,
};

use crate::{ALL, ROWS, SLICES, failures, must, once_each, rows, seen, stop_in_the_middle, world::World};

fn together(mut one: BTreeMap<String, u32>, other: BTreeMap<String, u32>) -> BTreeMap<String, u32> {
    for (id, times) in other {
        *one.entry(id).or_default() += times;
    }
    one
}

/// A second generation after one that was stopped in the middle, and whose records are gone.
async fn must_publish_the_rest(name: &str, change: impl FnOnce(World) -> World) {
    let world = World::new(name).await;
    let first = world.planned(1, &rows()).await;
    must(&first, &[Verb::Assemble]).await;
    stop_in_the_middle(&world, &first).await;
    let before = seen(&world).await;
    world.delete_records().await;
    assert!(seen(&world).await.is_empty());
    let world = change(world);
    let second = world.planned(2, &rows()).await;
    must(&second, &ALL).await;
    assert_eq!(together(before, seen(&world).await), once_each(0..ROWS * SLICES as u64));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn it_is_not_published_again() {
    must_publish_the_rest("deleted", |world| world).await;
}

/// Nor where planning has to know of everything.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn it_is_not_published_again_by_other_rules() {
    must_publish_the_rest("deleted-rules", |world| World { key: "id", ..world }).await;
}

/// As much as was committed before the publisher died in the middle of a slice.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn the_rest_of_a_slice_is_published() {
    let world = World::new("deleted-part").await;
    let first = world.planned(1, &rows()).await;
    must(&first, &[Verb::Assemble, Verb::Publish]).await;
    let (bucket, last) = (&first.plan.buckets()[0].id, &first.plan.slices[SLICES - 1].id);
    world.delete_object(&first.run.keys.published(last, bucket)).await;
    let key = progress_key(&transactional_id(&world.namespace, "job", bucket), 1);
    let BucketProgress { run, plan_hash, cluster_id, topic_id, transactions, at, .. } =
        BucketProgress::parse(&world.progress(&key).await).unwrap();
    let mut at = at.unwrap();
    assert_eq!(at.slice, *last);
    let rest = at.rows / 2;
    at.rows -= rest;
    let half = BucketProgress::new(run, plan_hash, bucket.clone(), cluster_id, topic_id, transactions, Some(at));
    world.put_progress(&key, &to_bytes(&half)).await;
    world.delete_records().await;
    let second = world.planned(2, &rows()).await;
    must(&second, &[Verb::Assemble, Verb::Publish]).await;
    assert!(rest > 0);
    assert_eq!(seen(&world).await.len() as u64, rest);
}

/// Where neither the topic nor the store has it, nobody can tell.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn what_is_gone_from_the_store_too_is_not_guessed() {
    let world = World::new("deleted-both").await;
    let first = world.planned(1, &rows()).await;
    must(&first, &[Verb::Assemble, Verb::Publish]).await;
    world.delete_records().await;
    for slice in &first.plan.slices {
        world.delete_object(&first.run.keys.staged(&slice.id)).await;
    }
    let second = world.planned(2, &rows()).await;
    must(&second, &[Verb::Assemble]).await;
    let found = failures(&second, Verb::Publish, &CancellationToken::new()).await;
    assert!(!found.is_empty() && found.iter().all(|failure| failure.code == FailureCode::ProgressLost), "{found:?}");
    assert!(seen(&world).await.is_empty());
}
