//! Streaming decompression in bounded memory: gzip of many members, zstd of many frames, or nothing.
//!
//! Input that ends within a member or frame, or is damaged, is an error: a source that was read in part must never look like
//! one that was read whole.

use std::io;

use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;
use weir_crds::backfill_job::Compression;

/// What one step gives at most.
const OUTPUT_BYTES: usize = 256 * 1024;
/// The largest window of a zstd frame, as a power of two: 128 MiB, what `zstd --long` writes without further flags. A frame
/// that asks for more is refused, since memory is what it asks for.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Longest header of a gzip member: its name and comment have no bound of their own.
const GZIP_HEADER_BYTES_MAX: usize = 64 * 1024;

/// Why decompressing failed. The caller adds the object's name.
#[derive(Debug, Error)]
pub enum DecompressError {
    /// The data contradict the format.
    #[error("the {format} data are damaged at byte {at}: {problem}")]
    Damaged {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Byte of the compressed data.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// The data end within a member or frame.
    #[error("the {format} data end too early, after {at} bytes")]
    CutOff {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Length of the compressed data.
        at: u64,
    },
    /// The decoder could not be set up.
    #[error("setting up the {format} decoder failed")]
    SetUp {
        /// `zstd`.
        format: &'static str,
        /// The library's error.
        #[source]
        source: io::Error,
    },
}

/// Decompresses one object.
pub enum Decompressor {
    /// Passes bytes through.
    Plain,
    /// gzip.
    Gzip(Box<Gzip>),
    /// zstd.
    Zstd(Box<Zstd>),
}

impl Decompressor {
    /// At the start of an object.
    pub fn new(compression: Compression) -> Result<Self, DecompressError> {
        Ok(match compression {
            Compression::None => Self::Plain,
            Compression::Gzip => Self::Gzip(Box::new(Gzip::new())),
            Compression::Zstd => Self::Zstd(Box::new(Zstd::new()?)),
        })
    }

    /// Takes the next bytes and hands on what they become, piece by piece.
    pub fn push(&mut self, input: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), DecompressError> {
        match self {
            Self::Plain => {
                sink(input);
                Ok(())
            }
            Self::Gzip(gzip) => gzip.push(input, sink),
            Self::Zstd(zstd) => zstd.push(input, sink),
        }
    }

    /// The object has ended.
    pub fn finish(self) -> Result<(), DecompressError> {
        match self {
            Self::Plain => Ok(()),
            Self::Gzip(gzip) => match gzip.state {
                GzipState::Header if gzip.held.is_empty() => Ok(()),
                GzipState::Padding => Ok(()),
                GzipState::Header | GzipState::Body | GzipState::Trailer => Err(DecompressError::CutOff { format: "gzip", at: gzip.taken }),
            },
            Self::Zstd(zstd) if zstd.in_frame => Err(DecompressError::CutOff { format: "zstd", at: zstd.taken }),
            Self::Zstd(_) => Ok(()),
        }
    }
}

/// gzip, member by member.
pub struct Gzip {
    inflate: Decompress,
    state: GzipState,
    /// Bytes of a header or trailer that has not come whole.
    held: Vec<u8>,
    crc: flate2::Crc,
    output: Vec<u8>,
    taken: u64,
    members: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GzipState {
    Header,
    Body,
    Trailer,
    /// Zeros behind the last member, as tape blocking leaves them.
    Padding,
}

impl Gzip {
    fn new() -> Self {
        Self {
            inflate: Decompress::new(false),
            state: GzipState::Header,
            held: Vec::new(),
            crc: flate2::Crc::new(),
            output: vec![0; OUTPUT_BYTES],
            taken: 0,
            members: 0,
        }
    }

