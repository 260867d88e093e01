//! Which of two statuses is the later one: our own, that the watch has not brought yet, or one that somebody has written since.

use std::{sync::Arc, time::Instant};

use weir_crds::{BackfillJob, backfill_job::Phase};

use crate::{
    backfill_job::with_latest_status,
    context::{Memory, Written},
};

use super::fixture;

fn job(version: &str, phase: Phase) -> Arc<BackfillJob> {
    let mut job = fixture::job(1);
    job.metadata.resource_version = Some(version.to_owned());
    job.status.get_or_insert_default().phase = phase;
    Arc::new(job)
}

#[test]
fn our_own_last_word_stands_until_somebody_says_another() {
    let status = job("100", Phase::Complete).status.clone().unwrap();
    let written = |version| Memory { written: Some(Written { at: Instant::now(), status: status.clone(), version }), ..Memory::default() };
    let shown = |version, memory: &Memory| with_latest_status(job(version, Phase::Running), memory).status.clone().unwrap().phase;
    let memory = written(Some(100));
    assert_eq!(shown("99", &memory), Phase::Complete, "the watch is behind");
    assert_eq!(shown("101", &memory), Phase::Running, "a leader that slept has spoken since");
    assert_eq!(shown("99", &written(None)), Phase::Running, "the object that it was written to is gone");
    assert_eq!(shown("99", &Memory::default()), Phase::Running);
}
