//! Heads and trailers between header blocks and the proxy's own types, with the rules of RFC 9113 section 8. It must never
//! let a field through that an HTTP/1 hop would frame by.

use std::sync::Arc;

use ::http::uri::Authority;
use leno_proto::request::Headers;

use crate::http::h2::hpack::Kind;
use crate::http::h2::hpack::decode::Fields;
use crate::http::h2::hpack::encode::Encoder;
use crate::http::h2::hpack::encode::Unsayable;
use crate::http::head;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;

/// What the proxy adds to a head on its way: `traceparent`, `forwarded`, `leno-hop`.
const OWN_BYTES: usize = 320;
const OWN_FIELDS: usize = 6;
/// What a field counts beside its texts (RFC 9113 section 6.5.2).
const FIELD: usize = 32;

/// Why a head is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    TooLarge,
    /// A tunnel, which belongs to HTTP/1.
    Connect,
}

/// What one connection's heads have in common: the texts of the last one, to be shared by the next, and its size.
pub(super) struct Memory {
    authority: Arc<str>,
    target: Arc<str>,
    bytes: usize,
    fields: usize,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self { authority: "".into(), target: "".into(), bytes: 256, fields: 8 }
    }

    /// For as much as the last head had, and for what the proxy itself will add.
    fn room(&self) -> Headers {
        Headers::with_capacity(self.bytes + OWN_BYTES, self.fields + OWN_FIELDS)
    }

    fn keep_size(&mut self, headers: &Headers) {
        self.bytes = headers.bytes();
        self.fields = headers.len();
    }
}

/// What all kinds of heads go by.
struct Common {
    headers: Headers,
    /// Bytes and fields that may still come.
    room: usize,
    fields: usize,
    refusal: Option<Refusal>,
    length: Option<u64>,
}

impl Common {
    fn new(headers: Headers, room: usize, fields: usize) -> Self {
        Self { headers, room, fields, refusal: None, length: None }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    /// Whether the field is still wanted.
    fn counts(&mut self, name: &[u8], value: &[u8]) -> bool {
        match self.room.checked_sub(name.len() + value.len() + FIELD) {
            // Our lists count the bytes of a name in 16 bits.
            Some(room) if name.len() <= usize::from(u16::MAX) => self.room = room,
            Some(_) | None => {
                self.room = 0;
                self.refuse(Refusal::TooLarge);
            }
        }
        self.refusal.is_none()
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        match self.fields.checked_sub(1) {
            Some(fields) => self.fields = fields,
            None => return self.refuse(Refusal::TooLarge),
        }
        self.headers.push(name, value);
    }

    /// One length, however often it is said.
    fn content_length(&mut self, value: &[u8]) {
        match (self.length, number(value)) {
            (None, Some(length)) => {
                self.length = Some(length);
                self.push(b"content-length", value);
            }
            (Some(before), Some(length)) if before == length => {}
            (_, _) => self.refuse(Refusal::Malformed),
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0_u64, |n, &b| n.checked_mul(10)?.checked_add(u64::from(b - b'0')))
}

/// A request as its fields come.
pub(super) struct RequestFields<'m> {
    memory: &'m mut Memory,
    common: Common,
    method: Option<std::borrow::Cow<'static, str>>,
    scheme: Option<&'static str>,
    authority: Option<Arc<str>>,
    target: Option<Arc<str>>,
    hosts: usize,
    /// The crumbs that HTTP/2 may split a cookie into (RFC 9113 section 8.2.3), together again.
    cookie: Vec<u8>,
    /// A field that is no pseudo-header has come.
    regular: bool,
}

impl<'m> RequestFields<'m> {
    pub(super) fn new(memory: &'m mut Memory, bytes: usize, fields: usize) -> Self {
        let common = Common::new(memory.room(), bytes, fields);
        Self {
            memory,
            common,
            method: None,
            scheme: None,
            authority: None,
            target: None,
            hosts: 0,
            cookie: Vec::new(),
            regular: false,
        }
    }

