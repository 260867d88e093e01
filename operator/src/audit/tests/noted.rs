//! What is noted of raises that may not be in the log yet, for whoever leads next.

use futures::executor::block_on;

use super::{CHAIN, FakeStore, PREFIX, Trouble, at, began, change, open, step_down};
use crate::audit::{
    entry::{Changed, Event, kept_folder},
    log::{Log, Noted, READ_BACK_MAX, TAIL_MAX},
};

fn noted(raised: &Changed) -> Noted {
    Noted { at: at(1), changed: raised.clone() }
}

fn note(store: &FakeStore, log: &mut Log, raised: &Changed) {
    let raising = log.raising([&noted(raised)]);
    assert!(block_on(Log::note_raising(log.place(), store, &raising)));
    log.noted(&raising);
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
