//! Writes the whole log, slice by slice in event time; lines go to the object of the hour in which they arrived.

use std::io;
use std::path::{Path, PathBuf};

use super::broken::{Defect, Shows};
use super::event::{Event, EventType};
use super::line::{Line, write_other};
use super::object::{LANES, Objects};
use super::planted::Planted;
use super::random::Random;
use super::schedule;
use super::traffic::events_per_slice;
use super::{EVENTS_MIN, HOUR_MS, SLICE_MS, SLICES, Settings, WINDOW_END_MS, WINDOW_START_MS};

/// Of a thousand events, so many are sent again,
const DUPLICATES: u64 = 20;
/// and of those so many a third time.
const TRIPLES: u64 = 50;
/// Requests beside the events: on other paths, and failed ones on the same.
const OTHER_PATHS: u64 = 250;
const FAILED: u64 = 10;
/// Rows beyond the declared lateness or skew; half of the late ones are copies of an event that came in time.
const LATE: u64 = 2;
const AHEAD: u64 = 1;
/// Two clicks within one millisecond by one customer.
const DOUBLE_CLICKS: u64 = 10;
/// One event of so many has each defect.
const EVENTS_PER_DEFECT: u64 = 20_000;
/// Records that are too large are few: each is more than a megabyte.
const TOO_LARGE: u64 = 2;
/// The slices around the peak, for defects that count against a slice's limit.
const BUSY_SLICES: std::ops::Range<i64> = 20..25;
/// Of the events, the share that lies before and after the window, and in the hours that are not read.
const OUTSIDE_DIVISOR: u64 = 50;
const UNREAD: u64 = 100;

/// Why the log was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not every kind of trouble would fit in.
    #[error("{events} events are too few; {EVENTS_MIN} is the least")]
    TooFew {
        /// What was asked for.
        events: u64,
    },
    /// An object could not be written.
    #[error("cannot write the log into {folder}")]
    Write {
        /// Where to.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The log, on disk.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Every object lies here under its key.
    pub folder: PathBuf,
    /// What is in it.
    pub planted: Planted,
}

/// Writes the log into a folder, in memory that does not depend on its size.
pub fn generate(settings: Settings, folder: &Path) -> Result<Generated, Error> {
    if settings.events < EVENTS_MIN {
        return Err(Error::TooFew { events: settings.events });
    }
    let write_error = |source| Error::Write { folder: folder.to_path_buf(), source };
    let mut shop = Shop::new(settings, folder);
    shop.run().map_err(write_error)?;
    let Shop { objects, mut planted, .. } = shop;
    planted.blank_lines = objects.blank_lines;
    planted.objects = objects.end().map_err(write_error)?;
    Ok(Generated { folder: folder.to_path_buf(), planted })
}

struct Shop {
    settings: Settings,
    objects: Objects,
    planted: Planted,
    random: Random,
    /// Of the next event.
    number: u64,
    buffer: Vec<u8>,
}

impl Shop {
    fn new(settings: Settings, folder: &Path) -> Self {
        let random = Random::of(settings.seed, u64::MAX);
        Self { settings, objects: Objects::new(folder), planted: Planted::new(settings), random, number: 0, buffer: Vec::new() }
    }

    fn run(&mut self) -> io::Result<()> {
        let defects = self.defects();
        self.outside(schedule::READ_START_MS, WINDOW_START_MS)?;
        for (slice, count) in events_per_slice(self.settings.events).into_iter().enumerate() {
            let start_ms = WINDOW_START_MS + slice as i64 * SLICE_MS;
            self.slice(start_ms, count)?;
            for (_, defect) in defects.iter().filter(|(at, _)| *at == slice as i64) {
                self.defective(start_ms, *defect)?;
            }
        }
        self.outside(WINDOW_END_MS, schedule::READ_END_MS)?;
        for arrival_ms in [schedule::READ_START_MS - HOUR_MS, schedule::READ_END_MS] {
            self.unread(arrival_ms)?;
        }
        Ok(())
    }