    fn push(&mut self, mut input: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), DecompressError> {
        while !input.is_empty() {
            let before = input.len();
            match self.state {
                GzipState::Header => self.header(&mut input)?,
                GzipState::Body => self.body(&mut input, sink)?,
                GzipState::Trailer => self.trailer(&mut input)?,
                GzipState::Padding => {
                    if input.iter().any(|byte| *byte != 0) {
                        return Err(self.damaged("bytes behind the padding"));
                    }
                    input = &[];
                }
            }
            self.taken += (before - input.len()) as u64;
        }
        Ok(())
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<(), DecompressError> {
        if self.members > 0 && self.held.is_empty() && input[0] == 0 {
            self.state = GzipState::Padding;
            return Ok(());
        }
        // Headers are short, so the bytes are simply gathered until the header is whole.
        let held_before = self.held.len();
        let part = &input[..input.len().min(GZIP_HEADER_BYTES_MAX + 1 - held_before)];
        self.held.extend_from_slice(part);
        match gzip_header_len(&self.held).map_err(|problem| self.damaged(problem))? {
            Some(len) => {
                *input = &input[len - held_before..];
                self.held.clear();
                self.inflate.reset(false);
                self.crc.reset();
                self.state = GzipState::Body;
            }
            None if self.held.len() > GZIP_HEADER_BYTES_MAX => return Err(self.damaged("a header of more than 64 KiB")),
            None => *input = &input[part.len()..],
        }
        Ok(())
    }

    fn body(&mut self, input: &mut &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), DecompressError> {
        loop {
            let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, &mut self.output, FlushDecompress::None)
                .map_err(|error| self.damaged(&error.to_string()))?;
            let produced = (self.inflate.total_out() - out_before) as usize;
            let used = (self.inflate.total_in() - in_before) as usize;
            *input = &input[used..];
            self.crc.update(&self.output[..produced]);
            if produced > 0 {
                sink(&self.output[..produced]);
            }
            if status == Status::StreamEnd {
                self.state = GzipState::Trailer;
                return Ok(());
            }
            // Output that was not filled has nothing more to give until more input comes.
            if produced < self.output.len() {
                if used == 0 && !input.is_empty() {
                    return Err(self.damaged("the decoder is stuck"));
                }
                if input.is_empty() {
                    return Ok(());
                }
            }
        }
    }

    fn trailer(&mut self, input: &mut &[u8]) -> Result<(), DecompressError> {
        let part = &input[..input.len().min(8 - self.held.len())];
        self.held.extend_from_slice(part);
        *input = &input[part.len()..];
        if let Some([c0, c1, c2, c3, l0, l1, l2, l3]) = self.held.first_chunk::<8>() {
            if u32::from_le_bytes([*c0, *c1, *c2, *c3]) != self.crc.sum() {
                return Err(self.damaged("the checksum differs"));
            }
            if u32::from_le_bytes([*l0, *l1, *l2, *l3]) != self.crc.amount() {
                return Err(self.damaged("the length differs"));
            }
            self.held.clear();
            self.members += 1;
            self.state = GzipState::Header;
        }
        Ok(())
    }

    fn damaged(&self, problem: &str) -> DecompressError {
        DecompressError::Damaged { format: "gzip", at: self.taken, problem: problem.to_owned() }
    }
}

/// The length of a member's header, `None` if `bytes` has only part of it.
fn gzip_header_len(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    const HAS_CRC: u8 = 2;
    const HAS_EXTRA: u8 = 4;
    const HAS_NAME: u8 = 8;
    const HAS_COMMENT: u8 = 16;
    if bytes.iter().zip([0x1f, 0x8b, 8]).any(|(found, wanted)| *found != wanted) {
        return Err("not gzip");
    }
    let Some(flags) = bytes.get(3) else { return Ok(None) };
    let mut at = 10;
    if flags & HAS_EXTRA != 0 {
        let Some(len) = bytes.get(at..at + 2) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes([len[0], len[1]]));
    }
    for flag in [HAS_NAME, HAS_COMMENT] {
        if flags & flag != 0 {
            let end = bytes.get(at..).and_then(|rest| memchr::memchr(0, rest));
            let Some(len) = end else { return Ok(None) };
            at += len + 1;
        }
    }
    if flags & HAS_CRC != 0 {
        at += 2;
    }
    Ok((bytes.len() >= at).then_some(at))
}

/// zstd, frame by frame.
pub struct Zstd {
    decoder: zstd::stream::raw::Decoder<'static>,
    output: Vec<u8>,
    in_frame: bool,
    taken: u64,
}

impl Zstd {
    fn new() -> Result<Self, DecompressError> {
        let set_up = |source| DecompressError::SetUp { format: "zstd", source };
        let mut decoder = zstd::stream::raw::Decoder::new().map_err(set_up)?;
        decoder.set_parameter(zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(set_up)?;
        Ok(Self { decoder, output: vec![0; OUTPUT_BYTES], in_frame: false, taken: 0 })
    }

    fn push(&mut self, mut input: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), DecompressError> {
        use zstd::stream::raw::Operation as _;
        loop {
            let status = self.decoder.run_on_buffers(input, &mut self.output).map_err(|error| DecompressError::Damaged {
                format: "zstd",
                at: self.taken,
                problem: error.to_string(),
            })?;
            input = &input[status.bytes_read..];
            self.taken += status.bytes_read as u64;
            if status.bytes_read > 0 || status.bytes_written > 0 {
                self.in_frame = status.remaining != 0;
            }
            if status.bytes_written > 0 {
                sink(&self.output[..status.bytes_written]);
            }
            // A full output may hide more; otherwise the input is used up, or nothing moves any more.
            if input.is_empty() && (status.bytes_written < self.output.len() || status.remaining == 0) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::io::Write as _;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::GzBuilder::new()
            .filename("some name.json")
            .extra(vec![1; 300])
            .comment("why")
            .write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_frame(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 3).unwrap()
    }

    fn run(compression: Compression, input: &[u8], step: usize) -> Result<Vec<u8>, DecompressError> {
        let mut decompressor = Decompressor::new(compression)?;
        let mut out = Vec::new();
        for part in input.chunks(step) {
            decompressor.push(part, &mut |bytes| out.extend_from_slice(bytes))?;
        }
        decompressor.finish()?;
        Ok(out)
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * i / 7 + i / 1000) as u8).collect()
    }

