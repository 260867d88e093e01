//! The ledger against a real store. Needs `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, as the
//! local cluster's env file has them: `cargo test -p weir-ledger --test store -- --ignored`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use weir_crds::{
    contract::{
        claims::{ClaimTarget, EventTypes},
        names::RunId,
        run::StoreLocation,
    },
    refs::S3Service,
    window::{Interval, Slice, SliceId},
};
use weir_ledger::{
    Cause, Ledger, LedgerError, PutOnce, Swap,
    claims::{ClaimError, Claims},
};

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// A bucket of the test's own, and the credentials' folder.
async fn ledger(name: &str) -> (Ledger, StoreLocation, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("aws-access-key-id"), env("AWS_ACCESS_KEY_ID")).unwrap();
    std::fs::write(dir.path().join("aws-secret-access-key"), env("AWS_SECRET_ACCESS_KEY")).unwrap();
    let s3 = S3Service { endpoint: Some(env("AWS_ENDPOINT_URL")), region: "us-east-1".into(), path_style: true };
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let store = StoreLocation { bucket: format!("ledger-{name}-{:x}", since.as_micros()), prefix: String::new(), s3 };
    let client = weir_ledger::s3_client(&store.s3, Some(dir.path())).await.unwrap();
    client.create_bucket().bucket(&store.bucket).send().await.unwrap();
    (Ledger::connect(&store, Some(dir.path())).await.unwrap(), store, dir)
}

#[tokio::test]
#[ignore = "needs a store"]
async fn one_of_many_writers_wins_and_the_others_know() {
    let (ledger, _store, _dir) = ledger("once").await;
    let writers = (0..20).map(|n| {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.put_once("a/b.json", Bytes::from(format!("{}", n % 10))).await.unwrap() })
    });
    let mut results = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        results.push(writer.await.unwrap());
    }
    let there = ledger.get("a/b.json").await.unwrap().unwrap();
    assert_eq!(results.iter().filter(|r| **r == PutOnce::Written).count(), 1);
    assert_eq!(results.iter().filter(|r| **r == PutOnce::Same).count(), 1);
    assert_eq!(results.iter().filter(|r| **r == PutOnce::Different { found: there.clone() }).count(), 18);
}

