//! What lies under an HTTP/2 connection: writes that only append, and one flusher that writes what has come together. Written
//! one by one, 32 ready answers would be 32 TLS records and 32 system calls. It must never keep an error of the flusher from
//! the connection.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::error::Reason;
use crate::net::turn;
use crate::net::turn::TURN;
use crate::tls;

/// Bytes of bodies that may wait for the flusher: with more there is no room. Four full TLS records.
const CAP: usize = 64 * 1024;
/// Reads of 4 KiB that a connection's end may spend on what nobody will read.
const DISCARDS: usize = 32;
/// Buffers that a thread keeps for reuse: as many connections as are mid-flush at once.
const SPARES: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The stream as the h2 connection has it. Must be made inside a `LocalSet`: the flusher is a local task. Dropping it writes
/// once more what waits, without waiting for room, and closes; at once, because the flusher may be gone with its worker.
pub(super) struct BatchIo<T: AsyncRead + AsyncWrite + Unpin> {
    io: Rc<RefCell<T>>,
    shared: Rc<RefCell<Shared>>,
    turn: usize,
}

/// Appends to what the flusher will write, for the engine that keeps the bound itself. It outlives the stream, and then
/// appends to nothing.
#[derive(Clone)]
pub(super) struct Writer(Rc<RefCell<Shared>>);

/// Why the other end refused our certificate, once it has. In TLS 1.3 a server
/// judges its client only after the client's handshake is done, and before it reads any request.
pub(super) type Refusal = Rc<Cell<Option<Reason>>>;

struct Shared {
    refusal: Refusal,
    out: Vec<u8>,
    /// How much of `out` is written.
    at: usize,
    /// How much was, over the connection's life.
    written: u64,
    state: State,
    /// A write has failed.
    failed: bool,
    /// The flusher, when it has nothing to do.
    flusher: Option<Waker>,
    /// The flusher, when the stream has no room.
    stalled: Option<Waker>,
    /// The connection, when it waits for room or for the end of a shutdown.
    writer: Option<Waker>,
    /// The connection, when it waits for bytes: an error of the flusher must reach it there too.
    reader: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The connection asked for a shutdown: write all, then end the stream.
    Ending,
    /// Nothing can be written any more, after a shutdown or an error.
    Ended,
    /// The connection is gone.
    Dropped,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> BatchIo<T> {
    pub(super) fn new(io: T) -> Self {
        let io = Rc::new(RefCell::new(io));
        let shared = Rc::new(RefCell::new(Shared {
            refusal: Refusal::default(),
            out: Vec::new(),
            at: 0,
            written: 0,
            state: State::Open,
            failed: false,
            flusher: None,
            stalled: None,
            writer: None,
            reader: None,
        }));
        tokio::task::spawn_local(flush(Rc::clone(&io), Rc::clone(&shared)));
        Self { io, shared, turn: 0 }
    }

    pub(super) fn writer(&self) -> Writer {
        Writer(Rc::clone(&self.shared))
    }

    pub(super) fn refusal(&self) -> Refusal {
        Rc::clone(&self.shared.borrow().refusal)
    }
}

/// The flusher: sleeps until something was appended, lets the tasks that are queued already append theirs, writes it all.
/// At the end it reads away what the peer had sent: closing a socket over unread bytes resets it, and a reset overtakes
/// the last words.
async fn flush<T: AsyncRead + AsyncWrite + Unpin>(io: Rc<RefCell<T>>, shared: Rc<RefCell<Shared>>) {
    let mut turn = 0;
    while poll_fn(|cx| shared.borrow_mut().poll_work(cx)).await {
        if shared.borrow().state == State::Open {
            if turn < TURN {
                after_queued().await;
            } else {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        let before = shared.borrow().written;
        let result = poll_fn(|cx| shared.borrow_mut().poll_write_out(&mut *io.borrow_mut(), cx)).await;
        shared.borrow_mut().written(result);
        turn += (shared.borrow().written - before) as usize;
    }
    poll_fn(|cx| {
        discard(&mut *io.borrow_mut(), cx);
        Poll::Ready(())
    })
    .await;
}

fn discard<T: AsyncRead + Unpin>(io: &mut T, cx: &mut Context<'_>) {
    let mut buffer = [0; 4096];
    for _ in 0..DISCARDS {
        let mut read = ReadBuf::new(&mut buffer);
        let more = Pin::new(&mut *io).poll_read(cx, &mut read);
        if !matches!(more, Poll::Ready(Ok(()))) || read.filled().is_empty() {
            break;
        }
    }
}

/// Once to the tail of the task queue. Not `yield_now`, which waits for a look at every socket too: only after a whole turn.
async fn after_queued() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Shared {
    /// Whether there is something to do, or nothing ever again.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.state {
            State::Open if self.at < self.out.len() => return Poll::Ready(true),
            State::Ending => return Poll::Ready(true),
            State::Dropped => return Poll::Ready(self.at < self.out.len() && !self.failed),
            State::Open | State::Ended => {}
        }
        keep(&mut self.flusher, cx);
        Poll::Pending
    }

    fn written(&mut self, result: io::Result<()>) {
        let failed = result.is_err();
        self.failed |= failed;
        if self.state != State::Dropped && (failed || self.state == State::Ending) {
            self.state = State::Ended;
        }
        if failed || self.state == State::Ended {
            self.give_back();
            wake(&mut self.writer);
            wake(&mut self.reader);
        }
    }

    fn borrow_buffer(&mut self) {
        if self.out.capacity() == 0 {
            self.out = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(CAP));
        }
    }

