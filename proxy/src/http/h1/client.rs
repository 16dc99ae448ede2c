//! One HTTP/1 connection to an upstream, for one exchange at a time. It must never be used again after an answer that left
//! any doubt, nor report an answer as complete that was cut.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use bytes::Bytes;
use leno_proto::request::Headers;
use tokio::net::TcpStream;

use crate::error::Reason;
use crate::http::Interim;
use crate::http::SendError;
use crate::http::Tunnel;
use crate::http::body::Body;
use crate::http::body::Kept;
use crate::http::h1::decode::Decoder;
use crate::http::h1::decode::Step;
use crate::http::h1::encode;
use crate::http::h1::parse;
use crate::http::h1::parse::Framing;
use crate::http::h1::parse::Kind;
use crate::http::h1::parse::Limits;
use crate::http::h1::parse::ParsedResponse;
use crate::http::h1::parse::Scan;
use crate::http::h1::wire::Pieces;
use crate::http::h1::wire::Stream;
use crate::http::h1::wire::Wire;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::net;
use crate::net::Io;
use crate::net::turn;
use crate::net::turn::TURN;

/// A connection between exchanges. Dropping it closes it.
pub struct Client {
    wire: Box<Wire>,
    limits: Limits,
    /// In plaintext: what the other end's kernel had acknowledged before our first byte.
    acked_before: Option<u64>,
    idle_hint: Option<Duration>,
    guard: Option<Box<dyn Any>>,
}

/// Where a connection goes when its exchange has ended well.
pub trait Home {
    fn keep(self: Box<Self>, client: Client);

    /// It does not come back. Neither called: the exchange was given up.
    fn part(self: Box<Self>, _: Parting) {}
}

/// Why a connection does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// The answer was whole, and no other can follow it.
    Ended,
    /// Closed in good order before a byte of the request was read.
    Unread,
    Broken,
}

/// What the upstream said. With a `tunnel`, the body is empty.
pub struct Answered<'c> {
    pub head: ResponseHead,
    pub body: Body<'c>,
    pub tunnel: Option<Box<Tunnel>>,
}

impl Client {
    /// `guard` lives as long as the connection: its permit.
    pub fn new(io: Io, guard: Option<Box<dyn Any>>) -> Self {
        let acked_before = match &io {
            Io::Tcp(stream) => net::bytes_acked(stream),
            // The bytes below TLS are others than those that are written above.
            Io::TlsServer(_) | Io::TlsClient(_) | Io::Memory(_) => None,
        };
        Self { wire: Box::new(Wire::new(Stream::from(io))), limits: UPSTREAM, acked_before, idle_hint: None, guard }
    }

    /// What the server last said about how long it keeps an idle connection.
    pub fn idle_hint(&self) -> Option<Duration> {
        self.idle_hint
    }

