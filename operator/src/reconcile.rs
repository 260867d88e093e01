//! A decorator around every reconciliation, so that timing, counting and the log line of a failure cannot be forgotten.

use std::{error::Error, fmt::Debug, future::Future, sync::Arc, time::Instant};

use kube::{Resource, ResourceExt as _, runtime::controller::Action};
use weir_crds::contract::result::error_chain;

use crate::metrics::{Metrics, Outcome};

pub async fn measured<K, F, E>(object: Arc<K>, metrics: Arc<Metrics>, reconcile: F) -> Result<Action, E>
where
    K: Resource<DynamicType = ()> + Debug,
    F: Future<Output = Result<Action, E>>,
    E: Error + 'static,
{
    let kind = K::kind(&()).into_owned();
    measured_as(kind, object, metrics, reconcile).await
}

/// Of a controller that is not that of the object's kind.
pub async fn measured_as<K, F, E>(kind: String, object: Arc<K>, metrics: Arc<Metrics>, reconcile: F) -> Result<Action, E>
where
    K: Resource<DynamicType = ()> + Debug,
    F: Future<Output = Result<Action, E>>,
    E: Error + 'static,
{
    let begun = Instant::now();
    let result = reconcile.await;
    let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
    if let Err(error) = &result {
        let (name, namespace) = (object.name_any(), object.namespace());
        tracing::warn!(kind, name, namespace, error = error_chain(error), "a reconciliation failed");
    }
    metrics.reconciled(kind, outcome, begun.elapsed());
    result
}
