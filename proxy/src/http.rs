//! What the two stories and the two codecs say to each other: heads, bodies, one exchange. It must never name a library's
//! request or response type, so that HTTP/1 and HTTP/2 look alike to whoever forwards them.

pub mod body;
pub mod copy;
pub mod decimal;
pub mod h1;
pub mod h2;
pub mod head;

use std::cell::RefCell;
use std::future::Future;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use crate::error::Reason;
use crate::http::body::Body;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::net::Io;

/// One request as a server connection hands it to a story. `'c` is the connection: an HTTP/1 body is read from it.
pub struct Request<'c> {
    pub head: RequestHead,
    pub body: Body<'c>,
    /// Where interim answers (1xx but 101) go; the server connection writes them at once, in order.
    pub interim: &'c Interim,
}

/// A story's answer. The server connection sends head and body, then tells `log` how it ended.
pub struct Response<'c, L> {
    pub head: ResponseHead,
    pub body: Body<'c>,
    /// After a 101 or a 2xx to CONNECT: the upstream's half of the tunnel, with bytes already read from it.
    pub tunnel: Option<Box<Tunnel>>,
    pub log: L,
}

pub struct Tunnel {
    pub io: Io,
    pub read: bytes::BytesMut,
    /// Kept until the tunnel ends: the connection's permit.
    pub guard: Option<Box<dyn std::any::Any>>,
    /// Nothing moved either way for this long: it is over. The story sets it; `None`: no limit.
    pub idle: Option<Duration>,
}

/// Interim responses on their way to the client: pushed by the upstream codec, drained by the server connection.
#[derive(Default)]
pub struct Interim(RefCell<Vec<ResponseHead>>);

impl Interim {
    pub fn push(&self, head: ResponseHead) {
        self.0.borrow_mut().push(head);
    }

    pub fn take(&self) -> Vec<ResponseHead> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

/// Why an exchange with an upstream gave no answer, and what is known about the request's fate.
pub struct SendError<'c> {
    pub reason: Reason,
    /// For people: what the peer or the kernel said.
    pub detail: String,
    /// Proven never to have been processed: nothing was written, or the peer said so (REFUSED_STREAM, GOAWAY below it, a
    /// certificate that it refused).
    pub never_processed: bool,
    /// Whether a byte of the request may have left.
    pub written: bool,
    /// Whether a byte of an answer came.
    pub answered: bool,
    /// The request's body, if it can be sent again from its first byte.
    pub body: Option<Body<'c>>,
}

/// How an exchange ended, as the server connection saw it.
#[derive(Debug, Clone, Copy, Default)]
pub struct End {
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// `None`: complete. Otherwise why the body did not arrive whole.
    pub cut: Option<Reason>,
    /// From the trailers, or the head of a trailers-only answer.
    pub grpc_status: Option<u16>,
}

/// Receives the end of one exchange; dropped without `ended` means that the client went away.
pub trait ResponseLog {
    /// Whether the exchange may not go on; asked whenever it waits.
    fn poll_cut(&mut self, _: &mut Context<'_>) -> Poll<Reason> {
        Poll::Pending
    }

    fn ended(self, end: End);
}

/// What a server connection serves: the inbound or the outbound story.
pub trait Service {
    type Log: ResponseLog;

    fn call<'c>(&'c self, request: Request<'c>) -> impl Future<Output = Response<'c, Self::Log>>;

    /// The codec refused what arrived before there was a request (bad framing, too large, too slow): status and reason are
    /// the codec's; the story only logs and may add `leno-reason`.
    fn refused(&self, reason: Reason) -> ResponseHead;
}
