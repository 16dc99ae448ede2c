//! An HTTP/1 connection at rest, watched: the kernel's poller rings when the server closes it or says what nobody asked for.
//! It must never be lent once that has happened.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Wake;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;

use crate::http::h1;
use crate::net;
use crate::pool::lane::Berth;

/// It keeps its permit: it is open.
pub(super) struct Idle {
    pub(super) client: h1::Client,
    pub(super) berth: Box<Berth>,
}

/// Stays with its connection for life.
pub(super) struct Watch {
    bell: Arc<Bell>,
    /// Of the same bell, made once.
    waker: Waker,
}

/// Rung by the poller, from whichever thread it runs on.
struct Bell {
    rung: AtomicBool,
    /// Of the whole pool: somebody is to look who it was.
    pool: Arc<Notify>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Relaxed);
        self.pool.notify_one();
    }
}

impl Watch {
    pub(super) fn new(pool: &Arc<Notify>) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), pool: Arc::clone(pool) });
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl Idle {
    /// From now on whatever happens to it rings.
    pub(super) fn listen(&self) {
        self.berth.watch.bell.rung.store(false, Ordering::Relaxed);
        if let Some(tcp) = self.client.tcp()
            && net::poll_unquiet(tcp, &mut Context::from_waker(&self.berth.watch.waker)).is_ready()
        {
            self.berth.watch.waker.wake_by_ref();
        }
    }

    pub(super) fn has_rung(&self) -> bool {
        self.berth.watch.bell.rung.load(Ordering::Relaxed)
    }

    /// As far as it is known without asking: nothing is left of the last answer, and the poller has not rung.
    pub(super) fn seems_quiet(&self) -> bool {
        !self.has_rung() && self.client.is_clean()
    }

    /// Asks the kernel.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.client.is_idle_alive()
    }

    /// After a ring; a false alarm is listened for again.
    pub(super) fn still_quiet(&mut self) -> bool {
        let quiet = self.is_quiet();
        if quiet {
            self.listen();
        }
        quiet
    }

    /// From us to the server and back.
    pub(super) fn round_trip(&self) -> Duration {
        self.client.tcp().and_then(net::round_trip).unwrap_or_default()
    }
}
