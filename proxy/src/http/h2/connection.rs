//! The connection's own task: reads what comes, in place, and looks after what has a time. It must never read on while the
//! peer owes it silence, nor keep a read buffer that holds nothing.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::http::h2::FRAME;
use crate::http::h2::KeepAlive;
use crate::http::h2::batch::BatchIo;
use crate::http::h2::frame;
use crate::http::h2::frame::Code;
use crate::http::h2::frame::Head;
use crate::http::h2::state::ALIVE;
use crate::http::h2::state::Core;
use crate::http::h2::state::Ended;
use crate::http::h2::state::State;
use crate::timer::Sleep;
use crate::timer::Timers;

/// What one read takes at most.
const READ: usize = 32 * 1024;
/// A read behind what was left of a frame.
const SIZE: usize = READ + FRAME + frame::HEAD;

thread_local! {
    /// Lent while bytes are read and looked at, which is never for longer than a poll.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Connection<T: AsyncRead + AsyncWrite + Unpin> {
    io: BatchIo<T>,
    pub(super) core: Core,
    /// The beginning of a frame.
    left: Vec<u8>,
    /// The beginning of a large DATA frame, which mostly comes in several reads: a full one is longer than a TLS record. Put
    /// together here, it is copied once.
    data: Option<(Head, BytesMut)>,
    /// The preface has not been read yet.
    nameless: bool,
    pings: Option<Pings>,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Connection<T> {
    pub(super) fn new(io: BatchIo<T>, core: Core, timers: &Timers) -> Self {
        let (nameless, every) = (core.borrow().is_server, core.borrow().settings.keep_alive);
        let pings = every.map(|every| Pings::new(every, timers));
        Self { io, core, left: Vec::new(), data: None, nameless, pings }
    }

    /// Ready once the client has said what it speaks, or has not.
    pub(super) fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.core.borrow_mut().driver = Some(cx.waker().clone());
        while self.nameless && self.core.borrow().ended.is_none() {
            ready!(self.poll_read(cx));
        }
        Poll::Ready(())
    }

    /// Takes what has come. Ready when the connection has ended, and the state says how.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.core.borrow_mut();
            match &mut state.driver {
                Some(driver) => driver.clone_from(cx.waker()),
                None => state.driver = Some(cx.waker().clone()),
            }
            state.pump();
        }
        while self.core.borrow().ended.is_none() {
            if self.core.borrow_mut().is_owed_silence() {
                self.core.borrow().writer.wake_when_written(cx.waker());
                break;
            }
            if self.poll_read(cx).is_pending() {
                break;
            }
        }
        let mut state = self.core.borrow_mut();
        if state.ended.is_some() {
            return Poll::Ready(());
        }
        state.pump();
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        if std::mem::take(&mut state.pong) {
            pings.answered();
        }
        match pings.poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Told::Ask) => {
                state.say_ping(ALIVE);
                drop(state);
                return self.poll(cx);
            }
            Poll::Ready(Told::Gone) => {
                state.end(Ended::Lost);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// One read, and what it brought.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                buffer.resize(SIZE, 0);
            }
            let before = self.left.len();
            let mut read = ReadBuf::new(&mut buffer[before..before + READ]);
            let result = ready!(Pin::new(&mut self.io).poll_read(cx, &mut read));
            let n = read.filled().len();
            let mut state = self.core.borrow_mut();
            if result.is_err() {
                state.end(Ended::Lost);
                return Poll::Ready(());
            }
            if n == 0 {
                state.end(if before == 0 && self.data.is_none() && !self.nameless {
                    Ended::Closed
                } else {
                    Ended::Lost
                });
                return Poll::Ready(());
            }
            buffer[..before].copy_from_slice(&self.left);
            let mut bytes = &buffer[..before + n];
            if self.nameless {
                let said = bytes.len().min(frame::PREFACE.len());
                if bytes[..said] != frame::PREFACE[..said] {
                    state.end(Ended::Broken(Code::PROTOCOL_ERROR));
                    return Poll::Ready(());
                }
                if said < frame::PREFACE.len() {
                    self.left.extend_from_slice(&bytes[before..]);
                    return Poll::Ready(());
                }
                self.nameless = false;
                bytes = &bytes[said..];
            }
            match put_together(&mut self.data, bytes, &mut state).and_then(|rest| Ok(&rest[state.frames(rest)?..])) {
                Ok(rest) => {
                    drop(state);
                    self.keep(rest);
                }
                Err(code) => state.end(Ended::Broken(code)),
            }
            Poll::Ready(())
        })
    }

    /// What is no whole frame yet.
    fn keep(&mut self, bytes: &[u8]) {
        self.left.clear();
        if let Some(head) = Head::of_large_data(bytes) {
            let mut data = BytesMut::with_capacity(head.length);
            data.extend_from_slice(&bytes[frame::HEAD..]);
            self.data = Some((head, data));
        } else {
            self.left.extend_from_slice(bytes);
        }
        if self.left.is_empty() && self.left.capacity() > SMALL_LEFT {
            self.left = Vec::new();
        }
    }

    /// Lets everything that was said reach the peer, and says that no more comes.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_shutdown(cx)
    }

    /// After that: ready once the peer has closed too. What it still says is read away; closing the socket before it would
    /// be answered with a reset, which destroys what the peer has not got yet.
    pub(super) fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                buffer.resize(SIZE, 0);
            }
            loop {
                let mut read = ReadBuf::new(&mut buffer[..READ]);
                let result = ready!(Pin::new(&mut self.io).poll_read(cx, &mut read));
                if result.is_err() || read.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        })
    }
}

