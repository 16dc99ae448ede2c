//! The request's body as a story reads it, from the buffer that the connection's loop reads into as well. It must never hold
//! a borrow across a poll, nor take a byte beyond the body.

use std::cell::RefCell;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::h1::decode::Decoder;
use crate::http::h1::decode::Step;
use crate::http::h1::parse::Framing;
use crate::http::h1::wire::Wire;

/// What the request's body and the connection's loop share. Borrowed for the length of a poll, never across one.
pub(super) struct Connection {
    pub(super) wire: RefCell<Wire>,
    pub(super) body: RefCell<Reading>,
}

/// The body of the request under way.
pub(super) struct Reading {
    pub(super) decoder: Decoder,
    pub(super) taken: u64,
    /// Somebody asked for data and there was none.
    pub(super) waiter: Option<Waker>,
    pub(super) failed: Option<Reason>,
    told: bool,
}

impl Connection {
    pub(super) fn new(wire: Wire) -> Self {
        let body = Reading { decoder: Decoder::new(Framing::None), taken: 0, waiter: None, failed: None, told: false };
        Self { wire: RefCell::new(wire), body: RefCell::new(body) }
    }

    pub(super) fn begin_body(&self, framing: Framing) {
        let mut body = self.body.borrow_mut();
        *body = Reading { decoder: Decoder::new(framing), taken: 0, waiter: None, failed: None, told: false };
    }

    pub(super) fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        let (mut body, mut wire) = (self.body.borrow_mut(), self.wire.borrow_mut());
        loop {
            if let Some(reason) = body.failed {
                return Poll::Ready((!std::mem::replace(&mut body.told, true)).then_some(Err(reason)));
            }
            match body.decoder.decode(&mut wire.read) {
                Ok(Step::Data(data)) => {
                    body.taken += data.len() as u64;
                    body.waiter = None;
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(_) => {
                    body.failed = Some(Reason::BadFraming);
                    continue;
                }
            }
            match wire.poll_fill_body(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => body.failed = Some(Reason::ClientGone),
                Poll::Pending => {
                    if !body.waiter.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                        body.waiter = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

/// A request's body, read from the connection's own buffer.
pub struct Incoming<'c>(pub(super) &'c Connection);

impl Incoming<'_> {
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        self.0.poll_data(cx)
    }

    pub fn trailers(&mut self) -> Option<Headers> {
        self.0.body.borrow_mut().decoder.trailers()
    }

    pub fn length(&self) -> Option<u64> {
        self.0.body.borrow().decoder.length()
    }
}
