//! The server's end of an HTTP/2 connection: every stream a local task that calls the service. It must never give a request to the service
//! that HTTP/1 could read differently, nor let resets make work faster than they end it.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::error::Reason;
use crate::http::End;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::ResponseLog;
use crate::http::Service;
use crate::http::body::Body;
use crate::http::h2::Settings;
use crate::http::h2::batch::BatchIo;
use crate::http::h2::connection::Connection;
use crate::http::h2::frame::Code;
use crate::http::h2::gathered::Cut;
use crate::http::h2::gathered::Gathered;
use crate::http::h2::handle::Handle;
use crate::http::h2::head;
use crate::http::h2::incoming::Incoming;
use crate::http::h2::outgoing;
use crate::http::h2::state::Accepted;
use crate::http::h2::state::Ended;
use crate::http::h2::state::State;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
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
    let io = BatchIo::new(io);
    let core = Rc::new(State::new(true, settings, io.writer()).into());
    let mut connection = Connection::new(io, core, timers);
    let preface = poll_fn(|cx| connection.poll_preface(cx));
    if timers.timeout(settings.handshake, preface).await.is_none() {
        return Err(Reason::HeaderTimeout);
    }
    let settings = Rc::new(settings.clone());
    Serving { connection, service, settings, timers: timers.clone(), idle: None }.run(drain).await
}

struct Serving<T: AsyncRead + AsyncWrite + Unpin, S> {
    connection: Connection<T>,
    service: Rc<S>,
    settings: Rc<Settings>,
    timers: Timers,
    /// Rings when the connection may have been without streams for long enough.
    idle: Option<Sleep>,
}

impl<T, S> Serving<T, S>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service + 'static,
{
    async fn run(mut self, drain: impl Future<Output = ()>) -> Result<(), Reason> {
        let mut drain = pin!(drain);
        let mut asked = false;
        let ended = poll_fn(|cx| {
            if !asked && drain.as_mut().poll(cx).is_ready() {
                asked = true;
                self.connection.core.borrow_mut().ask_to_go();
            }
            self.poll(cx)
        })
        .await;
        if ended.is_ok() {
            poll_fn(|cx| self.connection.poll_shutdown(cx)).await;
            self.connection.core.borrow_mut().end(Ended::Closed);
            let farewell = poll_fn(|cx| self.connection.poll_farewell(cx));
            let _ = self.timers.timeout(FAREWELL, farewell).await;
        }
        ended
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let polled = self.connection.poll(cx);
        self.accept();
        let mut state = self.connection.core.borrow_mut();
        if polled.is_ready() {
            return Poll::Ready(match state.ended {
                Some(Ended::Broken(Code::ENHANCE_YOUR_CALM)) => Err(Reason::H2Abuse),
                Some(Ended::Broken(_)) => Err(Reason::BadFraming),
                // Asked to go, a peer without streams may just hang up.
                Some(Ended::Lost) if !state.asked || state.live > 0 => Err(Reason::ClientGone),
                Some(Ended::Lost | Ended::Closed) | None => Ok(()),
            });
        }
        if state.open == 0 && (state.told.is_some() || state.going) {
            if state.told.is_none() {
                let last = state.last_id;
                state.say_goaway(last, Code::NO_ERROR);
            }
            return Poll::Ready(Ok(()));
        }
        Self::poll_idle(&mut self.idle, &mut state, &self.timers, cx);
        Poll::Pending
    }

    /// Begins what has arrived.
    fn accept(&mut self) {
        let core = &self.connection.core;
        let mut accepted = std::mem::take(&mut core.borrow_mut().accepted);
        for accepted in accepted.drain(..) {
            match accepted {
                Accepted::Request(key, head) => {
                    let stream = Handle::adopt(core, key);
                    let (service, settings) = (Rc::clone(&self.service), Rc::clone(&self.settings));
                    // Boxed: on its way into a task a future is copied nine times, and this one is large.
                    let serving = Box::pin(serve_stream(head, stream, service, settings, self.timers.clone()));
                    tokio::task::spawn_local(serving);
                }
                Accepted::Refused(key, reason) => self.refuse(reason, &Handle::adopt(core, key)),
                Accepted::Connect(key) => Handle::adopt(core, key).reset(Code::HTTP_1_1_REQUIRED),
                // For the log alone: a reset says better than an answer that the request may go elsewhere.
                Accepted::Overloaded => drop(self.service.refused(Reason::OverloadMemory)),
            }
        }
        // Its memory serves the next ones.
        core.borrow_mut().accepted = accepted;
    }

