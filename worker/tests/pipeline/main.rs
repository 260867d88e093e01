//! `assemble`, `publish` and `verify` against a real broker and a real store. They need `KAFKA_BOOTSTRAP`,
//! `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, as the local cluster's env file has them:
//! `cargo test -p weir-worker --test pipeline -- --ignored`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod damage;
mod deleted;
mod preflight;
mod quota;
mod refused;
mod since;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{ControlFlow, Range},
};

use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use tokio_util::sync::CancellationToken;
use weir_crds::contract::{
    manifest::{Published, Verified},
    names::transactional_id,
    result::{Failure, FailureCode},
    units::{Unit, Verb, units},
};
use weir_kafka::{
    Consequence, Holder,
    range::{Isolation, Range as Offsets, Reader},
    transaction::{ProgressRecord, Record, Session, TRANSACTION_TIMEOUT, Target, Transaction, TransactionError},
};
use weir_worker::{progress::Counters, run::PlannedRun, work};
use world::{PARTITIONS, SLICES, World};

const ROWS: u64 = 3_000;

fn rows() -> Vec<Range<u64>> {
    (0..SLICES as u64).map(|slice| slice * ROWS..(slice + 1) * ROWS).collect()
}

async fn failures(planned: &PlannedRun, verb: Verb, stop: &CancellationToken) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mine: Vec<Unit> = units(&planned.plan).into_iter().filter(|unit| unit.verb == verb).collect();
    for unit in mine {
        failures.extend(work::run(planned, &unit, &Counters::default(), stop).await);
    }
    failures
}

async fn run(planned: &PlannedRun, verb: Verb, stop: &CancellationToken) -> Vec<FailureCode> {
    failures(planned, verb, stop).await.into_iter().map(|failure| failure.code).collect()
}

async fn must(planned: &PlannedRun, verbs: &[Verb]) {
    for verb in verbs {
        assert_eq!(run(planned, *verb, &CancellationToken::new()).await, [], "{verb}");
    }
}

const ALL: [Verb; 3] = [Verb::Assemble, Verb::Publish, Verb::Verify];

