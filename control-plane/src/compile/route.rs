//! Gateway API routes into the model: matches in order of precedence, filters, weighted backends, inline fields.
//! It never drops a rule that it cannot honour: such a rule answers 500, as the Gateway API asks, and its condition says why.

use std::cmp::Reverse;
use std::sync::Arc;

use leno_proto::policy::Backend;
use leno_proto::policy::Match;
use leno_proto::policy::PathMatch;
use leno_proto::policy::Pattern;
use leno_proto::policy::Protocol;
use leno_proto::policy::Route;
use leno_proto::policy::RouteKind;
use leno_proto::policy::Rule;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::StringMatch;
use leno_proto::policy::Traffic;
use leno_proto::policy::ValueMatch;

use crate::compile::Lens;
use crate::compile::filter;
use crate::compile::outbound;
use crate::compile::policy;
use crate::object::Object;
use crate::object::check;
use crate::object::gateway;
use crate::object::gateway::BackendRef;
use crate::object::gateway::RouteFilter;
use crate::object::kube::Service;
use crate::object::kube::ServicePortSpec;

/// Stands for a name that is empty; no Service can be called so.
const UNNAMED: &str = "-";

/// Where routes are attached, and for whom they are compiled.
pub(super) struct Site<'a> {
    pub(super) service: &'a Service,
    pub(super) port: &'a ServicePortSpec,
    pub(super) view: Option<&'a str>,
    /// The routes are the consumer's: the producer's policies on routes do not apply.
    pub(super) consumer: bool,
}

/// What orders matches: the greater comes first. Ties go to the older route, then to the earlier rule.
type Rank = (u8, usize, usize, bool, usize, usize);

/// One match of one rule of one route.
struct Candidate {
    rank: Rank,
    route: usize,
    rule: usize,
    condition: Match,
}

pub(super) fn kind(object: &Object) -> RouteKind {
    match object {
        Object::GrpcRoute(_) => RouteKind::Grpc,
        Object::TcpRoute(_) => RouteKind::Tcp,
        _ => RouteKind::Http,
    }
}

/// How many rules it has.
pub(super) fn count(object: &Object) -> usize {
    match object {
        Object::HttpRoute(route) => route.spec.rules.len(),
        Object::GrpcRoute(route) => route.spec.rules.len(),
        Object::TcpRoute(route) => route.spec.rules.len(),
        _ => 0,
    }
}

/// The routes of one port, all of one kind, oldest first. What comes out is in order of precedence across all of them, so a
/// route whose matches stand apart comes out in several pieces.
pub(super) fn compile(lens: &Lens<'_>, site: &Site<'_>, routes: &[&Object]) -> Vec<Route> {
    let rules: Vec<Vec<Option<Rule>>> = routes.iter().map(|object| rules(lens, site, object)).collect();
    let mut candidates = Vec::new();
    for (route, rules) in rules.iter().enumerate() {
        for (index, rule) in rules.iter().enumerate() {
            let Some(rule) = rule else { continue };
            let everything = [Match::default()];
            let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
            for condition in matches {
                candidates.push(Candidate {
                    rank: rank(kind(routes[route]), condition),
                    route,
                    rule: index,
                    condition: condition.clone(),
                });
            }
        }
    }
    candidates.sort_by_key(|c| (Reverse(c.rank), c.route, c.rule));
    gather(routes, &rules, candidates)
}

/// Neighbours of one rule become one rule again, and neighbours of one route one route.
fn gather(routes: &[&Object], rules: &[Vec<Option<Rule>>], candidates: Vec<Candidate>) -> Vec<Route> {
    let mut out: Vec<Route> = Vec::new();
    let mut last: Option<(usize, usize)> = None;
    for one in candidates {
        let same_route = last.is_some_and(|(route, _)| route == one.route);
        let Some(whole) = &rules[one.route][one.rule] else { continue };
        let same_rule = same_route && last.is_some_and(|(_, rule)| rule == one.rule);
        if !same_route {
            let meta = routes[one.route].meta();
            let hostnames = Vec::new();
            out.push(Route {
                kind: kind(routes[one.route]),
                origin: meta.key().to_string().into(),
                hostnames,
                rules: Vec::new(),
            });
        }
        let route = out.last_mut().expect("pushed above at the first candidate");
        if !same_rule {
            route.rules.push(Rule { matches: Vec::new(), ..whole.clone() });
        }
        let rule = route.rules.last_mut().expect("pushed above at the first candidate of a route");
        if one.condition != Match::default() {
            rule.matches.push(one.condition);
        }
        last = Some((one.route, one.rule));
    }
    out
}

