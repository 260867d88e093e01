//! Changes retention: incremental alterations, one request for all topics.

use std::collections::BTreeMap;

use weir_crds::contract::result::error_chain;
use weir_floors::wanted::Change;
use weir_kafka::admin::ConfigChange;

use super::kafka::Kafka;

/// An answer about each topic. One that has none may have been altered: the next turn looks before it tries again.
pub async fn alter<K: Kafka>(kafka: &K, changes: &BTreeMap<String, Change>) -> BTreeMap<String, Result<(), String>> {
    if changes.is_empty() {
        return BTreeMap::new();
    }
    let wanted = changes.iter().map(|(topic, change)| (topic.clone(), alterations(change))).collect();
    match kafka.alter(wanted).await {
        Ok(answers) => answers.into_iter().map(|(topic, answer)| (topic, answer.map_err(|e| error_chain(&e)))).collect(),
        Err(error) => changes.keys().map(|topic| (topic.clone(), Err(error_chain(&error)))).collect(),
    }
}

fn alterations(change: &Change) -> BTreeMap<String, ConfigChange> {
    let one = |(key, value): (&str, Option<&str>)| {
        let change = value.map_or(ConfigChange::Reset, |value| ConfigChange::Set(value.to_owned()));
        (key.to_owned(), change)
    };
    change.alterations().into_iter().map(one).collect()
}
