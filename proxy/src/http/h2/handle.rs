//! A stream as its task has it. It must never borrow the connection's state across a wait, and the stream goes with its last
//! handle.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::h2::frame::Code;
use crate::http::h2::head;
use crate::http::h2::state::Core;
use crate::http::h2::state::State;
use crate::http::h2::stream::End;
use crate::http::h2::stream::Gone;
use crate::http::h2::stream::Stream;

pub(super) struct Handle {
    core: Core,
    key: u32,
}

impl Handle {
    /// The hold that the stream began with.
    pub(super) fn adopt(core: &Core, key: u32) -> Self {
        Self { core: Rc::clone(core), key }
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&mut Stream) -> R) -> R {
        look(self.core.borrow_mut().stream(self.key))
    }

    pub(super) fn state<R>(&self, look: impl FnOnce(&mut State, u32) -> R) -> R {
        look(&mut self.core.borrow_mut(), self.key)
    }

    pub(super) fn reset(&self, code: Code) {
        self.state(|state, key| state.reset(key, code));
    }

    /// The next piece of the peer's body.
    pub(super) fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        let mut state = self.core.borrow_mut();
        let stream = state.stream(self.key);
        if let Some(data) = stream.take() {
            state.ledger().sub(data.len());
            state.credit(self.key, data.len());
            return Poll::Ready(Some(Ok(data)));
        }
        match stream.end {
            End::NotYet => {
                stream.starved = true;
                keep(&mut stream.reader, cx);
                Poll::Pending
            }
            End::Cut(reason) => {
                stream.end = End::Told;
                Poll::Ready(Some(Err(reason)))
            }
            End::Whole(_) | End::Told => Poll::Ready(None),
        }
    }

    pub(super) fn trailers(&self) -> Option<Headers> {
        self.with(|stream| match &mut stream.end {
            End::Whole(trailers) => trailers.take(),
            End::NotYet | End::Cut(_) | End::Told => None,
        })
    }

    /// How much of the body is still to be read, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.with(|stream| match stream.end {
            End::Whole(_) => Some(stream.held as u64),
            _ => stream.length.map(|length| (length + stream.held as u64).saturating_sub(stream.received)),
        })
    }

    /// No more of it is taken; its reader learns why.
    pub(super) fn cut(&self, reason: Reason) {
        self.abandon();
        self.with(|stream| {
            stream.end = End::Cut(reason);
            stream.wake_reader();
        });
    }

    /// Nobody reads any more.
    pub(super) fn abandon(&self) {
        self.state(|state, key| {
            let stream = state.stream(key);
            stream.unread = true;
            let owed = std::mem::take(&mut stream.owed);
            let unread = stream.forget_unread();
            state.ledger().sub(unread);
            state.owed += owed + unread;
            state.pay();
        });
    }

    /// Whether the stream has room for a piece more, or why it never will.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.with(|stream| match stream.gone {
            Some(gone) => Poll::Ready(Err(gone)),
            None if stream.pending.is_empty() => Poll::Ready(Ok(())),
            None => {
                keep(&mut stream.writer, cx);
                Poll::Pending
            }
        })
    }

    /// Ready when the stream is gone; else whoever asks is woken then.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Gone> {
        self.with(|stream| match stream.gone {
            Some(gone) => Poll::Ready(gone),
            None => {
                keep(&mut stream.writer, cx);
                Poll::Pending
            }
        })
    }

    pub(super) fn send(&self, data: Bytes, last: bool) {
        self.state(|state, key| state.send(key, data, last));
    }

    pub(super) fn send_trailers(&self, trailers: &Headers) {
        self.state(|state, key| {
            let stream = state.stream(key);
            stream.ended = true;
            let id = stream.id;
            state.say_head(id, true, |encoder, _, out| {
                head::write_trailers(encoder, out, trailers);
                Ok::<(), ()>(())
            });
            state.settle(key);
        });
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.with(|stream| stream.holders += 1);
        Self { core: Rc::clone(&self.core), key: self.key }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.borrow_mut().release(self.key);
    }
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}
