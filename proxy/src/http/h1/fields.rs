//! Field lines: the part of a head after its first line, and a chunked body's trailers. It must never let a connection-level
//! field through as if it were the message's own.

use std::time::Duration;

use leno_proto::request::Headers;

use crate::http::h1::parse::Refusal;
use crate::http::h1::words;

/// The fields of one head: the end-to-end ones in `headers`, the connection's own apart.
pub struct FieldLines<'a> {
    pub headers: Headers,
    pub host: Option<&'a [u8]>,
    pub content_length: Option<u64>,
    pub transfer_encoding: Option<&'a [u8]>,
    pub upgrade: Option<&'a [u8]>,
    /// TE names `trailers`.
    pub te_trailers: bool,
    pub idle_hint: Option<Duration>,
    connection: Vec<&'a [u8]>,
}

impl<'a> FieldLines<'a> {
    /// `lines` ends with the empty line.
    pub fn parse(lines: &'a [u8], fields_max: usize) -> Result<Self, Refusal> {
        let mut fields = FieldLines {
            headers: Headers::with_capacity(lines.len() + OWN_BYTES, FIELDS),
            host: None,
            content_length: None,
            transfer_encoding: None,
            upgrade: None,
            te_trailers: false,
            idle_hint: None,
            connection: Vec::new(),
        };
        let (mut rest, mut count) = (lines, 0);
        while let Some((name, value, after)) = next_field(rest)? {
            count += 1;
            if count > fields_max {
                return Err(Refusal::TooLarge);
            }
            fields.take(name, value)?;
            rest = after;
        }
        Ok(fields)
    }

    fn take(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Refusal> {
        match Known::of(name) {
            Known::Other => self.headers.push(name, value),
            Known::Host => once(&mut self.host, value, "two Hosts")?,
            Known::ContentLength => {
                once(&mut self.content_length, length(value)?, "two Content-Lengths")?;
                self.headers.push(name, value);
            }
            Known::TransferEncoding => once(&mut self.transfer_encoding, value, "two Transfer-Encodings")?,
            Known::Lookalike => return Err(Refusal::Bad("underscore in the name of a framing field")),
            Known::Connection => self.connection.push(value),
            Known::Upgrade => once(&mut self.upgrade, value, "two Upgrades")?,
            Known::Te => self.te_trailers |= members(value).any(|m| m.eq_ignore_ascii_case(b"trailers")),
            Known::KeepAlive => self.idle_hint = idle_hint(value).or(self.idle_hint),
            Known::HopByHop => {}
        }
        Ok(())
    }

    pub fn connection(&self) -> Result<Connection, Refusal> {
        let mut connection = Connection::default();
        for member in self.connection.iter().flat_map(|value| members(value)).filter(|m| !m.is_empty()) {
            connection.take(member)?;
        }
        Ok(connection)
    }
}

/// What the Connection field said.
#[derive(Debug, Default)]
pub struct Connection {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    pub te: bool,
    nominated: Vec<String>,
}

impl Connection {
    fn take(&mut self, member: &[u8]) -> Result<(), Refusal> {
        if !member.iter().all(|&b| is_token(b)) {
            return Err(Refusal::Bad("Connection"));
        }
        let is = |name: &str| member.eq_ignore_ascii_case(name.as_bytes());
        if is("close") {
            self.close = true;
        } else if is("keep-alive") {
            self.keep_alive = true;
        } else if is("upgrade") {
            self.upgrade = true;
        } else if is("te") {
            self.te = true;
        } else if is("host") || is("content-length") || is("transfer-encoding") {
            return Err(Refusal::Bad("Connection names a framing field"));
        } else if self.nominated.len() == NOMINATED_MAX {
            return Err(Refusal::TooLarge);
        } else {
            self.nominated.push(String::from_utf8_lossy(member).into_owned());
        }
        Ok(())
    }

