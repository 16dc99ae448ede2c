//! Writes heads, chunks and trailers, each once, into the connection's one buffer. It must never write a line end, a framing
//! field or a connection-level field that it did not make itself.

use bytes::BufMut;
use bytes::BytesMut;
use leno_proto::request::Headers;

use crate::http::decimal;
use crate::http::h1::fields::is_connection_level;
use crate::http::h1::fields::is_token;
use crate::http::h1::parse::Framing;
use crate::http::h1::words::ends_line;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;

/// A head that cannot be written as HTTP/1: a byte in it would be read as something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritable;

/// What the connection-level fields of a response say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    KeepAlive,
    /// To an HTTP/1.0 client, which has to be told.
    KeepAlive10,
    Close,
}

/// On failure `out` is as it was.
pub fn request(head: &RequestHead, framing: Framing, out: &mut BytesMut) -> Result<(), Unwritable> {
    let target = if head.method == "CONNECT" { &head.authority } else { &head.target };
    let plain = |text: &str| text.bytes().all(|b| (0x21..=0x7e).contains(&b));
    if head.method.is_empty() || !head.method.bytes().all(is_token) || target.is_empty() || !plain(target) {
        return Err(Unwritable);
    }
    if !plain(&head.authority) {
        return Err(Unwritable);
    }
    if head.headers.get("upgrade").is_some_and(ends_line) {
        return Err(Unwritable);
    }
    let start = out.len();
    out.reserve(128 + target.len());
    put(out, &[head.method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\nHost: ", head.authority.as_bytes()]);
    out.put_slice(b"\r\n");
    let length = match framing {
        Framing::Length(length) => Some(length),
        // RFC 9110 section 8.6: a method that usually has a body says when it has none.
        Framing::None if matches!(&*head.method, "POST" | "PUT" | "PATCH") => Some(0),
        Framing::None | Framing::Chunked | Framing::UntilClose => None,
    };
    let written = fields(&head.headers, length, out).inspect_err(|_| out.truncate(start))?;
    if let (Some(length), false) = (length, written.length) {
        content_length(length, out);
    }
    if framing == Framing::Chunked {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match (head.headers.get("upgrade"), head.headers.contains("te")) {
        (Some(upgrade), _) => put(out, &[b"Connection: Upgrade\r\nUpgrade: ", upgrade, b"\r\n"]),
        (None, true) => out.put_slice(b"Connection: TE\r\nTE: trailers\r\n"),
        (None, false) => {}
    }
    out.put_slice(b"\r\n");
    Ok(())
}

/// `framing` as it will be on this wire. With `Framing::None` a Content-Length of the head stays: it speaks of what a GET
/// would have got.
pub fn response(head: &ResponseHead, framing: Framing, after: After, out: &mut BytesMut) -> Result<(), Unwritable> {
    let start = out.len();
    out.reserve(128);
    let hundreds =
        [b'0' + (head.status / 100 % 10) as u8, b'0' + (head.status / 10 % 10) as u8, b'0' + (head.status % 10) as u8];
    let phrase = match &head.reason_phrase[..] {
        [] => standard_phrase(head.status).as_bytes(),
        phrase => phrase,
    };
    if ends_line(phrase) || head.headers.get("upgrade").is_some_and(ends_line) {
        return Err(Unwritable);
    }
    put(out, &[b"HTTP/1.1 ", &hundreds, b" ", phrase, b"\r\n"]);
    let bodyless = head.status < 200 || head.status == 204;
    let length = match framing {
        Framing::Length(length) => Some(length),
        // What the head says, if it says it as a number.
        Framing::None if !bodyless => {
            head.headers.get("content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse().ok())
        }
        Framing::None | Framing::Chunked | Framing::UntilClose => None,
    };
    let written = fields(&head.headers, length, out).inspect_err(|_| out.truncate(start))?;
    if let (Some(length), false) = (length, written.length) {
        content_length(length, out);
    }
    if framing == Framing::Chunked {
        out.put_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match (head.headers.get("upgrade"), after) {
        (Some(upgrade), _) if head.status == 101 => put(out, &[b"Connection: Upgrade\r\nUpgrade: ", upgrade, b"\r\n"]),
        (Some(upgrade), After::Close) => put(out, &[b"Connection: Upgrade, close\r\nUpgrade: ", upgrade, b"\r\n"]),
        (Some(upgrade), _) => put(out, &[b"Connection: Upgrade\r\nUpgrade: ", upgrade, b"\r\n"]),
        (None, After::Close) => out.put_slice(b"Connection: close\r\n"),
        (None, After::KeepAlive10) => out.put_slice(b"Connection: keep-alive\r\n"),
        (None, After::KeepAlive) => {}
    }
    out.put_slice(b"\r\n");
    Ok(())
}

/// The line before a chunk's data.
pub fn chunk_head(length: usize, out: &mut BytesMut) {
    let mut digits = [0_u8; 18];
    let mut at = digits.len();
    let mut left = length;
    for b in [b'\n', b'\r'] {
        at -= 1;
        digits[at] = b;
    }
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 || at == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// The last chunk and the trailer section.
pub fn last_chunk(trailers: Option<&Headers>, out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flat_map(Headers::iter) {
        // A trailer that cannot be written is left out: the head is gone, and nothing may hang on a trailer.
        if name.iter().all(|&b| is_token(b)) && !ends_line(value) && !is_connection_level(name) {
            put(out, &[name, b": ", value, b"\r\n"]);
        }
    }
    out.put_slice(b"\r\n");
}

struct Written {
    length: bool,
}

/// The end-to-end fields in their order and case. A Content-Length keeps its place if it tells the truth.
fn fields(headers: &Headers, length: Option<u64>, out: &mut BytesMut) -> Result<Written, Unwritable> {
    let mut written = Written { length: false };
    for (name, value) in headers.iter() {
        if is_connection_level(name) {
            let Some(length) = length else { continue };
            if written.length || !name.eq_ignore_ascii_case(b"content-length") {
                continue;
            }
            written.length = true;
            put(out, &[name, b": "]);
            decimal::put(length, out);
            out.put_slice(b"\r\n");
            continue;
        }
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) || ends_line(value) {
            return Err(Unwritable);
        }
        put(out, &[name, b": ", value, b"\r\n"]);
    }
    Ok(written)
}

fn content_length(length: u64, out: &mut BytesMut) {
    out.put_slice(b"Content-Length: ");
    decimal::put(length, out);
    out.put_slice(b"\r\n");
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

pub fn standard_phrase(status: u16) -> &'static str {
    ::http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("")
}
