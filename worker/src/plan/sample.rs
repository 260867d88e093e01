//! How many events there will be, from the heads of a few objects. An estimate, and its bytes are counted apart.

use std::sync::Arc;

use weir_crds::backfill_job::SourceFormat;
use weir_crds::window::Slicing;

use super::error::PlanError;
use crate::decode::decompress::Decompressor;
use crate::decode::{Batch, Block, Decoder, LineSplitter};
use crate::extract::ExtractError;
use crate::extract::chunk::reading;
use crate::extract::pipeline::{Reading, header_problem};
use crate::extract::work::{Shared, Worker};
use crate::run::Run;
use crate::select::{CheckedSelect, Evaluator, Normalizer, ResultShape};
use crate::source::parquet::ObjectReader;
use crate::source::{Fetcher, SourceError, SourceObject, arrival};

/// Objects of each source that are looked into, spread over the list.
const SAMPLES_PER_SOURCE: usize = 5;
/// Bytes of each.
const SAMPLE_BYTES: u64 = 128 * 1024;
/// Of Parquet, a row group is read as a whole or not at all.
const ROW_GROUP_SAMPLED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Decompressed bytes of each, at most.
const DECOMPRESSED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes that are decompressed at a time.
const STEP_BYTES: usize = 32 * 1024;

/// What sampling found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Samples {
    /// Events that will be selected, estimated.
    pub events: u64,
    /// Bytes that were read for it.
    pub bytes_read: u64,
}

/// What a part of an object has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Events in it.
    selected: u64,
    /// Bytes of the object that it stands for.
    bytes: u64,
}

/// Samples all sources.
pub async fn sources(
    client: &aws_sdk_s3::Client,
    run: &Run,
    selects: &[CheckedSelect],
    shape: &ResultShape,
    lists: &[Vec<SourceObject>],
) -> Result<Samples, PlanError> {
    let fetcher = Fetcher::new(client.clone());
    let mut samples = Samples::default();
    for (index, (objects, select)) in lists.iter().zip(selects).enumerate() {
        let mut sum = Part::default();
        for object in spread(objects) {
            let part = sample(&fetcher, run, select, shape, index, object).await?;
            sum.selected += part.selected;
            sum.bytes += part.bytes;
        }
        let total: u64 = objects.iter().map(|object| object.size).sum();
        samples.events += scale(sum, total);
    }
    samples.bytes_read = fetcher.bytes_read();
    Ok(samples)
}

/// Events of `total` bytes that are like a part.
fn scale(part: Part, total: u64) -> u64 {
    let estimate = (u128::from(part.selected) * u128::from(total)).checked_div(u128::from(part.bytes));
    estimate.map_or(0, |estimate| u64::try_from(estimate).unwrap_or(u64::MAX))
}

/// Some objects with content, evenly spread.
fn spread(objects: &[SourceObject]) -> Vec<&SourceObject> {
    let filled: Vec<_> = objects.iter().filter(|object| object.size > 0).collect();
    let count = filled.len().min(SAMPLES_PER_SOURCE);
    (0..count).map(|n| filled[(2 * n + 1) * filled.len() / (2 * count)]).collect()
}

/// Events in the head of an object. Rows that are cut off or invalid count for nothing; whether they matter is not for an
/// estimate to say. Data that are damaged, and types that do not fit, fail planning rather than a run that was approved.
async fn sample(
    fetcher: &Fetcher,
    run: &Run,
    select: &CheckedSelect,
    shape: &ResultShape,
    index: usize,
    object: &SourceObject,
) -> Result<Part, PlanError> {
    let source = &run.spec.sources[index];
    let reading = reading(source, 1)?;
    let mut worker = worker(run, select, shape, index, object, &reading).await?;
    if reading.format == SourceFormat::Parquet {
        let mut open = ObjectReader::new(fetcher, object).open(&reading.columns).await?;
        if open.first_group_bytes > ROW_GROUP_SAMPLED_BYTES_MAX {
            // Too much to read for an estimate: as if every row were an event.
            return Ok(Part { selected: open.rows, bytes: object.size });
        }
        let Some(rows) = open.next().await else { return Ok(Part { selected: 0, bytes: object.size }) };
        let rows = rows?;
        let bytes = u128::from(object.size) * rows.num_rows() as u128 / u128::from(open.rows.max(1));
        let batch = Batch::Rows { object: 0, first_row: 1, rows, schema: Arc::clone(&open.schema) };
        let selected = selected(&mut worker, &batch)?;
        return Ok(Part { selected, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) });
    }
    let head = fetcher.range(object, 0, object.size.min(SAMPLE_BYTES)).await?;
    let (blocks, bytes) = blocks(object, &head, &reading)?;
    let mut events = 0;
    for block in blocks {
        events += selected(&mut worker, &Batch::Lines(block))?;
    }
    Ok(Part { selected: events, bytes })
}

