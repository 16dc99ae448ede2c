//! How clients of one view reach a Service: its ports, the routes attached to them, and the backends that these lead to.
//! It never lets a namespace's consumer routes reach another view, nor a broken reference reach anything but its own share.

use std::sync::Arc;
use std::time::Duration;

use leno_proto::policy::Backend;
use leno_proto::policy::Outbound;
use leno_proto::policy::OutboundPort;
use leno_proto::policy::Protocol;
use leno_proto::policy::RouteKind;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;

use crate::compile::Lens;
use crate::compile::destination::name_of;
use crate::compile::policy;
use crate::compile::route;
use crate::index::Topic;
use crate::object::Name;
use crate::object::Object;
use crate::object::check;
use crate::object::gateway::ParentRef;
use crate::object::kube::Service;
use crate::object::kube::ServiceKind;
use crate::object::kube::ServicePortSpec;

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// `view`: the namespace whose consumer objects apply; `None` for clients that have none. A Service that does not exist has no
/// ports: whoever asks for it by name is told so at once, and hears of it when it is there.
pub(super) fn outbound(lens: &Lens<'_>, name: &ServiceName, view: Option<&str>) -> Outbound {
    let key = Name { namespace: Arc::clone(&name.namespace), name: Arc::clone(&name.name) };
    let ports = match lens.service(&key) {
        Some(service) => service.tcp_ports().map(|port| outbound_port(lens, service, port, view)).collect(),
        None => Vec::new(),
    };
    Outbound { service: name.clone(), ports }
}

fn outbound_port(lens: &Lens<'_>, service: &Service, port: &ServicePortSpec, view: Option<&str>) -> OutboundPort {
    let (attached, consumer) = attached_routes(lens, service, port, view);
    let site = route::Site { service, port, view, consumer };
    let routes = route::compile(lens, &site, &attached);
    let declared = protocol(port);
    let kind = attached.first().map(|object| route::kind(object));
    let protocol = match (declared, kind) {
        (Protocol::Detect, Some(RouteKind::Grpc)) => Protocol::Grpc,
        (Protocol::Detect, Some(RouteKind::Tcp)) => Protocol::Opaque,
        (declared, _) => declared,
    };
    let own = policy::of_port(lens, service, port, view);
    let backend = Backend {
        target: ServicePort { service: alias(service).unwrap_or_else(|| name_of(service)), port: port.port },
        weight: 1,
        protocol,
        filters: Vec::new(),
        policy: Arc::clone(&own),
        resolved: service.spec.kind != ServiceKind::ExternalName || alias(service).is_some(),
    };
    let affinity = (service.spec.session_affinity == "ClientIP").then(|| {
        let seconds = service.spec.session_affinity_config.client_ip.timeout_seconds;
        seconds.map_or(AFFINITY_DEFAULT, |s| Duration::from_secs(s.into()))
    });
    let name = if port.name.is_empty() { port.port.to_string() } else { port.name.clone() };
    OutboundPort {
        port: port.port,
        name: name.into(),
        protocol,
        routes,
        backend,
        policy: own,
        client_ip_affinity: affinity,
    }
}

/// The routes of this port, of the one kind that counts, oldest first; and whether they are the consumer's.
///
/// GEP-1294: a route in the client's namespace replaces the producer's for those clients. GEP-1294, "route types": where several
/// kinds are attached, the most specific counts: GRPCRoute, HTTPRoute, TCPRoute.
pub(super) fn attached_routes<'w>(
    lens: &Lens<'w>,
    service: &Service,
    port: &ServicePortSpec,
    view: Option<&str>,
) -> (Vec<&'w Object>, bool) {
    if !routable(service) {
        return (Vec::new(), false);
    }
    let name = service.metadata.key();
    let all: Vec<&Object> =
        lens.about(Topic::RoutesOf(name.clone())).into_iter().filter(|object| attaches(object, &name, port)).collect();
    let of = |namespace: &str| -> Vec<&'w Object> {
        all.iter().copied().filter(|o| o.meta().namespace == namespace).collect()
    };
    let consumers = view.filter(|view| *view != service.metadata.namespace).map(of).unwrap_or_default();
    let consumer = !consumers.is_empty();
    let mut routes = if consumer { consumers } else { of(&service.metadata.namespace) };
    let best = routes.iter().map(|object| rank(route::kind(object))).min();
    routes.retain(|object| Some(rank(route::kind(object))) == best);
    routes.sort_by_key(|object| object.meta().age());
    if best == Some(rank(RouteKind::Tcp)) {
        // A connection says nothing by which a second one could be told from the first.
        routes.truncate(1);
    }
    (routes, consumer)
}

