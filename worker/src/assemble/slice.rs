//! The work on one slice, on a thread of its own: segments in, parts on the scratch disk out.

use std::collections::BTreeMap;

use bytes::Bytes;
use datafusion::arrow::{array::RecordBatch, buffer::Buffer, ipc::reader::StreamDecoder};
use tokio::runtime::Handle;
use weir_crds::contract::{
    manifest::{ReasonCount, RecordsDigest, StagedCounts},
    plan::PlannedSink,
};

use super::{
    accounts::Accounts,
    error::AssembleError,
    record::{Recorder, Refusal, Space},
    row::{self, RowRef},
    share::ChunkShare,
    sink,
    spill::Assembly,
};
use crate::{
    extract::quarantine::{QuarantineWriter, QuarantinedRow, WrittenQuarantine},
    run::{PlannedRun, RunError},
    source::{SourceObject, object_list},
    staged::{PartWriter, StagedRecord, WrittenPart},
};

/// How much of a refused record's value is kept: as for other quarantined rows.
const RAW_BYTES_MAX: usize = crate::decode::reject::RAW_BYTES_MAX;

/// A slice that is being assembled.
pub struct SliceWork {
    planned: PlannedRun,
    sink: PlannedSink,
    recorder: Recorder,
    assembly: Assembly,
    accounts: Accounts,
    quarantine: Option<QuarantineWriter>,
    objects: Objects,
    space: Space,
}

/// A slice that is assembled.
#[derive(Debug)]
pub struct Assembled {
    pub by: Vec<StagedCounts>,
    /// Those with rows, in the plan's order.
    pub buckets: Vec<AssembledBucket>,
    pub quarantine: Option<WrittenQuarantine>,
    pub reasons: Vec<ReasonCount>,
    /// More rows are invalid than the job allows. Those that were set aside are put all the same, for people to look at.
    pub over_limit: Option<AssembleError>,
}

#[derive(Debug)]
pub struct AssembledBucket {
    pub bucket: String,
    pub written: WrittenPart,
    pub partitions: BTreeMap<i32, RecordsDigest>,
}

impl SliceWork {
    pub fn new(planned: &PlannedRun, slice: usize, budget_bytes: usize, buffer: row::Buffer) -> Result<Self, AssembleError> {
        let (spec, sink) = sink(planned)?;
        let PlannedRun { run, plan, .. } = planned;
        Ok(Self {
            recorder: Recorder::new(&run.spec.reconstruct.columns, &spec, &sink, &run.context.run, &plan.slices[slice].id),
            sink,
            assembly: Assembly::new(run.scratch.clone(), budget_bytes, buffer),
            accounts: Accounts::new(plan.sources.iter().map(|source| source.name.clone()).collect()),
            quarantine: None,
            objects: Objects { planned: planned.clone(), list: None, last: None },
            space: Space::default(),
            planned: planned.clone(),
        })
    }

    /// Adds a segment of a source's rows.
    pub fn add(&mut self, source: u16, segment: &Bytes) -> Result<(), AssembleError> {
        // What is not compressed is looked at where it lies.
        let mut rest = Buffer::from(segment.clone());
        let mut decoder = StreamDecoder::new();
        while let Some(batch) = decoder.decode(&mut rest).map_err(AssembleError::Decode)? {
            self.add_batch(source, &batch)?;
        }
        // A segment that was cut off ends within a message.
        decoder.finish().map_err(AssembleError::Decode)
    }

    fn add_batch(&mut self, source: u16, batch: &RecordBatch) -> Result<(), AssembleError> {
        let Self { recorder, assembly, accounts, space, .. } = self;
        let source_name = accounts.source(source).to_owned();
        let mut refused = Vec::new();
        let bound = recorder.bind(batch, source, &source_name)?;
        for index in 0..batch.num_rows() {
            match bound.render(index, space) {
                Ok(row) => {
                    accounts.selected(source, row.event_type.as_str())?;
                    assembly.push(&row, &mut |dropped| accounts.duplicate(dropped.origin.source, dropped.event_type.as_str()))?;
                }
                Err((refusal, row)) => {
                    accounts.selected(source, row.event_type.as_str())?;
                    accounts.quarantined(source, row.event_type.as_str(), refusal.clone());
                    refused.push((refusal, set_aside(&row, &source_name), row.origin.object));
                }
            }
        }
        for (refusal, row, object) in refused {
            self.quarantine(&refusal, row, object)?;
        }
        Ok(())
    }

