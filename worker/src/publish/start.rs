//! Taking a bucket over, in the one order that is right: fence, then read the end of the progress partition, then the
//! committed progress up to there, then check, then go on. The first half of it is [`weir_kafka::takeover`]'s.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use weir_crds::contract::{
    manifest::to_bytes,
    names::{RunId, progress_topic, transactional_id},
    plan::{Bucket, PlannedSink},
    progress::BucketProgress,
    result::OutcomeRecord,
};
use weir_kafka::{
    Admin, Holder, KafkaConfig, TopicDescription,
    transaction::{ProgressRecord, Session, Target},
};

use super::{
    error::PublishError,
    generations,
    progress::{Identity, Records},
};
use crate::{
    run::{PlannedRun, RunError},
    target::{self, TargetError},
};

/// What somebody lowers of a topic that a retention floor guards is put back by then, and no reason to end the run.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// `publishing/<bucket>.json`: the bucket has been begun. From then on missing progress is lost progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    pub bucket: String,
    pub transactional_id: String,
}

/// A bucket that is ours.
pub struct Started {
    pub session: Session,
    /// The last committed record.
    pub own: BucketProgress,
    pub records: Records,
    pub progress_topic: String,
}

/// Takes the bucket over from whoever had it, to publish `slices`.
pub fn start(
    identity: &Identity,
    config: &KafkaConfig,
    admin: &Admin,
    holder: &mut Holder,
    slices: &[usize],
) -> Result<Started, PublishError> {
    let since = Instant::now();
    let progress_topic = progress_topic(&identity.planned.run.context.run.namespace);
    // Before anything is written anywhere, and again once nobody else can be writing.
    Handle::current().block_on(target::check(admin, &identity.sink))?;
    let progress = require_topic(identity, admin, &progress_topic)?;
    // Looked for before progress is read: a marker that comes later is that of another attempt, which has taken over.
    let marker = identity.planned.run.keys.publishing(&identity.bucket.id);
    let has_begun = Handle::current().block_on(identity.planned.manifest::<Begun>(&marker))?.is_some();
    // From here on nothing of an earlier producer can be committed: what it left open has been ended either way.
    let run = &identity.planned.run.context.run;
    let (mut session, found) = open(run, &identity.sink, &identity.bucket, config, &progress_topic, holder)?;
    let records = identity.sort_out(&found)?;
    require_open(identity)?;
    Handle::current().block_on(target::check(admin, &identity.sink))?;
    if let Some(oldest_us) = oldest_left(identity, slices, records.own.as_ref())? {
        require_suitable(identity, admin, (&progress_topic, &progress), oldest_us)?;
    }
    let own = match &records.own {
        Some(own) => own.clone(),
        // Without a record, a marker says that there was one.
        None if has_begun => {
            let what = format!("there is no progress record {}", identity.key);
            return Err(PublishError::ProgressLost { bucket: identity.bucket.id.clone(), what });
        }
        None => begin(identity, &mut session, &progress_topic)?,
    };
    // If an earlier attempt died between its zero record and the marker, there is a record and no marker.
    mark(identity)?;
    // Whoever ends the run and then finds no marker gives back what it claimed: one of the two sees what the other has put.
    require_open(identity)?;
    tracing::info!(bucket = identity.bucket.id, seconds = since.elapsed().as_secs_f64(), transactions = own.transactions, "taken over");
    Ok(Started { session, own, records, progress_topic })
}

/// Takes a bucket over in the name of a run: its session, and the records of its progress.
pub fn open(
    run: &RunId,
    sink: &PlannedSink,
    bucket: &Bucket,
    config: &KafkaConfig,
    progress_topic: &str,
    holder: &mut Holder,
) -> Result<(Session, BTreeMap<String, Vec<u8>>), PublishError> {
    let target = Target {
        config,
        transactional_id: &transactional_id(&run.namespace, &run.name, &bucket.id),
        topic: &sink.topic,
        partitions: &bucket.partitions,
        max_message_bytes: sink.max_message_bytes,
        progress_topic,
    };
    let opened = Session::open(target, holder);
    opened.map_err(|source| PublishError::Transaction { bucket: bucket.id.clone(), own_generation: run.generation, source })
}