    fn give_back(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        self.at = 0;
        if out.capacity() > 0 && out.capacity() <= 2 * CAP {
            out.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARES {
                    spare.push(out);
                }
            });
        }
    }

    /// Writes everything, and ends the stream if that was asked for.
    fn poll_write_out<T: AsyncWrite + Unpin>(&mut self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.poll_write_some(io, cx);
        if result.is_pending() {
            if self.state == State::Dropped {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            keep(&mut self.stalled, cx);
        }
        result
    }

    fn poll_write_some<T: AsyncWrite + Unpin>(&mut self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.out.len() {
            let n = ready!(Pin::new(&mut *io).poll_write(cx, &self.out[self.at..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += n;
            self.written += n as u64;
            wake(&mut self.writer);
        }
        self.give_back();
        ready!(Pin::new(&mut *io).poll_flush(cx))?;
        if self.state == State::Ending {
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Writer {
    /// How much may be appended before it is too much.
    pub(super) fn room(&self) -> usize {
        CAP.saturating_sub(self.waiting())
    }

    /// How much the peer has not taken.
    pub(super) fn waiting(&self) -> usize {
        let shared = self.0.borrow();
        shared.out.len() - shared.at
    }

    /// Where the next byte that is appended stands among all of the connection.
    pub(super) fn position(&self) -> u64 {
        let shared = self.0.borrow();
        shared.written + (shared.out.len() - shared.at) as u64
    }

    /// Bytes that the stream has taken, at most: none beyond has left the process.
    pub(super) fn written(&self) -> u64 {
        self.0.borrow().written
    }

    /// Appends what `write` does. The bound is the caller's to keep: he may not stop in the middle.
    pub(super) fn append<R>(&self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut shared = self.0.borrow_mut();
        if shared.failed || shared.state != State::Open {
            return write(&mut Vec::new());
        }
        shared.borrow_buffer();
        if shared.at >= CAP {
            let at = std::mem::take(&mut shared.at);
            shared.out.drain(..at);
        }
        let result = write(&mut shared.out);
        wake(&mut shared.flusher);
        result
    }

    /// Wakes once, when some of what waits has been written or never will be.
    pub(super) fn wake_when_written(&self, waker: &Waker) {
        let mut shared = self.0.borrow_mut();
        match &mut shared.writer {
            Some(writer) => writer.clone_from(waker),
            None => shared.writer = Some(waker.clone()),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for BatchIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turn >= TURN {
            this.turn = 0;
            turn::give_way(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut *this.io.borrow_mut()).poll_read(cx, buf);
        let mut shared = this.shared.borrow_mut();
        if let Poll::Ready(Err(error)) = &result {
            shared.refusal.set(tls::refusal(error).filter(|reason| is_about_us(*reason)));
        }
        if result.is_ready() {
            this.turn += buf.filled().len() - before;
        } else {
            this.turn = 0;
            keep(&mut shared.reader, cx);
        }
        result
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> BatchIo<T> {
    /// Ready once everything that was appended is written and the stream has ended, or never will be.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.shared.borrow_mut();
        match shared.state {
            State::Ended => return Poll::Ready(()),
            State::Open => {
                shared.state = State::Ending;
                wake(&mut shared.flusher);
            }
            State::Ending | State::Dropped => {}
        }
        keep(&mut shared.writer, cx);
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drop for BatchIo<T> {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.state = State::Dropped;
        wake(&mut shared.flusher);
        wake(&mut shared.stalled);
        let waits = shared.at < shared.out.len() && !shared.failed;
        if let (true, Ok(mut io)) = (waits, self.io.try_borrow_mut()) {
            let cx = &mut Context::from_waker(Waker::noop());
            if let Poll::Ready(written) = shared.poll_write_out(&mut *io, cx) {
                shared.written(written);
            }
            discard(&mut *io, cx);
        }
    }
}

/// What a server says of a client's certificate; any other failure of TLS may come at any time.
fn is_about_us(reason: Reason) -> bool {
    matches!(reason, Reason::NoCertificate | Reason::TlsExpired | Reason::TlsUntrusted | Reason::TlsWrongIdentity)
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

#[cfg(test)]
pub(super) mod tests;
