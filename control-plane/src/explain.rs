//! Why a request goes where it goes: which route, policy and endpoint a client's request meets, and who says each value. Made by
//! the same functions that proxies are served from; it must never have an opinion of its own.

mod text;

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::sync::Arc;

use leno_proto::authorize::Peer;
use leno_proto::authorize::authorize;
use leno_proto::fields;
use leno_proto::identity::SpiffeId;
use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;
use leno_proto::policy::Access;
use leno_proto::policy::AccessRule;
use leno_proto::policy::Backend;
use leno_proto::policy::DefaultAccess;
use leno_proto::policy::Endpoint;
use leno_proto::policy::Filter;
use leno_proto::policy::Inbound;
use leno_proto::policy::OutboundPort;
use leno_proto::policy::Protocol;
use leno_proto::policy::Resource;
use leno_proto::policy::RouteKind;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::request::Headers;
use leno_proto::request::RequestView;
use leno_proto::select::Selected;
use leno_proto::select::Selection;
use leno_proto::select::select;
use leno_proto::select::select_tcp;
use serde::Serialize;

use crate::compile::Setting;
use crate::compile::compile;
use crate::compile::meshed;
use crate::compile::port_settings;
use crate::compile::rule_settings;
use crate::compile::view;
use crate::index::World;
use crate::object::Kind;
use crate::object::Name;
use crate::object::ObjectId;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServicePortSpec;

/// A request that somebody wonders about.
#[derive(Debug, Clone)]
pub struct Question {
    /// The Pod that sends it: `NAMESPACE/NAME`, or a name in namespace `default`.
    pub pod: String,
    /// `NAME[.NAMESPACE][:PORT]` or `NAMESPACE/NAME[:PORT]`; without a namespace, the Pod's; without a port, the only one.
    pub service: String,
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            pod: String::new(),
            service: String::new(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
        }
    }
}

/// Why there is no answer, with what to ask instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    #[error("there is no Pod {name}{}", hint(.near))]
    NoPod { name: String, near: Vec<String> },
    #[error("there is no Service {name}{}", hint(.near))]
    NoService { name: String, near: Vec<String> },
    #[error("Service {service} has no port {port}; it has {has}")]
    NoPort { service: String, port: String, has: String },
    #[error("Service {service} has several ports; name one of {has}, as in {service}:PORT")]
    WhichPort { service: String, has: String },
    #[error("the path must begin with `/`: {0:?}")]
    Path(String),
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub client: String,
    pub client_identity: Option<String>,
    /// Without a sidecar nothing of this applies to what the client sends.
    pub client_meshed: bool,
    pub service: String,
    pub protocol: &'static str,
    /// The namespace whose consumer objects apply.
    pub view: Option<String>,
    pub verdict: Verdict,
    /// Timeouts and retries, and where they come from.
    pub request_policy: Vec<Said>,
    pub backends: Vec<Toward>,
}

/// What becomes of the request at the client's sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Verdict {
    /// No route: to the Service's own endpoints.
    Own,
    Rule {
        route: String,
        rule: String,
        matched: String,
    },
    Redirect {
        route: String,
        rule: String,
        status: u16,
    },
    /// Routes are there, and none matches: 404.
    NoMatch {
        routes: Vec<String>,
    },
}

/// One field, its value, and its author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    pub field: &'static str,
    pub value: String,
    /// `None`: built in.
    pub from: Option<String>,
    pub enforced: bool,
}

/// One backend that the request may go to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Toward {
    pub service: String,
    /// Of all requests that come this way.
    pub percent: f64,
    /// Where the reference does not resolve, its share answers 500.
    pub resolved: bool,
    /// Connections, breakers, balancing and limits, and where they come from.
    pub policy: Vec<Said>,
    /// `internalTrafficPolicy: Local`: the client's node, whose endpoints alone are called.
    pub own_node: Option<String>,
    pub endpoints: Vec<Reached>,
}

/// One endpoint, and what its sidecar says to the client.
#[derive(Debug, Clone, Serialize)]
pub struct Reached {
    pub pod: String,
    pub address: String,
    /// Who must answer; `None`: no sidecar, plaintext.
    pub identity: Option<String>,
    pub state: &'static str,
    pub access: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub allowed: bool,
    /// The AccessPolicy that says so; `None`: the mesh's default, or that no policy allows it.
    pub policy: Option<String>,
    pub because: &'static str,
}

