//! One body for several readers: the original is forwarded at its own pace, and copies take what passes by. A copy must never
//! slow the original down: one that falls behind by more than `COPY_MAX` is cut.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::body::Body;

/// Bytes that may wait for a copy's reader: one stream's share of what may wait in the proxy.
const COPY_MAX: usize = 64 * 1024;

/// The body as it is forwarded. Dropped before its end, it cuts its copies too.
pub struct Original<'c> {
    body: Body<'c>,
    feeds: Vec<Rc<RefCell<Feed>>>,
    trailers: Option<Headers>,
}

/// What one copy has yet to read.
struct Feed {
    pieces: VecDeque<Bytes>,
    waiting: usize,
    /// How many bytes are still to be read, where the original said so.
    left: Option<u64>,
    end: Option<Result<Option<Headers>, Reason>>,
    reader: Option<Waker>,
}

/// A copy of a body. It needs nothing of the connection that the original came on.
pub struct Copy(Rc<RefCell<Feed>>);

/// The body to forward, and `count` copies of it. Bytes are shared, not copied.
pub fn copies(body: Body<'_>, count: usize) -> (Body<'_>, Vec<Body<'static>>) {
    match body {
        Body::Empty => (Body::Empty, (0..count).map(|_| Body::Empty).collect()),
        Body::Full(bytes) => {
            let copies = (0..count).map(|_| Body::Full(bytes.clone())).collect();
            (Body::Full(bytes), copies)
        }
        body => {
            let left = body.length();
            let feed = || Feed { pieces: VecDeque::new(), waiting: 0, left, end: None, reader: None };
            let feeds: Vec<_> = (0..count).map(|_| Rc::new(RefCell::new(feed()))).collect();
            let copies = feeds.iter().map(|feed| Body::Copy(Copy(Rc::clone(feed)))).collect();
            (Body::Original(Box::new(Original { body, feeds, trailers: None })), copies)
        }
    }
}

impl Original<'_> {
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        let polled = self.body.poll_data(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(data))) => self.feeds.iter().for_each(|feed| feed.borrow_mut().push(data)),
            Poll::Ready(Some(Err(reason))) => self.end(&Err(*reason)),
            Poll::Ready(None) => {
                self.trailers = self.body.trailers();
                self.end(&Ok(self.trailers.clone()));
            }
        }
        polled
    }

    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) {
        self.body.poll_idle(cx);
    }

    pub(super) fn trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.body.length()
    }

    fn end(&mut self, how: &Result<Option<Headers>, Reason>) {
        for feed in self.feeds.drain(..) {
            feed.borrow_mut().finish(how.clone());
        }
    }
}

impl Drop for Original<'_> {
    fn drop(&mut self) {
        self.end(&Err(Reason::ClientGone));
    }
}

impl Feed {
    fn push(&mut self, data: &Bytes) {
        if self.end.is_some() {
            return;
        }
        self.waiting += data.len();
        if self.waiting > COPY_MAX {
            self.pieces.clear();
            return self.finish(Err(Reason::OverloadMemory));
        }
        self.pieces.push_back(data.clone());
        self.wake();
    }

    fn finish(&mut self, how: Result<Option<Headers>, Reason>) {
        self.end.get_or_insert(how);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Copy {
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        let mut feed = self.0.borrow_mut();
        if let Some(data) = feed.pieces.pop_front() {
            feed.waiting -= data.len();
            feed.left = feed.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(data)));
        }
        match &feed.end {
            Some(Ok(_)) => Poll::Ready(None),
            Some(Err(reason)) => {
                let reason = *reason;
                feed.end = Some(Ok(None));
                Poll::Ready(Some(Err(reason)))
            }
            None => {
                feed.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn trailers(&mut self) -> Option<Headers> {
        match &mut self.0.borrow_mut().end {
            Some(Ok(trailers)) => trailers.take(),
            Some(Err(_)) | None => None,
        }
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.0.borrow().left
    }
}

/// Nobody reads any more: what passes by is no longer kept.
impl Drop for Copy {
    fn drop(&mut self) {
        let mut feed = self.0.borrow_mut();
        feed.end = Some(Ok(None));
        feed.pieces.clear();
    }
}
