//! Claims of targets in the artifact store: taken before a run's first write, released when it is over. What may be taken
//! is decided by [`weir_crds::contract::claims`]; here it is read and swapped.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use weir_crds::{
    contract::{
        FORMAT,
        claims::{ClaimDocument, ClaimTarget, Conflict, EventTypes, by_hour, claims_key},
        manifest::to_bytes,
        names::RunId,
    },
    window::{Interval, Slice},
};

use crate::{Ledger, LedgerError, Swap, Versioned};

/// Documents that are looked at side by side before anything is taken.
const READS_MAX: usize = 16;
/// Each time somebody else has claimed something of the same hour meanwhile: more of them than publish to one topic.
const SWAPS_MAX: u32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("the claims of the target cannot be read or written")]
    Store(#[from] LedgerError),
    #[error("{key} is not a document of claims")]
    Decode {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{key} has format {found}, this program knows {FORMAT}: use the version of weir that wrote it")]
    Format { key: String, found: u32 },
    #[error("{0}")]
    Conflict(Box<Conflict>),
    #[error("{key} was changed by others {SWAPS_MAX} times while it was to be changed")]
    Busy { key: String },
}

/// Where the claims of a target lie.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    pub ledger: &'a Ledger,
    /// The store's prefix.
    pub prefix: &'a str,
    pub target: &'a ClaimTarget,
}

impl Claims<'_> {
    /// Claims the slices for `run`. It can be done again whatever became of an earlier call. Nothing is taken where it is
    /// seen beforehand that something is not to be had; and hours are taken in order, so that of two runs that want the
    /// same ones, the one that gets the first of them gets the others.
    pub async fn take(&self, run: &RunId, slices: &[Slice], types: &EventTypes) -> Result<(), ClaimError> {
        let hours = by_hour(slices);
        let looks = stream::iter(hours.clone()).map(|(hour_us, wanted)| async move {
            let key = claims_key(self.prefix, self.target, hour_us);
            let (_, document) = self.read(&key).await?;
            document.take(run, &wanted, types).map(drop).map_err(conflict)
        });
        looks.buffered(READS_MAX).try_collect::<Vec<()>>().await?;
        for (hour_us, wanted) in &hours {
            self.change(*hour_us, |document| document.take(run, wanted, types).map_err(conflict)).await?;
        }
        Ok(())
    }

    /// Gives back what `run` has claimed of the slices, but for `kept`. Only after nothing of the run can publish any more.
    pub async fn release(&self, run: &RunId, slices: &[Slice], kept: &[Interval]) -> Result<(), ClaimError> {
        for (hour_us, _) in by_hour(slices) {
            self.change(hour_us, |document| Ok(document.release(run, kept))).await?;
        }
        Ok(())
    }

    async fn read(&self, key: &str) -> Result<(Option<Versioned>, ClaimDocument), ClaimError> {
        let Some(found) = self.ledger.get_versioned(key).await? else { return Ok((None, ClaimDocument::default())) };
        let document: ClaimDocument =
            serde_json::from_slice(&found.bytes).map_err(|source| ClaimError::Decode { key: key.to_owned(), source })?;
        if document.format != FORMAT {
            return Err(ClaimError::Format { key: key.to_owned(), found: document.format });
        }
        Ok((Some(found), document))
    }

    /// Replaces the document of an hour by what `change` makes of it, unless that is nothing new.
    async fn change(
        &self,
        hour_us: i64,
        change: impl Fn(&ClaimDocument) -> Result<Option<ClaimDocument>, ClaimError>,
    ) -> Result<(), ClaimError> {
        let key = claims_key(self.prefix, self.target, hour_us);
        for _ in 0..SWAPS_MAX {
            let (read, document) = self.read(&key).await?;
            let Some(next) = change(&document)? else { return Ok(()) };
            // If we die here, the next call finds the document as it was, or as it should be.
            match self.ledger.swap(&key, read.as_ref(), Bytes::from(to_bytes(&next))).await? {
                Swap::Done => return Ok(()),
                Swap::Changed => {}
            }
        }
        Err(ClaimError::Busy { key })
    }
}

fn conflict(conflict: Conflict) -> ClaimError {
    ClaimError::Conflict(Box::new(conflict))
}
