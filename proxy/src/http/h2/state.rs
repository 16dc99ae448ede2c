//! One connection's state, without its stream: frames in, and frames appended to what the flusher writes. It must never wait,
//! nor hold more than the windows and the bounds below allow.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use bytes::Buf;
use bytes::Bytes;
use tokio::time::Instant;

use crate::error::Reason;
use crate::http::h2::FRAME;
use crate::http::h2::Ledger;
use crate::http::h2::Settings;
use crate::http::h2::batch::Writer;
use crate::http::h2::frame;
use crate::http::h2::frame::Code;
use crate::http::h2::frame::Head;
use crate::http::h2::frame::MOST;
use crate::http::h2::head::Memory;
use crate::http::h2::hpack::decode::Decoder;
use crate::http::h2::hpack::encode::Encoder;
use crate::http::h2::stream::Gone;
use crate::http::h2::stream::Stream;
use crate::http::head::RequestHead;
use crate::net::buffer;
use crate::quick::Table;

pub(super) struct State {
    pub(super) is_server: bool,
    pub(super) settings: Settings,
    pub(super) writer: Writer,
    /// Woken when there is something for the connection's own task to do.
    pub(super) driver: Option<Waker>,
    pub(super) streams: Vec<Stream>,
    free: Vec<u32>,
    pub(super) ids: Table<u32, u32>,
    /// Streams that are not over, and places that are taken.
    pub(super) open: usize,
    pub(super) live: usize,
    /// Places of streams that have filled their first window.
    large: u32,
    pub(super) idle_since: Instant,
    /// The next stream of ours (client).
    pub(super) next_id: u32,
    /// The peer's last (server).
    pub(super) last_id: u32,

    pub(super) room: i64,
    pub(super) peer_window: i64,
    pub(super) peer_streams: Option<u32>,
    /// Streams with data to send, in turn.
    queue: VecDeque<(u32, u32)>,
    pub(super) window: i64,
    pub(super) owed: usize,

    pub(super) encoder: Encoder,
    pub(super) written: Memory,
    pub(super) decoder: Decoder,
    pub(super) read: Memory,
    /// A head that goes on in CONTINUATION frames.
    pub(super) unfinished: Option<Unfinished>,
    pub(super) block: Vec<u8>,

    pub(super) settled: bool,
    /// DATA frames with nothing in them, one after the other.
    pub(super) empty: u32,
    /// Bytes of answers to the peer's frames since the peer took everything.
    pub(super) replies: usize,
    /// Streams that we have reset for the peer's errors.
    pub(super) resets: usize,
    /// The last streams that we have reset: of these the peer may still send, not knowing it yet.
    reset: VecDeque<u32>,
    pub(super) early: Early,
    pub(super) pong: bool,
    /// The peer was asked to go, or told its last stream.
    pub(super) asked: bool,
    pub(super) told: Option<u32>,
    /// No new streams: the peer goes.
    pub(super) going: bool,
    pub(super) accepted: Vec<Accepted>,
    pub(super) ended: Option<Ended>,
}

pub(super) struct Unfinished {
    pub(super) stream: u32,
    pub(super) flags: u8,
    pub(super) frames: u32,
}

/// What arrived as a request.
pub(super) enum Accepted {
    Request(u32, RequestHead),
    Refused(u32, Reason),
    Connect(u32),
    /// The proxy holds too much.
    Overloaded,
}

/// How the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Closed,
    /// The stream below failed, or ended within a frame.
    Lost,
    /// The peer broke the protocol.
    Broken(Code),
}

/// Requests that the peer may still reset before they were answered, and when that was so.
pub(super) struct Early {
    pub(super) left: f64,
    pub(super) at: Instant,
}

/// What a frame was that ends the connection.
pub(super) type Framed = Result<(), Code>;

/// A connection's state as its task and its streams share it.
pub(super) type Core = Rc<RefCell<State>>;

impl State {
    pub(super) fn new(is_server: bool, settings: &Settings, writer: Writer) -> Self {
        let now = Instant::now();
        let state = Self {
            is_server,
            settings: settings.clone(),
            writer,
            driver: None,
            streams: Vec::new(),
            free: Vec::new(),
            ids: Table::default(),
            open: 0,
            live: 0,
            large: 0,
            idle_since: now,
            next_id: 1,
            last_id: 0,
            room: i64::from(u16::MAX),
            peer_window: i64::from(u16::MAX),
            peer_streams: None,
            queue: VecDeque::new(),
            window: i64::from(settings.connection_window()),
            owed: 0,
            encoder: Encoder::new(),
            written: Memory::new(),
            decoder: Decoder::new(),
            read: Memory::new(),
            unfinished: None,
            block: Vec::new(),
            settled: false,
            empty: 0,
            replies: 0,
            resets: 0,
            reset: VecDeque::new(),
            early: Early { left: f64::from(settings.early_resets), at: now },
            pong: false,
            asked: false,
            told: None,
            going: false,
            accepted: Vec::new(),
            ended: None,
        };
        state.say_settings();
        state
    }

