//! Messages and enums whose model has the same shape: a list of names for each, in the order of `policy.proto`. It must
//! never hold a conversion that is more than its list and its bounds: those stand in `union`.

use std::sync::Arc;

use super::At;
use super::Invalid;
use super::Reader;
use super::Wire;
use super::Writer;
use super::invalid;
use crate::policy::Access;
use crate::policy::AccessRule;
use crate::policy::Backend;
use crate::policy::DefaultAccess;
use crate::policy::EgressHost;
use crate::policy::EgressIndex;
use crate::policy::EgressPort;
use crate::policy::Endpoint;
use crate::policy::Endpoints;
use crate::policy::HeaderEdit;
use crate::policy::Inbound;
use crate::policy::InboundPort;
use crate::policy::Match;
use crate::policy::OnDiscoveryTimeout;
use crate::policy::Outbound;
use crate::policy::OutboundPort;
use crate::policy::Protocol;
use crate::policy::ProxyConfig;
use crate::policy::Redirect;
use crate::policy::Route;
use crate::policy::RouteKind;
use crate::policy::Rule;
use crate::policy::ServiceName;
use crate::policy::ServicePort;
use crate::policy::Share;
use crate::policy::Source;
use crate::policy::Tracing;
use crate::policy::TrustBundle;
use crate::policy::Unknown;
use crate::policy::Workload;
use crate::wire::policy as wire;

/// CONTRACTS of the session: an Endpoints resource is split so that no bucket holds more.
pub const BUCKET_ENDPOINTS_MAX: usize = 512;
/// Gateway API: weights are 0 to 1,000,000.
const WEIGHT_MAX: u32 = 1_000_000;

/// `Model = WireMessage { field: wire_field, ... } check |it| ...`: both directions of a message, as itself and as a
/// required part of another.
macro_rules! message {
    ($name:ident { $($field:ident: $wire:ident),* $(,)? } $(check $check:expr)?) => {
        impl Wire<wire::$name> for $name {
            fn read(wire: wire::$name, cx: &mut Reader) -> Result<Self, Invalid> {
                let it = Self { $($field: Wire::read(wire.$wire, cx).at(stringify!($wire))?),* };
                $( let check: fn(&$name) -> Result<(), Invalid> = $check; check(&it)?; )?
                Ok(it)
            }

            fn write(&self, cx: &mut Writer) -> wire::$name {
                wire::$name { $($wire: Wire::write(&self.$field, cx)),* }
            }
        }

        $crate::convert::message::required!($name);
    };
}

/// A message that must be there.
macro_rules! required {
    ($name:ident) => {
        impl Wire<Option<wire::$name>> for $name {
            fn read(wire: Option<wire::$name>, cx: &mut Reader) -> Result<Self, Invalid> {
                match wire {
                    Some(wire) => Wire::read(wire, cx),
                    None => $crate::convert::invalid("missing".to_owned()),
                }
            }

            fn write(&self, cx: &mut Writer) -> Option<wire::$name> {
                Some(Wire::write(self, cx))
            }
        }
    };
}

/// Variants of the same name on both sides; 0 and what this build does not know are `Invalid`.
macro_rules! closed {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        impl Wire<i32> for $name {
            fn read(number: i32, _: &mut Reader) -> Result<Self, Invalid> {
                match wire::$name::try_from(number) {
                    $( Ok(wire::$name::$variant) => Ok(Self::$variant), )*
                    Ok(wire::$name::Unspecified) | Err(_) => {
                        $crate::convert::invalid(format!(concat!("unknown ", stringify!($name), " {}"), number))
                    }
                }
            }

            fn write(&self, _: &mut Writer) -> i32 {
                match self {
                    $( Self::$variant => wire::$name::$variant as i32, )*
                }
            }
        }
    };
}

pub(super) use closed;
pub(super) use message;
pub(super) use required;

closed!(Protocol { Detect, Http1, Http2, Grpc, Opaque, Tls });
closed!(RouteKind { Http, Grpc, Tcp });
closed!(DefaultAccess { Allow, Deny });
closed!(OnDiscoveryTimeout { Fail, Passthrough });
closed!(Unknown { Allow, Deny });

message!(Workload { endpoint: endpoint, protocol: protocol, policy: policy });

message!(ServiceName { namespace: namespace, name: name } check |it| {
    not_empty(&it.namespace).at("namespace")?;
    not_empty(&it.name).at("name")
});

message!(ServicePort { service: service, port: port } check |it| port(it.port).at("port"));

message!(Outbound { service: service, ports: ports });

message!(OutboundPort {
    port: port,
    name: name,
    protocol: protocol,
    routes: routes,
    backend: backend,
    policy: policy,
    client_ip_affinity: client_ip_affinity_ms,
} check |it| port(it.port).at("port"));

message!(Route { kind: kind, origin: origin, hostnames: hostnames, rules: rules });

message!(Rule { name: name, matches: matches, filters: filters, backends: backends, policy: policy });

message!(Match { path: path, method: method, headers: headers, query: query });

