//! Bytes of a chunk's objects to batches of rows: fetched ahead, decompressed and cut on a thread of its own, through
//! bounded queues.

use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use weir_crds::backfill_job::{Compression, SourceFormat};
use weir_crds::columns::Columns;

use super::error::ExtractError;
use crate::decode::decompress::Decompressor;
use crate::decode::{Batch, Block, LineSplitter, Spare, csv};
use crate::source::fetch::Piece;
use crate::source::parquet::ObjectReader;
use crate::source::{Fetcher, SourceError, SourceObject};

/// Batches that wait for a thread: one, so that the next is ready when a thread is.
const BATCHES_QUEUED: usize = 1;
/// Fetched pieces that wait to be decompressed; more wait inside the fetcher.
const PIECES_QUEUED: usize = 1;

/// How the objects of a source are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Their format.
    pub format: SourceFormat,
    /// For text.
    pub compression: Compression,
    /// What is declared of them.
    pub columns: Columns,
    /// Ranges that are fetched ahead.
    pub ranges_in_flight: usize,
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
    match reading.format {
        SourceFormat::JsonLines | SourceFormat::Csv => read_text(fetcher, objects, reading, spare, batch_tx),
        SourceFormat::Parquet => read_parquet(fetcher, objects, reading, batch_tx),
    }
    stream::unfold(batch_rx, |mut rx| async move { rx.recv().await.map(|batch| (batch, rx)) })
}

fn read_parquet(fetcher: &Fetcher, objects: &Arc<[SourceObject]>, reading: Reading, batches: BatchSender) {
    let (fetcher, objects) = (fetcher.clone(), Arc::clone(objects));
    tokio::spawn(async move {
        for (index, object) in objects.iter().enumerate() {
            if let Err(error) = read_parquet_object(&fetcher, index, object, &reading.columns, &batches).await {
                // If the reader has gone there is no one to tell.
                let _ = batches.send(Err(error.into())).await;
                return;
            }
        }
    });
}

async fn read_parquet_object(
    fetcher: &Fetcher,
    index: usize,
    object: &SourceObject,
    columns: &Columns,
    batches: &BatchSender,
) -> Result<(), SourceError> {
    let mut open = ObjectReader::new(fetcher, object).open(columns).await?;
    let mut first_row = 1;
    while let Some(rows) = open.next().await {
        let rows = rows?;
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

fn read_text(fetcher: &Fetcher, objects: &Arc<[SourceObject]>, reading: Reading, spare: Spare, batches: BatchSender) {
    let (piece_tx, piece_rx) = mpsc::channel(PIECES_QUEUED);
    let pieces = fetcher.stream(Arc::clone(objects), reading.ranges_in_flight);
    tokio::spawn(async move {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            // A closed queue: the reader of batches has gone, or has met an error that it reports itself.
            if piece_tx.send(piece).await.is_err() {
                return;
            }
        }
    });
    let objects = Arc::clone(objects);
    tokio::task::spawn_blocking(move || cut_pieces(piece_rx, &batches, &objects, &reading, &spare));
}

fn cut_pieces(
    mut pieces: mpsc::Receiver<Result<Piece, SourceError>>,
    batches: &BatchSender,
    objects: &[SourceObject],
    reading: &Reading,
    spare: &Spare,
) {
    let mut open: Option<Cutter> = None;
    while let Some(piece) = pieces.blocking_recv() {
        let cut = piece.and_then(|piece| {
            let mut cutter = match open.take() {
                Some(cutter) => cutter,
                None => Cutter::new(&objects[piece.object], piece.object, reading, spare)?,
            };
            cutter.push(&piece.bytes, batches)?;
            if piece.is_last {
                cutter.finish(batches)?;
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
        Ok(names) => Some(format!("its first record ({}) names none of the declared columns", names.join(", "))),
    }
}
