//! Copies bytes both ways until both directions have ended, keeping half-closes. It must never turn a reset into a clean end,
//! nor hold a buffer for a direction in which nothing moves.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Buf;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::error::Error;
use crate::error::Reason;
use crate::http::ResponseLog;
use crate::http::h1::Served;
use crate::net;
use crate::net::Io;
use crate::net::buffer;
use crate::net::turn;
use crate::sniff;
use crate::sniff::Sniff;

/// What went through a tunnel, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// From the client to the upstream.
    pub sent: u64,
    pub received: u64,
    pub end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both directions were closed by those who wrote them.
    Clean,
    Idle,
    /// It broke: the other end was reset too.
    Client(io::ErrorKind),
    Upstream(io::ErrorKind),
    /// It may not go on.
    Cut(Reason),
}

/// One end of a tunnel, with bytes that were read from it before the tunnel began.
pub struct Side<'a> {
    pub io: &'a mut Io,
    pub read: BytesMut,
}

/// `idle`: nothing moved either way for this long; `None`: no limit. `cut` says when it may not go on.
pub async fn copy(
    client: Side<'_>,
    upstream: Side<'_>,
    idle: Option<Duration>,
    mut cut: impl FnMut(&mut Context<'_>) -> Poll<Reason>,
) -> Copied {
    let mut there = Half::new(client.read);
    let mut back = Half::new(upstream.read);
    let (client, upstream) = (client.io, upstream.io);
    let end = {
        let mut timer = pin!(tokio::time::sleep(idle.unwrap_or(NEVER)));
        let mut seen = 0;
        poll_fn(|cx| {
            let sent = there.poll(cx, client, upstream).map_err(|broken| match broken {
                Broken::Reader(error) => End::Client(error.kind()),
                Broken::Writer(error) => End::Upstream(error.kind()),
            });
            if let Poll::Ready(Err(end)) = sent {
                return Poll::Ready(end);
            }
            let received = back.poll(cx, upstream, client).map_err(|broken| match broken {
                Broken::Reader(error) => End::Upstream(error.kind()),
                Broken::Writer(error) => End::Client(error.kind()),
            });
            match (sent, received) {
                (_, Poll::Ready(Err(end))) => return Poll::Ready(end),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Clean),
                _ => {}
            }
            if let Poll::Ready(reason) = cut(cx) {
                return Poll::Ready(End::Cut(reason));
            }
            let Some(idle) = idle else { return Poll::Pending };
            // The timer is not moved by every byte: when it fires, it asks whether anything has.
            while timer.as_mut().poll(cx).is_ready() {
                let moved = there.bytes + back.bytes;
                if moved == seen {
                    return Poll::Ready(End::Idle);
                }
                seen = moved;
                timer.as_mut().reset(Instant::now() + idle);
            }
            Poll::Pending
        })
        .await
    };
    if end != End::Clean {
        for io in [&*client, &*upstream] {
            io.tcp().into_iter().for_each(net::reset_on_close);
        }
    }
    Copied { sent: there.bytes, received: back.bytes, end }
}

/// What follows an HTTP/1 connection that was served: nothing, or the tunnel that its last answer began.
pub async fn served<L: ResponseLog>(served: Served<L>) {
    let Served::Tunnel { client, upstream, mut log } = served else { return };
    let (mut near, mut far, idle, _guard) = (client.io, upstream.io, upstream.idle, upstream.guard);
    let client = Side { io: &mut near, read: client.read };
    let upstream = Side { io: &mut far, read: upstream.read };
    let copied = copy(client, upstream, idle, |cx| log.poll_cut(cx)).await;
    let cut = match copied.end {
        End::Clean => None,
        End::Idle => Some(Reason::StreamIdle),
        End::Client(_) => Some(Reason::ClientGone),
        End::Upstream(_) => Some(Reason::ResetBeforeResponse),
        End::Cut(reason) => Some(reason),
    };
    let end = crate::http::End { request_bytes: copied.sent, response_bytes: copied.received, cut, grpc_status: None };
    log.ended(end);
}

