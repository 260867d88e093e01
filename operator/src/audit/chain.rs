//! Whether a log is whole: no entry edited, cut off, moved or forked, and each change in it once. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use weir_crds::contract::digest::Sha256Digest;

use super::entry::{Entry, Event, FORMAT, sequence_of};

/// What is before the first entry.
pub const BEGINNING: Sha256Digest = Sha256Digest::from_bytes([0; 32]);

/// An entry by its number and digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub sequence: u64,
    pub digest: Sha256Digest,
}

/// A file of the log, under its name in the chain's folder.
#[derive(Clone, Debug)]
pub struct File {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// What was found in a log.
#[derive(Debug, Default)]
pub struct Verified {
    pub chain: Option<String>,
    pub entries: usize,
    /// The newest entry that was found.
    pub newest: Option<Head>,
    pub problems: Vec<Problem>,
    /// Intents without an outcome, as after a crash that no leader has followed yet.
    pub open: Vec<OpenIntent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    pub sequence: u64,
    pub topic: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    Stray { file: String },
    Unreadable { file: String, message: String },
    Format { file: String, found: u32 },
    Moved { file: String, says: u64 },
    OtherChain { sequence: u64, found: String, expected: String },
    Fork { sequence: u64, files: Vec<String> },
    BeginningCut { first: u64 },
    BeginningForged,
    Missing { first: u64, last: u64 },
    Edited { sequence: u64, digest: Sha256Digest, expected: Sha256Digest },
    EndCut { last: u64, anchor: u64 },
    NewestDiffers { sequence: u64, digest: Sha256Digest, expected: Sha256Digest },
    Twice { operation: Sha256Digest, first: u64, second: u64 },
    OutcomeWithoutIntent { sequence: u64, operation: Sha256Digest },
    Empty,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stray { file } => write!(f, "{file} is no entry of a log: entries are named by their numbers, as 000000000001.json"),
            Self::Unreadable { file, message } => write!(f, "{file} is not an entry: it was edited or cut ({message})"),
            Self::Format { file, found } => {
                write!(f, "{file} has format {found}, this program knows {FORMAT}: use the version of weir that wrote it")
            }
            Self::Moved { file, says } => write!(f, "{file} says that it is entry {says}: it was moved or renumbered"),
            Self::OtherChain { sequence, found, expected } => {
                write!(f, "entry {sequence} is of chain {found}, and not of {expected}: it was put here from another log")
            }
            Self::Fork { sequence, files } => write!(f, "there are several entries {sequence}: {}; the log is forked", files.join(", ")),
            Self::BeginningCut { first } => write!(f, "the log begins with entry {first}: what came before was cut off"),
            Self::BeginningForged => f.write_str("entry 1 names an entry before it: what came before was cut off, and the rest renumbered"),
            Self::Missing { first, last } if first == last => write!(f, "entry {first} is missing"),
            Self::Missing { first, last } => write!(f, "entries {first} to {last} are missing"),
            Self::Edited { sequence, digest, expected } => write!(
                f,
                "entry {sequence} has digest {digest}, and entry {} was written behind one with {expected}: entry {sequence} was edited or replaced, \
                 or entry {0} was",
                sequence + 1
            ),
            Self::EndCut { last, anchor } => {
                write!(f, "the log ends with entry {last}, and entry {anchor} was written: the end was cut off")
            }
            Self::NewestDiffers { sequence, digest, expected } => {
                write!(f, "entry {sequence} has digest {digest}, and the cluster's status says {expected}: it was edited or replaced")
            }
            Self::Twice { operation, first, second } => {
                write!(f, "operation {operation} is in entry {first} and again in entry {second}")
            }
            Self::OutcomeWithoutIntent { sequence, operation } => {
                write!(f, "entry {sequence} has the outcome of operation {operation}, which no entry before it intends")
            }
            Self::Empty => f.write_str("there is no entry"),
        }
    }
}

/// An entry that could be read.
struct Read {
    file: String,
    digest: Sha256Digest,
    entry: Entry,
}

/// Looks at everything that a log's folder holds. `anchor`: what the cluster's status says of the newest entry; a log may be
/// longer than that, and without it nobody can tell whether its end was cut off or its last entry edited.
pub fn verify(files: Vec<File>, chain: Option<&str>, anchor: Option<Head>) -> Verified {
    let mut found = Verified::default();
    let mut entries = read(files, &mut found.problems);
    let expected = chain.map(str::to_owned).or_else(|| entries.values().next().map(|r| r[0].entry.chain.clone()));
    for (sequence, candidates) in &mut entries {
        if candidates.len() > 1 {
            let files = candidates.iter().map(|r| r.file.clone()).collect();
            found.problems.push(Problem::Fork { sequence: *sequence, files });
            candidates.truncate(1);
        }
        let entry = &candidates[0].entry;
        if let Some(expected) = expected.as_ref().filter(|chain| **chain != entry.chain) {
            found.problems.push(Problem::OtherChain { sequence: *sequence, found: entry.chain.clone(), expected: expected.clone() });
        }
    }
    let entries: Vec<Read> = entries.into_values().flatten().collect();
    links(&entries, &mut found.problems);
    ends(&entries, anchor, &mut found.problems);
    found.open = operations(&entries, &mut found.problems);
    found.newest = entries.last().map(|r| Head { sequence: r.entry.sequence, digest: r.digest });
    (found.chain, found.entries) = (expected, entries.len());
    found
}

