//! Reads a TLS ClientHello from bytes that are only looked at, so that a port can tell the mesh's own TLS from an
//! application's before it answers anything. Pure. It must never wait for more bytes than a ClientHello can have.

use crate::tls::Alpn;

/// What the first bytes of a connection are, as far as TLS is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    /// A ClientHello so far, and not all of it.
    NeedMore,
    /// Not a ClientHello, whatever follows.
    NotTls,
    Hello(Hello),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// It offers one of the mesh's own protocols: the sidecar terminates it. Any other TLS is the application's.
    pub leno: bool,
    /// The server name that it asks for, in lower case.
    pub sni: Option<String>,
}

/// Parses the beginning of a connection (RFC 8446 sections 4.1.2 and 5.1).
pub fn client_hello(bytes: &[u8]) -> Sniffed {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        match record(rest) {
            Record::NotTls => return Sniffed::NotTls,
            // What came so far may already show that this is nothing of ours.
            Record::Partial => return if promising(&message) { Sniffed::NeedMore } else { Sniffed::NotTls },
            Record::Whole { fragment, after } => {
                message.extend_from_slice(fragment);
                rest = after;
            }
        }
        if !promising(&message) {
            return Sniffed::NotTls;
        }
        if let Some(body) = handshake_body(&message) {
            return hello(body).map_or(Sniffed::NotTls, Sniffed::Hello);
        }
        if message.len() > HELLO_BYTES_MAX {
            return Sniffed::NotTls;
        }
    }
}

enum Record<'a> {
    Partial,
    NotTls,
    Whole { fragment: &'a [u8], after: &'a [u8] },
}

fn record(bytes: &[u8]) -> Record<'_> {
    let looks = |at: usize, allowed: &[u8]| bytes.get(at).is_none_or(|byte| allowed.contains(byte));
    // handshake(22), then legacy_record_version 0x0301 or 0x0303; some write 0x0300 or 0x0302.
    if !looks(0, &[22]) || !looks(1, &[3]) || !looks(2, &[0, 1, 2, 3]) {
        return Record::NotTls;
    }
    let Some(&[high, low]) = bytes.get(3..5) else { return Record::Partial };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // An empty handshake fragment is forbidden, and the bound is 2^14.
    if length == 0 || length > RECORD_BYTES_MAX {
        return Record::NotTls;
    }
    match bytes.get(5..5 + length) {
        Some(fragment) => Record::Whole { fragment, after: &bytes[5 + length..] },
        None if bytes.get(5).is_some_and(|kind| *kind != CLIENT_HELLO) => Record::NotTls,
        None => Record::Partial,
    }
}

/// Whether the message begins as a ClientHello of a possible size does.
fn promising(message: &[u8]) -> bool {
    let kind = message.first().is_none_or(|kind| *kind == CLIENT_HELLO);
    kind && message.get(1..4).is_none_or(|length| length_of(length) <= HELLO_BYTES_MAX)
}

fn handshake_body(message: &[u8]) -> Option<&[u8]> {
    let length = length_of(message.get(1..4)?);
    message.get(4..4 + length)
}

fn length_of(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// `None`: lengths that contradict each other.
fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Cursor(body);
    // legacy_version, random, legacy_session_id, cipher_suites, legacy_compression_methods.
    body.take(2 + 32)?;
    body.vector(1)?;
    body.vector(2)?;
    body.vector(1)?;
    let mut hello = Hello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Cursor(body.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let mut data = Cursor(extensions.vector(2)?);
        match kind {
            // server_name (RFC 6066 section 3).
            [0, 0] => {
                let mut names = Cursor(data.vector(2)?);
                while !names.0.is_empty() {
                    let kind = names.take(1)?;
                    let name = names.vector(2)?;
                    if kind == [0] {
                        hello.sni = std::str::from_utf8(name).ok().map(str::to_ascii_lowercase);
                    }
                }
            }
            // application_layer_protocol_negotiation (RFC 7301).
            [0, 16] => {
                let mut protocols = Cursor(data.vector(2)?);
                while !protocols.0.is_empty() {
                    hello.leno |= Alpn::from_bytes(protocols.vector(1)?).is_some();
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A vector behind its length of `width` bytes.
    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = length_of(self.take(width)?);
        self.take(length)
    }
}

const CLIENT_HELLO: u8 = 1;

/// RFC 8446 section 5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;

/// A hello with a post-quantum share and a resumption ticket has 2 to 4 KiB; four times that is nobody's.
const HELLO_BYTES_MAX: usize = 16 * 1024;
