//! base64url without padding (RFC 4648 section 5, RFC 7515 section 2). Decoding accepts exactly what encoding makes.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

/// `None` for a foreign character, padding, an impossible length, or bits that encoding would have left zero.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut word = 0u32;
        for byte in chunk {
            word = (word << 6) | u32::try_from(ALPHABET.iter().position(|digit| digit == byte)?).ok()?;
        }
        word <<= 6 * (4 - chunk.len());
        let made = chunk.len().checked_sub(1).filter(|made| *made > 0)?;
        let [_, decoded @ ..] = word.to_be_bytes();
        if decoded[made..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&decoded[..made]);
    }
    Some(bytes)
}
