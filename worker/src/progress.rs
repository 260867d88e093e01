//! How far a worker is, for people to see: `progress/<unit>.json`, overwritten every few seconds. Nothing is ever decided
//! by it, so a write that fails is only logged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::task::JoinHandle;
use weir_crds::contract::{manifest::to_bytes, progress::UnitProgress};

use crate::run::Run;

/// Often enough for rates and an ETA, rarely enough to cost nothing.
const INTERVAL: Duration = Duration::from_secs(5);

/// Counts what is done. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    items_done: AtomicU32,
    items_total: AtomicU32,
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    pub fn set_items_total(&self, items: usize) {
        self.inner.items_total.store(u32::try_from(items).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub fn item_done(&self) {
        self.inner.items_done.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add(&self, rows: u64, bytes: u64) {
        self.inner.rows.fetch_add(rows, Ordering::Relaxed);
        self.inner.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn items_done(&self) -> u32 {
        self.inner.items_done.load(Ordering::Relaxed)
    }
}

/// Writes the counters until it is stopped.
pub struct Reporter {
    task: JoinHandle<()>,
    run: Run,
    counters: Counters,
    started_at: jiff::Timestamp,
}

impl Reporter {
    /// Begins to report; the first report is written at once.
    pub fn start(run: &Run, counters: &Counters) -> Self {
        let started_at = jiff::Timestamp::now();
        let (run, counters) = (run.clone(), counters.clone());
        let task = tokio::spawn({
            let (run, counters) = (run.clone(), counters.clone());
            async move {
                let mut ticks = tokio::time::interval(INTERVAL);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    report(&run, &counters, started_at).await;
                }
            }
        });
        Self { task, run, counters, started_at }
    }

    /// Writes the last report.
    pub async fn stop(self) {
        self.task.abort();
        // A write of the task that is still under way must not come after the last one.
        let _ = self.task.await;
        report(&self.run, &self.counters, self.started_at).await;
    }
}

async fn report(run: &Run, counters: &Counters, started_at: jiff::Timestamp) {
    let Counters { inner } = counters;
    let progress = UnitProgress {
        unit: run.context.unit.clone(),
        attempt: run.context.attempt,
        items_done: inner.items_done.load(Ordering::Relaxed),
        items_total: inner.items_total.load(Ordering::Relaxed),
        rows: inner.rows.load(Ordering::Relaxed),
        bytes: inner.bytes.load(Ordering::Relaxed),
        started_at,
        updated_at: jiff::Timestamp::now(),
    };
    if let Err(error) = run.ledger.overwrite(&run.keys.progress(&run.context.unit), Bytes::from(to_bytes(&progress))).await {
        tracing::warn!(%error, "progress was not written");
    }
}
