//! Bytes to blocks of whole lines, or of whole CSV records. Blocks are cut by bytes and lines alone, never by how the bytes
//! happened to arrive, so two attempts see the same blocks.

use std::sync::{Arc, Mutex, PoisonError};

use super::csv::RecordEnds;
use super::reject::RAW_BYTES_MAX;

/// A block ends with the line that reaches this many bytes: large enough to keep a thread busy for milliseconds, small enough
/// that several in flight stay within a small pod.
pub const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// A block ends with this many lines, since empty ones have no bytes.
pub const BLOCK_LINES_MAX: usize = 65_536;
/// Blocks whose memory is kept: one that is filled, and one that waits.
const SPARE_MAX: usize = 2;
/// A longer line makes one invalid row and is skipped as it streams by. It is far beyond what a Kafka record may be, and a
/// row is held some five times at once (line, columns, select's copies).
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whole lines of one object, without their line feeds. A CSV record that spans lines counts as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Ordinal of the object in its chunk.
    pub object: u32,
    /// Number of the first line, from 1.
    pub first_line: u64,
    /// The object's first record, for CSV: its header, which is no line of any block.
    pub header: Option<Arc<[u8]>>,
    bytes: Vec<u8>,
    /// Where each line ends in `bytes`.
    ends: Vec<usize>,
    /// Lines that were too long: index of the line, and how many bytes it had. `bytes` has the head of each.
    too_long: Vec<(usize, u64)>,
}

/// One line of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// More than [`LINE_BYTES_MAX`]: its first bytes, and how many it had.
    TooLong {
        /// At most [`RAW_BYTES_MAX`].
        head: &'a [u8],
        /// All bytes.
        len: u64,
    },
}

impl Block {
    /// All lines' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many lines there are.
    pub fn line_count(&self) -> usize {
        self.ends.len()
    }

    /// The lines with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (u64, Line<'_>)> {
        let mut start = 0;
        let mut too_long = self.too_long.iter().copied().peekable();
        self.ends.iter().enumerate().map(move |(index, end)| {
            let bytes = &self.bytes[start..*end];
            start = *end;
            let line = match too_long.next_if(|(at, _)| *at == index) {
                Some((_, len)) => Line::TooLong { head: bytes, len },
                None => Line::Whole(bytes),
            };
            (self.first_line + index as u64, line)
        })
    }

    /// The bytes of a line, for quarantine.
    pub fn line(&self, number: u64) -> Option<&[u8]> {
        let index = usize::try_from(number.checked_sub(self.first_line)?).ok()?;
        let start = if index == 0 { 0 } else { *self.ends.get(index - 1)? };
        self.bytes.get(start..*self.ends.get(index)?)
    }
}

/// Memory of blocks that are done with, for the next ones: fresh memory costs as much as filling it.
#[derive(Clone, Debug, Default)]
pub struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    /// Gives a block's memory back, unless a long line has made it large.
    pub fn give(&self, block: Block) {
        let mut bytes = block.bytes;
        bytes.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.capacity() <= 2 * BLOCK_BYTES && spare.len() < SPARE_MAX {
            spare.push(bytes);
        }
    }

    fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8))
    }
}

/// Where lines end.
#[derive(Debug)]
enum Ends {
    LineFeed,
    Record(RecordEnds),
}

impl Ends {
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::LineFeed => memchr::memchr(b'\n', bytes),
            Self::Record(record) => record.find(bytes),
        }
    }
}

/// Cuts one object's bytes into blocks.
#[derive(Debug)]
pub struct LineSplitter {
    ends: Ends,
    spare: Spare,
    block: Block,
    /// Where the open line begins in the block.
    line_start: usize,
    /// Bytes of the open line so far, if it has become too long.
    too_long: Option<u64>,
}

impl LineSplitter {
    /// At the start of an object.
    pub fn new(object: u32) -> Self {
        let block = Block { object, first_line: 1, ..Block::default() };
        Self { ends: Ends::LineFeed, spare: Spare::default(), block, line_start: 0, too_long: None }
    }

    /// At the start of a CSV object, whose records end outside quotes.
    pub fn csv(object: u32) -> Self {
        Self { ends: Ends::Record(RecordEnds::default()), ..Self::new(object) }
    }

    /// Fills the memory of blocks that are given back.
    pub fn reusing(mut self, spare: Spare) -> Self {
        self.block.bytes = spare.take();
        self.spare = spare;
        self
    }

