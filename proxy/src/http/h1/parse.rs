//! Reads a request's or response's head from a byte buffer, with the rules of RFC 9110 and 9112 at their strictest.
//! It must never guess: what two readers could frame differently is refused, and nothing here does I/O.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::h1::fields::Connection;
use crate::http::h1::fields::FieldLines;
use crate::http::h1::fields::is_token;
use crate::http::h1::words;
use crate::http::head;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;

/// What one head may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub head_bytes: usize,
    pub fields: usize,
    pub target_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { head_bytes: 64 * 1024, fields: 100, target_bytes: 16 * 1024 }
    }
}

/// How a body's end is found (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// Responses only.
    UntilClose,
}

/// A request's head and what its connection-level fields said. Those fields are gone from `head.headers`; Content-Length
/// stays (it travels), Upgrade stays where the upgrade is allowed, TE stays as `trailers`.
#[derive(Debug, Clone)]
pub struct ParsedRequest {
    pub head: RequestHead,
    pub framing: Framing,
    pub keep_alive: bool,
}

/// As `ParsedRequest`. `framing` is `None` also for a switched protocol: ask `head.status`.
#[derive(Debug, Clone)]
pub struct ParsedResponse {
    pub head: ResponseHead,
    pub framing: Framing,
    pub keep_alive: bool,
    /// `Keep-Alive: timeout=N`: when the server means to close an idle connection.
    pub idle_hint: Option<Duration>,
}

/// Why a head was not taken. Ends the connection: what follows on it cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Bad(&'static str),
    TooLarge,
    TargetTooLong,
    Version,
    Coding,
    Expectation,
}

impl Refusal {
    pub fn status(self) -> u16 {
        match self {
            Refusal::Bad(_) => 400,
            Refusal::TooLarge => 431,
            Refusal::TargetTooLong => 414,
            Refusal::Version => 505,
            Refusal::Coding => 501,
            Refusal::Expectation => 417,
        }
    }

    /// For people.
    pub fn what(self) -> &'static str {
        match self {
            Refusal::Bad(what) => what,
            Refusal::TooLarge => "head too large",
            Refusal::TargetTooLong => "target too long",
            Refusal::Version => "unknown HTTP version",
            Refusal::Coding => "unknown transfer coding",
            Refusal::Expectation => "unknown expectation",
        }
    }

    pub fn reason(self) -> Reason {
        match self {
            Refusal::TooLarge | Refusal::TargetTooLong => Reason::HeadersTooLarge,
            Refusal::Bad(_) | Refusal::Version | Refusal::Coding | Refusal::Expectation => Reason::BadFraming,
        }
    }
}

/// Finds the end of a head in a growing buffer, looking at each byte once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scan {
    /// Where the head begins: after the one empty line that a client may leave before a request.
    start: usize,
    line_start: usize,
    seen: usize,
}

impl Scan {
    /// The head's bytes within `buf`, its closing empty line included, or `None` while it is incomplete.
    pub fn head_end(&mut self, buf: &[u8], limits: &Limits, kind: Kind) -> Result<Option<(usize, usize)>, Refusal> {
        if self.line_start == 0 {
            match (kind, buf) {
                (Kind::Request, [b'\r']) => return Ok(None),
                (Kind::Request, [b'\r', b'\n', ..]) => *self = Scan { start: 2, line_start: 2, seen: 2 },
                _ => {}
            }
        }
        if buf.get(self.start).is_some_and(|&b| !is_token(b)) {
            return Err(Refusal::Bad("the head does not begin with a token"));
        }
        while let Some(found) = words::line_feed(&buf[self.seen..]) {
            let at = self.seen + found;
            self.seen = at + 1;
            if at == self.line_start || buf[at - 1] != b'\r' {
                return Err(Refusal::Bad("a line does not end in CRLF"));
            }
            if self.seen - self.start > limits.head_bytes {
                return Err(Refusal::TooLarge);
            }
            if at - 1 == self.line_start {
                return Ok(Some((self.start, self.seen)));
            }
            self.line_start = self.seen;
        }
        self.seen = buf.len();
        if self.seen - self.start > limits.head_bytes {
            return Err(Refusal::TooLarge);
        }
        Ok(None)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
}

/// The texts of a connection's last request: most clients say the same ones again, and then share the memory.
#[derive(Debug)]
pub struct Texts {
    authority: Arc<str>,
    target: Arc<str>,
}

impl Default for Texts {
    fn default() -> Self {
        let nothing: Arc<str> = Arc::default();
        Self { authority: Arc::clone(&nothing), target: nothing }
    }
}

impl Texts {
    /// An idle connection keeps no more than this of each.
    const KEPT_MAX: usize = 256;

