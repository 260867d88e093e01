//! A strict JSON tokenizer over one line of valid UTF-8. It keeps the text of numbers and checks everything that it
//! skips.

use super::number::Number;
use super::plain::plain_len;
use super::reject::{Fault, Reason, excerpt};

/// Nesting of values that are skipped: one bit each in the stack of open brackets.
const SKIP_DEPTH_MAX: u32 = 127;

/// What kind of value begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    Text,
    /// A digit or `-`.
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
}

impl Token {
    /// The word for messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::Text => "a string",
            Self::Number => "a number",
            Self::True | Self::False => "a boolean",
            Self::Null => "null",
        }
    }
}

/// A place in a line.
#[derive(Debug)]
pub struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    /// At the start of `line`, which must be UTF-8.
    pub fn new(line: &'a [u8]) -> Self {
        Self { bytes: line, at: 0 }
    }

    /// The next byte that is not white space.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Takes `wanted` if it comes next.
    #[inline]
    pub fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Takes `wanted` or says what stands there.
    pub fn expect(&mut self, wanted: u8) -> Result<(), Fault> {
        if self.take(wanted) { Ok(()) } else { Err(self.unexpected(&format!("`{}`", char::from(wanted)))) }
    }

    /// The fault of finding something else than `wanted` here.
    pub fn unexpected(&self, wanted: &str) -> Fault {
        let column = self.at + 1;
        if self.at >= self.bytes.len() {
            return Fault::new(Reason::InvalidJson, format!("the line ends at column {column} where {wanted} should be"));
        }
        let found = excerpt(&self.bytes[self.at..self.bytes.len().min(self.at + 16)]);
        Fault::new(Reason::InvalidJson, format!("column {column}: expected {wanted}, found `{found}`"))
    }

    /// What kind of value comes next; literals are taken, everything else is left to be read.
    #[inline]
    pub fn value(&mut self) -> Result<Token, Fault> {
        match self.peek() {
            Some(b'"') => Ok(Token::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Token::Number),
            Some(b'{') => Ok(Token::Object),
            Some(b'[') => Ok(Token::Array),
            Some(b't') => self.literal(b"true", Token::True),
            Some(b'f') => self.literal(b"false", Token::False),
            Some(b'n') => self.literal(b"null", Token::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn literal(&mut self, word: &[u8], token: Token) -> Result<Token, Fault> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(token);
        }
        Err(self.unexpected("a value"))
    }

    /// Reads a number.
    #[inline]
    pub fn number(&mut self) -> Result<Number<'a>, Fault> {
        let number = Number::scan(&self.bytes[self.at..]).ok_or_else(|| self.unexpected("a number"))?;
        self.at += number.text().len();
        // `01` and `1x` end a number where no value may end.
        match self.bytes.get(self.at) {
            None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') => Ok(number),
            Some(_) => Err(self.unexpected("the end of a number")),
        }
    }

    /// Reads a string: as it stands in the line where it has no escapes, decoded into `scratch` otherwise.
    #[inline]
    pub fn text<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Fault>
    where
        'a: 's,
    {
        let start = self.at + 1;
        let end = self.run_of_plain_text(start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(&self.bytes[start..end]);
        }
        scratch.clear();
        self.text_into(scratch)?;
        Ok(scratch)
    }

    /// Reads a string and appends it to `out`. After a fault `out` may have part of it.
    #[inline]
    pub fn text_into(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut start = self.at + 1;
        loop {
            let end = self.run_of_plain_text(start);
            out.extend_from_slice(&self.bytes[start..end]);
            self.at = end;
            match self.bytes.get(end) {
                Some(b'"') => {
                    self.at = end + 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    let character = self.escape()?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    start = self.at;
                }
                Some(_) => return Err(self.unexpected("an escaped control character")),
                None => return Err(self.unexpected("the end of a string")),
            }
        }
    }

    /// Where the first quote, backslash or control character at or behind `from` is.
    #[inline]
    fn run_of_plain_text(&self, from: usize) -> usize {
        // A string that the line ends in begins within the line, or right behind it.
        from + plain_len(self.bytes.get(from..).unwrap_or_default())
    }

    /// Reads one escape, at the backslash.
    fn escape(&mut self) -> Result<char, Fault> {
        let simple = match self.bytes.get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.unexpected("a valid escape")),
        };
        self.at += 2;
        Ok(simple)
    }

    fn unicode_escape(&mut self) -> Result<char, Fault> {
        let first = self.code_unit(self.at).ok_or_else(|| self.unexpected("four hexadecimal digits"))?;
        if let Some(character) = char::from_u32(first) {
            self.at += 6;
            return Ok(character);
        }
        // A high surrogate must be followed by a low one; half a pair is not a character.
        let second = self.code_unit(self.at + 6).filter(|unit| (0xdc00..0xe000).contains(unit));
        let pair = second.filter(|_| first < 0xdc00).map(|low| 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00));
        let character = pair.and_then(char::from_u32).ok_or_else(|| self.unexpected("a pair of surrogates"))?;
        self.at += 12;
        Ok(character)
    }

    fn code_unit(&self, at: usize) -> Option<u32> {
        let escape = self.bytes.get(at..at + 6)?;
        if !escape.starts_with(b"\\u") {
            return None;
        }
        escape[2..].iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
    }

    /// Skips a value of any kind, checking its grammar. Keys of skipped objects are not compared with each other: what is
    /// skipped does not travel.
    pub fn skip(&mut self) -> Result<(), Fault> {
        // One bit for each open bracket: 1 is an object.
        let mut open: u128 = 1;
        loop {
            match self.value()? {
                Token::Text => self.skip_text()?,
                Token::Number => {
                    self.number()?;
                }
                Token::True | Token::False | Token::Null => {}
                token @ (Token::Object | Token::Array) => {
                    self.at += 1;
                    if open.leading_zeros() == 128 - SKIP_DEPTH_MAX - 1 {
                        return Err(Fault::new(Reason::TooDeep, format!("nested deeper than {SKIP_DEPTH_MAX} levels")));
                    }
                    let is_object = token == Token::Object;
                    open = open << 1 | u128::from(is_object);
                    if !self.take(if is_object { b'}' } else { b']' }) {
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                    open >>= 1;
                }
            }
            // A value has ended: close what ends with it, or go on to the next member.
            loop {
                if open == 1 {
                    return Ok(());
                }
                let is_object = open & 1 == 1;
                if self.take(b',') {
                    if is_object {
                        self.skip_key()?;
                    }
                    break;
                }
                self.expect(if is_object { b'}' } else { b']' })?;
                open >>= 1;
            }
        }
    }

    fn skip_key(&mut self) -> Result<(), Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key"));
        }
        self.skip_text()?;
        self.expect(b':')
    }

    fn skip_text(&mut self) -> Result<(), Fault> {
        let mut start = self.at + 1;
        loop {
            self.at = self.run_of_plain_text(start);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.escape()?;
                    start = self.at;
                }
                Some(_) => return Err(self.unexpected("an escaped control character")),
                None => return Err(self.unexpected("the end of a string")),
            }
        }
    }

    /// Nothing but white space may be left.
    pub fn end(&mut self) -> Result<(), Fault> {
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected("the end of the line")) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn skips(text: &str) -> bool {
        let mut lexer = Lexer::new(text.as_bytes());
        lexer.skip().and_then(|()| lexer.end()).is_ok()
    }

    fn text(json: &str) -> Result<String, Fault> {
        let mut lexer = Lexer::new(json.as_bytes());
        let mut out = Vec::new();
        lexer.text_into(&mut out)?;
        lexer.end()?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn skipping_accepts_json_and_nothing_else() {
        for good in ["1", "{}", "[]", "[[],{}]", r#"{"a":[1,2,{"b":null}],"c":"x\"y"}"#, " [ true , false ] ", "\"\"", "-0.5e3"] {
            assert!(skips(good), "{good}");
        }
        for bad in [
            "",
            "{",
            "[",
            "[1,]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[1 2]",
            "tru",
            "nul",
            "01",
            "1x",
            "]",
            "[}",
            r#"{"a":1]"#,
            "\"",
            r#""\x""#,
            r#""\ud800""#,
            "\"\u{1}\"",
            "1 1",
            "NaN",
            "'a'",
            "{a:1}",
        ] {
            assert!(!skips(bad), "{bad}");
        }
    }

    #[test]
    fn skipping_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(skips(&nested(SKIP_DEPTH_MAX as usize)));
        let deep = nested(SKIP_DEPTH_MAX as usize + 1);
        assert_eq!(Lexer::new(deep.as_bytes()).skip().unwrap_err().reason, Reason::TooDeep);
    }

    #[test]
    fn strings_decode_every_escape() {
        let cases = [
            (r#""""#, ""),
            (r#""plain text, long enough for whole words""#, "plain text, long enough for whole words"),
            (r#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{c}\n\r\tz"),
            (r#""\u0041\u00e9\uD83D\uDE00 é😀\u0000""#, "Aé😀 é😀\0"),
        ];
        for (json, expected) in cases {
            assert_eq!(text(json).unwrap(), expected, "{json}");
        }
        for bad in [r#""\ud83d""#, r#""\ude00\ud83d""#, r#""\ud83dx""#, r#""\ud83d\u0041""#, r#""\u12g4""#, r#""\u12"#, r#""\"#, "\"\t\""] {
            assert_eq!(text(bad).unwrap_err().reason, Reason::InvalidJson, "{bad}");
        }
    }

    #[test]
    fn plain_text_ends_at_every_offset() {
        for stop in ['"', '\\', '\u{0}', '\u{1f}'] {
            for before in 0..40 {
                let line = format!("{}{stop}tail of it all", "é~\u{7f} !#[]"[..].chars().cycle().take(before).collect::<String>());
                let expected = line.find(stop).unwrap();
                assert_eq!(Lexer::new(line.as_bytes()).run_of_plain_text(0), expected, "{line:?}");
            }
        }
    }
}
