//! The strict HTTP/1 codec, both roles: `parse`, `decode` and `encode` work on bytes alone, `server` and `client` move them.
//! It must never forward what two readers could frame differently.

pub mod client;
mod deadline;
pub mod decode;
pub mod encode;
pub mod fields;
mod incoming;
pub mod parse;
pub mod server;
#[cfg(test)]
mod tests;
pub mod wire;
mod words;

pub use crate::http::h1::client::Answer;
pub use crate::http::h1::client::Answered;
pub use crate::http::h1::client::Client;
pub use crate::http::h1::client::Home;
pub use crate::http::h1::client::Parting;
pub use crate::http::h1::incoming::Incoming;
pub use crate::http::h1::server::Served;
pub use crate::http::h1::server::ServerSettings;
pub use crate::http::h1::server::serve;
pub use crate::http::h1::wire::Stream;