/// Ids as a `read_committed` reader sees them, with how often; order per key is checked on the way.
async fn seen(world: &World) -> BTreeMap<String, u32> {
    let (config, topic) = (world.kafka(), world.topic.clone());
    let read = move || {
        let reader = Reader::new(&config, &topic, Isolation::Committed).unwrap();
        let bounds = |partition| reader.bounds(partition).map(|(first, end)| Offsets { partition, first, end });
        let ranges: Vec<Offsets> = (0..PARTITIONS).map(bounds).collect::<Result<_, _>>().unwrap();
        let (mut ids, mut last_of_key): (BTreeMap<String, u32>, BTreeMap<Vec<u8>, i64>) = Default::default();
        let done = reader.read(&ranges, |record| {
            let Some(id) = record.header("weir-event-id") else { return ControlFlow::<()>::Continue(()) };
            *ids.entry(String::from_utf8(id.to_vec()).unwrap()).or_default() += 1;
            if let Some(key) = record.key() {
                let at = record.timestamp_ms().unwrap();
                let run_and_key = [record.header("weir-run").unwrap(), key].concat();
                let last = last_of_key.insert(run_and_key, at).unwrap_or(i64::MIN);
                assert!(last <= at, "a key's records are out of order");
            }
            ControlFlow::Continue(())
        });
        done.unwrap();
        ids
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

fn once_each(rows: Range<u64>) -> BTreeMap<String, u32> {
    rows.map(|row| (format!("event-{row}"), 1)).collect()
}

async fn published(planned: &PlannedRun) -> Vec<Published> {
    let mut all = Vec::new();
    for slice in &planned.plan.slices {
        for bucket in planned.plan.buckets() {
            all.push(planned.required(&planned.run.keys.published(&slice.id, &bucket.id)).await.unwrap());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn every_event_is_seen_once_and_a_second_run_changes_nothing() {
    let world = World::new("whole").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &ALL).await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
    let before = published(&planned).await;
    must(&planned, &ALL).await;
    assert_eq!(before, published(&planned).await);
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
    let verified: Verified = planned.required(&planned.run.keys.verified(&planned.plan.slices[0].id)).await.unwrap();
    assert_eq!((verified.records, verified.others), (ROWS, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_publisher_that_is_stopped_ends_its_transaction_and_the_next_goes_on() {
    let world = World::new("stopped").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble]).await;
    let mut interrupted = 0;
    for attempt in 0..20 {
        let stop = CancellationToken::new();
        let later = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(100 + attempt * 150)).await;
            later.cancel();
        });
        let codes = run(&planned, Verb::Publish, &stop).await;
        if codes.is_empty() {
            break;
        }
        assert!(codes.iter().all(|code| *code == FailureCode::Interrupted), "{codes:?}");
        interrupted += 1;
    }
    assert!(interrupted > 0, "nothing was ever interrupted");
    must(&planned, &[Verb::Publish, Verb::Verify]).await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_later_generation_publishes_what_is_missing_and_fences_the_earlier() {
    let world = World::new("later").await;
    let half: Vec<Range<u64>> = rows().into_iter().map(|rows| rows.start..rows.start + ROWS / 2).collect();
    let first = world.planned(1, &half).await;
    must(&first, &ALL).await;
    let second = world.planned(2, &rows()).await;
    must(&second, &ALL).await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
    let present: u64 = published(&second).await.iter().flat_map(|p| p.partitions.values()).map(|p| p.present()).sum();
    assert_eq!(present, ROWS / 2 * SLICES as u64);
    // The earlier generation finds out that it is over, though all it would do is look.
    let codes = run(&first, Verb::Publish, &CancellationToken::new()).await;
    assert!(codes.iter().all(|code| *code == FailureCode::Superseded) && !codes.is_empty(), "{codes:?}");
    let third = world.planned(3, &rows()).await;
    must(&third, &ALL).await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
}

/// With another key an event has another partition: what is there is found wherever it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_later_generation_by_other_rules_publishes_what_is_missing() {
    must_publish_what_is_missing("rules", |world| World { key: "id", ..world }).await;
}

/// So it has where the rules are the same, and an object was rewritten.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_later_generation_of_other_objects_publishes_what_is_missing() {
    must_publish_what_is_missing("objects", |world| World { objects: "rewritten", ..world }).await;
}

/// What is published of its last slices only progress tells.
async fn stop_in_the_middle(world: &World, planned: &PlannedRun) {
    let stop = CancellationToken::new();
    let stopping = async {
        while seen(world).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        stop.cancel();
    };
    tokio::join!(run(planned, Verb::Publish, &stop), stopping);
}

async fn must_publish_what_is_missing(name: &str, change: impl FnOnce(World) -> World) {
    let world = World::new(name).await;
    let first = world.planned(1, &rows()).await;
    must(&first, &[Verb::Assemble]).await;
    stop_in_the_middle(&world, &first).await;
    let before = seen(&world).await.len() as u64;
    let world = change(world);
    let second = world.planned(2, &rows()).await;
    assert_eq!(second.plan.sinks[0].present.as_ref().map(|part| part.rows), Some(before));
    // Nothing of the first is committed once the second is planned.
    let codes = run(&first, Verb::Publish, &CancellationToken::new()).await;
    assert!(codes.iter().all(|code| *code == FailureCode::Superseded) && !codes.is_empty(), "{codes:?}");
    must(&second, &ALL).await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
    let present: u64 = published(&second).await.iter().flat_map(|p| p.partitions.values()).map(|p| p.present()).sum();
    assert_eq!(present, before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn missing_progress_is_lost_progress_and_not_zero() {
    let world = World::new("lost").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble]).await;
    // Begun and not yet published: every bucket has its marker.
    let stop = CancellationToken::new();
    stop.cancel();
    run(&planned, Verb::Publish, &stop).await;
    world.delete_topic(&world.progress_topic()).await;
    let gone: BTreeSet<String> = run(&planned, Verb::Publish, &CancellationToken::new()).await.iter().map(|c| format!("{c:?}")).collect();
    assert_eq!(gone, BTreeSet::from(["ProgressLost".to_owned()]));
    weir_kafka::Admin::new(&world.kafka()).unwrap().ensure_progress_topic(&world.progress_topic()).await.unwrap();
    let empty: BTreeSet<String> = run(&planned, Verb::Publish, &CancellationToken::new()).await.iter().map(|c| format!("{c:?}")).collect();
    assert_eq!(empty, BTreeSet::from(["ProgressLost".to_owned()]));
    assert!(seen(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_topic_that_was_made_anew_is_not_the_target() {
    let world = World::new("anew").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble]).await;
    world.delete_topic(&world.topic).await;
    let codes = run(&planned, Verb::Publish, &CancellationToken::new()).await;
    assert!(codes.iter().all(|code| *code == FailureCode::TopicMissing) && !codes.is_empty(), "{codes:?}");
    world.recreate_topic().await;
    let codes = run(&planned, Verb::Publish, &CancellationToken::new()).await;
    assert!(codes.iter().all(|code| *code == FailureCode::TargetChanged) && !codes.is_empty(), "{codes:?}");
}

/// A session of the first bucket, as the publisher would open it.
fn open(world: &World, planned: &PlannedRun, holder: &mut Holder) -> Result<Session, TransactionError> {
    let bucket = &planned.plan.buckets()[0];
    let target = Target {
        config: &world.kafka(),
        transactional_id: &transactional_id(&world.namespace, "job", &bucket.id),
        topic: &world.topic,
        partitions: &bucket.partitions,
        max_message_bytes: 1_000_000,
        progress_topic: &world.progress_topic(),
    };
    Session::open(target, holder).map(|(session, _)| session)
}

fn holder(planned: &PlannedRun) -> Holder {
    Holder::new(planned.run.context.run.clone(), 1)
}

/// Fills a transaction with one record.
fn fill(session: &mut Session) -> Result<Transaction<'_>, TransactionError> {
    let mut transaction = session.begin()?;
    let headers: &[(&str, &[u8])] = &[("weir-event-id", b"z")];
    transaction.send(Record { partition: 0, key: None, value: b"zombie", timestamp_ms: None, headers })?;
    transaction.delivered()?;
    Ok(transaction)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_zombie_commits_nothing() {
    let world = World::new("zombie").await;
    let planned = world.planned(1, &rows()).await;
    let (world, planned) = tokio::task::spawn_blocking(move || {
        let topic = world.progress_topic();
        let mut mine = holder(&planned);
        let mut zombie = open(&world, &planned, &mut mine).unwrap();
        let open_transaction = fill(&mut zombie).unwrap();
        let mut other = holder(&planned);
        let mut replacement = open(&world, &planned, &mut other).unwrap();
        let fenced = open_transaction.commit(ProgressRecord { topic: &topic, key: "k", value: b"v" }).unwrap_err();
        assert_eq!(fenced.consequence(), Consequence::Fenced, "{fenced:?}");
        // It goes on as if nothing had happened, through all of its producers and those that it renews.
        let mut ends = Vec::new();
        while ends.last() != Some(&Consequence::Yield) && ends.len() < 20 {
            ends.push(fill(&mut zombie).map(drop).unwrap_err().consequence());
        }
        assert_eq!(ends.last(), Some(&Consequence::Yield), "{ends:?}");
        drop(zombie);
        assert!(matches!(open(&world, &planned, &mut mine).err(), Some(TransactionError::Taken { attempt: 1, .. })));
        // What it renewed was its replacement's, who is fenced by that, and still holds the bucket.
        let fenced = fill(&mut replacement).map(drop).unwrap_err();
        assert_eq!(fenced.consequence(), Consequence::Fenced, "{fenced:?}");
        drop(replacement);
        fill(&mut open(&world, &planned, &mut other).unwrap()).map(drop).unwrap();
        (world, planned)
    })
    .await
    .unwrap();
    assert!(seen(&world).await.is_empty());
    must(&planned, &ALL).await;
    assert_eq!(seen(&world).await, once_each(0..ROWS * SLICES as u64));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_transaction_that_was_open_too_long_is_no_newer_producer() {
    let world = World::new("slow").await;
    let planned = world.planned(1, &rows()).await;
    tokio::task::spawn_blocking(move || {
        let topic = world.progress_topic();
        let mut mine = holder(&planned);
        let mut session = open(&world, &planned, &mut mine).unwrap();
        let slow = fill(&mut session).unwrap();
        // The coordinator looks for such transactions every so often.
        std::thread::sleep(TRANSACTION_TIMEOUT + std::time::Duration::from_secs(15));
        let ended = slow.commit(ProgressRecord { topic: &topic, key: "k", value: b"v" }).unwrap_err();
        assert_eq!(ended.consequence(), Consequence::Fenced, "{ended:?}");
        drop(session);
        let mut session = open(&world, &planned, &mut mine).unwrap();
        fill(&mut session).unwrap().commit(ProgressRecord { topic: &topic, key: "k", value: b"v" }).unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_run_that_is_over_publishes_nothing() {
    let world = World::new("over").await;
    let planned = world.planned(1, &rows()).await;
    must(&planned, &[Verb::Assemble]).await;
    let outcome =
        serde_json::json!({"format": 1, "outcome": "Canceled", "reason": "Canceled", "message": "m", "at": "2026-11-03T09:00:00Z"});
    planned.run.ledger.put_once(&planned.run.keys.outcome(), outcome.to_string().into()).await.unwrap();
    let failures = failures(&planned, Verb::Publish, &CancellationToken::new()).await;
    assert!(
        failures.iter().all(|f| f.code == FailureCode::Interrupted && f.cause.contains("Canceled")) && !failures.is_empty(),
        "{failures:?}"
    );
    assert!(seen(&world).await.is_empty());
}

/// Enough for several requests a partition, so that others' records come to lie between them.
const MANY_ROWS: u64 = 100_000;

/// Writes records of another producer to every partition while something is published.
async fn live(world: &World, stop: CancellationToken) -> u64 {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &world.kafka().bootstrap_servers[0]).create().unwrap();
    let mut sent = 0;
    while !stop.is_cancelled() {
        let sends = (0..PARTITIONS).map(|partition| {
            producer.send(FutureRecord::<(), str>::to(&world.topic).payload("live").partition(partition), std::time::Duration::from_secs(5))
        });
        sent += futures::future::try_join_all(sends).await.unwrap().len() as u64;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn records_of_others_are_passed_over_in_place_and_refused_in_a_side_topic() {
    for mode in ["InPlace", "SideTopic"] {
        let world = World { mode, ..World::new(&format!("live-{}", mode.to_lowercase())).await };
        let rows: Vec<Range<u64>> = (0..SLICES as u64).map(|slice| slice * MANY_ROWS..(slice + 1) * MANY_ROWS).collect();
        let planned = world.planned(1, &rows).await;
        must(&planned, &[Verb::Assemble]).await;
        let stop = CancellationToken::new();
        let (sent, ()) = tokio::join!(live(&world, stop.clone()), async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            must(&planned, &[Verb::Publish]).await;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            stop.cancel();
        });
        assert!(sent > 0);
        let codes = run(&planned, Verb::Verify, &CancellationToken::new()).await;
        match mode {
            "InPlace" => assert_eq!(codes, []),
            _ => assert!(codes.iter().all(|code| *code == FailureCode::VerifyMismatch) && !codes.is_empty(), "{codes:?}"),
        }
        assert_eq!(seen(&world).await, once_each(0..MANY_ROWS * SLICES as u64));
    }
}