/// By sequence, as the entries themselves say it.
fn read(files: Vec<File>, problems: &mut Vec<Problem>) -> BTreeMap<u64, Vec<Read>> {
    let mut entries: BTreeMap<u64, Vec<Read>> = BTreeMap::new();
    for File { name, bytes } in files {
        let entry = match parse(&bytes) {
            Ok(entry) => entry,
            Err(ParseError::Format(found)) => {
                problems.push(Problem::Format { file: name, found });
                continue;
            }
            Err(ParseError::Decode(error)) => {
                let problem = match sequence_of(&name) {
                    Some(_) => Problem::Unreadable { file: name, message: error.to_string() },
                    None => Problem::Stray { file: name },
                };
                problems.push(problem);
                continue;
            }
        };
        if sequence_of(&name) != Some(entry.sequence) {
            problems.push(Problem::Moved { file: name.clone(), says: entry.sequence });
        }
        entries.entry(entry.sequence).or_default().push(Read { file: name, digest: Sha256Digest::of(&bytes), entry });
    }
    entries
}

#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("it has format {0}, this program knows {FORMAT}: use the version of weir that wrote it")]
    Format(u32),
    #[error("it is not an entry")]
    Decode(#[source] serde_json::Error),
}

/// Reads an entry. One of a later format is never guessed at.
pub fn parse(bytes: &[u8]) -> Result<Entry, ParseError> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(ParseError::Decode)?;
    if head.format != FORMAT {
        return Err(ParseError::Format(head.format));
    }
    serde_json::from_slice(bytes).map_err(ParseError::Decode)
}

/// Each names the one before.
fn links(entries: &[Read], problems: &mut Vec<Problem>) {
    if let Some(first) = entries.first() {
        match first.entry.sequence {
            1 if first.entry.previous != BEGINNING => problems.push(Problem::BeginningForged),
            1 => {}
            first => problems.push(Problem::BeginningCut { first }),
        }
    }
    for pair in entries.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.entry.sequence > before.entry.sequence + 1 {
            problems.push(Problem::Missing { first: before.entry.sequence + 1, last: after.entry.sequence - 1 });
        } else if after.entry.previous != before.digest {
            let (sequence, digest) = (before.entry.sequence, before.digest);
            problems.push(Problem::Edited { sequence, digest, expected: after.entry.previous });
        }
    }
}

fn ends(entries: &[Read], anchor: Option<Head>, problems: &mut Vec<Problem>) {
    let Some(last) = entries.last() else {
        problems.push(Problem::Empty);
        return;
    };
    let Some(Head { sequence, digest }) = anchor else { return };
    match entries.iter().find(|r| r.entry.sequence == sequence) {
        Some(found) if found.digest != digest => {
            problems.push(Problem::NewestDiffers { sequence, digest: found.digest, expected: digest });
        }
        None if last.entry.sequence < sequence => {
            problems.push(Problem::EndCut { last: last.entry.sequence, anchor: sequence });
        }
        // One that is missing in between is missed already.
        Some(_) | None => {}
    }
}

/// Each operation once, and each outcome behind its intent. What is still intended at the end is no problem.
fn operations(entries: &[Read], problems: &mut Vec<Problem>) -> Vec<OpenIntent> {
    let (mut seen, mut intended) = (BTreeMap::new(), BTreeMap::new());
    for Read { entry, .. } in entries {
        let mut within = BTreeSet::new();
        for operation in entry.event.operations() {
            let before = seen.insert(operation, entry.sequence);
            if let Some(first) = before.or_else(|| (!within.insert(operation)).then_some(entry.sequence)) {
                problems.push(Problem::Twice { operation, first, second: entry.sequence });
            }
        }
        match &entry.event {
            Event::LowerIntent { changes } => {
                intended.extend(changes.iter().map(|c| (c.operation, OpenIntent { sequence: entry.sequence, topic: c.topic.clone() })));
            }
            Event::LowerOutcome { outcomes } => {
                for outcome in outcomes {
                    if intended.remove(&outcome.operation).is_none() {
                        problems.push(Problem::OutcomeWithoutIntent { sequence: entry.sequence, operation: outcome.operation });
                    }
                }
            }
            Event::Leads { .. }
            | Event::Raised { .. }
            | Event::ExceptionBegan { .. }
            | Event::ExceptionEnded { .. }
            | Event::Omitted { .. } => {}
        }
    }
    intended.into_values().collect()
}
