//! Leno's control plane as a library: `main` and `bin/leno` are the binaries. ARCHITECTURE.md has the map.

pub mod admin;
pub mod app;
pub mod ca;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod crd;
pub mod error;
pub mod explain;
pub mod folder;
pub mod index;
pub mod inject;
pub mod kube;
pub mod lint;
pub mod metrics;
pub mod object;
pub mod push;
pub mod query;
pub mod reconcile;
pub mod source;
pub mod status;
pub mod token;
pub mod vital;
pub mod webhook;

#[cfg(test)]
mod testing;