    // RFC 9110 section 7.6.1: what Connection names ends here. It is done before the proxy adds fields of its own, so that
    // no client can name those.
    pub fn remove_nominated(&self, headers: &mut Headers) {
        for name in &self.nominated {
            headers.remove(name);
        }
    }
}

/// The fields of a chunked body's trailer section, without those that a recipient might merge into the head: framing,
/// routing, credentials and identity are dropped (RFC 9110 section 6.5.1).
pub fn trailers(lines: &[u8], fields_max: usize) -> Result<Headers, Refusal> {
    let mut headers = Headers::new();
    let (mut rest, mut count) = (lines, 0);
    while let Some((name, value, after)) = next_field(rest)? {
        count += 1;
        if count > fields_max {
            return Err(Refusal::TooLarge);
        }
        if may_trail(name) {
            headers.push(name, value);
        }
        rest = after;
    }
    Ok(headers)
}

fn may_trail(name: &[u8]) -> bool {
    let lower =
        |prefix: &str| name.len() >= prefix.len() && name[..prefix.len()].eq_ignore_ascii_case(prefix.as_bytes());
    Known::of(name) == Known::Other
        && !TRAILERS_REFUSED.iter().any(|refused| name.eq_ignore_ascii_case(refused.as_bytes()))
        && !TRAILER_PREFIXES_REFUSED.iter().any(|prefix| lower(prefix))
}

/// Name, value and the lines after it.
type FieldLine<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// `None` at the empty line.
fn next_field(lines: &[u8]) -> Result<Option<FieldLine<'_>>, Refusal> {
    let colon = lines.iter().position(|&b| !is_token(b)).ok_or(Refusal::Bad("field line is cut"))?;
    match lines[colon] {
        b':' if colon > 0 => {}
        b'\r' if colon == 0 && lines[1..].starts_with(b"\n") => return Ok(None),
        b' ' | b'\t' if colon == 0 => return Err(Refusal::Bad("folded line")),
        b' ' | b'\t' => return Err(Refusal::Bad("space in a field name")),
        _ => return Err(Refusal::Bad("field name")),
    }
    let value = &lines[colon + 1..];
    let end = words::no_value(value).ok_or(Refusal::Bad("field line is cut"))?;
    if !value[end..].starts_with(b"\r\n") {
        return Err(Refusal::Bad("control byte in a field value"));
    }
    if colon > NAME_MAX {
        return Err(Refusal::TooLarge);
    }
    Ok(Some((&lines[..colon], trim(&value[..end]), &value[end + 2..])))
}

/// Optional whitespace is space and tab only.
#[inline]
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

fn once<T>(slot: &mut Option<T>, value: T, twice: &'static str) -> Result<(), Refusal> {
    if slot.replace(value).is_some() { Err(Refusal::Bad(twice)) } else { Ok(()) }
}

/// Digits and nothing else, without leading zeros, below 2^63: every reader gets the same number from it.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    let plain =
        matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    if !plain {
        return Err(Refusal::Bad("Content-Length"));
    }
    let length = value.iter().fold(0_u64, |n, &b| n * 10 + u64::from(b - b'0'));
    if length > i64::MAX as u64 { Err(Refusal::Bad("Content-Length")) } else { Ok(length) }
}

fn idle_hint(value: &[u8]) -> Option<Duration> {
    let seconds = members(value).find_map(|m| {
        let (name, seconds) = m.split_at_checked(8)?;
        name.eq_ignore_ascii_case(b"timeout=").then_some(seconds)
    })?;
    std::str::from_utf8(seconds).ok()?.parse::<u32>().ok().map(|s| Duration::from_secs(u64::from(s)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    /// A name that CGI-like servers read as a framing field.
    Lookalike,
    Connection,
    Upgrade,
    Te,
    KeepAlive,
    HopByHop,
}

impl Known {
    #[inline]
    fn of(name: &[u8]) -> Known {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Known::Te,
            4 if is("host") => Known::Host,
            7 if is("upgrade") => Known::Upgrade,
            10 if is("connection") => Known::Connection,
            10 if is("keep-alive") => Known::KeepAlive,
            14 if is("content-length") => Known::ContentLength,
            14 if is("content_length") => Known::Lookalike,
            14 if is("http2-settings") => Known::HopByHop,
            16 if is("proxy-connection") => Known::HopByHop,
            17 if is("transfer-encoding") => Known::TransferEncoding,
            17 if is("transfer_encoding") => Known::Lookalike,
            _ => Known::Other,
        }
    }
}

/// Is this field the codec's own business? The encoder writes these itself and never copies them from a head.
pub fn is_connection_level(name: &[u8]) -> bool {
    Known::of(name) != Known::Other
}

#[inline]
pub fn is_token(b: u8) -> bool {
    CLASS[b as usize] & TOKEN != 0
}

#[inline]
pub fn is_value(b: u8) -> bool {
    CLASS[b as usize] & VALUE != 0
}

const TOKEN: u8 = 1;
const VALUE: u8 = 2;

/// RFC 9110: `tchar` (5.6.2) and the bytes of a field value (5.5): tab, space, visible ASCII, obs-text.
static CLASS: [u8; 256] = {
    let mut class = [0_u8; 256];
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        let punctuation = matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        if byte.is_ascii_alphanumeric() || punctuation {
            class[b] |= TOKEN;
        }
        if matches!(byte, b'\t' | b' '..=b'~' | 0x80..=0xff) {
            class[b] |= VALUE;
        }
        b += 1;
    }
    class
};

/// What the proxy adds to a head on its way: `traceparent`, `forwarded`, `leno-hop`.
const OWN_BYTES: usize = 320;
/// As many fields as most heads have; more cost one allocation.
const FIELDS: usize = 24;
/// Longer than any name in use; the index of `Headers` holds 65,535.
const NAME_MAX: usize = 1024;
/// More than any honest client names.
const NOMINATED_MAX: usize = 32;

static TRAILERS_REFUSED: [&str; 21] = [
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "retry-after",
    "set-cookie",
    "trailer",
    "www-authenticate",
];
/// Our own, and what others use to say who the caller is.
static TRAILER_PREFIXES_REFUSED: [&str; 6] = ["leno-", "x-forwarded-", "x-envoy-", "x-ssl-", "l5d-", "x-real-"];