    fn share(last: &mut Arc<str>, text: &str) -> Arc<str> {
        if **last == *text {
            return Arc::clone(last);
        }
        let shared: Arc<str> = text.into();
        if text.len() <= Self::KEPT_MAX {
            *last = Arc::clone(&shared);
        }
        shared
    }
}

/// Parses a whole request head, as delimited by `Scan`.
pub fn request(head: &[u8], limits: &Limits, texts: &mut Texts) -> Result<ParsedRequest, Refusal> {
    let (line, rest) = split_line(head)?;
    let (method, raw_target, version) = request_line(line, limits)?;
    let fields = FieldLines::parse(rest, limits.fields)?;
    let connection = fields.connection()?;
    let framing = request_framing(&fields, version)?;
    let host = host(&fields, version)?;
    let target = Target::parse(method, raw_target, host)?;
    if method == "CONNECT" && !matches!(framing, Framing::None | Framing::Length(0)) {
        return Err(Refusal::Bad("CONNECT with a body"));
    }
    let mut headers = fields.headers;
    expect(&mut headers, version)?;
    if version == Version::Http11 && connection.upgrade && fields.upgrade.is_some() {
        keep_upgrade(&mut headers, fields.upgrade.unwrap_or_default(), framing)?;
    }
    if fields.te_trailers && connection.te {
        headers.push(b"te", b"trailers");
    }
    connection.remove_nominated(&mut headers);
    Ok(ParsedRequest {
        framing: if framing == Framing::Length(0) { Framing::None } else { framing },
        keep_alive: connection.keep_alive(version),
        head: RequestHead {
            version,
            method: head::method(method),
            scheme: target.scheme,
            authority: Texts::share(&mut texts.authority, target.authority),
            target: Texts::share(&mut texts.target, &target.path),
            headers,
        },
    })
}

/// Parses a whole response head. `method` is the request's: it decides whether there is a body (RFC 9112 section 6.3).
pub fn response(head: &[u8], method: &str, limits: &Limits) -> Result<ParsedResponse, Refusal> {
    let (line, rest) = split_line(head)?;
    let (version, status, phrase) = status_line(line)?;
    let fields = FieldLines::parse(rest, limits.fields)?;
    let connection = fields.connection()?;
    let (framing, clean) = response_framing(&fields, version, status, method)?;
    let mut headers = fields.headers;
    if let Some(upgrade) = fields.upgrade
        && connection.upgrade
        && matches!(status, 101 | 426)
    {
        headers.push(b"Upgrade", upgrade);
    }
    connection.remove_nominated(&mut headers);
    if status < 200 || status == 204 {
        headers.remove("content-length");
    }
    Ok(ParsedResponse {
        framing,
        keep_alive: clean && framing != Framing::UntilClose && connection.keep_alive(version),
        idle_hint: fields.idle_hint,
        head: ResponseHead { version, status, reason_phrase: kept_phrase(status, phrase), headers },
    })
}

/// The standard phrase is not kept: the encoder writes it from the status, and most answers need no copy of it.
fn kept_phrase(status: u16, phrase: &[u8]) -> Vec<u8> {
    if phrase == crate::http::h1::encode::standard_phrase(status).as_bytes() { Vec::new() } else { phrase.to_vec() }
}

fn split_line(head: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let lf = words::line_feed(head).ok_or(Refusal::Bad("no first line"))?;
    let line = head[..lf].strip_suffix(b"\r").ok_or(Refusal::Bad("a line does not end in CRLF"))?;
    Ok((line, &head[lf + 1..]))
}

fn request_line<'a>(line: &'a [u8], limits: &Limits) -> Result<(&'a str, &'a str, Version), Refusal> {
    let space = line.iter().position(|&b| b == b' ').ok_or(Refusal::Bad("request line without a target"))?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    if method.is_empty() || !method.iter().all(|&b| is_token(b)) {
        return Err(Refusal::Bad("method is not a token"));
    }
    let space = rest.iter().position(|&b| b == b' ').ok_or(Refusal::Bad("request line without a version"))?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    if target.len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    let version = parse_version(version)?;
    let method = std::str::from_utf8(method).map_err(|_| Refusal::Bad("method is not a token"))?;
    let target = std::str::from_utf8(target).map_err(|_| Refusal::Bad("target is not ASCII"))?;
    Ok((method, target, version))
}

