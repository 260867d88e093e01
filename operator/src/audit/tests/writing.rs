//! Writing a log: by one or by several, to a store that may be away.

use futures::executor::block_on;
use jiff::SignedDuration;

use super::{CHAIN, FakeStore, PREFIX, Trouble, at, began, change, head, kinds, leads, open, place, written};
use crate::audit::{
    chain::{Verified, verify},
    entry::{Became, Event, Outcome, folder},
    log::{FLUSHED_MAX, Log, LogError},
};

#[test]
fn before_the_log_was_read_each_process_has_operations_of_its_own() {
    let [one, other] = [Log::new(place("a")), Log::new(place("a"))].map(|log| change(&log, "events", 2).operation);
    assert_ne!(one, other);
}

fn looked_at(store: &FakeStore, log: &Log) -> Verified {
    verify(store.files(PREFIX, CHAIN), Some(CHAIN), Some(head(log)))
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
