//! The headers at the two edges of the mesh: what is stripped from strangers, what the proxies tell each other on the hop, and
//! what the application is told about its caller. It must never let a claim about identity through that this proxy has not
//! verified.

mod case;
mod phrase;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use leno_proto::request::Headers;

use crate::edge::case::Case;
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
                Version::Http10 => b"p=1.0",
                Version::Http11 => b"p=1.1",
                Version::Http2 => b"p=2",
            });
            let _ = write!(value, ";a={}", self.attempt);
            if let Some(deadline) = self.deadline {
                let _ = write!(value, ";d={}", deadline.as_millis());
            }
            phrase::write(value, &self.phrase);
            case::write(value, case);
        });
    }

    /// Takes the header off, and gives the names of an HTTP/1 message their case back. `None`: absent or not understood.
    pub fn take(headers: &mut Headers) -> Option<Self> {
        let parsed = std::str::from_utf8(headers.get(HOP_HEADER)?).ok().and_then(Self::parse);
        headers.remove(HOP_HEADER);
        let (hop, names) = parsed?;
        if hop.version != Version::Http2 {
            case::restore(headers, &names);
        }
        Some(hop)
    }

    /// With the names whose case was not canonical.
    fn parse(value: &str) -> Option<(Self, Cow<'static, str>)> {
        let mut hop = Self { version: Version::Http2, attempt: 1, deadline: None, phrase: Vec::new() };
        let mut names = Cow::Borrowed("");
        for part in value.split(';') {
            // Unknown parts are a newer peer's.
            match part.split_once('=') {
                Some(("p", "1.0")) => hop.version = Version::Http10,
                Some(("p", "1.1")) => hop.version = Version::Http11,
                Some(("a", attempt)) => hop.attempt = attempt.parse().ok()?,
                Some(("d", millis)) => hop.deadline = Some(Duration::from_millis(millis.parse().ok()?)),
                Some(("r", phrase)) => hop.phrase = phrase::read(phrase).unwrap_or_default(),
                // Nearly always this or nothing: it costs no memory.
                Some(("c", "l")) => names = Cow::Borrowed("l"),
                Some(("c", odd)) => names = Cow::Owned(odd.to_owned()),
                _ => {}
            }
        }
        Some((hop, names))
    }
}

/// Removes what nobody but a proxy of ours may say: whoever sends it is a stranger here.
pub fn strip(headers: &mut Headers) {
    headers.retain(|name, _| !is_ours(name));
}

fn is_ours(name: &[u8]) -> bool {
    let starts =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
    starts("leno-") || starts("l5d-") || starts("x-envoy-") || name.eq_ignore_ascii_case(b"x-forwarded-client-cert")
}

/// Tells the application who calls, as the last element of `forwarded` (RFC 7239), with the verified identity as its
/// extension parameter `spiffe`. Elements of others that claim one are dropped.
pub fn forwarded(headers: &mut Headers, client: IpAddr, identity: Option<&str>, authority: &str) {
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
        let _ = match client {
            IpAddr::V4(address) => write!(value, "for={address}"),
            IpAddr::V6(address) => write!(value, "for=\"[{address}]\""),
        };
        if !authority.is_empty() && !authority.contains(['"', '\\']) {
            let _ = write!(value, ";host=\"{authority}\"");
        }
        match identity {
            Some(identity) => {
                let _ = write!(value, ";proto=https;spiffe=\"{identity}\"");
            }
            None => value.extend_from_slice(b";proto=http"),
        }
    });
}

pub const HOP_HEADER: &str = "leno-hop";
