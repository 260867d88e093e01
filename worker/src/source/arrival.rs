//! Arrival and event time: which event times the rows of an object may have, and which arrivals a window needs. Pure.

use weir_crds::backfill_job::Source;
use weir_crds::window::Interval;

/// The event times that rows which arrived in `arrival` may have: up to `allowedLateness` before it and `allowedSkew` behind.
pub fn event_times(source: &Source, arrival: Interval) -> Interval {
    Interval {
        start_us: arrival.start_us.saturating_sub(source.lateness().as_micros()),
        end_us: arrival.end_us.saturating_add(source.skew().as_micros()),
    }
}

/// The arrivals whose rows may have event times in `window`: those that [`event_times`] lets overlap it.
pub fn arrivals(source: &Source, window: Interval) -> Interval {
    Interval {
        start_us: window.start_us.saturating_sub(source.skew().as_micros()),
        end_us: window.end_us.saturating_add(source.lateness().as_micros()),
    }
}
