//! What is wrong with an object that decodes: bounds and cross-field rules, with a remedy each. Admission and conditions ask the same
//! questions here. It never looks at other objects, except at an object's own earlier version.

use std::collections::BTreeSet;

use leno_proto::fields;
use leno_proto::identity::TrustDomain;
use leno_proto::policy::Pattern;

use super::Object;
use super::duration;
use super::gateway::BackendRef;
use super::gateway::HttpMatch;
use super::gateway::ParentRef;
use super::gateway::RouteFilter;
use super::gateway::ValueMatch;
use super::kube::Meta;
use super::kube::Pod;
use super::kube::Service;
use super::kube::ServiceKind;
use super::ours::AccessPolicy;
use super::ours::Action;
use super::ours::EgressHost;
use super::ours::Mesh;
use super::ours::Strategy;
use super::ours::TrafficPolicy;
use super::ours::Visibility;
use super::ours::Workloads;
use crate::object::ours::ROOT_NAMESPACE;
use crate::object::ours::cidr;
use crate::object::ours::spiffe_match;

/// The Gateway API's bound on rules; the same for AccessPolicies.
pub(crate) const RULES_MAX: usize = 64;
const TARGETS_MAX: usize = 16;
pub(crate) const WEIGHT_MAX: u32 = 1_000_000;
const NAME_MAX: usize = 253;

/// One fault, in the words that the user sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    pub field: String,
    pub message: String,
    pub remedy: String,
}

/// Everything that is wrong; empty: it is valid.
pub fn check(object: &Object) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    name(object.meta(), &mut flaws);
    match object {
        Object::Service(service) => check_service(service, &mut flaws),
        Object::Pod(pod) => check_pod(pod, &mut flaws),
        Object::HttpRoute(route) => {
            parents(&route.spec.parent_refs, &mut flaws);
            rule_count(route.spec.rules.len(), &mut flaws);
            for (index, rule) in route.spec.rules.iter().enumerate() {
                let at = format!("spec.rules[{index}]");
                for (number, one) in rule.matches.iter().enumerate() {
                    http_match(&format!("{at}.matches[{number}]"), one, &mut flaws);
                }
                mirrors(&at, &rule.filters, &mut flaws);
                backends(&at, &rule.backend_refs, &mut flaws);
                let times = [
                    ("timeouts.request", &rule.timeouts.request),
                    ("timeouts.backendRequest", &rule.timeouts.backend_request),
                ];
                times.into_iter().for_each(|(field, text)| time(&format!("{at}.{field}"), text.as_deref(), &mut flaws));
                let retry = rule.retry.as_ref().and_then(|retry| retry.backoff.as_deref());
                time(&format!("{at}.retry.backoff"), retry, &mut flaws);
            }
        }
        Object::GrpcRoute(route) => {
            parents(&route.spec.parent_refs, &mut flaws);
            rule_count(route.spec.rules.len(), &mut flaws);
            for (index, rule) in route.spec.rules.iter().enumerate() {
                let at = format!("spec.rules[{index}]");
                for (number, one) in rule.matches.iter().enumerate() {
                    values(&format!("{at}.matches[{number}].headers"), &one.headers, &mut flaws);
                }
                mirrors(&at, &rule.filters, &mut flaws);
                backends(&at, &rule.backend_refs, &mut flaws);
            }
        }
        Object::TcpRoute(route) => {
            parents(&route.spec.parent_refs, &mut flaws);
            rule_count(route.spec.rules.len(), &mut flaws);
            for (index, rule) in route.spec.rules.iter().enumerate() {
                backends(&format!("spec.rules[{index}]"), &rule.backend_refs, &mut flaws);
            }
        }
        Object::TrafficPolicy(policy) => check_traffic(policy, &mut flaws),
        Object::InboundPolicy(policy) => {
            workloads(&policy.spec.workloads, &mut flaws);
            body("spec", fields::INBOUND, &policy.spec.body, &mut flaws);
        }
        Object::AccessPolicy(policy) => check_access(policy, &mut flaws),
        Object::EgressHost(host) => check_egress(host, &mut flaws),
        Object::Mesh(mesh) => check_mesh(mesh, &mut flaws),
        Object::Namespace(_) | Object::ServiceAccount(_) | Object::EndpointSlice(_) | Object::ReferenceGrant(_) => {}
    }
    flaws
}

