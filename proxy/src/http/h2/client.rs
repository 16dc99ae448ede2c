//! The client's end of an HTTP/2 connection: a handle that many requests share, driven by a local task. It must never
//! send a request without a slot, nor call a request unprocessed that the peer may have seen.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use ::h2::SendStream;
use ::h2::client::Connection;
use ::h2::client::ResponseFuture;
use ::h2::client::SendRequest;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::error::Reason;
use crate::http::Interim;
use crate::http::SendError;
use crate::http::body::Body;
use crate::http::h2::Ledger;
use crate::http::h2::Settings;
use crate::http::h2::convert;
use crate::http::h2::incoming::Arrival;
use crate::http::h2::incoming::From;
use crate::http::h2::incoming::Incoming;
use crate::http::h2::keep_alive::Pings;
use crate::http::h2::outgoing::Cut;
use crate::http::h2::outgoing::Gathered;
use crate::http::h2::slot::Link;
use crate::http::h2::slot::Slot;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::hop_io::HopIo;
use crate::timer::Timers;

/// A connection, as everybody has it who sends on it. When the last handle and the last stream are gone it says GOAWAY
/// and closes.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    send: RefCell<SendRequest<Bytes>>,
    state: Rc<Link>,
    ledger: Ledger,
    most: usize,
}

/// The connection takes no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl Client {
    /// Says the preface and spawns the driver, a local task. Nothing is waited for: the first requests ride along.
    pub async fn connect<T>(io: T, settings: &Settings, timers: &Timers) -> Result<Self, ::h2::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let io = HopIo::new(io);
        let refusal = io.refusal();
        let (send, mut connection) = ::h2::client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(settings.streams.min(100) as usize)
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window())
            .max_header_list_size(settings.header_list)
            .max_frame_size(super::FRAME as u32)
            .max_send_buffer_size(settings.send_buffer)
            .max_local_error_reset_streams(Some(settings.local_resets))
            .handshake::<_, Bytes>(io)
            .await?;
        let pings = Pings::new(connection.ping_pong(), settings.keep_alive, timers);
        let state = Rc::new(Link { refusal, ..Link::default() });
        tokio::task::spawn_local(drive(connection, pings, Rc::clone(&state)));
        let (ledger, most) = (settings.ledger.clone(), settings.streams as usize);
        Ok(Self(Rc::new(Shared { send: RefCell::new(send), state, ledger, most })))
    }

    /// A place for one request, if there is one now.
    pub fn try_slot(&self) -> Option<Slot> {
        if !self.has_room() {
            return None;
        }
        Some(Slot::take(&self.0.state))
    }

    pub fn has_room(&self) -> bool {
        !self.is_closed() && self.in_flight() < self.capacity()
    }

    /// A place for one request, when there is one.
    pub async fn ready(&self) -> Result<Slot, Closed> {
        loop {
            let freed = self.0.state.freed.notified();
            if let Some(slot) = self.try_slot() {
                return Ok(slot);
            }
            if self.is_closed() {
                // Whoever waits behind us must learn it too.
                self.0.state.freed.notify_one();
                return Err(Closed);
            }
            freed.await;
        }
    }

    /// Streams that may be open: ours and the peer's limit.
    pub fn capacity(&self) -> usize {
        self.0.most.min(self.0.send.borrow().current_max_send_streams())
    }

    pub fn in_flight(&self) -> usize {
        self.0.state.in_flight.get()
    }

    /// Whether a large transfer is on it; small requests are better off elsewhere.
    pub fn is_bulk(&self) -> bool {
        self.0.state.bulk.get() > 0
    }

    /// Whether it takes no more requests: closed by us, ended, or told to go away.
    pub fn is_closed(&self) -> bool {
        if self.0.state.closed.get() {
            return true;
        }
        let gone =
            matches!(self.0.send.borrow_mut().poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)));
        if gone {
            self.0.state.closed.set(true);
        }
        gone
    }

    /// No new requests. What is in flight ends in its own time, then the connection closes.
    pub fn close(&self) {
        self.0.state.close();
    }

    /// Sends one request and waits for the head of its answer. Interim answers go to `interim` as they come; the answer's
    /// body carries on with what is left of the request's.
    pub async fn exchange<'c>(
        &self,
        slot: Slot,
        head: &RequestHead,
        body: Body<'c>,
        interim: &Interim,
    ) -> Result<(ResponseHead, Body<'c>), SendError<'c>> {
        let Some(request) = convert::request(head).filter(|_| head.method != "CONNECT") else {
            return Err(unsent(Reason::BadFraming, "not to be said in HTTP/2".to_owned(), body));
        };
        let empty = body.length() == Some(0) && !body.may_have_trailers();
        let mut send = self.0.send.borrow().clone();
        // Ready already, but for a GOAWAY: the slot stands for a stream.
        let sent = match poll_fn(|cx| send.poll_ready(cx)).await {
            Ok(()) => send.send_request(request, empty),
            Err(error) => Err(error),
        };
        let (response, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                let reason = slot.link.refusal.get().unwrap_or(Reason::ResetBeforeResponse);
                return Err(unsent(reason, error.to_string(), body));
            }
        };
        drop(send);
        let gathered = Gathered::keeping(convert::content_length(&head.headers));
        let upload = (!empty).then(|| Box::new(Upload { body, gathered, send: stream }));
        let exchange = Exchange { response, upload, slot, ledger: self.0.ledger.clone() };
        exchange.run(head.method == "HEAD", interim).await
    }
}

