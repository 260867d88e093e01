//! How many events there will be, from the heads of some objects; and what going through them takes. An estimate, and its
//! bytes are counted apart.

use std::sync::Arc;
use std::time::Instant;

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

/// Objects of each source that are looked into, spread over the list: what share of the rows is selected changes with the time
/// of day, and at the window's ends.
const SAMPLES_PER_SOURCE: usize = 32;
/// Bytes of each.
const SAMPLE_BYTES: u64 = 64 * 1024;
/// … of one whose rows may lie on both sides of an end of the window: its head alone is more inside than the rest, or less.
const EDGE_SAMPLE_BYTES: u64 = 4 * 1024 * 1024;
/// The error that is told at least: heads of objects are not the whole of them.
const ERROR_PERCENT_MIN: f64 = 5.0;
/// Of a normal distribution, 95 % lie within so many standard deviations.
const DEVIATIONS: f64 = 1.96;
/// Of Parquet, a row group is read as a whole or not at all: larger ones until so many bytes of a source are read.
const ROW_GROUP_SAMPLED_BYTES_MAX: u64 = 4 * 1024 * 1024;
const ROW_GROUPS_SAMPLED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Decompressed bytes of each, at most.
const DECOMPRESSED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes that are decompressed at a time.
const STEP_BYTES: usize = 32 * 1024;

/// What sampling found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Samples {
    /// Events that will be selected, estimated.
    pub events: u64,
    /// How far off that may be, in percent.
    pub events_error_percent: u32,
    /// Rows of what was looked at, and the objects' bytes that they are.
    pub rows: u64,
    pub bytes: u64,
    /// Bytes that were read for it.
    pub bytes_read: u64,
    /// What going through the samples took.
    pub cost: Cost,
}

/// What decompressing, decoding and selecting took, on one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Time.
    pub seconds: f64,
    /// Bytes of the objects.
    pub bytes: u64,
    /// Rows in them.
    pub rows: u64,
}

impl Cost {
    fn add(&mut self, part: &Part, since: Instant) {
        self.seconds += since.elapsed().as_secs_f64();
        self.bytes += part.bytes;
        self.rows += part.rows;
    }
}

/// What a part of an object has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Events in it; `None`: too much to read for an estimate.
    selected: Option<u64>,
    rows: u64,
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
    let (mut samples, mut variance, mut is_guessed) = (Samples::default(), 0.0, false);
    let window = Slicing::new(&run.spec.window).window();
    for (index, (objects, select)) in lists.iter().zip(selects).enumerate() {
        let strata = strata(objects);
        let reading = reading(&run.spec.sources[index], run.memory_bytes)?;
        let chosen: Vec<SourceObject> = strata.iter().map(|stratum| stratum.object.clone()).collect();
        let mut worker = worker(run, select, shape, index, &chosen, &reading).await?;
        let (mut parts, mut budget) = (Vec::new(), ROW_GROUPS_SAMPLED_BYTES_MAX);
        for (number, object) in chosen.iter().enumerate() {
            let times = object.arrival.map(|arrived| arrival::event_times(&run.spec.sources[index], arrived));
            let is_inside = times.is_some_and(|times| window.start_us <= times.start_us && times.end_us <= window.end_us);
            let bytes = if is_inside { SAMPLE_BYTES } else { EDGE_SAMPLE_BYTES };
            let object = (number, object);
            parts.push(match reading.format {
                SourceFormat::Parquet => row_group(&fetcher, &mut worker, &reading, object, &mut budget, &mut samples.cost).await?,
                SourceFormat::JsonLines | SourceFormat::Csv => {
                    head(&fetcher, &mut worker, &reading, object, bytes, &mut samples.cost).await?
                }
            });
        }
        samples.rows += parts.iter().map(|part| part.rows).sum::<u64>();
        samples.bytes += parts.iter().map(|part| part.bytes).sum::<u64>();
        let estimate = estimate(&strata, &parts);
        samples.events += estimate.events;
        variance += estimate.variance;
        is_guessed |= estimate.is_guessed;
    }
    let error_percent = if is_guessed { 100.0 } else { 100.0 * DEVIATIONS * variance.sqrt() / samples.events.max(1) as f64 };
    samples.events_error_percent = error_percent.clamp(ERROR_PERCENT_MIN, 100.0).ceil() as u32;
    samples.bytes_read = fetcher.bytes_read();
    Ok(samples)
}