/// What may not change once it is in force.
pub fn check_update(old: &Object, new: &Object) -> Option<Flaw> {
    let (Object::Mesh(old), Object::Mesh(new)) = (old, new) else { return None };
    (old.spec.trust_domain != new.spec.trust_domain).then(|| Flaw {
        field: "spec.trustDomain".to_owned(),
        message: "the trust domain cannot change: every identity carries it".to_owned(),
        remedy: format!("set it back to {}", old.spec.trust_domain.as_deref().unwrap_or("its absence")),
    })
}

fn flaw(flaws: &mut Vec<Flaw>, field: &str, message: impl Into<String>, remedy: &str) {
    flaws.push(Flaw { field: field.to_owned(), message: message.into(), remedy: remedy.to_owned() });
}

/// RFC 1123: what Kubernetes allows for the names of all kinds that we read.
fn name(meta: &Meta, flaws: &mut Vec<Flaw>) {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let good = |text: &str| {
        text.len() <= NAME_MAX
            && text.bytes().all(allowed)
            && !text.starts_with(['-', '.'])
            && !text.ends_with(['-', '.'])
    };
    for (field, text) in [("metadata.name", &meta.name), ("metadata.namespace", &meta.namespace)] {
        if !good(text) {
            let shown: String = text.chars().take(80).collect();
            flaw(
                flaws,
                field,
                format!("{shown:?} is no Kubernetes name"),
                "use lower-case letters, digits, '-' and '.', at most 253",
            );
        }
    }
}

fn check_service(service: &Service, flaws: &mut Vec<Flaw>) {
    let spec = &service.spec;
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        if port.port == 0 {
            flaw(flaws, &format!("{at}.port"), "0 is no port", "use 1 to 65535");
        }
        if !names.insert(&port.name) {
            flaw(
                flaws,
                &format!("{at}.name"),
                format!("another port is named {:?}", port.name),
                "name every port of a Service differently",
            );
        }
        if !numbers.insert((port.port, port.protocol as u8)) {
            flaw(flaws, &format!("{at}.port"), format!("port {} stands twice", port.port), "keep one of the two");
        }
    }
    let addresses =
        std::iter::once(&spec.cluster_ip).chain(&spec.cluster_ips).filter(|text| !text.is_empty() && *text != "None");
    for text in addresses.filter(|text| text.parse::<std::net::IpAddr>().is_err()) {
        flaw(flaws, "spec.clusterIP", format!("{text:?} is no IP address"), "write an address, or None");
    }
    if spec.kind == ServiceKind::ExternalName && spec.external_name.is_empty() {
        flaw(flaws, "spec.externalName", "a Service of type ExternalName names nothing", "set it to a DNS name");
    }
}

fn check_pod(pod: &Pod, flaws: &mut Vec<Flaw>) {
    let Some(text) = pod.metadata.annotations.get(super::INBOUND_PORTS) else { return };
    let good = |pair: &str| {
        let ports = pair.split_once('=').map(|(a, b)| (a.trim().parse::<u16>(), b.trim().parse::<u16>()));
        matches!(ports, Some((Ok(port), Ok(listen))) if port > 0 && listen > 0)
    };
    if let Some(bad) = text.split(',').find(|pair| !good(pair)) {
        let field = format!("metadata.annotations[{}]", super::INBOUND_PORTS);
        flaw(flaws, &field, format!("{bad:?} is no pair of ports"), "write it as 8080=18080,9090=19090");
    }
}

fn rule_count(rules: usize, flaws: &mut Vec<Flaw>) {
    if rules > RULES_MAX {
        flaw(flaws, "spec.rules", format!("{rules} rules are more than {RULES_MAX}"), "split the route");
    }
}

fn http_match(at: &str, one: &HttpMatch, flaws: &mut Vec<Flaw>) {
    if let Some(path) = &one.path {
        let field = format!("{at}.path");
        match path.kind.as_str() {
            "Exact" | "PathPrefix" if !path.value.starts_with('/') => {
                flaw(flaws, &field, format!("{:?} does not begin with a slash", path.value), "begin it with /");
            }
            "Exact" | "PathPrefix" => {}
            "RegularExpression" => pattern(&field, &path.value, flaws),
            other => {
                flaw(flaws, &field, format!("there is no type {other}"), "use Exact, PathPrefix or RegularExpression")
            }
        }
    }
    values(&format!("{at}.headers"), &one.headers, flaws);
    values(&format!("{at}.queryParams"), &one.query_params, flaws);
}

