//! What each frame of the peer does to the connection's state. An error is the connection's: the peer is told its code. It
//! must never trust a length, an id or an order.

use bytes::Bytes;
use leno_proto::request::Headers;

use crate::error::Reason;
use crate::http::h2::FRAME;
use crate::http::h2::frame;
use crate::http::h2::frame::Code;
use crate::http::h2::frame::Head;
use crate::http::h2::frame::MOST;
use crate::http::h2::frame::u32_at;
use crate::http::h2::head::Nobody;
use crate::http::h2::head::Refusal;
use crate::http::h2::head::RequestFields;
use crate::http::h2::head::ResponseFields;
use crate::http::h2::head::TrailerFields;
use crate::http::h2::hpack::decode::Fields;
use crate::http::h2::state::Accepted;
use crate::http::h2::state::Framed;
use crate::http::h2::state::LEAVING;
use crate::http::h2::state::State;
use crate::http::h2::state::Unfinished;
use crate::http::h2::state::push_one;
use crate::http::h2::stream::End;
use crate::http::h2::stream::Gone;
use tokio::time::Instant;

/// A frame's payload: where it was read, or in memory of its own.
enum Payload<'p> {
    Read(&'p [u8]),
    Own(Bytes),
}

impl Payload<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Own(bytes) => bytes,
        }
    }
}

impl State {
    /// Takes the frames that are whole at the beginning of `bytes`; how many bytes they were.
    pub(super) fn frames(&mut self, bytes: &[u8]) -> Result<usize, Code> {
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk::<{ frame::HEAD }>() {
            let head = Head::parse(head);
            if head.length > FRAME {
                return Err(Code::FRAME_SIZE_ERROR);
            }
            let Some(payload) = bytes.get(at + frame::HEAD..at + frame::HEAD + head.length) else { break };
            self.frame(&head, Payload::Read(payload))?;
            at += frame::HEAD + head.length;
        }
        Ok(at)
    }

    /// Takes a DATA frame without padding that came in several reads and was put together where it will stay.
    pub(super) fn put_together(&mut self, head: &Head, data: Bytes) -> Framed {
        self.frame(head, Payload::Own(data))
    }