    fn quarantine(&mut self, refusal: &Refusal, row: QuarantinedRow, object: u32) -> Result<(), AssembleError> {
        let object = self.objects.get(object)?;
        let pin = object.version.clone().unwrap_or_else(|| object.etag.clone());
        let row = QuarantinedRow { reason: refusal.reason(), object: object.uri(), pin, ..row };
        if self.quarantine.is_none() {
            let file = self.planned.run.scratch.file().map_err(RunError::Scratch)?;
            self.quarantine = Some(QuarantineWriter::new(file).map_err(quarantine_failed)?);
        }
        match &mut self.quarantine {
            Some(writer) => writer.push(&row).map_err(quarantine_failed),
            None => Ok(()),
        }
    }

    /// Sorts what was added and writes the parts; checks the sums. Returns a buffer for the next slice too.
    pub fn finish(self, shares: &[ChunkShare]) -> Result<(Assembled, row::Buffer), AssembleError> {
        let Self { planned, sink, recorder, assembly, accounts, quarantine, .. } = self;
        // Both ends of the pass count into the accounts, one at a time.
        let accounts = std::cell::RefCell::new(accounts);
        let mut parts: BTreeMap<u32, (PartWriter, BTreeMap<i32, RecordsDigest>)> = BTreeMap::new();
        let mut dropped = |row: RowRef<'_>| accounts.borrow_mut().duplicate(row.origin.source, row.event_type.as_str());
        let buffer = assembly.finish::<AssembleError>(&mut dropped, |row| {
            let mut accounts = accounts.borrow_mut();
            let record = StagedRecord {
                partition: row.partition,
                key: row.key,
                value: row.value,
                timestamp_ms: recorder.timestamp_ms(row.time_us),
                event_id: row.event_id.as_str(),
                source: accounts.source(row.origin.source),
                event_type: row.event_type.as_str(),
            };
            let number = sink.bucket_of(row.partition);
            if let std::collections::btree_map::Entry::Vacant(entry) = parts.entry(number) {
                entry.insert((PartWriter::new(&planned.run.scratch), BTreeMap::new()));
            }
            if let Some((writer, partitions)) = parts.get_mut(&number) {
                writer.push(&record)?;
                partitions.entry(row.partition).or_default().count(record.view());
            }
            accounts.staged(row.origin.source, row.event_type.as_str());
            Ok(())
        })?;
        let accounts = accounts.into_inner();
        accounts.check(shares)?;
        let mut buckets = Vec::new();
        for (number, (writer, partitions)) in parts {
            buckets.push(AssembledBucket { bucket: format!("{}-{number}", sink.name), written: writer.finish()?, partitions });
        }
        let quarantine = quarantine.map(|writer| writer.finish().map_err(quarantine_failed)).transpose()?;
        let over_limit = accounts.check_limit(&planned.run.spec.reconstruct, shares).err();
        Ok((Assembled { by: accounts.by(), buckets, quarantine, reasons: accounts.reasons(), over_limit }, buffer))
    }
}

fn quarantine_failed(error: crate::extract::ExtractError) -> AssembleError {
    AssembleError::Quarantine(Box::new(error))
}

/// A refused row, as far as it is known without the list of objects. Its raw bytes are what it would have been published
/// as; the source's own are at the place that it names.
fn set_aside(row: &RowRef<'_>, source: &str) -> QuarantinedRow {
    QuarantinedRow {
        detail: format!("event {:?}", row.event_id.as_str()),
        source: source.to_owned(),
        row: row.origin.row,
        sub: row.origin.sub,
        event_time_us: Some(row.time_us),
        event_type: Some(row.event_type.as_str().to_owned()),
        raw: row.value[..row.value.len().min(RAW_BYTES_MAX)].to_vec(),
        raw_bytes: row.value.len() as u64,
        ..QuarantinedRow::default()
    }
}

/// The plan's list of objects, read when the first row is set aside.
struct Objects {
    planned: PlannedRun,
    list: Option<Bytes>,
    last: Option<(u32, SourceObject)>,
}

impl Objects {
    fn get(&mut self, ordinal: u32) -> Result<SourceObject, AssembleError> {
        if let Some((last, object)) = &self.last
            && *last == ordinal
        {
            return Ok(object.clone());
        }
        let list = match &self.list {
            Some(list) => list.clone(),
            None => self.list.insert(self.fetch()?).clone(),
        };
        let object = object_list::read(list, ordinal, 1)?.into_iter().next().ok_or(AssembleError::Thread)?;
        self.last = Some((ordinal, object.clone()));
        Ok(object)
    }

    fn fetch(&self) -> Result<Bytes, AssembleError> {
        let PlannedRun { run, plan, .. } = &self.planned;
        let list = Handle::current().block_on(run.ledger.get(&plan.objects.key))?;
        let list = list.ok_or_else(|| RunError::Missing { key: plan.objects.key.clone() })?;
        let found = plan.objects.digest.of_same_kind(&list);
        if found == plan.objects.digest {
            Ok(list)
        } else {
            Err(AssembleError::Segment { key: plan.objects.key.clone(), offset: 0, said: plan.objects.digest, found })
        }
    }
}