fn values(at: &str, all: &[ValueMatch], flaws: &mut Vec<Flaw>) {
    for (index, one) in all.iter().enumerate() {
        let field = format!("{at}[{index}].value");
        match one.kind.as_str() {
            "Exact" => {}
            "RegularExpression" => pattern(&field, &one.value, flaws),
            other => flaw(flaws, &field, format!("there is no type {other}"), "use Exact or RegularExpression"),
        }
    }
}

fn pattern(field: &str, text: &str, flaws: &mut Vec<Flaw>) {
    if let Err(error) = Pattern::new(text) {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default();
        flaw(
            flaws,
            field,
            format!("{text:?} is no regular expression: {last}"),
            "use RE2 syntax; look-around and back-references are not there",
        );
    }
}

fn parents(all: &[ParentRef], flaws: &mut Vec<Flaw>) {
    for (index, one) in all.iter().enumerate() {
        reference(&format!("spec.parentRefs[{index}]"), one.namespace.as_deref(), &one.name, flaws);
    }
}

/// The bounds that the Gateway API's own schema sets: what keeps them and does not exist is told as a reference that leads nowhere.
fn reference(at: &str, namespace: Option<&str>, name: &str, flaws: &mut Vec<Flaw>) {
    for (field, text) in [("namespace", namespace), ("name", Some(name))] {
        let Some(text) = text.filter(|text| text.is_empty() || text.len() > NAME_MAX) else { continue };
        let message = if text.is_empty() { "it is empty" } else { "it is longer than any name can be" };
        let remedy =
            format!("use 1 to {NAME_MAX} characters{}", if field == "name" { "" } else { ", or leave it out" });
        flaw(flaws, &format!("{at}.{field}"), message, &remedy);
    }
}

fn mirrors(at: &str, all: &[RouteFilter], flaws: &mut Vec<Flaw>) {
    for (index, one) in all.iter().enumerate() {
        let Some(to) = one.request_mirror.as_ref().map(|mirror| &mirror.backend_ref) else { continue };
        let field = format!("{at}.filters[{index}].requestMirror.backendRef");
        reference(&field, to.namespace.as_deref(), &to.name, flaws);
    }
}

fn backends(at: &str, all: &[BackendRef], flaws: &mut Vec<Flaw>) {
    for (index, one) in all.iter().enumerate() {
        let field = format!("{at}.backendRefs[{index}]");
        reference(&field, one.namespace.as_deref(), &one.name, flaws);
        mirrors(&field, &one.filters, flaws);
        if one.weight.is_some_and(|weight| weight > WEIGHT_MAX) {
            flaw(flaws, &format!("{field}.weight"), "the weight is out of bounds", "use 0 to 1000000");
        }
        if one.service("").is_some() && one.port.is_none() {
            flaw(
                flaws,
                &format!("{field}.port"),
                "a Service backend names no port",
                "name the Service's port by its number",
            );
        }
    }
}

fn time(field: &str, text: Option<&str>, flaws: &mut Vec<Flaw>) {
    if let Some(text) = text.filter(|text| duration(text).is_none()) {
        flaw(flaws, field, format!("{text:?} is no duration"), "write such as 250ms, 30s, 1h30m");
    }
}

fn body(at: &str, table: &[fields::Field], body: &fields::Body, flaws: &mut Vec<Flaw>) {
    for problem in fields::check(table, body) {
        flaw(flaws, &format!("{at}.{}", problem.field), problem.message, "");
    }
}

fn check_traffic(policy: &TrafficPolicy, flaws: &mut Vec<Flaw>) {
    let targets = &policy.spec.target_refs;
    if targets.is_empty() || targets.len() > TARGETS_MAX {
        flaw(flaws, "spec.targetRefs", format!("{} targets", targets.len()), "name 1 to 16 targets");
    }
    for (index, target) in targets.iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        let wide = matches!(target.kind.as_str(), "Mesh" | "Namespace");
        if target.target(&policy.metadata.namespace).is_none() {
            let message = format!("{}/{} is not a target", target.group, target.kind);
            let remedy = "use Mesh, EgressHost (policy.leno.dev), Namespace, Service (group \"\"), HTTPRoute, GRPCRoute or TCPRoute (gateway.networking.k8s.io)";
            flaw(flaws, &field, message, remedy);
        }
        if wide && target.namespace.is_some() {
            flaw(flaws, &format!("{field}.namespace"), format!("a {} has no namespace", target.kind), "remove it");
        }
        if policy.spec.strategy == Strategy::PatchOverrides && !wide {
            flaw(
                flaws,
                "spec.strategy",
                "PatchOverrides is for a Mesh or a Namespace alone",
                "remove it, or attach the policy there",
            );
        }
    }
    body("spec", fields::TRAFFIC, &policy.spec.body, flaws);
}

