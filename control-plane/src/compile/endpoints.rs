//! Endpoints of a service port: EndpointSlices joined with Pods and identities, split into buckets by a stable hash.
//! It never reorders or moves an endpoint because of another one, except when the number of buckets changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use leno_proto::policy::Endpoint;
use leno_proto::policy::Endpoints;
use leno_proto::policy::ServicePort;

use crate::compile::Lens;
use crate::compile::outbound;
use crate::index::Topic;
use crate::object::INBOUND_PORTS;
use crate::object::Name;
use crate::object::Object;
use crate::object::kube::EndpointSlice;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServiceKind;
use crate::object::kube::ServicePortSpec;
use crate::object::kube::SliceEndpoint;
use crate::object::kube::Transport;

/// So that a bucket stays far below the 256 KiB of a message (about 300 bytes an endpoint).
const BUCKET_MAX: usize = 512;
/// More buckets than any cluster needs (2 million endpoints): ends the search below.
const BUCKETS_MAX: u32 = 4096;

/// One bucket. `None`: no such Service, port or bucket.
pub(super) fn bucket(lens: &Lens<'_>, target: &ServicePort, bucket: u32) -> Option<Endpoints> {
    let (service, _) = lens.port(target)?;
    let all = of_port(lens, target)?;
    let buckets = bucket_count(&all);
    if bucket >= buckets {
        return None;
    }
    let endpoints = all.into_iter().filter(|e| bucket_of(&e.uid, buckets) == bucket).collect();
    let own_node_only = outbound::routable(service) && service.spec.internal_traffic_policy == "Local";
    Some(Endpoints { target: target.clone(), bucket, buckets, endpoints, own_node_only })
}

/// The least power of two with which no bucket is over its size: depends on the present endpoints alone.
fn bucket_count(all: &[Endpoint]) -> u32 {
    let mut buckets = 1;
    while buckets < BUCKETS_MAX {
        let mut sizes = vec![0_usize; buckets as usize];
        all.iter().for_each(|e| sizes[bucket_of(&e.uid, buckets) as usize] += 1);
        if sizes.iter().all(|size| *size <= BUCKET_MAX) {
            break;
        }
        buckets *= 2;
    }
    buckets
}

/// FNV-1a: the same on every replica and build.
fn bucket_of(uid: &str, buckets: u32) -> u32 {
    let hash = uid
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of FNV mix worst; fold the high ones in.
    ((hash ^ (hash >> 32)) % u64::from(buckets)) as u32
}

/// All of them. `None`: no such Service or port.
pub(super) fn of_port(lens: &Lens<'_>, target: &ServicePort) -> Option<Vec<Endpoint>> {
    let name = Name { namespace: Arc::clone(&target.service.namespace), name: Arc::clone(&target.service.name) };
    let service = lens.service(&name)?;
    let port = service.port(target.port)?;
    if service.spec.kind == ServiceKind::ExternalName {
        return Some(Vec::new());
    }
    let mut found: BTreeMap<Arc<str>, Endpoint> = BTreeMap::new();
    for object in lens.about(Topic::SlicesOf(name)) {
        let Object::EndpointSlice(slice) = object else { continue };
        let Some(number) = slice_port(slice, port) else { continue };
        for one in &slice.endpoints {
            let Some(endpoint) = endpoint(lens, service, slice, one, number) else { continue };
            match found.get_mut(&endpoint.uid) {
                // A dual-stack Pod stands in a slice of each family.
                Some(known) => join(known, endpoint),
                None => drop(found.insert(Arc::clone(&endpoint.uid), endpoint)),
            }
        }
    }
    Some(found.into_values().collect())
}

/// Slices name ports as the Service does; the number there is the Pod's own.
fn slice_port(slice: &EndpointSlice, port: &ServicePortSpec) -> Option<u16> {
    let named = slice.ports.iter().find(|p| p.name == port.name && p.protocol == Transport::Tcp)?;
    named.port
}

