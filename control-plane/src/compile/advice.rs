//! Which views of the mesh an object has a part in, and what `lint` says of each: merged over all levels, told to those objects
//! that set one of the fields in question. It never looks at more than a few places: a policy of a namespace is one text, not a hundred.

use std::collections::BTreeSet;
use std::time::Duration;

use leno_proto::fields;
use leno_proto::policy::Endpoint;
use leno_proto::policy::Protocol;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;

use crate::compile::Lens;
use crate::compile::destination::name_of;
use crate::compile::endpoints;
use crate::compile::outbound;
use crate::compile::policy;
use crate::index::Topic;
use crate::lint;
use crate::lint::Finding;
use crate::lint::Site;
use crate::lint::Warning;
use crate::object::Kind;
use crate::object::Name;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::gateway::HttpRoute;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServicePortSpec;
use crate::object::ours::InboundPolicy;
use crate::object::ours::Mesh;
use crate::object::ours::ROOT_NAMESPACE;
use crate::object::ours::Target;
use crate::object::ours::TargetRef;
use crate::object::ours::TrafficPolicy;

/// Services of a namespace, Pods of a workload, that are looked at.
const PLACES_MAX: usize = 16;

/// Seconds: Kubernetes' own default.
const GRACE: u32 = 30;

/// What is told of one object: each code once, with the first place where it holds.
struct Advice {
    /// Fields that the object sets.
    set: Vec<String>,
    told: BTreeSet<&'static str>,
    found: Vec<Finding>,
}

impl Advice {
    fn new(set: Vec<String>) -> Advice {
        Advice { set, told: BTreeSet::new(), found: Vec::new() }
    }

    fn sets(&self, field: &str) -> bool {
        self.set.iter().any(|one| one == field)
    }

    fn add(&mut self, found: Vec<Warning>, place: &str) {
        for warning in found {
            // A union counts as one field, whichever member is set.
            let concerns = warning.fields.iter().any(|field| self.sets(field));
            if concerns && self.told.insert(warning.code) {
                self.found.push(warning.at(place));
            }
        }
    }
}

pub(super) fn of_traffic(lens: &Lens<'_>, object: &TrafficPolicy) -> Vec<Finding> {
    let mut advice = Advice::new(fields::set_fields(fields::TRAFFIC, &object.spec.body));
    advice.found = lint::on_routes(object);
    let author = object.metadata.namespace.as_str();
    for one in &object.spec.target_refs {
        match one.target(author) {
            Some(Target::Mesh) => advice.add(lint::traffic(&policy::defaults(lens), &Site::default()), "the Mesh"),
            Some(Target::Namespace(name)) => {
                let services = lens.about(Topic::In(Kind::Service, name.as_str().into()));
                let services = services.into_iter().take(PLACES_MAX).filter_map(|object| match object {
                    Object::Service(service) => Some(&**service),
                    _ => None,
                });
                services.for_each(|service| of_service(lens, service, one, author, &mut advice));
            }
            Some(Target::Service(name)) => {
                if let Some(service) = lens.service(&name) {
                    let opaque = |port| matches!(outbound::protocol(port), Protocol::Opaque | Protocol::Tls);
                    let mut ports = ports(service, one).peekable();
                    if ports.peek().is_some() && ports.all(opaque) && advice.told.insert("NO_EFFECT_ON_BYTES") {
                        advice.found.extend(lint::on_bytes(object, &format!("Service {name}")));
                    }
                    of_service(lens, service, one, author, &mut advice);
                }
            }
            Some(Target::EgressHost(name)) => {
                let found = lens.about(Topic::Object(ObjectId { kind: Kind::EgressHost, name }));
                for object in found {
                    let Object::EgressHost(host) = object else { continue };
                    let place = format!("EgressHost {}", host.metadata.key());
                    if advice.told.insert(lint::UNSUPPORTED_KIND) {
                        advice.found.push(lint::egress(place.clone()));
                    }
                    advice.add(lint::traffic(&policy::of_egress(lens, host), &Site::default()), &place);
                }
            }
            Some(Target::Route(kind, name)) => {
                let rules = Rules { kind, name, rule: one.section_name.as_deref(), author };
                let body = kind.route().map(|kind| fields::on_route(kind, &object.spec.body)).unwrap_or_default();
                let set = std::mem::replace(&mut advice.set, fields::set_fields(fields::TRAFFIC, &body));
                of_rules(lens, &rules, &mut advice);
                advice.set = set;
            }
            None => {}
        }
    }
    advice.found
}

fn of_service(lens: &Lens<'_>, service: &Service, one: &TargetRef, author: &str, advice: &mut Advice) {
    let view = (author != service.metadata.namespace).then_some(author);
    for port in ports(service, one) {
        let folded = policy::of_port(lens, service, port, view);
        let place = format!("Service {} port {}", service.metadata.key(), port.port);
        advice.add(lint::traffic(&folded, &site(lens, service, port, advice)), &place);
    }
}

/// Those that a target means.
fn ports<'s>(service: &'s Service, one: &'s TargetRef) -> impl Iterator<Item = &'s ServicePortSpec> {
    service.tcp_ports().filter(|port| one.section_name.as_ref().is_none_or(|name| port.called(name)))
}