/// One direction.
struct Half {
    /// Read before the tunnel began; goes first.
    early: BytesMut,
    buf: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader has ended: what is buffered goes out, then the write side closes.
    Ending,
    Closed,
}

enum Broken {
    Reader(io::Error),
    Writer(io::Error),
}

impl Half {
    fn new(early: BytesMut) -> Self {
        Self { early, buf: None, start: 0, end: 0, bytes: 0, state: State::Open }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<Result<(), Broken>> {
        // Writing first, so that what has been read leaves before more comes.
        for _ in 0..ROUNDS {
            ready!(self.poll_drain(cx, to)).map_err(Broken::Writer)?;
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).or_else(ignore_gone).map_err(Broken::Writer)?;
                    self.state = State::Closed;
                }
                State::Open => match self.poll_fill(cx, from) {
                    Poll::Ready(filled) => filled.map_err(Broken::Reader)?,
                    Poll::Pending => {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::Writer)?;
                        return Poll::Pending;
                    }
                },
            }
        }
        // The other direction and other connections want their turn.
        turn::give_way(cx);
        Poll::Pending
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<io::Result<()>> {
        while self.early.has_remaining() {
            let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &self.early))?;
            self.wrote(wrote)?;
            self.early.advance(wrote);
        }
        if self.early.capacity() > 0 {
            // A tunnel lasts for days, what it began with does not.
            buffer::give(std::mem::take(&mut self.early));
        }
        while self.start < self.end {
            let Some(buf) = &self.buf else { break };
            let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &buf[self.start..self.end]))?;
            self.wrote(wrote)?;
            self.start += wrote;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, wrote: usize) -> io::Result<()> {
        self.bytes += wrote as u64;
        if wrote == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut Io) -> Poll<io::Result<()>> {
        let mut buf = self.buf.take().unwrap_or_else(borrow);
        let mut read = ReadBuf::new(&mut buf);
        let outcome = Pin::new(from).poll_read(cx, &mut read);
        let filled = read.filled().len();
        match outcome {
            Poll::Ready(Ok(())) if filled > 0 => {
                (self.start, self.end) = (0, filled);
                self.buf = Some(buf);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => {
                self.state = State::Ending;
                give_back(buf);
                Poll::Ready(Ok(()))
            }
            other => {
                give_back(buf);
                other
            }
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.buf.take().into_iter().for_each(give_back);
    }
}

/// A peer that has already gone needs no half-close.
fn ignore_gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotConnected => Ok(()),
        _ => Err(error),
    }
}

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn borrow() -> Box<[u8]> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER].into())
}

fn give_back(buf: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARES {
            spare.push(buf);
        }
    });
}

/// One TLS record's worth, twice.
const BUFFER: usize = 32 * 1024;
/// What one thread keeps: as many as move at once, not as many as are open.
const SPARES: usize = 16;
/// Buffers that one direction may move before others get their turn.
const ROUNDS: usize = 8;
/// tokio's own idea of "no deadline": about thirty years.
const NEVER: Duration = Duration::from_secs(86_400 * 365 * 30);

/// Reads until the protocol shows. An end before that is an end.
pub async fn first_bytes(stream: &TcpStream, early: &mut BytesMut) -> Result<Sniff, Error> {
    loop {
        let sniffed = sniff::sniff(early);
        if sniffed != Sniff::NeedMore {
            return Ok(sniffed);
        }
        if !more(stream, early).await? {
            return Ok(Sniff::Opaque);
        }
    }
}

/// Waits for more of what a connection begins with. `false`: no more of it comes.
pub async fn more(stream: &TcpStream, early: &mut BytesMut) -> Result<bool, Error> {
    loop {
        stream.readable().await.map_err(|_| Error::ClientGone)?;
        early.reserve(net::EARLY);
        match stream.try_read_buf(early) {
            Ok(0) if early.is_empty() => return Err(Error::ClientGone),
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Error::ClientGone),
        }
    }
}