    /// What is no request: too large a one gets an answer, a malformed one a stream error (RFC 9113 section 8.1.1).
    fn refuse(&self, reason: Reason, stream: &Handle) {
        let head = self.service.refused(reason);
        if reason == Reason::HeadersTooLarge && say(stream, &head, true) {
            return;
        }
        if stream.state(|state, key| state.fault(key, Code::PROTOCOL_ERROR)).is_err() {
            self.connection.core.borrow_mut().end(Ended::Broken(Code::ENHANCE_YOUR_CALM));
            self.connection.core.borrow().wake_driver();
        }
    }

    fn poll_idle(idle: &mut Option<Sleep>, state: &mut State, timers: &Timers, cx: &mut Context<'_>) {
        let Some(after) = state.settings.idle.filter(|_| !state.asked) else { return };
        let sleep = idle.get_or_insert_with(|| timers.sleep_until(state.idle_since + after));
        if sleep.poll_elapsed(cx).is_pending() {
            return;
        }
        let now = tokio::time::Instant::now();
        if state.open > 0 {
            state.idle_since = now;
        }
        if now < state.idle_since + after {
            sleep.reset(state.idle_since + after);
        } else {
            state.ask_to_go();
        }
        cx.waker().wake_by_ref();
    }
}

/// Appends an answer's head. `false`: it cannot be said, or nobody would hear it.
fn say(stream: &Handle, head: &ResponseHead, end: bool) -> bool {
    stream.state(|state, key| {
        let stream = state.stream(key);
        if stream.gone.is_some() {
            return false;
        }
        let id = stream.id;
        if !state.say_head(id, end, |encoder, _, out| head::write_response(encoder, out, head)) {
            return false;
        }
        let stream = state.stream(key);
        stream.answered |= head.status >= 200;
        stream.ended |= end;
        state.settle(key);
        true
    })
}

/// How long a peer may take to close its end. Who is in good health does so at once.
const FAREWELL: Duration = Duration::from_secs(1);

