//! Drafts: for each incident of missed records a suspended BackfillJob of exactly that window, once, in the namespace of
//! the policy. It is only ever created: whoever deletes or changes it has the last word.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Resource as _, ResourceExt as _, api::PostParams, runtime::events::EventType};
use weir_crds::{
    BackfillJob, DRAFT_LABEL,
    backfill_job::{
        Approval, ApprovalMode, BackfillJobSpec, EventColumns, Execution, KafkaMode, KafkaSink, Ordering, Partitioner, Reconstruct,
        RecordTimestamps, Sink, SliceOrder, ValueEncoding, ValueFormat, Window,
    },
    contract::result::error_chain,
    duration::KubeDuration,
    refs::ObjectRef,
};
use weir_floors::{Assessment, MINUTE_MS, findings::GapCause, losses::Loss};

use super::{
    Retention, Scene,
    events::event,
    governance::{Governance, PolicyView},
    memory::Memory,
    turn::Turned,
};
use crate::{
    context::FIELD_MANAGER,
    text::{cut, qualified_name},
};

/// Drafts that are made in one turn; the rest follows in the next ones, so that many losses hold up no repair.
const DRAFTS_PER_TURN_MAX: usize = 10;
/// After a draft could not be made.
const RETRY_MS: i64 = MINUTE_MS;
/// Of `spec.reason`.
const REASON_BYTES_MAX: usize = 1024;
/// Of the topic in a draft's name.
const TOPIC_PART_MAX: usize = 60;
/// Kafka's limit of a topic's name.
const TOPIC_NAME_MAX: usize = 249;
/// Slices to choose from: at most a thousand a job.
const SLICES: [u64; 4] = [900, 3600, 6 * 3600, 24 * 3600];
const SLICES_MAX: u64 = 1000;
/// What a team's select calls its columns is for the team to say.
const COLUMNS: [&str; 3] = ["event_id", "event_time", "event_type"];

/// What should be drafted now: what will not grow, and nobody has drafted or seen to.
fn due(it: &Assessment) -> impl Iterator<Item = &Loss> {
    it.losses.iter().filter(|loss| loss.settled && loss.incident.draft.is_none() && !loss.incident.acknowledged)
}

/// The same for the same incident, whoever derives it.
fn name(topic: &str, incident: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let part: String = topic.chars().take(TOPIC_PART_MAX).map(plain).collect();
    let parts = ["draft", part.trim_matches('-'), incident];
    parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("-")
}

/// A job of exactly what was missed. Where the beginning is not known it is what the floor promised.
fn draft(cluster: &str, topic: &str, namespace: &str, it: &Assessment, loss: &Loss) -> BackfillJob {
    let found_ms = loss.incident.found_ms;
    let (first_ms, last_ms) = loss.arrived_ms();
    let promised_ms = it.floor.as_ref().and_then(|f| f.retention.millis()).unwrap_or(MINUTE_MS);
    let last_ms = last_ms.unwrap_or(found_ms);
    let begin = first_ms.unwrap_or(found_ms.saturating_sub(promised_ms)).min(last_ms).div_euclid(1000);
    let end = last_ms.div_euclid(1000) + 1;
    let second = |at: i64| Time(Timestamp::from_second(at).unwrap_or_default());
    let seconds = u64::try_from(end - begin).unwrap_or(1);
    let slice = SLICES.into_iter().find(|s| seconds <= s * SLICES_MAX).unwrap_or(SLICES[3]);
    let spec = BackfillJobSpec {
        reason: reason(topic, loss, first_ms.is_some()),
        class_name: None,
        service_account_name: String::new(),
        credentials_secret_ref: None,
        run_generation: 1,
        suspend: true,
        cancel: false,
        window: Window {
            start: second(begin),
            end: second(end),
            slice: KubeDuration::from_secs(slice),
            order: SliceOrder::OldestFirst,
            exclude: vec![],
        },
        sources: vec![],
        reconstruct: Reconstruct {
            columns: EventColumns {
                event_id: COLUMNS[0].to_owned(),
                event_time: COLUMNS[1].to_owned(),
                event_type: COLUMNS[2].to_owned(),
                key: None,
            },
            on_invalid: Default::default(),
            max_quarantined_percent: None,
        },
        sinks: vec![Sink { name: "events".to_owned(), kafka: Some(sink(cluster, topic, loss.incident.cause)) }],
        approval: Approval { mode: ApprovalMode::Manual, plan_hash: None },
        execution: Execution::default(),
    };
    let mut job = BackfillJob::new(&name(topic, &loss.incident.id), spec);
    job.metadata.namespace = Some(namespace.to_owned());
    job.labels_mut().insert(DRAFT_LABEL.to_owned(), loss.incident.id.clone());
    job
}