fn endpoint(
    lens: &Lens<'_>,
    service: &Service,
    slice: &EndpointSlice,
    one: &SliceEndpoint,
    port: u16,
) -> Option<Endpoint> {
    let addresses: Vec<SocketAddr> =
        one.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, port)).collect();
    let first = addresses.first()?.to_string();
    let target = one.target_ref.as_ref().filter(|target| target.kind == "Pod");
    let pod = target.and_then(|target| lens.pod(&Name::new(&slice.metadata.namespace, &target.name)));
    let ready = one.conditions.ready.unwrap_or(true);
    let serving = one.conditions.serving.unwrap_or(ready);
    let terminating = one.conditions.terminating.unwrap_or(false);
    let mut endpoint = match pod {
        Some(pod) => of_pod(lens, pod, addresses, port),
        None => Endpoint {
            uid: first.into(),
            addresses,
            identity: None,
            hop_port: None,
            node: "".into(),
            zone: "".into(),
            cluster: "".into(),
            ready,
            serving,
            terminating,
            parallelism: 0,
            pod: "".into(),
        },
    };
    let not_ready = service.spec.publish_not_ready_addresses;
    endpoint.ready = not_ready || (ready && !terminating);
    endpoint.serving = not_ready || serving;
    endpoint.terminating = terminating || endpoint.terminating;
    if !one.node_name.is_empty() {
        endpoint.node = one.node_name.as_str().into();
    }
    if !one.zone.is_empty() {
        endpoint.zone = one.zone.as_str().into();
    }
    Some(endpoint)
}

/// A Pod as an endpoint, from its own words alone.
pub(super) fn of_pod(lens: &Lens<'_>, pod: &Pod, addresses: Vec<SocketAddr>, port: u16) -> Endpoint {
    let terminating = !pod.metadata.deletion_timestamp.is_empty();
    let meshed = lens.meshed(pod);
    Endpoint {
        uid: pod.metadata.uid.as_str().into(),
        addresses,
        identity: if meshed { lens.identity(pod) } else { None },
        hop_port: if meshed { hop_port(pod, port) } else { None },
        node: pod.spec.node_name.as_str().into(),
        zone: zone_label(pod).unwrap_or_default().into(),
        cluster: "".into(),
        ready: pod.ready() && !terminating,
        serving: pod.ready(),
        terminating,
        parallelism: 0,
        pod: pod.metadata.key().to_string().into(),
    }
}

/// KEP-4742: the node's topology on the Pod itself.
pub(super) fn zone_label(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.get("topology.kubernetes.io/zone").map(String::as_str)
}

/// Where the Pod's sidecar listens for this port of the application, when nothing redirects.
pub(super) fn hop_port(pod: &Pod, port: u16) -> Option<u16> {
    inbound_ports(pod).get(&port).copied()
}

/// `leno.dev/inbound-ports: 8080=18080,9090=19090`. An entry that is not a pair of ports is skipped; admission refuses it.
pub(super) fn inbound_ports(pod: &Pod) -> BTreeMap<u16, u16> {
    let Some(text) = pod.metadata.annotations.get(INBOUND_PORTS) else { return BTreeMap::new() };
    let pairs = text.split(',').filter_map(|pair| {
        let (port, listen) = pair.split_once('=')?;
        Some((port.trim().parse().ok()?, listen.trim().parse().ok()?))
    });
    pairs.collect()
}

fn join(known: &mut Endpoint, other: Endpoint) {
    for address in other.addresses {
        if !known.addresses.contains(&address) {
            known.addresses.push(address);
        }
    }
    known.addresses.sort_by_key(SocketAddr::is_ipv6);
    known.ready &= other.ready;
    known.serving &= other.serving;
    known.terminating |= other.terminating;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_at_most_512_and_lose_nobody() {
        let uids: Vec<String> = (0..5000).map(|n| format!("pod-{n}")).collect();
        for buckets in [1, 2, 16, 64] {
            let mut sizes = vec![0; buckets as usize];
            uids.iter().for_each(|uid| sizes[bucket_of(uid, buckets) as usize] += 1);
            assert_eq!(sizes.iter().sum::<usize>(), uids.len());
            let mean = uids.len() / buckets as usize;
            assert!(sizes.iter().all(|size| *size < mean * 3 / 2 + 8), "uneven: {sizes:?}");
        }
    }
}
