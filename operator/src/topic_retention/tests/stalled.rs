//! Policies that do not do what they say, as series.

use std::sync::Arc;

use super::world::{TOPIC, World, policy};
use crate::topic_retention::reconcile_policy;

fn series(world: &World) -> Vec<String> {
    let metrics = world.ctx.metrics.render().unwrap();
    metrics.lines().filter_map(|line| line.strip_prefix("weir_policy_stalled")).map(str::to_owned).collect()
}

fn stalled(reason: &str) -> Vec<String> {
    vec![format!("{{policy=\"growth/events\",reason=\"{reason}\"}} 1")]
}

#[tokio::test]
async fn a_policy_is_named_while_it_is_stalled() {
    let mut world = World::new("Enforce");
    world.pass(1).await;
    assert_eq!(series(&world), Vec::<String>::new());
    let other = world.kafka().topics[TOPIC].clone();
    let mut with_other = policy("Enforce");
    with_other.spec.topics.names.push("app_other".into());
    with_other.metadata.generation = Some(2);
    world.scene.policies = vec![Arc::new(with_other)];
    world.pass(1).await;
    assert_eq!(series(&world), stalled("TopicMissing"));
    world.grant(&["Read"]);
    world.pass(1).await;
    assert_eq!(series(&world), stalled("GrantMissing"));
    world.grant(&["Govern"]);
    world.kafka().topics.insert("app_other".into(), other);
    world.pass(1).await;
    assert_eq!(series(&world), Vec::<String>::new());
    world.memory = Default::default();
    world.kafka().is_away = true;
    assert!(world.try_turn().await.0.is_err());
    assert_eq!(series(&world), stalled("ClusterUnreachable"));
    // The cache of policies has none.
    world.ctx.keep_present();
    assert_eq!(series(&world), Vec::<String>::new());
}

#[tokio::test]
async fn a_policy_without_a_cluster_is_named_and_one_that_does_not_lead_names_none() {
    let ctx = Arc::new(World::new("Enforce").ctx);
    reconcile_policy(Arc::new(policy("Enforce")), Arc::clone(&ctx)).await.unwrap();
    let text = ctx.metrics.render().unwrap();
    assert!(text.contains(&format!("weir_policy_stalled{}", stalled("ClusterMissing")[0])), "{text}");
    ctx.metrics.leads(false);
    assert!(!ctx.metrics.render().unwrap().contains("weir_policy_stalled{"));
}
