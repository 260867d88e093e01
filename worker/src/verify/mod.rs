//! `verify`: what a `read_committed` reader of the target sees of a slice is what was staged.
//!
//! It reads the recorded ranges back and compares counts and digests. It changes nothing.

pub mod error;
pub mod ranges;

use std::sync::Arc;

use weir_crds::{
    backfill_job::{KafkaMode, KafkaSink},
    contract::manifest::{Published, Staged, Verified},
};
use weir_kafka::{
    Admin,
    range::{Isolation, Reader},
};

pub use error::VerifyError;
use ranges::Expected;

use crate::{
    progress::Counters,
    run::PlannedRun,
    target::{self, TargetError},
};

/// Verifies slices of one plan.
pub struct Verifier {
    planned: PlannedRun,
    spec: Arc<KafkaSink>,
    reader: Arc<Reader>,
    counters: Counters,
}

impl Verifier {
    /// Looks at whether the target is the one that was planned with.
    pub async fn new(planned: PlannedRun, counters: Counters) -> Result<Self, VerifyError> {
        let sink = planned.plan.sinks.first().cloned().ok_or(VerifyError::NoSink)?;
        let spec = planned.run.spec.sinks.first().and_then(|sink| sink.kafka.clone()).map(Arc::new).ok_or(VerifyError::NoSink)?;
        let config = planned.run.kafka(&sink.cluster)?;
        let admin = Admin::new(&config).map_err(TargetError::Admin)?;
        target::check(&admin, &sink).await?;
        let reader = Arc::new(Reader::new(&config, &sink.topic, Isolation::Committed).map_err(VerifyError::Read)?);
        Ok(Self { planned, spec, reader, counters })
    }

    /// Verifies one slice; the caller puts the manifest. `None`: the slice is not published in all buckets, so there is
    /// nothing to say yet.
    pub async fn verify(&self, slice: usize) -> Result<Option<Verified>, VerifyError> {
        let PlannedRun { run, plan, .. } = &self.planned;
        let slice = plan.slices[slice].id.clone();
        let mut all_published = Vec::new();
        for bucket in plan.buckets() {
            let Some(published) = self.planned.manifest::<Published>(&run.keys.published(&slice, &bucket.id)).await? else {
                return Ok(None);
            };
            all_published.push((bucket, published));
        }
        let staged: Staged = self.planned.required(&run.keys.staged(&slice)).await?;
        let mut expected = Expected::new(&run.context.run, &slice, self.spec.timestamps);
        for (bucket, published) in all_published {
            let staged = staged.buckets.iter().find(|staged| staged.bucket == bucket.id).map(|staged| &staged.partitions);
            expected.add(&bucket.id, staged, &published)?;
        }
        let (reader, counters) = (Arc::clone(&self.reader), self.counters.clone());
        let task = tokio::task::spawn_blocking(move || {
            let found = expected.read(&reader, |rows, bytes| counters.add(rows, bytes))?;
            expected.compare(&found).map(|()| found)
        });
        let found = task.await.map_err(|_| VerifyError::Thread)??;
        let others = found.others();
        match self.spec.mode {
            KafkaMode::SideTopic if others > 0 => Err(VerifyError::Aliens { slice: slice.to_string(), others }),
            KafkaMode::SideTopic | KafkaMode::InPlace => Ok(Some(Verified { slice, records: found.records(), others })),
        }
    }
}
