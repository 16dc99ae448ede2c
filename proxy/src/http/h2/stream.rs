//! One stream: what has come and nobody has read, and what is to go and had no room. It must never be taken for closed by one
//! end while the other still waits.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use bytes::BytesMut;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::h2::SMALL;
use crate::http::h2::frame::Code;
use crate::http::head::ResponseHead;

/// Why a stream is over before both ends said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// The peer reset it.
    Reset(Code),
    /// We did: for what the peer said on it, or because nobody wants it.
    Ours(Code),
    /// The peer went away without a look at it, or it never left.
    Unseen,
    /// The connection ended; by the peer's fault, or it was lost.
    Lost { broken: bool },
}

/// How the peer's body has ended.
#[derive(Debug)]
pub(super) enum End {
    NotYet,
    Whole(Option<Headers>),
    Cut(Reason),
    Told,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Where its first byte of ours stands among all of the connection (client).
    pub(super) begun_at: u64,
    /// Handles that refer to it; nought: the place is free.
    pub(super) holders: u32,
    /// It counts among the connection's open streams.
    pub(super) open: bool,
    pub(super) gone: Option<Gone>,
    /// The head has come (at a client), or has gone (at a server).
    pub(super) answered: bool,
    /// An answer to HEAD declares what it does not send.
    pub(super) is_head: bool,

    pub(super) head: Option<ResponseHead>,
    pub(super) interim: Vec<ResponseHead>,
    pub(super) ahead: VecDeque<Bytes>,
    /// The last of what is ahead: small frames put together.
    pub(super) tail: BytesMut,
    /// Bytes in `ahead` and `tail`, as the ledger has them.
    pub(super) held: usize,
    /// Bytes handed on for which the peer has no credit of the connection yet.
    pub(super) owed: usize,
    /// What the peer may still send.
    pub(super) window: i64,
    /// It has filled its first window.
    pub(super) large: bool,
    pub(super) peer_ended: bool,
    pub(super) end: End,
    pub(super) length: Option<u64>,
    pub(super) received: u64,
    /// The reader asked for more and there was none.
    pub(super) starved: bool,
    /// The reader went away.
    pub(super) unread: bool,

    /// What we may still send; below nought after the peer has made its window smaller.
    pub(super) room: i64,
    pub(super) pending: Bytes,
    /// After `pending` comes nothing.
    pub(super) last: bool,
    pub(super) queued: bool,
    pub(super) sent: u64,
    pub(super) ended: bool,

    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            id: 0,
            begun_at: 0,
            holders: 0,
            open: false,
            gone: None,
            answered: false,
            is_head: false,
            head: None,
            interim: Vec::new(),
            ahead: VecDeque::new(),
            tail: BytesMut::new(),
            held: 0,
            owed: 0,
            window: 0,
            large: false,
            peer_ended: false,
            end: End::NotYet,
            length: None,
            received: 0,
            starved: false,
            unread: false,
            room: 0,
            pending: Bytes::new(),
            last: false,
            queued: false,
            sent: 0,
            ended: false,
            reader: None,
            writer: None,
        }
    }

    /// As new, but for the memory it has.
    pub(super) fn begin(&mut self, id: u32, window: i64, room: i64) {
        self.id = id;
        self.holders = 1;
        self.open = true;
        self.gone = None;
        self.answered = false;
        self.is_head = false;
        self.owed = 0;
        self.window = window;
        self.large = false;
        self.peer_ended = false;
        self.end = End::NotYet;
        self.length = None;
        self.received = 0;
        self.starved = false;
        self.unread = false;
        self.room = room;
        self.last = false;
        self.queued = false;
        self.sent = 0;
        self.ended = false;
    }

    /// Lets go of what it holds. How much was unread.
    pub(super) fn clear(&mut self) -> usize {
        self.head = None;
        self.interim.clear();
        self.pending = Bytes::new();
        self.reader = None;
        self.writer = None;
        self.end = End::Told;
        self.forget_unread()
    }

    pub(super) fn forget_unread(&mut self) -> usize {
        self.ahead.clear();
        self.tail.clear();
        if self.ahead.capacity() > SPARE_PIECES {
            self.ahead = VecDeque::new();
        }
        if self.tail.capacity() > SMALL {
            self.tail = BytesMut::new();
        }
        std::mem::take(&mut self.held)
    }

    pub(super) fn keep(&mut self, data: &[u8]) {
        if data.len() >= SMALL {
            return self.keep_whole(Bytes::copy_from_slice(data));
        }
        self.held += data.len();
        self.tail.extend_from_slice(data);
    }

    pub(super) fn keep_whole(&mut self, data: Bytes) {
        self.held += data.len();
        if !self.tail.is_empty() {
            self.ahead.push_back(self.tail.split().freeze());
        }
        self.ahead.push_back(data);
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        let data = match self.ahead.pop_front() {
            Some(data) => data,
            None if self.tail.is_empty() => return None,
            None => self.tail.split().freeze(),
        };
        self.held -= data.len();
        Some(data)
    }

    pub(super) fn is_over(&self) -> bool {
        self.gone.is_some() || (self.peer_ended && self.ended)
    }

    /// Whether the peer has ended it without a body.
    pub(super) fn has_nothing(&self) -> bool {
        self.received == 0 && matches!(self.end, End::Whole(None))
    }

    /// While the reader waits for the peer: how much it has had so far.
    pub(super) fn starved(&self) -> Option<u64> {
        (self.starved && self.held == 0 && matches!(self.end, End::NotYet)).then_some(self.received)
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Over for this reason: whoever waits for it learns so. How the body ended stands if it had.
    pub(super) fn over(&mut self, gone: Gone, cut: Reason) {
        self.gone.get_or_insert(gone);
        if matches!(self.end, End::NotYet) {
            let whole = self.length.is_none_or(|length| length == self.received);
            self.end = match gone {
                // RFC 9113 section 8.1: a reset without an error follows a whole answer.
                Gone::Reset(Code::NO_ERROR) if whole => End::Whole(None),
                _ => End::Cut(cut),
            };
        }
        self.pending = Bytes::new();
        self.wake_reader();
        self.wake_writer();
    }
}

/// Room for pieces that a place keeps for its next stream.
const SPARE_PIECES: usize = 32;
