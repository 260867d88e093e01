//! Rows that the target would refuse.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weir_crds::contract::{digest::Sha256Digest, keys::Folder, manifest::PartRef, result::FailureCode, units::Verb};
use weir_worker::source::{SourceObject, object_list};

use crate::{ROWS, SLICES, failures, rows, world::World};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a broker and a store"]
async fn rows_that_are_too_many_to_be_refused_are_there_to_be_looked_at() {
    let world = World::new("refused").await;
    let mut planned = world.planned(1, &rows()).await;
    let object = SourceObject { bucket: "b".into(), key: "logs.json".into(), version: None, etag: "e".into(), size: 1, arrival: None };
    let list = object_list::write(&[object]).unwrap();
    let digest = Sha256Digest::of(&list).into();
    let objects = PartRef { key: "real-objects".into(), digest, bytes: list.len() as u64, rows: 1 };
    planned.run.ledger.put_part(&objects.key, list).await.unwrap();
    let plan = Arc::make_mut(&mut planned.plan);
    plan.objects = objects;
    // No record fits.
    plan.sinks[0].max_message_bytes = 10;
    let failures = failures(&planned, Verb::Assemble, &CancellationToken::new()).await;
    assert_eq!(failures.len(), SLICES);
    for failure in failures {
        assert_eq!(
            (failure.code, failure.field.as_deref()),
            (FailureCode::QuarantineLimit, Some("spec.reconstruct.maxQuarantinedPercent"))
        );
        let slice = failure.item.unwrap();
        let parts = planned.run.ledger.list(&format!("{}{slice}-", planned.run.keys.folder(Folder::Quarantine)), None).await.unwrap();
        let [part] = &parts[..] else { panic!("{} parts of {slice}", parts.len()) };
        let set_aside = format!("{ROWS} rows that the target would refuse are set aside in {}", part.key);
        assert!(failure.cause.contains(&set_aside), "{} does not say: {set_aside}", failure.cause);
    }
}
