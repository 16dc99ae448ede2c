//! Heads and trailers between the proxy's own types and the `http` crate's, with the rules of RFC 9113 section 8 that the
//! h2 crate leaves to its user. It must never let a field through that an HTTP/1 hop would frame by.

use ::http::HeaderMap;
use ::http::HeaderName;
use ::http::HeaderValue;
use ::http::Method;
use ::http::Request;
use ::http::Response;
use ::http::StatusCode;
use ::http::Uri;
use ::http::header;
use ::http::request::Parts;
use ::http::uri::Authority;
use ::http::uri::PathAndQuery;
use ::http::uri::Scheme;
use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::head;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;

/// Fields that belong to one connection of HTTP/1 (RFC 9113 section 8.2.2). A peer's are refused by the h2 crate, an
/// HTTP/1 neighbour's end here.
const CONNECTION_FIELDS: [&[u8]; 6] =
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings"];

/// What may not arrive late: framing, routing, authentication (RFC 9110 section 6.5.1).
pub(in crate::http) const NOT_IN_TRAILERS: [&[u8]; 14] = [
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

/// What the proxy adds to a head on its way: `traceparent`, `forwarded`, `leno-hop`.
const OWN_BYTES: usize = 320;
const OWN_FIELDS: usize = 6;

/// What arrived as a request, with one authority, one cookie field and one Content-Length; or why it is refused.
pub(super) fn request_head(parts: &Parts, fields: usize) -> Result<RequestHead, Reason> {
    if parts.headers.len() > fields {
        return Err(Reason::HeadersTooLarge);
    }
    let uri = &parts.uri;
    let mut head = RequestHead {
        version: Version::Http2,
        method: head::method(parts.method.as_str()),
        scheme: uri.scheme_str().map(head::scheme).unwrap_or_default(),
        authority: uri.authority().map(Authority::as_str).unwrap_or_default().into(),
        target: uri.path_and_query().map(PathAndQuery::as_str).unwrap_or_default().into(),
        headers: room_for(&parts.headers),
    };
    for (name, value) in &parts.headers {
        if !is_trimmed(value) {
            return Err(Reason::BadFraming);
        }
        match *name {
            header::HOST | header::COOKIE | header::CONTENT_LENGTH => {}
            _ => head.headers.push(name.as_str().as_bytes(), value.as_bytes()),
        }
    }
    host(&mut head, &parts.headers)?;
    cookies(&mut head.headers, &parts.headers);
    // The h2 crate has refused values that differ.
    if let Some(length) = parts.headers.get(header::CONTENT_LENGTH) {
        head.headers.push(b"content-length", length.as_bytes());
    }
    let rooted = head.target.starts_with('/') || (&*head.target == "*" && parts.method == Method::OPTIONS);
    if !rooted {
        return Err(Reason::BadFraming);
    }
    Ok(head)
}

/// `:authority` and Host may both be there, but must say the same (RFC 9113 section 8.3.1).
fn host(head: &mut RequestHead, headers: &HeaderMap) -> Result<(), Reason> {
    let mut hosts = headers.get_all(header::HOST).iter();
    if let Some(host) = hosts.next() {
        let host = host.to_str().map_err(|_| Reason::BadFraming)?;
        if hosts.next().is_some() || host.parse::<Authority>().is_err() {
            return Err(Reason::BadFraming);
        }
        if head.authority.is_empty() {
            head.authority = host.into();
        } else if !head.authority.eq_ignore_ascii_case(host) {
            return Err(Reason::BadFraming);
        }
    }
    if head.authority.is_empty() || head.authority.contains('@') {
        return Err(Reason::BadFraming);
    }
    Ok(())
}

/// One field again from the crumbs that HTTP/2 may split it into (RFC 9113 section 8.2.3).
fn cookies(to: &mut Headers, headers: &HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let Some(second) = crumbs.next() else { return to.push(b"cookie", first.as_bytes()) };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    to.push(b"cookie", &joined);
}

fn is_trimmed(value: &HeaderValue) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    !blank(value.as_bytes().first()) && !blank(value.as_bytes().last())
}

pub(super) fn response_head<B>(response: &Response<B>) -> ResponseHead {
    ResponseHead {
        version: Version::Http2,
        status: response.status().as_u16(),
        reason_phrase: Vec::new(),
        headers: own_fields(response.headers()),
    }
}

/// For these fields, and for what the proxy itself will add.
fn room_for(from: &HeaderMap) -> Headers {
    let bytes: usize = from.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    Headers::with_capacity(bytes + OWN_BYTES, from.len() + OWN_FIELDS)
}

