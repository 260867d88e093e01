//! Whether somebody's change of a topic may pass, for admission, which asks before it is made.
//!
//! Old is judged against new: only what lowers the effective retention is looked at, so that a topic that is below its
//! floor already can be changed otherwise, and raised. The reconciler does not ask: it meets what changes left behind, and
//! [`crate::History::assess`] judges that by the floor alone. One table of edits is put to both.

use std::collections::BTreeMap;

use crate::{
    Retention,
    config::{
        CLEANUP_POLICY, ConfigError, Keys, LOCAL_RETENTION_BYTES, LOCAL_RETENTION_MS, Overrides, REMOTE_DELETE_ON_DISABLE, REMOTE_STORAGE,
        RETENTION_BYTES, RETENTION_MS,
    },
    lag::{Effective, Limit, effective},
    policy::{Mode, Protect},
    text,
};

/// What of a topic a change is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub topic: String,
    /// With exceptions. `None`: it is not known, and nothing may be lowered.
    pub floor: Option<Retention>,
    pub mode: Mode,
    pub protect: Protect,
    /// What the topic has where it sets nothing, by key.
    pub inherited: BTreeMap<String, String>,
    /// Of the partition that grows fastest; `None`: not known.
    pub bytes_per_ms: Option<f64>,
    /// Why the floor is what it is, as [`crate::Assessment::why`] says it.
    pub why: String,
    /// Who owns what depends on it, as `data-lake (#data-lake)`.
    pub owners: Vec<String>,
    /// Who reads the topic, as `lake-sink (raw.app_events)`.
    pub consumers: Vec<String>,
}

/// A change of what a topic sets itself.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'a> {
    /// Where the keys stand, for messages: `spec.config`.
    pub path: &'a str,
    pub old: &'a Overrides,
    pub new: &'a Overrides,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    PassWithWarning { message: String },
    Refuse { message: String },
}

/// The keys that a judgement rests on.
pub const GUARDED: [&str; 7] =
    [RETENTION_MS, RETENTION_BYTES, CLEANUP_POLICY, REMOTE_STORAGE, REMOTE_DELETE_ON_DISABLE, LOCAL_RETENTION_MS, LOCAL_RETENTION_BYTES];

const BREAK_GLASS: &str = "To go below it for a while, create a RetentionException.";

/// Judges a change of a topic's configuration.
pub fn judge(edit: &Edit<'_>, standing: &Standing) -> Verdict {
    let old = Keys::declared(edit.old, &standing.inherited).map(|keys| seen(&keys, standing));
    let new = match Keys::declared(edit.new, &standing.inherited) {
        Ok(keys) => seen(&keys, standing),
        // It was not understood before either, and the change is about something else.
        Err(_) if GUARDED.iter().all(|key| edit.old.get(*key) == edit.new.get(*key)) => return Verdict::Pass,
        Err(e) => return unreadable(edit, standing, &e),
    };
    let lowered = match &old {
        Ok(old) => lowers(old, &new, standing),
        // From a value that nobody understands to one that is understood: by the floor alone.
        Err(_) => Some(Lowered { key: blame(None, &new, standing), left: new }),
    };
    let Some(lowered) = lowered else { return Verdict::Pass };
    let said = said(edit, &lowered, standing);
    let Some(floor) = standing.floor else {
        let message = format!(
            "{said} lowers the retention of topic {}, whose floor is not known now ({}), and so nothing may be lowered; {}. {BREAK_GLASS}",
            standing.topic,
            standing.why,
            owner(standing)
        );
        return by_mode(standing.mode, message);
    };
    let may_be = match shortest(&lowered.left, standing) {
        Some(kept) if kept >= floor => return warn(&said, floor, standing),
        Some(_) => "is",
        None => "may be",
    };
    let (floor, topic, why) = (text::retention(floor), &standing.topic, &standing.why);
    by_mode(
        standing.mode,
        format!("{said} {may_be} below the floor of {floor} of topic {topic}: {why}; {}. {BREAK_GLASS}", owner(standing)),
    )
}

/// Judges the deletion of a topic.
pub fn judge_deletion(standing: &Standing) -> Verdict {
    if !standing.protect.deletion {
        return Verdict::Pass;
    }
    let message = format!(
        "topic {} is protected from deletion, which would delete every record at once: {}; {}. To delete it, take it out of its \
         TopicRetentionPolicy, or set protect.deletion: false there.",
        standing.topic,
        standing.why,
        owner(standing)
    );
    by_mode(standing.mode, message)
}

/// The keys as far as the policies guard them.
fn seen(keys: &Keys, standing: &Standing) -> Keys {
    if standing.protect.retention_bytes { *keys } else { Keys { retention_bytes: None, local_bytes: None, ..*keys } }
}

/// What is kept at least; `None`: not known.
fn shortest(keys: &Keys, standing: &Standing) -> Option<Retention> {
    effective(keys, standing.bytes_per_ms).known()
}

/// The key that lowers the effective retention, and the keys as they are in effect then.
struct Lowered {
    key: &'static str,
    left: Keys,
}