fn hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; there are {}", near.join(", ")) }
}

/// # Errors
/// The question names what is not there.
pub fn explain(world: &World, question: &Question) -> Result<Explanation, Unanswerable> {
    if !question.path.starts_with('/') {
        return Err(Unanswerable::Path(question.path.clone()));
    }
    let pod = pod(world, &question.pod)?;
    let target = target(world, &pod.metadata.namespace, &question.service)?;
    let namespace = pod.metadata.namespace.as_str();
    let view = view(world, &target.service, namespace);
    let own_view = (*view != *DEFAULT_VIEW).then(|| view.to_string());
    let asker = Asker {
        world,
        view: own_view.as_deref(),
        identity: identity(world, pod),
        ip: pod.addresses().first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        node: &pod.spec.node_name,
    };
    let key = Key::Outbound { service: target.service.clone(), view: Arc::clone(&view) };
    let Some(Resource::Outbound(outbound)) = compile(world, &key).resource else {
        return Err(Unanswerable::NoService { name: target.service.to_string(), near: Vec::new() });
    };
    let Some(port) = outbound.ports.iter().find(|port| port.port == target.port) else {
        let has = outbound.ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Unanswerable::NoPort { service: target.service.to_string(), port: target.port.to_string(), has });
    };
    let headers = headers(&question.headers);
    let (path, query) = match question.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (question.path.as_str(), None),
    };
    let authority = authority(question, &target);
    let request = RequestView { method: &question.method, authority: &authority, path, query, headers: &headers };
    let (verdict, request_policy, backends) = asker.route(&target, port, &request);
    Ok(Explanation {
        client: format!("{namespace}/{}", pod.metadata.name),
        client_identity: asker.identity.as_ref().map(ToString::to_string),
        client_meshed: meshed(world, pod),
        service: target.to_string(),
        protocol: protocol(port.protocol),
        view: own_view,
        verdict,
        request_policy,
        backends,
    })
}

/// Who asks, and what they may see.
struct Asker<'w> {
    world: &'w World,
    view: Option<&'w str>,
    identity: Option<SpiffeId>,
    ip: IpAddr,
    node: &'w str,
}

