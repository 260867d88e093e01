//! The conservation ledger of a chunk: every row read is accounted for, exactly once.

use std::collections::{BTreeMap, HashMap};

use weir_crds::contract::manifest::{ReasonCount, SliceTypeCount, TimesCount};
use weir_crds::window::{Interval, SliceId, Slicing};

use super::error::ExtractError;

/// Reasons that a manifest lists.
const REASONS_LISTED_MAX: usize = 50;
/// Reasons that are told apart while counting; paths may have names from data in them.
const REASONS_KEPT_MAX: usize = 2000;
/// Where the rest is counted.
const OTHER_REASONS: &str = "other reasons";
/// Pairs of slice and event type that invalid rows may belong to; a manifest lists all of them.
const INVALID_BY_MAX: usize = 20_000;

/// Counts in rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Source rows, blank lines not among them.
    pub read: u64,
    /// Rows that unnest made beyond the first of each source row.
    pub expanded: u64,
    /// Source rows that select gave nothing for.
    pub filtered_out: u64,
    /// Rows set aside because they are not what they must be.
    pub invalid: u64,
    /// Those of them that are known to be outside the window or in an excluded part.
    pub invalid_outside: u64,
    /// Rows outside the window or in an excluded part.
    pub outside_window: u64,
    /// Rows whose event time is outside what the source allows for the object they came in.
    pub late: u64,
    /// Rows of slices.
    pub selected: u64,
    /// Invalid and late rows by reason.
    pub reasons: HashMap<String, u64>,
    /// Invalid rows whose slice and event type are known, by index of the slice.
    pub invalid_by: HashMap<(usize, String), u64>,
    /// Rows that have a slice and invalid rows that have none, by the event times that their object allows.
    pub by_times: BTreeMap<Option<Interval>, (u64, u64)>,
}

impl Counts {
    /// Adds the counts of another block.
    pub fn add(&mut self, other: Self) {
        self.read += other.read;
        self.expanded += other.expanded;
        self.filtered_out += other.filtered_out;
        self.invalid += other.invalid;
        self.invalid_outside += other.invalid_outside;
        self.outside_window += other.outside_window;
        self.late += other.late;
        self.selected += other.selected;
        // Sorted, so that which reasons find room does not depend on a hash.
        for (reason, rows) in other.reasons.into_iter().collect::<BTreeMap<_, _>>() {
            self.count_reason(reason, rows);
        }
        for (key, rows) in other.invalid_by {
            *self.invalid_by.entry(key).or_default() += rows;
        }
        for (times, (placed, unplaced)) in other.by_times {
            let sum = self.by_times.entry(times).or_default();
            *sum = (sum.0 + placed, sum.1 + unplaced);
        }
    }

    /// Says of all rows so far that they came from objects that allow these event times.
    pub fn are_of(&mut self, times: Option<Interval>) {
        self.by_times = [(times, self.places())].into();
    }

    /// Rows that have a slice, and invalid rows that have none.
    fn places(&self) -> (u64, u64) {
        let known: u64 = self.invalid_by.values().sum();
        (self.selected + known, self.invalid - known - self.invalid_outside)
    }

    /// Counts rows set aside for one reason.
    pub fn count_reason(&mut self, reason: String, rows: u64) {
        let has_room = self.reasons.len() < REASONS_KEPT_MAX || self.reasons.contains_key(&reason);
        let key = if has_room { reason } else { OTHER_REASONS.to_owned() };
        *self.reasons.entry(key).or_default() += rows;
    }

    /// Asserts that no row was lost or doubled.
    pub fn check(&self, chunk: &str) -> Result<(), ExtractError> {
        let into = self.read + self.expanded;
        let out = self.filtered_out + self.invalid + self.outside_window + self.late + self.selected;
        let set_aside: u64 = self.reasons.values().sum();
        let places = self.by_times.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        if into != out || set_aside != self.invalid + self.late || places != self.places() {
            let sum = format!("read + expanded = {into}, but what became of it is {out} ({self:?})");
            return Err(ExtractError::Conservation { chunk: chunk.to_owned(), sum });
        }
        Ok(())
    }

    /// Asserts that invalid rows are of so few event types that a manifest can list them, and memory hold them.
    pub fn check_types(&self, chunk: &str) -> Result<(), ExtractError> {
        if self.invalid_by.len() > INVALID_BY_MAX {
            return Err(ExtractError::EventTypes { chunk: chunk.to_owned(), max: INVALID_BY_MAX });
        }
        Ok(())
    }