message!(HeaderEdit { set: set, add: add, remove: remove });

message!(Redirect { scheme: scheme, hostname: hostname, port: port, path: path, status: status } check |it| {
    match it.status {
        300..=399 => Ok(()),
        other => invalid(format!("{other} is not 300 to 399")).at("status"),
    }
});

impl Wire<wire::Backend> for Backend {
    fn read(wire: wire::Backend, cx: &mut Reader) -> Result<Self, Invalid> {
        if wire.weight > WEIGHT_MAX {
            return invalid(format!("{} is more than {WEIGHT_MAX}", wire.weight)).at("weight");
        }
        cx.deeper(|cx| {
            Ok(Backend {
                target: Wire::read(wire.target, cx).at("target")?,
                weight: wire.weight,
                protocol: Wire::read(wire.protocol, cx).at("protocol")?,
                filters: Wire::read(wire.filters, cx).at("filters")?,
                policy: Wire::read(wire.policy, cx).at("policy")?,
                resolved: wire.resolved,
            })
        })
    }

    fn write(&self, cx: &mut Writer) -> wire::Backend {
        wire::Backend {
            target: self.target.write(cx),
            weight: self.weight,
            protocol: self.protocol.write(cx),
            filters: self.filters.write(cx),
            policy: self.policy.write(cx),
            resolved: self.resolved,
        }
    }
}

required!(Backend);

message!(Endpoints {
    target: target,
    bucket: bucket,
    buckets: buckets,
    endpoints: endpoints,
    own_node_only: own_node_only,
} check |it| {
    if it.bucket >= it.buckets {
        return invalid(format!("{} is not below the {} buckets", it.bucket, it.buckets)).at("bucket");
    }
    match it.endpoints.len() {
        0..=BUCKET_ENDPOINTS_MAX => Ok(()),
        more => invalid(format!("{more} are more than {BUCKET_ENDPOINTS_MAX}")).at("endpoints"),
    }
});

message!(Endpoint {
    uid: uid,
    addresses: addresses,
    identity: identity,
    hop_port: hop_port,
    node: node,
    zone: zone,
    cluster: cluster,
    ready: ready,
    serving: serving,
    terminating: terminating,
    parallelism: parallelism,
    pod: pod,
} check |it| {
    not_empty(&it.uid).at("uid")?;
    it.hop_port.map_or(Ok(()), port).at("hop_port")?;
    match it.addresses.is_empty() {
        false => Ok(()),
        true => invalid("empty".to_owned()).at("addresses"),
    }
});

message!(Inbound {
    uid: uid,
    identity: identity,
    namespace: namespace,
    pod: pod,
    addresses: addresses,
    ports: ports,
    other: other,
    grace: grace_ms,
    node: node,
    zone: zone,
} check |it| {
    for (i, inbound) in it.ports.iter().enumerate() {
        port(inbound.port).at("port").at_index(i).at("ports")?;
    }
    match it.other.port {
        0 => Ok(()),
        other => invalid(format!("{other} is not 0")).at("other.port"),
    }
});

message!(InboundPort { port: port, protocol: protocol, listen: listen, policy: policy, access: access } check |it| {
    it.listen.map_or(Ok(()), port).at("listen")
});

message!(Access { deny: deny, allow: allow, audit: audit, restricted: restricted, default: default });

message!(AccessRule { origin: origin, sources: sources, methods: methods, paths: paths });

message!(Source { spiffe: spiffe, namespaces: namespaces, cidrs: cidrs });

message!(TrustBundle { domains: domains } check |it| {
    match it.domains.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        true => Ok(()),
        false => invalid("not in the order of their names, each once".to_owned()).at("domains"),
    }
});

message!(ProxyConfig {
    trust_domain: trust_domain,
    mesh_networks: mesh_networks,
    discovery_timeout: discovery_timeout_ms,
    on_discovery_timeout: on_discovery_timeout,
    unknown: unknown,
    tracing: tracing,
});

message!(Tracing { endpoint: endpoint, sampling_ppm: sampling_ppm } check |it| {
    parts_per_million(it.sampling_ppm).at("sampling_ppm")
});

message!(EgressIndex { hosts: hosts });

message!(EgressHost { origin: origin, hostnames: hostnames, ports: ports, addresses: addresses, policy: policy });

message!(EgressPort { port: port, protocol: protocol, originate_tls: originate_tls } check |it| port(it.port).at("port"));

message!(Share { max_connections: max_connections });

fn not_empty(text: &Arc<str>) -> Result<(), Invalid> {
    match text.is_empty() {
        false => Ok(()),
        true => invalid("empty".to_owned()),
    }
}

fn port(port: u16) -> Result<(), Invalid> {
    match port {
        0 => invalid("0 is no port".to_owned()),
        _ => Ok(()),
    }
}

pub(super) fn parts_per_million(parts: u32) -> Result<(), Invalid> {
    match parts {
        0..=1_000_000 => Ok(()),
        more => invalid(format!("{more} is more than 1000000")),
    }
}
