//! What a field's name means to a codec, and which bytes a name and a value may have. It must never take a name or a value
//! that HTTP/1 could read as two.

/// What a field is to whoever makes a head of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http::h2) enum Kind {
    Plain,
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    Host,
    Cookie,
    ContentLength,
    Te,
    /// Belongs to one connection of HTTP/1 (RFC 9113 section 8.2.2).
    Connection,
    /// Plain, but with blanks around its value.
    Padded,
    /// No field: an unknown pseudo-header, or bytes that may not be there.
    Malformed,
}

/// The kind of a field from the wire, where names are in lower case.
pub(super) fn kind(name: &[u8], value: &[u8]) -> Kind {
    let kind = match name {
        b":authority" => Kind::Authority,
        b":method" => Kind::Method,
        b":path" => Kind::Path,
        b":scheme" => Kind::Scheme,
        b":status" => Kind::Status,
        b"host" => Kind::Host,
        b"cookie" => Kind::Cookie,
        b"content-length" => Kind::ContentLength,
        b"te" => Kind::Te,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => Kind::Connection,
        _ if !is_lower(name) => return Kind::Malformed,
        _ => Kind::Plain,
    };
    of_value(kind, value)
}

/// The kind that a field of this name has with this value.
pub(super) fn of_value(kind: Kind, value: &[u8]) -> Kind {
    if kind == Kind::Malformed || !is_value(value) {
        return Kind::Malformed;
    }
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    match kind {
        kind if !blank(value.first()) && !blank(value.last()) => kind,
        Kind::Plain | Kind::Cookie | Kind::Padded => Kind::Padded,
        Kind::Connection => kind,
        _ => Kind::Malformed,
    }
}

/// RFC 9110 section 5.5: visible bytes, blanks, and what is beyond ASCII.
pub(super) fn is_value(value: &[u8]) -> bool {
    // No early end: this way the compiler takes many bytes at a time.
    value.iter().fold(true, |ok, &b| ok & ((b >= b' ') & (b != 127) | (b == b'\t')))
}

fn is_lower(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().fold(true, |ok, &b| ok & (LOWER[usize::from(b)] == b) & (b != 0))
}

/// A name in lower case; `None`: it is no name.
pub(super) fn lower<'n>(name: &'n [u8], memory: &'n mut Vec<u8>) -> Option<&'n [u8]> {
    if is_lower(name) {
        return Some(name);
    }
    memory.clear();
    memory.extend(name.iter().map(|&b| LOWER[usize::from(b)]));
    (!name.is_empty() && !memory.contains(&0)).then_some(memory)
}

/// The bytes of a token (RFC 9110 section 5.6.2) in lower case; nought for all others.
static LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        let is_mark = matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        if byte.is_ascii_alphanumeric() || is_mark {
            table[b] = byte.to_ascii_lowercase();
        }
        b += 1;
    }
    table
};

/// How a field of ours goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Not at all.
    Not,
    /// Only as `trailers`.
    Te,
    /// A secret: nobody on the way may index it.
    Never(u8),
    /// Never the same twice: the table would only lose by it.
    Once(u8),
    /// Into the table, once it has been seen again.
    Index(u8),
}

/// The way of a name in lower case; the number is the name's place in the static table, or nought.
pub(super) fn way(name: &[u8]) -> Way {
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" | b"http2-settings"
        | b"host" => Way::Not,
        b"te" => Way::Te,
        b"authorization" => Way::Never(23),
        b"cookie" => Way::Never(32),
        b"proxy-authorization" => Way::Never(49),
        b"set-cookie" => Way::Never(55),
        b"traceparent" | b"tracestate" | b"leno-hop" | b"forwarded" | b"x-request-id" | b"b3" => Way::Once(0),
        b"date" => Way::Once(33),
        _ => Way::Index(place(name)),
    }
}

fn place(name: &[u8]) -> u8 {
    match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":status" => 8,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"cache-control" => 24,
        b"content-encoding" => 26,
        b"content-length" => 28,
        b"content-range" => 30,
        b"content-type" => 31,
        b"etag" => 34,
        b"expires" => 36,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"last-modified" => 44,
        b"location" => 46,
        b"range" => 50,
        b"referer" => 51,
        b"server" => 54,
        b"user-agent" => 58,
        b"vary" => 59,
        _ => 0,
    }
}