impl Asker<'_> {
    fn route(
        &self,
        target: &ServicePort,
        port: &OutboundPort,
        request: &RequestView<'_>,
    ) -> (Verdict, Vec<Said>, Vec<Toward>) {
        let opaque = matches!(port.protocol, Protocol::Opaque | Protocol::Tls);
        let selection = match (opaque, select_tcp(port)) {
            (true, Some(selected)) => Selection::Rule(selected),
            (true, None) => Selection::Own,
            (false, _) => select(port, request),
        };
        let request = (!opaque).then_some(request);
        match selection {
            Selection::Own => {
                let said = port_settings(self.world, target, self.view).unwrap_or_default();
                (Verdict::Own, of_requests(said, opaque), vec![self.toward(&port.backend, 100.0, request)])
            }
            Selection::NoMatch => {
                let mut routes: Vec<String> =
                    port.routes.iter().map(|route| route_id(route.kind, &route.origin).to_string()).collect();
                routes.dedup();
                (Verdict::NoMatch { routes }, Vec::new(), Vec::new())
            }
            Selection::Rule(selected) => self.rule(target, &selected, request),
        }
    }

    fn rule(
        &self,
        target: &ServicePort,
        selected: &Selected<'_>,
        request: Option<&RequestView<'_>>,
    ) -> (Verdict, Vec<Said>, Vec<Toward>) {
        let id = route_id(selected.route.kind, &selected.route.origin);
        let (route, rule) = (id.to_string(), selected.rule.name.to_string());
        let redirect = selected.rule.filters.iter().find_map(|filter| match filter {
            Filter::Redirect(redirect) => Some(redirect.status),
            _ => None,
        });
        if let Some(status) = redirect {
            return (Verdict::Redirect { route, rule, status }, Vec::new(), Vec::new());
        }
        let said = rule_settings(self.world, target, self.view, &id, &rule).unwrap_or_default();
        let total: u64 = selected.rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let toward = |backend: &Backend| {
            let percent = f64::from(backend.weight) * 100.0 / total.max(1) as f64;
            self.toward(backend, percent, request)
        };
        let backends = selected.rule.backends.iter().map(toward).collect();
        let matched = text::matched(selected.matched);
        (Verdict::Rule { route, rule, matched }, of_requests(said, request.is_none()), backends)
    }

    fn toward(&self, backend: &Backend, percent: f64, request: Option<&RequestView<'_>>) -> Toward {
        let said = port_settings(self.world, &backend.target, self.view).unwrap_or_default();
        let (mut endpoints, own_node_only) =
            if backend.resolved { endpoints(self.world, &backend.target) } else { (Vec::new(), false) };
        endpoints.retain(|endpoint| !own_node_only || *endpoint.node == *self.node);
        Toward {
            service: backend.target.to_string(),
            percent,
            resolved: backend.resolved,
            policy: of_connections(said, request.is_none()),
            own_node: own_node_only.then(|| self.node.to_owned()),
            endpoints: endpoints.iter().map(|endpoint| self.reached(endpoint, request)).collect(),
        }
    }

    fn reached(&self, endpoint: &Endpoint, request: Option<&RequestView<'_>>) -> Reached {
        let address = endpoint.addresses.first();
        let state = match (endpoint.ready, endpoint.serving, endpoint.terminating) {
            (true, ..) => "ready",
            (false, true, _) => "terminating, still serves",
            (false, false, true) => "terminating",
            (false, false, false) => "not ready",
        };
        Reached {
            pod: endpoint.pod.to_string(),
            address: address.map(ToString::to_string).unwrap_or_default(),
            identity: endpoint.identity.as_ref().map(ToString::to_string),
            state,
            access: match compile(self.world, &Key::Inbound(Arc::clone(&endpoint.uid))).resource {
                Some(Resource::Inbound(inbound)) if endpoint.identity.is_some() => {
                    self.access(&inbound, address.map_or(0, |address| address.port()), request)
                }
                _ => Answer { allowed: true, policy: None, because: "no sidecar asks" },
            },
        }
    }

    fn access(&self, inbound: &Inbound, port: u16, request: Option<&RequestView<'_>>) -> Answer {
        let port = inbound.ports.iter().find(|one| one.port == port).unwrap_or(&inbound.other);
        let peer = Peer { identity: self.identity.as_ref(), ip: self.ip };
        let access = &port.access;
        match authorize(access, &peer, request) {
            Err(denied) => Answer {
                allowed: false,
                because: if denied.origin.is_some() { "it denies this" } else { "no AccessPolicy allows this" },
                policy: denied.origin.map(|origin| origin.to_string()),
            },
            Ok(_) if !access.restricted => {
                Answer { allowed: true, policy: None, because: "no AccessPolicy restricts this port" }
            }
            Ok(_) => {
                // Each rule by itself, asked in the same way.
                let grants = |rule: &&AccessRule| {
                    let alone = Access {
                        allow: vec![AccessRule::clone(rule)],
                        restricted: true,
                        default: DefaultAccess::Deny,
                        ..Access::default()
                    };
                    authorize(&alone, &peer, request).is_ok()
                };
                let policy = access.allow.iter().find(grants).map(|rule| rule.origin.to_string());
                Answer { allowed: true, policy, because: "it allows this" }
            }
        }
    }
}

fn pod<'w>(world: &'w World, asked: &str) -> Result<&'w Pod, Unanswerable> {
    let (namespace, name) = asked.split_once('/').unwrap_or(("default", asked));
    world.pod(&Name::new(namespace, name)).ok_or_else(|| {
        let near = near(world, Kind::Pod, namespace, name);
        Unanswerable::NoPod { name: format!("{namespace}/{name}"), near }
    })
}

fn target(world: &World, client: &str, asked: &str) -> Result<ServicePort, Unanswerable> {
    let (host, port) = match asked.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (asked, None),
    };
    let (namespace, name) = match (host.split_once('/'), host.split_once('.')) {
        (Some((namespace, name)), _) => (namespace, name),
        // `orders.shop.svc.cluster.local` is `orders.shop`.
        (None, Some((name, rest))) => (rest.split('.').next().unwrap_or(rest), name),
        (None, None) => (client, host),
    };
    let service = world.service(&Name::new(namespace, name)).ok_or_else(|| {
        let near = near(world, Kind::Service, namespace, name);
        Unanswerable::NoService { name: format!("{namespace}/{name}"), near }
    })?;
    let port = service_port(service, port)?;
    Ok(ServicePort { service: ServiceName { namespace: namespace.into(), name: name.into() }, port })
}

