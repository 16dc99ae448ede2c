//! Looks through a head's bytes eight at a time. It must give what a look at each byte would give.

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// Where the first line feed is.
pub(super) fn line_feed(bytes: &[u8]) -> Option<usize> {
    position(bytes, |word| zeros(word ^ each(b'\n')), |b| b == b'\n')
}

/// Where the first byte is that may not stand in a field's value (RFC 9110 section 5.5): a control byte other than tab.
pub(super) fn no_value(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        // A word has a byte below 0x20 where taking that much from it borrows, and then only there or above.
        let controls = |word: u64| word.wrapping_sub(each(0x20)) & !word & HIGHS | zeros(word ^ each(0x7f));
        let at = start + position(&bytes[start..], controls, |b| b < 0x20 || b == 0x7f)?;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        start = at + 1;
    }
}

/// Whether any byte would end a line, or a C string.
pub(super) fn ends_line(bytes: &[u8]) -> bool {
    let ends = |word: u64| zeros(word) | zeros(word ^ each(b'\r')) | zeros(word ^ each(b'\n'));
    position(bytes, ends, |b| matches!(b, b'\r' | b'\n' | 0)).is_some()
}

/// `of_word` marks bytes in their highest bits; the lowest mark is right, those above it need not be.
#[inline]
fn position(bytes: &[u8], of_word: impl Fn(u64) -> u64, of_byte: impl Fn(u8) -> bool) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marks = of_word(u64::from_le_bytes(*word));
        if marks != 0 {
            return Some(index * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|b| of_byte(*b)).map(|at| words.len() * 8 + at)
}

#[inline]
const fn each(byte: u8) -> u64 {
    ONES * byte as u64
}

/// Marks the bytes that are zero: there, taking one borrows.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

#[cfg(test)]
mod tests {
    use super::ends_line;
    use super::line_feed;
    use super::no_value;
    use crate::http::h1::fields::is_value;

    fn agree(bytes: &[u8]) {
        assert_eq!(line_feed(bytes), bytes.iter().position(|b| *b == b'\n'), "{bytes:?}");
        assert_eq!(no_value(bytes), bytes.iter().position(|b| !is_value(*b)), "{bytes:?}");
        assert_eq!(ends_line(bytes), bytes.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{bytes:?}");
    }

    #[test]
    fn every_byte_at_every_place_is_seen_as_one_by_one() {
        for filler in [b'a', b'\t', b' ', b'~', 0x80, 0xff] {
            for length in 0..20 {
                let plain = vec![filler; length];
                agree(&plain);
                for at in 0..length {
                    for byte in 0..=255 {
                        let mut bytes = plain.clone();
                        bytes[at] = byte;
                        agree(&bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn two_bytes_beside_each_other_do_not_hide_one_another() {
        for first in 0..=255 {
            for second in 0..=255 {
                agree(&[b'a', first, second, b'b', b'c', b'd', b'e', b'f', b'g']);
            }
        }
    }
}
