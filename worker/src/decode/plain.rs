//! The plain text of JSON strings: what stands in them as it is. Reading looks for its end, writing for what to escape.

/// The bytes before the first quote, backslash or control character.
#[inline]
pub fn plain_len(bytes: &[u8]) -> usize {
    const WORD: usize = size_of::<u64>();
    let mut at = 0;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<WORD>) {
        let hit = special(u64::from_le_bytes(*word));
        if hit != 0 {
            return at + (hit.trailing_zeros() / 8) as usize;
        }
        at += WORD;
    }
    // Fewer than eight are left: looked at together with plain bytes behind them.
    let rest = &bytes[at..];
    let mut word = [b' '; WORD];
    for (place, byte) in word.iter_mut().zip(rest) {
        *place = *byte;
    }
    let hit = special(u64::from_le_bytes(word));
    if hit == 0 { bytes.len() } else { at + (hit.trailing_zeros() / 8) as usize }
}

/// Which of eight bytes are not plain, the first at the low end: the high bit of the first such byte is set. Behind it a
/// borrow may set others; before it none is.
#[inline]
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zero_byte = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let quote = zero_byte(word ^ (ONES * b'"' as u64));
    let backslash = zero_byte(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
    quote | backslash | control
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_is_found_wherever_it_stands() {
        for special in (0..=255u8).filter(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
            for len in 0..40 {
                for filler in [b'a', b' ', b'!', b'#', 0x7f, 0x80, 0xff] {
                    let mut bytes = vec![filler; len];
                    assert_eq!(plain_len(&bytes), len);
                    bytes.push(special);
                    bytes.extend_from_slice(b"\"a\\\x00bcdefghij");
                    assert_eq!(plain_len(&bytes), len, "{special} behind {len} of {filler}");
                }
            }
        }
    }
}
