//! What concerns a whole proxy: ProxyConfig, the EgressIndex of a namespace, Share. It never invents a network or a host.

use std::time::Duration;

use ipnet::IpNet;
use leno_proto::identity::TrustDomain;
use leno_proto::policy;
use leno_proto::policy::EgressIndex;
use leno_proto::policy::ProxyConfig;
use leno_proto::policy::Share;
use leno_proto::policy::Tracing;

use crate::compile::Lens;
use crate::compile::outbound;
use crate::index::Topic;
use crate::object::Kind;
use crate::object::Object;
use crate::object::duration;
use crate::object::ours;
use crate::object::ours::EgressHost;
use crate::object::ours::Profile;
use crate::object::ours::ROOT_NAMESPACE;
use crate::object::ours::Visibility;

/// Kubernetes' usual name.
const TRUST_DOMAIN: &str = "cluster.local";
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// RFC 1918, RFC 6598, RFC 4193, and loopback for processes on one machine.
const MESH_NETWORKS: [&str; 7] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128"];
/// One percent of root spans where a profile traces at all.
const SAMPLING_PPM: u32 = 10_000;

pub(super) fn trust_domain(lens: &Lens<'_>) -> TrustDomain {
    let named = lens.mesh().and_then(|mesh| mesh.spec.trust_domain.as_deref()).and_then(|text| text.parse().ok());
    named
        .or_else(|| lens.world.base().trust_domain.clone())
        .unwrap_or_else(|| TRUST_DOMAIN.parse().expect("a valid constant"))
}

pub(super) fn proxy_config(lens: &Lens<'_>) -> ProxyConfig {
    let default = ours::MeshSpec::default();
    let spec = lens.mesh().map_or(&default, |mesh| {
        lens.uses(&crate::index::mesh_id());
        &mesh.spec
    });
    let base = lens.world.base();
    let networks = spec.mesh_networks.clone().or_else(|| base.mesh_networks.clone());
    let sampling = &spec.tracing.sampling;
    let sampling_ppm = match (sampling.parts_per_million, sampling.percent, spec.profile) {
        (Some(parts), ..) => parts.min(1_000_000),
        (None, Some(percent), _) => u32::from(percent.min(100)) * 10_000,
        (None, None, profile) => base.sampling_ppm.unwrap_or(match profile {
            Profile::Minimal => 0,
            Profile::Recommended | Profile::Strict => SAMPLING_PPM,
        }),
    };
    let endpoint = spec.tracing.endpoint.as_deref().or(base.tracing_endpoint.as_deref());
    ProxyConfig {
        trust_domain: trust_domain(lens),
        mesh_networks: networks.unwrap_or_else(default_networks),
        discovery_timeout: spec.outbound.discovery_timeout.as_deref().and_then(duration).unwrap_or(DISCOVERY_TIMEOUT),
        on_discovery_timeout: match spec.outbound.on_discovery_timeout {
            ours::OnDiscoveryTimeout::Fail => policy::OnDiscoveryTimeout::Fail,
            ours::OnDiscoveryTimeout::Passthrough => policy::OnDiscoveryTimeout::Passthrough,
        },
        unknown: match spec.outbound.unknown {
            ours::Unknown::Allow => policy::Unknown::Allow,
            ours::Unknown::Deny => policy::Unknown::Deny,
        },
        tracing: Tracing { endpoint: endpoint.map(Into::into), sampling_ppm },
    }
}

fn default_networks() -> Vec<IpNet> {
    MESH_NETWORKS.iter().map(|text| text.parse().expect("a valid constant")).collect()
}

/// The namespace's own hosts first, then the root namespace's that are for all, each oldest first.
pub(super) fn egress_index(lens: &Lens<'_>, namespace: &str) -> EgressIndex {
    let mut hosts = Vec::new();
    for object in in_order(lens, namespace) {
        let Object::EgressHost(host) = object else { continue };
        let meta = &host.metadata;
        let own = meta.namespace == namespace;
        let shared = meta.namespace == ROOT_NAMESPACE && host.spec.visibility == Visibility::Cluster;
        if own || shared {
            lens.uses(&object.id());
            hosts.push(egress_host(lens, host));
        }
    }
    EgressIndex { hosts }
}

fn in_order<'w>(lens: &Lens<'w>, namespace: &str) -> Vec<&'w Object> {
    let sorted = |namespace: &str| {
        let mut here = lens.about(Topic::In(Kind::EgressHost, namespace.into()));
        here.sort_by_key(|object| object.meta().age());
        here
    };
    let mut all = sorted(namespace);
    if namespace != ROOT_NAMESPACE {
        all.extend(sorted(ROOT_NAMESPACE));
    }
    all
}

fn egress_host(lens: &Lens<'_>, host: &EgressHost) -> policy::EgressHost {
    let first = host.spec.hostnames.iter().find(|name| !name.starts_with("*."));
    let ports = host.spec.ports.iter().map(|port| policy::EgressPort {
        port: port.port,
        protocol: outbound::named_protocol(&port.protocol),
        originate_tls: port
            .tls
            .as_ref()
            .and_then(|tls| tls.server_name.as_ref().or(first))
            .map(|name| name.as_str().into()),
    });
    policy::EgressHost {
        origin: host.metadata.key().to_string().into(),
        hostnames: host.spec.hostnames.iter().map(|name| name.to_ascii_lowercase().into()).collect(),
        ports: ports.collect(),
        addresses: host.spec.addresses.clone(),
        policy: super::policy::of_egress(lens, host),
    }
}

/// Parts of declared capacities depend on how many clients there are, which no stored object says: the session fills them in.
pub(super) fn share(_: &Lens<'_>) -> Share {
    Share::default()
}