/// HTTPRouteRule.matches: "Exact path match; Prefix path match with largest number of characters; Method match; Largest number
/// of header matches; Largest number of query param matches." Regular expressions, which it leaves open, stand between the two.
/// GRPCRouteRule.matches: "Characters in a matching service; in a matching method; Header matches."
fn rank(kind: RouteKind, condition: &Match) -> Rank {
    let (class, length) = match (&condition.path, kind) {
        (Some(PathMatch::Exact(path)), _) => (4, path.len()),
        (Some(PathMatch::Prefix(path)), RouteKind::Grpc) => (3, path.len()),
        (Some(PathMatch::Regex(_)), _) => (2, 0),
        (Some(PathMatch::Prefix(path)), _) => (1, path.trim_end_matches('/').len()),
        (None, _) => (1, 0),
    };
    (class, length, 0, condition.method.is_some(), condition.headers.len(), condition.query.len())
}

/// The rules of a route in their order; `None` for one that can match nothing.
fn rules(lens: &Lens<'_>, site: &Site<'_>, object: &Object) -> Vec<Option<Rule>> {
    lens.uses(&object.id());
    let namespace = object.meta().namespace.as_str();
    match object {
        Object::HttpRoute(route) => {
            let one = |(index, rule): (usize, &gateway::HttpRule)| {
                let parts =
                    Parts { namespace, index, name: &rule.name, filters: &rule.filters, backends: &rule.backend_refs };
                let matches = all_matches(&rule.matches, http_match)?;
                Some(parts.rule(lens, site, matches, policy::of_rule(lens, site, object, &rule.name, Some(rule))))
            };
            route.spec.rules.iter().enumerate().map(one).collect()
        }
        Object::GrpcRoute(route) => {
            let one = |(index, rule): (usize, &gateway::GrpcRule)| {
                let parts =
                    Parts { namespace, index, name: &rule.name, filters: &rule.filters, backends: &rule.backend_refs };
                let matches = all_matches(&rule.matches, grpc_match)?;
                Some(parts.rule(lens, site, matches, policy::of_rule(lens, site, object, &rule.name, None)))
            };
            route.spec.rules.iter().enumerate().map(one).collect()
        }
        Object::TcpRoute(route) => {
            let one = |(index, rule): (usize, &gateway::TcpRule)| {
                let parts = Parts { namespace, index, name: &rule.name, filters: &[], backends: &rule.backend_refs };
                Some(parts.rule(lens, site, Vec::new(), policy::of_rule(lens, site, object, &rule.name, None)))
            };
            route.spec.rules.iter().enumerate().map(one).collect()
        }
        _ => Vec::new(),
    }
}

/// A rule of a route, called as it is in an `Outbound`: its own name, and its inline fields where its kind has any.
pub(super) fn rule<'o>(object: &'o Object, called: &str) -> Option<(&'o str, Option<&'o gateway::HttpRule>)> {
    let is = |index: usize, name: &str| if name.is_empty() { index.to_string() == called } else { name == called };
    match object {
        Object::HttpRoute(route) => {
            let mut rules = route.spec.rules.iter().enumerate();
            rules.find(|(index, rule)| is(*index, &rule.name)).map(|(_, rule)| (rule.name.as_str(), Some(rule)))
        }
        Object::GrpcRoute(route) => {
            let mut rules = route.spec.rules.iter().enumerate();
            rules.find(|(index, rule)| is(*index, &rule.name)).map(|(_, rule)| (rule.name.as_str(), None))
        }
        Object::TcpRoute(route) => {
            let mut rules = route.spec.rules.iter().enumerate();
            rules.find(|(index, rule)| is(*index, &rule.name)).map(|(_, rule)| (rule.name.as_str(), None))
        }
        _ => None,
    }
}

/// `None` where matches are declared and none of them can match: an empty list would mean everything.
fn all_matches<T>(declared: &[T], compile: fn(&T) -> Option<Match>) -> Option<Vec<Match>> {
    let matches: Vec<Match> = declared.iter().filter_map(compile).collect();
    (declared.is_empty() || !matches.is_empty()).then_some(matches)
}

/// What the rules of the three kinds have in common.
struct Parts<'a> {
    namespace: &'a str,
    index: usize,
    name: &'a str,
    filters: &'a [RouteFilter],
    backends: &'a [BackendRef],
}

