//! Targets that would refuse, lose or change the events are refused when the run is planned.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use tokio_util::sync::CancellationToken;
use weir_crds::{
    contract::{plan::PlannedSink, result::FailureCode, units::Verb},
    window::Slicing,
};
use weir_kafka::admin::ConfigChange;
use weir_worker::{
    decode::types::timestamp_type,
    plan::{PlanError, sample::Samples, targets},
    select::ResultShape,
    termination::Explain as _,
};

use crate::{
    must, rows, run,
    world::{PARTITIONS, World},
};

fn shape() -> ResultShape {
    let fields = vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("at", timestamp_type(), true),
        Field::new("type", DataType::Utf8, true),
        Field::new("user", DataType::Int64, true),
    ];
    ResultShape { schema: Arc::new(Schema::new(fields)), event_id: 0, event_time: 1, event_type: 2, key: Some(3) }
}

async fn plan(world: &World) -> Result<(), PlanError> {
    describe(world, 1).await.map(drop)
}

/// The targets as planning of a generation finds them.
pub async fn describe(world: &World, generation: u32) -> Result<Vec<PlannedSink>, PlanError> {
    let run = world.run(generation).await;
    targets::describe(&run, &Slicing::new(&run.spec.window), &shape()).await
}

/// Planning for the topic is refused for what `field` of the sink says, and the problem is told in these words.
async fn must_refuse(world: &World, field: &str, words: &str) {
    let error = plan(world).await.unwrap_err();
    assert_eq!((error.code(), error.field()), (FailureCode::TargetUnsuitable, Some(format!("spec.sinks[0].kafka.{field}"))), "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn settings_that_are_in_the_way_are_refused_when_the_run_is_planned() {
    let world = World::new("settings").await;
    plan(&world).await.unwrap();
    let cases: [(&str, &[(&str, &str)], &str, &str); 5] = [
        ("compacted", &[("cleanup.policy", "compact")], "mode", "cleanup.policy"),
        ("short", &[("retention.ms", "3600000")], "timestamps", "retention.ms is 3600000"),
        ("stamped", &[("retention.ms", "-1"), ("message.timestamp.type", "LogAppendTime")], "timestamps", "LogAppendTime"),
        (
            "young",
            &[("retention.ms", "-1"), ("message.timestamp.before.max.ms", "3600000")],
            "timestamps",
            "message.timestamp.before.max.ms",
        ),
        ("lonely", &[("retention.ms", "-1"), ("min.insync.replicas", "2")], "topic", "min.insync.replicas is 2"),
    ];
    for (name, config, field, words) in cases {
        let world = World { topic: format!("{}-{name}", world.topic), ..World::new(name).await };
        world.create_topic(&world.topic, PARTITIONS, config).await;
        must_refuse(&world, field, words).await;
    }
}

/// Writes live records as some other producer would.
async fn live(world: &World, partitioner: &str, value: impl Fn(u32) -> String) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &world.kafka().bootstrap_servers[0]).set("partitioner", partitioner).create().unwrap();
    let sends = (0..60).map(|number| {
        let (producer, value) = (producer.clone(), value(number));
        async move {
            let key = number.to_string();
            let record = FutureRecord::to(&world.topic).key(&key).payload(&value);
            producer.send(record, std::time::Duration::from_secs(10)).await.map(drop).map_err(|(error, _)| error)
        }
    });
    futures::future::try_join_all(sends).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn live_records_that_are_unlike_ours_are_found_before_anything_is_published() {
    let like = |number: u32| format!(r#"{{"id": "live-{number}", "at": {number}, "user": {number}}}"#);
    let world = World::new("alike").await;
    live(&world, "murmur2_random", like).await;
    plan(&world).await.unwrap();
    let world = World::new("elsewhere").await;
    live(&world, "consistent_random", like).await;
    must_refuse(&world, "partitioner", "live keys lie in another partition").await;
    let world = World::new("types").await;
    live(&world, "murmur2_random", |number| format!(r#"{{"id": "live-{number}", "user": "{number}"}}"#)).await;
    must_refuse(&world, "value.columns", "user would be a JSON Number").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn a_topic_without_room_for_the_events_is_refused() {
    let world = World::new("narrow").await;
    let sinks = describe(&world, 1).await.unwrap();
    let run = world.run(1).await;
    let per_partition = 1_000_000;
    let samples = Samples { events: per_partition / 100 * PARTITIONS as u64, rows: 70, bytes: 7_000, ..Samples::default() };
    targets::require_room(&run, &sinks, &samples).await.unwrap();
    world.set("retention.bytes", ConfigChange::Set(per_partition.to_string())).await;
    targets::require_room(&run, &sinks, &samples).await.unwrap();
    world.set("retention.bytes", ConfigChange::Set((per_partition - 1).to_string())).await;
    let unsure = Samples { events_error_percent: 5, ..samples };
    targets::require_room(&run, &sinks, &unsure).await.unwrap();
    let error = targets::require_room(&run, &sinks, &samples).await.unwrap_err();
    assert_eq!((error.code(), error.field().as_deref()), (FailureCode::TargetUnsuitable, Some("spec.sinks[0].kafka.topic")), "{error}");
    assert!(error.to_string().contains("retention.bytes is 999999"), "{error}");
}

/// What retention does to slices that are published is no longer the publisher's concern.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn only_what_is_left_to_publish_must_be_kept() {
    let world = World::new("kept").await;
    let first = world.planned(1, &rows()).await;
    must(&first, &[Verb::Assemble, Verb::Publish]).await;
    world.set("retention.ms", ConfigChange::Set("3600000".to_owned())).await;
    must(&first, &[Verb::Publish]).await;
    let second = world.planned(2, &rows()).await;
    must(&second, &[Verb::Assemble]).await;
    let codes = run(&second, Verb::Publish, &CancellationToken::new()).await;
    assert!(codes.iter().all(|code| *code == FailureCode::TargetUnsuitable) && !codes.is_empty(), "{codes:?}");
}
