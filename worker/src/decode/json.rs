//! JSON lines to batches. Each line is one row: it becomes a row of the batch whole, or is rejected whole.
//!
//! What is exact, in short: numbers keep all digits (`5.0` and `1e3` are integers, `5.7` is not); a field that is missing or
//! `null` is null; strings are never numbers nor numbers strings; a key that appears twice in a declared object, the row's
//! own included, rejects the row. Undeclared fields are counted by path and skipped with their grammar checked.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use weir_crds::columns::{ColumnType, Columns, TimestampFormat};

use super::column::{ColumnBuffer, FieldSet, UNKNOWN_NAMES_MAX, Values};
use super::lexer::{Lexer, Token};
use super::lines::{Block, Line};
use super::number::Number;
use super::reject::{Fault, Reason, Rejected};
use super::{Decoded, UnknownFields, time, types};

/// Entries of one map whose keys are compared one by one; from there on a set does it.
const MAP_KEYS_LINEAR_MAX: usize = 16;
/// Some programs begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Decodes blocks of JSON lines. It is reused: unknown fields add up until they are taken.
#[derive(Debug)]
pub struct JsonDecoder {
    schema: SchemaRef,
    row: FieldSet,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the object at hand, over all rows.
    object: u64,
    /// Room left for undeclared names, over all structs.
    unknown_names: usize,
    /// Undeclared names of the row at hand for which there was no room, with the number of their object.
    overflowed: HashSet<(u64, Box<[u8]>)>,
    /// Of keys and of text that is parsed further.
    key_scratch: Vec<u8>,
    text_scratch: Vec<u8>,
}

impl JsonDecoder {
    /// A decoder for the declared columns.
    pub fn new(columns: &Columns) -> Self {
        Self { schema: types::batch_schema(columns), row: FieldSet::new(columns.as_slice()), state: State::default() }
    }

    /// Decodes one block.
    pub fn decode(&mut self, block: &Block) -> Result<Decoded, ArrowError> {
        // One check for the block where all is well; line by line only where it is not.
        let block_is_utf8 = std::str::from_utf8(block.bytes()).is_ok();
        let mut rejected = Vec::new();
        let mut numbers = Vec::with_capacity(block.line_count());
        let mut blank_lines = 0;
        for (number, line) in block.lines() {
            let mut line = match line {
                Line::Whole(line) => line,
                Line::TooLong { head, len } => {
                    let detail = format!("the line has {len} bytes, more than {}", super::lines::LINE_BYTES_MAX);
                    let mut row = Rejected::from_line(block.object, number, Fault::new(Reason::RowTooLong, detail), head);
                    row.raw_len = len;
                    rejected.push(row);
                    continue;
                }
            };
            if number == 1 {
                line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                blank_lines += 1;
                continue;
            }
            match self.line(line, block_is_utf8) {
                Ok(()) => numbers.push(number),
                Err(fault) => {
                    let len = numbers.len();
                    self.row.fields.iter_mut().for_each(|(_, column)| column.truncate(len));
                    rejected.push(Rejected::from_line(block.object, number, fault, line));
                }
            }
        }
        let rows = (numbers.len() + rejected.len()) as u64;
        let batch = self.finish(block.object, numbers)?;
        Ok(Decoded { batch, rejected, rows, blank_lines })
    }

    /// The undeclared fields seen since this was last asked.
    pub fn take_unknown(&mut self) -> UnknownFields {
        let mut unknown = UnknownFields::default();
        self.row.take_unknown("", &mut unknown);
        self.state.unknown_names = 0;
        unknown
    }

    fn finish(&mut self, object: u32, numbers: Vec<u64>) -> Result<RecordBatch, ArrowError> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.row.fields.len() + 2);
        for (_, column) in &mut self.row.fields {
            arrays.push(column.finish()?);
        }
        arrays.push(Arc::new(UInt32Array::from(vec![object; numbers.len()])));
        arrays.push(Arc::new(UInt64Array::from(numbers)));
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
    }

    fn line(&mut self, line: &[u8], is_utf8: bool) -> Result<(), Fault> {
        if !is_utf8 && let Err(error) = std::str::from_utf8(line) {
            let column = error.valid_up_to() + 1;
            return Err(Fault::new(Reason::InvalidUtf8, format!("column {column} is not UTF-8")));
        }
        self.state.overflowed.clear();
        let mut lexer = Lexer::new(line);
        if lexer.peek() != Some(b'{') {
            let found = lexer.value()?;
            return Err(Fault::new(Reason::NotAnObject, format!("the line is {}, not an object", found.noun())));
        }
        object(&mut lexer, &mut self.row, &mut self.state)?;
        lexer.end()
    }
}

