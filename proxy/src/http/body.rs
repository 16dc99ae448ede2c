//! Bodies as one closed set. It must never buffer more than the frame in hand.

use std::future::poll_fn;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;

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

impl Body<'_> {
    /// The next piece, never empty. `None` is the honest end; a body that was cut says why, once, and then counts as ended.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(_) => {
                let Self::Full(bytes) = std::mem::replace(self, Self::Empty) else { return Poll::Ready(None) };
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            Self::H1Request(body) => body.poll_data(cx),
            Self::H1Response(body) => body.poll_data(cx),
            Self::H2(body) => body.poll_data(cx),
        }
    }

    pub async fn data(&mut self) -> Option<Result<Bytes, Reason>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The trailers, after `poll_data` gave `None`; once.
    pub fn trailers(&mut self) -> Option<Headers> {
        match self {
            Self::Empty | Self::Full(_) => None,
            Self::H1Request(body) => body.trailers(),
            Self::H1Response(body) => body.trailers(),
            Self::H2(body) => body.trailers(),
        }
    }

    /// For whoever has no room for data now: lets what feeds the body go on as far as it can without handing anything
    /// over (the request's rest of an answer, the small frames of an HTTP/2 stream). Wakes as `poll_data` does.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Empty | Self::Full(_) | Self::H1Request(_) => {}
            Self::H1Response(body) => body.poll_idle(cx),
            Self::H2(body) => body.poll_idle(cx),
        }
    }

    /// How many bytes are still to come, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::H1Request(body) => body.length(),
            Self::H1Response(body) => body.length(),
            Self::H2(body) => body.length(),
        }
    }
}
