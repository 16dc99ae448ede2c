//! Buffers for reading and writing, lent to connections while something moves in them. It must never keep more than a busy
//! worker needs at once, nor one that a burst has made large.

use std::cell::RefCell;

use bytes::BytesMut;

/// The room in a buffer: for a message of 16 KiB, which is where many writers cut theirs, with its head. One that is here
/// whole after one read needs no second read, no second frame, and its connection no longer.
pub const SIZE: usize = 20 * 1024;
/// What is copied at once. Beyond 2,112 bytes many a glibc copies with `rep movsb`, which Zen 3 and 4 run at a twenty-fifth of
/// their speed where source and target lie nearly alike in their pages (glibc bug 30994), as a message and its record do.
pub const PIECE: usize = 2 * 1024;
/// Buffers that a thread keeps: as many connections as are mid-request at once.
const SPARES: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty one with room for `SIZE` bytes.
pub fn take() -> BytesMut {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    // One that grew, or whose memory is shared with a body on its way, is not kept.
    if buffer.capacity() > 2 * SIZE || (buffer.capacity() < SIZE && !buffer.try_reclaim(SIZE)) {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARES {
            spare.push(buffer);
        }
    });
}

/// Appends in pieces.
pub fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len());
    bytes.chunks(PIECE).for_each(|piece| out.extend_from_slice(piece));
}