    /// The socket below, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.wire.io.tcp()
    }

    /// Nothing was read that no exchange has asked for.
    pub fn is_clean(&self) -> bool {
        self.wire.read.is_empty() && !self.wire.read_ended
    }

    /// Asks the kernel, without waiting: still open, and silent? To be asked right before an exchange.
    pub fn is_idle_alive(&mut self) -> bool {
        match &self.wire.io {
            _ if !self.is_clean() => false,
            Io::Tcp(stream) => net::is_quiet(stream),
            Io::TlsServer(_) | Io::TlsClient(_) if self.wire.io.tcp().is_some_and(net::is_quiet) => true,
            // What came may be TLS's own, a ticket for example.
            Io::TlsServer(_) | Io::TlsClient(_) | Io::Memory(_) => {
                self.poll_idle_end(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
            }
        }
    }

    /// Ready when an idle connection has ended or said what nobody asked for.
    pub fn poll_idle_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.poll_fill(cx).map(|_| ())
    }

    /// Sends a request and waits for the head of its answer. Dropping the future closes the connection.
    pub async fn exchange<'c>(
        mut self,
        head: &RequestHead,
        body: Body<'c>,
        interim: &Interim,
        home: Box<dyn Home>,
    ) -> Result<Answered<'c>, SendError<'c>> {
        let framing = match body.length() {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        if encode::request(head, framing, self.wire.out()).is_err() {
            return Err(unsent(Reason::BadFraming, "not to be said in HTTP/1", body));
        }
        let before = Before { written: self.wire.written, acked: self.acked_at_most() };
        let mut sending = Sending::new(body, framing);
        let mut reading = Reading { scan: Scan::default(), interims: 0 };
        let outcome = poll_fn(|cx| {
            if let Err(reason) = sending.poll(&mut self.wire, cx) {
                return Poll::Ready(Err(Failure::Request(reason)));
            }
            reading.poll(&mut self, head, interim, cx)
        })
        .await;
        match outcome {
            Ok(parsed) => Ok(self.answered(parsed, sending, head, home)),
            Err(Failure::Request(reason)) => Err(self.failed(Failure::Request(reason), sending, &reading, before)),
            Err(failure) => {
                let failed = self.failed(failure, sending, &reading, before);
                home.part(if failed.never_processed { Parting::Unread } else { Parting::Broken });
                Err(failed)
            }
        }
    }

    /// What the other end's kernel can have acknowledged without having a byte of the next request. Less than that, where
    /// something is still on its way: then nothing is proven later, which is the safe side.
    fn acked_at_most(&self) -> Option<u64> {
        match &self.wire.io {
            Io::Tcp(_) => self.acked_before.map(|before| before + self.wire.written),
            Io::TlsServer(_) | Io::TlsClient(_) | Io::Memory(_) => self.tcp().and_then(net::bytes_acked),
        }
    }

    fn answered<'c>(
        mut self,
        parsed: ParsedResponse,
        mut sending: Sending<'c>,
        request: &RequestHead,
        home: Box<dyn Home>,
    ) -> Answered<'c> {
        sending.kept = None;
        self.idle_hint = parsed.idle_hint.or(self.idle_hint);
        let head = parsed.head;
        if head.status == 101 || (request.method == "CONNECT" && (200..300).contains(&head.status)) {
            let guard = self.guard.take();
            let stream = self.wire.into_stream();
            let tunnel = Tunnel { io: stream.io, read: stream.read, guard, idle: None };
            return Answered { head, body: Body::Empty, tunnel: Some(Box::new(tunnel)) };
        }
        let decoder = Decoder::new(parsed.framing);
        let mut answer = Answer {
            client: Some(self),
            decoder,
            sending,
            home: Some(home),
            keep_alive: parsed.keep_alive,
            failed: false,
        };
        let body = match answer.whole() {
            Some(body) => body,
            None => Body::H1Response(Box::new(answer)),
        };
        Answered { head, body, tunnel: None }
    }

    fn failed<'c>(self, failure: Failure, sending: Sending<'c>, reading: &Reading, before: Before) -> SendError<'c> {
        let written = self.wire.written > before.written;
        let answered = !self.wire.read.is_empty() || reading.interims > 0;
        // Only an orderly end proves anything (over TLS one that TLS vouches for): a reset may come after the request was
        // processed.
        let ended = matches!(failure, Failure::Ended) && !answered;
        let unacked = || match (self.tcp().and_then(net::bytes_acked), before.acked) {
            (Some(now), Some(most)) => now <= most,
            (None, _) | (_, None) => false,
        };
        let never_processed = !matches!(failure, Failure::Request(_)) && (!written || (ended && unacked()));
        let (reason, detail) = match failure {
            Failure::Request(reason) => (reason, "the request's body failed".to_owned()),
            Failure::Ended => (Reason::ResetBeforeResponse, "closed before its answer".to_owned()),
            Failure::Broken(error) => (Reason::ResetBeforeResponse, error.to_string()),
            Failure::Answer(what) => (Reason::ProtocolError, what.to_owned()),
        };
        SendError { reason, detail, never_processed, written, answered, body: sending.into_body() }
    }
}

/// The connection as the request found it.
struct Before {
    written: u64,
    acked: Option<u64>,
}

/// Before anything was written.
fn unsent<'c>(reason: Reason, detail: &str, body: Body<'c>) -> SendError<'c> {
    let detail = detail.to_owned();
    SendError { reason, detail, never_processed: true, written: false, answered: false, body: Some(body) }
}

