//! Other generations of a job, as the artifact store has them: what the earlier ones planned and where what they published
//! lies, and whether there is a later one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};
use weir_crds::{
    backfill_job::{SliceOrder, Window},
    contract::{
        digest::Sha256Digest,
        keys::RunKeys,
        manifest::{PartRef, Published, PublishedPartition, Staged, StagedBucket},
        names::RunId,
        plan::{Plan, PlannedSink},
        progress::BucketProgress,
        run::RunSpec,
    },
    window::{Slice, SliceId},
};
use weir_kafka::range::Range;
use weir_ledger::{Ledger, LedgerError};

use super::error::PublishError;
use crate::{
    run::{self, Run, RunError, find, read},
    target::{in_sequence, kafka_sink},
};

/// An earlier generation that was planned. One without a plan has published nothing.
#[derive(Debug)]
pub struct Earlier {
    pub run: RunId,
    pub spec: RunSpec,
    pub plan: Plan,
    keys: RunKeys,
    plan_hash: Sha256Digest,
}

/// What a generation published of one slice in one bucket.
#[derive(Debug)]
pub struct Done {
    slice: SliceId,
    bucket: String,
    partitions: BTreeMap<i32, PublishedPartition>,
    /// Where that is not all of it: the digest of the staged part, and how many of its rows were gone through.
    in_part: Option<(String, u64)>,
}

/// All of them, the first one first.
pub async fn earlier(run: &Run) -> Result<Vec<Earlier>, RunError> {
    let own = &run.context.run;
    let mut all = Vec::new();
    for generation in numbers(run).await?.into_iter().filter(|generation| *generation < own.generation) {
        let id = RunId { generation, ..own.clone() };
        let keys = RunKeys::new(&run.context.store.prefix, &id);
        let Some((plan, plan_hash)) = find(&run.ledger, &keys.plan()).await? else { continue };
        let (spec, _) = read(&run.ledger, &keys.run()).await?;
        all.push(Earlier { run: id, spec, plan, keys, plan_hash });
    }
    Ok(all)
}

/// A later generation that is planned, or over without a plan.
pub async fn later(run: &Run) -> Result<Option<u32>, LedgerError> {
    let own = &run.context.run;
    for generation in numbers(run).await?.into_iter().filter(|generation| *generation > own.generation) {
        let keys = RunKeys::new(&run.context.store.prefix, &RunId { generation, ..own.clone() });
        if run.ledger.head(&keys.plan()).await?.is_some() || run.ledger.head(&keys.outcome()).await?.is_some() {
            return Ok(Some(generation));
        }
    }
    Ok(None)
}