fn selected(worker: &mut Worker, batch: &Batch) -> Result<u64, ExtractError> {
    let mut selected = 0;
    worker.batch(batch, &mut |processed| {
        selected += processed.counts.selected;
        true
    })?;
    Ok(selected)
}

async fn worker(
    run: &Run,
    select: &CheckedSelect,
    shape: &ResultShape,
    index: usize,
    object: &SourceObject,
    reading: &Reading,
) -> Result<Worker, PlanError> {
    let source = &run.spec.sources[index];
    let shared = Shared {
        source: source.name.clone(),
        source_ordinal: u16::try_from(index).unwrap_or(u16::MAX),
        objects: vec![object.clone()].into(),
        first_object: 0,
        allowed: vec![object.arrival.map(|arrived| arrival::event_times(source, arrived))],
        slicing: Slicing::new(&run.spec.window),
        normalizer: Normalizer::new(shape.clone()),
        event_time: shape.event_time,
        event_type: shape.event_type,
    };
    let evaluator = Evaluator::new(select).await?;
    Ok(Worker::new(Arc::new(shared), Decoder::new(reading.format, &reading.columns), evaluator))
}

/// The lines that the head of an object has, and how many of its bytes they took.
fn blocks(object: &SourceObject, head: &[u8], reading: &Reading) -> Result<(Vec<Block>, u64), SourceError> {
    let corrupt = |source| SourceError::Corrupt { object: object.uri(), source };
    let mut blocks = Vec::new();
    let mut splitter = match reading.format {
        SourceFormat::Csv => LineSplitter::csv(0),
        SourceFormat::JsonLines | SourceFormat::Parquet => LineSplitter::new(0),
    };
    let mut decompressor = Decompressor::new(reading.compression).map_err(corrupt)?;
    let (mut taken, mut given) = (0, 0);
    for step in head.chunks(STEP_BYTES) {
        decompressor
            .push(step, &mut |bytes| {
                given += bytes.len();
                // What compresses a thousandfold is not held as a whole.
                if given <= DECOMPRESSED_BYTES_MAX {
                    splitter.push(bytes, &mut blocks);
                }
            })
            .map_err(corrupt)?;
        taken += step.len() as u64;
        if given > DECOMPRESSED_BYTES_MAX {
            break;
        }
    }
    blocks.extend(splitter.finish());
    match blocks.first().filter(|_| reading.format == SourceFormat::Csv).and_then(|block| header_problem(block, &reading.columns)) {
        Some(problem) => Err(SourceError::Unreadable { object: object.uri(), format: "Csv", problem }),
        None => Ok((blocks, taken)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_in_proportion() {
        assert_eq!(scale(Part { selected: 10, bytes: 100 }, 1000), 100);
        assert_eq!(scale(Part { selected: u64::MAX, bytes: 1 }, u64::MAX), u64::MAX);
        assert_eq!(scale(Part::default(), 1000), 0);
    }

    #[test]
    fn samples_are_spread_and_never_empty_objects() {
        let objects: Vec<_> = (0..100u64)
            .map(|n| SourceObject { bucket: "b".into(), key: format!("{n}"), version: None, etag: "e".into(), size: n % 2, arrival: None })
            .collect();
        let keys: Vec<_> = spread(&objects).into_iter().map(|o| o.key.as_str()).collect();
        assert_eq!(keys, ["11", "31", "51", "71", "91"]);
        assert_eq!(spread(&objects[..2]).len(), 1);
        assert!(spread(&objects[..1]).is_empty());
    }
}
