//! The control plane as a proxy meets it: over real sockets on loopback, ports chosen by the system.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod certify;
mod manifests;
mod mesh;
mod program;
mod proxy;
mod replicas;
mod rude;
mod sessions;