fn status_line(line: &[u8]) -> Result<(Version, u16, &[u8]), Refusal> {
    let (Some(version), Some(rest)) = (line.get(..8), line.get(8..)) else {
        return Err(Refusal::Bad("status line is cut"));
    };
    let version = parse_version(version)?;
    let [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', phrase @ ..] = rest else {
        return Err(Refusal::Bad("status is not three digits"));
    };
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    // The space before an empty phrase is left out by enough servers; nothing hangs on it.
    let phrase = match phrase {
        [] => phrase,
        [b' ', phrase @ ..] if phrase.iter().all(|&b| crate::http::h1::fields::is_value(b)) => phrase,
        _ => return Err(Refusal::Bad("reason phrase")),
    };
    Ok((version, status, phrase))
}

fn parse_version(version: &[u8]) -> Result<Version, Refusal> {
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Refusal::Version),
        _ => Err(Refusal::Bad("version")),
    }
}

fn request_framing(fields: &FieldLines<'_>, version: Version) -> Result<Framing, Refusal> {
    match (fields.transfer_encoding, fields.content_length) {
        (None, None) => Ok(Framing::None),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (Some(_), Some(_)) => Err(Refusal::Bad("Content-Length beside Transfer-Encoding")),
        (Some(_), None) if version == Version::Http10 => Err(Refusal::Bad("Transfer-Encoding on HTTP/1.0")),
        (Some(value), None) => chunked_only(value).map(|()| Framing::Chunked),
    }
}

/// Framing, and whether the connection may serve again: an answer that names a body which cannot be there may be followed
/// by that body.
fn response_framing(
    fields: &FieldLines<'_>,
    version: Version,
    status: u16,
    method: &str,
) -> Result<(Framing, bool), Refusal> {
    let framing = match (fields.transfer_encoding, fields.content_length) {
        (None, None) => Framing::UntilClose,
        (None, Some(length)) => Framing::Length(length),
        (Some(_), Some(_)) => return Err(Refusal::Bad("Content-Length beside Transfer-Encoding")),
        (Some(_), None) if version == Version::Http10 => return Err(Refusal::Bad("Transfer-Encoding on HTTP/1.0")),
        (Some(value), None) => {
            chunked_only(value)?;
            Framing::Chunked
        }
    };
    let harmless = matches!(framing, Framing::UntilClose | Framing::Length(0));
    Ok(match status {
        100..200 | 204 => (Framing::None, harmless),
        304 => (Framing::None, true),
        _ if method == "HEAD" => (Framing::None, true),
        200..300 if method == "CONNECT" => (Framing::None, harmless),
        _ if framing == Framing::Length(0) => (Framing::None, true),
        _ => (framing, true),
    })
}

/// Transfer-Encoding is `chunked` and nothing else. Other codings are refused by their own status, so that a client can
/// tell; anything that is no list of codings ending in one `chunked` is bad framing.
fn chunked_only(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings: Vec<&[u8]> = value.split(|&b| b == b',').map(|c| c.trim_ascii()).collect();
    let well_formed = codings.iter().all(|c| !c.is_empty() && c.iter().all(|&b| is_token(b)));
    let chunked = codings.iter().filter(|c| c.eq_ignore_ascii_case(b"chunked")).count();
    let last = codings.last().is_some_and(|c| c.eq_ignore_ascii_case(b"chunked"));
    let identity = codings.iter().any(|c| c.eq_ignore_ascii_case(b"identity"));
    if well_formed && !identity && chunked == 1 && last {
        return Err(Refusal::Coding);
    }
    Err(Refusal::Bad("Transfer-Encoding is not chunked"))
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, even beside an absolute form.
fn host<'a>(fields: &FieldLines<'a>, version: Version) -> Result<&'a str, Refusal> {
    let Some(host) = fields.host else {
        return if version == Version::Http10 { Ok("") } else { Err(Refusal::Bad("no Host")) };
    };
    let host = std::str::from_utf8(host).map_err(|_| Refusal::Bad("Host"))?;
    if host.is_empty() || is_authority(host) { Ok(host) } else { Err(Refusal::Bad("Host")) }
}

struct Target<'a> {
    scheme: &'static str,
    authority: &'a str,
    path: Cow<'a, str>,
}