/// A request that is out and not answered.
struct Exchange<'c> {
    response: ResponseFuture,
    upload: Option<Box<Upload<'c>>>,
    slot: Slot,
    ledger: Ledger,
}

impl<'c> Exchange<'c> {
    async fn run(mut self, is_head: bool, interim: &Interim) -> Result<(ResponseHead, Body<'c>), SendError<'c>> {
        let mut answered = false;
        let mut cut = None;
        let mut finished = None;
        let result = poll_fn(|cx| {
            if let Some(upload) = &mut self.upload
                && let Poll::Ready(result) = upload.poll(&mut self.slot, cx)
            {
                finished = self.upload.take();
                if let Err(reason) = result {
                    cut = Some(reason);
                    return Poll::Ready(None);
                }
            }
            while let Poll::Ready(Some(Ok(head))) = self.response.poll_informational(cx) {
                answered = true;
                interim.push(convert::response_head(&head));
            }
            Pin::new(&mut self.response).poll(cx).map(Some)
        })
        .await;
        let response = match result {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                let refusal = self.slot.link.refusal.get();
                return Err(failed(&error, answered, self.upload.or(finished), refusal));
            }
            None => {
                let reason = cut.unwrap_or(Reason::ClientGone);
                let detail = "the request was cut".to_owned();
                return Err(SendError { reason, detail, never_processed: false, written: true, answered, body: None });
            }
        };
        let head = convert::response_head(&response);
        let recv = response.into_body();
        if recv.is_end_stream() {
            return Ok((head, Body::Empty));
        }
        let bodiless = is_head || matches!(head.status, 204 | 304);
        let length = if bodiless { None } else { convert::content_length(&head.headers) };
        let arrival = Arrival::new(recv, From::Upstream, length, self.ledger);
        if let Some(upload) = &mut self.upload {
            upload.gathered.keep_no_more();
        }
        Ok((head, Body::H2(Incoming::answer(arrival, self.upload, self.slot))))
    }
}

fn unsent(reason: Reason, detail: String, body: Body<'_>) -> SendError<'_> {
    SendError { reason, detail, never_processed: true, written: false, answered: false, body: Some(body) }
}

/// What an error says about a request that went out. The h2 crate tells only streams above a GOAWAY's last id of it. Who
/// refuses our certificate has read nothing of it.
fn failed<'c>(
    error: &::h2::Error,
    answered: bool,
    upload: Option<Box<Upload<'c>>>,
    refusal: Option<Reason>,
) -> SendError<'c> {
    let refused = error.is_reset() && error.reason() == Some(::h2::Reason::REFUSED_STREAM);
    let never_processed = error.is_remote() && (refused || error.is_go_away()) || refusal.is_some();
    let own = if error.is_library() { Reason::ProtocolError } else { Reason::ResetBeforeResponse };
    let reason = refusal.unwrap_or(own);
    let body = match upload {
        None => Some(Body::Empty),
        Some(upload) => upload.gathered.before(upload.body),
    };
    SendError { reason, detail: error.to_string(), never_processed, written: true, answered, body }
}

/// A request's body on its way.
pub(super) struct Upload<'c> {
    body: Body<'c>,
    gathered: Gathered,
    send: SendStream<Bytes>,
}

impl Upload<'_> {
    /// A peer that needs no more is no error: the answer tells.
    pub(super) fn poll(&mut self, slot: &mut Slot, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let before = self.gathered.taken;
        let polled = self.gathered.poll_send(&mut self.body, &mut self.send, cx);
        slot.moved((self.gathered.taken - before) as usize);
        polled.map(|result| match result {
            Err(Cut::Source(reason)) => Err(reason),
            Err(Cut::Peer { .. }) | Ok(()) => Ok(()),
        })
    }
}

/// The connection's own task: ends when the connection does, or when the peer answers no ping.
async fn drive<T>(mut connection: Connection<HopIo<T>>, mut pings: Option<Pings>, link: Rc<Link>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut most = 0;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
            return Poll::Ready(());
        }
        // The peer's SETTINGS may have made room.
        let now = connection.max_concurrent_send_streams();
        if now > most {
            most = now;
            link.freed.notify_one();
        }
        match &mut pings {
            Some(pings) => pings.poll_gone(cx),
            None => Poll::Pending,
        }
    })
    .await;
    link.close();
}
