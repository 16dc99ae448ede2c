//! Clients and servers that are not ours, over real sockets, each behind a real sidecar with mTLS between: what they send is
//! what arrives.

#![allow(clippy::unwrap_used)] // A test's helper may fail the test.

mod bulk;
mod database;
mod grpc;
mod http2;
mod idle;
mod pair;
mod python;
mod reset;
mod websocket;
