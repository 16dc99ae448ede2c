//! Whether a request may be tried again, and when. Pure. It must never let retries grow faster than the requests that they
//! serve.

mod budget;

pub use crate::retry::budget::Budget;