/// Gives the DATA frame that has begun what belongs to it; the rest.
fn put_together<'b>(
    begun: &mut Option<(Head, BytesMut)>,
    bytes: &'b [u8],
    state: &mut State,
) -> Result<&'b [u8], Code> {
    let Some((head, mut data)) = begun.take() else { return Ok(bytes) };
    let (more, rest) = bytes.split_at(bytes.len().min(head.length - data.len()));
    data.extend_from_slice(more);
    if data.len() < head.length {
        *begun = Some((head, data));
    } else {
        state.put_together(&head, data.freeze())?;
    }
    Ok(rest)
}

/// However the task goes, its streams learn of it, and a client learns which of its requests nobody has looked at.
impl<T: AsyncRead + AsyncWrite + Unpin> Drop for Connection<T> {
    fn drop(&mut self) {
        let mut state = self.core.borrow_mut();
        if state.is_server && !self.nameless && state.ended.is_none() && state.told.is_none() {
            state.say_goaway(state.last_id, Code::NO_ERROR);
        }
        state.end(Ended::Lost);
    }
}

/// Pings that tell a silent peer from a gone one.
struct Pings {
    every: KeepAlive,
    timers: Timers,
    sleep: Sleep,
    /// A ping is on its way: `sleep` is its deadline.
    asked: bool,
}

enum Told {
    Ask,
    Gone,
}

impl Pings {
    fn new(every: KeepAlive, timers: &Timers) -> Self {
        Self { every, timers: timers.clone(), sleep: timers.sleep(every.interval), asked: false }
    }

    fn answered(&mut self) {
        if self.asked {
            self.wait(false);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Told> {
        ready!(self.sleep.poll_elapsed(cx));
        if self.asked {
            return Poll::Ready(Told::Gone);
        }
        self.wait(true);
        Poll::Ready(Told::Ask)
    }

    fn wait(&mut self, asked: bool) {
        self.asked = asked;
        self.sleep = self.timers.sleep(if asked { self.every.timeout } else { self.every.interval });
    }
}

/// What may be kept between reads without anything in it.
const SMALL_LEFT: usize = 1024;
