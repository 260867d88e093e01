//! Sets of event ids that may be larger than memory: short ids in ascending order, one behind the other, in a file.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use weir_crds::contract::digest::{ContentDigest, ContentHasher, Sha256Digest};

use crate::scratch::{Scratch, ScratchFile};

/// Of an event id, the first half of its SHA-256: no two ids meet by chance.
pub type ShortId = [u8; SIZE];

const SIZE: usize = 16;
/// Ids that lie between two of those that are remembered: what one look reads.
const BLOCK: usize = 256;

pub fn short(event_id: &[u8]) -> ShortId {
    let mut half = [0; SIZE];
    half.copy_from_slice(&Sha256Digest::of(event_id).as_bytes()[..SIZE]);
    half
}

/// Sorts ids: each first goes into the file of its first byte, and these are small enough to be sorted in memory.
pub struct IdSorter {
    scratch: Scratch,
    shards: Vec<Option<BufWriter<ScratchFile>>>,
}

/// What a sorter has made.
pub struct SortedIds {
    pub file: ScratchFile,
    pub ids: u64,
    pub digest: ContentDigest,
}

impl IdSorter {
    pub fn new(scratch: &Scratch) -> Self {
        Self { scratch: scratch.clone(), shards: (0..=u8::MAX).map(|_| None).collect() }
    }

    pub fn push(&mut self, id: ShortId) -> io::Result<()> {
        let shard = &mut self.shards[usize::from(id[0])];
        let writer = match shard {
            Some(writer) => writer,
            None => shard.insert(BufWriter::new(self.scratch.file()?)),
        };
        writer.write_all(&id)
    }

    /// Each id once, in ascending order.
    pub fn finish(self) -> io::Result<SortedIds> {
        let (mut out, mut ids, mut digest) = (BufWriter::new(self.scratch.file()?), 0, ContentHasher::default());
        for shard in self.shards.into_iter().flatten() {
            let shard = shard.into_inner().map_err(io::IntoInnerError::into_error)?;
            let mut bytes = Vec::new();
            shard.reopen()?.read_to_end(&mut bytes)?;
            drop(shard);
            let (sorted, _) = bytes.as_chunks_mut::<SIZE>();
            sorted.sort_unstable();
            let mut last = None;
            for id in sorted.iter().filter(|id| last.replace(**id) != Some(**id)) {
                digest.update(id);
                out.write_all(id)?;
                ids += 1;
            }
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(SortedIds { file, ids, digest: digest.finish() })
    }
}

/// A sorted file, to be asked. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ids(Option<Arc<Opened>>);

#[derive(Debug)]
struct Opened {
    file: File,
    ids: usize,
    /// The first id of each block.
    firsts: Vec<ShortId>,
    _scratch: ScratchFile,
}

impl Ids {
    /// Goes through a file once, and says what its digest is, of the kind of `like`.
    pub fn open(scratch: ScratchFile, like: &ContentDigest) -> io::Result<(Self, ContentDigest)> {
        let (mut reader, mut digest) = (BufReader::new(scratch.reopen()?), like.hasher());
        let (mut firsts, mut ids, mut id) = (Vec::new(), 0, [0; SIZE]);
        while !reader.fill_buf()?.is_empty() {
            reader.read_exact(&mut id)?;
            digest.update(&id);
            if ids % BLOCK == 0 {
                firsts.push(id);
            }
            ids += 1;
        }
        let opened = Opened { file: scratch.reopen()?, ids, firsts, _scratch: scratch };
        Ok((Self(Some(Arc::new(opened))), digest.finish()))
    }

    pub fn contains(&self, id: &ShortId) -> io::Result<bool> {
        let Some(opened) = &self.0 else { return Ok(false) };
        let Some(block) = opened.firsts.partition_point(|first| first <= id).checked_sub(1) else { return Ok(false) };
        let mut bytes = [0; BLOCK * SIZE];
        let read = &mut bytes[..SIZE * BLOCK.min(opened.ids - block * BLOCK)];
        opened.file.read_exact_at(read, (block * BLOCK * SIZE) as u64)?;
        let (found, _) = read.as_chunks::<SIZE>();
        Ok(found.binary_search(id).is_ok())
    }

    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|opened| opened.ids == 0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn what_was_pushed_is_found_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path(), None).unwrap();
        for count in [0_u32, 1, 255, 256, 257, 10_000] {
            let id = |n: u32| short(&n.to_be_bytes());
            let mut sorter = IdSorter::new(&scratch);
            for n in (0..count).chain(0..count / 2) {
                sorter.push(id(n)).unwrap();
            }
            let sorted = sorter.finish().unwrap();
            assert_eq!(sorted.ids, u64::from(count));
            let (ids, digest) = Ids::open(sorted.file, &sorted.digest).unwrap();
            assert_eq!((digest, ids.is_empty()), (sorted.digest, count == 0));
            assert!((0..count).all(|n| ids.contains(&id(n)).unwrap()), "{count}");
            assert!((count..count + 1000).all(|n| !ids.contains(&id(n)).unwrap()), "{count}");
            assert!(!ids.contains(&[0; SIZE]).unwrap() && !ids.contains(&[u8::MAX; SIZE]).unwrap());
        }
        assert!(!Ids::default().contains(&[0; SIZE]).unwrap());
    }

    #[test]
    fn a_file_that_is_cut_is_no_set() {
        let parent = tempfile::tempdir().unwrap();
        let mut file = Scratch::new(parent.path(), None).unwrap().file().unwrap();
        file.write_all(&[7; SIZE + 1]).unwrap();
        assert!(Ids::open(file, &ContentDigest::of(b"")).is_err());
    }
}
