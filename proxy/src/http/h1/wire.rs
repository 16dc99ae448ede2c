//! A connection's bytes on both sides of the codec: what was read and not yet understood, what was encoded and not yet
//! written. It must never keep a buffer for a connection in which nothing moves.

use std::future::Future;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;

use crate::http::h1::encode;
use crate::net;
use crate::net::Io;
use crate::net::buffer;

/// A connection with what was already read from it.
pub struct Stream {
    pub io: Io,
    pub read: BytesMut,
}

impl From<Io> for Stream {
    fn from(io: Io) -> Self {
        Self { io, read: BytesMut::new() }
    }
}

pub struct Wire {
    pub io: Io,
    pub read: BytesMut,
    /// The peer has sent its FIN.
    pub read_ended: bool,
    /// Bytes that the transport took, over the connection's life.
    pub written: u64,
    out: BytesMut,
    /// How much of `out` is written.
    out_written: usize,
    /// A large piece of a body, written from where it lies after `out`, and the line end after it.
    tail: Bytes,
    tail_end: &'static [u8],
    unflushed: bool,
    /// The connection is closed once what waits is written, without another word to hear: it may leave with the FIN.
    pub last: bool,
}

/// How pieces of a body look on this wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    Plain,
    Chunked,
}

impl Pieces {
    fn end(self) -> &'static [u8] {
        match self {
            Self::Plain => b"",
            Self::Chunked => b"\r\n",
        }
    }
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        Self {
            io: stream.io,
            read: stream.read,
            read_ended: false,
            written: 0,
            out: BytesMut::new(),
            out_written: 0,
            tail: Bytes::new(),
            tail_end: b"",
            unflushed: false,
            last: false,
        }
    }

    pub fn into_stream(self) -> Stream {
        Stream { io: self.io, read: self.read }
    }

    /// Reads once, as much as a head and a body behind it may be. `Ok(0)` is the peer's FIN.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read(READ_ROOM_MIN, buffer::SIZE, cx)
    }

    /// Reads once what continues a body: pieces that fill a frame, and leave nothing over.
    pub fn poll_fill_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read(PIECE, PIECE, cx)
    }

    /// Into an empty buffer's rest only where that is at least `room`.
    fn poll_read(&mut self, room: usize, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read_ended {
            return Poll::Ready(Ok(0));
        }
        if self.read.is_empty() && self.read.capacity() < room && !self.read.try_reclaim(buffer::SIZE) {
            self.read = buffer::take();
        } else if self.read.capacity() - self.read.len() < READ_ROOM_MIN {
            self.read.reserve(buffer::SIZE);
        }
        let outcome = pin!(self.io.read_buf(&mut (&mut self.read).limit(most))).poll(cx);
        match outcome {
            Poll::Ready(Ok(0)) => self.read_ended = true,
            Poll::Pending if self.read.is_empty() => buffer::give(std::mem::take(&mut self.read)),
            Poll::Ready(_) | Poll::Pending => {}
        }
        outcome
    }

    /// Where heads are encoded to.
    pub fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out = buffer::take();
        }
        &mut self.out
    }

    /// Whether another piece may be pushed: bounds what waits to be written.
    pub fn has_room(&self) -> bool {
        self.tail.is_empty() && self.tail_end.is_empty() && self.out.len() - self.out_written < OUT_MAX
    }

    pub fn has_unwritten(&self) -> bool {
        self.out_written < self.out.len() || !self.tail.is_empty() || !self.tail_end.is_empty() || self.unflushed
    }

    /// Only while `has_room`.
    pub fn push(&mut self, data: Bytes, pieces: Pieces) {
        if Self::copies(&data) {
            return self.push_copy(&data, pieces);
        }
        if pieces == Pieces::Chunked {
            encode::chunk_head(data.len(), self.out());
        }
        self.tail = data;
        self.tail_end = pieces.end();
    }

    /// Whether `push` leaves the piece to whoever has it.
    pub fn copies(data: &[u8]) -> bool {
        data.len() <= COPY_MAX
    }

    pub fn push_copy(&mut self, data: &[u8], pieces: Pieces) {
        let out = self.out();
        if pieces == Pieces::Chunked {
            encode::chunk_head(data.len(), out);
        }
        out.extend_from_slice(data);
        out.extend_from_slice(pieces.end());
    }

    /// Writes all that waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let head = &self.out[self.out_written..];
            let outcome = match (head.is_empty(), self.tail.is_empty(), self.tail_end.is_empty()) {
                (true, true, true) => break,
                (false, true, true) if !self.last => Pin::new(&mut self.io).poll_write(cx, head),
                _ if self.last || self.io.is_write_vectored() => {
                    let parts = [IoSlice::new(head), IoSlice::new(&self.tail), IoSlice::new(self.tail_end)];
                    match self.last {
                        true => self.io.poll_write_last(cx, &parts),
                        false => Pin::new(&mut self.io).poll_write_vectored(cx, &parts),
                    }
                }
                (false, _, _) => Pin::new(&mut self.io).poll_write(cx, head),
                (true, false, _) => Pin::new(&mut self.io).poll_write(cx, &self.tail),
                (true, true, false) => Pin::new(&mut self.io).poll_write(cx, self.tail_end),
            };
            let n = ready!(outcome)?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, n: usize) {
        self.written += n as u64;
        self.unflushed = true;
        let head = n.min(self.out.len() - self.out_written);
        self.out_written += head;
        if self.out_written == self.out.len() {
            self.out.clear();
            self.out_written = 0;
        }
        let tail = (n - head).min(self.tail.len());
        self.tail.advance(tail);
        if self.tail.is_empty() && tail > 0 {
            // Whoever made the piece may want its memory back now.
            self.tail = Bytes::new();
        }
        self.tail_end = &self.tail_end[n - head - tail..];
    }

    /// Nothing is under way: the buffers go back.
    pub fn rest(&mut self) {
        if self.out.is_empty() {
            buffer::give(std::mem::take(&mut self.out));
        }
        if self.read.is_empty() {
            buffer::give(std::mem::take(&mut self.read));
        }
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// The close that follows is a reset: the peer must not take what it has for complete.
    pub fn reset_on_close(&self) {
        if let Some(tcp) = self.io.tcp() {
            net::reset_on_close(tcp);
        }
    }
}

/// Less free room than this is not worth a read.
const READ_ROOM_MIN: usize = 2 * 1024;
/// What a body is read in: the payload of a full HTTP/2 frame.
const PIECE: usize = 16 * 1024;
/// Larger pieces are written from where they lie.
const COPY_MAX: usize = 8 * 1024;
/// Encoded bytes that may wait to be written.
const OUT_MAX: usize = 32 * 1024;
