//! Bodies as one closed set. It must never buffer more than the frame in hand.

use bytes::Bytes;

/// A message body, pulled frame by frame. Dropping it before its end cancels what feeds it: an HTTP/1 connection is closed,
/// an HTTP/2 stream is reset.
pub enum Body<'c> {
    Empty,
    Full(Bytes),
    /// From the client, over HTTP/1: read from the connection's own buffer.
    H1Request(crate::http::h1::Incoming<'c>),
    /// From an upstream, over HTTP/1: owns that connection until its end, and the request's unsent rest.
    H1Response(Box<crate::http::h1::Answer<'c>>),
    /// From either side, over HTTP/2.
    H2(crate::http::h2::Incoming<'c>),
}
