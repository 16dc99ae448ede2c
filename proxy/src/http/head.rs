//! Heads as the proxy sees them, made by the HTTP/1 and HTTP/2 codecs alike.

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
    pub method: String,
    /// `http` or `https`, from `:scheme` or the absolute form; empty where the wire did not say.
    pub scheme: String,
    /// From the absolute form, else `:authority`, else Host. Host is not among `headers`: it follows from this.
    pub authority: String,
    /// Path and query as they will be forwarded; `*` for OPTIONS; empty for CONNECT.
    pub target: String,
    pub headers: Headers,
}

impl RequestHead {
    pub fn view(&self) -> RequestView<'_> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
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
