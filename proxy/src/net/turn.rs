//! Turns: who has moved much gives way until the worker has looked at every socket. It must never be used where little moves,
//! for each look is a system call.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Bytes that one connection moves before it gives way: four TLS records, which take a worker about a tenth of a millisecond.
pub const TURN: usize = 64 * 1024;

/// Wakes the task once the worker has looked at its sockets, and run whoever became ready. A task that wakes itself is run
/// again before that: the runtime looks after sixty-one runs, and with some streams of bulk each of those takes long.
pub fn give_way(cx: &mut Context<'_>) {
    // Its first poll does just that.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
