//! One chunk from source to parts.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use weir_crds::backfill_job::{Compression, Source, SourceFormat};
use weir_crds::columns::Columns;
use weir_crds::contract::manifest::{Extracted, PartRef, SliceSegments};
use weir_crds::contract::plan::PlannedChunk;
use weir_crds::contract::run::RunSpec;
use weir_crds::window::Slicing;

use super::counts::Counts;
use super::error::ExtractError;
use super::pipeline::{self, Reading};
use super::quarantine::{QuarantineWriter, WrittenQuarantine};
use super::segments::{SegmentWriter, Written};
use super::work::{Processed, Shared, Worker, segment_schema};
use crate::decode::{Batch, Decoder, Spare, UnknownFields, csv};
use crate::progress::Counters;
use crate::run::PlannedRun;
use crate::scratch::Scratch;
use crate::select::{CheckedSelect, Evaluator, Normalizer, ResultShape};
use crate::source::{Fetcher, SourceObject, arrival, object_list};

/// Undeclared fields that a manifest lists.
const UNKNOWN_FIELDS_LISTED_MAX: usize = 100;
/// Where the rest is counted.
const OTHER_FIELDS: &str = "(others)";

/// Extracts chunks of one plan.
pub struct Extractor {
    planned: PlannedRun,
    source_client: aws_sdk_s3::Client,
    counters: Counters,
    /// Blocks that are worked on side by side.
    threads: usize,
    selects: Vec<CheckedSelect>,
    shape: ResultShape,
    object_list: bytes::Bytes,
}

impl Extractor {
    /// Loads the plan's list of objects and compiles the selects again, from the same text that was planned with.
    pub async fn new(planned: PlannedRun, counters: Counters, threads: usize) -> Result<Self, ExtractError> {
        let run = &planned.run;
        let (selects, shape) = compile(&run.spec).await?;
        let objects = &planned.plan.objects;
        let object_list = run.ledger.get(&objects.key).await?.ok_or(ExtractError::ObjectListDigest)?;
        if objects.digest.of_same_kind(&object_list) != objects.digest {
            return Err(ExtractError::ObjectListDigest);
        }
        let source_client = weir_ledger::s3_client(&run.spec.source_store, run.credentials_dir.as_deref()).await?;
        Ok(Self { planned, source_client, counters, threads: threads.max(1), selects, shape, object_list })
    }

    /// Extracts one chunk and puts its parts. Without the manifest that the caller puts next, none of it exists.
    pub async fn extract(&self, chunk: &PlannedChunk) -> Result<Extracted, ExtractError> {
        let source = self.planned.run.spec.sources.get(usize::from(chunk.source)).ok_or_else(|| misfit(chunk))?;
        let select = self.selects.get(usize::from(chunk.source)).ok_or_else(|| misfit(chunk))?;
        let objects: Arc<[SourceObject]> = object_list::read(self.object_list.clone(), chunk.first_object, chunk.objects)?.into();
        let shared = Arc::new(self.shared(chunk, source, &objects));
        let reading = reading(source, self.planned.run.memory_bytes)?;
        let mut workers = Vec::new();
        for _ in 0..self.threads {
            let evaluator = Evaluator::new(select).await?;
            workers.push(Worker::new(Arc::clone(&shared), Decoder::new(reading.format, &reading.columns), evaluator));
        }
        let fetcher = Fetcher::new(self.source_client.clone());
        let output = Output::create(chunk, &self.planned.run.scratch, &shared)?;
        let output = self.process(&fetcher, &objects, reading, workers, output).await?;
        let bytes_read = fetcher.bytes_read();
        self.put(chunk, source, output, bytes_read).await
    }

    fn shared(&self, chunk: &PlannedChunk, source: &Source, objects: &Arc<[SourceObject]>) -> Shared {
        Shared {
            source: source.name.clone(),
            source_ordinal: chunk.source,
            objects: Arc::clone(objects),
            first_object: chunk.first_object,
            allowed: objects.iter().map(|object| object.arrival.map(|a| arrival::event_times(source, a))).collect(),
            slicing: Slicing::new(&self.planned.run.spec.window),
            normalizer: Normalizer::new(self.shape.clone()),
            event_time: self.shape.event_time,
            event_type: self.shape.event_type,
        }
    }