    /// A slice's events and what goes with them.
    fn slice(&mut self, start_ms: i64, count: u64) -> io::Result<()> {
        let mut before: Option<Event> = None;
        for index in 0..count {
            let even_ms = start_ms + (index as i64 * SLICE_MS) / count as i64;
            let time_ms = (even_ms + self.random.between(-2_000, 2_000)).clamp(start_ms, start_ms + SLICE_MS - 1);
            let mut event = self.event(None, time_ms);
            if let Some(before) = before.take()
                && self.random.chance(DOUBLE_CLICKS)
            {
                (event.time_ms, event.user) = (before.time_ms, before.user);
            }
            self.recoverable(&event)?;
            self.beside(&event)?;
            before = Some(event);
        }
        Ok(())
    }

    fn event(&mut self, event_type: Option<EventType>, time_ms: i64) -> Event {
        let event = Event::new(self.settings.seed, self.number, event_type, time_ms);
        self.number += 1;
        event
    }

    /// The event, and its retries.
    fn recoverable(&mut self, event: &Event) -> io::Result<()> {
        self.planted.recoverable(event);
        let mut arrival_ms = schedule::in_time(event.time_ms, &mut self.random);
        self.line(arrival_ms, Line { event, attempt: 1, status: 200, defect: None })?;
        if !self.random.chance(DUPLICATES) {
            return Ok(());
        }
        let copies = if self.random.chance(TRIPLES) { 3 } else { 2 };
        for attempt in 2..=copies {
            arrival_ms = schedule::retried(event.time_ms, arrival_ms, &mut self.random);
            self.line(arrival_ms, Line { event, attempt, status: 200, defect: None })?;
            self.planted.duplicates += 1;
            self.planted.lines += 1;
        }
        Ok(())
    }

    /// Requests that are no events, and rows that come too late or too early.
    fn beside(&mut self, event: &Event) -> io::Result<()> {
        if self.random.chance(OTHER_PATHS) {
            self.other_path(event)?;
        }
        if self.random.chance(FAILED) {
            // The same event, before it went through: no duplicate, since it never was one.
            let arrival_ms = schedule::in_time(event.time_ms, &mut self.random);
            self.line(arrival_ms, Line { event, attempt: 0, status: 503, defect: None })?;
            self.planted.filtered_out += 1;
            self.planted.lines += 1;
        }
        if self.random.chance(LATE)
            && let Some(arrival_ms) = schedule::late(event.time_ms, &mut self.random)
        {
            if self.random.chance(500) {
                self.line(arrival_ms, Line { event, attempt: 9, status: 200, defect: None })?;
            } else {
                let event = self.event(None, event.time_ms);
                self.line(arrival_ms, Line { event: &event, attempt: 1, status: 200, defect: None })?;
            }
            self.planted.late += 1;
            self.planted.lines += 1;
        }
        if self.random.chance(AHEAD)
            && let Some(arrival_ms) = schedule::ahead(event.time_ms, &mut self.random)
        {
            let event = self.event(None, event.time_ms);
            self.line(arrival_ms, Line { event: &event, attempt: 1, status: 200, defect: None })?;
            self.planted.late += 1;
            self.planted.lines += 1;
        }
        Ok(())
    }

