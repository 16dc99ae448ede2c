//! Places on a connection: who may have a stream now, and who waits for one. It must never lend more than the peer allows.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::http::h2::BULK;
use crate::http::h2::batch::Refusal;

/// What the driver and the slots know of the connection; it does not keep it open.
#[derive(Default)]
pub(super) struct Link {
    pub(super) in_flight: Cell<usize>,
    /// Streams in flight that have moved more than `BULK`.
    pub(super) bulk: Cell<usize>,
    /// No new requests: by us, or because it ended.
    pub(super) closed: Cell<bool>,
    pub(super) freed: Notify,
    pub(super) refusal: Refusal,
}

/// A stream's place on the connection. Dropping it lets the next request in.
pub struct Slot {
    pub(super) link: Rc<Link>,
    moved: u64,
    bulk: bool,
}

impl Slot {
    pub(super) fn take(link: &Rc<Link>) -> Self {
        link.in_flight.set(link.in_flight.get() + 1);
        Self { link: Rc::clone(link), moved: 0, bulk: false }
    }

    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if self.moved > BULK && !std::mem::replace(&mut self.bulk, true) {
            self.link.bulk.set(self.link.bulk.get() + 1);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.link.in_flight.set(self.link.in_flight.get() - 1);
        if self.bulk {
            self.link.bulk.set(self.link.bulk.get() - 1);
        }
        self.link.freed.notify_one();
    }
}

impl Link {
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.freed.notify_one();
    }
}
