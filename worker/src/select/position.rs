//! Where in a select something stands.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::Span as SqlSpan;

/// A line and column, both from 1, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(Option<(u64, u64)>);

impl Position {
    /// Not known.
    pub const UNKNOWN: Self = Self(None);

    /// The start of a span; an empty span is unknown.
    pub fn of(span: SqlSpan) -> Self {
        Self::at(span.start.line, span.start.column)
    }

    /// A line and column, from 1; line 0 is unknown.
    pub fn at(line: u64, column: u64) -> Self {
        Self((line > 0).then_some((line, column)))
    }

    /// Behind the last character.
    pub fn end_of(text: &str) -> Self {
        let line = text.matches('\n').count() as u64 + 1;
        let column = text.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        Self::at(line, column)
    }

    /// Takes the parser's own `at Line: l, Column: c` off the end of its message.
    pub fn split_off(message: &str) -> (&str, Self) {
        let parse = |tail: &str| {
            let (line, column) = tail.split_once(", Column: ")?;
            Some((line.parse().ok()?, column.trim_end().parse().ok()?))
        };
        match message.rsplit_once(" at Line: ") {
            Some((head, tail)) => match parse(tail) {
                Some(at) => (head, Self(Some(at))),
                None => (message, Self::UNKNOWN),
            },
            None => (message, Self::UNKNOWN),
        }
    }
}

/// Empty, or ` at line 2, column 5`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, " at line {line}, column {column}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_positions_are_taken_over() {
        let (message, at) = Position::split_off("Expected: an expression, found: FROM at Line: 2, Column: 15");
        assert_eq!((message, at.to_string().as_str()), ("Expected: an expression, found: FROM", " at line 2, column 15"));
        assert_eq!(Position::split_off("no position"), ("no position", Position::UNKNOWN));
        assert_eq!(Position::UNKNOWN.to_string(), "");
    }
}
