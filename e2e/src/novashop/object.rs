//! Log lines as gzip objects under the hour of their arrival, written side by side, each of a few megabytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::HOUR_MS;
use super::planted::PlantedObject;

/// Frontends that log at the same time, each into its own object: an hour's lines are not sorted over its objects.
pub const LANES: usize = 2;
/// An object is closed when it has this many bytes before compression: some 4 MB after it.
const OBJECT_BYTES_MAX: usize = 24 << 20;
/// Every other object is a concatenation of gzip members, as log shippers append them.
const MEMBER_BYTES_MAX: usize = 1 << 20;
/// An empty line now and then.
const BLANK_LINE_EVERY: u64 = 499;
/// Speed before size: the bytes are thrown away after the demo.
const LEVEL: u32 = 3;

/// All objects that are being written.
#[derive(Debug)]
pub struct Objects {
    folder: PathBuf,
    open: BTreeMap<(i64, usize), Part>,
    /// Parts that were begun, by hour.
    parts: BTreeMap<i64, u32>,
    done: Vec<PlantedObject>,
    pub blank_lines: u64,
}

#[derive(Debug)]
struct Part {
    key: String,
    number: u32,
    encoder: GzEncoder<BufWriter<File>>,
    bytes: usize,
    member_bytes: usize,
    lines: u64,
}

impl Objects {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), open: BTreeMap::new(), parts: BTreeMap::new(), done: Vec::new(), blank_lines: 0 }
    }

    /// Appends a line that arrived then, at that frontend.
    pub fn write(&mut self, arrival_ms: i64, lane: usize, line: &[u8]) -> io::Result<()> {
        let at = (arrival_ms.div_euclid(HOUR_MS), lane);
        if !self.open.contains_key(&at) {
            let number = self.parts.entry(at.0).or_default();
            let part = Part::begin(&self.folder, at.0, *number)?;
            *number += 1;
            self.open.insert(at, part);
        }
        let Some(part) = self.open.get_mut(&at) else { return Ok(()) };
        self.blank_lines += part.write(line)?;
        if part.bytes >= OBJECT_BYTES_MAX
            && let Some(part) = self.open.remove(&at)
        {
            self.done.push(part.end(&self.folder)?);
        }
        Ok(())
    }

    /// Closes everything and lists it by key.
    pub fn end(mut self) -> io::Result<Vec<PlantedObject>> {
        while let Some((_, part)) = self.open.pop_first() {
            self.done.push(part.end(&self.folder)?);
        }
        self.done.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(self.done)
    }
}

impl Part {
    fn begin(folder: &Path, hour: i64, number: u32) -> io::Result<Self> {
        let start = jiff::Timestamp::from_millisecond(hour * HOUR_MS).unwrap_or_default();
        let key = format!("{}part-{number:04}.jsonl.gz", start.strftime("v2/dt=%Y-%m-%d/hr=%H/"));
        let path = folder.join(&key);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let encoder = GzEncoder::new(BufWriter::new(File::create(path)?), Compression::new(LEVEL));
        Ok(Self { key, number, encoder, bytes: 0, member_bytes: 0, lines: 0 })
    }

    fn has_members(&self) -> bool {
        self.number % 2 == 1
    }

    /// Some shippers run on another system.
    fn line_end(&self) -> &'static [u8] {
        if self.number % 4 == 1 { b"\r\n" } else { b"\n" }
    }

    /// Writes the end of the line before, and the line; returns how many blank lines came between.
    fn write(&mut self, line: &[u8]) -> io::Result<u64> {
        /// Some programs begin a file with it.
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        let end = self.line_end();
        let mut blank = 0;
        if self.lines > 0 {
            self.encoder.write_all(end)?;
            if self.lines.is_multiple_of(BLANK_LINE_EVERY) {
                self.encoder.write_all(end)?;
                blank = 1;
            }
        } else if self.number % 4 == 2 {
            self.encoder.write_all(BYTE_ORDER_MARK)?;
        }
        if self.has_members() && self.member_bytes >= MEMBER_BYTES_MAX {
            self.next_member()?;
        }
        self.encoder.write_all(line)?;
        self.lines += 1;
        self.bytes += line.len() + end.len();
        self.member_bytes += line.len() + end.len();
        Ok(blank)
    }

    fn next_member(&mut self) -> io::Result<()> {
        self.encoder.try_finish()?;
        let file = self.encoder.get_mut().get_ref().try_clone()?;
        // The encoder holds nothing back once it is finished, but the buffer below it does.
        self.encoder.get_mut().flush()?;
        self.encoder = GzEncoder::new(BufWriter::new(file), Compression::new(LEVEL));
        self.member_bytes = 0;
        Ok(())
    }

    fn end(mut self, folder: &Path) -> io::Result<PlantedObject> {
        // Every third object ends without a line end, as a killed writer leaves it.
        if self.number % 3 != 2 {
            let end = self.line_end();
            self.encoder.write_all(end)?;
        }
        self.encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let bytes = std::fs::metadata(folder.join(&self.key))?.len();
        Ok(PlantedObject { key: self.key, bytes, lines: self.lines })
    }
}
