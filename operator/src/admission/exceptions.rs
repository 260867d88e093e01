//! Exceptions before they are there: whoever breaks the glass hears at once where it does not break.

use jiff::Timestamp;
use kube::ResourceExt as _;
use weir_crds::{RetentionException, validate::FieldError};
use weir_floors::{spec, text};

use super::caches::Caches;

pub fn faults(exception: &RetentionException, caches: &Caches, now: Timestamp) -> Vec<FieldError> {
    let RetentionException { spec: it, .. } = exception;
    let Some(cluster) = caches.cluster(&it.cluster_ref.name) else {
        return vec![FieldError {
            field: "spec.clusterRef.name".into(),
            message: format!("there is no KafkaCluster {}", it.cluster_ref.name),
            remedy: "name one of `kubectl get kafkaclusters`".into(),
        }];
    };
    let namespace = exception.namespace().unwrap_or_default();
    let is_denied = |(_, topic): &(usize, &String)| !spec::governs(&cluster.spec, &namespace, topic);
    let denied = it.topics.iter().enumerate().filter(is_denied).map(|(index, topic)| FieldError {
        field: format!("spec.topics[{index}]"),
        message: format!("KafkaCluster {} does not grant Govern on topic {topic} to namespace {namespace}", cluster.name_any()),
        remedy: "add it to spec.grants of the cluster, or create the exception in a namespace that has it".into(),
    });
    let mut faults: Vec<FieldError> = denied.collect();
    let (until, longest_ms) = (it.until.0, spec::exception_max_ms(&cluster.spec));
    let left_ms = until.as_millisecond() - now.as_millisecond();
    let wrong = if left_ms <= 0 {
        Some(format!("{until} is past"))
    } else if left_ms > longest_ms {
        Some(format!("{until} is in {}, and an exception lasts for at most {}", text::rough(left_ms), text::exact(longest_ms)))
    } else {
        None
    };
    faults.extend(wrong.map(|message| FieldError {
        field: "spec.until".into(),
        message,
        remedy: format!("name a time up to {}", text::second(now.as_millisecond() + longest_ms)),
    }));
    faults
}

/// What the exception changes nothing of.
pub fn idle(exception: &RetentionException, caches: &Caches) -> Vec<String> {
    let it = &exception.spec;
    let one = |topic: &String| {
        let floor = caches.floor(&it.cluster_ref.name, topic);
        let standing = floor.as_ref().and_then(|floor| floor.status.as_ref()?.standing.as_ref());
        match standing {
            None => Some(format!("topic {topic} has no floor: the exception changes nothing there")),
            Some(standing) => {
                let floor_ms = standing.floor_ms.filter(|floor_ms| *floor_ms <= it.floor.as_micros() / 1000)?;
                Some(format!("the floor of topic {topic} is {}, which {} does not lower", text::exact(floor_ms), it.floor))
            }
        }
    };
    it.topics.iter().filter_map(one).collect()
}
