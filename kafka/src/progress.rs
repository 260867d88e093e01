//! Reading a progress partition: the newest committed record of each key.
//!
//! Only to be called after `init_transactions` of every transactional id whose progress is asked for: that call ends
//! whatever an earlier producer left open, so nothing of those ids can be committed behind the end that is read here.

use std::{collections::BTreeMap, ops::ControlFlow};

use crate::{
    config::KafkaConfig,
    range::{Isolation, Range, RangeError, Reader},
};

/// The one partition of a progress topic.
pub const PARTITION: i32 = 0;

/// The values of the keys that `wanted` asks for, as committed before now. A key whose last record is a tombstone is
/// absent.
pub fn read(config: &KafkaConfig, topic: &str, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>, RangeError> {
    // The end that counts is the log's own: a `read_committed` end would lie before a transaction that is being committed.
    let (_, end) = Reader::new(config, topic, Isolation::Uncommitted)?.bounds(PARTITION)?;
    let reader = Reader::new(config, topic, Isolation::Committed)?;
    let (start, _) = reader.bounds(PARTITION)?;
    let mut found = BTreeMap::new();
    let range = Range { partition: PARTITION, first: start, end };
    let _: Option<()> = reader.read(&[range], |record| {
        if let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()).filter(|key| wanted(key)) {
            match record.value() {
                Some(value) => found.insert(key.to_owned(), value.to_vec()),
                None => found.remove(key),
            };
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
