//! Exact numbers: the text of a JSON number (or a CSV cell of the same grammar) to a declared type, or a named reason.
//!
//! Nothing is ever rounded but a decimal fraction to the nearest double, which is what a double is.

use super::reject::{Fault, Reason, excerpt};

/// `10^n` for the digits that 128 bits hold.
const POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// Beyond this an exponent only says "out of range" or "zero", whatever the digits of a row that is at most 16 MiB long.
const EXPONENT_MAX: i64 = 100_000_000;

/// A number's text, taken apart. `digits` are those before the point, `fraction` those behind.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    text: &'a [u8],
    negative: bool,
    digits: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
    is_plain_integer: bool,
}

impl<'a> Number<'a> {
    /// Takes the longest JSON number off the start of `bytes`; `None` where there is none.
    pub fn scan(bytes: &'a [u8]) -> Option<Self> {
        let negative = bytes.first() == Some(&b'-');
        let mut at = usize::from(negative);
        let digits_at = at;
        at += run_of_digits(&bytes[at..]);
        let digits = &bytes[digits_at..at];
        if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') {
            return None;
        }
        let mut number = Self { text: &bytes[..at], negative, digits, fraction: &[], exponent: 0, is_plain_integer: true };
        if bytes.get(at) == Some(&b'.') {
            let len = run_of_digits(&bytes[at + 1..]);
            if len == 0 {
                return None;
            }
            number.fraction = &bytes[at + 1..at + 1 + len];
            number.is_plain_integer = false;
            at += 1 + len;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let mut digits_at = at + 1;
            let minus = bytes.get(digits_at) == Some(&b'-');
            if matches!(bytes.get(digits_at), Some(b'-' | b'+')) {
                digits_at += 1;
            }
            let len = run_of_digits(&bytes[digits_at..]);
            if len == 0 {
                return None;
            }
            let magnitude =
                bytes[digits_at..digits_at + len].iter().fold(0i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(EXPONENT_MAX));
            number.exponent = if minus { -magnitude } else { magnitude };
            number.is_plain_integer = false;
            at = digits_at + len;
        }
        number.text = &bytes[..at];
        Some(number)
    }

    /// The number's own text.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// As a 64-bit integer: an integer literal, or one like `5.0` or `1e3` whose exact value is integral.
    pub fn to_i64(self) -> Result<i64, Fault> {
        // At most 18 digits cannot overflow.
        if self.is_plain_integer && self.digits.len() <= 18 {
            let magnitude = self.digits.iter().fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
            return Ok(if self.negative { -magnitude } else { magnitude });
        }
        let unscaled = self.unscaled(0, 19).map_err(|trouble| match trouble {
            Trouble::Fraction => self.fault(Reason::NotAnInteger, "has a fraction; an integer is declared"),
            Trouble::TooManyDigits => self.out_of_range("bigint"),
        })?;
        i64::try_from(unscaled).map_err(|_| self.out_of_range("bigint"))
    }

    /// As a 32-bit integer, by the same rule.
    pub fn to_i32(self) -> Result<i32, Fault> {
        i32::try_from(self.to_i64().map_err(|fault| if fault.reason == Reason::OutOfRange { self.out_of_range("int") } else { fault })?)
            .map_err(|_| self.out_of_range("int"))
    }

    /// As a double. An integer that a double would round is refused; a decimal fraction takes the nearest double.
    pub fn to_f64(self) -> Result<f64, Fault> {
        // The text is ASCII by construction, so this always is text.
        let text = std::str::from_utf8(self.text).unwrap_or_default();
        let value: f64 = text.parse().map_err(|_| self.fault(Reason::WrongType, "is not a number"))?;
        let is_zero_literal = || self.digits.iter().chain(self.fraction).all(|digit| *digit == b'0');
        if !value.is_finite() || (value == 0.0 && !is_zero_literal()) {
            return Err(self.out_of_range("double"));
        }
        // Up to 15 digits are always exact.
        if self.is_plain_integer && self.digits.len() > 15 && !is_exact_integer(value, self.digits) {
            return Err(self.fault(Reason::NotExact, "is an integer that a double would round; declare bigint or decimal"));
        }
        Ok(value)
    }

    /// As a decimal: its digits times ten to the `scale`.
    pub fn to_decimal(self, precision: u8, scale: u8) -> Result<i128, Fault> {
        self.unscaled(i64::from(scale), usize::from(precision)).map_err(|trouble| match trouble {
            Trouble::Fraction => {
                self.fault(Reason::NotExact, format!("has more than {scale} digits behind the point: decimal({precision},{scale})"))
            }
            Trouble::TooManyDigits => self.out_of_range(&format!("decimal({precision},{scale})")),
        })
    }

    /// As microseconds, the number counting units of `10^scale` microseconds.
    pub fn to_micros(self, scale: u8) -> Result<i64, Fault> {
        let unscaled = self.unscaled(i64::from(scale), 19).map_err(|trouble| match trouble {
            Trouble::Fraction => self.fault(Reason::NotExact, "is finer than a microsecond"),
            Trouble::TooManyDigits => self.out_of_range("timestamp"),
        })?;
        i64::try_from(unscaled).map_err(|_| self.out_of_range("timestamp"))
    }

    /// The exact value times `10^scale` as an integer of at most `digits_max` digits.
    fn unscaled(self, scale: i64, digits_max: usize) -> Result<i128, Trouble> {
        let (digits, fraction) = (self.digits, self.fraction);
        let total = digits.len() + fraction.len();
        let digit = |i: usize| if i < digits.len() { digits[i] } else { fraction[i - digits.len()] };
        let Some(first) = (0..total).find(|i| digit(*i) != b'0') else {
            return Ok(0);
        };
        let last = (first..total).rev().find(|i| digit(*i) != b'0').unwrap_or(first);
        // The value is d[first..=last] times 10^power.
        let power = self.exponent + digits.len() as i64 - 1 - last as i64 + scale;
        if power < 0 {
            return Err(Trouble::Fraction);
        }
        let significant = last - first + 1;
        let zeros = usize::try_from(power).unwrap_or(usize::MAX);
        if significant > digits_max || zeros > digits_max - significant {
            return Err(Trouble::TooManyDigits);
        }
        let magnitude = (first..=last).fold(0i128, |sum, i| sum * 10 + i128::from(digit(i) - b'0')) * POWERS_OF_TEN[zeros];
        Ok(if self.negative { -magnitude } else { magnitude })
    }

    fn out_of_range(self, kind: &str) -> Fault {
        self.fault(Reason::OutOfRange, format!("does not fit {kind}"))
    }

    fn fault(self, reason: Reason, what: impl AsRef<str>) -> Fault {
        Fault::new(reason, format!("{} {}", excerpt(self.text), what.as_ref()))
    }
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Fraction,
    TooManyDigits,
}

