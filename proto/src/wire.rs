//! The generated messages and services of `leno/*.proto` (`cargo xtask codegen`). Nobody but `convert`, `key` and the two
//! session ends may read them: everyone else speaks the model.

/// `leno.control.v1`: the session between the planes; its client and server stand behind the features of these names.
#[rustfmt::skip]
#[allow(clippy::all, clippy::unwrap_used, elided_lifetimes_in_paths, unused_qualifications, unreachable_pub)]
pub mod control;

/// `leno.policy.v1`: the resources.
#[rustfmt::skip]
#[allow(clippy::all, clippy::unwrap_used, elided_lifetimes_in_paths, unused_qualifications, unreachable_pub)]
pub mod policy;
