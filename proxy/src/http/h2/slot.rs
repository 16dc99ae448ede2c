//! Places on a connection: who may have a stream now, and who waits for one. It must never lend more than the peer allows.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::http::h2::BULK;
use crate::http::hop_io::Refusal;

/// What the driver and the slots know of the connection; it does not keep it open.
#[derive(Default)]
pub(in crate::http) struct Link {
    pub(in crate::http) in_flight: Cell<usize>,
    /// Streams in flight that have moved more than `BULK`.
    pub(in crate::http) bulk: Cell<usize>,
    /// No new requests: by us, or because it ended.
    pub(in crate::http) closed: Cell<bool>,
    pub(in crate::http) freed: Notify,
    pub(in crate::http) refusal: Refusal,
}

/// A stream's place on the connection. Dropping it lets the next request in.
pub struct Slot {
    pub(in crate::http) link: Rc<Link>,
    moved: u64,
    bulk: bool,
}

impl Slot {
    pub(in crate::http) fn take(link: &Rc<Link>) -> Self {
        link.in_flight.set(link.in_flight.get() + 1);
        Self { link: Rc::clone(link), moved: 0, bulk: false }
    }

    pub(in crate::http) fn moved(&mut self, bytes: usize) {
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
    pub(in crate::http) fn close(&self) {
        self.closed.set(true);
        self.freed.notify_one();
    }
}