/// Whether the double nearest to an integer literal is that integer.
fn is_exact_integer(value: f64, digits: &[u8]) -> bool {
    // Rust prints an integral double with its exact digits.
    let exact = format!("{:.0}", value.abs());
    exact.as_bytes() == digits
}

fn run_of_digits(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn number(text: &str) -> Number<'_> {
        let number = Number::scan(text.as_bytes()).unwrap();
        assert_eq!(number.text(), text.as_bytes());
        number
    }

    #[test]
    fn grammar_is_json() {
        for bad in ["", "-", "01", "-01", "+1", ".5", "1.", "1.e3", "1e", "1e+", "NaN", "Infinity", "- 1"] {
            let whole = Number::scan(bad.as_bytes()).is_some_and(|n| n.text().len() == bad.len());
            assert!(!whole, "{bad}");
        }
        for good in ["0", "-0", "10", "1.50", "1e3", "1E+3", "-1.5e-07"] {
            assert_eq!(Number::scan(good.as_bytes()).unwrap().text(), good.as_bytes());
        }
        assert_eq!(Number::scan(b"12,").unwrap().text(), b"12");
    }

    #[test]
    fn integers_are_exact_or_refused() {
        let good = [
            ("0", 0),
            ("-0", 0),
            ("5.0", 5),
            ("1e3", 1000),
            ("1.5e1", 15),
            ("120e-1", 12),
            ("9007199254740993", 9_007_199_254_740_993),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("9223372036854775807.000", i64::MAX),
            ("0e99999999999999999999", 0),
        ];
        for (text, value) in good {
            assert_eq!(number(text).to_i64().unwrap(), value, "{text}");
        }
        let bad = [
            ("5.7", Reason::NotAnInteger),
            ("1e-1", Reason::NotAnInteger),
            ("0.1e-99999999999999999999", Reason::NotAnInteger),
            ("9223372036854775808", Reason::OutOfRange),
            ("-9223372036854775809", Reason::OutOfRange),
            ("1e19", Reason::OutOfRange),
            ("1e99999999999999999999", Reason::OutOfRange),
        ];
        for (text, reason) in bad {
            assert_eq!(number(text).to_i64().unwrap_err().reason, reason, "{text}");
        }
        assert_eq!(number("2147483647").to_i32().unwrap(), i32::MAX);
        assert_eq!(number("2147483648").to_i32().unwrap_err().reason, Reason::OutOfRange);
        assert!(number("1e30").to_i32().unwrap_err().detail.ends_with("does not fit int"));
        assert_eq!(number("1.5").to_i32().unwrap_err().reason, Reason::NotAnInteger);
    }

    #[test]
    fn doubles_are_finite_and_never_round_an_integer() {
        let good = [
            ("0", 0.0f64),
            ("0.1", 0.1),
            ("0.1234567890123456789", 0.123_456_789_012_345_68),
            ("9007199254740992", 9_007_199_254_740_992.0),
            ("9007199254740994", 9_007_199_254_740_994.0),
            ("100000000000000000000", 1e20),
            ("1e308", 1e308),
            ("0e-999", 0.0),
        ];
        for (text, value) in good {
            assert_eq!(number(text).to_f64().unwrap().to_bits(), value.to_bits(), "{text}");
        }
        let bad = [
            ("9007199254740993", Reason::NotExact),
            ("-9007199254740993", Reason::NotExact),
            ("100000000000000000001", Reason::NotExact),
            ("1e309", Reason::OutOfRange),
            ("-1e309", Reason::OutOfRange),
            ("1e-400", Reason::OutOfRange),
        ];
        for (text, reason) in bad {
            assert_eq!(number(text).to_f64().unwrap_err().reason, reason, "{text}");
        }
        assert!(number("-0").to_f64().unwrap().is_sign_negative());
    }

    #[test]
    fn decimals_keep_every_digit() {
        let good = [
            ("12.30", 4, 2, 1230),
            ("12.3", 4, 2, 1230),
            ("12.3000", 4, 2, 1230),
            ("-0.01", 4, 2, -1),
            ("99.99", 4, 2, 9999),
            ("1e1", 4, 2, 1000),
            ("5", 38, 37, 5 * 10i128.pow(37)),
            ("99999999999999999999999999999999999999", 38, 0, 10i128.pow(38) - 1),
        ];
        for (text, precision, scale, value) in good {
            assert_eq!(number(text).to_decimal(precision, scale).unwrap(), value, "{text}");
        }
        let bad = [
            ("12.345", 4, 2, Reason::NotExact),
            ("100", 4, 2, Reason::OutOfRange),
            ("99.999", 4, 2, Reason::NotExact),
            ("1e40", 38, 0, Reason::OutOfRange),
        ];
        for (text, precision, scale, reason) in bad {
            assert_eq!(number(text).to_decimal(precision, scale).unwrap_err().reason, reason, "{text}");
        }
    }

    #[test]
    fn epochs_are_exact_to_the_microsecond() {
        assert_eq!(number("1699000000.123456").to_micros(6).unwrap(), 1_699_000_000_123_456);
        assert_eq!(number("1699000000123").to_micros(3).unwrap(), 1_699_000_000_123_000);
        assert_eq!(number("-1").to_micros(0).unwrap(), -1);
        assert_eq!(number("0.5").to_micros(0).unwrap_err().reason, Reason::NotExact);
        assert_eq!(number("1699000000.1234567").to_micros(6).unwrap_err().reason, Reason::NotExact);
        assert_eq!(number("99999999999999999").to_micros(6).unwrap_err().reason, Reason::OutOfRange);
    }
}
