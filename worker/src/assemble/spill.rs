//! Duplicates out, and into the order of publishing, within a memory budget.
//!
//! What fits stays in memory. What does not is sorted by event id and written to runs on the scratch disk; merging them
//! brings equal ids together; the survivors are sorted by time the same way. The result depends on the rows alone, not
//! on their order nor on the budget.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter},
};

use super::row::{Buffer, By, OwnedRow, RowRef, write};
use crate::scratch::{Scratch, ScratchFile};

/// Runs that are merged at a time: each costs its reader's window. Beyond it, runs are merged into longer ones first.
const FAN_IN_MAX: usize = 64;
/// Logarithm of the window of a run's compression: 256 KiB, so that 64 readers stay within some 30 MiB.
const WINDOW_LOG: u32 = 18;
/// Runs are written once and read once: the fastest level.
const LEVEL: i32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    #[error("rows cannot be written to the scratch disk")]
    Write(#[source] io::Error),
    #[error("rows cannot be read back from the scratch disk")]
    Read(#[source] io::Error),
}

impl SpillError {
    pub fn is_full(&self) -> bool {
        match self {
            Self::Write(error) => Scratch::is_full(error),
            Self::Read(_) => false,
        }
    }
}

/// Takes rows in any order and gives them back sorted.
struct Sorter {
    by: By,
    buffer: Buffer,
    budget_bytes: usize,
    scratch: Scratch,
    runs: Vec<ScratchFile>,
}

/// The assembly of one slice: rows in, survivors out in the order of publishing.
pub struct Assembly {
    by_id: Sorter,
}

impl Assembly {
    /// `budget_bytes` bounds each of the two buffers that are ever in use at a time. `buffer` is an empty one whose memory is
    /// used.
    pub fn new(scratch: Scratch, budget_bytes: usize, buffer: Buffer) -> Self {
        Self { by_id: Sorter { buffer, ..Sorter::new(By::Id, scratch, budget_bytes) } }
    }

    /// Adds a row. `dropped` hears of each duplicate that is found on the way.
    pub fn push(&mut self, row: &RowRef<'_>, dropped: &mut impl FnMut(RowRef<'_>)) -> Result<(), SpillError> {
        self.by_id.push(row, dropped)
    }

    /// Whether anything went to disk.
    pub fn has_spilled(&self) -> bool {
        !self.by_id.runs.is_empty()
    }

    /// Gives `each` the survivors in the order of publishing. Returns an empty buffer for the next slice.
    pub fn finish<E: From<SpillError>>(
        self,
        dropped: &mut impl FnMut(RowRef<'_>),
        mut each: impl FnMut(RowRef<'_>) -> Result<(), E>,
    ) -> Result<Buffer, E> {
        let mut by_id = self.by_id;
        if by_id.runs.is_empty() {
            by_id.buffer.sort(By::Id);
            by_id.buffer.dedup(dropped);
            return by_id.buffer.give_by_time(each);
        }
        let mut by_time = Sorter::new(By::Time, by_id.scratch.clone(), by_id.budget_bytes);
        by_id.spill(dropped)?;
        // Only one of the two buffers is filled at a time.
        by_id.buffer = Buffer::default();
        merge(By::Id, &by_id.runs, dropped, |row| by_time.push(&row, &mut |_| {}))?;
        drop(by_id);
        if by_time.runs.is_empty() {
            return by_time.buffer.give_by_time(each);
        }
        by_time.spill(&mut |_| {})?;
        by_time.buffer = Buffer::default();
        merge(By::Time, &by_time.runs, &mut |_| {}, &mut each)?;
        Ok(Buffer::default())
    }
}

impl Sorter {
    fn new(by: By, scratch: Scratch, budget_bytes: usize) -> Self {
        Self { by, buffer: Buffer::default(), budget_bytes, scratch, runs: Vec::new() }
    }

    fn push(&mut self, row: &RowRef<'_>, dropped: &mut impl FnMut(RowRef<'_>)) -> Result<(), SpillError> {
        self.buffer.push(row);
        if self.buffer.size() < self.budget_bytes {
            return Ok(());
        }
        self.spill(dropped)
    }

    /// Writes what is in memory as a run.
    fn spill(&mut self, dropped: &mut impl FnMut(RowRef<'_>)) -> Result<(), SpillError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.buffer.sort(self.by);
        if self.by == By::Id {
            self.buffer.dedup(&mut *dropped);
        }
        if self.runs.len() == FAN_IN_MAX {
            let mut run = RunWriter::new(&self.scratch)?;
            merge(self.by, &self.runs, dropped, |row| run.push(&row))?;
            self.runs = vec![run.finish()?];
        }
        let mut run = RunWriter::new(&self.scratch)?;
        self.buffer.rows().try_for_each(|row| run.push(&row))?;
        self.runs.push(run.finish()?);
        self.buffer.clear();
        Ok(())
    }
}

struct RunWriter {
    out: zstd::Encoder<'static, BufWriter<ScratchFile>>,
}

impl RunWriter {
    fn new(scratch: &Scratch) -> Result<Self, SpillError> {
        let file = scratch.file().map_err(SpillError::Write)?;
        let mut out = zstd::Encoder::new(BufWriter::new(file), LEVEL).map_err(SpillError::Write)?;
        out.window_log(WINDOW_LOG).map_err(SpillError::Write)?;
        Ok(Self { out })
    }

    fn push(&mut self, row: &RowRef<'_>) -> Result<(), SpillError> {
        write(row, &mut self.out).map_err(SpillError::Write)
    }

    fn finish(self) -> Result<ScratchFile, SpillError> {
        let buffered = self.out.finish().map_err(SpillError::Write)?;
        buffered.into_inner().map_err(|error| SpillError::Write(error.into_error()))
    }
}

struct RunReader {
    input: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    row: OwnedRow,
}

impl RunReader {
    fn open(file: &ScratchFile) -> Result<Self, SpillError> {
        let input = file.reopen().and_then(zstd::Decoder::new).map_err(SpillError::Read)?;
        let mut reader = Self { input: BufReader::new(input), row: OwnedRow::default() };
        reader.advance()?;
        Ok(reader)
    }

    fn advance(&mut self) -> Result<(), SpillError> {
        self.row.read(&mut self.input).map(drop).map_err(SpillError::Read)
    }
}

/// Merges sorted runs. By id, all but the first row of each id are dropped, and `dropped` hears of them.
fn merge<E: From<SpillError>>(
    by: By,
    runs: &[ScratchFile],
    dropped: &mut impl FnMut(RowRef<'_>),
    mut each: impl FnMut(RowRef<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut readers = runs.iter().map(RunReader::open).collect::<Result<Vec<_>, _>>()?;
    // The readers by their next rows; with at most FAN_IN_MAX of them a sorted list is as good as a heap.
    let mut order: Vec<usize> = (0..readers.len()).filter(|index| readers[*index].row.get().is_some()).collect();
    sort_heads(by, &mut order, &readers);
    let mut last_id: Option<Vec<u8>> = None;
    while let Some(lowest) = order.first().copied() {
        if let Some(row) = readers[lowest].row.get() {
            if by == By::Id && last_id.as_deref() == Some(row.event_id.as_bytes()) {
                dropped(row);
            } else {
                each(row)?;
                if by == By::Id {
                    let last = last_id.get_or_insert_default();
                    last.clear();
                    last.extend_from_slice(row.event_id.as_bytes());
                }
            }
        }
        readers[lowest].advance()?;
        order.remove(0);
        if let Some(row) = readers[lowest].row.get() {
            let place = order.partition_point(|other| readers[*other].row.get().is_some_and(|other| by.compare(&other, &row).is_lt()));
            order.insert(place, lowest);
        }
    }
    Ok(())
}

fn sort_heads(by: By, order: &mut [usize], readers: &[RunReader]) {
    order.sort_by(|a, b| match (readers[*a].row.get(), readers[*b].row.get()) {
        (Some(a), Some(b)) => by.compare(&a, &b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    });
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use proptest::prelude::*;

    use super::*;
    use crate::assemble::row::Origin;

    #[derive(Clone, Debug, PartialEq)]
    struct Row {
        id: String,
        time_us: i64,
        origin: Origin,
        key: Option<Vec<u8>>,
        value: Vec<u8>,
    }

    impl Row {
        fn view(&self) -> RowRef<'_> {
            RowRef {
                time_us: self.time_us,
                origin: self.origin,
                partition: i32::from(self.origin.source),
                event_id: self.id.as_str().into(),
                event_type: "t".into(),
                key: self.key.as_deref(),
                value: &self.value,
            }
        }

        fn of(row: RowRef<'_>) -> Self {
            Self {
                id: row.event_id.as_str().into(),
                time_us: row.time_us,
                origin: row.origin,
                key: row.key.map(<[u8]>::to_vec),
                value: row.value.to_vec(),
            }
        }
    }

    /// Survivors in order, and the origins of the duplicates.
    fn assemble(rows: &[Row], budget_bytes: usize) -> (Vec<Row>, Vec<Origin>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path(), None).unwrap();
        let mut assembly = Assembly::new(scratch, budget_bytes, Buffer::default());
        let mut duplicates = Vec::new();
        let mut dropped = |row: RowRef<'_>| duplicates.push(row.origin);
        for row in rows {
            assembly.push(&row.view(), &mut dropped).unwrap();
        }
        let has_spilled = assembly.has_spilled();
        let mut survivors = Vec::new();
        assembly
            .finish::<SpillError>(&mut dropped, |row| {
                survivors.push(Row::of(row));
                Ok(())
            })
            .unwrap();
        duplicates.sort();
        (survivors, duplicates, has_spilled)
    }

    /// What must come out, said plainly.
    fn expected(rows: &[Row]) -> (Vec<Row>, Vec<Origin>) {
        let mut sorted = rows.to_vec();
        sorted.sort_by_key(|row| row.origin);
        let (mut survivors, mut duplicates) = (Vec::<Row>::new(), Vec::new());
        for row in sorted {
            if survivors.iter().any(|kept| kept.id == row.id) { duplicates.push(row.origin) } else { survivors.push(row) }
        }
        survivors.sort_by_key(|row| (row.time_us, row.origin));
        (survivors, duplicates)
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let row = (
            0u32..40,
            0i64..20,
            0u16..3,
            prop::option::of(prop::collection::vec(any::<u8>(), 0..4)),
            prop::collection::vec(any::<u8>(), 0..60),
        );
        prop::collection::vec(row, 0..200).prop_map(|rows| {
            let with_origin = rows.into_iter().enumerate().map(|(index, (id, time_us, source, key, value))| Row {
                id: format!("id-{id}"),
                time_us,
                origin: Origin { source, object: index as u32 % 5, row: index as u64, sub: index as u32 % 2 },
                key,
                value,
            });
            with_origin.collect::<Vec<_>>()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_result_depends_on_the_rows_alone((rows, shuffled) in rows().prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())), budget_bytes in 1usize..2000) {
            let (survivors, duplicates) = expected(&rows);
            for (input, budget_bytes) in [(&rows, usize::MAX), (&shuffled, usize::MAX), (&rows, budget_bytes), (&shuffled, budget_bytes)] {
                let (found, dropped, _) = assemble(input, budget_bytes);
                prop_assert_eq!(&found, &survivors);
                prop_assert_eq!(&dropped, &duplicates);
            }
        }
    }

    #[test]
    fn many_times_the_budget_still_fits() {
        let rows: Vec<Row> = (0..20_000u32)
            .map(|index| Row {
                id: format!("id-{}", index.wrapping_mul(2_654_435_761) % 15_000),
                time_us: i64::from(index.wrapping_mul(40_503) % 1_000),
                origin: Origin { source: 0, object: 0, row: u64::from(index), sub: 0 },
                key: None,
                value: vec![index as u8; 100],
            })
            .collect();
        // More runs than are merged at a time, so that the intermediate merge is met as well.
        let (in_memory, dropped, spilled) = assemble(&rows, usize::MAX);
        assert!(!spilled);
        let (from_disk, dropped_too, spilled) = assemble(&rows, 30_000);
        assert!(spilled);
        assert_eq!(in_memory, from_disk);
        assert_eq!(dropped, dropped_too);
        assert!(!dropped.is_empty());
    }
}