async fn numbers(run: &Run) -> Result<Vec<u32>, LedgerError> {
    let folders = run.ledger.folders(run.keys.job()).await?;
    let mut numbers: Vec<u32> = folders.iter().filter_map(|folder| RunKeys::generation_of(folder)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

impl Earlier {
    /// Whether it had this target. Its producers go by the sink's name, which must be the same then.
    pub fn published_to(&self, sink: &PlannedSink) -> Result<bool, PublishError> {
        let is_same = |then: &&PlannedSink| then.cluster_id == sink.cluster_id && then.topic_id == sink.topic_id;
        match self.plan.sinks.iter().find(is_same) {
            None => Ok(false),
            Some(then) if then.name == sink.name => Ok(true),
            Some(then) => {
                Err(PublishError::SinkRenamed { generation: self.run.generation, then: then.name.clone(), now: sink.name.clone() })
            }
        }
    }

    /// Whether an event may now belong to another slice or partition of the sink than it did then. Partitions follow from the
    /// key, slices from the time; both come from the objects, what the sources say of them, and what is made of that. And of
    /// rows with the same id the first of its slice stands: which one that is follows from the slices, and from which rows
    /// the sink can take. What another version of the worker makes of a row may be something else.
    pub fn places_otherwise(&self, plan: &Plan, spec: &RunSpec, sink: &str) -> bool {
        let slices = |spec: &RunSpec| Window { order: SliceOrder::default(), ..spec.window.clone() };
        let found = |plan: &Plan| {
            let planned = plan.sinks.iter().find(|planned| planned.name == sink);
            planned.map(|planned| (planned.partitions, planned.max_message_bytes))
        };
        self.plan.worker_image != plan.worker_image
            || self.plan.objects.digest != plan.objects.digest
            || self.spec.sources != spec.sources
            || self.spec.reconstruct.columns != spec.reconstruct.columns
            || slices(&self.spec) != slices(spec)
            || kafka_sink(&self.spec, sink).map(|(_, declared)| declared) != kafka_sink(spec, sink).map(|(_, declared)| declared)
            || found(&self.plan) != found(plan)
    }

    /// Whether a record of its progress is of the plan that the store has: it may have been planned again since.
    pub fn has_planned(&self, record: &BucketProgress) -> bool {
        record.plan_hash == self.plan_hash
    }

    /// Takes its record from those of a bucket, and leaves one of another plan.
    pub fn take_record(&self, records: &mut BTreeMap<u32, BucketProgress>) -> Option<BucketProgress> {
        let is_planned = records.get(&self.run.generation).is_some_and(|record| self.has_planned(record));
        if is_planned { records.remove(&self.run.generation) } else { None }
    }

    /// What it published of a bucket's slices. `progress` is its last progress of the bucket, by the plan that the store has; nobody
    /// of it may be publishing any more.
    pub async fn done(
        &self,
        ledger: &Ledger,
        bucket: &str,
        progress: Option<&BucketProgress>,
        wanted: impl Fn(&Slice) -> bool,
    ) -> Result<Vec<Done>, PublishError> {
        let last = progress.and_then(|progress| progress.at.as_ref());
        // Where slices go in order, one that progress has left behind has a manifest.
        let reached =
            last.and_then(|at| self.plan.slices.iter().position(|slice| slice.id == at.slice)).filter(|_| in_sequence(&self.spec));
        let left_behind: BTreeSet<_> = self.plan.slices[..reached.unwrap_or(0)].iter().map(|slice| &slice.id).collect();
        let mut done = Vec::new();
        for slice in self.plan.slices.iter().filter(|slice| wanted(slice)) {
            let of = |partitions, in_part| Done { slice: slice.id.clone(), bucket: bucket.to_owned(), partitions, in_part };
            match self.manifest::<Published>(ledger, &self.keys.published(&slice.id, bucket)).await? {
                Some(manifest) => done.push(of(manifest.partitions, None)),
                None if left_behind.contains(&slice.id) => {
                    return Err(PublishError::ManifestGone { slice: slice.id.to_string(), bucket: bucket.to_owned() });
                }
                // Its last slice may be published in part.
                None => {
                    let at = last.filter(|at| at.slice == slice.id);
                    done.extend(at.map(|at| of(at.partitions.clone(), Some((at.part.clone(), at.rows)))));
                }
            }
        }
        if progress.is_none() && ledger.head(&self.keys.publishing(bucket)).await.map_err(RunError::Store)?.is_some() {
            let what = format!("there is no progress record of generation {}", self.run.generation);
            return Err(PublishError::ProgressLost { bucket: bucket.to_owned(), what });
        }
        Ok(done)
    }

    /// What was staged of it: the part, and how many of its rows were gone through. `None`: nothing. An error where the artifact
    /// store has not kept it.
    pub async fn staged(&self, ledger: &Ledger, done: &Done) -> Result<Option<(PartRef, u64)>, PublishError> {
        if done.partitions.is_empty() {
            return Ok(None);
        }
        let key = self.keys.staged(&done.slice);
        let manifest: Option<Staged> = self.manifest(ledger, &key).await?;
        let Some(manifest) = manifest else { return Err(RunError::Missing { key }.into()) };
        let Some(StagedBucket { part, .. }) = manifest.buckets.into_iter().find(|staged| staged.bucket == done.bucket) else {
            let what = format!("it has no part of bucket {}, which has published some", done.bucket);
            return Err(PublishError::Part { key, what });
        };
        let rows = match &done.in_part {
            None => part.rows,
            Some((then, rows)) if part.digest.to_string() == *then => *rows,
            Some((then, _)) => return Err(PublishError::Part { key: part.key, what: format!("progress was made in the part {then}") }),
        };
        Ok(Some((part, rows)))
    }

    async fn manifest<B: Serialize + DeserializeOwned>(&self, ledger: &Ledger, key: &str) -> Result<Option<B>, RunError> {
        run::manifest(ledger, key, &self.run, self.plan_hash).await
    }
}

/// Where the records lie: for each partition one range, from the first to the last.
pub fn ranges(done: &[Done]) -> Vec<Range> {
    let mut ranges = BTreeMap::new();
    for (partition, published) in done.iter().flat_map(|done| &done.partitions) {
        let Some(offsets) = published.offsets else { continue };
        let range = ranges.entry(*partition).or_insert(Range { partition: *partition, first: offsets.first, end: offsets.last + 1 });
        range.first = range.first.min(offsets.first);
        range.end = range.end.max(offsets.last + 1);
    }
    ranges.into_values().collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec() -> Value {
        let s3 = json!({"region": "eu-central-1"});
        json!({
            "format": 1, "run": {"namespace": "n", "name": "j", "generation": 1}, "class": "default",
            "store": {"bucket": "b", "s3": s3}, "sourceStore": s3,
            "window": {"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T08:00:00Z", "slice": "1h"},
            "sources": [],
            "reconstruct": {"columns": {"eventId": "id", "eventTime": "at", "eventType": "type", "key": "user"}},
            "sinks": [{"name": "events", "kafka": {
                "clusterRef": {"name": "main"}, "topic": "app_events", "mode": "InPlace",
                "value": {"format": "Json", "columns": ["id", "at"]}, "partitioner": "Murmur2", "timestamps": "EventTime",
                "ordering": "PerKey",
            }}],
        })
    }

    fn plan() -> Value {
        let digest = "0".repeat(64);
        json!({
            "format": 1, "run": {"namespace": "n", "name": "j", "generation": 1}, "runDigest": digest, "workerImage": "w",
            "slices": [], "sources": [], "objects": {"key": "o", "sha256": digest, "bytes": 0, "rows": 1}, "chunks": [],
            "sinks": [{"name": "events", "cluster": "k", "clusterId": "c", "topic": "t", "topicId": "i", "partitions": 3, "maxMessageBytes": 9}],
            "resultColumns": [], "sizing": {"extractBytes": 1, "slicesPerUnit": 1, "bucketsPerUnit": 1},
            "estimates": {"events": 1, "bytes": 1, "objects": 1}, "sampledBytes": 0,
        })
    }

    /// Whether events have other places after a value was set.
    fn otherwise(spec_pointer: Option<(&str, Value)>, plan_pointer: Option<(&str, Value)>) -> bool {
        let (mut now, mut planned) = (spec(), plan());
        for (document, change) in [(&mut now, spec_pointer), (&mut planned, plan_pointer)] {
            if let Some((pointer, value)) = change {
                *document.pointer_mut(pointer).unwrap() = value;
            }
        }
        let (then, then_planned): (RunSpec, Plan) = (serde_json::from_value(spec()).unwrap(), serde_json::from_value(plan()).unwrap());
        let run = then.run.clone();
        let earlier = Earlier { keys: RunKeys::new("", &run), run, spec: then, plan: then_planned, plan_hash: Sha256Digest::default() };
        earlier.places_otherwise(&serde_json::from_value(planned).unwrap(), &serde_json::from_value(now).unwrap(), "events")
    }

    #[test]
    fn events_have_other_places_if_anything_differs_that_decides_on_them() {
        assert!(!otherwise(None, None));
        assert!(!otherwise(Some(("/run/generation", json!(2))), None), "the same again");
        let kafka = "/sinks/0/kafka";
        for (pointer, value) in [
            // Of two rows with the same id in an hour another one stands in each of its quarters.
            ("/window/slice", json!("15m")),
            ("/window/start", json!("2026-11-03T06:10:00Z")),
            (
                "/window",
                json!({"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T08:00:00Z", "slice": "1h",
                "exclude": [{"start": "2026-11-03T06:00:00Z", "end": "2026-11-03T06:10:00Z", "reason": "known"}]}),
            ),
            ("/reconstruct/columns/key", json!("account")),
            // A row that could not be written before, and came first.
            (&format!("{kafka}/value/columns"), json!(["id"])),
            (&format!("{kafka}/timestamps"), json!("ReplayTime")),
        ] {
            assert!(otherwise(Some((pointer, value)), None), "{pointer}");
        }
        let other = json!({"key": "o", "sha256": "1".repeat(64), "bytes": 0, "rows": 1});
        let worker = json!("an image of another version");
        let sink = [("/sinks/0/partitions", json!(4)), ("/sinks/0/maxMessageBytes", json!(10))];
        for (pointer, value) in [("/objects", other), ("/workerImage", worker)].into_iter().chain(sink) {
            assert!(otherwise(None, Some((pointer, value))), "{pointer}");
        }
    }
}