/// Reads an object, at its brace, into one row of `set`.
fn object(lexer: &mut Lexer<'_>, set: &mut FieldSet, state: &mut State) -> Result<(), Fault> {
    lexer.expect(b'{')?;
    state.object += 1;
    let this = state.object;
    let mut expected = 0;
    if !lexer.take(b'}') {
        loop {
            if lexer.peek() != Some(b'"') {
                return Err(lexer.unexpected("a key"));
            }
            let key = lexer.text(&mut state.key_scratch)?;
            match set.index_of(key, expected) {
                Some(index) => {
                    lexer.expect(b':')?;
                    let (name, column) = &mut set.fields[index];
                    if set.seen_in[index] == this {
                        return Err(Fault::new(Reason::DuplicateKey, "the key appears twice").in_field(name));
                    }
                    set.seen_in[index] = this;
                    value(lexer, column, state).map_err(|fault| fault.in_field(name))?;
                    expected = index + 1;
                }
                None => {
                    let key: Box<[u8]> = key.into();
                    unknown(set, state, &key, this)?;
                    lexer.expect(b':')?;
                    lexer.skip().map_err(|fault| fault.in_field(&String::from_utf8_lossy(&key)))?;
                }
            }
            if !lexer.take(b',') {
                lexer.expect(b'}')?;
                break;
            }
        }
    }
    for (index, seen_in) in set.seen_in.iter().enumerate() {
        if *seen_in != this {
            set.fields[index].1.push_null();
        }
    }
    Ok(())
}

/// Counts an undeclared key, and refuses it where the object has had it before.
fn unknown(set: &mut FieldSet, state: &mut State, key: &[u8], this: u64) -> Result<(), Fault> {
    let duplicate = || Fault::new(Reason::DuplicateKey, "the key appears twice").in_field(&super::reject::excerpt(key));
    if let Some((count, seen_in)) = set.unknown.get_mut(key) {
        if *seen_in == this {
            return Err(duplicate());
        }
        *count += 1;
        *seen_in = this;
    } else if state.unknown_names < UNKNOWN_NAMES_MAX {
        state.unknown_names += 1;
        set.unknown.insert(key.into(), (1, this));
    } else {
        set.unknown_others += 1;
        if !state.overflowed.insert((this, key.into())) {
            return Err(duplicate());
        }
    }
    Ok(())
}

/// Reads a value of any kind into one row of `column`. After a fault the row is taken back from the top.
fn value(lexer: &mut Lexer<'_>, column: &mut ColumnBuffer, state: &mut State) -> Result<(), Fault> {
    let token = lexer.value()?;
    if token == Token::Null {
        column.push_null();
        return Ok(());
    }
    let kind = &column.kind;
    match (&mut column.values, token) {
        (Values::Bytes { offsets, bytes }, Token::Text) => {
            if matches!(kind, ColumnType::Binary) {
                let text = lexer.text(&mut state.text_scratch)?;
                base64_into(text, bytes)?;
            } else {
                lexer.text_into(bytes)?;
            }
            offsets.push(end_offset(bytes.len())?);
        }
        (Values::Boolean(values), Token::True) => values.push(true),
        (Values::Boolean(values), Token::False) => values.push(false),
        (Values::Int(values), Token::Text) if matches!(kind, ColumnType::Date) => {
            values.push(time::parse_date(lexer.text(&mut state.text_scratch)?)?);
        }
        (Values::Int(values), Token::Number) if !matches!(kind, ColumnType::Date) => values.push(lexer.number()?.to_i32()?),
        (Values::Bigint(values), token) => values.push(integer(lexer, kind, token, state)?),
        (Values::Double(values), Token::Number) => values.push(lexer.number()?.to_f64()?),
        (Values::Decimal(values), Token::Number) => values.push(decimal(lexer.number()?, kind)?),
        (Values::Struct(set), Token::Object) => object(lexer, set, state)?,
        (Values::Array { offsets, items }, Token::Array) => {
            array(lexer, items, state)?;
            offsets.push(end_offset(items.len())?);
        }
        (Values::Map { offsets, keys, values }, Token::Object) => {
            map(lexer, keys, values, state)?;
            offsets.push(end_offset(keys.len())?);
        }
        (_, found) => return Err(wrong_type(found, kind)),
    }
    column.mark_valid();
    Ok(())
}

fn wrong_type(found: Token, kind: &ColumnType) -> Fault {
    Fault::new(Reason::WrongType, format!("found {}, declared is {kind}", found.noun()))
}

