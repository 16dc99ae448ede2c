//! The server's end of an HTTP/2 connection: every stream a local task that calls the service. It must never give a
//! request to the service that HTTP/1 could read differently, nor let resets make work faster than they end it.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use ::h2::RecvStream;
use ::h2::server::Connection;
use ::h2::server::SendResponse;
use ::http::Request as H2Request;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::error::Reason;
use crate::http::End;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::ResponseLog;
use crate::http::Service;
use crate::http::body::Body;
use crate::http::h2::Settings;
use crate::http::h2::convert;
use crate::http::h2::incoming::Arrival;
use crate::http::h2::incoming::From;
use crate::http::h2::incoming::Incoming;
use crate::http::h2::keep_alive::Pings;
use crate::http::h2::outgoing::Cut;
use crate::http::h2::outgoing::Gathered;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::hop_io::HopIo;
use crate::timer::Sleep;
use crate::timer::Timers;

/// Serves one connection until it ends. When `drain` is ready the peer is told to go elsewhere, and the connection ends
/// with its last stream. Dropping the future resets every stream.
pub async fn serve<T, S>(
    io: T,
    settings: &Settings,
    service: Rc<S>,
    timers: &Timers,
    drain: impl Future<Output = ()>,
) -> Result<(), Reason>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service + 'static,
{
    let handshake = ::h2::server::Builder::new()
        .max_concurrent_streams(settings.streams)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window())
        .max_header_list_size(settings.header_list)
        .max_frame_size(super::FRAME as u32)
        .max_send_buffer_size(settings.send_buffer)
        .max_local_error_reset_streams(Some(settings.local_resets))
        .handshake::<_, Bytes>(HopIo::new(io));
    let connection = match timers.timeout(settings.handshake, handshake).await {
        Some(handshake) => handshake.map_err(|error| ended(&error))?,
        None => return Err(Reason::HeaderTimeout),
    };
    Serving::new(connection, settings, service, timers).run(drain).await
}

struct Serving<T: AsyncRead + AsyncWrite + Unpin, S> {
    connection: Connection<HopIo<T>, Bytes>,
    service: Rc<S>,
    settings: Rc<Settings>,
    pings: Option<Pings>,
    timers: Timers,
    streams: Rc<Streams>,
    /// Runs while there are no streams.
    idle: Option<Sleep>,
    /// The peer was asked to go.
    draining: bool,
    /// The peer was told off.
    abused: bool,
}

/// What the stream tasks tell the connection.
struct Streams {
    open: Cell<usize>,
    /// Early resets that are still allowed, and when that was so.
    resets_left: Cell<f64>,
    counted_at: Cell<Instant>,
    connection: RefCell<Option<Waker>>,
}

impl<T, S> Serving<T, S>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service + 'static,
{
    fn new(mut connection: Connection<HopIo<T>, Bytes>, settings: &Settings, service: Rc<S>, timers: &Timers) -> Self {
        let pings = Pings::new(connection.ping_pong(), settings.keep_alive, timers);
        let streams = Streams {
            open: Cell::new(0),
            resets_left: Cell::new(f64::from(settings.early_resets)),
            counted_at: Cell::new(Instant::now()),
            connection: RefCell::new(None),
        };
        Self {
            connection,
            service,
            settings: Rc::new(settings.clone()),
            pings,
            timers: timers.clone(),
            streams: Rc::new(streams),
            idle: None,
            draining: false,
            abused: false,
        }
    }