/// The endpoints are counted, and their own policies read, only for who set what they bear on.
fn site(lens: &Lens<'_>, service: &Service, port: &ServicePortSpec, advice: &Advice) -> Site {
    let mut site = Site { protocol: outbound::protocol(port), ..Site::default() };
    let asked = ["connection.maxConnections", "connection.idleTimeout", "timeouts.request"];
    if !asked.iter().any(|field| advice.sets(field)) {
        return site;
    }
    let target = ServicePort { service: name_of(service), port: port.port };
    let all = endpoints::of_port(lens, &target).unwrap_or_default();
    site.meshed_endpoints = Some(all.iter().filter(|endpoint| endpoint.identity.is_some()).count());
    let pod = |endpoint: &Endpoint| lens.about(Topic::PodUid(endpoint.uid.clone())).into_iter().find_map(pod_of);
    let grace = |pod: &Pod| Duration::from_secs(pod.spec.termination_grace_period_seconds.unwrap_or(GRACE).into());
    site.server_grace = all.iter().take(PLACES_MAX).filter_map(pod).map(grace).min();
    let idle = |endpoint: &Endpoint| -> Option<Duration> {
        let pod = pod(endpoint)?;
        Some(policy::inbound_of_port(lens, pod, endpoint.addresses.first()?.port()).timeouts.idle)
    };
    site.server_idle =
        all.iter().filter(|endpoint| endpoint.identity.is_some()).take(PLACES_MAX).filter_map(idle).min();
    site
}

fn pod_of(object: &Object) -> Option<&Pod> {
    match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

/// Of a route's own inline fields.
pub(super) fn of_http_route(lens: &Lens<'_>, route: &HttpRoute) -> Vec<Finding> {
    let rules = &route.spec.rules;
    let inline = [
        ("timeouts.request", rules.iter().any(|rule| rule.timeouts.request.is_some())),
        ("timeouts.perTry", rules.iter().any(|rule| rule.timeouts.backend_request.is_some())),
        (
            "retries.attempts",
            rules.iter().any(|rule| rule.retry.as_ref().is_some_and(|retry| retry.attempts.is_some())),
        ),
        ("retries.retryOn", rules.iter().any(|rule| rule.retry.as_ref().is_some_and(|retry| !retry.codes.is_empty()))),
    ];
    let set: Vec<String> = inline.into_iter().filter(|(_, set)| *set).map(|(field, _)| field.to_owned()).collect();
    let mut advice = Advice::new(set);
    if !advice.set.is_empty() {
        let meta = &route.metadata;
        of_rules(
            lens,
            &Rules { kind: Kind::HttpRoute, name: meta.key(), rule: None, author: &meta.namespace },
            &mut advice,
        );
    }
    advice.found
}

/// Which rules of which route, in whose view.
struct Rules<'a> {
    kind: Kind,
    name: Name,
    rule: Option<&'a str>,
    author: &'a str,
}

fn of_rules(lens: &Lens<'_>, rules: &Rules<'_>, advice: &mut Advice) {
    let found = lens.about(Topic::Object(ObjectId { kind: rules.kind, name: rules.name.clone() }));
    let origin = rules.name.to_string();
    for route in found {
        let namespace = route.meta().namespace.as_str();
        let parents: BTreeSet<Name> =
            outbound::parents(route).iter().filter_map(|parent| parent.service(namespace)).collect();
        for parent in parents.into_iter().take(PLACES_MAX) {
            let view = [rules.author, namespace].into_iter().find(|view| *view != &*parent.namespace);
            let service = ServiceName { namespace: parent.namespace, name: parent.name };
            for port in outbound::outbound(lens, &service, view).ports {
                let routes = port.routes.iter().filter(|route| *route.origin == *origin);
                for rule in routes.flat_map(|route| &route.rules) {
                    if rules.rule.is_none_or(|name| name == &*rule.name) {
                        let site = Site { protocol: port.protocol, ..Site::default() };
                        let place = format!("rule {} of {} {origin}", rule.name, rules.kind);
                        advice.add(lint::traffic(&rule.policy, &site), &place);
                    }
                }
            }
        }
    }
}

pub(super) fn of_mesh(lens: &Lens<'_>, mesh: &Mesh) -> Vec<Finding> {
    let defaults = &mesh.spec.defaults;
    let mut advice = Advice::new(fields::set_fields(fields::TRAFFIC, &defaults.traffic));
    advice.add(lint::traffic(&policy::defaults(lens), &Site::default()), "the Mesh");
    advice.set = fields::set_fields(fields::INBOUND, &defaults.inbound);
    advice.add(lint::inbound(&fields::inbound(&defaults.inbound)), "the Mesh");
    advice.found
}

/// Merged for the first Pods that it selects; alone where it selects none.
pub(super) fn of_inbound(lens: &Lens<'_>, object: &InboundPolicy) -> Vec<Finding> {
    let mut advice = Advice::new(fields::set_fields(fields::INBOUND, &object.spec.body));
    let workloads = &object.spec.workloads;
    let namespace = object.metadata.namespace.as_str();
    let topic =
        if namespace == ROOT_NAMESPACE { Topic::All(Kind::Pod) } else { Topic::In(Kind::Pod, namespace.into()) };
    let port = workloads.ports.first().copied().unwrap_or(0);
    let pods = lens.about(topic).into_iter().filter_map(pod_of);
    let selected: Vec<&Pod> =
        pods.filter(|pod| workloads.select(&pod.metadata.labels, port)).take(PLACES_MAX).collect();
    if selected.is_empty() {
        advice.add(lint::inbound(&fields::inbound(&object.spec.body)), "every workload that it will select");
    }
    for pod in selected {
        let folded = policy::inbound_of_port(lens, pod, port);
        advice.add(lint::inbound(&folded), &format!("Pod {}", pod.metadata.key()));
    }
    advice.found
}
