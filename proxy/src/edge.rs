//! The headers at the two edges of the mesh: what is stripped from strangers, what the proxies tell each other on the hop, and
//! what the application is told about its caller. It must never let a claim about identity through that this proxy has not
//! verified.

mod case;
mod phrase;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use leno_proto::request::Headers;

use crate::edge::case::Case;
use crate::http::decimal;
use crate::http::head::Version;

/// What one sidecar tells the other about a request, in the header `leno-hop`: only over mTLS, stripped at both edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// What the client spoke, so that HTTP/1 comes out as HTTP/1.
    pub version: Version,
    /// 1 is the first try.
    pub attempt: u32,
    /// What is left of the request's time.
    pub deadline: Option<Duration>,
    /// Of an answer: the reason phrase where it is not the standard one, which HTTP/2 has no place for.
    pub phrase: Vec<u8>,
}

impl Hop {
    /// Writes the header, replacing what a client may have forged. HTTP/2 lowers the case of names, so HTTP/1's goes along.
    pub fn write(&self, headers: &mut Headers) {
        headers.remove(HOP_HEADER);
        let case = if self.version == Version::Http2 { Case::Train } else { case::of(headers) };
        headers.push_with(HOP_HEADER.as_bytes(), |value| {
            value.extend_from_slice(match self.version {
                Version::Http10 => b"p=1.0;a=",
                Version::Http11 => b"p=1.1;a=",
                Version::Http2 => b"p=2;a=",
            });
            decimal::put(u64::from(self.attempt), value);
            if let Some(deadline) = self.deadline {
                value.extend_from_slice(b";d=");
                decimal::put(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), value);
            }
            phrase::write(value, &self.phrase);
            case::write(value, case);
        });
    }

    /// Takes the header off, and gives the names of an HTTP/1 message their case back. `None`: absent or not understood.
    pub fn take(headers: &mut Headers) -> Option<Self> {
        let parsed = Self::parse(headers.get(HOP_HEADER)?);
        headers.remove(HOP_HEADER);
        let (hop, names) = parsed?;
        if hop.version != Version::Http2 {
            case::restore(headers, &names);
        }
        Some(hop)
    }

    /// With the names whose case was not canonical.
    fn parse(value: &[u8]) -> Option<(Self, Cow<'static, [u8]>)> {
        let mut hop = Self { version: Version::Http2, attempt: 1, deadline: None, phrase: Vec::new() };
        let mut names = Cow::Borrowed(&b""[..]);
        for part in value.split(|byte| *byte == b';') {
            // Unknown parts are a newer peer's.
            match part {
                b"p=1.0" => hop.version = Version::Http10,
                b"p=1.1" => hop.version = Version::Http11,
                [b'a', b'=', attempt @ ..] => hop.attempt = decimal::read(attempt)?.try_into().ok()?,
                [b'd', b'=', millis @ ..] => hop.deadline = Some(Duration::from_millis(decimal::read(millis)?)),
                [b'r', b'=', phrase @ ..] => hop.phrase = phrase::read(phrase).unwrap_or_default(),
                // Nearly always this or nothing: it costs no memory.
                b"c=l" => names = Cow::Borrowed(b"l"),
                [b'c', b'=', odd @ ..] => names = Cow::Owned(odd.to_owned()),
                _ => {}
            }
        }
        Some((hop, names))
    }
}

/// Removes what nobody but a proxy of ours may say: whoever sends it is a stranger here.
pub fn strip(headers: &mut Headers) {
    if headers.iter().any(|(name, _)| is_ours(name)) {
        headers.retain(|name, _| !is_ours(name));
    }
}

fn is_ours(name: &[u8]) -> bool {
    let starts =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
    match name.first() {
        Some(b'l' | b'L') => starts("leno-") || starts("l5d-"),
        Some(b'x' | b'X') => starts("x-envoy-") || name.eq_ignore_ascii_case(b"x-forwarded-client-cert"),
        _ => false,
    }
}

/// What the application is told of one connection's caller: written once for all requests of the connection.
pub struct Voucher {
    client: Box<[u8]>,
    /// Says `https` and who, where mTLS has proven it.
    proof: Box<[u8]>,
}

impl Voucher {
    pub fn new(client: IpAddr, identity: Option<&str>) -> Self {
        let client = match client {
            IpAddr::V4(address) => format!("for={address}"),
            IpAddr::V6(address) => format!("for=\"[{address}]\""),
        };
        let proof = match identity {
            Some(identity) => format!(";proto=https;spiffe=\"{identity}\""),
            None => ";proto=http".to_owned(),
        };
        Self { client: client.into_bytes().into(), proof: proof.into_bytes().into() }
    }
}

/// Tells the application who calls, as the last element of `forwarded` (RFC 7239), with the verified identity as its
/// extension parameter `spiffe`. Elements of others that claim one are dropped.
pub fn forwarded(headers: &mut Headers, voucher: &Voucher, authority: &str) {
    let mut others = String::new();
    for element in headers.get_all("forwarded") {
        let Ok(element) = std::str::from_utf8(element) else { continue };
        if element.to_ascii_lowercase().contains("spiffe") {
            continue;
        }
        others.push_str(element);
        others.push_str(", ");
    }
    headers.remove("forwarded");
    headers.push_with(b"forwarded", |value| {
        value.extend_from_slice(others.as_bytes());
        value.extend_from_slice(&voucher.client);
        if !authority.is_empty() && !authority.bytes().any(|byte| matches!(byte, b'"' | b'\\')) {
            value.extend_from_slice(b";host=\"");
            value.extend_from_slice(authority.as_bytes());
            value.push(b'"');
        }
        value.extend_from_slice(&voucher.proof);
    });
}

pub const HOP_HEADER: &str = "leno-hop";
