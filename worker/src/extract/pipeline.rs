//! Bytes of a chunk's objects to batches of rows: fetched ahead, decompressed and cut on a thread of its own, through
//! bounded queues.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weir_crds::backfill_job::{Compression, SourceFormat};
use weir_crds::columns::Columns;

use super::error::ExtractError;
use crate::decode::decompress::Decompressor;
use crate::decode::{Batch, Block, LineSplitter, Spare, csv};
use crate::source::fetch::{Piece, RANGE_BYTES, RANGES_IN_FLIGHT_MAX};
use crate::source::parquet::ObjectReader;
use crate::source::{Fetcher, SourceError, SourceObject};

/// Batches that wait for a thread: one, so that the next is ready when a thread is.
const BATCHES_QUEUED: usize = 1;
/// Fetched pieces that wait to be decompressed; more wait inside the fetcher.
const PIECES_QUEUED: usize = 1;

/// Of a worker's memory, the parts that fetched ranges and a row group may take.
const RANGES_MEMORY_DIVISOR: u64 = 8;
const ROW_GROUP_MEMORY_DIVISOR: u64 = 2;

/// How the objects of a source are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Their format.
    pub format: SourceFormat,
    /// For text.
    pub compression: Compression,
    /// What is declared of them.
    pub columns: Columns,
    /// What the worker has in all.
    pub memory_bytes: u64,
}

impl Reading {
    /// Ranges that are fetched ahead.
    fn ranges_in_flight(&self) -> usize {
        let ranges = self.memory_bytes / RANGES_MEMORY_DIVISOR / RANGE_BYTES;
        usize::try_from(ranges).unwrap_or(usize::MAX).clamp(2, RANGES_IN_FLIGHT_MAX)
    }

    /// The declared columns of a row group are held while it is read.
    pub fn row_group_bytes_max(&self) -> u64 {
        self.memory_bytes / ROW_GROUP_MEMORY_DIVISOR
    }
}

type BatchSender = mpsc::Sender<Result<Batch, ExtractError>>;

/// The rows of all objects, in order. Dropping the stream ends everything behind it. Blocks that are given to `spare` are
/// filled again.
pub fn batches(
    fetcher: &Fetcher,
    objects: &Arc<[SourceObject]>,
    reading: Reading,
    spare: Spare,
) -> impl Stream<Item = Result<Batch, ExtractError>> + use<> {
    let (batch_tx, batch_rx) = mpsc::channel(BATCHES_QUEUED);
    let feeders = match reading.format {
        SourceFormat::JsonLines | SourceFormat::Csv => read_text(fetcher, objects, reading, spare, batch_tx),
        SourceFormat::Parquet => vec![read_parquet(fetcher, objects, reading, batch_tx)],
    };
    until_all_ended(batch_rx, feeders)
}

/// The batches that come, up to the end of all that feed them. One that panicked closes the queue just as well; that must
/// never look like the end of the rows.
fn until_all_ended(
    batches: mpsc::Receiver<Result<Batch, ExtractError>>,
    feeders: Vec<JoinHandle<()>>,
) -> impl Stream<Item = Result<Batch, ExtractError>> + use<> {
    stream::unfold((batches, feeders), |(mut batches, mut feeders)| async move {
        if let Some(batch) = batches.recv().await {
            return Some((batch, (batches, feeders)));
        }
        while let Some(feeder) = feeders.pop() {
            if feeder.await.is_err() {
                return Some((Err(ExtractError::Thread), (batches, Vec::new())));
            }
        }
        None
    })
}

fn read_parquet(fetcher: &Fetcher, objects: &Arc<[SourceObject]>, reading: Reading, batches: BatchSender) -> JoinHandle<()> {
    let (fetcher, objects) = (fetcher.clone(), Arc::clone(objects));
    tokio::spawn(async move {
        for (index, object) in objects.iter().enumerate() {
            if let Err(error) = read_parquet_object(&fetcher, index, object, &reading, &batches).await {
                // If the reader has gone there is no one to tell.
                let _ = batches.send(Err(error.into())).await;
                return;
            }
        }
    })
}

async fn read_parquet_object(
    fetcher: &Fetcher,
    index: usize,
    object: &SourceObject,
    reading: &Reading,
    batches: &BatchSender,
) -> Result<(), SourceError> {
    if object.size == 0 {
        // What marks a folder or a finished job is no Parquet and has no rows. Its pin is checked like every other's.
        fetcher.range(object, 0, 0).await?;
        return Ok(());
    }
    let mut open = ObjectReader::new(fetcher, object).open(&reading.columns, reading.row_group_bytes_max()).await?;
    let mut first_row = 1;
    while let Some(rows) = open.next().await? {
        let next_row = first_row + rows.num_rows() as u64;
        // A chunk's objects are counted in 32 bits.
        let batch = Batch::Rows { object: index as u32, first_row, rows, schema: Arc::clone(&open.schema) };
        if batches.send(Ok(batch)).await.is_err() {
            return Ok(());
        }
        first_row = next_row;
    }
    Ok(())
}