/// A `bigint`, or a timestamp in its declared form.
fn integer(lexer: &mut Lexer<'_>, kind: &ColumnType, token: Token, state: &mut State) -> Result<i64, Fault> {
    match (types::timestamp_format(kind), token) {
        (None, Token::Number) => lexer.number()?.to_i64(),
        (Some(TimestampFormat::Rfc3339), Token::Text) => time::parse_rfc3339(lexer.text(&mut state.text_scratch)?),
        (Some(format @ (TimestampFormat::EpochSeconds | TimestampFormat::EpochMillis | TimestampFormat::EpochMicros)), Token::Number) => {
            lexer.number()?.to_micros(epoch_scale(format))
        }
        (_, found) => Err(wrong_type(found, kind)),
    }
}

/// Powers of ten from an epoch's unit to microseconds.
pub fn epoch_scale(format: TimestampFormat) -> u8 {
    match format {
        TimestampFormat::EpochSeconds => 6,
        TimestampFormat::EpochMillis => 3,
        TimestampFormat::EpochMicros | TimestampFormat::Rfc3339 => 0,
    }
}

/// A number as the declared decimal.
pub fn decimal(number: Number<'_>, kind: &ColumnType) -> Result<i128, Fault> {
    let ColumnType::Decimal { precision, scale } = kind else {
        return Err(Fault::new(Reason::WrongType, format!("found a number, declared is {kind}")));
    };
    number.to_decimal(*precision, *scale)
}

/// Appends the bytes that `text` stands for.
pub fn base64_into(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    BASE64
        .decode_vec(text, out)
        .map_err(|error| Fault::new(Reason::InvalidBase64, format!("\"{}\": {error}", super::reject::excerpt(text))))
}

/// Arrow's offsets have 31 bits; a block is far smaller, so only a broken bound could get here.
fn end_offset(len: usize) -> Result<i32, Fault> {
    i32::try_from(len).map_err(|_| Fault::new(Reason::OutOfRange, "a batch would grow beyond 2 GiB"))
}

fn array(lexer: &mut Lexer<'_>, items: &mut ColumnBuffer, state: &mut State) -> Result<(), Fault> {
    lexer.expect(b'[')?;
    if lexer.take(b']') {
        return Ok(());
    }
    let mut index = 0;
    loop {
        value(lexer, items, state).map_err(|fault| fault.at_index(index))?;
        index += 1;
        if !lexer.take(b',') {
            return lexer.expect(b']');
        }
    }
}

fn map(lexer: &mut Lexer<'_>, keys: &mut ColumnBuffer, values: &mut ColumnBuffer, state: &mut State) -> Result<(), Fault> {
    lexer.expect(b'{')?;
    if lexer.take(b'}') {
        return Ok(());
    }
    let first = keys.len();
    let mut more_keys: HashSet<Box<[u8]>> = HashSet::new();
    loop {
        if lexer.peek() != Some(b'"') {
            return Err(lexer.unexpected("a key"));
        }
        let key = lexer.text(&mut state.key_scratch)?;
        let Values::Bytes { offsets, bytes } = &mut keys.values else {
            return Err(Fault::new(Reason::WrongType, "the keys of a map are strings"));
        };
        let linear = keys_from(offsets, bytes, first, MAP_KEYS_LINEAR_MAX).any(|earlier| earlier == key);
        let is_far = offsets.len() - 1 - first >= MAP_KEYS_LINEAR_MAX;
        if linear || (is_far && !more_keys.insert(key.into())) {
            return Err(Fault::new(Reason::DuplicateKey, "the key appears twice").at_key(key));
        }
        bytes.extend_from_slice(key);
        offsets.push(end_offset(bytes.len())?);
        let name_at = offsets[offsets.len() - 2];
        keys.mark_valid();
        lexer.expect(b':')?;
        if let Err(fault) = value(lexer, values, state) {
            let Values::Bytes { bytes, .. } = &keys.values else { return Err(fault) };
            let name = bytes.get(usize::try_from(name_at).unwrap_or(0)..).unwrap_or_default();
            return Err(fault.at_key(name));
        }
        if !lexer.take(b',') {
            return lexer.expect(b'}');
        }
    }
}

/// Up to `count` keys from index `first` on.
fn keys_from<'a>(offsets: &'a [i32], bytes: &'a [u8], first: usize, count: usize) -> impl Iterator<Item = &'a [u8]> {
    offsets[first..].windows(2).take(count).map(|pair| {
        let at = |offset: i32| usize::try_from(offset).unwrap_or(0);
        bytes.get(at(pair[0])..at(pair[1])).unwrap_or_default()
    })
}