impl<'a> Target<'a> {
    /// RFC 9112 section 3.2: origin, absolute, authority or asterisk form. The absolute form's authority replaces Host, so
    /// that policy and application see one value.
    fn parse(method: &str, raw: &'a str, host: &'a str) -> Result<Self, Refusal> {
        if method == "CONNECT" {
            let port = raw.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty());
            if !port || !is_authority(raw) {
                return Err(Refusal::Bad("CONNECT wants host:port"));
            }
            return Ok(Target { scheme: "", authority: raw, path: "".into() });
        }
        if raw == "*" && method == "OPTIONS" {
            return Ok(Target { scheme: "", authority: host, path: "*".into() });
        }
        if raw.starts_with('/') {
            return Ok(Target { scheme: "", authority: host, path: checked_path(raw)?.into() });
        }
        let (scheme, rest) = raw.split_once("://").ok_or(Refusal::Bad("target form"))?;
        let scheme = match scheme {
            s if s.eq_ignore_ascii_case("http") => "http",
            s if s.eq_ignore_ascii_case("https") => "https",
            _ => return Err(Refusal::Bad("target scheme")),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !is_authority(authority) {
            return Err(Refusal::Bad("target authority"));
        }
        let path = match path {
            "" if method == "OPTIONS" => "*".into(),
            "" => "/".into(),
            path if path.starts_with('/') => checked_path(path)?.into(),
            query => format!("/{}", checked_path(query)?).into(),
        };
        Ok(Target { scheme, authority, path })
    }
}

/// The bytes that a path and query may hold on both wires: visible ASCII without a fragment, and without the backslash that
/// some servers read as a slash. RFC 3986 is stricter; browsers are not.
fn checked_path(path: &str) -> Result<&str, Refusal> {
    let mut query = false;
    for b in path.bytes() {
        let good = match b {
            b'?' => {
                query = true;
                true
            }
            b'#' | b'<' | b'>' => false,
            b'`' | b'\\' => query,
            b'"' => !query,
            0x21..=0x7e => true,
            _ => false,
        };
        if !good {
            return Err(Refusal::Bad("byte in the target"));
        }
    }
    Ok(path)
}

/// `host` or `host:port` (RFC 3986 section 3.2) without user information. The comma, legal in a name, is refused: lists of
/// hosts are how proxies and applications come to disagree.
pub fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { return false };
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.') {
                return false;
            }
            ("v6", after.strip_prefix(':').or(after.is_empty().then_some("")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    let Some(port) = port else { return false };
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&b);
    let port_good = port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    !host.is_empty() && host.bytes().all(name) && port_good
}

/// `100-continue` passes end to end; any other expectation, or a repeated one, is refused: half of the servers read it
/// differently, and a body hangs on it.
fn expect(headers: &mut Headers, version: Version) -> Result<(), Refusal> {
    let mut values = headers.get_all("expect");
    let (first, second) = (values.next(), values.next());
    match (first, second) {
        (None, _) => return Ok(()),
        // RFC 9110 section 10.1.1: ignored on HTTP/1.0.
        (Some(_), _) if version == Version::Http10 => {}
        (Some(value), None) if value.eq_ignore_ascii_case(b"100-continue") => return Ok(()),
        (Some(_), _) => return Err(Refusal::Expectation),
    }
    drop(values);
    headers.remove("expect");
    Ok(())
}

/// An upgrade travels on; one to h2c does not: the proxy speaks HTTP/2 for itself, and a smuggled one would bypass policy.
fn keep_upgrade(headers: &mut Headers, upgrade: &[u8], framing: Framing) -> Result<(), Refusal> {
    let mut protocols = upgrade.split(|&b| b == b',').map(|p| p.trim_ascii());
    if protocols.clone().any(|p| p.is_empty() || !p.iter().all(|&b| is_token(b) || b == b'/')) {
        return Err(Refusal::Bad("Upgrade"));
    }
    if protocols.any(|p| p.len() >= 3 && p[..3].eq_ignore_ascii_case(b"h2c")) {
        return Ok(());
    }
    if !matches!(framing, Framing::None | Framing::Length(0)) {
        return Err(Refusal::Bad("Upgrade with a body"));
    }
    headers.push(b"Upgrade", upgrade);
    Ok(())
}

impl Connection {
    fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 | Version::Http2 => !self.close,
        }
    }
}