    async fn run(mut self, drain: impl Future<Output = ()>) -> Result<(), Reason> {
        let mut drain = pin!(drain);
        poll_fn(|cx| {
            if !self.draining && drain.as_mut().poll(cx).is_ready() {
                self.draining = true;
                self.connection.graceful_shutdown();
            }
            self.poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        self.streams.connection.borrow_mut().get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
        if self.streams.resets_left.get() < 0.0 && !self.abused {
            self.abused = true;
            self.connection.abrupt_shutdown(::h2::Reason::ENHANCE_YOUR_CALM);
        }
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                // Asked to go, a peer without streams may just hang up.
                Poll::Ready(Some(Err(error))) if error.is_io() && self.draining && self.streams.open.get() == 0 => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(ended(&error))),
                Poll::Ready(None) if self.abused => return Poll::Ready(Err(Reason::H2Abuse)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if let Some(pings) = &mut self.pings
            && pings.poll_gone(cx).is_ready()
        {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        self.poll_idle(cx);
        Poll::Pending
    }

    fn accept(&mut self, request: H2Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if self.settings.ledger.is_full() {
            // For the log alone: a reset says better than an answer that the request may go elsewhere.
            let _ = self.service.refused(Reason::OverloadMemory);
            respond.send_reset(::h2::Reason::REFUSED_STREAM);
            return;
        }
        self.streams.open.set(self.streams.open.get() + 1);
        let open = Open(Rc::clone(&self.streams));
        let (service, settings) = (Rc::clone(&self.service), Rc::clone(&self.settings));
        // Boxed: on its way into a task a future is copied nine times, and this one is large.
        tokio::task::spawn_local(Box::pin(stream(request, respond, service, settings, self.timers.clone(), open)));
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        let Some(after) = self.settings.idle else { return };
        if self.streams.open.get() > 0 {
            self.idle = None;
            return;
        }
        let idle = self.idle.get_or_insert_with(|| self.timers.sleep(after));
        if !self.draining && idle.poll_elapsed(cx).is_ready() {
            self.draining = true;
            self.connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
    }
}

/// A stream that is being served; dropped at its end.
struct Open(Rc<Streams>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.wake();
        }
    }
}

impl Streams {
    fn wake(&self) {
        if let Some(connection) = &*self.connection.borrow() {
            connection.wake_by_ref();
        }
    }

    /// The peer reset a request before it was answered. Below zero the connection ends.
    fn early_reset(&self, a_second: u32) {
        let now = Instant::now();
        let since = now.duration_since(self.counted_at.replace(now)).as_secs_f64();
        let a_second = f64::from(a_second);
        self.resets_left.set((self.resets_left.get() + since * a_second).min(a_second) - 1.0);
        if self.resets_left.get() < 0.0 {
            self.wake();
        }
    }
}

/// How the connection ended, in our words.
fn ended(error: &::h2::Error) -> Reason {
    match error.reason() {
        Some(::h2::Reason::ENHANCE_YOUR_CALM) if error.is_library() => Reason::H2Abuse,
        Some(_) if error.is_library() => Reason::BadFraming,
        _ => Reason::ClientGone,
    }
}

/// One request and its answer.
async fn stream<S: Service>(
    request: H2Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: Rc<S>,
    settings: Rc<Settings>,
    timers: Timers,
    open: Open,
) {
    let (parts, recv) = request.into_parts();
    if parts.method == ::http::Method::CONNECT && parts.uri.authority().is_some() {
        respond.send_reset(::h2::Reason::HTTP_1_1_REQUIRED);
        return;
    }
    let head = match convert::request_head(&parts, settings.fields) {
        Ok(head) => head,
        Err(reason) => return refuse(&*service, reason, respond),
    };
    drop(parts);
    let is_head = head.method == "HEAD";
    let length = convert::content_length(&head.headers);
    let mut patience = Patience::new(&head, &settings, &timers);
    let arrival = (!recv.is_end_stream()).then(|| Arrival::new(recv, From::Client, length, settings.ledger.clone()));
    let body = match &arrival {
        Some(arrival) => Body::H2(Incoming::request(Rc::clone(arrival))),
        None => Body::Empty,
    };
    let interim = Interim::default();
    let mut call = pin!(service.call(Request { head, body, interim: &interim }));
    let answer = poll_fn(|cx| {
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        let polled = call.as_mut().poll(cx);
        for head in interim.take() {
            patience.untold &= head.status != 100;
            if let Some(head) = convert::response(&head) {
                // Refused for a stream that is gone; the answer will tell.
                let _ = respond.send_informational(head);
            }
        }
        keep_drained(arrival.as_ref(), cx);
        if polled.is_pending() {
            patience.poll(arrival.as_ref(), cx);
        }
        polled.map(Some)
    })
    .await;
    let Some(Response { head, body, tunnel, mut log }) = answer else {
        open.0.early_reset(settings.early_resets);
        return;
    };
    patience.answered = true;
    let mut stall = Stall { after: settings.stall, timers: &timers, sleep: None };
    let watch = |blocked: Option<u64>, cx: &mut Context<'_>| {
        keep_drained(arrival.as_ref(), cx);
        patience.poll(arrival.as_ref(), cx);
        match stall.poll_over(blocked, cx) {
            Poll::Ready(()) => Poll::Ready(Reason::StreamIdle),
            Poll::Pending => log.poll_cut(cx),
        }
    };
    let sent = send(head, body, &mut respond, is_head, watch).await;
    if tunnel.is_some() {
        respond.send_reset(::h2::Reason::HTTP_1_1_REQUIRED);
    }
    log.ended(End { request_bytes: arrival.as_ref().map_or(0, |a| a.borrow().received()), ..sent });
}

/// How long the client has owed a body that somebody waits for.
struct Patience<'t> {
    after: Option<Duration>,
    /// The client waits for `100 Continue` and has not got it: that it sends nothing is not its fault.
    untold: bool,
    answered: bool,
    timers: &'t Timers,
    /// Runs from one piece received to the next.
    sleep: Option<(u64, Sleep)>,
}