fn read_text(
    fetcher: &Fetcher,
    objects: &Arc<[SourceObject]>,
    reading: Reading,
    spare: Spare,
    batches: BatchSender,
) -> Vec<JoinHandle<()>> {
    let (piece_tx, piece_rx) = mpsc::channel(PIECES_QUEUED);
    let pieces = fetcher.stream(Arc::clone(objects), reading.ranges_in_flight());
    let fetching = tokio::spawn(async move {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            // A closed queue: the reader of batches has gone, or has met an error that it reports itself.
            if piece_tx.send(piece).await.is_err() {
                return;
            }
        }
    });
    let objects = Arc::clone(objects);
    let cutting = tokio::task::spawn_blocking(move || cut_pieces(piece_rx, &batches, &objects, &reading, &spare));
    vec![fetching, cutting]
}

fn cut_pieces(
    mut pieces: mpsc::Receiver<Result<Piece, SourceError>>,
    batches: &BatchSender,
    objects: &[SourceObject],
    reading: &Reading,
    spare: &Spare,
) {
    let mut open: Option<Cutter> = None;
    let mut objects_ended = 0;
    while let Some(piece) = pieces.blocking_recv() {
        let cut = piece.and_then(|piece| {
            let mut cutter = match open.take() {
                Some(cutter) => cutter,
                None => Cutter::new(&objects[piece.object], piece.object, reading, spare)?,
            };
            cutter.push(&piece.bytes, batches)?;
            if piece.is_last {
                cutter.finish(batches)?;
                objects_ended += 1;
            } else {
                open = Some(cutter);
            }
            Ok(())
        });
        if let Err(error) = cut {
            // If the reader has gone there is no one to tell.
            let _ = batches.blocking_send(Err(error.into()));
            return;
        }
        if batches.is_closed() {
            return;
        }
    }
    if objects_ended < objects.len() {
        // Whoever fetches has ended early.
        let _ = batches.blocking_send(Err(ExtractError::Thread));
    }
}

/// One object, from its bytes to blocks.
struct Cutter {
    uri: String,
    decompressor: Decompressor,
    splitter: LineSplitter,
    ready: Vec<Block>,
    /// For CSV: what the header must name some of. Taken when the header was looked at.
    header_of: Option<Columns>,
}

impl Cutter {
    fn new(object: &SourceObject, index: usize, reading: &Reading, spare: &Spare) -> Result<Self, SourceError> {
        let uri = object.uri();
        let decompressor = Decompressor::new(reading.compression).map_err(|source| SourceError::Corrupt { object: uri.clone(), source })?;
        // A chunk's objects are counted in 32 bits.
        let object = index as u32;
        let (splitter, header_of) = match reading.format {
            SourceFormat::Csv => (LineSplitter::csv(object), Some(reading.columns.clone())),
            SourceFormat::JsonLines | SourceFormat::Parquet => (LineSplitter::new(object), None),
        };
        let splitter = splitter.reusing(spare.clone());
        Ok(Self { uri, decompressor, splitter, ready: Vec::new(), header_of })
    }

    fn push(&mut self, bytes: &[u8], batches: &BatchSender) -> Result<(), SourceError> {
        let Self { decompressor, splitter, ready, uri, header_of } = self;
        let mut bad_header = None;
        let pushed = decompressor.push(bytes, &mut |piece| {
            splitter.push(piece, ready);
            // Sent from here, since a few bytes of input may become many blocks. If the reader has gone, the caller sees.
            for block in ready.drain(..) {
                if let Some(columns) = header_of.take() {
                    bad_header = header_problem(&block, &columns);
                }
                if bad_header.is_none() {
                    let _ = batches.blocking_send(Ok(Batch::Lines(block)));
                }
            }
        });
        pushed.map_err(|source| SourceError::Corrupt { object: uri.clone(), source })?;
        unreadable(uri, bad_header)
    }

    fn finish(self, batches: &BatchSender) -> Result<(), SourceError> {
        let uri = self.uri;
        self.decompressor.finish().map_err(|source| SourceError::Corrupt { object: uri.clone(), source })?;
        unreadable(&uri, self.splitter.unclosed())?;
        if let Some(block) = self.splitter.finish() {
            unreadable(&uri, self.header_of.and_then(|columns| header_problem(&block, &columns)))?;
            let _ = batches.blocking_send(Ok(Batch::Lines(block)));
        }
        Ok(())
    }
}

