//! One HTTP/1 connection from a client: requests in order, each answered before the next is read. It must never answer twice,
//! nor go on reading a connection whose framing is in doubt.

use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use leno_proto::policy::InboundTraffic;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::End;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::ResponseLog;
use crate::http::Service;
use crate::http::Tunnel;
use crate::http::body::Body;
use crate::http::h1::deadline::Deadline;
use crate::http::h1::encode;
use crate::http::h1::encode::After;
use crate::http::h1::incoming::Connection;
use crate::http::h1::incoming::Incoming;
use crate::http::h1::parse;
use crate::http::h1::parse::Framing;
use crate::http::h1::parse::Kind;
use crate::http::h1::parse::Limits;
use crate::http::h1::parse::ParsedRequest;
use crate::http::h1::parse::Refusal;
use crate::http::h1::parse::Scan;
use crate::http::h1::parse::Texts;
use crate::http::h1::wire::Pieces;
use crate::http::h1::wire::Stream;
use crate::http::h1::wire::Wire;
use crate::http::head::ResponseHead;
use crate::http::head::Version;
use crate::net;
use crate::net::Io;
use crate::net::turn;
use crate::net::turn::TURN;

/// What a client's connection may take.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    pub limits: Limits,
    /// From a head's first byte to its last.
    pub head_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// Without a byte of a body that somebody waits for.
    pub body_idle_timeout: Duration,
    /// Without room for a byte of an answer.
    pub write_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            body_idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
        }
    }
}

impl From<&InboundTraffic> for ServerSettings {
    fn from(traffic: &InboundTraffic) -> Self {
        Self {
            limits: Limits {
                head_bytes: traffic.headers_max_bytes as usize,
                fields: traffic.headers_max_count as usize,
                ..Limits::default()
            },
            head_timeout: traffic.timeouts.request_headers,
            idle_timeout: traffic.timeouts.idle,
            body_idle_timeout: traffic.timeouts.request_body_idle,
            write_timeout: traffic.timeouts.request_body_idle,
        }
    }
}

/// How serving ended.
pub enum Served<L> {
    Closed,
    /// The answer that begins a tunnel has been written; what follows is not HTTP. `log` is told when the tunnel ends.
    Tunnel {
        client: Stream,
        upstream: Tunnel,
        log: L,
    },
}

/// Serves a client's connection until it ends. Once `drain` is ready, the answer under way is the last.
pub async fn serve<S: Service>(
    stream: Stream,
    settings: &ServerSettings,
    service: &S,
    drain: impl Future<Output = ()>,
) -> Served<S::Log> {
    let connection = Connection::new(Wire::new(stream));
    let mut turn = Turn {
        connection: &connection,
        settings,
        drain: pin!(drain),
        draining: false,
        untold: false,
        deadline: Deadline::default(),
        watermark: 0,
        texts: Texts::default(),
    };
    let (upstream, log) = loop {
        let next = match turn.next_request().await {
            Next::Request(request) => turn.exchange(service, request).await,
            Next::Refused { status, reason } => {
                turn.refuse(status, service.refused(reason)).await;
                Finish::Close
            }
            Next::Gone => return Served::Closed,
        };
        match next {
            Finish::KeepAlive => {}
            Finish::Close => {
                turn.close().await;
                return Served::Closed;
            }
            Finish::Farewell => return Served::Closed,
            Finish::Abort => {
                connection.wire.borrow().reset_on_close();
                return Served::Closed;
            }
            Finish::Tunnel(upstream, log) => break (upstream, log),
        }
    };
    Served::Tunnel { client: connection.wire.into_inner().into_stream(), upstream, log }
}

enum Next {
    Request(ParsedRequest),
    Refused {
        status: u16,
        reason: Reason,
    },
    /// Closed, or silent for too long, between requests.
    Gone,
}

enum Finish<L> {
    KeepAlive,
    Close,
    /// The client has said that nothing follows, and nothing has: the close is the FIN, and nothing is left to wait for.
    Farewell,
    /// The client must not take what it got for complete.
    Abort,
    Tunnel(Tunnel, L),
}