fn workloads(workloads: &Workloads, flaws: &mut Vec<Flaw>) {
    if workloads.ports.contains(&0) {
        flaw(flaws, "spec.workloads.ports", "0 is no port", "use 1 to 65535");
    }
}

fn check_access(policy: &AccessPolicy, flaws: &mut Vec<Flaw>) {
    workloads(&policy.spec.workloads, flaws);
    if policy.spec.rules.len() > RULES_MAX {
        flaw(flaws, "spec.rules", format!("more than {RULES_MAX} rules"), "split the policy: policies add up");
    }
    if policy.spec.rules.is_empty() && policy.spec.action != Action::Allow {
        flaw(flaws, "spec.rules", "without rules the policy matches nothing", "add a rule; `{}` matches everything");
    }
    for (index, rule) in policy.spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        for source in rule.sources.iter().flatten() {
            if let Some(bad) = source.spiffe.iter().find(|text| spiffe_match(text).is_none()) {
                flaw(
                    flaws,
                    &format!("{at}.sources.spiffe"),
                    format!("{bad:?} is no SPIFFE id"),
                    "write spiffe://DOMAIN/ns/NAMESPACE/sa/NAME, or end it with /*",
                );
            }
            if let Some(bad) = source.cidrs.iter().find(|text| cidr(text).is_none()) {
                flaw(
                    flaws,
                    &format!("{at}.sources.cidrs"),
                    format!("{bad:?} is no network"),
                    "write such as 10.0.0.0/8",
                );
            }
        }
        if let Some(bad) = rule.paths.iter().find(|path| !path.starts_with('/') && *path != "*") {
            flaw(
                flaws,
                &format!("{at}.paths"),
                format!("{bad:?} does not begin with a slash"),
                "begin it with /; a last * makes it a prefix",
            );
        }
    }
}

fn check_egress(host: &EgressHost, flaws: &mut Vec<Flaw>) {
    let spec = &host.spec;
    if spec.hostnames.is_empty() || spec.ports.is_empty() {
        flaw(flaws, "spec", "a host needs at least one hostname and one port", "add them");
    }
    for (index, hostname) in spec.hostnames.iter().enumerate() {
        let bare = hostname.strip_prefix("*.").unwrap_or(hostname);
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if bare.is_empty() || bare.len() > 253 || !bare.bytes().all(allowed) {
            flaw(
                flaws,
                &format!("spec.hostnames[{index}]"),
                format!("{hostname:?} is no host name"),
                "write a name, or *.suffix",
            );
        }
    }
    if spec.ports.iter().any(|port| port.port == 0) {
        flaw(flaws, "spec.ports", "0 is no port", "use 1 to 65535");
    }
    if spec.visibility == Visibility::Cluster && host.metadata.namespace != ROOT_NAMESPACE {
        let remedy = format!("use Namespace, or put the object into {ROOT_NAMESPACE}");
        flaw(flaws, "spec.visibility", "Cluster is for the root namespace alone", &remedy);
    }
}

fn check_mesh(mesh: &Mesh, flaws: &mut Vec<Flaw>) {
    let spec = &mesh.spec;
    if mesh.metadata.name != "default" {
        flaw(flaws, "metadata.name", "there is one Mesh", "name it default");
    }
    if let Some(Err(error)) = spec.trust_domain.as_deref().map(str::parse::<TrustDomain>) {
        flaw(flaws, "spec.trustDomain", error.to_string(), "use lower-case letters, digits, '.', '-' and '_'");
    }
    time("spec.outbound.discoveryTimeout", spec.outbound.discovery_timeout.as_deref(), flaws);
    if spec.tracing.sampling.percent.is_some_and(|percent| percent > 100) {
        flaw(flaws, "spec.tracing.sampling.percent", "more than 100", "use 0 to 100, or partsPerMillion");
    }
    if spec.tracing.endpoint.as_deref().is_some_and(|url| !url.starts_with("http://")) {
        let remedy = "begin it with http://, for spans are sent without TLS, perhaps to a collector on the node";
        flaw(flaws, "spec.tracing.endpoint", "this is no address that spans can be sent to", remedy);
    }
    body("spec.defaults.traffic", fields::TRAFFIC, &spec.defaults.traffic, flaws);
    body("spec.defaults.inbound", fields::INBOUND, &spec.defaults.inbound, flaws);
}