    /// The most frequent reasons, as a manifest lists them.
    pub fn most_frequent_reasons(&self) -> Vec<ReasonCount> {
        let mut reasons: Vec<_> = self.reasons.iter().map(|(reason, rows)| ReasonCount { reason: reason.clone(), rows: *rows }).collect();
        reasons.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.reason.cmp(&b.reason)));
        reasons.truncate(REASONS_LISTED_MAX);
        reasons
    }

    /// Rows by the event times that their objects allow; times that overlap the same slices are one.
    pub fn by_times(&self, slicing: &Slicing) -> Vec<TimesCount> {
        let mut counts: BTreeMap<Option<(usize, usize)>, TimesCount> = BTreeMap::new();
        for (times, (placed, unplaced)) in &self.by_times {
            let slices = match times {
                Some(times) => {
                    let mut overlapping = slicing.overlapping(*times);
                    let Some(first) = overlapping.next() else { continue };
                    Some((first, overlapping.last().unwrap_or(first)))
                }
                None => None,
            };
            let count = counts.entry(slices).or_insert(TimesCount { times: *times, placed: 0, unplaced: 0 });
            (count.placed, count.unplaced) = (count.placed + placed, count.unplaced + unplaced);
            if let (Some(all), Some(times)) = (&mut count.times, times) {
                (all.start_us, all.end_us) = (all.start_us.min(times.start_us), all.end_us.max(times.end_us));
            }
        }
        counts.into_values().collect()
    }

    /// Invalid rows by slice and event type, in the order of slices. `id` names a slice by its index.
    pub fn invalid_by(&self, id: impl Fn(usize) -> Option<SliceId>) -> Vec<SliceTypeCount> {
        let sorted: BTreeMap<_, _> = self.invalid_by.iter().collect();
        let named = sorted.into_iter().filter_map(|((slice, event_type), rows)| {
            Some(SliceTypeCount { slice: id(*slice)?, event_type: event_type.clone(), rows: *rows })
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_row_that_is_lost_or_doubled_shows() {
        let mut counts = Counts { read: 10, expanded: 2, filtered_out: 3, outside_window: 1, selected: 6, ..Counts::default() };
        counts.invalid = 1;
        counts.late = 1;
        counts.count_reason("Late".into(), 1);
        counts.count_reason("InvalidJson".into(), 1);
        counts.are_of(None);
        counts.check("c").unwrap();
        counts.selected += 1;
        assert!(matches!(counts.check("c"), Err(ExtractError::Conservation { .. })));
        counts.selected -= 1;
        counts.by_times.clear();
        assert!(matches!(counts.check("c"), Err(ExtractError::Conservation { .. })));
        counts.are_of(None);
        counts.count_reason("InvalidJson".into(), 1);
        assert!(matches!(counts.check("c"), Err(ExtractError::Conservation { .. })));
    }

    #[test]
    fn rows_are_counted_for_the_objects_that_they_came_from() {
        let window =
            serde_json::from_value(serde_json::json!({"start": "1970-01-01T01:00:00Z", "end": "1970-01-01T04:00:00Z", "slice": "1h"}));
        let slicing = Slicing::new(&window.unwrap());
        let minutes = |from: i64, to: i64| Some(Interval { start_us: from * 60_000_000, end_us: to * 60_000_000 });
        let block = |selected, invalid, times| {
            let mut counts = Counts { selected, invalid, invalid_outside: 1, ..Counts::default() };
            counts.invalid_by.insert((0, "click".into()), 2);
            counts.are_of(times);
            counts
        };
        let mut counts = block(10, 3, minutes(50, 70));
        counts.add(block(20, 4, minutes(100, 130)));
        counts.add(block(5, 8, minutes(60, 80)));
        counts.add(block(0, 3, None));
        counts.add(block(0, 3, minutes(10, 60)));
        let found: Vec<_> = counts.by_times(&slicing).into_iter().map(|of| (of.times, of.placed, of.unplaced)).collect();
        assert_eq!(found, [(None, 2, 0), (minutes(50, 80), 19, 5), (minutes(100, 130), 22, 1)]);
    }

    #[test]
    fn reasons_are_bounded_and_the_most_frequent_come_first() {
        let mut counts = Counts::default();
        for n in 0..3000 {
            counts.count_reason(format!("r{n:04}"), 1);
        }
        counts.count_reason("r0007".into(), 5);
        assert_eq!(counts.reasons.len(), REASONS_KEPT_MAX + 1);
        assert_eq!(counts.reasons.values().sum::<u64>(), 3005);
        let listed = counts.most_frequent_reasons();
        assert_eq!((listed.len(), listed[0].reason.as_str(), listed[1].reason.as_str()), (50, OTHER_REASONS, "r0007"));
    }
}
