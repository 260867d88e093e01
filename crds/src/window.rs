//! A window cut into slices, by event time. Pure arithmetic in microseconds since the epoch, UTC.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use crate::backfill_job::{SliceOrder, Window};

/// A slice by its start: `20261103T060000Z`. Sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SliceId(String);

impl SliceId {
    pub fn from_start(start: jiff::Timestamp) -> Self {
        Self(start.strftime("%Y%m%dT%H%M%SZ").to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A half-open interval of time, in microseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    pub start_us: i64,
    pub end_us: i64,
}

impl Interval {
    pub fn new(start: &Time, end: &Time) -> Self {
        Self { start_us: start.0.as_microsecond(), end_us: end.0.as_microsecond() }
    }

    pub fn contains(&self, at_us: i64) -> bool {
        self.start_us <= at_us && at_us < self.end_us
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.start_us < other.end_us && other.start_us < self.end_us
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    pub id: SliceId,
    #[serde(flatten)]
    pub interval: Interval,
}

/// Where an event time falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Index into [`Slicing::slices`].
    Slice(usize),
    /// Before the start, from the end on, or in an excluded part.
    Outside,
}

/// The slices of a window, and the way from an event time to its slice.
#[derive(Clone, Debug)]
pub struct Slicing {
    slices: Vec<Slice>,
    /// For each grid position from the window's start on: the index of its slice, if it has one.
    grid: Vec<Option<usize>>,
    window: Interval,
    slice_us: i64,
    excluded: Vec<Interval>,
}

impl Slicing {
    /// Slices lie on a grid from the window's start; the last may be shorter. One that is excluded wholly is left out.
    pub fn new(window: &Window) -> Self {
        let whole = Interval::new(&window.start, &window.end);
        let slice_us = window.slice.as_micros().max(1);
        let excluded: Vec<Interval> = window.exclude.iter().map(|e| Interval::new(&e.start, &e.end)).collect();
        let mut slices = Vec::new();
        let mut positions = Vec::new();
        let count = (whole.end_us - whole.start_us).max(0).div_euclid(slice_us)
            + i64::from((whole.end_us - whole.start_us).rem_euclid(slice_us) > 0);
        for position in 0..count {
            let start_us = whole.start_us + position * slice_us;
            let interval = Interval { start_us, end_us: (start_us + slice_us).min(whole.end_us) };
            if !covered(interval, &excluded) {
                let start = jiff::Timestamp::from_microsecond(start_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
                slices.push(Slice { id: SliceId::from_start(start), interval });
                positions.push(position);
            }
        }
        if window.order == SliceOrder::NewestFirst {
            slices.reverse();
            positions.reverse();
        }
        let mut grid = vec![None; usize::try_from(count).unwrap_or(0)];
        for (index, position) in positions.into_iter().enumerate() {
            if let Some(cell) = usize::try_from(position).ok().and_then(|p| grid.get_mut(p)) {
                *cell = Some(index);
            }
        }
        Self { slices, grid, window: whole, slice_us, excluded }
    }

    /// In the window's order.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    pub fn window(&self) -> Interval {
        self.window
    }

    pub fn place(&self, at_us: i64) -> Placement {
        if !self.window.contains(at_us) || self.excluded.iter().any(|e| e.contains(at_us)) {
            return Placement::Outside;
        }
        let position = usize::try_from((at_us - self.window.start_us) / self.slice_us).unwrap_or(usize::MAX);
        self.grid.get(position).copied().flatten().map_or(Placement::Outside, Placement::Slice)
    }

    /// The slices that an interval of event times overlaps, by index, ascending.
    pub fn overlapping(&self, interval: Interval) -> impl Iterator<Item = usize> {
        self.slices.iter().enumerate().filter(move |(_, s)| s.interval.overlaps(&interval)).map(|(index, _)| index)
    }
}

fn covered(interval: Interval, excluded: &[Interval]) -> bool {
    let mut parts: Vec<Interval> = excluded.iter().copied().filter(|e| e.overlaps(&interval)).collect();
    parts.sort_unstable();
    let mut reached = interval.start_us;
    for part in parts {
        if part.start_us > reached {
            return false;
        }
        reached = reached.max(part.end_us);
    }
    reached >= interval.end_us
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::backfill_job::ExcludedInterval;

    fn time(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    fn window(order: SliceOrder, exclude: &[(&str, &str)]) -> Window {
        Window {
            start: time("2026-11-03T06:00:00Z"),
            end: time("2026-11-03T06:50:00Z"),
            slice: "15m".parse().unwrap(),
            order,
            exclude: exclude.iter().map(|(s, e)| ExcludedInterval { start: time(s), end: time(e), reason: "known".into() }).collect(),
        }
    }

    fn ids(slicing: &Slicing) -> Vec<&str> {
        slicing.slices().iter().map(|s| s.id.as_str()).collect()
    }

    #[test]
    fn the_last_slice_may_be_shorter() {
        let slicing = Slicing::new(&window(SliceOrder::OldestFirst, &[]));
        assert_eq!(ids(&slicing), ["20261103T060000Z", "20261103T061500Z", "20261103T063000Z", "20261103T064500Z"]);
        let last = slicing.slices()[3].interval;
        assert_eq!(last.end_us - last.start_us, 5 * 60 * 1_000_000);
    }

    #[test]
    fn every_time_of_the_window_lies_in_the_slice_that_contains_it() {
        for order in [SliceOrder::OldestFirst, SliceOrder::NewestFirst] {
            let slicing = Slicing::new(&window(order, &[("2026-11-03T06:10:00Z", "2026-11-03T06:35:00Z")]));
            let whole = slicing.window();
            for at in (whole.start_us - 60_000_000..whole.end_us + 60_000_000).step_by(17_000_001) {
                match slicing.place(at) {
                    Placement::Slice(index) => assert!(slicing.slices()[index].interval.contains(at)),
                    Placement::Outside => {
                        assert!(!whole.contains(at) || slicing.excluded[0].contains(at), "{at} is in the window and not excluded");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_excluded_wholly_is_no_slice() {
        let slicing = Slicing::new(&window(
            SliceOrder::NewestFirst,
            &[("2026-11-03T06:10:00Z", "2026-11-03T06:20:00Z"), ("2026-11-03T06:20:00Z", "2026-11-03T06:31:00Z")],
        ));
        assert_eq!(ids(&slicing), ["20261103T064500Z", "20261103T063000Z", "20261103T060000Z"]);
    }
}
