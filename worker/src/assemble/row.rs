//! Rendered rows: one event as it will be published, and where it came from.

use std::{
    cmp::Ordering,
    io::{self, Read, Write},
};

/// Where a row came from, in the order of precedence: of equal event ids the lowest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Index into the plan's sources.
    pub source: u16,
    /// Row of the plan's object list.
    pub object: u32,
    /// Line or row in the object.
    pub row: u64,
    /// Ordinal among the rows that one source row became.
    pub sub: u32,
}

/// Text that was checked when its row was made. Sorting looks at it some twenty times, so it is bytes until it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).expect("it was text when the row was made")
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

/// One row; its bytes belong to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef<'a> {
    pub time_us: i64,
    pub origin: Origin,
    pub partition: i32,
    pub event_id: Text<'a>,
    pub event_type: Text<'a>,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
}

impl RowRef<'_> {
    /// Equal ids meet; the winner comes first.
    pub fn by_id(&self, other: &RowRef<'_>) -> Ordering {
        self.event_id.cmp(&other.event_id).then(self.origin.cmp(&other.origin))
    }

    /// The order of publishing.
    pub fn by_time(&self, other: &RowRef<'_>) -> Ordering {
        self.time_us.cmp(&other.time_us).then(self.origin.cmp(&other.origin))
    }
}

/// Which of the two orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Id,
    Time,
}

impl By {
    pub fn compare(self, a: &RowRef<'_>, b: &RowRef<'_>) -> Ordering {
        match self {
            Self::Id => a.by_id(b),
            Self::Time => a.by_time(b),
        }
    }

    /// A number that orders rows as far as it goes: rows that differ in it need not be looked at.
    fn prefix(self, row: &RowRef<'_>) -> u64 {
        match self {
            Self::Id => {
                let mut first = [0; 8];
                let id = row.event_id.as_bytes();
                let len = id.len().min(first.len());
                first[..len].copy_from_slice(&id[..len]);
                u64::from_be_bytes(first)
            }
            // The sign turned over, so that times before 1970 come first.
            Self::Time => row.time_us.cast_unsigned() ^ (1 << 63),
        }
    }
}

/// What of a row is not bytes, with the lengths of what is.
#[derive(Clone, Copy, Debug)]
struct Head {
    time_us: i64,
    origin: Origin,
    partition: i32,
    id_len: u32,
    type_len: u32,
    /// One more than the key's length; 0: no key.
    key_len_plus: u32,
    value_len: u32,
}

const HEAD_BYTES: usize = 8 + 2 + 4 + 8 + 4 + 4 + 4 * 4;

impl Head {
    fn of(row: &RowRef<'_>) -> Self {
        // A row is shorter than a source line, which is bounded far below 4 GiB.
        let len = |bytes: usize| u32::try_from(bytes).expect("rows are bounded far below 4 GiB");
        Self {
            time_us: row.time_us,
            origin: row.origin,
            partition: row.partition,
            id_len: len(row.event_id.as_bytes().len()),
            type_len: len(row.event_type.as_bytes().len()),
            key_len_plus: row.key.map_or(0, |key| len(key.len() + 1)),
            value_len: len(row.value.len()),
        }
    }

    fn body_len(&self) -> usize {
        self.id_len as usize + self.type_len as usize + self.key_len_plus.saturating_sub(1) as usize + self.value_len as usize
    }

