//! NovaShop: a shop whose SDK dropped three event types for nine hours, and whose API logs still tell of them.
//!
//! `generate` writes those logs, the same bytes for the same settings, and the list of what it planted. It knows nothing of
//! weir: what weir should make of the logs is told by `e2e/truth`, in another language, from the logs themselves.

mod broken;
mod event;
mod generate;
mod line;
mod object;
mod planted;
pub mod random;
mod schedule;
mod traffic;

pub use generate::{Error, Generated, generate};
pub use planted::{Planted, PlantedObject};

/// The start of the gap, a Tuesday morning: 2026-11-03T06:00:00Z.
pub const WINDOW_START_MS: i64 = 1_793_685_600_000;
/// Nine hours in quarters.
pub const SLICES: usize = 36;
/// A quarter of an hour.
pub const SLICE_MS: i64 = 15 * 60 * 1000;
/// The end of the gap, exclusive: 15:00.
pub const WINDOW_END_MS: i64 = WINDOW_START_MS + SLICES as i64 * SLICE_MS;
/// Objects lie under the hour in which their lines arrived.
pub const HOUR_MS: i64 = 60 * 60 * 1000;
/// The greatest slice over the mean one; nothing to do with circles.
pub const PEAK_OVER_MEAN: f64 = 314.0 / 100.0;
/// How long after its event a line may arrive, as the job declares it.
pub const ALLOWED_LATENESS_MS: i64 = 2 * HOUR_MS;
/// How far ahead a phone's clock may be, as the job declares it.
pub const ALLOWED_SKEW_MS: i64 = 5 * 60 * 1000;
/// From here on phones have the SDK with the other schema.
pub const SCHEMA_CHANGE_MS: i64 = WINDOW_START_MS + 18 * SLICE_MS;

/// What the logs should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Everything follows from it.
    pub seed: u64,
    /// Events of the gap that can be rebuilt: distinct ids.
    pub events: u64,
}

/// How many events it takes at least for every kind of trouble to fit in.
pub const EVENTS_MIN: u64 = 10_000;