enum Failure {
    /// The request's own body could not be read.
    Request(Reason),
    Ended,
    Broken(io::Error),
    Answer(&'static str),
}

/// The way to the final head of an answer.
struct Reading {
    scan: Scan,
    interims: usize,
}

impl Reading {
    fn poll(
        &mut self,
        client: &mut Client,
        request: &RequestHead,
        interim: &Interim,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ParsedResponse, Failure>> {
        loop {
            let wire = &mut client.wire;
            let found = match self.scan.head_end(&wire.read, &client.limits, Kind::Response) {
                Ok(found) => found,
                Err(refusal) => return Poll::Ready(Err(Failure::Answer(refusal.what()))),
            };
            if let Some((start, end)) = found {
                let parsed = parse::response(&wire.read[start..end], &request.method, &client.limits);
                wire.read.advance(end);
                self.scan = Scan::default();
                match parsed {
                    Err(refusal) => return Poll::Ready(Err(Failure::Answer(refusal.what()))),
                    Ok(parsed) if parsed.head.status == 101 && !request.headers.contains("upgrade") => {
                        return Poll::Ready(Err(Failure::Answer("switched protocols unasked")));
                    }
                    Ok(parsed) if parsed.head.status >= 200 || parsed.head.status == 101 => {
                        return Poll::Ready(Ok(parsed));
                    }
                    Ok(_) if self.interims == INTERIMS_MAX => {
                        return Poll::Ready(Err(Failure::Answer("too many interim answers")));
                    }
                    Ok(parsed) => {
                        self.interims += 1;
                        interim.push(parsed.head);
                        continue;
                    }
                }
            }
            match wire.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failure::Ended)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Broken(error))),
            }
        }
    }
}

/// A request on its way out.
struct Sending<'c> {
    body: Body<'c>,
    pieces: Pieces,
    /// Bytes that the head promised and the body has not given.
    owed: Option<u64>,
    state: Send,
    /// Why the body ended early: for good, since a body tells it only once.
    failed: Option<Reason>,
    /// What was taken from the body, as long as the request may have to be sent again.
    kept: Option<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Send {
    Body,
    Flush,
    Done,
    /// The upstream takes no more; its answer may still be there to read.
    Stopped,
}

impl<'c> Sending<'c> {
    fn new(body: Body<'c>, framing: Framing) -> Self {
        let (pieces, owed) = match framing {
            Framing::Length(length) => (Pieces::Plain, Some(length)),
            Framing::Chunked => (Pieces::Chunked, None),
            Framing::None | Framing::UntilClose => (Pieces::Plain, Some(0)),
        };
        let state = if framing == Framing::None { Send::Flush } else { Send::Body };
        Self { body, pieces, owed, state, failed: None, kept: Some(Kept::default()) }
    }

