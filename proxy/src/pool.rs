//! Connections to endpoints. (to be written)
pub mod shelf;