#[tokio::test]
#[ignore = "needs a store"]
async fn an_object_that_is_not_there_is_told_from_a_store_that_is_not() {
    let (ledger, store, dir) = ledger("absent").await;
    assert_eq!(ledger.get("nothing").await.unwrap(), None);
    assert_eq!(ledger.head("nothing").await.unwrap(), None);
    assert!(matches!(ledger.get_range("nothing", 0..1).await.unwrap_err(), LedgerError::Missing { .. }));
    assert!(matches!(ledger.download("nothing", &dir.path().join("f")).await.unwrap_err(), LedgerError::Missing { .. }));
    let no_bucket = StoreLocation { bucket: "there-is-no-such-bucket".into(), ..store.clone() };
    let no_bucket = Ledger::connect(&no_bucket, Some(dir.path())).await.unwrap();
    for error in [
        no_bucket.get("k").await.unwrap_err(),
        no_bucket.head("k").await.unwrap_err(),
        no_bucket.put_once("k", Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(error.cause(), Some(Cause::Refused), "{error}");
    }
    std::fs::write(dir.path().join("aws-secret-access-key"), "wrong").unwrap();
    let stranger = Ledger::connect(&store, Some(dir.path())).await.unwrap();
    assert_eq!(stranger.get("k").await.unwrap_err().cause(), Some(Cause::Denied));
}

#[tokio::test]
#[ignore = "needs a store"]
async fn large_parts_come_back_whole_and_in_ranges() {
    let (ledger, _store, dir) = ledger("parts").await;
    // Three parts of an upload, the last one short.
    let bytes: Bytes = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>().into();
    ledger.put_part("by-bytes", bytes.clone()).await.unwrap();
    let path = dir.path().join("part");
    std::fs::write(&path, &bytes).unwrap();
    ledger.put_part_file("by-file", &path).await.unwrap();
    let mut upload = ledger.upload("by-pieces").await.unwrap();
    for piece in bytes.chunks(3_000_001) {
        upload.write(bytes.slice_ref(piece)).await.unwrap();
    }
    upload.finish().await.unwrap();
    for key in ["by-bytes", "by-file", "by-pieces"] {
        assert_eq!(ledger.head(key).await.unwrap(), Some(bytes.len() as u64), "{key}");
        assert_eq!(ledger.get(key).await.unwrap().unwrap(), bytes, "{key}");
        assert_eq!(ledger.get_range(key, 8_388_600..8_388_620).await.unwrap(), bytes.slice(8_388_600..8_388_620));
        assert!(matches!(ledger.get_range(key, 19_999_990..20_000_010).await.unwrap_err(), LedgerError::ShortRead { found: 10, .. }));
        let copy = dir.path().join("copy");
        assert_eq!(ledger.download(key, &copy).await.unwrap(), bytes.len() as u64);
        assert_eq!(std::fs::read(&copy).unwrap(), bytes);
    }
    ledger.upload("given-up").await.unwrap().write(bytes).await.unwrap();
    assert_eq!(ledger.head("given-up").await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs a store"]
async fn listings_are_whole_and_in_order() {
    let (ledger, _store, _dir) = ledger("list").await;
    let keys: Vec<String> = (0..1_050).map(|n| format!("g1/published/{n:04}.json")).collect();
    for keys in keys.chunks(50) {
        let puts = keys.iter().map(|key| ledger.overwrite(key, Bytes::from_static(b"{}")));
        futures::future::try_join_all(puts).await.unwrap();
    }
    ledger.overwrite("g2/plan.json", Bytes::from_static(b"{}")).await.unwrap();
    let listed = ledger.list("g1/published/", None).await.unwrap();
    assert_eq!(listed.iter().map(|o| o.key.clone()).collect::<Vec<_>>(), keys);
    assert!(listed.iter().all(|o| o.bytes == 2));
    let rest = ledger.list("g1/published/", Some("g1/published/1040.json")).await.unwrap();
    assert_eq!(rest.iter().map(|o| o.key.clone()).collect::<Vec<_>>(), keys[1041..]);
    assert_eq!(ledger.folders("").await.unwrap(), ["g1/", "g2/"]);
}

#[tokio::test]
#[ignore = "needs a store"]
async fn of_many_swaps_of_one_version_one_is_done() {
    let (ledger, _store, _dir) = ledger("swap").await;
    for read in [None, Some(())] {
        let version = ledger.get_versioned("a").await.unwrap();
        assert_eq!(version.is_some(), read.is_some());
        let swaps = (0..10).map(|n| {
            let (ledger, version) = (ledger.clone(), version.clone());
            tokio::spawn(async move { ledger.swap("a", version.as_ref(), Bytes::from(format!("{n}{read:?}"))).await.unwrap() })
        });
        let mut done = Vec::new();
        for swap in swaps.collect::<Vec<_>>() {
            done.push(swap.await.unwrap());
        }
        assert_eq!(done.iter().filter(|swap| **swap == Swap::Done).count(), 1, "{done:?}");
    }
    let version = ledger.get_versioned("a").await.unwrap();
    // As when the answer to a request is lost and it is made again.
    for _ in 0..2 {
        assert_eq!(ledger.swap("a", version.as_ref(), Bytes::from_static(b"new")).await.unwrap(), Swap::Done);
    }
    assert_eq!(ledger.swap("gone", version.as_ref(), Bytes::from_static(b"new")).await.unwrap(), Swap::Changed);
}

#[tokio::test]
#[ignore = "needs a store"]
async fn of_two_jobs_that_want_the_same_hours_one_gets_them() {
    let (ledger, _store, _dir) = ledger("claims").await;
    let target = ClaimTarget { cluster_id: "c".into(), topic: "t".into() };
    let claims = Claims { ledger: &ledger, prefix: "p", target: &target };
    let run = |name: &str, generation| RunId { namespace: "n".into(), name: name.into(), generation };
    const QUARTER_US: i64 = 900_000_000;
    let slices = |range: std::ops::Range<i64>| -> Vec<Slice> {
        let interval = |n| Interval { start_us: n * QUARTER_US, end_us: (n + 1) * QUARTER_US };
        let id = |n: i64| SliceId::from_start(jiff::Timestamp::from_microsecond(n * QUARTER_US).unwrap());
        range.map(|n| Slice { id: id(n), interval: interval(n) }).collect()
    };
    let types = EventTypes::These(["click".to_owned()].into());
    let (first, second, forth, back) = (run("a", 1), run("b", 1), slices(0..24), slices(8..32));
    let (a, b) = tokio::join!(claims.take(&first, &forth, &types), claims.take(&second, &back, &EventTypes::Any));
    let (winner, loser) = match (&a, &b) {
        (Ok(()), Err(ClaimError::Conflict(conflict))) => {
            assert_eq!((&conflict.wanted, &conflict.held.run), (&second, &first));
            ((&first, &forth), (&second, &back))
        }
        (Err(ClaimError::Conflict(conflict)), Ok(())) => {
            assert_eq!((&conflict.wanted, &conflict.held.run), (&first, &second));
            ((&second, &back), (&first, &forth))
        }
        both => unreachable!("{both:?}"),
    };
    // Again, and in a later generation, changes nothing; the other waits until what was never published is released.
    claims.take(winner.0, winner.1, &types).await.unwrap();
    claims.take(&RunId { generation: 2, ..winner.0.clone() }, winner.1, &types).await.unwrap();
    assert!(matches!(claims.take(loser.0, loser.1, &types).await, Err(ClaimError::Conflict(_))));
    claims.release(winner.0, winner.1, &[]).await.unwrap();
    claims.take(loser.0, loser.1, &EventTypes::Any).await.unwrap();
    assert!(matches!(claims.take(winner.0, winner.1, &types).await, Err(ClaimError::Conflict(_))));
}