    fn frame(&mut self, head: &Head, payload: Payload<'_>) -> Framed {
        let goes_on = self.unfinished.as_ref().map(|unfinished| unfinished.stream);
        if goes_on.is_some_and(|stream| head.kind != frame::CONTINUATION || head.stream != stream) {
            return Err(Code::PROTOCOL_ERROR);
        }
        if !self.settled && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let of_stream = matches!(
            head.kind,
            frame::DATA | frame::HEADERS | frame::PRIORITY | frame::RST_STREAM | frame::CONTINUATION
        );
        let of_connection = matches!(head.kind, frame::SETTINGS | frame::PING | frame::GOAWAY);
        if (of_stream && head.stream == 0) || (of_connection && head.stream != 0) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let bytes = payload.bytes();
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, bytes),
            frame::PRIORITY => priority(head, bytes.try_into().map_err(|_| Code::FRAME_SIZE_ERROR)?),
            frame::RST_STREAM => self.rst_stream(head, bytes),
            frame::SETTINGS => self.settings_frame(head, bytes),
            frame::PUSH_PROMISE => Err(Code::PROTOCOL_ERROR),
            frame::PING => self.ping(head, bytes),
            frame::GOAWAY => self.goaway(bytes),
            frame::WINDOW_UPDATE => self.window_update(head, bytes),
            frame::CONTINUATION => self.continuation(head, bytes),
            _ => Ok(()),
        }
    }

    fn data(&mut self, head: &Head, from: Payload<'_>) -> Framed {
        let data = frame::unpadded(head, from.bytes()).ok_or(Code::PROTOCOL_ERROR)?;
        let (framed, length) = (from.bytes().len(), data.len());
        self.window -= framed as i64;
        if self.window < 0 {
            return Err(Code::FLOW_CONTROL_ERROR);
        }
        if length == 0 && !head.has(frame::END_STREAM) {
            self.empty += 1;
            if self.empty > EMPTY_MAX {
                return Err(Code::ENHANCE_YOUR_CALM);
            }
        } else {
            self.empty = 0;
        }
        let Some(key) = self.key(head) else {
            if self.is_untouched(head.stream) {
                return Err(Code::PROTOCOL_ERROR);
            }
            self.owed += framed;
            self.pay();
            if self.is_server && !self.is_news(head.stream) {
                self.say_reset(head.stream, Code::STREAM_CLOSED);
                return self.count_fault();
            }
            return Ok(());
        };
        let is_server = self.is_server;
        let stream = self.stream(key);
        if stream.gone.is_some() || stream.peer_ended || (!is_server && !stream.answered) {
            let (gone, ended) = (stream.gone, stream.peer_ended);
            self.owed += framed;
            self.pay();
            return match gone {
                Some(gone) => self.late(head.stream, gone),
                None => self.fault(key, if ended { Code::STREAM_CLOSED } else { Code::PROTOCOL_ERROR }),
            };
        }
        stream.window -= framed as i64;
        stream.received += length as u64;
        let over = stream.window < 0;
        let long = stream.length.is_some_and(|most| stream.received > most);
        if over || long {
            self.owed += framed;
            return self.fault(key, if over { Code::FLOW_CONTROL_ERROR } else { Code::PROTOCOL_ERROR });
        }
        let kept = if stream.unread { 0 } else { length };
        if kept > 0 {
            match from {
                Payload::Read(_) => stream.keep(data),
                Payload::Own(whole) => stream.keep_whole(whole),
            }
            stream.starved = false;
            stream.wake_reader();
            self.ledger().add(kept);
        }
        self.owed += framed - kept;
        if head.has(frame::END_STREAM) {
            return self.ended(key, None);
        }
        Ok(())
    }

    /// Something came on a stream that is gone. Who has reset it himself knows better.
    fn late(&mut self, id: u32, gone: Gone) -> Framed {
        if !matches!(gone, Gone::Reset(_)) || self.is_news(id) {
            return Ok(());
        }
        self.say_reset(id, Code::STREAM_CLOSED);
        self.count_fault()
    }

    /// The peer has said all of this stream.
    fn ended(&mut self, key: u32, trailers: Option<Headers>) -> Framed {
        let stream = self.stream(key);
        if stream.length.is_some_and(|length| length != stream.received) {
            return self.fault(key, Code::PROTOCOL_ERROR);
        }
        stream.peer_ended = true;
        // Unless it was cut here: its reader is to learn of that.
        if matches!(stream.end, End::NotYet) {
            stream.end = End::Whole(trailers);
        }
        stream.wake_reader();
        self.settle(key);
        Ok(())
    }

    fn headers(&mut self, head: &Head, payload: &[u8]) -> Framed {
        let mut block = frame::unpadded(head, payload).ok_or(Code::PROTOCOL_ERROR)?;
        if head.has(frame::PRIORITISED) {
            let (on, rest) = block.split_first_chunk::<5>().ok_or(Code::FRAME_SIZE_ERROR)?;
            priority(head, on)?;
            block = rest;
        }
        if head.has(frame::END_HEADERS) {
            return self.block(head.stream, head.flags, block);
        }
        self.block.clear();
        self.block.extend_from_slice(block);
        self.unfinished = Some(Unfinished { stream: head.stream, flags: head.flags, frames: 0 });
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8]) -> Framed {
        let Some(unfinished) = &mut self.unfinished else { return Err(Code::PROTOCOL_ERROR) };
        unfinished.frames += 1;
        let most = 2 * self.settings.header_list as usize + FRAME;
        if unfinished.frames > CONTINUATIONS_MAX || self.block.len() + payload.len() > most {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        self.block.extend_from_slice(payload);
        if !head.has(frame::END_HEADERS) {
            return Ok(());
        }
        let (stream, flags) = (unfinished.stream, unfinished.flags);
        self.unfinished = None;
        let block = std::mem::take(&mut self.block);
        self.block(stream, flags, &block)
    }

    fn block(&mut self, id: u32, flags: u8, block: &[u8]) -> Framed {
        let end = flags & frame::END_STREAM != 0;
        let key = self.ids.get(&id).copied();
        if let Some(gone) = key.and_then(|key| self.streams[key as usize].gone) {
            self.decode(block, &mut Nobody)?;
            return self.late(id, gone);
        }
        match key {
            Some(key) if self.is_server || self.streams[key as usize].answered => self.trailers(key, end, block),
            Some(key) => self.answer(key, end, block),
            None if self.is_server && id % 2 == 1 && id > self.last_id => self.request(id, end, block),
            None if self.is_untouched(id) => Err(Code::PROTOCOL_ERROR),
            // Ended by both ends, or passed over (RFC 9113 section 5.1.1).
            None if self.is_server && !self.is_news(id) && self.told.is_none() => Err(Code::STREAM_CLOSED),
            None => self.decode(block, &mut Nobody),
        }
    }

    fn decode(&mut self, block: &[u8], to: &mut impl Fields) -> Framed {
        self.decoder.decode(block, to).map_err(|_| Code::COMPRESSION_ERROR)
    }

    fn request(&mut self, id: u32, end: bool, block: &[u8]) -> Framed {
        if self.told.is_some() {
            // Above what the peer was told: it knows that nobody looks at it.
            return self.decode(block, &mut Nobody);
        }
        self.last_id = id;
        let Self { decoder, read, settings, .. } = self;
        let mut fields = RequestFields::new(read, settings.header_list as usize, settings.fields);
        decoder.decode(block, &mut fields).map_err(|_| Code::COMPRESSION_ERROR)?;
        let request = fields.finish();
        let most = self.settings.streams as usize;
        if self.open >= most || self.live >= 2 * most || self.writer.waiting() > WAITING_MAX {
            self.say_reset(id, Code::REFUSED_STREAM);
            return Ok(());
        }
        if self.ledger().is_full() {
            self.say_reset(id, Code::REFUSED_STREAM);
            push_one(&mut self.accepted, Accepted::Overloaded);
            return Ok(());
        }
        let key = self.begin(id);
        let stream = self.stream(key);
        let accepted = match request {
            Ok((request, length)) => {
                stream.length = length;
                Accepted::Request(key, request)
            }
            Err(Refusal::Connect) => Accepted::Connect(key),
            Err(Refusal::TooLarge) => Accepted::Refused(key, Reason::HeadersTooLarge),
            Err(Refusal::Malformed) => Accepted::Refused(key, Reason::BadFraming),
        };
        if end {
            stream.peer_ended = true;
            stream.end = End::Whole(None);
        }
        let short = end && stream.length.is_some_and(|length| length > 0);
        let accepted = if short { Accepted::Refused(key, Reason::BadFraming) } else { accepted };
        push_one(&mut self.accepted, accepted);
        Ok(())
    }

    fn answer(&mut self, key: u32, end: bool, block: &[u8]) -> Framed {
        let Self { decoder, read, settings, .. } = self;
        let mut fields = ResponseFields::new(read, settings.header_list as usize);
        decoder.decode(block, &mut fields).map_err(|_| Code::COMPRESSION_ERROR)?;
        let Ok((head, length)) = fields.finish() else { return self.fault(key, Code::PROTOCOL_ERROR) };
        let stream = self.stream(key);
        if head.status < 200 {
            if end || stream.interim.len() >= INTERIM_MAX {
                return self.fault(key, Code::PROTOCOL_ERROR);
            }
            stream.interim.push(head);
            stream.wake_reader();
            return Ok(());
        }
        let bodiless = stream.is_head || matches!(head.status, 204 | 304);
        stream.length = length.filter(|_| !bodiless);
        stream.answered = true;
        stream.head = Some(head);
        stream.wake_reader();
        if end { self.ended(key, None) } else { Ok(()) }
    }

    fn trailers(&mut self, key: u32, end: bool, block: &[u8]) -> Framed {
        let mut fields = TrailerFields::new(self.settings.header_list as usize);
        self.decode(block, &mut fields)?;
        if self.stream(key).peer_ended {
            return self.fault(key, Code::STREAM_CLOSED);
        }
        match fields.finish() {
            Ok(trailers) if end => self.ended(key, Some(trailers)),
            Ok(_) | Err(_) => self.fault(key, Code::PROTOCOL_ERROR),
        }
    }

    fn rst_stream(&mut self, head: &Head, payload: &[u8]) -> Framed {
        if payload.len() != 4 {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        let Some(key) = self.key(head) else {
            return match self.is_untouched(head.stream) {
                true => Err(Code::PROTOCOL_ERROR),
                // A flood may be refused faster than it is looked at.
                false if self.is_server && self.is_news(head.stream) => self.early_reset(),
                false => Ok(()),
            };
        };
        let cut = if self.is_server { Reason::ClientGone } else { Reason::AppReset };
        let stream = &mut self.streams[key as usize];
        if stream.is_over() {
            return Ok(());
        }
        let early = self.is_server && !stream.answered;
        stream.over(Gone::Reset(Code(u32_at(payload, 0))), cut);
        self.settle(key);
        if early { self.early_reset() } else { Ok(()) }
    }

    /// The peer reset a request before it was answered.
    fn early_reset(&mut self) -> Framed {
        let now = Instant::now();
        let since = now.duration_since(std::mem::replace(&mut self.early.at, now)).as_secs_f64();
        let a_second = f64::from(self.settings.early_resets);
        self.early.left = (self.early.left + since * a_second).min(a_second) - 1.0;
        if self.early.left < 0.0 { Err(Code::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    fn settings_frame(&mut self, head: &Head, payload: &[u8]) -> Framed {
        if head.has(frame::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Code::FRAME_SIZE_ERROR) };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        self.settled = true;
        for [a, b, value @ ..] in settings {
            self.setting(u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))?;
        }
        self.replies += frame::HEAD;
        self.writer.append(|out| frame::put(out, 0, frame::SETTINGS, frame::ACK, 0));
        Ok(())
    }

    fn setting(&mut self, name: u16, value: u32) -> Framed {
        match name {
            frame::SET_TABLE => self.encoder.resize(value as usize),
            frame::SET_PUSH if value > 1 => return Err(Code::PROTOCOL_ERROR),
            frame::SET_STREAMS => self.peer_streams = Some(value),
            frame::SET_WINDOW if value > MOST => return Err(Code::FLOW_CONTROL_ERROR),
            frame::SET_WINDOW => {
                let more = i64::from(value) - self.peer_window;
                self.peer_window = i64::from(value);
                for key in 0..self.streams.len() as u32 {
                    let stream = self.stream(key);
                    stream.room += more;
                    if stream.holders > 0 && stream.room > i64::from(MOST) {
                        return Err(Code::FLOW_CONTROL_ERROR);
                    }
                    self.enqueue(key);
                }
            }
            frame::SET_FRAME if !(FRAME as u32..1 << 24).contains(&value) => return Err(Code::PROTOCOL_ERROR),
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, head: &Head, payload: &[u8]) -> Framed {
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| Code::FRAME_SIZE_ERROR)?;
        if !head.has(frame::ACK) {
            self.replies += frame::HEAD + 8;
            self.writer.append(|out| {
                frame::put(out, 8, frame::PING, frame::ACK, 0);
                out.extend_from_slice(&payload);
            });
        } else if payload == LEAVING && self.asked && self.told.is_none() {
            self.told = Some(self.last_id);
            self.say_goaway(self.last_id, Code::NO_ERROR);
        } else {
            self.pong = true;
        }
        Ok(())
    }

    fn goaway(&mut self, payload: &[u8]) -> Framed {
        if payload.len() < 8 {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        self.going = true;
        if !self.is_server {
            let last = u32_at(payload, 0) & MOST;
            for key in 0..self.streams.len() as u32 {
                let stream = self.stream(key);
                if stream.holders > 0 && stream.id > last && !stream.is_over() {
                    stream.over(Gone::Unseen, Reason::AppReset);
                    self.settle(key);
                }
            }
        }
        Ok(())
    }

    fn window_update(&mut self, head: &Head, payload: &[u8]) -> Framed {
        if payload.len() != 4 {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        let more = i64::from(u32_at(payload, 0) & MOST);
        if head.stream == 0 {
            self.room += more;
            return match (more, self.room) {
                (0, _) => Err(Code::PROTOCOL_ERROR),
                (_, room) if room > i64::from(MOST) => Err(Code::FLOW_CONTROL_ERROR),
                _ => Ok(()),
            };
        }
        let Some(key) = self.key(head) else {
            return if self.is_untouched(head.stream) { Err(Code::PROTOCOL_ERROR) } else { Ok(()) };
        };
        let stream = self.stream(key);
        if stream.is_over() {
            return Ok(());
        }
        if more == 0 {
            return self.fault(key, Code::PROTOCOL_ERROR);
        }
        stream.room += more;
        if stream.room > i64::from(MOST) {
            return self.fault(key, Code::FLOW_CONTROL_ERROR);
        }
        self.enqueue(key);
        Ok(())
    }
}

/// Nobody goes by priorities any more; what contradicts itself is refused nevertheless (RFC 7540 section 5.3.1).
fn priority(head: &Head, on: &[u8; 5]) -> Framed {
    if u32_at(on, 0) & MOST == head.stream { Err(Code::PROTOCOL_ERROR) } else { Ok(()) }
}

/// DATA frames with nothing in them that may follow each other.
const EMPTY_MAX: u32 = 1000;
/// CONTINUATION frames of one head.
const CONTINUATIONS_MAX: u32 = 64;
/// Interim answers of one stream that nobody has taken.
const INTERIM_MAX: usize = 64;
/// Bytes that the peer has not taken, at which new streams are refused.
const WAITING_MAX: usize = 1024 * 1024;
