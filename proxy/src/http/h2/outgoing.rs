//! A body on its way out over HTTP/2: never more than the peer and the connection have room for, small messages put
//! together, and never a clean end under a body that was cut or that broke its Content-Length.

use std::task::Context;
use std::task::Poll;
use std::task::ready;

use ::h2::SendStream;
use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::body::Body;
use crate::http::body::Kept;
use crate::http::h2::FRAME;
use crate::http::h2::SMALL;
use crate::http::h2::convert;

/// What was taken from a body and not yet given to the stream.
pub(in crate::http) struct Gathered {
    big: Bytes,
    /// After `big`: messages put together.
    small: BytesMut,
    ended: bool,
    trailers: Option<Headers>,
    /// From the trailers.
    pub(in crate::http) grpc_status: Option<u16>,
    /// What the head promised.
    declared: Option<u64>,
    /// Waits for the peer to make room.
    blocked: bool,
    sent: u64,
    pub(in crate::http) taken: u64,
    /// What was taken, as long as the request may have to be sent again.
    kept: Option<Kept>,
}

/// Why a body did not go out whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Cut {
    /// Its source ended badly.
    Source(Reason),
    /// The peer reset the stream or the connection ended; without an error if it merely needs no more.
    Peer { wanted: bool },
}

impl Gathered {
    pub(in crate::http) fn new(declared: Option<u64>) -> Self {
        Self {
            big: Bytes::new(),
            small: BytesMut::new(),
            ended: false,
            trailers: None,
            grpc_status: None,
            declared,
            blocked: false,
            sent: 0,
            taken: 0,
            kept: None,
        }
    }

    /// Of a request, which may have to be sent again: what is small stays here until it is answered.
    pub(in crate::http) fn keeping(declared: Option<u64>) -> Self {
        Self { kept: Some(Kept::default()), ..Self::new(declared) }
    }

    /// The answer is here: nothing is sent again.
    pub(in crate::http) fn keep_no_more(&mut self) {
        self.kept = None;
    }

    /// The whole body once more, if all that was taken from it is still here.
    pub(in crate::http) fn before(self, rest: Body<'_>) -> Option<Body<'_>> {
        self.kept?.before(rest)
    }

    fn len(&self) -> usize {
        self.big.len() + self.small.len()
    }

    pub(in crate::http) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(in crate::http) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The trailers, once they are all that is left.
    pub(in crate::http) fn last_trailers(&mut self) -> Option<Headers> {
        if self.ended && self.is_empty() { self.trailers.take() } else { None }
    }

    /// Whether the body had nothing at all.
    pub(in crate::http) fn is_nothing(&self) -> bool {
        self.ended && self.is_empty() && self.trailers.is_none()
    }

    /// While it is the peer that is waited for: how much it has had room for so far.
    pub(in crate::http) fn blocked(&self) -> Option<u64> {
        self.blocked.then_some(self.sent)
    }

    /// Takes what is ready, a frame's worth at most.
    pub(in crate::http) fn gather(&mut self, body: &mut Body<'_>, cx: &mut Context<'_>) -> Result<(), Reason> {
        while !self.ended && self.len() < FRAME {
            match body.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(bytes))) => {
                    self.taken += bytes.len() as u64;
                    if self.declared.is_some_and(|declared| self.taken > declared) {
                        return Err(Reason::BadFraming);
                    }
                    if let Some(kept) = &mut self.kept {
                        kept.push(&bytes);
                    }
                    if self.is_empty() && bytes.len() >= SMALL {
                        self.big = bytes;
                    } else {
                        self.small.extend_from_slice(&bytes);
                    }
                }
                Poll::Ready(Some(Err(reason))) => return Err(reason),
                Poll::Ready(None) => {
                    self.ended = true;
                    self.trailers = body.trailers();
                    if let (Some(kept), Some(_)) = (&mut self.kept, &self.trailers) {
                        // They are taken, and cannot be sent again.
                        kept.give_up();
                    }
                    self.grpc_status = self.trailers.as_ref().and_then(convert::grpc_status);
                    if self.declared.is_some_and(|declared| self.taken != declared) {
                        return Err(Reason::BadFraming);
                    }
                }
            }
        }
        Ok(())
    }

    pub(in crate::http) fn take(&mut self, most: usize) -> Bytes {
        if self.big.is_empty() {
            let n = most.min(self.small.len());
            self.small.split_to(n).freeze()
        } else {
            let n = most.min(self.big.len());
            self.big.split_to(n)
        }
    }

    /// Sends until the body has ended. Resets the stream if the source was cut.
    pub(in crate::http) fn poll_send(
        &mut self,
        body: &mut Body<'_>,
        send: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Cut>> {
        loop {
            if let Err(reason) = self.gather(body, cx) {
                send.send_reset(reset_for(reason));
                return Poll::Ready(Err(Cut::Source(reason)));
            }
            if self.is_empty() {
                if self.ended {
                    return Poll::Ready(self.finish(send));
                }
                body.poll_idle(cx);
                return poll_gone(send, cx);
            }
            send.reserve_capacity(self.len());
            let mut room = send.capacity();
            if room == 0 {
                room = match send.poll_capacity(cx) {
                    Poll::Pending => {
                        self.blocked = true;
                        body.poll_idle(cx);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Ok(room))) => room,
                    Poll::Ready(Some(Err(_)) | None) => return poll_gone(send, cx),
                };
            }
            if room == 0 {
                continue;
            }
            self.blocked = false;
            let data = self.take(room);
            self.sent += data.len() as u64;
            let last = self.ended && self.is_empty() && self.trailers.is_none();
            if send.send_data(data, last).is_err() {
                return Poll::Ready(Err(Cut::Peer { wanted: true }));
            }
            if last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn finish(&mut self, send: &mut SendStream<Bytes>) -> Result<(), Cut> {
        let sent = match self.trailers.take() {
            Some(trailers) => send.send_trailers(convert::trailers(&trailers)),
            None => send.send_data(Bytes::new(), true),
        };
        sent.map_err(|_| Cut::Peer { wanted: true })
    }
}

/// How the peer ended the stream, once it has.
fn poll_gone(send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
    let wanted = match ready!(send.poll_reset(cx)) {
        Ok(reason) => reason != ::h2::Reason::NO_ERROR,
        Err(_) => true,
    };
    Poll::Ready(Err(Cut::Peer { wanted }))
}

/// What the peer is told of a body that was cut: never an end.
pub(in crate::http) fn reset_for(reason: Reason) -> ::h2::Reason {
    match reason {
        Reason::ClientGone => ::h2::Reason::CANCEL,
        Reason::BadFraming | Reason::ProtocolError => ::h2::Reason::PROTOCOL_ERROR,
        Reason::H2Abuse => ::h2::Reason::ENHANCE_YOUR_CALM,
        _ => ::h2::Reason::INTERNAL_ERROR,
    }
}
