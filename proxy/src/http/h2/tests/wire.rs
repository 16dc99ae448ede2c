//! Frames by hand, for what no honest peer says.

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

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// GET http://a/never and what follows it in the block.
pub(super) fn never(more: &[u8]) -> Vec<u8> {
    [&[0x82, 0x86, 0x01, 1, b'a', 0x04, 6][..], b"/never", more].concat()
}

pub(super) fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, 4, stream, &never(&[]))
}

pub(super) fn closed(stream: u32) -> Vec<u8> {
    frame(HEADERS, 5, stream, &never(&[]))
}
