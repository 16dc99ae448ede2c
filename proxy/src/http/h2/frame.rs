//! The nine bytes before every frame, and the numbers of RFC 9113. It must never hold state.

use crate::http::h2::SMALL;

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITISED: u8 = 32;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_PUSH: u16 = 2;
pub(super) const SET_STREAMS: u16 = 3;
pub(super) const SET_WINDOW: u16 = 4;
pub(super) const SET_FRAME: u16 = 5;
pub(super) const SET_HEADER_LIST: u16 = 6;

/// The largest stream id and the largest window.
pub(super) const MOST: u32 = 0x7fff_ffff;

/// Why a stream or a connection ended (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const NO_ERROR: Self = Self(0);
    pub(super) const PROTOCOL_ERROR: Self = Self(1);
    pub(super) const INTERNAL_ERROR: Self = Self(2);
    pub(super) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(super) const STREAM_CLOSED: Self = Self(5);
    pub(super) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(super) const REFUSED_STREAM: Self = Self(7);
    pub(super) const CANCEL: Self = Self(8);
    pub(super) const COMPRESSION_ERROR: Self = Self(9);
    pub(super) const ENHANCE_YOUR_CALM: Self = Self(11);
    pub(super) const HTTP_1_1_REQUIRED: Self = Self(13);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes(stream) & MOST }
    }

    /// Of a frame that may begin here, whose payload is the body's own bytes, and enough of them to be kept as they are.
    pub(super) fn of_large_data(bytes: &[u8]) -> Option<Self> {
        let head = Self::parse(bytes.first_chunk()?);
        (head.kind == DATA && !head.has(PADDED) && head.length >= SMALL).then_some(head)
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame's head. The length is below 16 MiB: ours are 16 KiB at most.
pub(super) fn put(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

/// A frame whose payload is one number.
pub(super) fn put_u32(out: &mut Vec<u8>, kind: u8, stream: u32, number: u32) {
    put(out, 4, kind, 0, stream);
    out.extend_from_slice(&number.to_be_bytes());
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..at + 4) {
        Some(b) => u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
        None => 0,
    }
}

/// The payload without its padding. `None`: more padding than payload.
pub(super) fn unpadded<'p>(head: &Head, payload: &'p [u8]) -> Option<&'p [u8]> {
    if !head.has(PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}
