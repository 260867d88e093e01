//! A store in memory, and what may befall it.

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;
use weir_ledger::{Cause, LedgerError, PutOnce};

use crate::audit::{chain::File, entry::folder, objects::Objects};

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
