//! What a Pod's sidecar does with what arrives: its ports, the policy of each, and who may call it.
//! It never opens a port because a policy is broken: an invalid Allow grants nothing and still closes, an invalid Deny denies.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use leno_proto::policy::Inbound;
use leno_proto::policy::InboundPort;
use leno_proto::policy::Protocol;

use crate::compile::Lens;
use crate::compile::access;
use crate::compile::endpoints;
use crate::compile::outbound;
use crate::compile::policy;
use crate::index::Topic;
use crate::object::Kind;
use crate::object::Name;
use crate::object::Object;
use crate::object::SERVICE_NAME;
use crate::object::kube::ObjectReference;
use crate::object::kube::Pod;
use crate::object::kube::SliceEndpoint;
use crate::object::kube::Transport;

/// Kubernetes' default of `terminationGracePeriodSeconds`.
const GRACE_DEFAULT: u32 = 30;

/// `None`: the Pod is not known, or its names make no identity. Whoever asks waits; defaults would be a guess.
pub(super) fn inbound(lens: &Lens<'_>, uid: &str) -> Option<Inbound> {
    let found = lens.about(Topic::PodUid(uid.into()));
    let pod = found.into_iter().find_map(|object| match object {
        Object::Pod(pod) => Some(&**pod),
        _ => None,
    })?;
    let identity = lens.identity(pod)?;
    let declared = declared_ports(lens, pod);
    let listens = endpoints::inbound_ports(pod);
    let named: BTreeSet<u16> = declared.keys().chain(listens.keys()).copied().collect();
    let port = |number: u16| InboundPort {
        port: number,
        protocol: declared.get(&number).copied().unwrap_or_default(),
        listen: listens.get(&number).copied(),
        policy: policy::inbound_of_port(lens, pod, number),
        access: access::of_port(lens, pod, number),
    };
    Some(Inbound {
        uid: pod.metadata.uid.as_str().into(),
        identity,
        namespace: pod.metadata.namespace.as_str().into(),
        pod: pod.metadata.name.as_str().into(),
        addresses: pod.addresses(),
        ports: named.into_iter().map(port).collect(),
        other: port(0),
        grace: Duration::from_secs(pod.spec.termination_grace_period_seconds.unwrap_or(GRACE_DEFAULT).into()),
        node: pod.spec.node_name.as_str().into(),
        zone: zone(lens, pod).into(),
    })
}

/// The Pod's own label, else what an EndpointSlice says of it: nodes are not ours to read.
fn zone(lens: &Lens<'_>, pod: &Pod) -> String {
    if let Some(zone) = endpoints::zone_label(pod) {
        return zone.to_owned();
    }
    let found = lens.about(Topic::SlicesWith(pod.metadata.key())).into_iter().find_map(|object| {
        let Object::EndpointSlice(slice) = object else { return None };
        let is_pod = |target: &ObjectReference| target.kind == "Pod" && target.name == pod.metadata.name;
        let own = |endpoint: &&SliceEndpoint| endpoint.target_ref.as_ref().is_some_and(is_pod);
        slice.endpoints.iter().filter(own).map(|endpoint| endpoint.zone.clone()).find(|zone| !zone.is_empty())
    });
    found.unwrap_or_default()
}

/// Ports of containers and of the Services that the Pod stands in, with what is declared about their protocol. Two Services that
/// contradict each other declare nothing: then the bytes decide.
fn declared_ports(lens: &Lens<'_>, pod: &Pod) -> BTreeMap<u16, Protocol> {
    let mut ports: BTreeMap<u16, Protocol> = BTreeMap::new();
    let mut contradicted = BTreeSet::new();
    for (number, protocol) in service_ports(lens, pod) {
        let known = ports.entry(number).or_insert(protocol);
        if *known == Protocol::Detect {
            *known = protocol;
        } else if protocol != Protocol::Detect && *known != protocol {
            contradicted.insert(number);
        }
    }
    for number in contradicted {
        ports.insert(number, Protocol::Detect);
    }
    for port in pod.spec.containers.iter().chain(&pod.spec.init_containers).flat_map(|container| &container.ports) {
        if port.protocol == Transport::Tcp {
            ports.entry(port.container_port).or_default();
        }
    }
    ports
}

/// Through the EndpointSlices that name the Pod: they have resolved named target ports already.
fn service_ports(lens: &Lens<'_>, pod: &Pod) -> Vec<(u16, Protocol)> {
    let mut found = Vec::new();
    for object in lens.about(Topic::SlicesWith(pod.metadata.key())) {
        let Object::EndpointSlice(slice) = object else { continue };
        let service = slice
            .metadata
            .labels
            .get(SERVICE_NAME)
            .and_then(|name| lens.service(&Name::new(&slice.metadata.namespace, name)));
        let Some(service) = service else { continue };
        for port in service.tcp_ports() {
            let number =
                slice.ports.iter().find(|p| p.name == port.name && p.protocol == Transport::Tcp).and_then(|p| p.port);
            found.extend(number.map(|number| (number, outbound::protocol(port))));
        }
    }
    found
}

/// InboundPolicies and AccessPolicies that may bear on a Pod: its namespace's and, where they ask for it, the root namespace's.
pub(super) fn namespaces(pod: &Pod) -> Vec<Arc<str>> {
    let own: Arc<str> = pod.metadata.namespace.as_str().into();
    let root: Arc<str> = crate::object::ours::ROOT_NAMESPACE.into();
    if own == root { vec![own] } else { vec![root, own] }
}

/// All of a kind that may bear on a Pod, mesh-wide ones first, each oldest first.
pub(super) fn policies<'w>(lens: &Lens<'w>, pod: &Pod, kind: Kind) -> Vec<&'w Object> {
    let mut found = Vec::new();
    for namespace in namespaces(pod) {
        let mut here = lens.about(Topic::In(kind, namespace));
        here.sort_by_key(|object| object.meta().age());
        found.extend(here);
    }
    found
}