    fn other_path(&mut self, event: &Event) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.buffer);
        line.clear();
        write_other(&mut line, event.number, event.time_ms, &mut self.random);
        let lane = self.lane();
        self.objects.write(event.time_ms, lane, &line)?;
        self.buffer = line;
        self.planted.filtered_out += 1;
        self.planted.lines += 1;
        Ok(())
    }

    /// Which defects there are, and in which slices.
    fn defects(&mut self) -> Vec<(i64, Defect)> {
        let each = 1 + self.settings.events / EVENTS_PER_DEFECT;
        let mut defects = Vec::new();
        for defect in Defect::ALL {
            let count = if defect == Defect::TooLarge { TOO_LARGE } else { each };
            for _ in 0..count {
                let busy = self.random.between(BUSY_SLICES.start, BUSY_SLICES.end);
                let any = self.random.between(0, SLICES as i64);
                defects.push((if defect.counts_in_slice() { busy } else { any }, defect));
            }
        }
        defects
    }

    fn defective(&mut self, start_ms: i64, defect: Defect) -> io::Result<()> {
        let time_ms = self.random.between(start_ms, start_ms + SLICE_MS);
        let event = self.event(Some(EventType::ProductView), time_ms);
        let arrival_ms = schedule::in_time(time_ms, &mut self.random);
        self.line(arrival_ms, Line { event: &event, attempt: 1, status: 200, defect: Some(defect) })?;
        let counts = match defect.shows() {
            Shows::AtDecoding => &mut self.planted.invalid,
            Shows::AtRendering => &mut self.planted.refused,
        };
        *counts.entry(defect.name().to_owned()).or_default() += 1;
        self.planted.lines += 1;
        Ok(())
    }

    /// Traffic before or after the gap, when the SDK's events were not lost.
    fn outside(&mut self, start_ms: i64, end_ms: i64) -> io::Result<()> {
        for _ in 0..self.settings.events / OUTSIDE_DIVISOR / 2 {
            let time_ms = self.random.between(start_ms, end_ms);
            let event = self.event(None, time_ms);
            self.line(time_ms, Line { event: &event, attempt: 1, status: 200, defect: None })?;
            self.planted.outside_window += 1;
            self.planted.lines += 1;
        }
        Ok(())
    }

    /// Lines under an hour that the window, its lateness and its skew do not call for. Some are of the window, and lost.
    fn unread(&mut self, hour_ms: i64) -> io::Result<()> {
        for _ in 0..UNREAD {
            let arrival_ms = self.random.between(hour_ms, hour_ms + HOUR_MS);
            let time_ms = arrival_ms - self.random.between(0, 4 * HOUR_MS);
            let event = self.event(None, time_ms);
            self.line(arrival_ms, Line { event: &event, attempt: 1, status: 200, defect: None })?;
            self.planted.unread += 1;
            self.planted.lines += 1;
        }
        Ok(())
    }

    fn lane(&mut self) -> usize {
        self.random.below(LANES as u64) as usize
    }

    fn line(&mut self, arrival_ms: i64, line: Line<'_>) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        line.write(&mut bytes);
        let lane = self.lane();
        self.objects.write(arrival_ms, lane, &bytes)?;
        self.buffer = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_same_settings_give_the_same_bytes() {
        let settings = Settings { seed: 7, events: EVENTS_MIN };
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = folders.each_ref().map(|folder| generate(settings, folder.path()).unwrap().planted);
        assert_eq!(first, second);
        for object in &first.objects {
            let [a, b] = folders.each_ref().map(|folder| std::fs::read(folder.path().join(&object.key)).unwrap());
            assert!(a == b, "{}", object.key);
        }
        let other = generate(Settings { seed: 8, ..settings }, folders[1].path()).unwrap().planted;
        assert_ne!(first.id_sum, other.id_sum);
    }

    #[test]
    fn every_kind_of_trouble_is_planted() {
        let folder = tempfile::tempdir().unwrap();
        let planted = generate(Settings { seed: 1, events: 20_000 }, folder.path()).unwrap().planted;
        assert_eq!(planted.recoverable, 20_000);
        assert_eq!(planted.by_slice.len(), SLICES);
        assert_eq!(planted.invalid.len() + planted.refused.len(), Defect::ALL.len());
        assert!((300..500).contains(&planted.duplicates), "{}", planted.duplicates);
        for count in [planted.late, planted.filtered_out, planted.outside_window, planted.unread, planted.blank_lines] {
            assert!(count > 0, "{planted:?}");
        }
        let lines: u64 = planted.objects.iter().map(|object| object.lines).sum();
        assert_eq!(lines, planted.lines);
    }
}