    fn pseudo(&mut self, kind: Kind, value: &[u8]) -> Option<()> {
        let fresh = !self.regular
            && match kind {
                Kind::Method => self.method.is_none(),
                Kind::Scheme => self.scheme.is_none(),
                Kind::Authority => self.authority.is_none(),
                _ => self.target.is_none(),
            };
        let text = std::str::from_utf8(value).ok().filter(|_| fresh)?;
        match kind {
            Kind::Method => self.method = Some(head::method(text)).filter(|method| is_method(method)),
            Kind::Scheme => self.scheme = Some(head::scheme(text)).filter(|_| !text.is_empty()),
            Kind::Authority => self.authority = Some(self.memory.authority(text)?),
            _ => self.target = Some(self.memory.target(text)?),
        }
        Some(())
    }

    /// `:authority` and Host may both be there, but must say the same (RFC 9113 section 8.3.1).
    fn host(&mut self, value: &[u8]) -> Option<()> {
        self.hosts += 1;
        let host = std::str::from_utf8(value).ok().filter(|host| self.hosts == 1 && !host.is_empty())?;
        match &self.authority {
            Some(authority) if !authority.is_empty() => authority.eq_ignore_ascii_case(host).then_some(()),
            Some(_) | None => {
                self.authority = Some(self.memory.authority(host)?);
                Some(())
            }
        }
    }

    /// The head, and the length that it declares for its body.
    pub(super) fn finish(mut self) -> Result<(RequestHead, Option<u64>), Refusal> {
        if let Some(refusal) = self.common.refusal {
            return Err(refusal);
        }
        let method = self.method.ok_or(Refusal::Malformed)?;
        let authority = self.authority.filter(|authority| !authority.is_empty() && !authority.contains('@'));
        let authority = authority.ok_or(Refusal::Malformed)?;
        if method == "CONNECT" {
            return Err(if self.target.is_none() { Refusal::Connect } else { Refusal::Malformed });
        }
        let (Some(scheme), Some(target)) = (self.scheme, self.target) else { return Err(Refusal::Malformed) };
        let rooted = target.starts_with('/') || (&*target == "*" && method == "OPTIONS");
        if !rooted {
            return Err(Refusal::Malformed);
        }
        if !self.cookie.is_empty() {
            let cookie = std::mem::take(&mut self.cookie);
            self.common.push(b"cookie", &cookie);
        }
        if let Some(refusal) = self.common.refusal {
            return Err(refusal);
        }
        let headers = self.common.headers;
        self.memory.keep_size(&headers);
        let head = RequestHead { version: Version::Http2, method, scheme, authority, target, headers };
        Ok((head, self.common.length))
    }
}

impl Fields for RequestFields<'_> {
    fn field(&mut self, kind: Kind, name: &[u8], value: &[u8]) {
        if !self.common.counts(name, value) {
            return;
        }
        let is_pseudo = matches!(kind, Kind::Method | Kind::Scheme | Kind::Authority | Kind::Path);
        self.regular |= !is_pseudo;
        let taken = match kind {
            Kind::Method | Kind::Scheme | Kind::Authority | Kind::Path => self.pseudo(kind, value),
            Kind::Host => self.host(value),
            Kind::Te => value.eq_ignore_ascii_case(b"trailers").then(|| self.common.push(name, value)),
            Kind::Cookie => {
                if !self.cookie.is_empty() {
                    self.cookie.extend_from_slice(b"; ");
                }
                self.cookie.extend_from_slice(value);
                Some(())
            }
            Kind::ContentLength => {
                self.common.content_length(value);
                Some(())
            }
            Kind::Plain => {
                self.common.push(name, value);
                Some(())
            }
            Kind::Status | Kind::Connection | Kind::Padded | Kind::Malformed => None,
        };
        if taken.is_none() {
            self.common.refuse(Refusal::Malformed);
        }
    }
}

fn is_method(method: &str) -> bool {
    ::http::Method::from_bytes(method.as_bytes()).is_ok()
}

