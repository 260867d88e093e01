//! Arrow values as JSON, exactly: every digit of an integer or decimal, doubles by their shortest form that reads back
//! the same. A value that JSON or the declared encoding cannot hold makes its row unfit; nothing is ever rounded.

use std::{collections::HashSet, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use datafusion::arrow::{
    array::{
        Array, AsArray as _, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, MapArray,
        StringArray, StructArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, TimeUnit},
};
use weir_crds::backfill_job::{Nulls, TimestampEncoding};

use crate::decode::plain::plain_len;

/// Keys of a map that are compared one by one before a set takes over.
const MAP_KEYS_LINEAR_MAX: usize = 16;
/// The beginning of the year 0000; the library's own bound is the end of the year 9999.
const YEAR_0_US: i64 = -62_167_219_200_000_000;
/// The days of the years 0000 to 9999, from 1970-01-01 on.
const DATE_DAYS: std::ops::RangeInclusive<i32> = -719_528..=2_932_896;

/// How values are written.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    pub nulls: Nulls,
    pub timestamps: TimestampEncoding,
}

/// Why a value cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnfitReason {
    /// NaN and the infinities have no JSON.
    NotFinite,
    /// A time that the encoding would round.
    FinerThanEncoding,
    /// A time or day outside of the years 0000 to 9999, which RFC 3339 cannot write.
    YearOutOfRange,
    /// A map with one key twice would be an object that readers disagree about.
    DuplicateKey,
}

/// A value that cannot be written, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub reason: UnfitReason,
    pub path: String,
}

impl Unfit {
    fn new(reason: UnfitReason) -> Self {
        Self { reason, path: String::new() }
    }

    fn inside(mut self, name: &str) -> Self {
        let between = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path.insert_str(0, between);
        self.path.insert_str(0, name);
        self
    }

    fn at(mut self) -> Self {
        let between = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path.insert_str(0, between);
        // Without the index: reasons are counted, and one bad list must not make a hundred of them.
        self.path.insert_str(0, "[]");
        self
    }
}

/// A type that results never have: the select's check normalises them all.
#[derive(Debug, thiserror::Error)]
#[error("column {column} has the type {data_type}, which has no JSON form")]
pub struct UnknownType {
    pub column: String,
    pub data_type: DataType,
}

/// The columns of one batch, ready to be written row by row.
pub struct Columns<'a> {
    fields: Vec<Member<'a>>,
    encoding: Encoding,
}

struct Member<'a> {
    name: &'a str,
    /// `"name":`
    prefix: Vec<u8>,
    column: Column<'a>,
}

