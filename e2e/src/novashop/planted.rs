//! The generator's own list of what it planted: counts, kept while planting and never derived from what was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::{SLICE_MS, Settings, WINDOW_START_MS};

/// Counts of lines by what they are, and the objects. `lines` is the sum of all counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planted {
    pub seed: u64,
    /// Distinct events that can be rebuilt.
    pub recoverable: u64,
    pub by_event_type: BTreeMap<String, u64>,
    /// By the start of the slice, then by event type.
    pub by_slice: BTreeMap<String, BTreeMap<String, u64>>,
    /// Sum of the hexadecimal parts of their ids, modulo 2^64.
    pub id_sum: u64,
    /// Further copies of them.
    pub duplicates: u64,
    /// Within the window, but arrived later than declared or with a clock further ahead.
    pub late: u64,
    /// By defect: what no decoder should take.
    pub invalid: BTreeMap<String, u64>,
    /// By defect: events that no record can carry.
    pub refused: BTreeMap<String, u64>,
    /// Other paths, and requests that failed.
    pub filtered_out: u64,
    pub outside_window: u64,
    /// In hours that are not to be read at all.
    pub unread: u64,
    pub lines: u64,
    pub blank_lines: u64,
    /// By key, those of hours that are not to be read included.
    pub objects: Vec<PlantedObject>,
}

/// One object of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlantedObject {
    pub key: String,
    /// As stored.
    pub bytes: u64,
    pub lines: u64,
}

impl Planted {
    pub fn new(settings: Settings) -> Self {
        Self { seed: settings.seed, ..Self::default() }
    }

    pub fn recoverable(&mut self, event: &Event) {
        let start_ms = WINDOW_START_MS + (event.time_ms - WINDOW_START_MS).div_euclid(SLICE_MS) * SLICE_MS;
        let start = jiff::Timestamp::from_millisecond(start_ms).unwrap_or_default();
        let slice = self.by_slice.entry(start.strftime("%Y%m%dT%H%M%SZ").to_string()).or_default();
        for counts in [&mut self.by_event_type, slice] {
            *counts.entry(event.event_type.name().to_owned()).or_default() += 1;
        }
        self.recoverable += 1;
        self.id_sum = self.id_sum.wrapping_add(event.id_number());
        self.lines += 1;
    }

    /// Bytes of the objects that the job reads, and how many those are.
    pub fn readable(&self) -> (u64, u64) {
        let read = self.objects.iter().filter(|object| !is_unread(&object.key));
        read.fold((0, 0), |(bytes, count), object| (bytes + object.bytes, count + 1))
    }
}

/// The hours beside those that the window, the lateness and the skew call for.
fn is_unread(key: &str) -> bool {
    key.contains("/hr=04/") || key.contains("/hr=17/")
}
