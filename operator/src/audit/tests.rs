//! Logs over a store in memory: what is edited, cut, moved or forked is found, and each change is in the log once.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;
use futures::executor::block_on;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use weir_crds::contract::digest::Sha256Digest;
use weir_ledger::{Cause, LedgerError, PutOnce};

use super::{
    chain::{File, Head, Problem, Verified, verify},
    entry::{Became, Changed, Event, KeyChanged, Outcome, folder, kept_folder, operation},
    log::{FLUSHED_MAX, Log, LogError, Noted, Place, READ_BACK_MAX, TAIL_MAX},
    objects::Objects,
};

/// A store in memory.
#[derive(Debug, Default)]
pub struct FakeStore {
    pub objects: Mutex<BTreeMap<String, Bytes>>,
    pub trouble: Mutex<Option<Trouble>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Away,
    /// For objects with this in their key.
    AwayAt(&'static str),
    /// Writes take effect, and no answer comes.
    Silent,
    /// Writes with this in their key take effect, and then nothing goes on any more.
    HangsAfter(&'static str),
}

fn away(key: &str) -> LedgerError {
    let (bucket, key) = ("audit".to_owned(), key.to_owned());
    LedgerError::Request { operation: "putting", bucket, key, cause: Cause::Unavailable, message: "no answer".into() }
}

impl FakeStore {
    pub fn trouble(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap() = trouble;
    }

    fn is_away(&self, key: &str) -> Result<(), LedgerError> {
        match *self.trouble.lock().unwrap() {
            Some(Trouble::Away) => Err(away(key)),
            Some(Trouble::AwayAt(part)) if key.contains(part) => Err(away(key)),
            _ => Ok(()),
        }
    }

    async fn answer<T>(&self, key: &str, answer: T) -> Result<T, LedgerError> {
        let trouble = *self.trouble.lock().unwrap();
        match trouble {
            Some(Trouble::Silent) => Err(away(key)),
            Some(Trouble::HangsAfter(part)) if key.contains(part) => std::future::pending().await,
            Some(Trouble::Away | Trouble::AwayAt(_) | Trouble::HangsAfter(_)) | None => Ok(answer),
        }
    }

    /// The log's objects.
    pub fn files(&self, prefix: &str, chain: &str) -> Vec<File> {
        let folder = folder(prefix, chain);
        let objects = self.objects.lock().unwrap();
        let of = |(key, bytes): (&String, &Bytes)| Some(File { name: key.strip_prefix(&folder)?.to_owned(), bytes: bytes.to_vec() });
        objects.iter().filter_map(of).collect()
    }
}

impl Objects for FakeStore {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, LedgerError> {
        self.is_away(key)?;
        Ok(self.objects.lock().unwrap().get(key).cloned())
    }

    async fn put_once(&self, key: &str, bytes: Bytes) -> Result<PutOnce, LedgerError> {
        self.is_away(key)?;
        let found = self.objects.lock().unwrap().get(key).cloned();
        let answer = match found {
            Some(found) if found == bytes => PutOnce::Same,
            Some(found) => PutOnce::Different { found },
            None => {
                self.objects.lock().unwrap().insert(key.to_owned(), bytes);
                PutOnce::Written
            }
        };
        self.answer(key, answer).await
    }

    async fn overwrite(&self, key: &str, bytes: Bytes) -> Result<(), LedgerError> {
        self.is_away(key)?;
        self.objects.lock().unwrap().insert(key.to_owned(), bytes);
        self.answer(key, ()).await
    }

    async fn keys(&self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, LedgerError> {
        self.is_away(prefix)?;
        let is_wanted = |key: &&String| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after);
        Ok(self.objects.lock().unwrap().keys().filter(is_wanted).cloned().collect())
    }
}

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

#[test]
fn before_the_log_was_read_each_process_has_operations_of_its_own() {
    let [one, other] = [Log::new(place("a")), Log::new(place("a"))].map(|log| change(&log, "events", 2).operation);
    assert_ne!(one, other);
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

fn looked_at(store: &FakeStore, log: &Log) -> Verified {
    verify(store.files(PREFIX, CHAIN), Some(CHAIN), Some(head(log)))
}

fn kinds(store: &FakeStore) -> Vec<String> {
    let kind = |file: File| serde_json::from_slice::<serde_json::Value>(&file.bytes).unwrap()["event"]["kind"].as_str().unwrap().to_owned();
    store.files(PREFIX, CHAIN).into_iter().map(kind).collect()
}

#[derive(Clone, Debug)]
enum Tampering {
    Edit { file: usize, byte: usize, with: u8 },
    CutBeginning(usize),
    CutEnd(usize),
    Drop(usize),
    Swap(usize, usize),
    Fork { file: usize, writer: String },
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let any = || any::<prop::sample::Index>().prop_map(|i| i.index(1000));
    prop_oneof![
        (any(), any(), 32..127u8).prop_map(|(file, byte, with)| Tampering::Edit { file, byte, with }),
        (1..4usize).prop_map(Tampering::CutBeginning),
        (1..4usize).prop_map(Tampering::CutEnd),
        any().prop_map(Tampering::Drop),
        (any(), any()).prop_map(|(a, b)| Tampering::Swap(a, b)),
        (any(), "[b-z]{1,3}").prop_map(|(file, writer)| Tampering::Fork { file, writer }),
    ]
}

/// `false`: nothing was changed.
fn tamper(files: &mut Vec<File>, tampering: Tampering) -> bool {
    let count = files.len();
    match tampering {
        Tampering::Edit { file, byte, with } => {
            let bytes = &mut files[file % count].bytes;
            let at = byte % bytes.len();
            return std::mem::replace(&mut bytes[at], with) != with;
        }
        Tampering::CutBeginning(some) => drop(files.drain(..some)),
        Tampering::CutEnd(some) => files.truncate(count - some),
        Tampering::Drop(file) => drop(files.remove(file % count)),
        Tampering::Swap(a, b) => {
            let (a, b) = (a % count, b % count);
            let bytes = files[a].bytes.clone();
            files[a].bytes = std::mem::replace(&mut files[b].bytes, bytes);
            return a != b;
        }
        Tampering::Fork { file, writer } => {
            let File { name, bytes } = files[file % count].clone();
            let text = String::from_utf8(bytes).unwrap().replace("\"writer\":\"a\"", &format!("\"writer\":\"{writer}\""));
            files.push(File { name: format!("0{name}"), bytes: text.into_bytes() });
        }
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_edited_cut_moved_or_forked_is_found(rounds in 2..5usize, tampering in tampering()) {
        let store = FakeStore::default();
        let log = written(&store, rounds);
        let mut files = store.files(PREFIX, CHAIN);
        let whole = verify(files.clone(), Some(CHAIN), Some(head(&log)));
        prop_assert_eq!((whole.problems, whole.entries), (vec![], 1 + 3 * rounds));
        if tamper(&mut files, tampering) {
            let found = verify(files, Some(CHAIN), Some(head(&log)));
            prop_assert!(!found.problems.is_empty());
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    let store = FakeStore::default();
    let log = written(&store, 2);
    let files = store.files(PREFIX, CHAIN);
    let said = |files: Vec<File>| -> Vec<String> {
        verify(files, Some(CHAIN), Some(head(&log))).problems.iter().map(ToString::to_string).collect()
    };
    assert!(said(files[1..].to_vec())[0].contains("begins with entry 2"));
    assert!(said(files[..5].to_vec())[0].contains("ends with entry 5, and entry 7 was written"));
    let holed = [&files[..2], &files[4..]].concat();
    assert!(said(holed)[0].contains("entries 3 to 4 are missing"));
    let mut edited = files.clone();
    edited[4].bytes = String::from_utf8(edited[4].bytes.clone()).unwrap().replace("topic-1", "topic-9").into_bytes();
    assert!(said(edited).iter().any(|p| p.contains("entry 5 was edited")), "its digest is not what entry 6 names");
    let mut stray = files.clone();
    stray.push(File { name: "notes.txt".into(), bytes: b"x".to_vec() });
    assert!(said(stray)[0].contains("notes.txt is no entry"));
    assert_eq!(said(vec![]), ["there is no entry"]);
    // Without an anchor a cut end looks like an end.
    assert_eq!(verify(files[..4].to_vec(), None, None).problems, vec![]);
    // A log that went on since the anchor was written is whole.
    let anchor = Head { sequence: 3, digest: Sha256Digest::of(&files[2].bytes) };
    assert_eq!(verify(files.clone(), Some(CHAIN), Some(anchor)).problems, vec![]);
    assert!(matches!(verify(files, Some("other"), None).problems[0], Problem::OtherChain { .. }));
}

#[test]
fn a_lost_answer_writes_nothing_twice() {
    let store = FakeStore::default();
    let mut log = began(&store, "a");
    let raised = change(&log, "topic", 7);
    log.push(at(1), Event::Raised { changes: vec![raised] });
    for trouble in [Trouble::Away, Trouble::Silent, Trouble::Silent] {
        store.trouble(Some(trouble));
        assert!(block_on(log.flush(&store)).is_err());
        assert!(!log.may_intend() && log.waiting_changes() == 1);
    }
    store.trouble(None);
    block_on(log.flush(&store)).unwrap();
    assert!(log.may_intend() && log.waiting_changes() == 0);
    assert_eq!(kinds(&store), ["Leads", "Raised"]);
    assert_eq!(looked_at(&store, &log).problems, vec![]);
}

#[test]
fn two_leaders_write_one_chain_and_only_the_later_one_lowers() {
    let store = FakeStore::default();
    let (mut old, mut new) = (began(&store, "a"), open(&store, "b"));
    // Both have seen the same, and raise the same.
    let both = change(&old, "topic", 7);
    assert_eq!(both.operation, change(&old, "topic", 7).operation);
    old.push(at(1), Event::Raised { changes: vec![both.clone()] });
    block_on(old.flush(&store)).unwrap();
    new.push(at(2), Event::Raised { changes: vec![both] });
    block_on(new.flush(&store)).unwrap();
    assert_eq!(kinds(&store), ["Leads", "Raised", "Leads"], "the raise once");
    let lowered = change(&old, "topic", 1);
    assert!(!block_on(old.intend(&store, at(3), vec![lowered.clone()])).unwrap());
    assert!(!block_on(old.intend(&store, at(3), vec![lowered])).unwrap(), "it leads no more");
    let lowered = change(&new, "topic", 1);
    assert!(block_on(new.intend(&store, at(3), vec![lowered])).unwrap());
    // What the old one has raised is recorded all the same.
    let raised = change(&old, "other", 7);
    old.push(at(4), Event::Raised { changes: vec![raised] });
    block_on(old.flush(&store)).unwrap();
    assert_eq!(kinds(&store)[3..], ["LowerIntent", "Raised"]);
    assert_eq!(looked_at(&store, &old).problems, vec![]);
}

#[test]
fn an_intent_without_an_outcome_is_found_by_the_next_leader() {
    let store = FakeStore::default();
    let mut old = began(&store, "a");
    let lowered = change(&old, "topic", 1);
    assert!(block_on(old.intend(&store, at(10), vec![lowered.clone()])).unwrap());
    assert_eq!(looked_at(&store, &old).open.len(), 1);
    let mut new = began(&store, "b");
    assert!(!new.may_intend());
    assert_eq!(new.abandoned(at(39)), vec![], "the old leader may still be at it");
    assert_eq!(new.abandoned(at(40)), vec![lowered.clone()]);
    // Both say what became of it; once is enough.
    let outcome = |inferred| Outcome { operation: lowered.operation, became: Became::Done, message: String::new(), inferred };
    for (log, inferred) in [(&mut old, false), (&mut new, true)] {
        log.push(at(41), Event::LowerOutcome { outcomes: vec![outcome(inferred)] });
        block_on(log.flush(&store)).unwrap();
    }
    assert!(new.may_intend());
    let found = looked_at(&store, &new);
    assert_eq!((found.problems, found.open.len()), (vec![], 0));
    assert_eq!(kinds(&store), ["Leads", "LowerIntent", "Leads", "LowerOutcome"]);
}

fn noted(raised: &Changed) -> Noted {
    Noted { at: at(1), changed: raised.clone() }
}

fn note(store: &FakeStore, log: &mut Log, raised: &Changed) {
    let raising = log.raising([&noted(raised)]);
    assert!(block_on(Log::note_raising(log.place(), store, &raising)));
    log.noted(&raising);
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

#[test]
fn a_raise_that_is_in_the_log_is_left_to_nobody_however_far_back_it_is() {
    // The last of them has more behind it than is read back, and nobody could empty the note.
    for steps in [0, TAIL_MAX / 2, TAIL_MAX, READ_BACK_MAX] {
        let store = FakeStore::default();
        let mut log = began(&store, "a");
        let raised = change(&log, "topic", 7);
        note(&store, &mut log, &raised);
        log.push(at(1), Event::Raised { changes: vec![raised] });
        block_on(log.flush(&store)).unwrap();
        step_down(&store, &mut log, steps);
        assert_eq!(open(&store, "b").take_unsettled(), [], "behind {steps} steps");
    }
}

#[test]
fn a_raise_that_may_have_been_done_stays_noted_however_far_the_log_goes_on() {
    let store = FakeStore::default();
    let mut log = began(&store, "a");
    let raised = change(&log, "topic", 7);
    note(&store, &mut log, &raised);
    step_down(&store, &mut log, TAIL_MAX);
    assert_eq!(open(&store, "b").take_unsettled(), [noted(&raised)]);
    for _ in 0..READ_BACK_MAX {
        step_down(&store, &mut log, 1);
        block_on(log.renote(&store, &[noted(&raised)]));
    }
    assert_eq!(open(&store, "b").take_unsettled(), [noted(&raised)]);
}

#[test]
fn the_note_is_emptied_once_all_of_it_is_in_the_log() {
    let store = FakeStore::default();
    let mut log = began(&store, "a");
    let raised = change(&log, "topic", 7);
    note(&store, &mut log, &raised);
    let says = || store.objects.lock().unwrap()[&format!("{}raising.json", kept_folder(PREFIX, CHAIN))].clone();
    let all = says();
    block_on(log.renote(&store, &[noted(&raised)]));
    assert_eq!(says(), all, "nobody knows whether it was done");
    log.push(at(1), Event::Raised { changes: vec![raised] });
    block_on(log.renote(&store, &[]));
    assert_eq!(says(), all, "it waits");
    block_on(log.flush(&store)).unwrap();
    store.trouble(Some(Trouble::Away));
    block_on(log.renote(&store, &[]));
    assert_eq!(says(), all);
    store.trouble(None);
    block_on(log.renote(&store, &[]));
    assert_eq!(says(), r#"{"after":2,"changes":[]}"#.as_bytes(), "and is tried again");
}

#[test]
fn raises_that_wait_stay_noted_beside_later_ones() {
    let store = FakeStore::default();
    let mut log = began(&store, "a");
    // The note can be written; entries cannot.
    store.trouble(Some(Trouble::AwayAt("0000000")));
    for topic in ["first", "second"] {
        let raised = change(&log, topic, 7);
        note(&store, &mut log, &raised);
        log.push(at(1), Event::Raised { changes: vec![raised] });
        assert!(block_on(log.flush(&store)).is_err());
    }
    store.trouble(None);
    let left: Vec<String> = open(&store, "b").take_unsettled().into_iter().map(|noted| noted.changed.topic).collect();
    assert_eq!(left, ["second", "first"]);
}

#[test]
fn what_another_has_written_since_is_noted_no_more() {
    let store = FakeStore::default();
    let (mut old, mut new) = (began(&store, "a"), open(&store, "b"));
    let raised = change(&old, "topic", 7);
    old.push(at(1), Event::Raised { changes: vec![raised.clone()] });
    block_on(old.flush(&store)).unwrap();
    block_on(new.flush(&store)).unwrap();
    note(&store, &mut new, &raised);
    // By now nobody reads back to where it is.
    step_down(&store, &mut new, TAIL_MAX);
    assert_eq!(open(&store, "c").take_unsettled(), []);
}

#[test]
fn very_much_is_written_in_several_goes() {
    let store = FakeStore::default();
    let mut log = began(&store, "a");
    for n in 0..=FLUSHED_MAX {
        let raised = change(&log, &format!("topic-{n}"), 7);
        log.push(at(1), Event::Raised { changes: vec![raised] });
    }
    block_on(log.flush(&store)).unwrap();
    assert_eq!((kinds(&store).len(), log.waiting_changes(), log.may_intend()), (1 + FLUSHED_MAX, 1, false));
    block_on(log.flush(&store)).unwrap();
    assert_eq!((kinds(&store).len(), log.waiting_changes(), log.may_intend()), (2 + FLUSHED_MAX, 0, true));
    assert_eq!(looked_at(&store, &log).problems, vec![]);
}

#[test]
fn a_raise_that_was_not_recorded_is_left_to_the_next_leader() {
    let store = FakeStore::default();
    let mut log = began(&store, "a");
    let raised = change(&log, "topic", 7);
    note(&store, &mut log, &raised);
    assert_eq!(open(&store, "b").take_unsettled(), [noted(&raised)]);
    log.push(at(1), Event::Raised { changes: vec![raised] });
    block_on(log.flush(&store)).unwrap();
    assert_eq!(open(&store, "b").take_unsettled(), []);
}

#[test]
fn a_log_that_was_cut_or_edited_is_not_written_on() {
    let store = FakeStore::default();
    let log = written(&store, 2);
    let reopened = || block_on(Log::new(place("b")).open(&store, log.anchor().as_ref(), leads()));
    assert!(reopened().is_ok());
    let last = folder(PREFIX, CHAIN) + "000000000007.json";
    let bytes = store.objects.lock().unwrap().remove(&last).unwrap();
    assert!(matches!(reopened(), Err(LogError::Cut { newest: 7, .. })));
    let edited = String::from_utf8(bytes.to_vec()).unwrap().replace("Done", "NotDone");
    store.objects.lock().unwrap().insert(last, edited.into());
    assert!(matches!(reopened(), Err(LogError::Edited { .. })));
}

#[test]
fn what_waits_for_a_store_that_is_away_is_bounded_and_counted() {
    let store = FakeStore::default();
    let mut log = began(&store, "a");
    for round in 0..12 {
        let changes = (0..1000).map(|n| change(&log, &format!("t{round}-{n}"), 7)).collect();
        log.push(at(round) + SignedDuration::ZERO, Event::Raised { changes });
    }
    assert_eq!(log.waiting_changes(), 10_000);
    block_on(log.flush(&store)).unwrap();
    block_on(log.flush(&store)).unwrap();
    assert_eq!(kinds(&store).last().map(String::as_str), Some("Omitted"));
    assert_eq!(looked_at(&store, &log).problems, vec![]);
}
