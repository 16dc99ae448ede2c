//! Which protocol a connection speaks, from its first bytes. Pure. It must fail closed: what could be HTTP in disguise is
//! never called opaque where a rule about requests would be evaded.

#[cfg(test)]
mod tests;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// An HTTP/1 request line has begun.
    Http1,
    /// The HTTP/2 preface (RFC 9113 section 3.4) is complete.
    Http2,
    /// A TLS record with a handshake (RFC 8446 section 5.1) has begun.
    Tls,
    /// None of these.
    Opaque,
    /// The bytes so far may become any of several.
    NeedMore,
}

pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A method longer than this is no HTTP request that we serve (the longest registered one has 16 characters).
const METHOD_MAX: usize = 24;

/// Bytes after which a request line must have shown its method and the start of its target.
pub const SNIFF_MAX: usize = METHOD_MAX + 2;

/// Judges the bytes read so far. With `SNIFF_MAX` bytes the answer is never `NeedMore`.
pub fn sniff(bytes: &[u8]) -> Sniff {
    match bytes {
        [] => Sniff::NeedMore,
        [0x16, rest @ ..] => tls(rest),
        _ if bytes.len() < H2_PREFACE.len() && H2_PREFACE.starts_with(bytes) => Sniff::NeedMore,
        _ if bytes.starts_with(H2_PREFACE) => Sniff::Http2,
        _ => http1(bytes),
    }
}

/// `rest`: after the record's type. Version 3.1 to 3.3 in the record, whatever the hello inside says.
fn tls(rest: &[u8]) -> Sniff {
    match rest {
        [] | [3] => Sniff::NeedMore,
        [3, 1..=3, ..] => Sniff::Tls,
        _ => Sniff::Opaque,
    }
}

/// A token (RFC 9110 section 5.6.2), a space, and what a target begins with. Lower-case methods are HTTP too: a rule must
/// not be evaded by `get`. A leading CRLF, which a server may skip (RFC 9112 section 2.2), counts as HTTP.
fn http1(bytes: &[u8]) -> Sniff {
    let bytes = match bytes {
        [b'\r'] => return Sniff::NeedMore,
        [b'\r', b'\n', rest @ ..] => rest,
        _ => bytes,
    };
    let token = bytes.iter().take_while(|b| is_token(**b)).count();
    match bytes.get(token) {
        _ if token > METHOD_MAX => Sniff::Opaque,
        None => Sniff::NeedMore,
        Some(b' ') if token > 0 => match bytes.get(token + 1) {
            None => Sniff::NeedMore,
            // Origin form, asterisk form, absolute form or authority form.
            Some(b'/' | b'*' | b'[' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9') => Sniff::Http1,
            Some(_) => Sniff::Opaque,
        },
        Some(_) => Sniff::Opaque,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
