//! Leno beside its peers on one machine: load, application, peers with the same duties, counters, gates, and what they
//! print. It must never measure two things at once, nor compare figures of different runs.

pub mod app;
pub mod awake;
pub mod callgrind;
pub mod certificates;
pub mod child;
pub mod closed;
pub mod congestion;
pub mod counters;
pub mod counts;
pub mod crowd;
pub mod decisions;
pub mod figures;
pub mod gates;
pub mod handshakes;
pub mod http2;
pub mod known;
pub mod load;
pub mod paced;
pub mod peers;
pub mod plot;
pub mod pressure;
pub mod profile;
pub mod report;
pub mod run;
pub mod stages;