/// Events of a source, and the variance of that number.
struct Estimate {
    events: u64,
    variance: f64,
    /// Nothing tells how far off it may be.
    is_guessed: bool,
}

/// Each stratum is like its sample, or like all others on average; how much neighbours differ tells how much that may be wrong.
fn estimate(strata: &[Stratum<'_>], parts: &[Part]) -> Estimate {
    let filled: Vec<(&Stratum<'_>, &Part)> = strata.iter().zip(parts).filter(|(_, part)| part.bytes > 0).collect();
    let density = |selected: u64, part: &Part| selected as f64 / part.bytes as f64;
    let looked_into = filled.iter().filter_map(|(stratum, part)| Some((stratum.bytes as f64, density(part.selected?, part))));
    let shares: Vec<(f64, f64)> = looked_into.collect();
    let bytes: f64 = filled.iter().map(|(stratum, _)| stratum.bytes as f64).sum();
    let seen: f64 = shares.iter().map(|(bytes, _)| bytes).sum();
    if seen == 0.0 {
        // As if every row were an event.
        let events: f64 = filled.iter().map(|(stratum, part)| stratum.bytes as f64 * density(part.rows, part)).sum();
        return Estimate { events: events.round() as u64, variance: 0.0, is_guessed: bytes > 0.0 };
    }
    let events = shares.iter().map(|(bytes, density)| bytes * density).sum::<f64>() * bytes / seen;
    let pairs = shares.windows(2).map(|pair| {
        let [(bytes, density), (_, next)] = pair else { return 0.0 };
        // Half the squared difference of two neighbours is the variance of either.
        (bytes * (density - next)).powi(2) / 2.0
    });
    let variance = pairs.sum::<f64>() * (bytes / seen).powi(2);
    let is_whole = filled.iter().all(|(stratum, part)| part.selected.is_some() && part.bytes >= stratum.bytes);
    Estimate { events: events.round() as u64, variance, is_guessed: shares.len() == 1 && !is_whole }
}

/// Neighbouring objects with content, and one of them that stands for all.
struct Stratum<'a> {
    object: &'a SourceObject,
    bytes: u64,
}

/// Cuts the objects with content into as many strata as there are samples.
fn strata(objects: &[SourceObject]) -> Vec<Stratum<'_>> {
    let filled: Vec<_> = objects.iter().filter(|object| object.size > 0).collect();
    let count = filled.len().min(SAMPLES_PER_SOURCE);
    let part = |n: usize| &filled[n * filled.len() / count..(n + 1) * filled.len() / count];
    (0..count).map(|n| Stratum { object: part(n)[part(n).len() / 2], bytes: part(n).iter().map(|object| object.size).sum() }).collect()
}

/// Events in the head of an object. Rows that are cut off or invalid count for nothing; whether they matter is not for an
/// estimate to say. Data that are damaged, and types that do not fit, fail planning rather than a run that was approved.
async fn head(
    fetcher: &Fetcher,
    worker: &mut Worker,
    reading: &Reading,
    (number, object): (usize, &SourceObject),
    bytes: u64,
    cost: &mut Cost,
) -> Result<Part, PlanError> {
    // The samples of a source are few.
    let ordinal = number as u32;
    let head = fetcher.range(object, 0, object.size.min(bytes)).await?;
    let since = Instant::now();
    let (blocks, bytes) = blocks(ordinal, object, &head, reading)?;
    let (mut rows, mut events) = (0, 0);
    for block in blocks {
        rows += block.line_count() as u64;
        events += selected(worker, &Batch::Lines(block))?;
    }
    let part = Part { selected: Some(events), rows, bytes };
    cost.add(&part, since);
    Ok(part)
}

