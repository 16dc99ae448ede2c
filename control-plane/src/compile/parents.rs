//! What we say of a route to each Service that it names as a parent, as the Gateway API would have it said. It judges with the
//! functions that compile: a parent is told that the route is accepted exactly where the compiled port holds it.

use std::collections::BTreeMap;

use leno_proto::policy::RouteKind;
use serde::Serialize;

use crate::compile::Lens;
use crate::compile::conditions::Condition;
use crate::compile::conditions::Fault;
use crate::compile::filter;
use crate::compile::outbound;
use crate::compile::route;
use crate::object::Name;
use crate::object::Object;
use crate::object::check;
use crate::object::gateway::BackendRef;
use crate::object::gateway::ParentRef;
use crate::object::gateway::RouteFilter;
use crate::object::kube::Service;
use crate::object::kube::ServicePortSpec;

/// Faults that a message names; the rest are a number.
const NAMED_MAX: usize = 3;

/// One entry of `status.parents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    pub parent_ref: ParentRef,
    pub conditions: Vec<Condition>,
}

/// A parent that is a Service, judged.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) parent: ParentRef,
    pub(super) accepted: Result<String, Fault>,
}

/// A route, judged; `None`: none of its parents is ours.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) parents: Vec<Parent>,
    /// Some rules cannot be honoured, and others are.
    pub(super) partial: Option<Fault>,
    pub(super) resolved: Option<Fault>,
}

pub(super) fn judge(lens: &Lens<'_>, object: &Object) -> Judged {
    let namespace = object.meta().namespace.as_str();
    let rules = rules(object);
    let bad = bad_rules(object, &rules);
    let whole = whole(object, rules.len(), &bad);
    let ours = outbound::parents(object).iter().filter_map(|parent| Some((parent, parent.service(namespace)?)));
    let parents = ours.map(|(parent, service)| {
        let accepted = match &whole {
            Some(fault) => Err(fault.clone()),
            None => attached(lens, object, parent, &service),
        };
        Parent { parent: parent.clone(), accepted }
    });
    let parents = parents.collect();
    let partial = (whole.is_none() && !bad.is_empty()).then(|| {
        let reason = bad.values().next().map_or("UnsupportedValue", |(reason, _)| *reason);
        // "The message for this condition must start with the prefix 'Dropped Rule'."
        let said = bad.iter().map(|(index, (_, message))| format!("Dropped Rule {index}: {message}"));
        (reason, listed(said.collect()))
    });
    Judged { parents, partial, resolved: unresolved(lens, namespace, &rules) }
}

/// What all kinds' rules have in common.
struct Rule<'a> {
    filters: &'a [RouteFilter],
    backends: &'a [BackendRef],
}

fn rules(route: &Object) -> Vec<Rule<'_>> {
    match route {
        Object::HttpRoute(route) => {
            route.spec.rules.iter().map(|rule| Rule { filters: &rule.filters, backends: &rule.backend_refs }).collect()
        }
        Object::GrpcRoute(route) => {
            route.spec.rules.iter().map(|rule| Rule { filters: &rule.filters, backends: &rule.backend_refs }).collect()
        }
        Object::TcpRoute(route) => {
            route.spec.rules.iter().map(|rule| Rule { filters: &[], backends: &rule.backend_refs }).collect()
        }
        _ => Vec::new(),
    }
}

