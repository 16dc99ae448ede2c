//! Who may call. Pure. Its `Permit` is the only proof that a request or connection may reach the application; nothing else
//! can make one.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::SpiffeId;
use crate::policy::Access;
use crate::policy::AccessRule;
use crate::policy::DefaultAccess;
use crate::policy::Source;
use crate::request::RequestView;

/// Who is on the other end: a verified identity where there was mTLS, and the address.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    pub identity: Option<&'a SpiffeId>,
    pub ip: IpAddr,
}

/// Proof that policy allowed this. Made by `authorize` alone.
#[derive(Debug)]
pub struct Permit {
    // Private, so that nothing else can make one.
    audited: usize,
}

impl Permit {
    /// How many Audit rules matched: counted, and nothing else.
    pub fn audited(&self) -> usize {
        self.audited
    }
}

/// Policy refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", match origin { Some(origin) => format!("AccessPolicy {origin} denies it"), None => "no AccessPolicy allows it".to_owned() })]
pub struct Denied {
    /// The policy that denies, `namespace/name`; `None`: none allows.
    pub origin: Option<Arc<str>>,
}

/// Any matching deny denies; else, where some Allow policy selects the port, one must match; else the default. `request` is
/// `None` for a connection that carries no requests: there an allow with terms of requests does not match, and a deny
/// matches on its part about the peer.
///
/// # Errors
/// Policy refuses.
pub fn authorize(access: &Access, peer: &Peer<'_>, request: Option<&RequestView<'_>>) -> Result<Permit, Denied> {
    if let Some(rule) = access.deny.iter().find(|rule| denies(rule, peer, request)) {
        return Err(Denied { origin: Some(rule.origin.clone()) });
    }
    let allowed = match access.restricted {
        true => access.allow.iter().any(|rule| matches(rule, peer, request)),
        false => access.default == DefaultAccess::Allow,
    };
    if !allowed {
        return Err(Denied { origin: None });
    }
    let audited = access.audit.iter().filter(|rule| matches(rule, peer, request)).count();
    Ok(Permit { audited })
}

/// Whether any rule of the port is about requests: such a port never falls back to opaque.
pub fn has_layer7(access: &Access) -> bool {
    let mut rules = access.deny.iter().chain(&access.allow).chain(&access.audit);
    rules.any(AccessRule::speaks_http)
}

fn matches(rule: &AccessRule, peer: &Peer<'_>, request: Option<&RequestView<'_>>) -> bool {
    let request_matches = match request {
        Some(request) => request_matches(rule, request, Ambiguous::IsOutside),
        None => !rule.speaks_http(),
    };
    request_matches && source_matches(rule, peer)
}

fn denies(rule: &AccessRule, peer: &Peer<'_>, request: Option<&RequestView<'_>>) -> bool {
    request.is_none_or(|request| request_matches(rule, request, Ambiguous::IsInside)) && source_matches(rule, peer)
}

/// What a path that servers read differently is to a rule about paths: an allow must not be talked into it, nor a deny out
/// of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ambiguous {
    IsInside,
    IsOutside,
}

fn request_matches(rule: &AccessRule, request: &RequestView<'_>, ambiguous: Ambiguous) -> bool {
    let method = rule.methods.is_empty() || rule.methods.iter().any(|m| **m == *request.method);
    if !method || rule.paths.is_empty() {
        return method;
    }
    if request.path_is_ambiguous() {
        return ambiguous == Ambiguous::IsInside;
    }
    rule.paths.iter().any(|p| path_matches(p, request.path))
}

/// Exact, or all that begins with what stands before a final `*`.
fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

fn source_matches(rule: &AccessRule, peer: &Peer<'_>) -> bool {
    match &rule.sources {
        None => true,
        Some(sources) => sources.iter().any(|source| one_source_matches(source, peer)),
    }
}

/// All terms that are set must hold; a source without terms is nobody's.
fn one_source_matches(source: &Source, peer: &Peer<'_>) -> bool {
    let Source { spiffe, namespaces, cidrs } = source;
    let some = !(spiffe.is_empty() && namespaces.is_empty() && cidrs.is_empty());
    let identity = spiffe.is_empty() || peer.identity.is_some_and(|id| spiffe.iter().any(|m| m.matches(id)));
    let namespace = namespaces.is_empty()
        || peer
            .identity
            .and_then(SpiffeId::namespace)
            .is_some_and(|namespace| namespaces.iter().any(|n| **n == *namespace));
    some && identity && namespace && (cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.contains(&canonical(peer.ip))))
}

/// An IPv4 address that arrived on an IPv6 socket is that IPv4 address.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