/// What was skipped is still in the topic, for everybody else: it goes to a topic of its own.
fn sink(cluster: &str, topic: &str, cause: GapCause) -> KafkaSink {
    const SUFFIX: &str = ".backfill";
    let (mode, topic) = match cause {
        GapCause::LogStartMoved | GapCause::TopicDeleted => (KafkaMode::InPlace, topic.to_owned()),
        GapCause::Skipped => (KafkaMode::SideTopic, topic.chars().take(TOPIC_NAME_MAX - SUFFIX.len()).chain(SUFFIX.chars()).collect()),
    };
    KafkaSink {
        cluster_ref: ObjectRef { name: cluster.to_owned() },
        topic,
        mode,
        value: ValueFormat {
            format: ValueEncoding::Json,
            nulls: Default::default(),
            timestamp_encoding: Default::default(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
        },
        key: Default::default(),
        partitioner: Partitioner::Murmur2,
        timestamps: RecordTimestamps::EventTime,
        ordering: Ordering::PerKey,
    }
}

fn reason(topic: &str, loss: &Loss, begin_is_known: bool) -> String {
    let first = loss.gaps.first().map_or_else(String::new, weir_floors::findings::Gap::says);
    let more = match loss.gaps.len().saturating_sub(1) {
        0 => String::new(),
        more => format!("; and {more} more ranges"),
    };
    let begin =
        if begin_is_known { "" } else { "; when the first of them arrived is not known, the window begins where the floor promised" };
    let text = format!(
        "drafted by weir for incident {}: topic {topic}: at most {} records that groups {} missed: {first}{more}{begin}",
        loss.incident.id,
        loss.records_max(),
        loss.groups().join(", "),
    );
    cut(&text, REASON_BYTES_MAX)
}

/// The first policy that governs the topic, or else looks at it.
fn policy<'a>(governance: &'a Governance, topic: &str) -> Option<&'a PolicyView> {
    let governs = |view: &&PolicyView| {
        let name = qualified_name(&*view.object);
        governance.topics.get(topic).is_some_and(|t| t.policies.iter().any(|p| p.governs() && p.name == name))
    };
    let mut views = governance.policies.iter().filter(|view| view.topics.iter().any(|t| t == topic));
    views.clone().find(governs).or_else(|| views.next())
}

/// Makes what is due. If this process dies between a draft and the `TopicFloor` that says so, the next one makes it again,
/// under the same name.
pub async fn make(ctx: &Retention, scene: &Scene, memory: &mut Memory, turned: &BTreeMap<String, Turned>, now: Timestamp) {
    let Memory { governance: Some(governance), topics, .. } = memory else { return };
    let mut room = DRAFTS_PER_TURN_MAX;
    for (topic, turned) in turned {
        let (Some(view), Some(remembered)) = (policy(governance, topic), topics.get_mut(topic)) else { continue };
        if now.as_millisecond() < remembered.draft_after_ms {
            continue;
        }
        let namespace = view.object.namespace().unwrap_or_default();
        for loss in due(&turned.assessment).take(room) {
            room -= 1;
            let job = draft(&scene.cluster.name_any(), topic, &namespace, &turned.assessment, loss);
            let full_name = format!("{namespace}/{}", job.name_any());
            match create(ctx, &namespace, &job).await {
                Ok(()) => {
                    remembered.history.drafted(&loss.incident.id, full_name.clone());
                    let window = &job.spec.window;
                    let note = format!(
                        "topic {topic}: BackfillJob {full_name} is drafted, suspended, for [{}, {}): give it sources and a service account, or delete it",
                        window.start.0, window.end.0
                    );
                    tell(ctx, view, EventType::Normal, "BackfillDrafted", &note).await;
                }
                Err(error) => {
                    let note = format!("topic {topic}: BackfillJob {full_name} cannot be drafted: {}", error_chain(&error));
                    tell(ctx, view, EventType::Warning, "DraftFailed", &note).await;
                    remembered.draft_after_ms = (now + SignedDuration::from_millis(RETRY_MS)).as_millisecond();
                }
            }
        }
    }
}

/// One that is there already is left as it is.
async fn create(ctx: &Retention, namespace: &str, job: &BackfillJob) -> Result<(), kube::Error> {
    let api: Api<BackfillJob> = Api::namespaced(ctx.client.clone(), namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    match api.create(&params, job).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error),
    }
}

async fn tell(ctx: &Retention, view: &PolicyView, type_: EventType, reason: &str, note: &str) {
    tracing::info!(policy = qualified_name(&*view.object), reason, note, "event");
    if let Err(error) = ctx.recorder.publish(&event(type_, reason, "Draft", note), &view.object.object_ref(&())).await {
        tracing::warn!(%error, "an event cannot be published");
    }
}
