//! Bodies as one closed set. It must never buffer more than the frame in hand.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::copy::Copy;
use crate::http::copy::Original;

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
    /// Sent before, in vain: what was taken from it, then the rest.
    Again(Box<Again<'c>>),
    /// Forwarded while copies are made of it.
    Original(Box<Original<'c>>),
    Copy(Copy),
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
            Self::Again(body) => body.poll_data(cx),
            Self::Original(body) => body.poll_data(cx),
            Self::Copy(body) => body.poll_data(cx),
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
            Self::Again(body) => body.rest.trailers(),
            Self::Original(body) => body.trailers(),
            Self::Copy(body) => body.trailers(),
        }
    }

    /// For whoever has no room for data now: lets what feeds the body go on as far as it can without handing anything
    /// over (the request's rest of an answer, the small frames of an HTTP/2 stream). Wakes as `poll_data` does.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Empty | Self::Full(_) | Self::H1Request(_) | Self::Copy(_) => {}
            Self::H1Response(body) => body.poll_idle(cx),
            Self::H2(body) => body.poll_idle(cx),
            Self::Again(body) => body.rest.poll_idle(cx),
            Self::Original(body) => body.poll_idle(cx),
        }
    }

    /// Whether something may follow even where no data does.
    pub fn may_have_trailers(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// How many bytes are still to come, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::H1Request(body) => body.length(),
            Self::H1Response(body) => body.length(),
            Self::H2(body) => body.length(),
            Self::Again(body) => body.rest.length().map(|rest| rest + body.first.bytes()),
            Self::Original(body) => body.length(),
            Self::Copy(body) => body.length(),
        }
    }
}

/// A body whose beginning was taken and is given again.
pub struct Again<'c> {
    first: Pieces,
    rest: Body<'c>,
}

/// Nearly always one, which costs no memory of its own.
#[derive(Default)]
struct Pieces {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
}

impl Pieces {
    fn push(&mut self, data: Bytes) {
        match &self.first {
            None => self.first = Some(data),
            Some(_) => self.more.push_back(data),
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let next = self.more.pop_front();
        std::mem::replace(&mut self.first, next)
    }

    fn bytes(&self) -> u64 {
        self.first.iter().chain(&self.more).map(|piece| piece.len() as u64).sum()
    }
}

impl Again<'_> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        match self.first.pop() {
            Some(data) => Poll::Ready(Some(Ok(data))),
            None => self.rest.poll_data(cx),
        }
    }
}

/// What was taken from a body while it may have to be sent again: shares the memory of the pieces, up to a bound.
pub struct Kept {
    pieces: Pieces,
    /// `None`: something is no longer here.
    room: Option<usize>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { pieces: Pieces::default(), room: Some(KEPT_MAX) }
    }
}

impl Kept {
    pub fn push(&mut self, data: Bytes) {
        self.room = self.room.and_then(|room| room.checked_sub(data.len()));
        match self.room {
            Some(_) => self.pieces.push(data),
            None => self.pieces = Pieces::default(),
        }
    }

    pub fn give_up(&mut self) {
        self.room = None;
        self.pieces = Pieces::default();
    }

    /// The whole body, if it can be had.
    pub fn before(self, rest: Body<'_>) -> Option<Body<'_>> {
        self.room?;
        if self.pieces.first.is_none() {
            return Some(rest);
        }
        Some(Body::Again(Box::new(Again { first: self.pieces, rest })))
    }
}

/// One stream's share of what may wait in the proxy.
pub const KEPT_MAX: usize = 64 * 1024;