/// One request and its answer.
async fn serve_stream<S: Service>(
    head: RequestHead,
    stream: Handle,
    service: Rc<S>,
    settings: Rc<Settings>,
    timers: Timers,
) {
    let is_head = head.method == "HEAD";
    let nothing = stream.with(|stream| stream.has_nothing());
    let mut patience = Patience::new(&head, settings.body_idle.filter(|_| !nothing), &timers);
    let body = if nothing { Body::Empty } else { Body::H2(Incoming::request(stream.clone())) };
    let interim = Interim::default();
    let mut call = pin!(service.call(Request { head, body, interim: &interim }));
    let answer = poll_fn(|cx| {
        if stream.poll_gone(cx).is_ready() {
            return Poll::Ready(None);
        }
        let polled = call.as_mut().poll(cx);
        for head in interim.take() {
            patience.untold &= head.status != 100;
            // Refused for a stream that is gone; the answer will tell.
            let _ = (100..200).contains(&head.status) && say(&stream, &head, false);
        }
        if polled.is_pending() {
            patience.poll(&stream, cx);
        }
        polled.map(Some)
    })
    .await;
    let Some(Response { head, body, tunnel, mut log }) = answer else { return };
    patience.answered = true;
    let mut stall = Stall { after: settings.stall, timers: &timers, sleep: None };
    let watch = |blocked: Option<u64>, cx: &mut Context<'_>| {
        patience.poll(&stream, cx);
        match stall.poll_over(blocked, cx) {
            Poll::Ready(()) => Poll::Ready(Reason::StreamIdle),
            Poll::Pending => log.poll_cut(cx),
        }
    };
    let sent = send(head, body, &stream, is_head, watch).await;
    if tunnel.is_some() {
        stream.reset(Code::HTTP_1_1_REQUIRED);
    }
    log.ended(End { request_bytes: stream.with(|stream| stream.received), ..sent });
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
    fn new(head: &RequestHead, after: Option<Duration>, timers: &'t Timers) -> Self {
        // The stream of a call may be silent for hours and well. `timeouts.streamIdle` is for that.
        let is_call = || head.headers.get("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"));
        let after = after.filter(|_| !is_call());
        Self { after, untold: after.is_some() && head.headers.contains("expect"), answered: false, timers, sleep: None }
    }

    /// Cuts the body once it has been over.
    fn poll(&mut self, stream: &Handle, cx: &mut Context<'_>) {
        let Some(after) = self.after else { return };
        let (starved, has_length) = stream.with(|stream| (stream.starved(), stream.length.is_some()));
        // After the answer has begun, a body without a length may be one half of a conversation.
        let owed = starved.filter(|received| !(self.untold && *received == 0));
        let Some(received) = owed.filter(|_| !self.answered || has_length) else {
            self.sleep = None;
            return;
        };
        if self.sleep.as_ref().is_none_or(|(then, _)| *then != received) {
            self.sleep = Some((received, self.timers.sleep(after)));
        }
        if let Some((_, sleep)) = &mut self.sleep
            && sleep.poll_elapsed(cx).is_ready()
        {
            stream.cut(Reason::BodyIdle);
            // Its reader is part of this task.
            cx.waker().wake_by_ref();
        }
    }
}

/// How long a client has left an answer standing.
struct Stall<'t> {
    after: Option<Duration>,
    timers: &'t Timers,
    /// Runs from one piece taken to the next.
    sleep: Option<(u64, Sleep)>,
}

impl Stall<'_> {
    /// `taken`: what the client has had room for so far; `None` while it is not the client that is waited for.
    fn poll_over(&mut self, taken: Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
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

/// Sends an answer to its end, or resets the stream. `watch` looks after the request's body while the answer's waits, and
/// says why the answer may not go on, such as that the client, which had room for `blocked` so far, has left it standing.
async fn send(
    head: ResponseHead,
    mut body: Body<'_>,
    stream: &Handle,
    is_head: bool,
    mut watch: impl FnMut(Option<u64>, &mut Context<'_>) -> Poll<Reason>,
) -> End {
    let mut end = End { grpc_status: head::grpc_status(&head.headers), ..End::default() };
    let bodiless = is_head || matches!(head.status, 204 | 304);
    let declared = if bodiless { None } else { head::content_length(&head.headers) };
    if head.status < 200 {
        stream.reset(Code::INTERNAL_ERROR);
        return End { cut: Some(Reason::ProtocolError), ..end };
    }
    let mut gathered = Gathered::new(declared);
    let gathering = poll_fn(|cx| Poll::Ready(gathered.gather(&mut body, cx))).await;
    if let Err(reason) = gathering {
        stream.reset(outgoing::reset_for(reason));
        return End { cut: Some(reason), ..end };
    }
    let nothing = bodiless || gathered.is_nothing();
    if !say(stream, &head, nothing) {
        let gone = stream.with(|stream| stream.gone.is_some());
        stream.reset(Code::INTERNAL_ERROR);
        return End { cut: Some(if gone { Reason::ClientGone } else { Reason::ProtocolError }), ..end };
    }
    if nothing {
        return end;
    }
    let sent = poll_fn(|cx| {
        let polled = outgoing::poll_send(&mut gathered, &mut body, stream, cx);
        if polled.is_pending() {
            let blocked = stream.with(|stream| (!stream.pending.is_empty()).then_some(stream.sent));
            if let Poll::Ready(reason) = watch(blocked, cx) {
                stream.reset(Code::CANCEL);
                return Poll::Ready(Err(Cut::Source(reason)));
            }
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