impl Memory {
    fn authority(&mut self, text: &str) -> Option<Arc<str>> {
        if text != &*self.authority {
            if text.is_empty() {
                return Some("".into());
            }
            text.parse::<Authority>().ok()?;
            self.authority = text.into();
        }
        Some(Arc::clone(&self.authority))
    }

    fn target(&mut self, text: &str) -> Option<Arc<str>> {
        if text != &*self.target {
            if text.is_empty() || !is_target(text.as_bytes()) {
                return None;
            }
            self.target = text.into();
        }
        Some(Arc::clone(&self.target))
    }
}

/// Path and query in the bytes that URIs have, and those that are often met nevertheless. No fragment: what was decided on
/// must be what is sent.
pub(super) fn is_target(target: &[u8]) -> bool {
    let mut query = false;
    target.iter().all(|&b| {
        query |= b == b'?';
        match b {
            b'#' | b'<' | b'>' => false,
            b'^' | b'_' | b'{' | b'|' | b'}' | b'~' | b'!' => true,
            b'"' => !query,
            b'\\' | b'`' => query || b == b'\\',
            0x21..=0x7e => true,
            _ => false,
        }
    })
}

/// An answer as its fields come.
pub(super) struct ResponseFields<'m> {
    memory: &'m mut Memory,
    common: Common,
    status: Option<u16>,
}

impl<'m> ResponseFields<'m> {
    pub(super) fn new(memory: &'m mut Memory, bytes: usize) -> Self {
        let common = Common::new(memory.room(), bytes, usize::MAX);
        Self { memory, common, status: None }
    }

    pub(super) fn finish(self) -> Result<(ResponseHead, Option<u64>), Refusal> {
        if let Some(refusal) = self.common.refusal {
            return Err(refusal);
        }
        let status = self.status.ok_or(Refusal::Malformed)?;
        let headers = self.common.headers;
        if status >= 200 {
            self.memory.keep_size(&headers);
        }
        let head = ResponseHead { version: Version::Http2, status, reason_phrase: Vec::new(), headers };
        Ok((head, self.common.length))
    }
}

impl Fields for ResponseFields<'_> {
    fn field(&mut self, kind: Kind, name: &[u8], value: &[u8]) {
        if !self.common.counts(name, value) {
            return;
        }
        match kind {
            Kind::Status => match number(value).filter(|n| (100..1000).contains(n) && value.len() == 3) {
                Some(status) if self.status.is_none() && self.common.headers.is_empty() => {
                    self.status = Some(status as u16);
                }
                Some(_) | None => self.common.refuse(Refusal::Malformed),
            },
            Kind::ContentLength => self.common.content_length(value),
            Kind::Plain | Kind::Host | Kind::Cookie | Kind::Padded => self.common.push(name, value),
            Kind::Te if value.eq_ignore_ascii_case(b"trailers") => self.common.push(name, value),
            Kind::Te
            | Kind::Authority
            | Kind::Method
            | Kind::Path
            | Kind::Scheme
            | Kind::Connection
            | Kind::Malformed => self.common.refuse(Refusal::Malformed),
        }
    }
}

/// Trailers as they come, without what may not be one.
pub(super) struct TrailerFields(Common);

impl TrailerFields {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Common::new(Headers::new(), bytes, usize::MAX))
    }

    pub(super) fn finish(self) -> Result<Headers, Refusal> {
        match self.0.refusal {
            Some(refusal) => Err(refusal),
            None => Ok(self.0.headers),
        }
    }
}

impl Fields for TrailerFields {
    fn field(&mut self, kind: Kind, name: &[u8], value: &[u8]) {
        if !self.0.counts(name, value) {
            return;
        }
        match kind {
            Kind::Plain | Kind::Padded | Kind::Host | Kind::Cookie | Kind::ContentLength | Kind::Te => {
                if may_trail(name) {
                    self.0.push(name, value);
                }
            }
            Kind::Authority
            | Kind::Method
            | Kind::Path
            | Kind::Scheme
            | Kind::Status
            | Kind::Connection
            | Kind::Malformed => self.0.refuse(Refusal::Malformed),
        }
    }
}