enum Column<'a> {
    Boolean(&'a BooleanArray),
    Integer(&'a Int64Array),
    Double(&'a Float64Array),
    Decimal(&'a Decimal128Array, u32),
    Text(&'a StringArray),
    Binary(&'a BinaryArray),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
    Struct(&'a StructArray, Vec<Member<'a>>),
    List(&'a ListArray, Box<Column<'a>>),
    Map(&'a MapArray, &'a StringArray, Box<Column<'a>>),
}

impl<'a> Columns<'a> {
    pub fn new(columns: impl IntoIterator<Item = (&'a Field, &'a dyn Array)>, encoding: Encoding) -> Result<Self, UnknownType> {
        let fields = columns.into_iter().map(|(field, array)| member(field, array)).collect::<Result<_, _>>()?;
        Ok(Self { fields, encoding })
    }

    /// Appends a row as one JSON object. On an error `out` holds part of it: cut it off.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Unfit> {
        members(&self.fields, row, self.encoding, out)
    }
}

fn member<'a>(field: &'a Field, array: &'a dyn Array) -> Result<Member<'a>, UnknownType> {
    let mut prefix = Vec::with_capacity(field.name().len() + 3);
    text(field.name(), &mut prefix);
    prefix.push(b':');
    Ok(Member { name: field.name(), prefix, column: column(field.name(), array)? })
}

fn column<'a>(name: &str, array: &'a dyn Array) -> Result<Column<'a>, UnknownType> {
    let unknown = || UnknownType { column: name.to_owned(), data_type: array.data_type().clone() };
    #[expect(clippy::wildcard_enum_match_arm, reason = "Arrow's enum: these are the types that results are normalised to")]
    Ok(match array.data_type() {
        DataType::Boolean => Column::Boolean(array.as_boolean()),
        DataType::Int64 => Column::Integer(array.as_primitive()),
        DataType::Float64 => Column::Double(array.as_primitive()),
        DataType::Decimal128(_, scale) => Column::Decimal(array.as_primitive(), u32::try_from(*scale).map_err(|_| unknown())?),
        DataType::Utf8 => Column::Text(array.as_string()),
        DataType::Binary => Column::Binary(array.as_binary()),
        DataType::Date32 => Column::Date(array.as_primitive()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Column::Timestamp(array.as_primitive()),
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let members = fields.iter().zip(array.columns()).map(|(field, child)| member(field, child)).collect::<Result<_, _>>()?;
            Column::Struct(array, members)
        }
        DataType::List(_) => {
            let array = array.as_list::<i32>();
            Column::List(array, Box::new(column(name, array.values())?))
        }
        DataType::Map(_, _) => {
            let array = array.as_map();
            let keys = array.keys().as_string_opt::<i32>().ok_or_else(unknown)?;
            Column::Map(array, keys, Box::new(column(name, array.values())?))
        }
        _ => return Err(unknown()),
    })
}

fn members(fields: &[Member<'_>], row: usize, encoding: Encoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
    out.push(b'{');
    let mut is_first = true;
    for field in fields {
        let is_null = field.column.array().is_null(row);
        if is_null && encoding.nulls == Nulls::Omit {
            continue;
        }
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        out.extend_from_slice(&field.prefix);
        field.column.write(row, encoding, out).map_err(|unfit| unfit.inside(field.name))?;
    }
    out.push(b'}');
    Ok(())
}

impl Column<'_> {
    fn array(&self) -> &dyn Array {
        match self {
            Self::Boolean(a) => *a,
            Self::Integer(a) => *a,
            Self::Double(a) => *a,
            Self::Decimal(a, _) => *a,
            Self::Text(a) => *a,
            Self::Binary(a) => *a,
            Self::Date(a) => *a,
            Self::Timestamp(a) => *a,
            Self::Struct(a, _) => *a,
            Self::List(a, _) => *a,
            Self::Map(a, _, _) => *a,
        }
    }

    fn write(&self, row: usize, encoding: Encoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
        if self.array().is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self {
            Self::Boolean(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Self::Integer(a) => integer(a.value(row), out),
            Self::Double(a) => double(a.value(row), out)?,
            Self::Decimal(a, scale) => decimal(a.value(row), *scale as usize, out),
            Self::Text(a) => text(a.value(row), out),
            Self::Binary(a) => base64(a.value(row), out),
            Self::Date(a) => date(a.value(row), out)?,
            Self::Timestamp(a) => timestamp(a.value(row), encoding.timestamps, out)?,
            Self::Struct(_, fields) => members(fields, row, encoding, out)?,
            Self::List(a, items) => list(a, items, row, encoding, out)?,
            Self::Map(a, keys, values) => map(a, keys, values, row, encoding, out)?,
        }
        Ok(())
    }
}

/// A list keeps its nulls: leaving one out would move the others.
fn list(array: &ListArray, items: &Column<'_>, row: usize, encoding: Encoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
    out.push(b'[');
    let offsets = array.value_offsets();
    for (ordinal, item) in (offsets[row] as usize..offsets[row + 1] as usize).enumerate() {
        if ordinal > 0 {
            out.push(b',');
        }
        items.write(item, encoding, out).map_err(Unfit::at)?;
    }
    out.push(b']');
    Ok(())
}

/// A map keeps its nulls too: its keys are data, not fields.
fn map(array: &MapArray, keys: &StringArray, values: &Column<'_>, row: usize, encoding: Encoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
    out.push(b'{');
    let offsets = array.value_offsets();
    let entries = offsets[row] as usize..offsets[row + 1] as usize;
    let mut more_keys = HashSet::new();
    for entry in entries.clone() {
        let key = keys.value(entry);
        let linear = (entries.start..entry).take(MAP_KEYS_LINEAR_MAX).any(|earlier| keys.value(earlier) == key);
        let is_far = entry - entries.start >= MAP_KEYS_LINEAR_MAX;
        if linear || (is_far && !more_keys.insert(key)) {
            return Err(Unfit::new(UnfitReason::DuplicateKey));
        }
        if entry > entries.start {
            out.push(b',');
        }
        text(key, out);
        out.push(b':');
        values.write(entry, encoding, out).map_err(Unfit::at)?;
    }
    out.push(b'}');
    Ok(())
}

/// As an integer's digits.
pub fn integer(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn double(value: f64, out: &mut Vec<u8>) -> Result<(), Unfit> {
    if !value.is_finite() {
        return Err(Unfit::new(UnfitReason::NotFinite));
    }
    out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    Ok(())
}

fn decimal(value: i128, scale: usize, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs()).as_bytes();
    if scale == 0 {
        out.extend_from_slice(digits);
        return;
    }
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
    out.push(b'.');
    out.extend(std::iter::repeat_n(b'0', scale - fraction.len()));
    out.extend_from_slice(fraction);
}

fn base64(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + value.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(value, &mut out[start..]).expect("four bytes were set aside for every three");
    out.truncate(start + written);
    out.push(b'"');
}

fn date(days: i32, out: &mut Vec<u8>) -> Result<(), Unfit> {
    if !DATE_DAYS.contains(&days) {
        return Err(Unfit::new(UnfitReason::YearOutOfRange));
    }
    let date = jiff::civil::date(1970, 1, 1)
        .checked_add(jiff::Span::new().days(i64::from(days)))
        .map_err(|_| Unfit::new(UnfitReason::YearOutOfRange))?;
    push_display(format_args!("\"{date}\""), out);
    Ok(())
}

fn timestamp(micros: i64, encoding: TimestampEncoding, out: &mut Vec<u8>) -> Result<(), Unfit> {
    match encoding {
        TimestampEncoding::EpochMillis if micros % 1000 == 0 => integer(micros / 1000, out),
        TimestampEncoding::EpochMillis => return Err(Unfit::new(UnfitReason::FinerThanEncoding)),
        TimestampEncoding::EpochMicros => integer(micros, out),
        TimestampEncoding::Rfc3339 => {
            let at = jiff::Timestamp::from_microsecond(micros).ok().filter(|_| micros >= YEAR_0_US);
            let at = at.ok_or(Unfit::new(UnfitReason::YearOutOfRange))?;
            push_display(format_args!("\"{at}\""), out);
        }
    }
    Ok(())
}

fn push_display(value: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Sink<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    // Writing to memory cannot fail.
    let _ = Sink(out).write_fmt(value);
}

/// A JSON string: what must be escaped is, by the short form where there is one, and nothing else.
fn text(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = value.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_len(rest));
        out.extend_from_slice(plain);
        let Some((byte, behind)) = special.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => push_display(format_args!("\\u{other:04x}"), out),
        }
        rest = behind;
    }
    out.push(b'"');
}
