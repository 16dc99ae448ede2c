//! The names of resources: one canonical text each, so that both planes sort and compare them alike. It must never give two
//! texts to one thing.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::policy::ServiceName;
use crate::policy::ServicePort;
use crate::wire::control as wire;

/// Which resource. The order is by kind, then by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// What an address is.
    Destination(SocketAddr),
    /// How the clients of one view reach a Service. The view is the client's namespace where that holds a consumer object
    /// for the Service, else `default`.
    Outbound {
        service: ServiceName,
        view: Arc<str>,
    },
    /// One hash bucket of the endpoints of a Service's port.
    Endpoints {
        target: ServicePort,
        bucket: u32,
    },
    /// What a workload's sidecar does with what arrives, by pod uid.
    Inbound(Arc<str>),
    TrustBundle,
    ProxyConfig,
    EgressIndex,
    /// This proxy's part of declared capacities.
    Share,
}

/// The name of the view of clients whose namespace says nothing of its own about a Service.
pub const DEFAULT_VIEW: &str = "default";

/// The name of the resources of which there is one.
const ONE: &str = "mesh";

/// The kinds of keys, numbered as on the wire (`leno.control.v1.Kind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum Kind {
    Destination = 1,
    Outbound = 2,
    Endpoints = 3,
    Inbound = 4,
    TrustBundle = 5,
    ProxyConfig = 6,
    EgressIndex = 7,
    Share = 8,
}

/// A kind and a name that are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no key: kind {kind}, name {name:?}")]
pub struct KeyError {
    kind: i32,
    /// Cut to 100 characters.
    name: String,
}

impl Key {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Destination(_) => Kind::Destination,
            Self::Outbound { .. } => Kind::Outbound,
            Self::Endpoints { .. } => Kind::Endpoints,
            Self::Inbound(_) => Kind::Inbound,
            Self::TrustBundle => Kind::TrustBundle,
            Self::ProxyConfig => Kind::ProxyConfig,
            Self::EgressIndex => Kind::EgressIndex,
            Self::Share => Kind::Share,
        }
    }

    /// The canonical name; with the kind it is the key.
    pub fn name(&self) -> String {
        match self {
            Self::Destination(address) => address.to_string(),
            Self::Outbound { service, view } => format!("{service}@{view}"),
            Self::Endpoints { target, bucket } => format!("{target}/{bucket}"),
            Self::Inbound(uid) => uid.to_string(),
            Self::TrustBundle | Self::ProxyConfig | Self::EgressIndex | Self::Share => ONE.to_owned(),
        }
    }

    /// The key with this kind number and name.
    ///
    /// # Errors
    /// The number is no kind of ours, or the name is not the canonical one.
    pub fn parse(kind: i32, name: &str) -> Result<Self, KeyError> {
        let key = parse(kind, name).filter(|key| key.name() == name);
        key.ok_or_else(|| KeyError { kind, name: name.chars().take(100).collect() })
    }

    pub fn to_wire(&self) -> wire::Key {
        wire::Key { kind: self.kind() as i32, name: self.name() }
    }

    /// # Errors
    /// As `parse`.
    pub fn from_wire(key: &wire::Key) -> Result<Self, KeyError> {
        Self::parse(key.kind, &key.name)
    }
}

fn parse(kind: i32, name: &str) -> Option<Key> {
    Some(match kind {
        // A scope id means something on one host only.
        1 if name.contains('%') => return None,
        1 => Key::Destination(name.parse().ok()?),
        2 => {
            let (service, view) = name.split_once('@')?;
            Key::Outbound { service: service_name(service)?, view: part(view)? }
        }
        3 => {
            let (target, bucket) = name.rsplit_once('/')?;
            let (service, port) = target.rsplit_once(':')?;
            let target = ServicePort { service: service_name(service)?, port: port.parse().ok()? };
            Key::Endpoints { target, bucket: bucket.parse().ok()? }
        }
        4 => Key::Inbound(part(name)?),
        5 => Key::TrustBundle,
        6 => Key::ProxyConfig,
        7 => Key::EgressIndex,
        8 => Key::Share,
        _ => return None,
    })
}

fn service_name(text: &str) -> Option<ServiceName> {
    let (namespace, name) = text.split_once('/')?;
    Some(ServiceName { namespace: part(namespace)?, name: part(name)? })
}

/// A Kubernetes name or uid, as far as a key must know: not empty, bounded, and without our separators.
fn part(text: &str) -> Option<Arc<str>> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    (!text.is_empty() && text.len() <= 253 && text.bytes().all(allowed)).then(|| text.into())
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind(), self.name())
    }
}