fn unreadable(uri: &str, problem: Option<String>) -> Result<(), SourceError> {
    match problem {
        Some(problem) => Err(SourceError::Unreadable { object: uri.to_owned(), format: "Csv", problem }),
        None => Ok(()),
    }
}

/// Why a CSV object's header cannot be right. One that names no declared column is most likely a row: a file without header.
pub fn header_problem(block: &Block, columns: &Columns) -> Option<String> {
    match csv::header(block.header.as_deref().unwrap_or_default()) {
        Err(problem) => Some(problem),
        Ok(names) if columns.iter().any(|column| names.contains(&column.name)) => None,
        // Not with its cells: without a header they are an event's.
        Ok(names) => Some(format!("its first record, of {} cells, names none of the declared columns", names.len())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::source::stand_in::{object, store};

    fn reading(format: SourceFormat) -> Reading {
        let columns = Columns::parse("a bigint, s string").unwrap();
        Reading { format, compression: Compression::None, columns, memory_bytes: 1 << 30 }
    }

    /// What becomes of two objects of which these pieces came: lines, or an error.
    fn cut(format: SourceFormat, pieces: &[(usize, &'static str, bool)]) -> Result<usize, ExtractError> {
        let (piece_tx, piece_rx) = mpsc::channel(10);
        for (object, text, is_last) in pieces {
            piece_tx.try_send(Ok(Piece { object: *object, bytes: text.as_bytes().into(), is_last: *is_last })).unwrap();
        }
        drop(piece_tx);
        let (batch_tx, mut batch_rx) = mpsc::channel(10);
        cut_pieces(piece_rx, &batch_tx, &[object("a", 1), object("b", 1)], &reading(format), &Spare::default());
        drop(batch_tx);
        let mut lines = 0;
        while let Some(batch) = batch_rx.blocking_recv() {
            let Batch::Lines(block) = batch? else { panic!("rows of Parquet") };
            lines += block.line_count();
        }
        Ok(lines)
    }

    #[test]
    fn objects_that_do_not_come_whole_are_noticed() {
        let json = SourceFormat::JsonLines;
        assert_eq!(cut(json, &[(0, "{}\n", false), (0, "{}", true), (1, "{}\n", true)]).unwrap(), 3);
        for pieces in [&[(0, "{}\n", true), (1, "{}\n", false)][..], &[(0, "{}\n", true)], &[]] {
            assert!(matches!(cut(json, pieces), Err(ExtractError::Thread)), "{pieces:?}");
        }
    }

    #[test]
    fn csv_is_refused_where_its_records_cannot_be_told() {
        assert_eq!(cut(SourceFormat::Csv, &[(0, "a,s\n", true), (1, "", true)]).unwrap(), 0);
        let cases = [
            ("1,x", "its first record, of 2 cells, names none of the declared columns"),
            ("1,x\n", "its first record, of 2 cells, names none of the declared columns"),
            ("a,s\r1,x\r2,y\r", "a carriage return without a line feed"),
            ("a,s\n1,x\n2,\"y\n3,z\n", "record 3 opens a quote that is never closed"),
        ];
        for (text, expected) in cases {
            let problem = cut(SourceFormat::Csv, &[(0, "a,s\n1,x\n", true), (1, text, true)]).unwrap_err().to_string();
            assert!(problem.starts_with("s3://bucket/b cannot be read as Csv: ") && problem.contains(expected), "{problem}");
        }
    }

    #[tokio::test]
    async fn a_feeder_that_panics_is_not_the_end() {
        for panics in [false, true] {
            let (sender, receiver) = mpsc::channel(1);
            let feeder = tokio::spawn(async move {
                sender.send(Ok(Batch::Lines(Block::default()))).await.unwrap();
                assert!(!panics, "as at damage");
            });
            let batches: Vec<_> = until_all_ended(receiver, vec![tokio::spawn(async {}), feeder]).collect().await;
            assert!(batches[0].is_ok());
            assert_eq!((batches.len(), matches!(batches.last(), Some(Err(ExtractError::Thread)))), (1 + usize::from(panics), panics));
        }
    }

    #[tokio::test]
    async fn empty_objects_among_parquet_have_no_rows_and_are_still_pinned() {
        let (fetcher, mut objects) = store(&[("_SUCCESS", b""), ("folder/", b"")]).await;
        let read = async |objects: &[SourceObject]| {
            batches(&fetcher, &objects.into(), reading(SourceFormat::Parquet), Spare::default()).collect::<Vec<_>>().await
        };
        assert!(read(&objects).await.is_empty());
        objects[1].etag = "\"another\"".into();
        let batches = read(&objects).await;
        assert!(matches!(&batches[..], [Err(ExtractError::Source(SourceError::Changed { .. }))]), "{batches:?}");
    }
}
