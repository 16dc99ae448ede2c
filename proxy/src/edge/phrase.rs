//! The reason phrase of an HTTP/1 answer across an HTTP/2 hop, which has only the status. It must never give back a byte that
//! could end a status line.

use std::io::Write as _;

/// Appends `;r=` with the phrase where there is one, percent-encoded so that nothing in it ends the part or the field.
pub(super) fn write(value: &mut Vec<u8>, phrase: &[u8]) {
    // A longer one loses only its looks.
    if phrase.is_empty() || phrase.len() > PHRASE_MAX {
        return;
    }
    value.extend_from_slice(b";r=");
    for byte in phrase {
        match byte {
            b' '..=b'~' if !matches!(byte, b'%' | b';' | b' ') => value.push(*byte),
            _ => {
                let _ = write!(value, "%{byte:02x}");
            }
        }
    }
}

/// The other end. `None`: not what `write` writes.
pub(super) fn read(part: &[u8]) -> Option<Vec<u8>> {
    let mut phrase = Vec::new();
    let mut bytes = part.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            plain => plain,
        };
        // RFC 9112 section 4: tab, blank, visible and obs-text.
        if !matches!(byte, b'\t' | b' '..=b'~' | 0x80..) || phrase.len() == PHRASE_MAX {
            return None;
        }
        phrase.push(byte);
    }
    Some(phrase)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

/// The longest registered one has 31 letters.
const PHRASE_MAX: usize = 128;