/// Rules that say what we cannot do, by their place.
fn bad_rules(route: &Object, rules: &[Rule<'_>]) -> BTreeMap<usize, Fault> {
    let mut bad = BTreeMap::new();
    for flaw in check::check(route) {
        if let Some(index) = rule_of(&flaw.field) {
            bad.entry(index).or_insert_with(|| ("UnsupportedValue", format!("{}: {}", flaw.field, flaw.message)));
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        if let Some(fault) = filter_fault(rule) {
            bad.insert(index, fault);
        }
    }
    bad
}

/// `spec.rules[3].matches[0]` is of rule 3.
fn rule_of(field: &str) -> Option<usize> {
    field.strip_prefix("spec.rules[")?.split_once(']')?.0.parse().ok()
}

fn filter_fault(rule: &Rule<'_>) -> Option<Fault> {
    let all = || rule.filters.iter().chain(rule.backends.iter().flat_map(|one| &one.filters));
    if let Some(filter) = all().find(|one| !filter::known(one)) {
        return Some(("UnsupportedValue", format!("filter {} is not supported; it answers 500", filter.kind)));
    }
    filter::incompatible(rule.filters).then(|| {
        ("IncompatibleFilters", "RequestRedirect and URLRewrite exclude each other; it answers 500".to_owned())
    })
}

/// What stands in the way of the route as a whole.
fn whole(route: &Object, rules: usize, bad: &BTreeMap<usize, Fault>) -> Option<Fault> {
    if let Some(flaw) = check::check(route).into_iter().find(|flaw| rule_of(&flaw.field).is_none()) {
        return Some(("UnsupportedValue", format!("{}: {}", flaw.field, flaw.message)));
    }
    let (_, (reason, message)) = bad.first_key_value()?;
    (bad.len() == rules).then(|| (*reason, message.clone()))
}

/// Whether the route is in force at a Service, and what there is to say if it is.
fn attached(lens: &Lens<'_>, route: &Object, parent: &ParentRef, name: &Name) -> Result<String, Fault> {
    let Some(service) = lens.service(name) else {
        return Err(("NoMatchingParent", format!("there is no Service {name}")));
    };
    if !outbound::routable(service) {
        let what = if service.headless() { "headless" } else { "of type ExternalName" };
        let message = format!("Service {name} is {what}: it has no address of its own at which a route could be taken");
        return Err(("UnsupportedValue", message));
    }
    let selected: Vec<&ServicePortSpec> = service.tcp_ports().filter(|port| outbound::selects(parent, port)).collect();
    if selected.is_empty() {
        return Err(("NoMatchingParent", format!("Service {name} has no such TCP port")));
    }
    let speaking: Vec<&ServicePortSpec> =
        selected.into_iter().filter(|port| outbound::carries(port, route::kind(route))).collect();
    if speaking.is_empty() {
        let (declared, remedy) = match route::kind(route) {
            RouteKind::Tcp => ("HTTP", "use an HTTPRoute or a GRPCRoute, or declare them as tcp"),
            RouteKind::Http | RouteKind::Grpc => ("opaque or TLS", "use a TCPRoute, or declare them as http"),
        };
        let message = format!("what it selects of Service {name} is declared as {declared}: {remedy} (appProtocol)");
        return Err(("UnsupportedValue", message));
    }
    let mut ousted = Vec::new();
    for port in &speaking {
        if let Some(other) = ousted_by(lens, route, service, port) {
            let key = other.meta().key();
            ousted.push(format!("on port {} {} {key} goes before it", port.port, other.kind()));
        }
    }
    let all = ousted.len() == speaking.len();
    let message = listed(ousted);
    if all { Err(("Conflicted", message)) } else { Ok(message) }
}

/// The route that counts in the stead of this one.
fn ousted_by<'w>(lens: &Lens<'w>, route: &Object, service: &Service, port: &ServicePortSpec) -> Option<&'w Object> {
    let own = route.meta().namespace.as_str();
    let view = (own != service.metadata.namespace).then_some(own);
    let (counting, _) = outbound::attached_routes(lens, service, port, view);
    if counting.iter().any(|one| one.id() == route.id()) { None } else { counting.first().copied() }
}

fn unresolved(lens: &Lens<'_>, namespace: &str, rules: &[Rule<'_>]) -> Option<Fault> {
    let mut reason = None;
    let mut said: Vec<String> = Vec::new();
    let mirrors = |rule: &Rule<'_>| {
        let named = rule.filters.iter().chain(rule.backends.iter().flat_map(|one| &one.filters));
        named.filter_map(|one| one.request_mirror.as_ref().map(|to| to.backend_ref.clone())).collect::<Vec<_>>()
    };
    for rule in rules {
        for backend in rule.backends.iter().cloned().chain(mirrors(rule)) {
            let Some((why, message)) = backend_fault(lens, namespace, &backend) else { continue };
            reason.get_or_insert(why);
            if !said.contains(&message) {
                said.push(message);
            }
        }
    }
    reason.map(|reason| (reason, listed(said)))
}

fn backend_fault(lens: &Lens<'_>, namespace: &str, one: &BackendRef) -> Option<Fault> {
    let Some(name) = one.service(namespace) else {
        return Some(("InvalidKind", format!("backend {} is no Service but a {}", one.name, one.kind())));
    };
    let Some(service) = lens.service(&name) else {
        return Some(("BackendNotFound", format!("there is no Service {name}")));
    };
    if !outbound::has_endpoints(service) {
        return Some(("BackendNotFound", format!("Service {name} is of type ExternalName: it has no endpoints")));
    }
    let Some(port) = one.port else {
        return Some(("BackendNotFound", format!("the reference to Service {name} names no port")));
    };
    service.port(port).is_none().then(|| ("BackendNotFound", format!("Service {name} has no TCP port {port}")))
}

fn listed(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    all.truncate(NAMED_MAX);
    let text = all.join("; ");
    if more > 0 { format!("{text}; and {more} more") } else { text }
}