/// What is written about one answer.
struct Plan {
    framing: Framing,
    pieces: Pieces,
    after: After,
    /// The client has asked for the close.
    parting: bool,
}

/// The connection's loop: its state between polls.
struct Turn<'t, D> {
    connection: &'t Connection,
    settings: &'t ServerSettings,
    drain: Pin<&'t mut D>,
    draining: bool,
    /// The client waits for `100 Continue` and has not got it: that it sends no body is not its fault.
    untold: bool,
    deadline: Deadline,
    /// Bytes written when the deadline was set: has the client taken any since?
    watermark: u64,
    texts: Texts,
}

impl<D: Future<Output = ()>> Turn<'_, D> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) {
        self.draining = self.draining || self.drain.as_mut().poll(cx).is_ready();
    }

    async fn next_request(&mut self) -> Next {
        let mut scan = Scan::default();
        let mut head_begun = false;
        self.deadline.set(self.settings.idle_timeout);
        poll_fn(|cx| {
            loop {
                let mut wire = self.connection.wire.borrow_mut();
                match scan.head_end(&wire.read, &self.settings.limits, Kind::Request) {
                    Err(refusal) => return Poll::Ready(refused(refusal)),
                    Ok(None) => {}
                    Ok(Some((start, end))) => {
                        let parsed = parse::request(&wire.read[start..end], &self.settings.limits, &mut self.texts);
                        wire.read.advance(end);
                        return Poll::Ready(parsed.map_or_else(refused, Next::Request));
                    }
                }
                match wire.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => continue,
                    Poll::Ready(_) => return Poll::Ready(Next::Gone),
                    Poll::Pending => {}
                }
                // The first half of an empty line is not a request yet.
                let begun = wire.read.len() > 2;
                if !begun {
                    wire.rest();
                    drop(wire);
                    self.poll_drain(cx);
                    if self.draining {
                        return Poll::Ready(Next::Gone);
                    }
                } else if !head_begun {
                    // In all, not per byte.
                    head_begun = true;
                    self.deadline.set(self.settings.head_timeout);
                }
                return match self.deadline.poll(cx) {
                    false => Poll::Pending,
                    true if begun => Poll::Ready(Next::Refused { status: 408, reason: Reason::HeaderTimeout }),
                    true => Poll::Ready(Next::Gone),
                };
            }
        })
        .await
    }

    async fn exchange<S: Service>(&mut self, service: &S, request: ParsedRequest) -> Finish<S::Log> {
        let ParsedRequest { head, framing, keep_alive } = request;
        let asked = Asked {
            head: head.method == "HEAD",
            connect: head.method == "CONNECT",
            version: head.version,
            keep_alive,
            continues: framing != Framing::None && head.headers.contains("expect"),
        };
        self.untold = asked.continues;
        self.connection.begin_body(framing);
        self.deadline.clear();
        let interim = Interim::default();
        let body = match framing {
            Framing::None => Body::Empty,
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => Body::H1Request(Incoming(self.connection)),
        };
        let response = {
            let mut call = pin!(service.call(Request { head, body, interim: &interim }));
            poll_fn(|cx| {
                let response = call.as_mut().poll(cx);
                self.write_interims(&interim, asked.version);
                match response {
                    Poll::Ready(response) => {
                        self.poll_drain(cx);
                        Poll::Ready(Ok(response))
                    }
                    Poll::Pending => self.poll_client(cx).map(Err),
                }
            })
            .await
        };
        match response {
            Ok(response) => self.answer(asked, response).await,
            // Its log went with the call: the client went away.
            Err(_gone) => Finish::Abort,
        }
    }

    // An HTTP/1.0 client knows no interim answers (RFC 9110 section 15.2).
    fn write_interims(&mut self, interim: &Interim, version: Version) {
        for head in interim.take() {
            self.untold &= head.status != 100;
            if version != Version::Http10 {
                // One that cannot be written is not missed: it promises nothing.
                let mut wire = self.connection.wire.borrow_mut();
                let _ = encode::response(&head, Framing::None, After::KeepAlive, wire.out());
            }
        }
    }

    /// While a story or an upstream has the word: writes what waits, and looks whether the client is still there. A FIN is
    /// no farewell, it may have said all that it had to say; a reset is.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        self.poll_drain(cx);
        let mut wire = self.connection.wire.borrow_mut();
        let stalled = match wire.has_unwritten().then(|| wire.poll_flush(cx)) {
            Some(Poll::Ready(Err(_))) => return Poll::Ready(Reason::ClientGone),
            Some(Poll::Pending) => true,
            Some(Poll::Ready(Ok(()))) | None => false,
        };
        while !wire.read_ended && wire.read.len() < READ_AHEAD {
            match wire.poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(Reason::ClientGone),
                Poll::Ready(Ok(_)) => {
                    // The reader's own waker was replaced by ours.
                    if let Some(waiter) = self.connection.body.borrow_mut().waiter.take() {
                        waiter.wake();
                    }
                }
            }
        }
        let written = wire.written;
        drop(wire);
        self.poll_deadlines(stalled, written, cx)
    }

    /// Two things may not last: a client that takes nothing, and one that owes a body and sends nothing.
    fn poll_deadlines(&mut self, stalled: bool, written: u64, cx: &mut Context<'_>) -> Poll<Reason> {
        let starved = self.connection.body.borrow().waiter.is_some() && !self.untold;
        if !stalled && !starved {
            self.deadline.clear();
            return Poll::Pending;
        }
        let mark = written + self.connection.body.borrow().taken;
        if !self.deadline.is_set() || self.watermark != mark {
            self.watermark = mark;
            let limit = if stalled { self.settings.write_timeout } else { self.settings.body_idle_timeout };
            self.deadline.set(limit);
        }
        if !self.deadline.poll(cx) {
            return Poll::Pending;
        }
        if stalled {
            return Poll::Ready(Reason::ClientGone);
        }
        let mut body = self.connection.body.borrow_mut();
        body.failed = Some(Reason::BodyIdle);
        if let Some(waiter) = body.waiter.take() {
            waiter.wake();
        }
        Poll::Pending
    }

    async fn answer<L: ResponseLog>(&mut self, asked: Asked, response: Response<'_, L>) -> Finish<L> {
        let Response { mut head, body, tunnel, mut log } = response;
        if let Some(upstream) = tunnel {
            // RFC 9110 section 9.3.6: nothing follows but the tunnel.
            head.headers.remove("content-length");
            return self.open_tunnel(head, *upstream, log).await;
        }
        let plan = self.plan(&asked, &head, &body);
        let encoded =
            encode::response(&head, plan.framing, plan.after, self.connection.wire.borrow_mut().out()).is_ok();
        // What the client would take for a tunnel is none.
        let promised = head.status == 101 || (asked.connect && (200..300).contains(&head.status));
        if promised || !encoded {
            log.ended(End { cut: Some(Reason::ProtocolError), ..End::default() });
            return Finish::Abort;
        }
        let mut answering = Answering {
            // What the answer may not carry is not waited for.
            body: if plan.framing == Framing::None { Body::Empty } else { body },
            end: End { grpc_status: grpc_status(&head.headers), ..End::default() },
            ended: false,
            plan,
        };
        drop(head);
        let outcome = poll_fn(|cx| match self.poll_answer(&mut answering, cx) {
            Poll::Pending => log.poll_cut(cx).map(Err),
            ready => ready,
        })
        .await;
        let Answering { body, mut end, plan, .. } = answering;
        drop(body);
        end.request_bytes = self.connection.body.borrow().taken;
        end.cut = outcome.err();
        log.ended(end);
        match outcome {
            Err(_) => Finish::Abort,
            Ok(()) if self.connection.wire.borrow().last => Finish::Farewell,
            Ok(()) if plan.after == After::Close || self.draining => Finish::Close,
            Ok(()) => self.pass_over_body().await,
        }
    }

    fn plan(&self, asked: &Asked, head: &ResponseHead, body: &Body<'_>) -> Plan {
        let bodyless = asked.head || matches!(head.status, 100..200 | 204 | 304);
        let framing = match body.length() {
            _ if bodyless => Framing::None,
            Some(length) => Framing::Length(length),
            None if asked.version == Version::Http10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        let reading = self.connection.body.borrow();
        // The client that was not told to continue may or may not send the body: nobody can say where it would end.
        let unsure = asked.continues
            && reading.taken == 0
            && !reading.decoder.is_ended()
            && self.connection.wire.borrow().read.is_empty();
        let close =
            !asked.keep_alive || self.draining || framing == Framing::UntilClose || reading.failed.is_some() || unsure;
        Plan {
            framing,
            pieces: if framing == Framing::Chunked { Pieces::Chunked } else { Pieces::Plain },
            parting: !asked.keep_alive,
            after: match asked.version {
                _ if close => After::Close,
                Version::Http10 => After::KeepAlive10,
                Version::Http11 | Version::Http2 => After::KeepAlive,
            },
        }
    }

    /// Head and first piece leave in one write if both are there; after that, a write whenever the body has no more for now.
    fn poll_answer(&mut self, answering: &mut Answering<'_>, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let wire = &self.connection.wire;
        let mut moved = 0;
        loop {
            let mut starved = false;
            while !answering.ended && !starved && wire.borrow().has_room() {
                match answering.body.poll_data(cx) {
                    Poll::Pending => starved = true,
                    Poll::Ready(Some(Err(reason))) => return Poll::Ready(Err(reason)),
                    Poll::Ready(Some(Ok(data))) => {
                        answering.count(data.len())?;
                        moved += data.len();
                        wire.borrow_mut().push(data, answering.plan.pieces);
                    }
                    Poll::Ready(None) => {
                        answering.finish(&mut wire.borrow_mut())?;
                        if answering.plan.parting && self.nothing_follows() {
                            wire.borrow_mut().last = true;
                        }
                    }
                }
            }
            let flushed = wire.borrow_mut().poll_flush(cx);
            match flushed {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGone)),
                Poll::Ready(Ok(())) if answering.ended => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if starved => {}
                Poll::Ready(Ok(())) if moved < TURN => continue,
                Poll::Ready(Ok(())) => turn::give_way(cx),
                Poll::Pending => answering.body.poll_idle(cx),
            }
            return self.poll_client(cx).map(Err);
        }
    }

    /// After `Connection: close` a client sends no more requests (RFC 9112 section 9.6); one that does all the same is heard
    /// out, or the reset would take the answer away. TLS has a farewell of its own to say.
    fn nothing_follows(&self) -> bool {
        let wire = self.connection.wire.borrow();
        let quiet = match &wire.io {
            Io::Tcp(stream) => net::is_quiet(stream),
            Io::Memory(_) => true,
            Io::TlsServer(_) | Io::TlsClient(_) => false,
        };
        quiet && wire.read.is_empty() && self.connection.body.borrow().decoder.is_ended()
    }

    async fn open_tunnel<L: ResponseLog>(&mut self, head: ResponseHead, upstream: Tunnel, log: L) -> Finish<L> {
        let encoded =
            encode::response(&head, Framing::None, After::KeepAlive, self.connection.wire.borrow_mut().out()).is_ok();
        let outcome = poll_fn(|cx| {
            let flushed = self.connection.wire.borrow_mut().poll_flush(cx);
            match flushed {
                Poll::Ready(outcome) => Poll::Ready(outcome.map_err(|_| Reason::ClientGone)),
                Poll::Pending => self.poll_client(cx).map(Err),
            }
        });
        match outcome.await {
            Ok(()) if encoded => Finish::Tunnel(upstream, log),
            outcome => {
                let cut = outcome.err().or(Some(Reason::ProtocolError));
                log.ended(End { cut, ..End::default() });
                Finish::Abort
            }
        }
    }

    /// After an early answer: takes what is left of the request, if it is little and comes soon; else the next request
    /// cannot be found, and the connection ends.
    async fn pass_over_body<L>(&mut self) -> Finish<L> {
        let mut left = PASS_OVER_MAX;
        self.deadline.set(LINGER);
        let reached_end = poll_fn(|cx| {
            loop {
                match self.connection.poll_data(cx) {
                    Poll::Ready(None) => return Poll::Ready(self.connection.body.borrow().failed.is_none()),
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                    Poll::Ready(Some(Ok(data))) => match left.checked_sub(data.len()) {
                        Some(rest) => left = rest,
                        None => return Poll::Ready(false),
                    },
                    Poll::Pending if self.deadline.poll(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        if reached_end.await { Finish::KeepAlive } else { Finish::Close }
    }

    async fn refuse(&mut self, status: u16, mut head: ResponseHead) {
        head.status = status;
        head.reason_phrase.clear();
        let encoded = {
            let mut wire = self.connection.wire.borrow_mut();
            encode::response(&head, Framing::Length(0), After::Close, wire.out())
        };
        // Without an answer the close alone says it.
        let _ = encoded;
    }

    /// Says goodbye so that the last answer arrives: FIN, then what the client still sends is taken for a moment, because
    /// a close with unread bytes would be a reset and could overtake the answer (RFC 9112 section 9.6).
    async fn close(&mut self) {
        self.deadline.set(LINGER);
        let mut shut = false;
        let mut left = PASS_OVER_MAX;
        poll_fn(|cx| {
            let mut wire = self.connection.wire.borrow_mut();
            if !shut {
                let step = match wire.poll_flush(cx) {
                    Poll::Ready(Ok(())) => wire.poll_shutdown(cx),
                    other => other,
                };
                match step {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            loop {
                left = left.saturating_sub(wire.read.len());
                wire.read.clear();
                match wire.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 && left > 0 => {}
                    Poll::Ready(Ok(0)) if !shut => break,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if self.deadline.poll(cx) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// What the answer depends on of the request.
struct Asked {
    /// The method is HEAD.
    head: bool,
    connect: bool,
    version: Version,
    keep_alive: bool,
    /// Expects `100 Continue` before it sends its body.
    continues: bool,
}

/// An answer on its way to the client.
struct Answering<'c> {
    body: Body<'c>,
    plan: Plan,
    end: End,
    /// The body's end is encoded.
    ended: bool,
}

impl Answering<'_> {
    fn count(&mut self, bytes: usize) -> Result<(), Reason> {
        self.end.response_bytes += bytes as u64;
        match self.plan.framing {
            Framing::Length(length) if self.end.response_bytes > length => Err(Reason::ProtocolError),
            Framing::None | Framing::Length(_) | Framing::Chunked | Framing::UntilClose => Ok(()),
        }
    }

    fn finish(&mut self, wire: &mut Wire) -> Result<(), Reason> {
        if matches!(self.plan.framing, Framing::Length(length) if self.end.response_bytes < length) {
            return Err(Reason::ProtocolError);
        }
        let trailers = self.body.trailers();
        self.end.grpc_status = trailers.as_ref().and_then(grpc_status).or(self.end.grpc_status);
        if self.plan.framing == Framing::Chunked {
            encode::last_chunk(trailers.as_ref(), wire.out());
        }
        self.ended = true;
        Ok(())
    }
}

fn refused(refusal: Refusal) -> Next {
    Next::Refused { status: refusal.status(), reason: refusal.reason() }
}

fn grpc_status(headers: &Headers) -> Option<u16> {
    std::str::from_utf8(headers.get("grpc-status")?).ok()?.parse().ok()
}

/// Read while nobody asks for it, to learn of a reset. More stays in the kernel: that is the back-pressure.
const READ_AHEAD: usize = 16 * 1024;
/// Of a request that was answered early.
const PASS_OVER_MAX: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(1);
