//! Tells every proxy what concerns it: one session each.

pub mod ledger;
pub mod offer;
