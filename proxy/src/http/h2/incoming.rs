//! A body that arrives over HTTP/2. Frames are taken from the h2 crate as they come, since it counts unread ones against
//! the connection, but the peer gets credit only as bytes are handed on. It must never take a cut body for a whole one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use ::h2::RecvStream;
use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::h2::Ledger;
use crate::http::h2::SMALL;
use crate::http::h2::client::Upload;
use crate::http::h2::convert;
use crate::http::h2::slot::Slot;

/// The body as its reader has it.
pub struct Incoming<'c> {
    shared: Rc<RefCell<Arrival>>,
    /// Of an answer: the request's unsent rest, which goes on while the answer is read.
    upload: Option<Box<Upload<'c>>>,
    /// Of an answer: its place among the connection's streams.
    slot: Option<Slot>,
}

/// Who sends the body; it decides what a cut is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Client,
    Upstream,
}

/// One stream's receiving half, shared by the reader and by the task that keeps it drained while the reader is busy.
pub(super) struct Arrival {
    /// `None`: the reader went away; the stream is cancelled as soon as nobody answers on it.
    recv: Option<RecvStream>,
    from: From,
    ahead: VecDeque<Bytes>,
    /// The last of what is ahead: small frames put together.
    tail: BytesMut,
    /// Bytes in `ahead` and `tail`, as the ledger has them.
    held: usize,
    /// Bytes handed on for which the peer has no credit yet.
    owed: usize,
    end: End,
    length: Option<u64>,
    received: u64,
    /// The reader asked for more and there was none.
    starved: bool,
    ledger: Ledger,
}

enum End {
    NotYet,
    Trailers,
    Whole(Option<Headers>),
    Cut(Reason),
    Told,
}

impl Arrival {
    pub(super) fn new(recv: RecvStream, from: From, length: Option<u64>, ledger: Ledger) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            recv: Some(recv),
            from,
            ahead: VecDeque::new(),
            tail: BytesMut::new(),
            held: 0,
            owed: 0,
            end: End::NotYet,
            length,
            received: 0,
            starved: false,
            ledger,
        }))
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// While the reader waits for the peer: how much it has had so far.
    pub(super) fn starved(&self) -> Option<u64> {
        (self.starved && self.held == 0 && matches!(self.end, End::NotYet)).then_some(self.received)
    }

    pub(super) fn has_length(&self) -> bool {
        self.length.is_some()
    }

    /// No more of it is taken; its reader learns why.
    pub(super) fn cut(&mut self, reason: Reason) {
        self.abandon();
        self.end = End::Cut(reason);
    }

    /// Takes every frame that has come.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(bytes)) = self.poll_frame(cx) {
            self.held += bytes.len();
            self.ledger.add(bytes.len());
            if bytes.len() < SMALL {
                self.tail.extend_from_slice(&bytes);
                continue;
            }
            if !self.tail.is_empty() {
                self.ahead.push_back(self.tail.split().freeze());
            }
            self.ahead.push_back(bytes);
        }
    }

    /// The next frame's bytes from the stream; `None` when there will be no more, and then `end` says how it ended.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(None) };
        while let End::NotYet = self.end {
            match recv.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.end = End::Trailers,
                Poll::Ready(Some(Err(error))) => self.end = cut(&error, self.from, self.length, self.received),
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(bytes))) => {
                    self.received += bytes.len() as u64;
                    return Poll::Ready(Some(bytes));
                }
            }
        }
        if let End::Trailers = self.end {
            match recv.poll_trailers(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(trailers)) => self.end = End::Whole(trailers.as_ref().map(convert::own_trailers)),
                Poll::Ready(Err(error)) => self.end = cut(&error, self.from, self.length, self.received),
            }
        }
        Poll::Ready(None)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        let waited = match self.ahead.pop_front() {
            None if !self.tail.is_empty() => Some(self.tail.split().freeze()),
            waited => waited,
        };
        self.starved = false;
        if let Some(bytes) = waited {
            self.held -= bytes.len();
            self.ledger.sub(bytes.len());
            self.credit(bytes.len());
            return Poll::Ready(Some(Ok(bytes)));
        }
        match self.poll_frame(cx) {
            Poll::Pending => {
                self.starved = true;
                Poll::Pending
            }
            Poll::Ready(Some(bytes)) => {
                self.credit(bytes.len());
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(None) => match self.end {
                End::Cut(reason) => {
                    self.end = End::Told;
                    Poll::Ready(Some(Err(reason)))
                }
                _ => Poll::Ready(None),
            },
        }
    }

    /// Lets the peer send as much again, unless the proxy holds too much and this stream is part of the reason.
    fn credit(&mut self, bytes: usize) {
        self.owed += bytes;
        if self.held > 0 && self.ledger.is_full() {
            return;
        }
        if let Some(recv) = &mut self.recv {
            // Fails only for more than was received.
            let _ = recv.flow_control().release_capacity(self.owed);
        }
        self.owed = 0;
    }

    fn abandon(&mut self) {
        self.recv = None;
        self.ahead.clear();
        self.tail.clear();
        self.ledger.sub(std::mem::take(&mut self.held));
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.ledger.sub(self.held);
    }
}

/// What an error of the stream says about the body. A reset without an error follows a whole answer (RFC 9113 section 8.1).
fn cut(error: &::h2::Error, from: From, length: Option<u64>, received: u64) -> End {
    let whole = length.is_none_or(|length| length == received);
    if error.is_reset() && error.is_remote() && error.reason() == Some(::h2::Reason::NO_ERROR) && whole {
        return End::Whole(None);
    }
    End::Cut(match from {
        From::Client if error.is_library() => Reason::BadFraming,
        From::Client => Reason::ClientGone,
        From::Upstream if error.is_library() => Reason::ProtocolError,
        From::Upstream => Reason::AppReset,
    })
}

impl<'c> Incoming<'c> {
    pub(super) fn request(shared: Rc<RefCell<Arrival>>) -> Self {
        Self { shared, upload: None, slot: None }
    }

    pub(super) fn answer(shared: Rc<RefCell<Arrival>>, upload: Option<Box<Upload<'c>>>, slot: Slot) -> Self {
        Self { shared, upload, slot: Some(slot) }
    }

    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        if let Err(reason) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(reason)));
        }
        let polled = self.shared.borrow_mut().poll_data(cx);
        if let (Poll::Ready(Some(Ok(bytes))), Some(slot)) = (&polled, &mut self.slot) {
            slot.moved(bytes.len());
        }
        polled
    }

    pub fn trailers(&mut self) -> Option<Headers> {
        match &mut self.shared.borrow_mut().end {
            End::Whole(trailers) => trailers.take(),
            _ => None,
        }
    }

    pub fn poll_idle(&mut self, cx: &mut Context<'_>) {
        // An error of the upload ends the body when it is read next.
        if let Err(reason) = self.poll_upload(cx) {
            return self.shared.borrow_mut().cut(reason);
        }
        self.shared.borrow_mut().drain(cx);
    }

    pub fn length(&self) -> Option<u64> {
        let arrival = self.shared.borrow();
        match arrival.end {
            End::Whole(_) if arrival.held == 0 => Some(0),
            _ => arrival.length.map(|length| (length + arrival.held as u64).saturating_sub(arrival.received)),
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Reason> {
        let (Some(upload), Some(slot)) = (&mut self.upload, &mut self.slot) else { return Ok(()) };
        match upload.poll(slot, cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(result) => {
                self.upload = None;
                result
            }
        }
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.shared.borrow_mut().abandon();
    }
}
