//! SPIFFE ids and trust domains: parsed once, compared for ever. It must never accept what the SPIFFE ID standard refuses.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A SPIFFE trust domain: lower-case letters, digits, `.`, `-`, `_`; 1 to 255 bytes (SPIFFE-ID section 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE id of a workload: `spiffe://DOMAIN/PATH` with a path (SPIFFE-ID section 2), at most 2048 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

/// Why a text is no trust domain or SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {why}")]
pub struct IdentityError {
    what: &'static str,
    /// Cut to 100 characters: it may come from a peer.
    text: String,
    why: &'static str,
}

const SCHEME: &str = "spiffe://";
const DOMAIN_MAX: usize = 255;
const ID_MAX: usize = 2048;

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match domain_fault(text) {
            Some(why) => Err(error("trust domain", text, why)),
            None => Ok(Self(text.into())),
        }
    }
}

impl SpiffeId {
    /// `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    ///
    /// # Errors
    /// A name holds a character that Kubernetes names never hold.
    pub fn workload(domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        for name in [namespace, service_account] {
            if let Some(why) = segment_fault(name) {
                return Err(error("name in a SPIFFE id", name, why));
            }
        }
        format!("{SCHEME}{}/ns/{namespace}/sa/{service_account}", domain.as_str()).parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, shared.
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.domain_and_path().0.into())
    }

    /// Of a workload's id in Kubernetes' form.
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// Of a workload's id in Kubernetes' form.
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, service_account)| service_account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.domain_and_path().1.strip_prefix("ns/")?.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }

    fn domain_and_path(&self) -> (&str, &str) {
        self.0[SCHEME.len()..].split_once('/').expect("parsing demands a path")
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match id_fault(text) {
            Some(why) => Err(error("SPIFFE id", text, why)),
            None => Ok(Self(text.into())),
        }
    }
}

fn id_fault(text: &str) -> Option<&'static str> {
    if text.len() > ID_MAX {
        return Some("it is longer than 2048 bytes");
    }
    let Some(rest) = text.strip_prefix(SCHEME) else { return Some("it does not begin with spiffe://") };
    let Some((domain, path)) = rest.split_once('/') else { return Some("it has no path, so it names no workload") };
    domain_fault(domain).or_else(|| path.split('/').find_map(segment_fault))
}

fn domain_fault(domain: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match domain.len() {
        0 => Some("the trust domain is empty"),
        1..=DOMAIN_MAX if domain.bytes().all(allowed) => None,
        1..=DOMAIN_MAX => Some("a trust domain holds only a-z, 0-9, '.', '-' and '_'"),
        _ => Some("the trust domain is longer than 255 bytes"),
    }
}

/// SPIFFE-ID section 2.2: no empty segments, no `.` or `..`, no percent-encoding.
fn segment_fault(segment: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Some("a path segment is empty"),
        "." | ".." => Some("a path segment is relative"),
        _ if segment.bytes().all(allowed) => None,
        _ => Some("a path segment holds only a-z, A-Z, 0-9, '.', '-' and '_'"),
    }
}

fn error(what: &'static str, text: &str, why: &'static str) -> IdentityError {
    IdentityError { what, text: text.chars().take(100).collect(), why }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
