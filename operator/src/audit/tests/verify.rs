//! What is found of a log that somebody has laid hands on.

use proptest::prelude::*;
use weir_crds::contract::digest::Sha256Digest;

use super::{CHAIN, FakeStore, PREFIX, a_log, began, head, step_down, written};
use crate::audit::{
    chain::{File, Head, Problem, parse, verify},
    entry::{Entry, folder},
};

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

/// What is wrong with a log of this head, and with nothing else.
fn problems(files: Vec<File>, head: Head) -> Vec<Problem> {
    verify(files, Some(CHAIN), Some(head)).problems
}

fn name(sequence: u64) -> String {
    format!("{sequence:012}.json")
}

fn digest(files: &[File], sequence: usize) -> Sha256Digest {
    Sha256Digest::of(&files[sequence - 1].bytes)
}

/// The entry in another wording.
fn reworded(file: &File, change: impl FnOnce(&mut Entry)) -> File {
    let mut entry = parse(&file.bytes).unwrap();
    change(&mut entry);
    File { name: name(entry.sequence), bytes: entry.to_bytes() }
}

#[test]
fn two_entries_in_each_others_place_are_both_said_to_be_moved() {
    let (mut files, head) = a_log();
    let third = files[2].bytes.clone();
    files[2].bytes = std::mem::replace(&mut files[3].bytes, third);
    let moved = |sequence, says| Problem::Moved { file: name(sequence), says };
    assert_eq!(problems(files, head), [moved(3, 4), moved(4, 3)]);
}

#[test]
fn two_entries_that_are_renumbered_as_well_break_the_chain_on_both_of_their_sides() {
    let (files, head) = a_log();
    let mut swapped = files.clone();
    swapped[1] = reworded(&files[4], |entry| entry.sequence = 2);
    swapped[4] = reworded(&files[1], |entry| entry.sequence = 5);
    let edited = |sequence: u64, found: &[File], behind| Problem::Edited {
        sequence,
        digest: digest(found, sequence as usize),
        expected: digest(&files, behind),
    };
    let expected = [edited(1, &files, 4), edited(2, &swapped, 2), edited(4, &files, 1), edited(5, &swapped, 5)];
    assert_eq!(problems(swapped, head), expected);
}

#[test]
fn two_entries_of_one_number_are_a_fork_though_neither_was_renamed() {
    let (files, head) = a_log();
    let other = reworded(&files[3], |entry| entry.writer = "b".into());
    let fork = Problem::Fork { sequence: 4, files: vec![name(4), name(4)] };
    let beside = |at: usize| {
        let mut both = files.clone();
        both.insert(at, other.clone());
        problems(both, head)
    };
    // As two copies of the folder laid together; the first of the two is followed.
    assert_eq!(beside(4), std::slice::from_ref(&fork));
    let edited = Problem::Edited { sequence: 4, digest: Sha256Digest::of(&other.bytes), expected: digest(&files, 4) };
    assert_eq!(beside(3), [fork, edited.clone()]);
    let mut replaced = files.clone();
    replaced[3] = other;
    assert_eq!(problems(replaced, head), [edited]);
}

/// A log that somebody went on with from its fourth entry, in place of what was written.
#[test]
fn a_fork_that_took_the_place_of_the_log_is_told_by_the_recorded_head_alone() {
    let (whole, head) = a_log();
    let store = FakeStore::default();
    let kept = whole[..4].iter().map(|file| (folder(PREFIX, CHAIN) + &file.name, file.bytes.clone().into()));
    store.objects.lock().unwrap().extend(kept);
    let mut other = began(&store, "b");
    let shorter = store.files(PREFIX, CHAIN);
    assert_eq!((shorter.len(), problems(shorter, head)), (5, vec![Problem::EndCut { last: 5, anchor: 7 }]));
    step_down(&store, &mut other, 2);
    let longer = store.files(PREFIX, CHAIN);
    assert_eq!((longer.len(), verify(longer.clone(), Some(CHAIN), None).problems), (9, vec![]), "by itself it is whole");
    let differs = Problem::NewestDiffers { sequence: 7, digest: digest(&longer, 7), expected: head.digest };
    assert_eq!(problems(longer, head), [differs]);
}

#[test]
fn a_cut_end_is_told_by_the_recorded_head_however_much_of_it_is_cut() {
    let (files, head) = a_log();
    for last in 1..7 {
        let found = verify(files[..last].to_vec(), Some(CHAIN), Some(head));
        assert_eq!(found.problems, [Problem::EndCut { last: last as u64, anchor: 7 }]);
        let newest = Head { sequence: last as u64, digest: digest(&files, last) };
        assert_eq!((found.entries, found.newest), (last, Some(newest)));
        // Entries 3 and 6 are intents, whose outcomes are cut off right behind them.
        assert_eq!(found.open.len(), usize::from(last % 3 == 0), "{last}");
    }
    assert_eq!(problems(vec![], head), [Problem::Empty]);
    assert_eq!(problems(files, head), []);
}
