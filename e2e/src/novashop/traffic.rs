//! How many events each slice has: a quiet morning, a steep peak, an evening that never quite recovers.

use super::{PEAK_OVER_MEAN, SLICES};

/// The slice in the middle of the peak, and the width of the peak in slices.
const PEAK_SLICE: usize = 22;
const PEAK_WIDTH: f64 = 4.0;

/// `events` over the slices, their sum exact, the greatest [`PEAK_OVER_MEAN`] times the mean.
pub fn events_per_slice(events: u64) -> [u64; SLICES] {
    let bell: [f64; SLICES] = std::array::from_fn(|slice| {
        let distance = (slice as f64 - PEAK_SLICE as f64) / PEAK_WIDTH;
        (-distance * distance / 2.0).exp()
    });
    // base + height * mean(bell) = 1 and base + height = PEAK_OVER_MEAN.
    let bell_mean = bell.iter().sum::<f64>() / SLICES as f64;
    let height = (PEAK_OVER_MEAN - 1.0) / (1.0 - bell_mean);
    let base = PEAK_OVER_MEAN - height;
    let mean = events as f64 / SLICES as f64;
    let mut counts = bell.map(|value| ((base + height * value) * mean).floor() as u64);
    // What rounding down left over, one each from the first on.
    let left = events.saturating_sub(counts.iter().sum());
    for slice in 0..left as usize {
        counts[slice % SLICES] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_exact_and_the_peak_is_as_steep_as_it_was() {
        for events in [10_000, 60_000, 1_000_000, 1_000_007] {
            let counts = events_per_slice(events);
            assert_eq!(counts.iter().sum::<u64>(), events);
            let peak = *counts.iter().max().unwrap_or(&0) as f64 * SLICES as f64 / events as f64;
            assert!((peak - PEAK_OVER_MEAN).abs() < 0.01, "{peak}");
            assert!(counts.iter().all(|count| *count > 0));
        }
    }
}
