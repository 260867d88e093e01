//! Brokers that take much less than they are offered: a quota of Kafka's own slows the publisher down.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    process::{Command, Output},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use weir_crds::contract::{
    names::{progress_key, transactional_id},
    progress::BucketProgress,
    units::Verb,
};
use weir_kafka::range::{Isolation, Range as Offsets, Reader};

use crate::{
    must, once_each, run,
    world::{SLICES, World},
};

/// What the brokers take of all publishers together.
const BYTES_A_SECOND: u32 = 150_000;
/// Their values are 15 MB, their batches 8, of which a third waits in the client's queue at once.
const ROWS: u64 = 300_000;
/// What is handed over at first is far too much. After so many commits the brokers' speed is known.
const COMMITS_TO_LEARN: usize = 3;
/// From one commit to the next, in milliseconds: most of them, and all. A quota is an average over ten seconds, so it lets some
/// pass at once, and then nothing for longer than a transaction is to be open.
const OPEN_MOSTLY_MS: i64 = 2500;
const OPEN_MAX_MS: i64 = 7000;
/// All of it takes about a minute; a transaction that is aborted again and again takes for ever.
const LIMIT: Duration = Duration::from_secs(240);

/// A quota on weir's clients, which ends with this.
struct Quota;

impl Quota {
    fn set() -> Self {
        let quota = Self;
        let output = Self::alter(&["--add-config", &format!("producer_byte_rate={BYTES_A_SECOND}")]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        quota
    }

    fn alter(what: &[&str]) -> io::Result<Output> {
        let env = |name| std::env::var(name).unwrap_or_default();
        Command::new(env("KAFKA_TOOLS"))
            .args(["kafka.admin.ConfigCommand", "--bootstrap-server", &env("KAFKA_BOOTSTRAP")])
            .args(["--alter", "--entity-type", "clients", "--entity-name", "weir"])
            .args(what)
            .output()
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // What fails here is seen by the tests that come after.
        drop(Self::alter(&["--delete-config", "producer_byte_rate"]));
    }
}

/// When each of the bucket's transactions was ended, in milliseconds, and how many it says there were.
fn commits(world: &World, key: &str) -> Vec<(i64, u64)> {
    let topic = world.progress_topic();
    let reader = Reader::new(&world.kafka(), &topic, Isolation::Committed).unwrap();
    let (first, end) = reader.bounds(0).unwrap();
    let mut commits = Vec::new();
    let done = reader.read(&[Offsets { partition: 0, first, end }], |record| {
        if record.key() == Some(key.as_bytes()) {
            commits.push((record.timestamp_ms().unwrap(), BucketProgress::parse(record.value().unwrap()).unwrap().transactions));
        }
        ControlFlow::<()>::Continue(())
    });
    done.unwrap();
    commits
}

/// Ids in the only partition, with how often.
fn ids(world: &World) -> BTreeMap<String, u32> {
    let reader = Reader::new(&world.kafka(), &world.topic, Isolation::Committed).unwrap();
    let (first, end) = reader.bounds(0).unwrap();
    let mut ids = BTreeMap::new();
    let done = reader.read(&[Offsets { partition: 0, first, end }], |record| {
        *ids.entry(String::from_utf8(record.header("weir-event-id").unwrap().to_vec()).unwrap()).or_default() += 1;
        ControlFlow::<()>::Continue(())
    });
    done.unwrap();
    ids
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn slow_brokers_get_transactions_that_they_can_take_in_time() {
    let world = World::new("quota").await;
    let topic = format!("{}-one", world.topic);
    world.create_topic(&topic, 1, &[("retention.ms", "-1")]).await;
    let world = World { topic, ..world };
    let each = ROWS / SLICES as u64;
    let rows: Vec<_> = (0..SLICES as u64).map(|slice| slice * each..(slice + 1) * each).collect();
    let planned = world.planned(1, &rows).await;
    must(&planned, &[Verb::Assemble]).await;
    let quota = Quota::set();
    let stop = CancellationToken::new();
    let published = tokio::time::timeout(LIMIT, run(&planned, Verb::Publish, &stop)).await;
    // A publisher that is given up goes on until it is told, and the test would wait for it.
    stop.cancel();
    drop(quota);
    assert_eq!(published.expect("it takes too long"), [], "one attempt is enough");
    must(&planned, &[Verb::Verify]).await;
    tokio::task::spawn_blocking(move || {
        assert_eq!(ids(&world), once_each(0..each * SLICES as u64));
        let bucket = &planned.plan.buckets()[0].id;
        let commits = commits(&world, &progress_key(&transactional_id(&world.namespace, "job", bucket), 1));
        let all: Vec<i64> = commits.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(commits.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1), "a transaction counts twice: {commits:?}");
        // Enough of them to see that they stay so.
        assert!(all.len() >= COMMITS_TO_LEARN + 8, "the quota slowed nothing down: {all:?}");
        let mut open = all[COMMITS_TO_LEARN..].to_vec();
        open.sort_unstable();
        assert!(open[open.len() / 2] <= OPEN_MOSTLY_MS && open[open.len() - 1] <= OPEN_MAX_MS, "{all:?}");
    })
    .await
    .unwrap();
}