    /// Moves what can be moved. `Err` is the request's own failure; the upstream's shows when reading.
    fn poll(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Result<(), Reason> {
        if self.failed.is_none() {
            self.failed = self.pump(wire, cx).err();
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn pump(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Result<(), Reason> {
        let mut moved = 0;
        loop {
            let mut starved = false;
            while self.state == Send::Body && wire.has_room() {
                match self.body.poll_data(cx) {
                    Poll::Pending => {
                        starved = true;
                        break;
                    }
                    Poll::Ready(Some(Err(reason))) => return Err(reason),
                    Poll::Ready(Some(Ok(data))) => {
                        moved += data.len();
                        self.push(data, wire)?;
                    }
                    Poll::Ready(None) => self.end(wire)?,
                }
            }
            if matches!(self.state, Send::Done | Send::Stopped) {
                return Ok(());
            }
            match wire.poll_flush(cx) {
                Poll::Pending => {
                    self.body.poll_idle(cx);
                    return Ok(());
                }
                Poll::Ready(Err(_)) => {
                    self.state = Send::Stopped;
                    return Ok(());
                }
                Poll::Ready(Ok(())) if self.state == Send::Flush => {
                    self.state = Send::Done;
                    return Ok(());
                }
                Poll::Ready(Ok(())) if starved => return Ok(()),
                Poll::Ready(Ok(())) if moved < TURN => {}
                Poll::Ready(Ok(())) => {
                    turn::give_way(cx);
                    return Ok(());
                }
            }
        }
    }

    fn push(&mut self, data: Bytes, wire: &mut Wire) -> Result<(), Reason> {
        if let Some(owed) = &mut self.owed {
            *owed = owed.checked_sub(data.len() as u64).ok_or(Reason::BadFraming)?;
        }
        match &mut self.kept {
            None => wire.push(data, self.pieces),
            Some(kept) => {
                match Wire::copies(&data) {
                    true => wire.push_copy(&data, self.pieces),
                    false => wire.push(data.clone(), self.pieces),
                }
                kept.push(data);
            }
        }
        Ok(())
    }

    fn end(&mut self, wire: &mut Wire) -> Result<(), Reason> {
        if self.owed.is_some_and(|owed| owed > 0) {
            return Err(Reason::BadFraming);
        }
        if self.pieces == Pieces::Chunked {
            let trailers = self.body.trailers();
            encode::last_chunk(trailers.as_ref(), wire.out());
            if let (Some(kept), Some(_)) = (&mut self.kept, trailers) {
                // They are taken, and cannot be sent again.
                kept.give_up();
            }
        }
        self.state = Send::Flush;
        Ok(())
    }

    /// The whole body once more, if all that was taken from it is still here.
    fn into_body(self) -> Option<Body<'c>> {
        self.kept?.before(self.body)
    }
}

/// The body of an answer, and with it the connection until the body has ended.
pub struct Answer<'c> {
    client: Option<Client>,
    decoder: Decoder,
    sending: Sending<'c>,
    /// Gone with the connection.
    home: Option<Box<dyn Home>>,
    keep_alive: bool,
    failed: bool,
}

impl<'c> Answer<'c> {
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        let Some(client) = self.client.as_mut() else { return Poll::Ready(None) };
        if let Err(reason) = self.sending.poll(&mut client.wire, cx) {
            return Poll::Ready(Some(Err(self.cut(reason))));
        }
        loop {
            let Some(client) = self.client.as_mut() else { return Poll::Ready(None) };
            match self.decoder.decode(&mut client.wire.read) {
                Ok(Step::Data(data)) => {
                    if self.decoder.is_ended() {
                        self.part();
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Step::End) => {
                    self.part();
                    return Poll::Ready(None);
                }
                Ok(Step::More) => {}
                Err(_) => return Poll::Ready(Some(Err(self.cut(Reason::ProtocolError)))),
            }
            match client.wire.poll_fill_body(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if self.decoder.end_of_bytes().is_ok() => {}
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => {
                    return Poll::Ready(Some(Err(self.cut(Reason::AppReset))));
                }
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    pub fn trailers(&mut self) -> Option<Headers> {
        if self.failed { None } else { self.decoder.trailers() }
    }

    /// Goes on with the request's rest.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) {
        if let Some(client) = self.client.as_mut() {
            // A failure is told by the next `poll_data`.
            let _ = self.sending.poll(&mut client.wire, cx);
        }
    }

    pub fn length(&self) -> Option<u64> {
        self.decoder.length()
    }

    /// A body that is here already needs no reader: the connection can go home before the answer is sent on.
    fn whole(&mut self) -> Option<Body<'c>> {
        if self.sending.state != Send::Done {
            return None;
        }
        let client = self.client.as_mut()?;
        let body = match self.decoder.length() {
            Some(0) => Body::Empty,
            Some(length) if length <= client.wire.read.len() as u64 => {
                match self.decoder.decode(&mut client.wire.read) {
                    Ok(Step::Data(data)) => Body::Full(data),
                    Ok(Step::More | Step::End) | Err(_) => return None,
                }
            }
            _ => return None,
        };
        self.part();
        Some(body)
    }

    fn cut(&mut self, reason: Reason) -> Reason {
        self.failed = true;
        self.client = None;
        self.leave(Parting::Broken);
        reason
    }

    /// The answer has ended. The connection goes home if nothing is left over: no byte of the request, which the server
    /// may yet read as another, and no byte that it sent beyond its answer.
    fn part(&mut self) {
        let Some(mut client) = self.client.take() else { return };
        let wire = &mut client.wire;
        if self.keep_alive && self.sending.state == Send::Done && wire.read.is_empty() && !wire.read_ended {
            wire.rest();
            if let Some(home) = self.home.take() {
                home.keep(client);
            }
        } else {
            self.leave(Parting::Ended);
        }
    }

    fn leave(&mut self, why: Parting) {
        if let Some(home) = self.home.take() {
            home.part(why);
        }
    }
}

/// More fields than from a client: answers of real applications carry many cookies.
const UPSTREAM: Limits = Limits { head_bytes: 64 * 1024, fields: 256, target_bytes: 0 };
/// Before one final answer.
const INTERIMS_MAX: usize = 64;
