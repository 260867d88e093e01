//! The controller of BackfillClasses: whether the artifact store of each can be read, and whether one is default.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use weir_crds::{
    BackfillClass,
    backfill_class::{BackfillClassSpec, BackfillClassStatus},
    conditions::{self, ConditionType, Wanted},
    contract::result::error_chain,
    validate::FieldError,
};

use crate::{
    context::{Context, FIELD_MANAGER},
    quantity,
};

/// A class that is ready is looked at again after this.
const READY_INTERVAL: Duration = Duration::from_secs(60);
const UNREADY_INTERVAL: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// A folder that no run has: namespaces have no dots. Listing it is the cheapest question that needs the right to list.
const PROBE_FOLDER: &str = ".weir-probe/";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("status cannot be written")]
    Status(#[source] kube::Error),
}

pub async fn reconcile(class: Arc<BackfillClass>, ctx: Arc<Context>) -> Result<Action, Error> {
    let others = ctx.classes.state();
    let checked = match invalid(&class, others.iter().map(AsRef::as_ref)) {
        Some(problem) => Err(problem),
        None => probe(&class, &ctx).await,
    };
    let again = if checked.is_ok() { READY_INTERVAL } else { UNREADY_INTERVAL };
    let status = status(&class, checked, Timestamp::now());
    if class.status.as_ref() != Some(&status) {
        write(&class, &ctx, &status).await?;
    }
    Ok(Action::requeue(again))
}

type Problem = (&'static str, String);

/// What is wrong with a class by itself and beside the others. Pure.
fn invalid<'a>(class: &BackfillClass, others: impl Iterator<Item = &'a BackfillClass>) -> Option<Problem> {
    if let Some(fault) = malformed(&class.spec).first() {
        return Some(("InvalidSpec", fault.to_string()));
    }
    // The one that was made first stays the default.
    let age = |c: &BackfillClass| (c.metadata.creation_timestamp.as_ref().map(|t| t.0), c.name_any());
    let first = others.filter(|o| o.spec.default && class.spec.default).min_by_key(|o| age(o))?;
    (age(first) < age(class)).then(|| {
        let message =
            format!("spec.default: BackfillClass {} is the default already; set default to false in one of them", first.name_any());
        ("SeveralDefaults", message)
    })
}

/// What is wrong with a class by itself.
pub fn malformed(class: &BackfillClassSpec) -> Vec<FieldError> {
    let quantities = [("memory", &class.workers.memory), ("scratch", &class.workers.scratch)];
    let wrong = quantities.into_iter().filter(|(_, quantity)| quantity::bytes(quantity).is_err());
    let fault = |(field, quantity): (&str, &Quantity)| FieldError {
        field: format!("spec.workers.{field}"),
        message: format!("{:?} is not a quantity of bytes", quantity.0),
        remedy: "write it as `512Mi` or `4Gi`".into(),
    };
    wrong.map(fault).collect()
}

async fn probe(class: &BackfillClass, ctx: &Context) -> Result<(), Problem> {
    let store = ctx.stores.of(class).await.map_err(|e| ("CredentialsMissing", error_chain(&e)))?;
    let prefix = &class.spec.artifact_store.prefix;
    let folder = if prefix.is_empty() { PROBE_FOLDER.to_owned() } else { format!("{prefix}/{PROBE_FOLDER}") };
    match tokio::time::timeout(PROBE_TIMEOUT, store.list(&folder, None)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(("StoreUnreachable", error_chain(&error))),
        Err(_) => Err(("StoreUnreachable", format!("the artifact store did not answer within {} s", PROBE_TIMEOUT.as_secs()))),
    }
}

fn status(class: &BackfillClass, checked: Result<(), Problem>, now: Timestamp) -> BackfillClassStatus {
    let old = class.status.as_ref().map_or(&[][..], |s| &s.conditions);
    let (ready, reason, message) = match checked {
        Ok(()) => (true, "StoreReachable", "the artifact store answers".to_owned()),
        Err((reason, message)) => (false, reason, message),
    };
    let wanted = vec![Wanted { kind: ConditionType::Ready, status: Some(ready), reason: reason.into(), message }];
    let generation = class.metadata.generation;
    BackfillClassStatus { observed_generation: generation, conditions: conditions::merge(old, wanted, generation, now) }
}

async fn write(class: &BackfillClass, ctx: &Context, status: &BackfillClassStatus) -> Result<(), Error> {
    let name = class.name_any();
    let patch = serde_json::json!({
        "apiVersion": BackfillClass::api_version(&()),
        "kind": BackfillClass::kind(&()),
        "metadata": {"name": name, "uid": class.uid()},
        "status": status,
    });
    let api: Api<BackfillClass> = Api::all(ctx.client.clone());
    match api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(gone)) if gone.code == 404 || gone.code == 409 => Ok(()),
        Err(error) => Err(Error::Status(error)),
    }
}