/// Whether clients have an address that means this Service and no Pod: elsewhere no route can be taken.
pub(super) fn routable(service: &Service) -> bool {
    !service.headless() && service.spec.kind != ServiceKind::ExternalName
}

/// Whether a route can lead to it.
pub(super) fn has_endpoints(service: &Service) -> bool {
    service.spec.kind != ServiceKind::ExternalName
}

/// Whether what travels on the port is what routes of this kind speak of.
pub(super) fn carries(port: &ServicePortSpec, kind: RouteKind) -> bool {
    match protocol(port) {
        Protocol::Detect => true,
        Protocol::Opaque | Protocol::Tls => kind == RouteKind::Tcp,
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => kind != RouteKind::Tcp,
    }
}

fn rank(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Grpc => 0,
        RouteKind::Http => 1,
        RouteKind::Tcp => 2,
    }
}

fn attaches(object: &Object, service: &Name, port: &ServicePortSpec) -> bool {
    let namespace = &object.meta().namespace;
    carries(port, route::kind(object))
        && route::count(object) <= check::RULES_MAX
        && parents(object)
            .iter()
            .any(|parent| parent.service(namespace).as_ref() == Some(service) && selects(parent, port))
}

/// A parent without port or section is all ports.
pub(super) fn selects(parent: &ParentRef, port: &ServicePortSpec) -> bool {
    parent.port.is_none_or(|number| number == port.port)
        && parent.section_name.as_ref().is_none_or(|name| port.called(name))
}

pub(super) fn parents(object: &Object) -> &[ParentRef] {
    match object {
        Object::HttpRoute(route) => &route.spec.parent_refs,
        Object::GrpcRoute(route) => &route.spec.parent_refs,
        Object::TcpRoute(route) => &route.spec.parent_refs,
        _ => &[],
    }
}

/// `appProtocol` first (KEP-3726 and plain names), then the port's name by the `protocol[-suffix]` custom.
pub(super) fn protocol(port: &ServicePortSpec) -> Protocol {
    match named_protocol(&port.app_protocol) {
        Protocol::Detect => named_protocol(port.name.split_once('-').map_or(port.name.as_str(), |(first, _)| first)),
        declared => declared,
    }
}

pub(super) fn named_protocol(name: &str) -> Protocol {
    match name.to_ascii_lowercase().as_str() {
        "http" | "http1" | "http/1.1" | "ws" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" | "grpc-web" => Protocol::Grpc,
        "tls" | "https" | "wss" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "opaque" | "leno.dev/opaque" => Protocol::Opaque,
        "postgres" | "postgresql" | "mysql" | "mongo" | "mongodb" | "redis" | "amqp" | "kafka" | "smtp" => {
            Protocol::Opaque
        }
        _ => Protocol::Detect,
    }
}

/// An ExternalName that names another Service of the cluster is that Service. Others are resolved by the application itself.
fn alias(service: &Service) -> Option<ServiceName> {
    if service.spec.kind != ServiceKind::ExternalName {
        return None;
    }
    let mut labels = service.spec.external_name.trim_end_matches('.').splitn(4, '.');
    let (name, namespace, svc) = (labels.next()?, labels.next()?, labels.next()?);
    (svc == "svc").then(|| ServiceName { namespace: namespace.into(), name: name.into() })
}
