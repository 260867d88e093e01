//! Values over time, thinned: near in time they are dense, far back they are sparse.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A point is dropped where the gap that this leaves is at most this share of the gap's age: so what is interpolated
/// `age` ago is wrong by at most `age / GAP_DIVISOR`, beside what the observations themselves left open.
pub const GAP_DIVISOR: i64 = 10;

/// Values at times, in the order of time. Written as steps from point to point, which are short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series<V> {
    points: Vec<(i64, V)>,
}

/// A value that is written as its difference from the one before.
pub trait Step: Copy + Default {
    fn since(self, before: Self) -> Self;
    fn onto(self, before: Self) -> Self;
}

impl Step for i64 {
    fn since(self, before: Self) -> Self {
        self.wrapping_sub(before)
    }

    fn onto(self, before: Self) -> Self {
        self.wrapping_add(before)
    }
}

impl<V: Step + Serialize> Serialize for Series<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut at_ms, mut value) = (0, V::default());
        serializer.collect_seq(self.points.iter().map(|(t, v)| {
            let step = (t.since(at_ms), v.since(value));
            (at_ms, value) = (*t, *v);
            step
        }))
    }
}

impl<'de, V: Step + Deserialize<'de>> Deserialize<'de> for Series<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut points: Vec<(i64, V)> = Vec::deserialize(deserializer)?;
        let (mut at_ms, mut value) = (0, V::default());
        for (index, point) in points.iter_mut().enumerate() {
            if index > 0 && point.0 <= 0 {
                return Err(D::Error::custom("a point of a series is not later than the one before"));
            }
            *point = (point.0.onto(at_ms), point.1.onto(value));
            (at_ms, value) = *point;
        }
        Ok(Self { points })
    }
}

impl<V: Copy + PartialEq> Series<V> {
    pub fn new() -> Self {
        Self { points: Vec::new() }
    }

    pub fn points(&self) -> &[(i64, V)] {
        &self.points
    }

    pub fn last(&self) -> Option<(i64, V)> {
        self.points.last().copied()
    }

    /// The latest point at or before a time.
    pub fn at(&self, at_ms: i64) -> Option<(i64, V)> {
        let after = self.points.partition_point(|(t, _)| *t <= at_ms);
        after.checked_sub(1).and_then(|i| self.points.get(i)).copied()
    }

    /// The first point at or after a time.
    pub fn since(&self, at_ms: i64) -> Option<(i64, V)> {
        self.points.get(self.points.partition_point(|(t, _)| *t < at_ms)).copied()
    }

    /// Drops what lies in the future, as after a clock was put back.
    pub fn cut(&mut self, now_ms: i64) {
        self.points.truncate(self.points.partition_point(|(t, _)| *t <= now_ms));
    }

    /// Adds a value. One that is not later than the last is not news. Of equal values in a row only the first and the
    /// last are kept, which loses nothing. At most `points_max` points stay, of at most `horizon_ms` and one before.
    pub fn push(&mut self, at_ms: i64, value: V, horizon_ms: i64, points_max: usize) {
        if self.points.last().is_some_and(|(last, _)| at_ms <= *last) {
            return;
        }
        if let [.., (_, a), (at, b)] = self.points.as_mut_slice()
            && *a == value
            && *b == value
        {
            *at = at_ms;
        } else {
            self.make_room(at_ms, points_max);
            if self.points.len() == self.points.capacity() {
                // There are tens of thousands of series: doubling would leave half of their memory empty.
                self.points.reserve_exact((self.points.len() / 4 + 4).min(points_max.saturating_sub(self.points.len()).max(1)));
            }
            self.points.push((at_ms, value));
        }
        // One older point stays, so that what arrived at the horizon lies between two.
        let old = self.points.partition_point(|(t, _)| *t < at_ms.saturating_sub(horizon_ms));
        self.points.drain(..old.saturating_sub(1));
    }

    /// Before the buffer grows, so that it never takes more memory than its bound.
    fn make_room(&mut self, now_ms: i64, points_max: usize) {
        // Observations in an odd rhythm may need wider gaps: memory stays bounded all the same.
        for divisor in [GAP_DIVISOR, GAP_DIVISOR / 2, 1] {
            if self.points.len() < points_max {
                return;
            }
            self.thin(now_ms, divisor);
        }
        if self.points.len() >= points_max {
            self.halve();
        }
    }

    /// Keeps the values that a predicate holds for.
    pub fn retain(&mut self, keep: impl Fn(V) -> bool) {
        self.points.retain(|(_, value)| keep(*value));
    }

    /// The first and the last point stay.
    fn thin(&mut self, now_ms: i64, divisor: i64) {
        let mut kept: usize = 0;
        let at = |points: &[(i64, V)], index: usize| points.get(index).map(|(at_ms, _)| *at_ms);
        for index in 0..self.points.len() {
            let before = kept.checked_sub(1).and_then(|last| at(&self.points, last));
            let drop = match (before, at(&self.points, index + 1)) {
                (Some(before), Some(after)) => after.saturating_sub(before).saturating_mul(divisor) <= now_ms - after,
                (Some(_) | None, _) => false,
            };
            if !drop {
                self.points.swap(kept, index);
                kept += 1;
            }
        }
        self.points.truncate(kept);
    }

    /// The last resort: every second point goes, the first and the last stay.
    fn halve(&mut self) {
        let last = self.points.len().saturating_sub(1);
        let mut index = 0;
        self.points.retain(|_| {
            let keep = index % 2 == 0 || index == last;
            index += 1;
            keep
        });
    }
}

/// When a record arrived, as far as samples of (time, end offset) know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Before the first sample, which is at this time.
    Before(i64),
    /// Between two samples; interpolated.
    At(i64),
    /// It was not there at the last sample, or there are no samples.
    Unseen,
}

impl Series<i64> {
    /// When the record at `offset` arrived.
    pub fn arrival(&self, offset: i64) -> Arrival {
        let later = self.points.partition_point(|(_, end)| *end <= offset);
        match (later.checked_sub(1).map(|i| self.points[i]), self.points.get(later)) {
            (_, None) => Arrival::Unseen,
            (None, Some((first, _))) => Arrival::Before(*first),
            (Some((t0, end0)), Some((t1, end1))) => {
                let part = i128::from(t1 - t0) * i128::from(offset - end0) / i128::from((end1 - end0).max(1));
                Arrival::At(t0 + i64::try_from(part).unwrap_or(0))
            }
        }
    }

    /// Offsets per millisecond since `since_ms`, where that was observed for at least `span_min_ms`.
    pub fn rate(&self, since_ms: i64, span_min_ms: i64) -> Option<f64> {
        let (t0, end0) = self.since(since_ms)?;
        let (t1, end1) = self.last()?;
        (t1 - t0 >= span_min_ms).then(|| (end1 - end0).max(0) as f64 / (t1 - t0) as f64)
    }
}
