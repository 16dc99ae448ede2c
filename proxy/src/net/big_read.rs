//! Reads that are large enough to be few: rustls alone asks the kernel for 4 KiB a call. It must never keep a buffer while
//! nothing is in it, so that idle connections cost none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// Two full TLS records.
const SIZE: usize = 32 * 1024;
/// Buffers that a thread keeps for reuse: as many connections as are mid-read at once.
const SPARES: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A stream whose reads below the caller are 32 KiB, in a buffer that is borrowed from the thread while it holds bytes.
/// Writes pass through.
pub struct BigRead<T> {
    io: T,
    buf: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl<T> BigRead<T> {
    pub fn new(io: T) -> Self {
        Self { io, buf: None, start: 0, end: 0 }
    }

    pub fn io(&self) -> &T {
        &self.io
    }

    /// Whether bytes were read from the stream that nobody has taken yet.
    pub fn has_buffered(&self) -> bool {
        self.start < self.end
    }

    fn give_back(&mut self) {
        if let Some(buf) = self.buf.take() {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARES {
                    spare.push(buf);
                }
            });
        }
    }
}

impl<T> Drop for BigRead<T> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for BigRead<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            if out.remaining() >= SIZE {
                return Pin::new(&mut this.io).poll_read(cx, out);
            }
            let buf = this.buf.get_or_insert_with(|| {
                SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
            });
            let mut read = ReadBuf::new(buf);
            let result = Pin::new(&mut this.io).poll_read(cx, &mut read);
            let filled = read.filled().len();
            if filled == 0 {
                this.give_back();
            }
            ready!(result)?;
            (this.start, this.end) = (0, filled);
        }
        if let Some(buf) = &this.buf {
            let n = out.remaining().min(this.end - this.start);
            out.put_slice(&buf[this.start..this.start + n]);
            this.start += n;
        }
        if this.start == this.end {
            this.give_back();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for BigRead<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
