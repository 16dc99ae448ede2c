//! HTTP/2 by an engine of our own, between sidecars and with applications: one thread, no locks, heads straight between bytes
//! and the proxy's own types, and everything that is ready appended to one write. On the wire it is RFC 9113 and RFC 7541, no
//! more and no less. It must never hold bytes of a body without counting them, nor end a body cleanly that was cut.

mod batch;
mod client;
mod connection;
mod frame;
mod frames;
mod gathered;
mod handle;
mod head;
mod hpack;
mod incoming;
mod outgoing;
mod server;
mod slot;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use crate::http::h2::client::Client;
pub use crate::http::h2::client::Closed;
pub use crate::http::h2::incoming::Incoming;
pub use crate::http::h2::server::serve;
pub use crate::http::h2::slot::Slot;

/// Frames are this large at most, so that a small message never waits long behind a large one.
const FRAME: usize = 16 * 1024;
/// Messages below this are put together rather than passed on as they are.
const SMALL: usize = 1024;
/// A stream's window to begin with, where the peer is near: a small answer waits behind what large ones have on their way.
const NEAR: u32 = 64 * 1024;
/// What large streams of a near peer may have on their way together, until each has no more than `LEAST`.
const NEAR_TOGETHER: u32 = 256 * 1024;
/// Two frames: one is on its way while the other is handed on.
const LEAST: u32 = 32 * 1024;
/// A stream that has moved more makes its connection one for bulk.
const BULK: u64 = 1024 * 1024;

/// What one end of a connection allows. `hop` and `plaintext` are the two that exist; policy adjusts fields.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Streams that the peer may have open.
    pub streams: u32,
    /// What a stream may have on its way at most.
    pub stream_window: u32,
    /// The peer is so near that less is enough: see `NEAR`.
    pub near: bool,
    /// Bytes of a decoded head.
    pub header_list: u32,
    /// Fields of a head.
    pub fields: usize,
    /// Streams that we reset for the peer's errors before the connection ends (MadeYouReset).
    pub local_resets: usize,
    /// Requests a second that the peer may reset before they were answered (Rapid Reset).
    pub early_resets: u32,
    /// From the first byte to the end of the preface.
    pub handshake: Duration,
    /// A peer that answers no ping in `timeout` is gone.
    pub keep_alive: Option<KeepAlive>,
    /// A connection without streams for this long is closed (server).
    pub idle: Option<Duration>,
    /// A request's body that somebody waits for, and of which nothing comes for this long, is cut (server).
    pub body_idle: Option<Duration>,
    /// An answer that waits this long for the client to take one more byte is cut (server). Not a limit on silence.
    pub stall: Option<Duration>,
    pub ledger: Ledger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Settings {
    /// Between two sidecars.
    pub fn hop(ledger: Ledger) -> Self {
        Self {
            streams: 128,
            stream_window: 256 * 1024,
            near: false,
            header_list: 64 * 1024,
            fields: 128,
            local_resets: 100,
            early_resets: 200,
            handshake: Duration::from_secs(10),
            keep_alive: Some(KeepAlive { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) }),
            idle: None,
            body_idle: None,
            stall: None,
            ledger,
        }
    }

    /// With an application, or with whoever speaks HTTP/2 in the clear. No pings: gRPC's servers take more than one in
    /// five minutes for an attack (grpc/doc/keepalive.md), and TCP's own keep-alive tells who is gone.
    pub fn plaintext(ledger: Ledger) -> Self {
        Self {
            streams: 100,
            fields: 100,
            keep_alive: None,
            stall: Some(Duration::from_secs(300)),
            body_idle: Some(Duration::from_secs(60)),
            idle: Some(Duration::from_secs(300)),
            ..Self::hop(ledger)
        }
    }
}

impl Settings {
    /// All the streams' windows together: with less, streams that stand still would starve the others.
    fn connection_window(&self) -> u32 {
        const MOST: u32 = i32::MAX as u32;
        self.streams.saturating_mul(self.stream_window).clamp(u32::from(u16::MAX), MOST)
    }

    /// What a stream may send before it has heard of more.
    fn first_window(&self) -> u32 {
        if self.near { self.stream_window.min(NEAR) } else { self.stream_window }
    }

    /// What a stream may have on its way that has filled its first window, beside so many others like it.
    fn window_beside(&self, large: u32) -> u32 {
        match self.near {
            true => (NEAR_TOGETHER / large.max(1)).max(LEAST).min(self.stream_window),
            false => self.stream_window,
        }
    }
}

/// Bytes of HTTP/2 bodies that wait in this proxy because whoever they are for has no room. Shared by all workers.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    held: AtomicUsize,
    cap: usize,
}

impl Ledger {
    pub fn new(cap: usize) -> Self {
        Self(Arc::new(Counted { held: AtomicUsize::new(0), cap }))
    }

    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// From here on nobody gets credit who holds bytes here, and new streams are refused.
    pub fn is_full(&self) -> bool {
        self.held() >= self.0.cap
    }

    fn add(&self, bytes: usize) {
        self.0.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sub(&self, bytes: usize) {
        if bytes > 0 {
            self.0.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}