    /// Batches go to the workers side by side, and what becomes of them is put together in order.
    async fn process(
        &self,
        fetcher: &Fetcher,
        objects: &Arc<[SourceObject]>,
        reading: Reading,
        workers: Vec<Worker>,
        mut output: Output,
    ) -> Result<Output, ExtractError> {
        let spare = Spare::default();
        let crew = Crew { free: Arc::new(Semaphore::new(workers.len())), idle: Arc::new(Mutex::new(workers)), spare: spare.clone() };
        let started =
            pipeline::batches(fetcher, objects, reading, spare).map(|batch| async { crew.start(batch?).await }).buffered(self.threads);
        let mut started = std::pin::pin!(started);
        let mut before = 0;
        while let Some(Started { mut results, task }) = started.try_next().await? {
            while let Some(processed) = results.recv().await {
                let now = fetcher.bytes_read();
                self.counters.add(processed.counts.read, now - before);
                before = now;
                // Flushing compresses megabytes and writes to disk.
                let added = tokio::task::spawn_blocking(move || output.add(processed).map(|()| output)).await;
                output = added.map_err(|_| ExtractError::Thread)??;
            }
            // A thread that ended early has not given all its rows; that must never look like the end of them.
            task.await.map_err(|_| ExtractError::Thread)??;
        }
        Ok(output)
    }

    async fn put(&self, chunk: &PlannedChunk, source: &Source, output: Output, bytes_read: u64) -> Result<Extracted, ExtractError> {
        let finished = tokio::task::spawn_blocking(move || output.finish()).await.map_err(|_| ExtractError::Thread)??;
        let Finished { counts, unknown, written, quarantine } = finished;
        let PlannedRun { run, .. } = &self.planned;
        counts.check(&chunk.id)?;
        let data = if written.rows > 0 {
            let key = run.keys.extracted_part(&chunk.id, &written.digest.short());
            run.ledger.put_part_file(&key, written.file.path()).await?;
            Some(PartRef { key, digest: written.digest, bytes: written.bytes, rows: written.rows })
        } else {
            None
        };
        let quarantine = if quarantine.rows > 0 {
            let key = run.keys.quarantine_part(&chunk.id, &quarantine.sha256.short());
            run.ledger.put_part_file(&key, quarantine.file.path()).await?;
            Some(PartRef { key, digest: quarantine.sha256.into(), bytes: quarantine.bytes, rows: quarantine.rows })
        } else {
            None
        };
        Ok(self.manifest(chunk, source, &counts, unknown, written, data, quarantine, bytes_read))
    }

    #[expect(clippy::too_many_arguments, reason = "what the manifest says, each from another part")]
    fn manifest(
        &self,
        chunk: &PlannedChunk,
        source: &Source,
        counts: &Counts,
        unknown: UnknownFields,
        written: Written,
        data: Option<PartRef>,
        quarantine: Option<PartRef>,
        bytes_read: u64,
    ) -> Extracted {
        let slice_id = |index: usize| self.planned.plan.slices.get(index).map(|slice| slice.id.clone());
        let index = written.segments.into_iter().filter_map(|(slice, segments)| {
            let rows = segments.iter().map(|segment| segment.rows).sum();
            Some(SliceSegments { slice: slice_id(slice)?, rows, segments })
        });
        Extracted {
            chunk: chunk.id.clone(),
            source: source.name.clone(),
            bytes_read,
            read: counts.read,
            expanded: counts.expanded,
            filtered_out: counts.filtered_out,
            invalid: counts.invalid,
            invalid_outside: counts.invalid_outside,
            outside_window: counts.outside_window,
            late: counts.late,
            selected: counts.selected,
            invalid_by: counts.invalid_by(slice_id),
            by_times: counts.by_times(&Slicing::new(&self.planned.run.spec.window)),
            unknown_fields: listed(unknown),
            data,
            index: index.collect(),
            quarantine,
            reasons: counts.most_frequent_reasons(),
        }
    }
}

/// Parses and checks all selects of a run.
pub async fn compile(run: &RunSpec) -> Result<(Vec<CheckedSelect>, ResultShape), ExtractError> {
    let mut selects = Vec::new();
    for source in &run.sources {
        // Also what the format cannot hold; nothing is read.
        reading(source, 0)?;
        selects.push(CheckedSelect::new(&source.name, &parse_columns(source)?, &source.select).await?);
    }
    let shape = ResultShape::merge(&selects, &run.reconstruct.columns)?;
    Ok((selects, shape))
}

