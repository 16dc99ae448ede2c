//! Outages, trust and storms on real processes: what is killed, lost, rotated, refused or overloaded, and what that costs the
//! traffic. Every figure is measured on open-loop load and printed; nothing here asserts how fast the machine is.

#![allow(clippy::unwrap_used, reason = "a test's helper may fail the test")]

mod app;
mod capture;
mod control_plane;
mod drain;
mod expiry;
mod probe;
mod proxies;
mod refusals;
mod rotation;
mod stage;
mod storm;
mod workers;