impl Parts<'_> {
    fn rule(&self, lens: &Lens<'_>, site: &Site<'_>, matches: Vec<Match>, policy: Arc<Traffic>) -> Rule {
        let name = if self.name.is_empty() { self.index.to_string().into() } else { self.name.into() };
        let backends = self.backends.iter().map(|one| backend(lens, site, self.namespace, one)).collect();
        let weights = self.backends.iter().all(|one| one.weight.unwrap_or_default() <= check::WEIGHT_MAX);
        let (filters, backends) = match filter::filters(lens, site, self.namespace, self.filters).filter(|_| weights) {
            Some(filters) => (filters, backends),
            // A filter that cannot be honoured must not be skipped: the rule answers 500.
            None => (Vec::new(), Vec::new()),
        };
        Rule { name, matches, filters, backends, policy }
    }
}

pub(super) fn backend<'a>(lens: &Lens<'_>, site: &Site<'_>, namespace: &'a str, one: &'a BackendRef) -> Backend {
    // A reference without a name or a port does not resolve and is never dialled: what stands there only has to be one.
    let named = |text: &'a str| if text.is_empty() { UNNAMED } else { text };
    let target = ServicePort {
        service: ServiceName {
            namespace: named(one.namespace.as_deref().unwrap_or(namespace)).into(),
            name: named(&one.name).into(),
        },
        port: one.port.filter(|port| *port > 0).unwrap_or(1),
    };
    let service = one.service(namespace).and_then(|name| lens.service(&name));
    let usable = service.filter(|service| one.port.is_some() && outbound::has_endpoints(service));
    let port = usable.and_then(|service| service.port(target.port).map(|port| (service, port)));
    let filters = filter::filters(lens, site, namespace, &one.filters);
    Backend {
        target,
        weight: one.weight.unwrap_or(1).min(check::WEIGHT_MAX),
        protocol: port.map_or(Protocol::Detect, |(_, port)| outbound::protocol(port)),
        resolved: port.is_some() && filters.is_some(),
        filters: filters.unwrap_or_default(),
        policy: match port {
            Some((service, port)) => policy::of_port(lens, service, port, site.view),
            None => policy::defaults(lens),
        },
    }
}

/// `None` for a match that names an unknown type or a pattern that is none: it matches nothing, and admission refuses it.
fn http_match(one: &gateway::HttpMatch) -> Option<Match> {
    let path = match &one.path {
        None => None,
        Some(path) => match path.kind.as_str() {
            "Exact" => Some(PathMatch::Exact(path.value.as_str().into())),
            // `/` is everything, the default of every rule.
            "PathPrefix" if path.value == "/" => None,
            "PathPrefix" => Some(PathMatch::Prefix(path.value.as_str().into())),
            "RegularExpression" => Some(PathMatch::Regex(Pattern::new(&path.value).ok()?)),
            _ => return None,
        },
    };
    let headers = values(&one.headers, str::to_ascii_lowercase)?;
    let query = values(&one.query_params, str::to_owned)?;
    Some(Match { path, method: one.method.as_deref().map(Into::into), headers, query })
}

fn grpc_match(one: &gateway::GrpcMatch) -> Option<Match> {
    let headers = values(&one.headers, str::to_ascii_lowercase)?;
    let Some(method) = &one.method else { return Some(Match { headers, ..Match::default() }) };
    let path = match (method.kind.as_str(), method.service.as_deref(), method.method.as_deref()) {
        (_, None, None) => None,
        ("Exact", Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
        ("Exact", Some(service), None) => Some(PathMatch::Prefix(format!("/{service}").into())),
        ("Exact", None, Some(method)) => {
            Some(PathMatch::Regex(Pattern::new(&format!("/[^/]+/{}", escape(method))).ok()?))
        }
        ("RegularExpression", service, method) => {
            let text = format!("/(?:{})/(?:{})", service.unwrap_or("[^/]+"), method.unwrap_or("[^/]+"));
            Some(PathMatch::Regex(Pattern::new(&text).ok()?))
        }
        _ => return None,
    };
    Some(Match { path, headers, ..Match::default() })
}

/// A gRPC method is a protobuf name; whatever else stands there is taken literally.
fn escape(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().map(|c| if plain(c) { c.to_string() } else { format!("\\x{{{:x}}}", u32::from(c)) }).collect()
}

/// "If multiple entries specify equivalent header names, only the first entry with an equivalent name MUST be considered."
fn values(all: &[gateway::ValueMatch], name: fn(&str) -> String) -> Option<Vec<ValueMatch>> {
    let mut out: Vec<ValueMatch> = Vec::new();
    for one in all {
        let name = name(&one.name);
        if out.iter().any(|known| *known.name == *name) {
            continue;
        }
        let value = match one.kind.as_str() {
            "Exact" => StringMatch::Exact(one.value.as_str().into()),
            "RegularExpression" => StringMatch::Regex(Pattern::new(&one.value).ok()?),
            _ => return None,
        };
        out.push(ValueMatch { name: name.into(), value });
    }
    Some(out)
}