    #[test]
    fn many_members_and_frames_are_one_stream() {
        let data = sample(700_000);
        let (a, b) = data.split_at(300_000);
        for (compression, encode) in [(Compression::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Compression::Zstd, zstd_frame)] {
            let stream = [encode(a), encode(b""), encode(b)].concat();
            for step in [1, 7, 1000, usize::MAX] {
                if step > 1 || stream.len() < 1_000_000 {
                    assert!(run(compression, &stream, step).unwrap() == data, "{compression:?} in steps of {step}");
                }
            }
        }
        assert_eq!(run(Compression::None, b"as it is", 3).unwrap(), b"as it is");
        assert_eq!(run(Compression::Gzip, b"", 1).unwrap(), b"");
    }

    #[test]
    fn highly_compressed_data_come_in_pieces() {
        let data = vec![b'a'; 8_000_000];
        for (compression, stream) in [(Compression::Gzip, gzip(&data)), (Compression::Zstd, zstd_frame(&data))] {
            let mut largest = 0;
            let mut total = 0;
            let mut decompressor = Decompressor::new(compression).unwrap();
            decompressor
                .push(&stream, &mut |bytes| {
                    largest = largest.max(bytes.len());
                    total += bytes.len();
                })
                .unwrap();
            decompressor.finish().unwrap();
            assert_eq!((total, largest <= OUTPUT_BYTES), (data.len(), true));
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error() {
        let data = sample(2000);
        for (compression, whole) in [(Compression::Gzip, gzip(&data)), (Compression::Zstd, zstd_frame(&data))] {
            let stream = [whole.clone(), whole.clone()].concat();
            for len in 1..stream.len() {
                let result = run(compression, &stream[..len], 64);
                if len == whole.len() {
                    assert!(result.is_ok());
                } else {
                    assert!(matches!(result, Err(DecompressError::CutOff { .. })), "{compression:?} cut at {len}");
                }
            }
        }
    }

    #[test]
    fn damage_is_found() {
        let data = sample(5000);
        for (compression, stream) in [(Compression::Gzip, gzip(&data)), (Compression::Zstd, zstd_frame(&data))] {
            assert!(run(compression, b"plain text, not compressed", 100).is_err());
            assert!(run(compression, &[&stream[..], b"trailing rubbish"].concat(), 100).is_err());
        }
        let mut wrong_sum = gzip(&data);
        let at = wrong_sum.len() - 6;
        wrong_sum[at] ^= 1;
        assert!(matches!(run(Compression::Gzip, &wrong_sum, 100), Err(DecompressError::Damaged { .. })));
        let padded = [&gzip(&data)[..], &[0; 512]].concat();
        assert_eq!(run(Compression::Gzip, &padded, 100).unwrap(), data);
    }
}