    fn with<'a>(&self, body: &'a [u8]) -> RowRef<'a> {
        let (event_id, rest) = body.split_at(self.id_len as usize);
        let (event_type, rest) = rest.split_at(self.type_len as usize);
        let (key, value) = rest.split_at(self.key_len_plus.saturating_sub(1) as usize);
        RowRef {
            time_us: self.time_us,
            origin: self.origin,
            partition: self.partition,
            event_id: Text(event_id),
            event_type: Text(event_type),
            key: (self.key_len_plus > 0).then_some(key),
            value,
        }
    }

    fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&self.time_us.to_le_bytes());
        put(&self.origin.source.to_le_bytes());
        put(&self.origin.object.to_le_bytes());
        put(&self.origin.row.to_le_bytes());
        put(&self.origin.sub.to_le_bytes());
        put(&self.partition.to_le_bytes());
        for len in [self.id_len, self.type_len, self.key_len_plus, self.value_len] {
            put(&len.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Self {
        let mut rest = bytes.as_slice();
        let mut number = |len: usize| {
            let (part, tail) = rest.split_at(len);
            rest = tail;
            let mut wide = [0; 8];
            wide[..len].copy_from_slice(part);
            u64::from_le_bytes(wide)
        };
        Self {
            time_us: number(8).cast_signed(),
            origin: Origin { source: number(2) as u16, object: number(4) as u32, row: number(8), sub: number(4) as u32 },
            partition: (number(4) as u32).cast_signed(),
            id_len: number(4) as u32,
            type_len: number(4) as u32,
            key_len_plus: number(4) as u32,
            value_len: number(4) as u32,
        }
    }
}

/// Appends a row to a run.
pub fn write(row: &RowRef<'_>, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&Head::of(row).to_bytes())?;
    out.write_all(row.event_id.as_bytes())?;
    out.write_all(row.event_type.as_bytes())?;
    out.write_all(row.key.unwrap_or_default())?;
    out.write_all(row.value)
}

/// One row read back from a run; reused for the next.
#[derive(Debug, Default)]
pub struct OwnedRow {
    head: Option<Head>,
    body: Vec<u8>,
}

impl OwnedRow {
    /// Reads the next row; `false` at the end of the run.
    pub fn read(&mut self, input: &mut impl Read) -> io::Result<bool> {
        let mut bytes = [0; HEAD_BYTES];
        self.head = None;
        let first = input.read(&mut bytes[..1])?;
        if first == 0 {
            return Ok(false);
        }
        input.read_exact(&mut bytes[1..])?;
        let head = Head::from_bytes(&bytes);
        self.body.resize(head.body_len(), 0);
        input.read_exact(&mut self.body)?;
        self.head = Some(head);
        Ok(true)
    }

    /// The row that was read last.
    pub fn get(&self) -> Option<RowRef<'_>> {
        self.head.map(|head| head.with(&self.body))
    }
}

/// Rows in memory: their bytes one behind the other, and the order in which they are gone through.
#[derive(Debug, Default)]
pub struct Buffer {
    entries: Vec<(Head, usize)>,
    bytes: Vec<u8>,
    order: Vec<u32>,
}

/// What a row costs beside its bytes: its entry, its place in the order, and that again while it is sorted.
const ENTRY_BYTES: usize = size_of::<(Head, usize)>() + size_of::<u32>() + size_of::<(u64, u32)>();

impl Buffer {
    pub fn push(&mut self, row: &RowRef<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(row.event_id.as_bytes());
        self.bytes.extend_from_slice(row.event_type.as_bytes());
        self.bytes.extend_from_slice(row.key.unwrap_or_default());
        self.bytes.extend_from_slice(row.value);
        self.order.push(u32::try_from(self.entries.len()).expect("a buffer is bounded far below 4 billion rows"));
        self.entries.push((Head::of(row), start));
    }

    /// Makes room for rows at once: growing step by step would copy them, each time into fresh memory.
    pub fn reserve(&mut self, rows: usize, bytes: usize) {
        self.entries.reserve(rows);
        self.order.reserve(rows);
        self.bytes.reserve(bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the buffer holds, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.entries.len() * ENTRY_BYTES
    }

    pub fn sort(&mut self, by: By) {
        let row = |index: u32| self.row(index);
        let mut keyed: Vec<(u64, u32)> = self.order.iter().map(|index| (by.prefix(&row(*index)), *index)).collect();
        // Origins differ, so the order is total and an unstable sort gives the same order whatever the input's.
        keyed.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| by.compare(&row(a.1), &row(b.1))));
        self.order = keyed.into_iter().map(|(_, index)| index).collect();
    }

    /// Of a buffer that is sorted by id: drops all but the first row of each id, telling of each that goes.
    pub fn dedup(&mut self, mut dropped: impl FnMut(RowRef<'_>)) {
        let mut order = std::mem::take(&mut self.order);
        order.dedup_by(|next, kept| {
            let next = self.row(*next);
            let is_same = next.event_id == self.row(*kept).event_id;
            if is_same {
                dropped(next);
            }
            is_same
        });
        self.order = order;
    }

    pub fn rows(&self) -> impl Iterator<Item = RowRef<'_>> {
        self.order.iter().map(|index| self.row(*index))
    }

    /// Gives the rows in the order of publishing, and then the buffer, empty.
    pub fn give_by_time<E>(mut self, each: impl FnMut(RowRef<'_>) -> Result<(), E>) -> Result<Self, E> {
        self.sort(By::Time);
        self.rows().try_for_each(each)?;
        self.clear();
        Ok(self)
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.order.clear();
    }

    fn row(&self, index: u32) -> RowRef<'_> {
        let (head, start) = &self.entries[index as usize];
        head.with(&self.bytes[*start..*start + head.body_len()])
    }
}