/// When a run is over and its workers are gone, what it claimed and did not publish is given back. A worker that comes late
/// must leave that alone; one that got past here is waited for. And once a later generation is planned, it has read what
/// there is of this one; once it is over, it has given that back.
fn require_open(identity: &Identity) -> Result<(), PublishError> {
    let run = &identity.planned.run;
    let outcome = Handle::current().block_on(run.ledger.get_json::<OutcomeRecord>(&run.keys.outcome())).map_err(RunError::Store)?;
    if let Some(OutcomeRecord { outcome, message, .. }) = outcome {
        return Err(PublishError::Over { outcome, message });
    }
    match Handle::current().block_on(generations::later(run)).map_err(RunError::Store)? {
        None => Ok(()),
        Some(generation) => Err(PublishError::Superseded { bucket: identity.bucket.id.clone(), generation }),
    }
}

/// The topic is made by the operator before any worker; one that is not there has been deleted.
fn require_topic(identity: &Identity, admin: &Admin, topic: &str) -> Result<TopicDescription, PublishError> {
    let found = Handle::current().block_on(admin.topic(topic)).map_err(TargetError::Admin)?;
    let what = format!("the progress topic {topic} is not there");
    found.ok_or_else(|| PublishError::ProgressLost { bucket: identity.bucket.id.clone(), what })
}

/// When the first slice begins of those that are still to be published: of `slices`, or left in the middle.
fn oldest_left(identity: &Identity, slices: &[usize], own: Option<&BucketProgress>) -> Result<Option<i64>, PublishError> {
    let PlannedRun { run, plan, .. } = &identity.planned;
    let last = own.and_then(|own| own.at.as_ref());
    let in_the_middle = plan.slices.iter().filter(|slice| last.is_some_and(|at| at.slice == slice.id));
    let mut candidates: Vec<_> = slices.iter().filter_map(|slice| plan.slices.get(*slice)).chain(in_the_middle).collect();
    candidates.sort_by_key(|slice| slice.interval.start_us);
    for slice in candidates {
        let published = run.keys.published(&slice.id, &identity.bucket.id);
        if Handle::current().block_on(run.ledger.head(&published)).map_err(RunError::Store)?.is_none() {
            return Ok(Some(slice.interval.start_us));
        }
    }
    Ok(None)
}

/// The target still takes and keeps events from then on.
fn require_suitable(identity: &Identity, admin: &Admin, progress: (&str, &TopicDescription), oldest_us: i64) -> Result<(), PublishError> {
    let spec = &identity.planned.run.spec;
    let deadline = Instant::now() + PUT_BACK_WITHIN;
    loop {
        match Handle::current().block_on(target::check_settings(admin, spec, &identity.sink, progress, oldest_us)) {
            Err(TargetError::Unsuitable { .. }) if Instant::now() < deadline => std::thread::sleep(LOOK_INTERVAL),
            result => return Ok(result?),
        }
    }
}

/// Commits a progress of zero.
fn begin(identity: &Identity, session: &mut Session, topic: &str) -> Result<BucketProgress, PublishError> {
    let zero = identity.record(0, None);
    commit_progress(identity, session, topic, &zero)?;
    // If we die here, the next attempt finds the zero record and puts the marker.
    Ok(zero)
}

fn commit_progress(identity: &Identity, session: &mut Session, topic: &str, record: &BucketProgress) -> Result<(), PublishError> {
    let transaction = session.begin().map_err(|source| failed(identity, source))?;
    let value = to_bytes(record);
    transaction.commit(ProgressRecord { topic, key: &identity.key, value: &value }).map_err(|source| failed(identity, source))
}

fn mark(identity: &Identity) -> Result<(), PublishError> {
    let key = identity.planned.run.keys.publishing(&identity.bucket.id);
    let begun = Begun { bucket: identity.bucket.id.clone(), transactional_id: identity.transactional_id.clone() };
    Handle::current().block_on(identity.planned.put_manifest(&key, 0.0, begun))?;
    Ok(())
}

pub fn failed(identity: &Identity, source: weir_kafka::transaction::TransactionError) -> PublishError {
    let own_generation = identity.planned.run.context.run.generation;
    PublishError::Transaction { bucket: identity.bucket.id.clone(), own_generation, source }
}
