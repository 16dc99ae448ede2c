//! What an address is: a Service's port, a Pod, or nothing in the mesh. It never guesses between two owners of one address:
//! the Service wins over a Pod, and the older object over the newer.

use std::net::SocketAddr;
use std::sync::Arc;

use leno_proto::policy::Destination;
use leno_proto::policy::Protocol;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Traffic;
use leno_proto::policy::Workload;

use crate::compile::Lens;
use crate::compile::endpoints;
use crate::compile::outbound;
use crate::compile::policy;
use crate::index::Topic;
use crate::object::Name;
use crate::object::Object;
use crate::object::SERVICE_NAME;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServicePortSpec;

pub(super) fn destination(lens: &Lens<'_>, address: SocketAddr) -> Destination {
    let mut services = Vec::new();
    let mut pods = Vec::new();
    for object in lens.about(Topic::Address(address.ip())) {
        match object {
            Object::Service(service) if service.port(address.port()).is_some() => services.push(&**service),
            Object::Pod(pod) if pod.status.phase != "Succeeded" && pod.status.phase != "Failed" => pods.push(&**pod),
            _ => {}
        }
    }
    services.sort_by_key(|service| service.metadata.age());
    if let Some(service) = services.first() {
        return Destination::Service(ServicePort { service: name_of(service), port: address.port() });
    }
    // A Pod that terminates may still hold an address that a new one has been given.
    pods.sort_by_key(|pod| (!pod.metadata.deletion_timestamp.is_empty(), pod.metadata.age()));
    match pods.first() {
        Some(pod) => Destination::Workload(Box::new(workload(lens, pod, address))),
        None => Destination::NotFound,
    }
}

pub(super) fn name_of(service: &Service) -> ServiceName {
    ServiceName { namespace: service.metadata.namespace.as_str().into(), name: service.metadata.name.as_str().into() }
}

fn workload(lens: &Lens<'_>, pod: &Pod, address: SocketAddr) -> Workload {
    let endpoint = endpoints::of_pod(lens, pod, vec![address], address.port());
    let (protocol, policy) = match headless(lens, pod, address.port()).as_slice() {
        [(service, port)] => (outbound::protocol(port), address_policy(lens, service, port)),
        [] | [_, ..] => (Protocol::Detect, policy::defaults(lens)),
    };
    Workload { endpoint, protocol, policy }
}

/// The headless Services in which the Pod stands with that port.
fn headless<'w>(lens: &Lens<'w>, pod: &Pod, port: u16) -> Vec<(&'w Service, &'w ServicePortSpec)> {
    let mut found: Vec<(&Service, &ServicePortSpec)> = Vec::new();
    for object in lens.about(Topic::SlicesWith(pod.metadata.key())) {
        let Object::EndpointSlice(slice) = object else { continue };
        let Some(name) = slice.metadata.labels.get(SERVICE_NAME) else { continue };
        let Some(service) = lens.service(&Name::new(&slice.metadata.namespace, name)).filter(|s| s.headless()) else {
            continue;
        };
        let declared = slice.ports.iter().find(|p| p.port == Some(port));
        let Some(spec) = declared.and_then(|p| service.spec.ports.iter().find(|s| s.name == p.name)) else { continue };
        if !found.iter().any(|(known, _)| known.metadata.name == service.metadata.name) {
            found.push((service, spec));
        }
    }
    found
}

/// Of the Service's policy only what makes sense towards one address (CONTRACTS section 1).
fn address_policy(lens: &Lens<'_>, service: &Service, port: &ServicePortSpec) -> Arc<Traffic> {
    let defaults = policy::defaults(lens);
    let own = policy::of_port(lens, service, port, None);
    Arc::new(Traffic {
        connection: own.connection.clone(),
        timeouts: own.timeouts.clone(),
        circuit_breaker: own.circuit_breaker.clone(),
        ..Traffic::clone(&defaults)
    })
}