fn own_fields(from: &HeaderMap) -> Headers {
    let mut headers = room_for(from);
    for (name, value) in from {
        headers.push(name.as_str().as_bytes(), value.as_bytes());
    }
    headers
}

/// A peer's trailers, without what may not be one.
pub(super) fn own_trailers(from: &HeaderMap) -> Headers {
    let mut trailers = own_fields(from);
    trailers.retain(|name, _| !NOT_IN_TRAILERS.contains(&name));
    trailers
}

/// A request as it goes out. `None`: it cannot be said in HTTP/2.
pub(super) fn request(head: &RequestHead) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).ok()?;
    let mut uri = ::http::uri::Parts::default();
    let mut memory = Memory::new(&head.headers, head.target.len() + head.authority.len());
    let target = PathAndQuery::from_maybe_shared(memory.copy(head.target.as_bytes())).ok()?;
    // The http crate cuts fragments off; what was decided on must be what is sent.
    if target.as_str() != &*head.target {
        return None;
    }
    uri.path_and_query = Some(target);
    if !head.authority.is_empty() {
        uri.authority = Some(Authority::from_maybe_shared(memory.copy(head.authority.as_bytes())).ok()?);
        uri.scheme = Some(if head.scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP });
    }
    // The h2 crate lets a request without an authority (HTTP/1.0) pass as another version's only.
    let version = if head.authority.is_empty() { ::http::Version::HTTP_11 } else { ::http::Version::HTTP_2 };
    *request.version_mut() = version;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.headers_mut() = fields(&head.headers, &mut memory)?;
    Some(request)
}

pub(super) fn response(head: &ResponseHead) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    *response.headers_mut() = fields(&head.headers, &mut Memory::new(&head.headers, 0))?;
    Some(response)
}

pub(super) fn trailers(from: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(from.len());
    for (name, value) in from.iter() {
        let Some(name) = name_of(name) else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        if !NOT_IN_TRAILERS.contains(&name.as_str().as_bytes()) {
            map.append(name, value);
        }
    }
    map
}

/// One piece of memory for all texts of a head: each value that the http crate copies by itself is an allocation.
struct Memory(BytesMut);

impl Memory {
    fn new(headers: &Headers, more: usize) -> Self {
        Self(BytesMut::with_capacity(headers.bytes() + more))
    }

    fn copy(&mut self, text: &[u8]) -> Bytes {
        self.0.extend_from_slice(text);
        self.0.split().freeze()
    }
}

/// Names beyond those that the http crate knows are an allocation each, too, unless they are constants.
fn name_of(name: &[u8]) -> Option<HeaderName> {
    const fn known(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }
    static KNOWN: [HeaderName; 18] = [
        known("leno-hop"),
        known("traceparent"),
        known("tracestate"),
        known("x-request-id"),
        known("x-forwarded-for"),
        known("x-forwarded-proto"),
        known("x-forwarded-host"),
        known("x-real-ip"),
        known("grpc-timeout"),
        known("grpc-encoding"),
        known("grpc-accept-encoding"),
        known("grpc-status"),
        known("grpc-message"),
        known("sec-fetch-dest"),
        known("sec-fetch-mode"),
        known("sec-fetch-site"),
        known("idempotency-key"),
        known("leno-reason"),
    ];
    match KNOWN.iter().find(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name)) {
        Some(known) => Some(known.clone()),
        None => HeaderName::from_bytes(name).ok(),
    }
}

fn fields(from: &Headers, memory: &mut Memory) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(from.len());
    for (name, value) in from.iter() {
        let name = name_of(name)?;
        let text = name.as_str().as_bytes();
        let trailers_only = || value.trim_ascii().eq_ignore_ascii_case(b"trailers");
        if CONNECTION_FIELDS.contains(&text) || name == header::HOST || (name == header::TE && !trailers_only()) {
            continue;
        }
        map.append(name, HeaderValue::from_maybe_shared(memory.copy(value)).ok()?);
    }
    Some(map)
}

/// The declared length of a message.
pub(in crate::http) fn content_length(headers: &Headers) -> Option<u64> {
    std::str::from_utf8(headers.get("content-length")?).ok()?.parse().ok()
}

/// The code in a head or in trailers.
pub(in crate::http) fn grpc_status(headers: &Headers) -> Option<u16> {
    std::str::from_utf8(headers.get("grpc-status")?).ok()?.parse().ok()
}