    /// Takes the next bytes; gives every block that they complete to `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<Block>) {
        while let Some(len) = self.ends.find(bytes) {
            self.extend(&bytes[..len]);
            self.end_line();
            self.take_header();
            if self.block.bytes.len() >= BLOCK_BYTES || self.block.ends.len() >= BLOCK_LINES_MAX {
                out.push(self.cut());
            }
            bytes = &bytes[len + 1..];
        }
        self.extend(bytes);
    }

    /// The last block. A last line without a line feed is a line. One of CSV is there for its header even without a record.
    pub fn finish(mut self) -> Option<Block> {
        if self.line_start < self.block.bytes.len() {
            self.end_line();
            self.take_header();
        }
        (!self.block.ends.is_empty() || self.block.header.is_some()).then_some(self.block)
    }

    /// The last block where only the head of an object was read: the line that it cuts off is none, unless it is the header
    /// of CSV, which is given as far as it goes.
    pub fn finish_head(mut self) -> Option<Block> {
        if matches!(self.ends, Ends::LineFeed) || self.block.header.is_some() {
            self.block.bytes.truncate(self.line_start);
        }
        self.finish()
    }

    /// Why an object that ends here is not whole: a quote of CSV is open, which may have taken in any number of records.
    pub fn unclosed(&self) -> Option<String> {
        let record = self.block.first_line + self.block.ends.len() as u64;
        matches!(self.ends, Ends::Record(RecordEnds::Quoted)).then(|| format!("record {record} opens a quote that is never closed"))
    }

    fn extend(&mut self, part: &[u8]) {
        if let Some(len) = &mut self.too_long {
            *len += part.len() as u64;
            return;
        }
        self.block.bytes.extend_from_slice(part);
        let len = self.block.bytes.len() - self.line_start;
        if len > LINE_BYTES_MAX {
            self.too_long = Some(len as u64);
            self.block.bytes.truncate(self.line_start + RAW_BYTES_MAX);
            self.block.bytes.shrink_to(BLOCK_BYTES);
        }
    }

    fn end_line(&mut self) {
        if let Some(len) = self.too_long.take() {
            self.block.too_long.push((self.block.ends.len(), len));
        }
        self.line_start = self.block.bytes.len();
        self.block.ends.push(self.line_start);
    }

    /// The first record of CSV is the header; it is handed to every block, since blocks are decoded side by side.
    fn take_header(&mut self) {
        if matches!(self.ends, Ends::Record(_)) && self.block.header.is_none() {
            self.block.header = Some(self.block.bytes.as_slice().into());
            self.block.bytes.clear();
            self.block.ends.clear();
            self.block.too_long.clear();
            self.block.first_line = 2;
            self.line_start = 0;
        }
    }

    fn cut(&mut self) -> Block {
        self.line_start = 0;
        let next = Block {
            object: self.block.object,
            header: self.block.header.clone(),
            first_line: self.block.first_line + self.block.ends.len() as u64,
            bytes: self.spare.take(),
            ..Block::default()
        };
        std::mem::replace(&mut self.block, next)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn split(bytes: &[u8], step: usize) -> Vec<Block> {
        let mut splitter = LineSplitter::new(7);
        let mut blocks = Vec::new();
        bytes.chunks(step.max(1)).for_each(|part| splitter.push(part, &mut blocks));
        blocks.extend(splitter.finish());
        blocks
    }

    #[test]
    fn lines_are_numbered_and_the_last_needs_no_line_feed() {
        for step in 1..12 {
            let blocks = split(b"one\n\nthree\r\nfour", step);
            assert_eq!(blocks.len(), 1);
            let lines: Vec<_> = blocks[0].lines().collect();
            let whole = |n, text: &'static str| (n, Line::Whole(text.as_bytes()));
            assert_eq!(lines, [whole(1, "one"), whole(2, ""), whole(3, "three\r"), whole(4, "four")]);
            assert_eq!(blocks[0].line(3).unwrap(), b"three\r");
            assert_eq!(blocks[0].line(5), None);
        }
        assert!(split(b"", 1).is_empty());
        assert_eq!(split(b"a\n", 1)[0].line_count(), 1);
    }

    #[test]
    fn blocks_do_not_depend_on_how_bytes_arrive() {
        let text: Vec<u8> = (0..60_000).flat_map(|i| format!("line {i} {}\n", "x".repeat(i % 300)).into_bytes()).collect();
        let blocks = split(&text, text.len());
        assert!(blocks.len() >= 2 && blocks.iter().all(|b| b.bytes.len() < BLOCK_BYTES + 400));
        for step in [1000, 4096, 999_983] {
            assert_eq!(split(&text, step), blocks);
        }
        let numbers: Vec<u64> = blocks.iter().flat_map(|b| b.lines().map(|(n, _)| n)).collect();
        assert_eq!(numbers, (1..=60_000).collect::<Vec<_>>());
    }

    #[test]
    fn memory_that_was_used_before_leaves_nothing() {
        let text: Vec<u8> = (0..60_000).flat_map(|i| format!("line {i} {}\n", "x".repeat(i % 300)).into_bytes()).collect();
        let spare = Spare::default();
        for text in [text.as_slice(), &text[..text.len() / 2]] {
            let mut splitter = LineSplitter::new(7).reusing(spare.clone());
            let mut blocks = Vec::new();
            splitter.push(text, &mut blocks);
            blocks.extend(splitter.finish());
            assert_eq!(blocks, split(text, text.len()));
            blocks.into_iter().for_each(|block| spare.give(block));
        }
    }

    #[test]
    fn a_line_that_the_head_of_an_object_cuts_off_is_none() {
        for (head, lines) in [("one\ntw", 1), ("one\n", 1), ("on", 0)] {
            let mut splitter = LineSplitter::new(7);
            splitter.push(head.as_bytes(), &mut Vec::new());
            assert_eq!(splitter.finish_head().map_or(0, |block| block.line_count()), lines, "{head}");
        }
    }

    #[test]
    fn empty_lines_are_bounded_too() {
        let blocks = split(&b"\n".repeat(BLOCK_LINES_MAX + 1), 777);
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[1].first_line, BLOCK_LINES_MAX as u64 + 1);
    }

    #[test]
    fn a_line_that_is_too_long_costs_only_itself() {
        let mut text = b"before\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 5));
        text.extend(b"\nafter");
        let blocks = split(&text, 1 << 20);
        let lines: Vec<_> = blocks.iter().flat_map(Block::lines).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].1, Line::Whole(b"before"));
        let expected = vec![b'x'; RAW_BYTES_MAX];
        assert_eq!(lines[1], (2, Line::TooLong { head: &expected, len: LINE_BYTES_MAX as u64 + 5 }));
        assert_eq!(lines[2], (3, Line::Whole(b"after")));
        let mut exact = vec![b'x'; LINE_BYTES_MAX];
        exact.push(b'\n');
        assert!(matches!(split(&exact, 1 << 20)[0].lines().next().unwrap().1, Line::Whole(_)));
    }
}
