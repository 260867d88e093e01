//! What was damaged is found by its digest, named, and never guessed from.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use weir_crds::contract::{
    manifest::Staged,
    names::{holder_key, progress_key, transactional_id},
    result::FailureCode,
    units::Verb,
};
use weir_worker::run::PlannedRun;

use crate::{ROWS, SLICES, failures, must, once_each, rows, seen, world::World};

/// Changes the byte in the middle of an object that holds `text`, or of any.
async fn damage(planned: &PlannedRun, key: &str, from: &str, to: &str) {
    let bytes = planned.run.ledger.get(key).await.unwrap().unwrap();
    let edited = if from.is_empty() {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    } else {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.contains(from), "{text} has no {from}");
        text.replacen(from, to, 1).into_bytes()
    };
    planned.run.ledger.overwrite(key, Bytes::from(edited)).await.unwrap();
}

/// The verb fails with this code alone, and names the object.
async fn must_name(planned: &PlannedRun, verb: Verb, code: FailureCode, object: &str) {
    let failures = failures(planned, verb, &CancellationToken::new()).await;
    assert!(!failures.is_empty() && failures.iter().all(|failure| failure.code == code), "{failures:?}");
    assert!(failures.iter().any(|failure| failure.cause.contains(object)), "{failures:?} do not name {object}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_staged_part_or_manifest_that_was_damaged_is_found() {
    let world = World::new("damaged").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble]).await;
    let key = planned.run.keys.staged(&planned.plan.slices[0].id);
    let staged: Staged = planned.required(&key).await.unwrap();
    for staged in &staged.buckets {
        damage(&planned, &staged.part.key, "", "").await;
    }
    must_name(&planned, Verb::Publish, FailureCode::ArtifactCorrupt, &staged.buckets[0].part.key).await;
    damage(&planned, &key, "\"rows\":", "\"rows\":1").await;
    must_name(&planned, Verb::Publish, FailureCode::ArtifactCorrupt, &key).await;
    assert!(seen(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn an_extracted_part_or_manifest_that_was_damaged_is_found() {
    let world = World::new("damaged-extract").await;
    let planned = world.planned(1, &rows()).await;
    let key = planned.run.keys.extracted("logs-00001");
    let extracted: weir_crds::contract::manifest::Extracted = planned.required(&key).await.unwrap();
    let part = extracted.data.unwrap().key;
    damage(&planned, &part, "", "").await;
    let failures = failures(&planned, Verb::Assemble, &CancellationToken::new()).await;
    assert!(failures.iter().any(|f| f.code == FailureCode::ArtifactCorrupt && f.cause.contains(&part)), "{failures:?}");
    damage(&planned, &key, "\"selected\":", "\"selected\":1").await;
    must_name(&planned, Verb::Assemble, FailureCode::ArtifactCorrupt, &key).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_published_manifest_that_was_damaged_is_found() {
    let world = World::new("damaged-published").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble, Verb::Publish]).await;
    let key = planned.run.keys.published(&planned.plan.slices[1].id, &planned.plan.buckets()[0].id);
    damage(&planned, &key, "\"first\":", "\"first\":1").await;
    must_name(&planned, Verb::Verify, FailureCode::ArtifactCorrupt, &key).await;
    let second = world.planned(2, &rows()).await;
    must(&second, &[Verb::Assemble]).await;
    let failures = failures(&second, Verb::Publish, &CancellationToken::new()).await;
    // Only its bucket suffers: what the others hold is known.
    assert!(failures.len() == 1 && failures[0].code == FailureCode::ArtifactCorrupt, "{failures:?}");
    assert!(failures[0].cause.contains(&key), "{failures:?}");
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_progress_record_that_was_damaged_is_found() {
    let world = World::new("damaged-progress").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble, Verb::Publish]).await;
    for bucket in planned.plan.buckets() {
        let id = transactional_id(&world.namespace, "job", &bucket.id);
        for (key, said) in [(progress_key(&id, 1), "rows"), (holder_key(&id), "attempt")] {
            let record = world.progress(&key).await;
            let text = String::from_utf8(record.clone()).unwrap();
            let damaged = text.replacen(&format!("\"{said}\":"), &format!("\"{said}\":1"), 1);
            assert_ne!(text, damaged);
            world.put_progress(&key, damaged.as_bytes()).await;
            let failures = failures(&planned, Verb::Publish, &CancellationToken::new()).await;
            assert!(failures.iter().all(|f| f.code == FailureCode::ProgressCorrupt) && !failures.is_empty(), "{failures:?}");
            assert!(failures.iter().any(|f| f.cause.contains(&key)), "{failures:?} do not name {key}");
            world.put_progress(&key, &record).await;
        }
        must(&planned, &[Verb::Publish]).await;
    }
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
}