    /// What goes before everything else.
    fn say_settings(&self) {
        let settings = &self.settings;
        let mut said =
            vec![(frame::SET_WINDOW, settings.first_window()), (frame::SET_HEADER_LIST, settings.header_list)];
        said.push(match self.is_server {
            true => (frame::SET_STREAMS, settings.streams),
            false => (frame::SET_PUSH, 0),
        });
        self.writer.append(|out| {
            if !self.is_server {
                out.extend_from_slice(frame::PREFACE);
            }
            frame::put(out, said.len() * 6, frame::SETTINGS, 0, 0);
            for (name, value) in said {
                out.extend_from_slice(&name.to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
            let more = settings.connection_window().saturating_sub(u32::from(u16::MAX));
            if more > 0 {
                frame::put_u32(out, frame::WINDOW_UPDATE, 0, more);
            }
        });
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.settings.ledger
    }

    pub(super) fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// A place for a stream, held once.
    pub(super) fn begin(&mut self, id: u32) -> u32 {
        let key = match self.free.pop() {
            Some(key) => key,
            None => {
                push_one(&mut self.streams, Stream::new());
                self.streams.len() as u32 - 1
            }
        };
        // Until the peer has read our settings it goes by the protocol's own.
        let window = i64::from(self.settings.first_window().max(u32::from(u16::MAX)));
        self.streams[key as usize].begin(id, window, self.peer_window);
        self.ids.insert(id, key);
        self.open += 1;
        self.live += 1;
        key
    }

    pub(super) fn stream(&mut self, key: u32) -> &mut Stream {
        &mut self.streams[key as usize]
    }

    /// Takes a stream that is over out of the count.
    pub(super) fn settle(&mut self, key: u32) {
        let stream = &mut self.streams[key as usize];
        if stream.open && stream.is_over() {
            stream.open = false;
            self.open -= 1;
            if self.open == 0 {
                self.idle_since = Instant::now();
                if self.asked || self.going {
                    self.wake_driver();
                }
            }
        }
    }

    /// A handle less. With the last one goes the stream.
    pub(super) fn release(&mut self, key: u32) {
        let stream = &mut self.streams[key as usize];
        stream.holders -= 1;
        if stream.holders > 0 {
            return;
        }
        if !stream.is_over() {
            // A server that has answered needs no more of the request; anything else is given up.
            let code = if self.is_server && stream.ended { Code::NO_ERROR } else { Code::CANCEL };
            self.reset(key, code);
        }
        let stream = &mut self.streams[key as usize];
        let (id, unread) = (stream.id, stream.clear());
        let owed = unread + stream.owed;
        let large = std::mem::take(&mut stream.large);
        self.large -= u32::from(large);
        self.ledger().sub(unread);
        self.owed += owed;
        self.pay();
        self.ids.remove(&id);
        self.free.push(key);
        self.live -= 1;
        if self.live == 0 && self.going {
            self.wake_driver();
        }
    }

    /// Resets a stream of our own accord.
    pub(super) fn reset(&mut self, key: u32, code: Code) {
        let stream = &mut self.streams[key as usize];
        if stream.is_over() {
            return;
        }
        let id = stream.id;
        stream.over(Gone::Ours(code), if self.is_server { Reason::ClientGone } else { Reason::AppReset });
        self.say_reset(id, code);
        self.settle(key);
    }

    pub(super) fn say_reset(&mut self, id: u32, code: Code) {
        if self.reset.len() >= RESET_MAX {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
        self.replies += frame::HEAD + 4;
        self.writer.append(|out| frame::put_u32(out, frame::RST_STREAM, id, code.0));
    }

    /// Resets a stream for what the peer did. Who makes us do so again and again is told off.
    pub(super) fn fault(&mut self, key: u32, code: Code) -> Framed {
        let cut = if self.is_server { Reason::BadFraming } else { Reason::ProtocolError };
        let stream = &mut self.streams[key as usize];
        if !stream.is_over() {
            let id = stream.id;
            stream.over(Gone::Ours(code), cut);
            self.say_reset(id, code);
            self.settle(key);
        }
        self.count_fault()
    }

    pub(super) fn count_fault(&mut self) -> Framed {
        self.resets += 1;
        if self.resets > self.settings.local_resets { Err(Code::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    /// Gives the connection's credit back, once it is worth a frame.
    pub(super) fn pay(&mut self) {
        let worth = (self.settings.connection_window() / 4).min(self.settings.stream_window / 2);
        if self.owed >= (worth as usize).max(1) && self.ended.is_none() {
            let owed = std::mem::take(&mut self.owed);
            self.window += owed as i64;
            self.replies += frame::HEAD + 4;
            self.writer.append(|out| frame::put_u32(out, frame::WINDOW_UPDATE, 0, owed as u32));
        }
    }

    /// Bytes have been handed on: the peer may send as much again, unless the proxy holds too much and this stream is part
    /// of the reason.
    pub(super) fn credit(&mut self, key: u32, bytes: usize) {
        let full = self.ledger().is_full();
        let stream = &mut self.streams[key as usize];
        stream.owed += bytes;
        if full && stream.held > 0 {
            return;
        }
        self.owed += std::mem::take(&mut stream.owed);
        if !stream.peer_ended && !stream.is_over() {
            self.widen(key);
        }
        self.pay();
    }

    /// Tops the stream's window up to what it may have on its way now, once that is worth a frame.
    fn widen(&mut self, key: u32) {
        let first = self.settings.first_window();
        let stream = &mut self.streams[key as usize];
        if !stream.large && stream.received > u64::from(first) {
            stream.large = true;
            self.large += 1;
        }
        let most = if stream.large { self.settings.window_beside(self.large) } else { first };
        let more = i64::from(most) - stream.window - stream.held as i64;
        if more >= i64::from(most / 2) {
            let id = stream.id;
            stream.window += more;
            self.replies += frame::HEAD + 4;
            self.writer.append(|out| frame::put_u32(out, frame::WINDOW_UPDATE, id, more as u32));
        }
    }

    /// Appends data, or keeps it for its turn. The stream has nothing pending, and has not ended.
    pub(super) fn send(&mut self, key: u32, data: Bytes, last: bool) {
        let stream = &mut self.streams[key as usize];
        if data.is_empty() {
            if last {
                stream.ended = true;
                let id = stream.id;
                self.writer.append(|out| frame::put(out, 0, frame::DATA, frame::END_STREAM, id));
                self.settle(key);
            }
            return;
        }
        stream.pending = data;
        stream.last = last;
        self.enqueue(key);
        self.pump();
    }

    pub(super) fn enqueue(&mut self, key: u32) {
        let stream = &mut self.streams[key as usize];
        if !stream.queued && !stream.pending.is_empty() && stream.room > 0 {
            stream.queued = true;
            self.queue.push_back((key, stream.id));
            if self.queue.len() > 2 * self.live + 16 {
                // Streams that ended in the queue stay there till their turn, but not for ever.
                let streams = &self.streams;
                self.queue.retain(|(key, id)| {
                    let stream = &streams[*key as usize];
                    stream.id == *id && stream.queued && !stream.pending.is_empty()
                });
            }
        }
    }

    /// Appends a frame of each stream in turn, as long as there is room.
    pub(super) fn pump(&mut self) {
        while self.room > 0 && !self.queue.is_empty() {
            if self.writer.room() == 0 {
                if let Some(driver) = &self.driver {
                    self.writer.wake_when_written(driver);
                }
                return;
            }
            let Some((key, id)) = self.queue.pop_front() else { return };
            let stream = &mut self.streams[key as usize];
            if stream.id != id || !std::mem::take(&mut stream.queued) || stream.room <= 0 {
                continue;
            }
            let room = self.room.min(stream.room).clamp(0, FRAME as i64) as usize;
            let n = stream.pending.len().min(room);
            if n == 0 {
                continue;
            }
            let last = stream.last && n == stream.pending.len();
            self.writer.append(|out| {
                frame::put(out, n, frame::DATA, if last { frame::END_STREAM } else { 0 }, id);
                buffer::append(out, &stream.pending[..n]);
            });
            stream.pending.advance(n);
            stream.room -= n as i64;
            stream.sent += n as u64;
            self.room -= n as i64;
            if stream.pending.is_empty() {
                stream.pending = Bytes::new();
                stream.ended |= last;
                stream.wake_writer();
            }
            if last {
                self.settle(key);
            } else {
                self.enqueue(key);
            }
        }
    }

    /// The connection is over: every stream that is not learns so.
    pub(super) fn end(&mut self, how: Ended) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(how);
        self.going = true;
        let (broken, cut) = match (how, self.is_server) {
            (Ended::Broken(_), true) => (true, Reason::BadFraming),
            (Ended::Broken(_), false) => (true, Reason::ProtocolError),
            (Ended::Closed | Ended::Lost, true) => (false, Reason::ClientGone),
            (Ended::Closed | Ended::Lost, false) => (false, Reason::AppReset),
        };
        if let Ended::Broken(code) = how {
            self.say_goaway(self.last_id, code);
        }
        let (is_server, written) = (self.is_server, self.writer.written());
        for key in 0..self.streams.len() as u32 {
            let stream = self.stream(key);
            if stream.open && stream.holders > 0 {
                let unsent = !is_server && stream.begun_at >= written;
                stream.over(if unsent { Gone::Unseen } else { Gone::Lost { broken } }, cut);
                self.settle(key);
            }
        }
    }

    pub(super) fn say_goaway(&self, last: u32, code: Code) {
        self.writer.append(|out| {
            frame::put(out, 8, frame::GOAWAY, 0, 0);
            out.extend_from_slice(&last.to_be_bytes());
            out.extend_from_slice(&code.0.to_be_bytes());
        });
    }

    /// Asks the peer to go elsewhere. It is told its last stream when it has heard that.
    pub(super) fn ask_to_go(&mut self) {
        if std::mem::replace(&mut self.asked, true) {
            return;
        }
        self.say_goaway(MOST, Code::NO_ERROR);
        self.say_ping(LEAVING);
    }

    pub(super) fn say_ping(&self, payload: [u8; 8]) {
        self.writer.append(|out| {
            frame::put(out, 8, frame::PING, 0, 0);
            out.extend_from_slice(&payload);
        });
    }

    /// Whether the peer has to take what we said before it may say more.
    pub(super) fn is_owed_silence(&mut self) -> bool {
        if self.replies > REPLIES_MAX {
            if self.writer.waiting() > 0 {
                return true;
            }
            self.replies = 0;
        }
        false
    }

    /// Appends a head's block, written by `write`, as HEADERS and what goes on. `false`: it cannot be said.
    pub(super) fn say_head<E>(
        &mut self,
        id: u32,
        end: bool,
        write: impl FnOnce(&mut Encoder, &mut Memory, &mut Vec<u8>) -> Result<(), E>,
    ) -> bool {
        let Self { encoder, written, writer, .. } = self;
        let flags = if end { frame::END_STREAM } else { 0 };
        writer.append(|out| {
            let start = out.len();
            frame::put(out, 0, frame::HEADERS, flags | frame::END_HEADERS, id);
            if write(encoder, written, out).is_err() {
                out.truncate(start);
                encoder.undo();
                return false;
            }
            let length = out.len() - start - frame::HEAD;
            if length <= FRAME {
                let head = &mut out[start..start + 3];
                head.copy_from_slice(&(length as u32).to_be_bytes()[1..]);
                return true;
            }
            let block = out.split_off(start + frame::HEAD);
            out.truncate(start);
            let pieces = block.chunks(FRAME);
            let count = pieces.len();
            for (i, piece) in pieces.enumerate() {
                let (kind, flags) = if i == 0 { (frame::HEADERS, flags) } else { (frame::CONTINUATION, 0) };
                let last = if i + 1 == count { frame::END_HEADERS } else { 0 };
                frame::put(out, piece.len(), kind, flags | last, id);
                out.extend_from_slice(piece);
            }
            true
        })
    }

    /// Whether a frame's stream has never been opened.
    pub(super) fn is_untouched(&self, id: u32) -> bool {
        match self.is_server {
            // Above what the peer was told nobody looks, and it may not know that yet.
            true => id.is_multiple_of(2) || (id > self.last_id && self.told.is_none()),
            false => id.is_multiple_of(2) || id >= self.next_id,
        }
    }

    /// Whether the peer may not know yet that this stream is over.
    pub(super) fn is_news(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }

    pub(super) fn key(&self, head: &Head) -> Option<u32> {
        self.ids.get(&head.stream).copied()
    }
}

/// Appends with room for one. Most connections never have more than one or two streams at once, and the first push would take
/// room for four of these, which are large.
pub(super) fn push_one<T>(list: &mut Vec<T>, item: T) {
    if list.len() < 4 {
        list.reserve_exact(1);
    }
    list.push(item);
}

/// Answers to frames that may wait for a peer that does not read.
const REPLIES_MAX: usize = 16 * 1024;
/// Streams of ours that were reset and are remembered: more than can be in flight.
const RESET_MAX: usize = 256;
/// The payload of the ping after which the peer has heard that it is to go.
pub(super) const LEAVING: [u8; 8] = *b"leaving\0";
/// The payload of a ping that asks whether the peer is there.
pub(super) const ALIVE: [u8; 8] = *b"alive?\0\0";