fn lowers(old: &Keys, new: &Keys, standing: &Standing) -> Option<Lowered> {
    if old.tiered && !new.tiered && new.delete_on_disable && new.cleanup.delete {
        // What lies in remote storage goes at once, and what is local stays.
        let left =
            Keys { retention_ms: old.local_ms.min(new.retention_ms), retention_bytes: least(old.local_bytes, new.retention_bytes), ..*new };
        if left.retention_ms < old.retention_ms || less(left.retention_bytes, old.retention_bytes) {
            return Some(Lowered { key: REMOTE_STORAGE, left });
        }
    }
    if !new.cleanup.delete || !(old.cleanup.delete || standing.protect.cleanup_policy) {
        return None;
    }
    let lower = match (shortest(old, standing), shortest(new, standing)) {
        (Some(before), Some(after)) => after < before,
        // Without a rate only the limits themselves can be compared.
        (None, _) | (_, None) => {
            !old.cleanup.delete || new.retention_ms < old.retention_ms || less(new.retention_bytes, old.retention_bytes)
        }
    };
    lower.then(|| Lowered { key: blame(Some(old), new, standing), left: *new })
}

fn blame(old: Option<&Keys>, new: &Keys, standing: &Standing) -> &'static str {
    let size_bites = match effective(new, standing.bytes_per_ms) {
        Effective::Known { by, .. } => by == Limit::Size,
        Effective::Unknown(_) => old.is_none_or(|old| new.retention_ms >= old.retention_ms),
    };
    match old {
        Some(old) if !old.cleanup.delete && new.cleanup.delete => CLEANUP_POLICY,
        _ if size_bites => RETENTION_BYTES,
        _ => RETENTION_MS,
    }
}

/// Of two limits in bytes, `None` being without limit.
fn less(a: Option<i64>, b: Option<i64>) -> bool {
    a.unwrap_or(i64::MAX) < b.unwrap_or(i64::MAX)
}

fn least(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    if less(a, b) { a } else { b }
}

/// The change in words, as the subject of a sentence.
fn said(edit: &Edit<'_>, Lowered { key, left }: &Lowered, standing: &Standing) -> String {
    let place = format!("{}.\"{key}\"", edit.path);
    let value = |inherited: String| match edit.new.get(*key) {
        Some(own) => format!("{place}: {own}"),
        None => format!("{place} is left out, and the broker's default of {inherited}"),
    };
    match *key {
        RETENTION_MS if edit.new.contains_key(RETENTION_MS) => format!("{place}: {}", text::retention(left.retention_ms)),
        RETENTION_MS => value(text::retention(left.retention_ms)),
        RETENTION_BYTES => {
            let value = value(left.retention_bytes.unwrap_or(-1).to_string());
            match shortest(left, standing).and_then(Retention::millis) {
                Some(ms) => format!("{value} fills in {}, which", text::rough(ms)),
                None => format!("{value}, whose time to fill is not known,"),
            }
        }
        CLEANUP_POLICY => {
            let after = shortest(left, standing).map_or_else(|| "a time that is not known".to_owned(), text::retention);
            format!("{} deletes records after {after}, which", value("delete".to_owned()))
        }
        _ => {
            let (ms, bytes) = (text::retention(left.retention_ms), left.retention_bytes.unwrap_or(-1));
            format!(
                "{} deletes what lies in remote storage, and leaves {LOCAL_RETENTION_MS} {ms} and {LOCAL_RETENTION_BYTES} {bytes}, which",
                value("false".to_owned())
            )
        }
    }
}

fn warn(said: &str, floor: Retention, standing: &Standing) -> Verdict {
    if standing.mode == Mode::Audit {
        return Verdict::Pass;
    }
    let readers = if standing.consumers.is_empty() { "nobody that is known".to_owned() } else { standing.consumers.join(", ") };
    let (topic, floor, owner) = (&standing.topic, text::retention(floor), owner(standing));
    Verdict::PassWithWarning {
        message: format!(
            "{said} lowers the retention of topic {topic}, and stays above its floor of {floor}; it is read by {readers}; {owner}"
        ),
    }
}

fn unreadable(edit: &Edit<'_>, standing: &Standing, error: &ConfigError) -> Verdict {
    let message = match error {
        ConfigError::Invalid { key, value, expected } => {
            format!("{}.\"{key}\": {value:?} is nothing that Kafka takes; set {expected}", edit.path)
        }
        ConfigError::NotObserved { key } => {
            format!("{}.\"{key}\" is left out, and weir does not know what topic {} inherits then; set it", edit.path, standing.topic)
        }
    };
    by_mode(standing.mode, message)
}

fn by_mode(mode: Mode, message: String) -> Verdict {
    match mode {
        Mode::Enforce => Verdict::Refuse { message },
        Mode::Warn => Verdict::PassWithWarning { message },
        Mode::Audit => Verdict::Pass,
    }
}

fn owner(standing: &Standing) -> String {
    if standing.owners.is_empty() { "it has no owner".to_owned() } else { format!("owner {}", standing.owners.join(", ")) }
}
