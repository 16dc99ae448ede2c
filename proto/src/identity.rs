//! SPIFFE ids and trust domains: parsed once, compared for ever. It must never accept what the SPIFFE ID standard refuses.

use std::sync::Arc;

/// A SPIFFE trust domain: lower-case letters, digits, `.`, `-`, `_`; at most 255 bytes (SPIFFE-ID section 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(pub(crate) Arc<str>);

/// A SPIFFE id of a workload: `spiffe://DOMAIN/PATH` (SPIFFE-ID section 2), at most 2048 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(pub(crate) Arc<str>);