/// Events in the first rows of a Parquet object. Its row groups are read until `budget` is used up.
async fn row_group(
    fetcher: &Fetcher,
    worker: &mut Worker,
    reading: &Reading,
    (number, object): (usize, &SourceObject),
    budget: &mut u64,
    cost: &mut Cost,
) -> Result<Part, PlanError> {
    let mut open = ObjectReader::new(fetcher, object).open(&reading.columns, reading.row_group_bytes_max()).await?;
    if open.first_group_bytes > ROW_GROUP_SAMPLED_BYTES_MAX {
        let Some(left) = budget.checked_sub(open.first_group_bytes) else {
            return Ok(Part { selected: None, rows: open.rows, bytes: object.size });
        };
        *budget = left;
    }
    let since = Instant::now();
    let Some(rows) = open.next().await? else { return Ok(Part { selected: Some(0), rows: 0, bytes: object.size }) };
    let bytes = u128::from(object.size) * rows.num_rows() as u128 / u128::from(open.rows.max(1));
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let count = rows.num_rows() as u64;
    let batch = Batch::Rows { object: number as u32, first_row: 1, rows, schema: Arc::clone(&open.schema) };
    let part = Part { selected: Some(selected(worker, &batch)?), rows: count, bytes };
    cost.add(&part, since);
    Ok(part)
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
    objects: &[SourceObject],
    reading: &Reading,
) -> Result<Worker, PlanError> {
    let source = &run.spec.sources[index];
    let shared = Shared {
        source: source.name.clone(),
        source_ordinal: u16::try_from(index).unwrap_or(u16::MAX),
        objects: objects.into(),
        first_object: 0,
        allowed: objects.iter().map(|object| object.arrival.map(|arrived| arrival::event_times(source, arrived))).collect(),
        slicing: Slicing::new(&run.spec.window),
        normalizer: Normalizer::new(shape.clone()),
        event_time: shape.event_time,
        event_type: shape.event_type,
    };
    let evaluator = Evaluator::new(select).await?;
    Ok(Worker::new(Arc::new(shared), Decoder::new(reading.format, &reading.columns), evaluator))
}

