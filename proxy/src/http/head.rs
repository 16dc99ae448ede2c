//! Heads as the proxy sees them, made by the HTTP/1 and HTTP/2 codecs alike.

use std::borrow::Cow;
use std::sync::Arc;

use leno_proto::request::Headers;
use leno_proto::request::RequestView;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

/// A request's head. Method, authority and path keep the client's bytes.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub version: Version,
    pub method: Cow<'static, str>,
    /// `http` or `https`, from `:scheme` or the absolute form; empty where the wire did not say.
    pub scheme: &'static str,
    /// From the absolute form, else `:authority`, else Host. Host is not among `headers`: it follows from this.
    pub authority: Arc<str>,
    /// Path and query as they will be forwarded; `*` for OPTIONS; empty for CONNECT.
    pub target: Arc<str>,
    pub headers: Headers,
}

impl RequestHead {
    pub fn view(&self) -> RequestView<'_> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*self.target, None),
        };
        RequestView { method: &self.method, authority: &self.authority, path, query, headers: &self.headers }
    }

    /// Whether HTTP/1 may end here: an upgrade, or a tunnel.
    pub fn switches_protocols(&self) -> bool {
        self.version != Version::Http2 && (self.headers.contains("upgrade") || self.method == "CONNECT")
    }
}

#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub version: Version,
    pub status: u16,
    /// As the HTTP/1 upstream wrote it; empty: the standard phrase.
    pub reason_phrase: Vec<u8>,
    pub headers: Headers,
}

/// A method; those that everybody uses cost no memory.
pub fn method(name: &str) -> Cow<'static, str> {
    const KNOWN: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT"];
    match KNOWN.into_iter().find(|known| *known == name) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(name.to_owned()),
    }
}

/// `https`, else `http`: nothing else is forwarded.
pub fn scheme(name: &str) -> &'static str {
    if name == "https" { "https" } else { "http" }
}
