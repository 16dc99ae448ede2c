//! What Leno's two planes say to each other, and what it means. No I/O, no clock, no runtime.
//!
//! - `policy`: the model that both planes share; `fields` holds every field's default, bound, unit and source.
//! - `select` and `authorize`: the decisions over that model, on `request::RequestView`.
//! - `identity`: SPIFFE ids. `key`: the names of resources. `lead`: what they lead to. `hash`: versions.
//! - `capability`: what a proxy must know before it may take a resource.
//! - `convert`: wire to model and back. `wire`: the generated messages and services. `codec`: how these are framed.

pub mod authorize;
pub mod capability;
#[cfg(any(feature = "client", feature = "server"))]
pub mod codec;
pub mod convert;
pub mod fields;
pub mod hash;
pub mod identity;
pub mod key;
pub mod lead;
pub mod policy;
pub mod request;
pub mod select;
#[cfg(test)]
mod testing;
pub mod wire;
