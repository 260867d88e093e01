//! What stands in the audit log. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weir_crds::{
    contract::{digest::Sha256Digest, manifest::to_bytes},
    refs::S3Store,
};

pub const FORMAT: u32 = 1;

/// One object of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    pub format: u32,
    pub chain: String,
    /// The first is 1.
    pub sequence: u64,
    /// Of the bytes of the entry before; of the first: zeros.
    pub previous: Sha256Digest,
    /// The replica that wrote it.
    pub writer: String,
    /// When it happened, by that replica's clock.
    pub at: Timestamp,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum Event {
    /// From here on the writer leads: what an earlier one still intends must not be done any more.
    Leads {
        cluster: String,
        uid: String,
    },
    /// These topics were raised.
    Raised {
        changes: Vec<Changed>,
    },
    /// These topics are about to be lowered.
    LowerIntent {
        changes: Vec<Changed>,
    },
    /// What became of intents.
    LowerOutcome {
        outcomes: Vec<Outcome>,
    },
    /// A `RetentionException` is in force from here on.
    ExceptionBegan {
        exception: Exception,
    },
    ExceptionEnded {
        exception: Exception,
    },
    /// So many raises are missing, since the log could not be written for too long.
    Omitted {
        changes: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    pub operation: Sha256Digest,
    pub topic: String,
    /// The broker's id of this very topic.
    pub topic_id: String,
    /// `Raise`, `Restore`, `Extend` or `StepDown`.
    pub cause: String,
    pub keys: Vec<KeyChanged>,
    /// The floor's reason at that time.
    pub why: String,
    /// Nobody saw it done: it was about to be, and then the topic was found so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inferred: bool,
}

/// `None`: the topic inherits the value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyChanged {
    pub key: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The intent's.
    pub operation: Sha256Digest,
    pub became: Became,
    /// Why it was not done, or what was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inferred: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Became {
    Done,
    NotDone,
    /// Somebody else has changed the topic since.
    Overtaken,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exception {
    pub operation: Sha256Digest,
    /// As `namespace/name`.
    pub name: String,
    pub topics: Vec<String>,
    pub floor: String,
    pub until: Timestamp,
    pub reason: String,
    /// As the apiserver knew them; `None`: the webhook was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
}

impl Entry {
    /// The bytes that are put, and whose digest the next entry names.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }
}

impl Event {
    /// The operations that it is about; an outcome is another operation than its intent.
    pub fn operations(&self) -> Vec<Sha256Digest> {
        match self {
            Self::Raised { changes } | Self::LowerIntent { changes } => changes.iter().map(|c| c.operation).collect(),
            Self::LowerOutcome { outcomes } => outcomes.iter().map(|o| outcome_of(o.operation)).collect(),
            Self::ExceptionBegan { exception } | Self::ExceptionEnded { exception } => vec![exception.operation],
            Self::Leads { .. } | Self::Omitted { .. } => Vec::new(),
        }
    }

    /// What of it is not in the log already; `None`: nothing.
    pub fn without(self, known: impl Fn(&Sha256Digest) -> bool) -> Option<Self> {
        let left = match self {
            Self::Raised { mut changes } => {
                changes.retain(|c| !known(&c.operation));
                Self::Raised { changes }
            }
            Self::LowerOutcome { mut outcomes } => {
                outcomes.retain(|o| !known(&outcome_of(o.operation)));
                Self::LowerOutcome { outcomes }
            }
            Self::ExceptionBegan { ref exception } | Self::ExceptionEnded { ref exception } if known(&exception.operation) => return None,
            Self::Leads { .. }
            | Self::LowerIntent { .. }
            | Self::ExceptionBegan { .. }
            | Self::ExceptionEnded { .. }
            | Self::Omitted { .. } => return Some(self),
        };
        (!left.operations().is_empty()).then_some(left)
    }
}

fn outcome_of(operation: Sha256Digest) -> Sha256Digest {
    Sha256Digest::of(format!("outcome of {operation}").as_bytes())
}

/// The id of a change: the same whoever makes it of the same topic behind the same entry, so that two writers name it alike.
pub fn operation(chain: &str, after: u64, topic_id: &str, keys: &[KeyChanged]) -> Sha256Digest {
    Sha256Digest::of(&to_bytes(&(chain, after, topic_id, keys)))
}

/// The id of an exception's beginning or end. One that is taken away and comes back begins and ends several times. `since_seconds`:
/// since when its status said what it did before; `untold`: how many beginnings and ends came after that.
pub fn exception_operation(chain: &str, uid: &str, what: &str, since_seconds: Option<i64>, untold: u32) -> Sha256Digest {
    Sha256Digest::of(&to_bytes(&(chain, uid, what, since_seconds, untold)))
}

/// The name of the chain of a `KafkaCluster` in a store: one of the same name that is made anew begins another, and so does each
/// store, where a chain that began elsewhere would be taken for one that was cut.
pub fn chain_name(cluster: &str, uid: &str, store: &S3Store) -> String {
    let of = format!("{uid}/{}/{}", store.s3.endpoint.as_deref().unwrap_or_default(), store.bucket);
    format!("{cluster}-{}", Sha256Digest::of(of.as_bytes()).short())
}

/// Where an entry lies. Padded, so that names sort as numbers do.
pub fn entry_key(prefix: &str, chain: &str, sequence: u64) -> String {
    format!("{}{sequence:012}.json", folder(prefix, chain))
}

/// Where the entries of a chain lie; with a slash at its end.
pub fn folder(prefix: &str, chain: &str) -> String {
    under(prefix, &format!("{chain}/"))
}

/// Where what weir remembers beside the log lies; with a slash at its end.
pub fn kept_folder(prefix: &str, chain: &str) -> String {
    under(prefix, &format!("kept/{chain}/"))
}

fn under(prefix: &str, rest: &str) -> String {
    if prefix.is_empty() { rest.to_owned() } else { format!("{prefix}/{rest}") }
}

/// The number in an entry's name.
pub fn sequence_of(file: &str) -> Option<u64> {
    let digits = file.strip_suffix(".json")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}
