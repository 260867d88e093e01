//! Parsing a declaration, by descent, byte by byte.

use std::collections::HashSet;

use super::{
    Column, ColumnType, ColumnsError, DECIMAL_PRECISION_MAX, DEPTH_MAX, FIELDS_MAX, NAME_BYTES_MAX, RESERVED_PREFIX, TEXT_BYTES_MAX,
    TimestampFormat,
};

const TYPES: &str = "use string, boolean, int, bigint, double, decimal(p,s), timestamp, timestamp(s|ms|us), date, binary, \
                     struct<name: type, ...>, array<type> or map<string, type>";

/// The columns of a declaration, in its order.
pub fn parse(text: &str) -> Result<Vec<Column>, ColumnsError> {
    if text.len() > TEXT_BYTES_MAX {
        let problem = format!("the declaration has {} bytes, more than {TEXT_BYTES_MAX}", text.len());
        return Err(error(TEXT_BYTES_MAX, problem, "declare only the columns that `select` uses"));
    }
    Parser { text, at: 0, fields: 0 }.columns()
}

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