/// The lines that the head of an object has, and how many of its bytes they took.
fn blocks(ordinal: u32, object: &SourceObject, head: &[u8], reading: &Reading) -> Result<(Vec<Block>, u64), SourceError> {
    let corrupt = |source| SourceError::Corrupt { object: object.uri(), source };
    let unreadable = |problem| SourceError::Unreadable { object: object.uri(), format: "Csv", problem };
    let mut blocks = Vec::new();
    let mut splitter = match reading.format {
        SourceFormat::Csv => LineSplitter::csv(ordinal),
        SourceFormat::JsonLines | SourceFormat::Parquet => LineSplitter::new(ordinal),
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
    if taken < object.size || given > DECOMPRESSED_BYTES_MAX {
        blocks.extend(splitter.finish_head());
    } else if let Some(problem) = splitter.unclosed() {
        return Err(unreadable(problem));
    } else {
        blocks.extend(splitter.finish());
    }
    match blocks.first().filter(|_| reading.format == SourceFormat::Csv).and_then(|block| header_problem(block, &reading.columns)) {
        Some(problem) => Err(unreadable(problem)),
        None => Ok((blocks, taken)),
    }
}

#[cfg(test)]
mod tests {
    use weir_crds::backfill_job::Compression;
    use weir_crds::columns::Columns;

    use super::*;

    /// What the records of a CSV object of `size` bytes are that begins with `head`: how many there are, or why there are none.
    fn csv(head: &str, size: usize) -> Result<usize, String> {
        let columns = Columns::parse("a int, s string").map_err(|error| error.to_string())?;
        let reading = Reading { format: SourceFormat::Csv, compression: Compression::None, columns, memory_bytes: 1 << 30 };
        let read = blocks(0, &object(1, size as u64), head.as_bytes(), &reading);
        read.map(|(blocks, _)| blocks.iter().map(Block::line_count).sum()).map_err(|error| error.to_string())
    }

    #[test]
    fn heads_of_csv_are_refused_for_what_is_wrong_with_the_object_and_not_for_where_they_end() {
        let cut = "a,s\n1,x\n2,\"y\n";
        assert_eq!((csv(cut, cut.len() + 10), csv("a,s\n", 4), csv("", 0)), (Ok(1), Ok(0), Ok(0)));
        let refused = [
            (cut, cut.len(), "record 3 opens a quote that is never closed"),
            ("a,s\r1,x\r", 9, "a carriage return without a line feed"),
            ("a,s\r1,x\r", 90, "a carriage return without a line feed"),
            ("1,x\n", 4, "of 2 cells, names none of the declared columns"),
            ("1,x", 3, "of 2 cells, names none of the declared columns"),
        ];
        for (head, size, expected) in refused {
            let read = csv(head, size);
            assert!(read.as_ref().is_err_and(|problem| problem.contains(expected)), "{head} of {size}: {read:?}");
        }
    }

    fn object(n: u64, size: u64) -> SourceObject {
        SourceObject { bucket: "b".into(), key: format!("{n}"), version: None, etag: "e".into(), size, arrival: None }
    }

    #[test]
    fn an_estimate_is_in_proportion_and_knows_how_sure_it_is() {
        let objects: Vec<_> = (0..4).map(|n| object(n, 1000)).collect();
        let of =
            |selected: [Option<u64>; 4]| estimate(&strata(&objects), &selected.map(|selected| Part { selected, rows: 100, bytes: 100 }));
        let alike = of([Some(10); 4]);
        assert_eq!((alike.events, alike.variance, alike.is_guessed), (400, 0.0, false));
        let in_part = of([Some(10), None, Some(10), None]);
        assert_eq!((in_part.events, in_part.is_guessed), (400, false), "others are like those that were looked into");
        let one = of([None, Some(10), None, None]);
        assert_eq!((one.events, one.is_guessed), (400, true), "nothing to compare it with");
        let none = of([None; 4]);
        assert_eq!((none.events, none.is_guessed), (4000, true), "as if every row were an event");
        let whole = Part { selected: Some(7), rows: 100, bytes: 1000 };
        let single = estimate(&strata(&objects[..1]), &[whole]);
        assert_eq!((single.events, single.is_guessed), (7, false), "all of it was read");
        let uneven = of([Some(0), Some(20), Some(0), Some(20)]);
        assert_eq!(uneven.events, 400);
        assert!(DEVIATIONS * uneven.variance.sqrt() > 400.0 * 0.5);
        let nothing_read = estimate(&strata(&objects), &[Part::default(); 4]);
        assert_eq!((nothing_read.events, nothing_read.variance), (0, 0.0));
    }

    #[test]
    fn strata_are_spread_stand_for_all_bytes_and_never_empty_objects() {
        let objects: Vec<_> = (0..1000).map(|n| object(n, n % 2)).collect();
        let strata_of = strata(&objects);
        assert_eq!((strata_of.len(), strata_of.iter().map(|stratum| stratum.bytes).sum::<u64>()), (SAMPLES_PER_SOURCE, 500));
        let keys: Vec<u64> = strata_of.iter().map(|stratum| stratum.object.key.parse().unwrap_or(0)).collect();
        assert!(keys.is_sorted() && keys[0] < 32 && keys[SAMPLES_PER_SOURCE - 1] > 968, "{keys:?}");
        assert_eq!(strata(&objects[..2]).len(), 1);
        assert!(strata(&objects[..1]).is_empty());
    }
}
