//! The columns that a source declares, as text: `ts timestamp, user struct<id: bigint>, tags array<string>`.
//!
//! Pure: it parses, bounds and prints declarations. It knows neither files nor Arrow; the worker maps
//! [`ColumnType`] to what it decodes into. The admission webhook, the reconciler and the worker call the same parser.

mod parser;

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
        parser::parse(text).map(Self)
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
