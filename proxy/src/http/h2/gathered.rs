//! What was taken from a body and is not on its way yet: small messages put together, the end and the trailers. It must never
//! hold more than a frame, nor take a body for whole that broke its Content-Length.

use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::body::Body;
use crate::http::body::Kept;
use crate::http::h2::FRAME;
use crate::http::h2::SMALL;
use crate::http::h2::head;

/// What was taken from a body and not yet given to the stream.
pub(super) struct Gathered {
    big: Bytes,
    /// After `big`: messages put together.
    small: BytesMut,
    ended: bool,
    trailers: Option<Headers>,
    /// From the trailers.
    pub(super) grpc_status: Option<u16>,
    /// What the head promised.
    declared: Option<u64>,
    pub(super) taken: u64,
    /// What was taken, as long as the request may have to be sent again.
    kept: Option<Kept>,
}

/// Why a body did not go out whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its source ended badly.
    Source(Reason),
    /// The peer reset the stream or the connection ended; without an error if it merely needs no more.
    Peer { wanted: bool },
}

impl Gathered {
    pub(super) fn new(declared: Option<u64>) -> Self {
        Self {
            big: Bytes::new(),
            small: BytesMut::new(),
            ended: false,
            trailers: None,
            grpc_status: None,
            declared,
            taken: 0,
            kept: None,
        }
    }

    /// Of a request, which may have to be sent again: what is small stays here until it is answered.
    pub(super) fn keeping(declared: Option<u64>) -> Self {
        Self { kept: Some(Kept::default()), ..Self::new(declared) }
    }

    /// The answer is here: nothing is sent again.
    pub(super) fn keep_no_more(&mut self) {
        self.kept = None;
    }

    /// The whole body once more, if all that was taken from it is still here.
    pub(super) fn before(self, rest: Body<'_>) -> Option<Body<'_>> {
        self.kept?.before(rest)
    }

    fn len(&self) -> usize {
        self.big.len() + self.small.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The trailers, once they are all that is left.
    pub(super) fn last_trailers(&mut self) -> Option<Headers> {
        if self.ended && self.is_empty() { self.trailers.take() } else { None }
    }

    /// Whether the body had nothing at all.
    pub(super) fn is_nothing(&self) -> bool {
        self.ended && self.is_empty() && self.trailers.is_none()
    }

    /// Takes what is ready, a frame's worth at most.
    pub(super) fn gather(&mut self, body: &mut Body<'_>, cx: &mut Context<'_>) -> Result<(), Reason> {
        while !self.ended && self.len() < FRAME {
            match body.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(bytes))) => {
                    self.taken += bytes.len() as u64;
                    if self.declared.is_some_and(|declared| self.taken > declared) {
                        return Err(Reason::BadFraming);
                    }
                    self.put(bytes);
                }
                Poll::Ready(Some(Err(reason))) => return Err(reason),
                Poll::Ready(None) => {
                    self.ended = true;
                    self.trailers = body.trailers();
                    if let (Some(kept), Some(_)) = (&mut self.kept, &self.trailers) {
                        // They are taken, and cannot be sent again.
                        kept.give_up();
                    }
                    self.grpc_status = self.trailers.as_ref().and_then(head::grpc_status);
                    if self.declared.is_some_and(|declared| self.taken != declared) {
                        return Err(Reason::BadFraming);
                    }
                }
            }
        }
        Ok(())
    }

    // A second reference to a piece costs an allocation mostly, so only who needs both takes one.
    fn put(&mut self, bytes: Bytes) {
        let is_big = self.is_empty() && bytes.len() >= SMALL;
        match &mut self.kept {
            None if is_big => self.big = bytes,
            None => self.small.extend_from_slice(&bytes),
            Some(kept) => {
                match is_big {
                    true => self.big = bytes.clone(),
                    false => self.small.extend_from_slice(&bytes),
                }
                kept.push(bytes);
            }
        }
    }

    pub(super) fn take(&mut self, most: usize) -> Bytes {
        if self.big.is_empty() {
            let n = most.min(self.small.len());
            self.small.split_to(n).freeze()
        } else {
            let n = most.min(self.big.len());
            self.big.split_to(n)
        }
    }
}
