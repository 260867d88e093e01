//! The columns that a source declares, as text: `ts timestamp, user struct<id: bigint>, tags array<string>`.
//!
//! Pure: it parses, bounds and prints declarations. It knows neither files nor Arrow; the worker maps
//! [`ColumnType`] to what it decodes into. The admission webhook, the reconciler and the worker call the same parser.

use std::collections::HashSet;
use std::fmt;

use thiserror::Error;

/// Longest declaration: what fits in a spec beside everything else, many times what a wide table needs.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;
/// Fields of one source, nested ones included: each costs a buffer in every decoding thread.
pub const FIELDS_MAX: usize = 512;
/// Levels of nesting: the decoder recurses over it.
pub const DEPTH_MAX: usize = 8;
/// Longest column name.
pub const NAME_BYTES_MAX: usize = 255;
/// Greatest precision of a decimal: what 128 bits hold exactly.
pub const DECIMAL_PRECISION_MAX: u8 = 38;
/// Names with this prefix are weir's own (where a row came from).
pub const RESERVED_PREFIX: &str = "__";

/// Declared columns, in the declared order, with unique names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(Vec<Column>);

/// One declared column or one field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name, exactly as the source spells it.
    pub name: String,
    /// What its values are.
    pub kind: ColumnType,
}

/// What a value must be. One that is not exactly that makes its row invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Text in UTF-8.
    String,
    /// `true` or `false`.
    Boolean,
    /// A 32-bit integer.
    Int,
    /// A 64-bit integer.
    Bigint,
    /// A finite 64-bit floating-point number.
    Double,
    /// A decimal with all its digits.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// An instant, exact to the microsecond.
    Timestamp(TimestampFormat),
    /// A calendar day, `yyyy-mm-dd`.
    Date,
    /// Bytes, as base64 with padding.
    Binary,
    /// Named fields.
    Struct(Vec<Column>),
    /// A list of one type.
    Array(Box<ColumnType>),
    /// From text to one type, keys unique.
    Map(Box<ColumnType>),
}

/// How an instant is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampFormat {
    /// RFC 3339 text with an offset.
    Rfc3339,
    /// A number of seconds since 1970-01-01T00:00:00Z.
    EpochSeconds,
    /// A number of milliseconds since then.
    EpochMillis,
    /// A number of microseconds since then.
    EpochMicros,
}

/// Why a declaration was refused. `position` is the byte (from 1) at which the trouble begins.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("position {position}: {problem}; {remedy}")]
pub struct ColumnsError {
    /// Byte of the declaration, counted from 1.
    pub position: usize,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl Columns {
    /// Parses a declaration such as `id bigint, user struct<name: string>`.
    pub fn parse(text: &str) -> Result<Self, ColumnsError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ColumnsError {
                position: TEXT_BYTES_MAX + 1,
                problem: format!("the declaration has {} bytes, more than {TEXT_BYTES_MAX}", text.len()),
                remedy: "declare only the columns that `select` uses".into(),
            });
        }
        let mut parser = Parser { text, at: 0, fields: 0 };
        let columns = parser.columns()?;
        Ok(Self(columns))
    }

    /// The columns in declared order.
    pub fn iter(&self) -> std::slice::Iter<'_, Column> {
        self.0.iter()
    }

    /// The columns in declared order.
    pub fn as_slice(&self) -> &[Column] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Columns {
    type Item = &'a Column;
    type IntoIter = std::slice::Iter<'a, Column>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The canonical form: parsing it gives the same columns.
impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, &self.0, " ")
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Boolean => f.write_str("boolean"),
            Self::Int => f.write_str("int"),
            Self::Bigint => f.write_str("bigint"),
            Self::Double => f.write_str("double"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Timestamp(TimestampFormat::Rfc3339) => f.write_str("timestamp"),
            Self::Timestamp(TimestampFormat::EpochSeconds) => f.write_str("timestamp(s)"),
            Self::Timestamp(TimestampFormat::EpochMillis) => f.write_str("timestamp(ms)"),
            Self::Timestamp(TimestampFormat::EpochMicros) => f.write_str("timestamp(us)"),
            Self::Date => f.write_str("date"),
            Self::Binary => f.write_str("binary"),
            Self::Struct(fields) => {
                f.write_str("struct<")?;
                write_list(f, fields, ": ")?;
                f.write_str(">")
            }
            Self::Array(item) => write!(f, "array<{item}>"),
            Self::Map(value) => write!(f, "map<string, {value}>"),
        }
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, columns: &[Column], between: &str) -> fmt::Result {
    for (index, column) in columns.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        if is_bare_name(&column.name) {
            write!(f, "{comma}{}{between}{}", column.name, column.kind)?;
        } else {
            write!(f, "{comma}`{}`{between}{}", column.name.replace('`', "``"), column.kind)?;
        }
    }
    Ok(())
}

