//! Logs over a store in memory: what is edited, cut, moved or forked is found, and each change is in the log once.

#![expect(clippy::unwrap_used, reason = "tests")]

mod noted;
mod store;
mod verify;
mod writing;

use futures::executor::block_on;
use jiff::Timestamp;

use super::{
    chain::{File, Head},
    entry::{Became, Changed, Event, KeyChanged, Outcome, operation},
    log::{Log, Place},
};
pub use store::{FakeStore, Trouble};

const PREFIX: &str = "audit/weir";
const CHAIN: &str = "main-0123456789ab";

fn place(writer: &str) -> Place {
    Place { prefix: PREFIX.into(), chain: CHAIN.into(), writer: writer.into() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_793_577_600 + second).unwrap()
}

fn leads() -> (Timestamp, Event) {
    (at(0), Event::Leads { cluster: "main".into(), uid: "uid".into() })
}

fn change(log: &Log, topic: &str, to: i64) -> Changed {
    let keys = vec![KeyChanged { key: "retention.ms".into(), from: Some("1".into()), to: Some(to.to_string()) }];
    let operation = operation(CHAIN, log.after(), topic, &keys);
    let (topic, topic_id, why) = (topic.to_owned(), topic.to_owned(), "floor".to_owned());
    Changed { operation, topic, topic_id, cause: "Raise".into(), keys, why, inferred: false }
}

fn open(store: &FakeStore, writer: &str) -> Log {
    let mut log = Log::new(place(writer));
    block_on(log.open(store, None, leads())).unwrap();
    log
}

fn began(store: &FakeStore, writer: &str) -> Log {
    let mut log = open(store, writer);
    block_on(log.flush(store)).unwrap();
    log
}

/// A log of a term in which topics were raised and lowered.
fn written(store: &FakeStore, rounds: usize) -> Log {
    let mut log = began(store, "a");
    for round in 0..rounds {
        let raised = change(&log, &format!("topic-{round}"), 7);
        log.push(at(round as i64), Event::Raised { changes: vec![raised] });
        block_on(log.flush(store)).unwrap();
        let lowered = change(&log, "topic-0", round as i64);
        assert!(block_on(log.intend(store, at(round as i64), vec![lowered.clone()])).unwrap());
        let outcome = Outcome { operation: lowered.operation, became: Became::Done, message: String::new(), inferred: false };
        log.push(at(round as i64), Event::LowerOutcome { outcomes: vec![outcome] });
        block_on(log.flush(store)).unwrap();
    }
    log
}

/// A log, and its newest entry.
pub fn a_log() -> (Vec<File>, Head) {
    let store = FakeStore::default();
    let log = written(&store, 2);
    (store.files(PREFIX, CHAIN), head(&log))
}

fn head(log: &Log) -> Head {
    let anchor = log.anchor().unwrap();
    Head { sequence: anchor.sequence, digest: anchor.digest }
}

fn kinds(store: &FakeStore) -> Vec<String> {
    let kind = |file: File| serde_json::from_slice::<serde_json::Value>(&file.bytes).unwrap()["event"]["kind"].as_str().unwrap().to_owned();
    store.files(PREFIX, CHAIN).into_iter().map(kind).collect()
}

/// So many steps down, of two entries each.
fn step_down(store: &FakeStore, log: &mut Log, steps: u64) {
    for step in 0..steps {
        let lowered = change(log, "other", step as i64);
        assert!(block_on(log.intend(store, at(2), vec![lowered.clone()])).unwrap());
        let outcome = Outcome { operation: lowered.operation, became: Became::Done, message: String::new(), inferred: false };
        log.push(at(2), Event::LowerOutcome { outcomes: vec![outcome] });
        block_on(log.flush(store)).unwrap();
    }
}