/// The declared columns of a source.
pub fn parse_columns(source: &Source) -> Result<Columns, ExtractError> {
    Columns::parse(&source.columns).map_err(|error| ExtractError::Columns { origin: source.name.clone(), source: error })
}

/// How a source's objects are read, with so much memory.
pub fn reading(source: &Source, memory_bytes: u64) -> Result<Reading, ExtractError> {
    let columns = parse_columns(source)?;
    let format = source.s3.as_ref().map_or(SourceFormat::JsonLines, |s3| s3.format);
    let compression = source.s3.as_ref().and_then(|s3| s3.compression).unwrap_or(Compression::None);
    if format == SourceFormat::Csv
        && let Some(column) = csv::unsupported(&columns)
    {
        return Err(ExtractError::NestedCsv { origin: source.name.clone(), column: column.to_owned() });
    }
    Ok(Reading { format, compression, columns, memory_bytes })
}

fn misfit(chunk: &PlannedChunk) -> ExtractError {
    ExtractError::Plan(format!("chunk {} is of source number {}, which the run has not", chunk.id, chunk.source))
}

fn listed(unknown: UnknownFields) -> std::collections::BTreeMap<String, u64> {
    let mut fields: Vec<_> = unknown.by_path.into_iter().collect();
    fields.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let rest: u64 = fields.iter().skip(UNKNOWN_FIELDS_LISTED_MAX).map(|(_, count)| count).sum::<u64>() + unknown.others;
    fields.truncate(UNKNOWN_FIELDS_LISTED_MAX);
    if rest > 0 {
        fields.push((OTHER_FIELDS.to_owned(), rest));
    }
    fields.into_iter().collect()
}

/// The workers of a chunk, one for each batch in flight.
#[derive(Clone)]
struct Crew {
    free: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Worker>>>,
    spare: Spare,
}

/// A batch that a worker is at.
struct Started {
    results: mpsc::Receiver<Processed>,
    task: JoinHandle<Result<(), ExtractError>>,
}

impl Crew {
    /// Waits for a worker and gives it a batch. The worker waits in turn whenever its results are not taken.
    async fn start(&self, batch: Batch) -> Result<Started, ExtractError> {
        let permit = Arc::clone(&self.free).acquire_owned().await.map_err(|_| ExtractError::Thread)?;
        let (sender, results) = mpsc::channel(1);
        let (idle, spare) = (Arc::clone(&self.idle), self.spare.clone());
        let task = tokio::task::spawn_blocking(move || {
            // One that panicked is gone, and so is the chunk.
            let worker = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut worker = worker.ok_or(ExtractError::Thread)?;
            let done = worker.batch(&batch, &mut |processed| sender.blocking_send(processed).is_ok());
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
            drop(permit);
            if let Batch::Lines(block) = batch {
                spare.give(block);
            }
            done
        });
        Ok(Started { results, task })
    }
}

/// Where the blocks of a chunk come together.
struct Output {
    chunk: String,
    segments: SegmentWriter,
    quarantine: QuarantineWriter,
    counts: Counts,
    unknown: UnknownFields,
}

struct Finished {
    counts: Counts,
    unknown: UnknownFields,
    written: Written,
    quarantine: WrittenQuarantine,
}

impl Output {
    fn create(chunk: &PlannedChunk, scratch: &Scratch, shared: &Shared) -> Result<Self, ExtractError> {
        let file = || scratch.file().map_err(ExtractError::Scratch);
        Ok(Self {
            chunk: chunk.id.to_string(),
            segments: SegmentWriter::new(file()?, segment_schema(&shared.normalizer)),
            quarantine: QuarantineWriter::new(file()?)?,
            counts: Counts::default(),
            unknown: UnknownFields::default(),
        })
    }

    fn add(&mut self, block: Processed) -> Result<(), ExtractError> {
        for (slice, rows) in block.selected {
            self.segments.push(slice, rows)?;
        }
        for row in &block.set_aside {
            self.quarantine.push(row)?;
        }
        self.counts.add(block.counts);
        self.unknown.merge(block.unknown);
        self.counts.check_types(&self.chunk)
    }

    fn finish(self) -> Result<Finished, ExtractError> {
        Ok(Finished { counts: self.counts, unknown: self.unknown, written: self.segments.finish()?, quarantine: self.quarantine.finish()? })
    }
}
