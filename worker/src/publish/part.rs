//! A staged part as it is read back: the bytes that its manifest names, record by record.

use std::io;

use tokio::runtime::Handle;
use weir_crds::contract::{digest::ContentDigest, manifest::PartRef};

use super::error::PublishError;
use crate::{
    run::{Run, RunError},
    scratch::ScratchFile,
    staged::{Content, MEMORY_BYTES_MAX, PartReader, StagedBatch, StagedRecord},
};

/// A part is read for its digest in pieces of this size.
const DIGEST_BUFFER_BYTES: usize = 256 * 1024;

/// The rows of a part from some row on.
pub struct Rows {
    reader: PartReader,
    batch: Option<(StagedBatch, usize)>,
}

/// The part, which is what its manifest says: in memory if it is small, as it was when it was written.
pub fn fetch(run: &Run, part: &PartRef) -> Result<Content, PublishError> {
    let runtime = Handle::current();
    let (content, found) = if part.bytes <= MEMORY_BYTES_MAX as u64 {
        let bytes = runtime.block_on(run.ledger.get(&part.key)).map_err(RunError::Store)?;
        let bytes = bytes.ok_or_else(|| RunError::Missing { key: part.key.clone() })?;
        let found = part.digest.of_same_kind(&bytes);
        (Content::Memory(bytes), found)
    } else {
        let file = runtime.block_on(download(run, part))?;
        let found = digest_of(&file, &part.digest).map_err(RunError::Scratch)?;
        (Content::File(file), found)
    };
    if found == part.digest {
        Ok(content)
    } else {
        Err(PublishError::Part { key: part.key.clone(), what: format!("its digest is {found} and not {}", part.digest) })
    }
}

/// A part's bytes, whatever they are, in a file.
pub async fn download(run: &Run, part: &PartRef) -> Result<ScratchFile, RunError> {
    let mut file = run.scratch.file().map_err(RunError::Scratch)?;
    file.reserve(part.bytes).map_err(RunError::Scratch)?;
    run.ledger.download(&part.key, file.path()).await?;
    Ok(file)
}

fn digest_of(file: &ScratchFile, like: &ContentDigest) -> io::Result<ContentDigest> {
    let (mut file, mut digest, mut buffer) = (file.reopen()?, like.hasher(), vec![0; DIGEST_BUFFER_BYTES]);
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(digest.finish()),
            read => digest.update(&buffer[..read]),
        }
    }
}

impl Rows {
    pub fn open(part: &Content, skip: u64) -> Result<Self, PublishError> {
        let reader = match part {
            Content::Memory(bytes) => PartReader::open(bytes.clone(), skip)?,
            Content::File(file) => PartReader::open(file.reopen().map_err(RunError::Scratch)?, skip)?,
        };
        Ok(Self { reader, batch: None })
    }

    /// Gives the next record to `take`; `None` at the end of the part.
    pub fn next<T>(&mut self, take: impl FnOnce(&StagedRecord<'_>) -> T) -> Result<Option<T>, PublishError> {
        loop {
            if let Some((batch, next)) = &mut self.batch
                && let Some(record) = batch.record(*next)
            {
                *next += 1;
                return Ok(Some(take(&record)));
            }
            match self.reader.next().transpose()? {
                Some(batch) => self.batch = Some((batch, 0)),
                None => return Ok(None),
            }
        }
    }
}
