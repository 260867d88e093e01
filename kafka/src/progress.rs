//! Reading a progress partition: the newest committed record of each key.
//!
//! Only to be believed for keys whose writers have been fenced before: initialising a transactional id ends whatever an
//! earlier producer of it left open, so nothing of that id can be committed behind the end that is read here.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use crate::{
    config::KafkaConfig,
    range::{Isolation, Range, RangeError, Reader},
};

/// The one partition of a progress topic.
pub const PARTITION: i32 = 0;

/// A progress partition, read from its beginning on, as far as it was asked for.
pub(crate) struct ProgressLog {
    ends: Arc<Reader>,
    reader: Reader,
    /// Where to go on; `None`: at the beginning.
    next: Option<i64>,
    found: BTreeMap<String, Vec<u8>>,
}

impl ProgressLog {
    /// `ends` reads the same topic uncommitted.
    pub fn new(config: &KafkaConfig, topic: &str, ends: Arc<Reader>) -> Result<Self, RangeError> {
        Ok(Self { ends, reader: Reader::new(config, topic, Isolation::Committed)?, next: None, found: BTreeMap::new() })
    }

    /// Reads up to the log's end as it is now. The end that counts is the log's own: a `read_committed` end would lie
    /// before a transaction that is being committed.
    pub fn catch_up(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), RangeError> {
        let (_, end) = self.ends.bounds(PARTITION)?;
        let first = match self.next {
            Some(next) => next,
            None => self.reader.bounds(PARTITION)?.0,
        };
        let found = &mut self.found;
        let _: Option<()> = self.reader.read(&[Range { partition: PARTITION, first, end }], |record| {
            if let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()).filter(|key| wanted(key)) {
                match record.value() {
                    Some(value) => found.insert(key.to_owned(), value.to_vec()),
                    None => found.remove(key),
                };
            }
            ControlFlow::Continue(())
        })?;
        self.next = Some(end);
        Ok(())
    }

    /// The last committed value of each key that was wanted. A key whose last record is a tombstone is absent.
    pub fn found(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.found
    }

    /// The end up to which everything was read.
    pub fn end(&self) -> i64 {
        self.next.unwrap_or(0)
    }
}