fn is_bare_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

const TYPES: &str = "use string, boolean, int, bigint, double, decimal(p,s), timestamp, timestamp(s|ms|us), date, binary, \
                     struct<name: type, ...>, array<type> or map<string, type>";

struct Parser<'a> {
    text: &'a str,
    at: usize,
    fields: usize,
}

impl<'a> Parser<'a> {
    fn columns(&mut self) -> Result<Vec<Column>, ColumnsError> {
        let mut columns = Vec::new();
        let mut names = HashSet::new();
        loop {
            let (name_at, name) = self.name()?;
            if name.starts_with(RESERVED_PREFIX) {
                return Err(error(
                    name_at,
                    format!("column `{name}` begins with `{RESERVED_PREFIX}`, which is reserved"),
                    "such a field cannot be declared; leave it out",
                ));
            }
            let kind = self.kind(1)?;
            self.push(&mut columns, &mut names, name_at, name, kind)?;
            if self.peek().is_none() {
                return Ok(columns);
            }
            self.expect(b',', "separate columns by commas: `a string, b bigint`")?;
        }
    }

    fn push(
        &mut self,
        columns: &mut Vec<Column>,
        names: &mut HashSet<String>,
        name_at: usize,
        name: String,
        kind: ColumnType,
    ) -> Result<(), ColumnsError> {
        if !names.insert(name.clone()) {
            return Err(error(name_at, format!("`{name}` is declared twice"), "remove one of the two"));
        }
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(error(
                name_at,
                format!("more than {FIELDS_MAX} columns and fields"),
                "declare only the columns that `select` uses",
            ));
        }
        columns.push(Column { name, kind });
        Ok(())
    }

    fn kind(&mut self, depth: usize) -> Result<ColumnType, ColumnsError> {
        let (at, word) = self.word();
        if depth > DEPTH_MAX {
            return Err(error(
                at,
                format!("types are nested deeper than {DEPTH_MAX} levels"),
                "declare the inner part as string, or leave it out",
            ));
        }
        match word.to_ascii_lowercase().as_str() {
            "string" => Ok(ColumnType::String),
            "boolean" => Ok(ColumnType::Boolean),
            "int" => Ok(ColumnType::Int),
            "bigint" => Ok(ColumnType::Bigint),
            "double" => Ok(ColumnType::Double),
            "date" => Ok(ColumnType::Date),
            "binary" => Ok(ColumnType::Binary),
            "decimal" => self.decimal(at),
            "timestamp" => self.timestamp(),
            "struct" => self.fields(depth),
            "array" => {
                self.expect(b'<', "write array<type>")?;
                let item = self.kind(depth + 1)?;
                self.expect(b'>', "close the array with `>`")?;
                Ok(ColumnType::Array(Box::new(item)))
            }
            "map" => self.map(depth),
            "" => Err(error(at, "a type is missing".into(), TYPES)),
            _ => Err(error(at, format!("unknown type `{word}`"), TYPES)),
        }
    }

    fn decimal(&mut self, type_at: usize) -> Result<ColumnType, ColumnsError> {
        let remedy = "write decimal(p,s) with 1 <= p <= 38 and 0 <= s <= p";
        self.expect(b'(', remedy)?;
        let precision = self.small_number(remedy)?;
        self.expect(b',', remedy)?;
        let scale = self.small_number(remedy)?;
        self.expect(b')', remedy)?;
        if precision == 0 || precision > DECIMAL_PRECISION_MAX || scale > precision {
            return Err(error(type_at, format!("decimal({precision},{scale}) is not possible"), remedy));
        }
        Ok(ColumnType::Decimal { precision, scale })
    }

    fn timestamp(&mut self) -> Result<ColumnType, ColumnsError> {
        if self.peek() != Some(b'(') {
            return Ok(ColumnType::Timestamp(TimestampFormat::Rfc3339));
        }
        self.at += 1;
        let remedy = "write timestamp for RFC 3339 text, or timestamp(s), timestamp(ms), timestamp(us) for epoch numbers";
        let (at, unit) = self.word();
        let format = match unit {
            "s" => TimestampFormat::EpochSeconds,
            "ms" => TimestampFormat::EpochMillis,
            "us" => TimestampFormat::EpochMicros,
            _ => return Err(error(at, format!("unknown epoch unit `{unit}`"), remedy)),
        };
        self.expect(b')', remedy)?;
        Ok(ColumnType::Timestamp(format))
    }

    fn fields(&mut self, depth: usize) -> Result<ColumnType, ColumnsError> {
        self.expect(b'<', "write struct<name: type, ...>")?;
        let mut columns = Vec::new();
        let mut names = HashSet::new();
        loop {
            let (name_at, name) = self.name()?;
            self.expect(b':', "write a colon between a field and its type: `id: bigint`")?;
            let kind = self.kind(depth + 1)?;
            self.push(&mut columns, &mut names, name_at, name, kind)?;
            if self.peek() == Some(b'>') {
                self.at += 1;
                return Ok(ColumnType::Struct(columns));
            }
            self.expect(b',', "separate fields by commas and close the struct with `>`")?;
        }
    }

    fn map(&mut self, depth: usize) -> Result<ColumnType, ColumnsError> {
        let remedy = "write map<string, type>";
        self.expect(b'<', remedy)?;
        let (at, key) = self.word();
        if !key.eq_ignore_ascii_case("string") {
            return Err(error(at, format!("the keys of a map are strings, not `{key}`"), remedy));
        }
        self.expect(b',', remedy)?;
        let value = self.kind(depth + 1)?;
        self.expect(b'>', "close the map with `>`")?;
        Ok(ColumnType::Map(Box::new(value)))
    }

    fn name(&mut self) -> Result<(usize, String), ColumnsError> {
        let remedy = "names are letters, digits and `_`; put any other name in backticks: `` `user-id` string``";
        let (at, name) = if self.peek() == Some(b'`') {
            self.quoted_name()?
        } else {
            let (at, word) = self.word();
            (at, word.to_owned())
        };
        if name.is_empty() {
            return Err(error(at, "a column name is missing".into(), remedy));
        }
        if name.as_bytes()[0].is_ascii_digit() && self.text.as_bytes()[at] != b'`' {
            return Err(error(at, format!("column name `{name}` begins with a digit"), remedy));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(error(at, format!("a column name is longer than {NAME_BYTES_MAX} bytes"), "leave that column out"));
        }
        Ok((at, name))
    }

    fn quoted_name(&mut self) -> Result<(usize, String), ColumnsError> {
        let start = self.at;
        let mut name = String::new();
        let mut rest = &self.text[start + 1..];
        loop {
            let Some(end) = rest.find('`') else {
                return Err(error(start, "a backtick is never closed".into(), "close the name with a backtick"));
            };
            name.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            // A doubled backtick is a backtick of the name.
            match rest.strip_prefix('`') {
                Some(after) => {
                    name.push('`');
                    rest = after;
                }
                None => break,
            }
        }
        self.at = self.text.len() - rest.len();
        Ok((start, name))
    }

    fn word(&mut self) -> (usize, &'a str) {
        self.peek();
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let len = rest.iter().position(|b| !(b.is_ascii_alphanumeric() || *b == b'_')).unwrap_or(rest.len());
        self.at += len;
        (start, &self.text[start..self.at])
    }

    fn small_number(&mut self, remedy: &str) -> Result<u8, ColumnsError> {
        let (at, digits) = self.word();
        digits.parse::<u8>().map_err(|_| error(at, format!("`{digits}` is not a number of digits"), remedy))
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() && bytes[self.at].is_ascii_whitespace() {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn expect(&mut self, wanted: u8, remedy: &str) -> Result<(), ColumnsError> {
        let wanted = char::from(wanted);
        match self.peek() {
            Some(found) if char::from(found) == wanted => {
                self.at += 1;
                Ok(())
            }
            Some(_) => {
                let found = self.text[self.at..].chars().next().unwrap_or(' ');
                Err(error(self.at, format!("expected `{wanted}`, found `{found}`"), remedy))
            }
            None => Err(error(self.at, format!("expected `{wanted}`, found the end"), remedy)),
        }
    }
}

fn error(at: usize, problem: String, remedy: &str) -> ColumnsError {
    ColumnsError { position: at + 1, problem, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn parsed(text: &str) -> Columns {
        Columns::parse(text).unwrap()
    }

    fn refused(text: &str) -> String {
        Columns::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn parses_every_type() {
        let text = "a string, b boolean, c int, d bigint, e double, f decimal(12,2), g timestamp, h timestamp(s), \
                    i timestamp(ms), j timestamp(us), k date, l binary, m struct<x: int, y: array<string>>, \
                    n array<struct<z: bigint>>, o map<string, bigint>";
        let columns = parsed(text);
        assert_eq!(columns.as_slice().len(), 15);
        assert_eq!(columns.to_string(), text);
        let struct_fields = vec![
            Column { name: "x".into(), kind: ColumnType::Int },
            Column { name: "y".into(), kind: ColumnType::Array(Box::new(ColumnType::String)) },
        ];
        assert_eq!(columns.as_slice()[12].kind, ColumnType::Struct(struct_fields));
        assert_eq!(columns.as_slice()[5].kind, ColumnType::Decimal { precision: 12, scale: 2 });
    }

    #[test]
    fn types_ignore_case_and_names_keep_it() {
        assert_eq!(parsed("userId BIGINT, t Timestamp(ms)").to_string(), "userId bigint, t timestamp(ms)");
    }

    #[test]
    fn white_space_is_free() {
        assert_eq!(parsed(" \n a\tstring ,b struct < c :int > \n").to_string(), "a string, b struct<c: int>");
    }

    #[test]
    fn backticks_quote_any_name() {
        let columns = parsed("`user-id` string, `a``b` int, `1st` date, `ключ` string");
        let names: Vec<_> = columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["user-id", "a`b", "1st", "ключ"]);
        assert_eq!(parsed(&columns.to_string()), columns);
    }

    #[test]
    fn refuses_with_position_and_remedy() {
        let cases = [
            ("", "position 1: a column name is missing"),
            ("a", "position 2: a type is missing"),
            ("a text", "position 3: unknown type `text`; use string"),
            ("a string b int", "position 10: expected `,`, found `b`"),
            ("a string,", "position 10: a column name is missing"),
            ("a string, a int", "position 11: `a` is declared twice"),
            ("s struct<x: int, x: int>", "position 18: `x` is declared twice"),
            ("__row bigint", "position 1: column `__row` begins with `__`"),
            ("a decimal", "position 10: expected `(`, found the end; write decimal(p,s)"),
            ("a decimal(39,2)", "position 3: decimal(39,2) is not possible"),
            ("a decimal(5,6)", "position 3: decimal(5,6) is not possible"),
            ("a decimal(0,0)", "position 3: decimal(0,0) is not possible"),
            ("a decimal(300,0)", "position 11: `300` is not a number of digits"),
            ("a timestamp(ns)", "position 13: unknown epoch unit `ns`"),
            ("a map<int, string>", "position 7: the keys of a map are strings, not `int`"),
            ("a array<string", "position 15: expected `>`, found the end"),
            ("a struct<x int>", "position 12: expected `:`, found `i`"),
            ("`a string", "position 1: a backtick is never closed"),
            ("1a string", "position 1: column name `1a` begins with a digit"),
            ("user-id string", "position 5: a type is missing"),
        ];
        for (text, expected) in cases {
            let message = refused(text);
            assert!(message.starts_with(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn bounds_hold() {
        let nested = |levels: usize| format!("a {}int{}", "array<".repeat(levels - 1), ">".repeat(levels - 1));
        assert!(Columns::parse(&nested(DEPTH_MAX)).is_ok());
        assert!(refused(&nested(DEPTH_MAX + 1)).contains("nested deeper"));
        let wide = |n: usize| (0..n).map(|i| format!("c{i} int")).collect::<Vec<_>>().join(",");
        assert!(Columns::parse(&wide(FIELDS_MAX)).is_ok());
        assert!(refused(&wide(FIELDS_MAX + 1)).contains("more than 512"));
        assert!(Columns::parse(&format!("{} int", "n".repeat(NAME_BYTES_MAX))).is_ok());
        assert!(refused(&format!("{} int", "n".repeat(NAME_BYTES_MAX + 1))).contains("longer than 255"));
        assert!(refused(&format!("a string{}", " ".repeat(TEXT_BYTES_MAX))).contains("bytes, more than"));
    }
}