/// A head that belongs to nobody any more: read for the table's sake.
pub(super) struct Nobody;

impl Fields for Nobody {
    fn field(&mut self, _: Kind, _: &[u8], _: &[u8]) {}
}

/// What may not arrive late: framing, routing, authentication (RFC 9110 section 6.5.1).
const NOT_IN_TRAILERS: [&[u8]; 14] = [
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"cookie",
    b"forwarded",
    b"host",
    b"leno-hop",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

fn may_trail(name: &[u8]) -> bool {
    !NOT_IN_TRAILERS.iter().any(|late| late.eq_ignore_ascii_case(name))
}

/// Appends a request's block. An error: it cannot be said in HTTP/2, and `out` holds nonsense.
pub(super) fn write_request(
    encoder: &mut Encoder,
    known: &mut Memory,
    out: &mut Vec<u8>,
    head: &RequestHead,
) -> Result<(), Unsayable> {
    encoder.begin(out);
    match &*head.method {
        "GET" => encoder.fixed(out, 2),
        "POST" => encoder.fixed(out, 3),
        method if is_method(method) => encoder.pseudo(out, b":method", method.as_bytes()),
        _ => return Err(Unsayable),
    }
    encoder.fixed(out, if head.scheme == "https" { 7 } else { 6 });
    if !head.authority.is_empty() {
        if known.authority != head.authority {
            head.authority.parse::<Authority>().map_err(|_| Unsayable)?;
            known.authority = Arc::clone(&head.authority);
        }
        encoder.pseudo(out, b":authority", head.authority.as_bytes());
    }
    let rooted = head.target.starts_with('/') || &*head.target == "*";
    if !rooted || !is_target(head.target.as_bytes()) {
        return Err(Unsayable);
    }
    match &*head.target {
        "/" => encoder.fixed(out, 4),
        target => encoder.pseudo(out, b":path", target.as_bytes()),
    }
    fields(encoder, out, &head.headers)
}

/// Appends an answer's block; likewise.
pub(super) fn write_response(encoder: &mut Encoder, out: &mut Vec<u8>, head: &ResponseHead) -> Result<(), Unsayable> {
    encoder.begin(out);
    match head.status {
        200 => encoder.fixed(out, 8),
        204 => encoder.fixed(out, 9),
        206 => encoder.fixed(out, 10),
        304 => encoder.fixed(out, 11),
        400 => encoder.fixed(out, 12),
        404 => encoder.fixed(out, 13),
        500 => encoder.fixed(out, 14),
        status @ 100..1000 => {
            let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
            encoder.pseudo(out, b":status", &digits);
        }
        _ => return Err(Unsayable),
    }
    fields(encoder, out, &head.headers)
}

/// Appends a block of trailers, without what may not be one or cannot be said.
pub(super) fn write_trailers(encoder: &mut Encoder, out: &mut Vec<u8>, trailers: &Headers) {
    encoder.begin(out);
    for (name, value) in trailers.iter().filter(|(name, _)| may_trail(name)) {
        // Nothing is appended for what cannot be said.
        let _ = encoder.field(out, name, value);
    }
}

fn fields(encoder: &mut Encoder, out: &mut Vec<u8>, headers: &Headers) -> Result<(), Unsayable> {
    headers.iter().try_for_each(|(name, value)| encoder.field(out, name, value))
}

/// The declared length of a message.
pub(super) fn content_length(headers: &Headers) -> Option<u64> {
    std::str::from_utf8(headers.get("content-length")?).ok()?.parse().ok()
}

/// The code in a head or in trailers.
pub(super) fn grpc_status(headers: &Headers) -> Option<u16> {
    std::str::from_utf8(headers.get("grpc-status")?).ok()?.parse().ok()
}