/// By number, by name, or the only one.
fn service_port(service: &Service, asked: Option<&str>) -> Result<u16, Unanswerable> {
    let mut ports = service.tcp_ports();
    let found = match asked {
        Some(asked) => ports.find(|port| port.called(asked) || port.port.to_string() == asked),
        None => ports.next().filter(|_| ports.next().is_none()),
    };
    found.map(|port| port.port).ok_or_else(|| {
        let name = |port: &ServicePortSpec| match port.name.as_str() {
            "" => port.port.to_string(),
            name => format!("{} ({name})", port.port),
        };
        let service_name = service.metadata.key().to_string();
        let has = service.tcp_ports().map(name).collect::<Vec<_>>().join(", ");
        match asked {
            Some(port) => Unanswerable::NoPort { service: service_name, port: port.to_owned(), has },
            None => Unanswerable::WhichPort { service: service_name, has },
        }
    })
}

/// Names that were perhaps meant: those of the namespace that begin alike, else all of it; five at most.
fn near(world: &World, kind: Kind, namespace: &str, name: &str) -> Vec<String> {
    let here = || world.objects().map(|(id, _)| id).filter(|id| id.kind == kind && *id.name.namespace == *namespace);
    let stem = name.split('-').next().unwrap_or(name);
    let alike: Vec<String> =
        here().filter(|id| id.name.name.starts_with(stem)).take(5).map(|id| id.name.to_string()).collect();
    if alike.is_empty() { here().take(5).map(|id| id.name.to_string()).collect() } else { alike }
}

fn identity(world: &World, pod: &Pod) -> Option<SpiffeId> {
    match compile(world, &Key::Inbound(pod.metadata.uid.as_str().into())).resource {
        Some(Resource::Inbound(inbound)) if meshed(world, pod) => Some(inbound.identity),
        _ => None,
    }
}

/// All of them, and whether only those on the client's own node are called.
fn endpoints(world: &World, target: &ServicePort) -> (Vec<Endpoint>, bool) {
    let bucket = |bucket| match compile(world, &Key::Endpoints { target: target.clone(), bucket }).resource {
        Some(Resource::Endpoints(endpoints)) => Some(endpoints),
        _ => None,
    };
    let Some(first) = bucket(0) else { return (Vec::new(), false) };
    let rest = (1..first.buckets).filter_map(bucket).flat_map(|one| one.endpoints);
    (first.endpoints.into_iter().chain(rest).collect(), first.own_node_only)
}

fn route_id(kind: RouteKind, origin: &str) -> ObjectId {
    let (namespace, name) = origin.split_once('/').unwrap_or(("", origin));
    let kind = match kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Tcp => Kind::TcpRoute,
    };
    ObjectId { kind, name: Name::new(namespace, name) }
}

/// What the route's rule decides, or the port where there is no route. `opaque`: nothing but bytes travels there.
fn of_requests(settings: Vec<Setting>, opaque: bool) -> Vec<Said> {
    let kind = if opaque { RouteKind::Tcp } else { RouteKind::Http };
    said(settings, |path| fields::counts_on_route(kind, path))
}

/// What the backend's Service decides, whichever route leads there; `opaque` as above.
fn of_connections(settings: Vec<Setting>, opaque: bool) -> Vec<Said> {
    let counts = |path: &str| !opaque || fields::counts_for_bytes(path);
    said(settings, |path| !fields::counts_on_route(RouteKind::Http, path) && counts(path))
}

fn said(settings: Vec<Setting>, keep: impl Fn(&str) -> bool) -> Vec<Said> {
    let one = |setting: Setting| Said {
        field: setting.field.path,
        value: text::value(&setting),
        from: setting.from.map(|id| id.to_string()),
        enforced: setting.field.enforced,
    };
    settings.into_iter().filter(|setting| keep(setting.field.path)).map(one).collect()
}

fn headers(pairs: &[(String, String)]) -> Headers {
    let mut headers = Headers::new();
    pairs.iter().for_each(|(name, value)| headers.push(name.as_bytes(), value.as_bytes()));
    headers
}

/// The Host that the request carries, else what the application most likely wrote.
fn authority(question: &Question, target: &ServicePort) -> String {
    let host = question.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    host.map_or_else(|| format!("{}.{}", target.service.name, target.service.namespace), |(_, host)| host.clone())
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detected from its first bytes",
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Grpc => "gRPC",
        Protocol::Opaque => "opaque TCP",
        Protocol::Tls => "the application's own TLS",
    }
}
