//! Why a row was rejected, and the row as it goes to quarantine.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How much of a rejected row's raw bytes is kept: enough to repair it by hand, little enough that a chunk of nothing but
/// bad rows stays bounded.
pub const RAW_BYTES_MAX: usize = 64 * 1024;
/// Longest detail: a path and a short value.
pub const DETAIL_BYTES_MAX: usize = 512;
/// Longest key that rows are counted under.
const KEY_BYTES_MAX: usize = 128;

/// Stable codes: status, reports and the quarantine's readers group by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// The line is not UTF-8.
    InvalidUtf8,
    /// The line is not JSON, or ends before its value does.
    InvalidJson,
    /// The CSV record is malformed or has another number of cells than the header.
    InvalidCsv,
    /// The line is JSON, but not an object.
    NotAnObject,
    /// A key appears twice in one object.
    DuplicateKey,
    /// Values are nested too deep.
    TooDeep,
    /// The line is longer than weir reads.
    RowTooLong,
    /// A value of another type than declared.
    WrongType,
    /// A number with a fraction where an integer is declared.
    NotAnInteger,
    /// A number that the declared type cannot hold.
    OutOfRange,
    /// A number that the declared type would round.
    NotExact,
    /// Text that is not the declared kind of time.
    InvalidTimestamp,
    /// Text that is not a day.
    InvalidDate,
    /// Text that is not base64.
    InvalidBase64,
    /// Unnesting the row's lists would take more memory than a worker has for it.
    ExpandsTooFar,
    /// `select` failed on this row.
    SelectFailed,
    /// The result has no event id.
    MissingEventId,
    /// The result has no event time.
    MissingEventTime,
    /// The result has no event type.
    MissingEventType,
}

impl Reason {
    /// The code as it is stored.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "InvalidUtf8",
            Self::InvalidJson => "InvalidJson",
            Self::InvalidCsv => "InvalidCsv",
            Self::NotAnObject => "NotAnObject",
            Self::DuplicateKey => "DuplicateKey",
            Self::TooDeep => "TooDeep",
            Self::RowTooLong => "RowTooLong",
            Self::WrongType => "WrongType",
            Self::NotAnInteger => "NotAnInteger",
            Self::OutOfRange => "OutOfRange",
            Self::NotExact => "NotExact",
            Self::InvalidTimestamp => "InvalidTimestamp",
            Self::InvalidDate => "InvalidDate",
            Self::InvalidBase64 => "InvalidBase64",
            Self::ExpandsTooFar => "ExpandsTooFar",
            Self::SelectFailed => "SelectFailed",
            Self::MissingEventId => "MissingEventId",
            Self::MissingEventTime => "MissingEventTime",
            Self::MissingEventType => "MissingEventType",
        }
    }
}

/// One bad value, with the path to it. Paths are built while the decoder unwinds, so a good row pays nothing for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code.
    pub reason: Reason,
    /// Where in the row: `user.id`, `tags[2]`; empty for the row as a whole.
    pub path: String,
    /// What was found and what was wanted.
    pub detail: String,
}

impl Fault {
    /// A fault of the value at hand; callers add the path.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, path: String::new(), detail: detail.into() }
    }

    /// The same fault, seen from the object that has the value under `name`.
    #[must_use]
    pub fn in_field(mut self, name: &str) -> Self {
        let between = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path.insert_str(0, between);
        self.path.insert_str(0, name);
        self
    }

    /// The same fault, seen from the map that has the value under `key`.
    #[must_use]
    pub fn at_key(mut self, key: &[u8]) -> Self {
        let between = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path.insert_str(0, &format!("[{}]{between}", excerpt(key)));
        self
    }

    /// The same fault, seen from the list that has the value at `index`.
    #[must_use]
    pub fn at_index(mut self, index: usize) -> Self {
        let between = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path.insert_str(0, &format!("[{index}]{between}"));
        self
    }

    /// What rows with this fault are counted under: the code and the path without indices and keys, as
    /// `NotAnInteger at items[].id`.
    pub fn key(&self) -> String {
        if self.path.is_empty() {
            return self.reason.code().to_owned();
        }
        let mut key = format!("{} at ", self.reason.code());
        let mut depth = 0;
        for c in self.path.chars() {
            depth -= i32::from(c == ']');
            if depth <= 0 {
                key.push(c);
            }
            depth += i32::from(c == '[');
        }
        shorten(&mut key, KEY_BYTES_MAX);
        key
    }

    /// Path and detail in one line of bounded length.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        if !self.path.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}: ", self.path);
        }
        text.push_str(&self.detail);
        shorten(&mut text, DETAIL_BYTES_MAX);
        text
    }
}

/// A row as it goes to quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Ordinal of the object in its chunk.
    pub object: u32,
    /// Line (text) or row (Parquet) in the object, from 1.
    pub row: u64,
    /// Why.
    pub fault: Fault,
    /// The first [`RAW_BYTES_MAX`] bytes of the row.
    pub raw: Vec<u8>,
    /// How many bytes the row had.
    pub raw_len: u64,
}

impl Rejected {
    /// A rejected row of text.
    pub fn from_line(object: u32, row: u64, fault: Fault, line: &[u8]) -> Self {
        Self { object, row, fault, raw: line[..line.len().min(RAW_BYTES_MAX)].to_vec(), raw_len: line.len() as u64 }
    }
}

/// Cuts `text` to at most `max` bytes at a character boundary.
pub fn shorten(text: &mut String, max: usize) {
    if text.len() > max {
        let mut end = max.saturating_sub(3);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
}

/// A piece of source text for a message: bounded, and made printable.
pub fn excerpt(bytes: &[u8]) -> String {
    const EXCERPT_BYTES_MAX: usize = 64;
    let cut = &bytes[..bytes.len().min(EXCERPT_BYTES_MAX)];
    let mut text: String = String::from_utf8_lossy(cut).escape_debug().collect();
    if cut.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_from_the_outside_in() {
        let fault = Fault::new(Reason::WrongType, "found text").in_field("id").at_index(2).in_field("items").in_field("cart");
        assert_eq!(fault.describe(), "cart.items[2].id: found text");
        assert_eq!(Fault::new(Reason::WrongType, "x").at_index(1).at_index(0).in_field("m").path, "m[0][1]");
        assert_eq!(fault.key(), "WrongType at cart.items[].id");
        let in_map = Fault::new(Reason::OutOfRange, "x").in_field("v").at_key(b"some key").in_field("m");
        assert_eq!((in_map.path.as_str(), in_map.key().as_str()), ("m[some key].v", "OutOfRange at m[].v"));
        assert_eq!(Fault::new(Reason::InvalidUtf8, "x").key(), "InvalidUtf8");
    }

    #[test]
    fn details_are_bounded_at_a_character() {
        let fault = Fault::new(Reason::InvalidJson, "ж".repeat(1000));
        let text = fault.describe();
        assert!(text.len() <= DETAIL_BYTES_MAX && text.ends_with("..."));
    }

    #[test]
    fn codes_are_what_serde_writes() {
        for reason in [Reason::InvalidUtf8, Reason::RowTooLong, Reason::MissingEventType] {
            assert_eq!(serde_json::to_string(&reason).ok(), Some(format!("\"{}\"", reason.code())));
        }
    }
}
