//! Kubernetes quantities as whole bytes. Pure.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a quantity of bytes; write it as `512Mi` or `4Gi`")]
pub struct QuantityError(String);

const SUFFIXES: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// The bytes of a quantity, rounded down.
pub fn bytes(quantity: &Quantity) -> Result<u64, QuantityError> {
    let refused = || QuantityError(quantity.0.clone());
    let text = quantity.0.as_str();
    let (number, factor) = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor))).unwrap_or((text, 1));
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(refused);
    }
    let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.') || factor == 1;
    let value = number.parse::<f64>().ok().filter(|v| plain && v.is_finite() && *v >= 0.0).ok_or_else(refused)?;
    let value = value * factor as f64;
    if value < u64::MAX as f64 { Ok(value as u64) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_takes_for_sizes() {
        let cases =
            [("0", 0), ("129", 129), ("1Ki", 1024), ("1.5Gi", 1_610_612_736), ("512Mi", 536_870_912), ("2G", 2_000_000_000), ("1e3", 1000)];
        for (text, expected) in cases {
            assert_eq!(bytes(&Quantity(text.into())), Ok(expected), "{text}");
        }
        for text in ["", "much", "-1", "1Xi", "Gi", "99999999Ei", "NaN", "inf"] {
            assert!(bytes(&Quantity(text.into())).is_err(), "{text}");
        }
    }
}