/// Its slice has failed, and is left alone: those beside it in the unit have not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_chunk_that_is_not_extracted_holds_up_its_own_slice_alone() {
    let world = World { lost: Some(SLICES - 1), ..World::new("lost-chunk").await };
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble]).await;
    let mut is_staged = Vec::new();
    for slice in &planned.plan.slices {
        is_staged.push(planned.manifest::<Staged>(&planned.run.keys.staged(&slice.id)).await.unwrap().is_some());
    }
    assert_eq!(is_staged, [true, true, false]);
    // Nothing is published: there is nothing to say of any slice, of that one either.
    must(&planned, &[Verb::Verify]).await;
}

/// What is gone from the store is not taken for what never was.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn what_an_earlier_generation_published_is_not_published_again_because_its_record_is_gone() {
    let world = World::new("tidied-up").await;
    let first = world.planned(1, &rows()).await;
    must(&first, &[Verb::Assemble, Verb::Publish]).await;
    world.delete_object(&first.run.keys.published(&first.plan.slices[0].id, &first.plan.buckets()[0].id)).await;
    let second = world.planned(2, &rows()).await;
    must(&second, &[Verb::Assemble]).await;
    let of_one = failures(&second, Verb::Publish, &CancellationToken::new()).await;
    assert!(of_one.len() == 1 && of_one[0].cause.contains(&first.plan.slices[0].id.to_string()), "{of_one:?}");
    world.delete_object(&first.run.keys.plan()).await;
    let third = world.planned(3, &rows()).await;
    must(&third, &[Verb::Assemble]).await;
    must_name(&third, Verb::Publish, FailureCode::ProgressLost, "generation 1").await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
}

/// Somebody tidied up, and planned the same generation again: what was published by the earlier plan is not in the store any more.
async fn planned_again(world: &World, from: &str, to: &str) -> PlannedRun {
    let first = world.planned(1, &rows()).await;
    must(&first, &[Verb::Assemble, Verb::Publish]).await;
    damage(&first, &first.run.keys.plan(), from, to).await;
    for bucket in first.plan.buckets() {
        world.delete_object(&first.run.keys.publishing(&bucket.id)).await;
        for slice in &first.plan.slices {
            world.delete_object(&first.run.keys.published(&slice.id, &bucket.id)).await;
        }
    }
    first
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn what_was_published_by_a_plan_that_is_gone_is_not_published_again() {
    for (name, from, to) in
        [("planned-again", "\"slicesPerUnit\":3", "\"slicesPerUnit\":2"), ("planned-elsewhere", "\"topicId\":\"", "\"topicId\":\"x")]
    {
        let world = World { ordering: "None", ..World::new(name).await };
        planned_again(&world, from, to).await;
        let second = world.planned(2, &rows()).await;
        must(&second, &[Verb::Assemble]).await;
        must_name(&second, Verb::Publish, FailureCode::ProgressLost, "generation 1").await;
        assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
    }
}

/// Its records are of the topic that is not there any more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn what_was_published_to_an_earlier_topic_by_a_plan_that_is_gone_is_in_nobodys_way() {
    let world = World { ordering: "None", ..World::new("made-again").await };
    let first = planned_again(&world, "\"slicesPerUnit\":3", "\"slicesPerUnit\":2").await;
    world.delete_topic(&world.topic).await;
    world.recreate_topic().await;
    let second = world.planned(2, &rows()).await;
    damage(&first, &first.run.keys.plan(), &first.plan.sinks[0].topic_id, &second.plan.sinks[0].topic_id).await;
    must(&second, &[Verb::Assemble, Verb::Publish]).await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
}
