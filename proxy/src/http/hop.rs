//! HTTP/2 for the hop between two sidecars, by an engine of our own: one thread, no locks, heads straight between bytes and the
//! proxy's own types, and everything that is ready appended to one write. On the wire it is RFC 9113 and RFC 7541, no more and
//! no less. It must never trust a peer further than its certificate goes: a sidecar may be taken over.

pub mod client;
mod connection;
mod frame;
mod frames;
mod handle;
mod head;
mod hpack;
mod incoming;
mod outgoing;
pub mod server;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use crate::http::hop::client::Client;
pub use crate::http::hop::incoming::Incoming;
pub use crate::http::hop::server::serve;
