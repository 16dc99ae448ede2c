//! Numbers in decimal digits, as heads carry them: to the buffer and from it, without the formatting machinery, which costs
//! more than the digits. It must never read as a number what another reader would refuse.

use bytes::BufMut;

/// Appends the digits.
pub fn put(mut n: u64, out: &mut impl BufMut) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 || at == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// Digits and nothing else.
pub fn read(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::put;
    use super::read;

    #[test]
    fn every_number_is_read_as_it_was_written() {
        for n in [0, 1, 9, 10, 99, 1500, 65_535, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut text = Vec::new();
            put(n, &mut text);
            assert_eq!(text, n.to_string().as_bytes());
            assert_eq!(read(&text), Some(n));
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "+1", "-1", " 1", "1 ", "0x1", "18446744073709551616"] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
    }
}