impl<'t> Patience<'t> {
    fn new(head: &RequestHead, settings: &Settings, timers: &'t Timers) -> Self {
        // The stream of a call may be silent for hours and well. `timeouts.streamIdle` is for that.
        let is_call = head.headers.get("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"));
        let after = settings.body_idle.filter(|_| !is_call);
        Self { after, untold: head.headers.contains("expect"), answered: false, timers, sleep: None }
    }

    /// Cuts the body once it has been over.
    fn poll(&mut self, arrival: Option<&Rc<RefCell<Arrival>>>, cx: &mut Context<'_>) {
        let (Some(after), Some(arrival)) = (self.after, arrival) else { return };
        let mut arrival = arrival.borrow_mut();
        // After the answer has begun, a body without a length may be one half of a conversation.
        let owed = arrival.starved().filter(|received| !(self.untold && *received == 0));
        let Some(received) = owed.filter(|_| !self.answered || arrival.has_length()) else {
            self.sleep = None;
            return;
        };
        if self.sleep.as_ref().is_none_or(|(then, _)| *then != received) {
            self.sleep = Some((received, self.timers.sleep(after)));
        }
        if let Some((_, sleep)) = &mut self.sleep
            && sleep.poll_elapsed(cx).is_ready()
        {
            arrival.cut(Reason::BodyIdle);
            // Its reader is part of this task.
            cx.waker().wake_by_ref();
        }
    }
}

/// How long a client has left an answer standing.
pub(in crate::http) struct Stall<'t> {
    pub(in crate::http) after: Option<Duration>,
    pub(in crate::http) timers: &'t Timers,
    /// Runs from one piece taken to the next.
    pub(in crate::http) sleep: Option<(u64, Sleep)>,
}

impl Stall<'_> {
    /// `taken`: what the client has had room for so far; `None` while it is not the client that is waited for.
    pub(in crate::http) fn poll_over(&mut self, taken: Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(after), Some(taken)) = (self.after, taken) else {
            self.sleep = None;
            return Poll::Pending;
        };
        if self.sleep.as_ref().is_none_or(|(then, _)| *then != taken) {
            self.sleep = Some((taken, self.timers.sleep(after)));
        }
        match &mut self.sleep {
            Some((_, sleep)) => sleep.poll_elapsed(cx),
            None => Poll::Pending,
        }
    }
}

/// Takes the request's frames even while nobody reads them: unread, they count against the whole connection.
fn keep_drained(arrival: Option<&Rc<RefCell<Arrival>>>, cx: &mut Context<'_>) {
    if let Some(arrival) = arrival {
        arrival.borrow_mut().drain(cx);
    }
}

/// What is no request: too large a one gets an answer, a malformed one a stream error (RFC 9113 section 8.1.1).
fn refuse<S: Service>(service: &S, reason: Reason, mut respond: SendResponse<Bytes>) {
    let answer = convert::response(&service.refused(reason)).filter(|_| reason == Reason::HeadersTooLarge);
    if answer.is_none_or(|answer| respond.send_response(answer, true).is_err()) {
        respond.send_reset(::h2::Reason::PROTOCOL_ERROR);
    }
}

/// Sends an answer to its end, or resets the stream. `watch` looks after the request's body while the answer's waits, and
/// says why the answer may not go on, such as that the client, which had room for `blocked` so far, has left it standing.
async fn send(
    head: ResponseHead,
    mut body: Body<'_>,
    respond: &mut SendResponse<Bytes>,
    is_head: bool,
    mut watch: impl FnMut(Option<u64>, &mut Context<'_>) -> Poll<Reason>,
) -> End {
    let mut end = End { grpc_status: convert::grpc_status(&head.headers), ..End::default() };
    let bodiless = is_head || matches!(head.status, 204 | 304);
    let declared = if bodiless { None } else { convert::content_length(&head.headers) };
    let Some(response) = convert::response(&head).filter(|response| !response.status().is_informational()) else {
        respond.send_reset(::h2::Reason::INTERNAL_ERROR);
        return End { cut: Some(Reason::ProtocolError), ..end };
    };
    let mut gathered = Gathered::new(declared);
    let gathering = poll_fn(|cx| Poll::Ready(gathered.gather(&mut body, cx))).await;
    if let Err(reason) = gathering {
        respond.send_reset(super::outgoing::reset_for(reason));
        return End { cut: Some(reason), ..end };
    }
    let nothing = bodiless || gathered.is_nothing();
    let Ok(mut send) = respond.send_response(response, nothing) else {
        return End { cut: Some(Reason::ClientGone), ..end };
    };
    if nothing {
        return end;
    }
    let sent = poll_fn(|cx| {
        let polled = gathered.poll_send(&mut body, &mut send, cx);
        if polled.is_pending()
            && let Poll::Ready(reason) = watch(gathered.blocked(), cx)
        {
            send.send_reset(::h2::Reason::CANCEL);
            return Poll::Ready(Err(Cut::Source(reason)));
        }
        polled
    })
    .await;
    end.response_bytes = gathered.taken;
    end.grpc_status = gathered.grpc_status.or(end.grpc_status);
    end.cut = match sent {
        Ok(()) | Err(Cut::Peer { wanted: false }) => None,
        Err(Cut::Source(reason)) => Some(reason),
        Err(Cut::Peer { wanted: true }) => Some(Reason::ClientGone),
    };
    end
}
