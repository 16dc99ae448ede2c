//! A connection that many requests share, whichever engine drives it: the hop's own, or the h2 crate towards applications. It
//! must never add a rule of its own.

use crate::http::Interim;
use crate::http::SendError;
use crate::http::body::Body;
use crate::http::h2;
use crate::http::h2::Slot;
use crate::http::h2::client::Closed;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::hop;

#[derive(Clone)]
pub enum Client {
    Http2(h2::Client),
    Hop(hop::Client),
}

impl Client {
    pub fn try_slot(&self) -> Option<Slot> {
        match self {
            Self::Http2(client) => client.try_slot(),
            Self::Hop(client) => client.try_slot(),
        }
    }

    pub fn has_room(&self) -> bool {
        match self {
            Self::Http2(client) => client.has_room(),
            Self::Hop(client) => client.has_room(),
        }
    }

    pub async fn ready(&self) -> Result<Slot, Closed> {
        match self {
            Self::Http2(client) => client.ready().await,
            Self::Hop(client) => client.ready().await,
        }
    }

    pub fn capacity(&self) -> usize {
        match self {
            Self::Http2(client) => client.capacity(),
            Self::Hop(client) => client.capacity(),
        }
    }

    pub fn in_flight(&self) -> usize {
        match self {
            Self::Http2(client) => client.in_flight(),
            Self::Hop(client) => client.in_flight(),
        }
    }

    pub fn is_bulk(&self) -> bool {
        match self {
            Self::Http2(client) => client.is_bulk(),
            Self::Hop(client) => client.is_bulk(),
        }
    }

    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http2(client) => client.is_closed(),
            Self::Hop(client) => client.is_closed(),
        }
    }

    pub fn close(&self) {
        match self {
            Self::Http2(client) => client.close(),
            Self::Hop(client) => client.close(),
        }
    }

    pub async fn exchange<'c>(
        &self,
        slot: Slot,
        head: &RequestHead,
        body: Body<'c>,
        interim: &Interim,
    ) -> Result<(ResponseHead, Body<'c>), SendError<'c>> {
        match self {
            Self::Http2(client) => client.exchange(slot, head, body, interim).await,
            Self::Hop(client) => client.exchange(slot, head, body, interim).await,
        }
    }
}
