//! TrafficPolicies and InboundPolicies folded into what one port or rule is under. Precedence, GEP-713 "Patch defaults" with the
//! oldest policy established: built in < Mesh < Namespace < the Service's own spec < Service < port < route < rule < the route's inline fields < consumer.
//! It never lets a policy that is invalid, conflicted or out of its author's reach have any effect.

use std::sync::Arc;

use leno_proto::fields;
use leno_proto::fields::Body;
use leno_proto::fields::Field;
use leno_proto::policy::InboundTraffic;
use leno_proto::policy::ServiceName;
use leno_proto::policy::Traffic;
use serde_json::Value;
use serde_json::json;

use crate::compile::Lens;
use crate::compile::inbound;
use crate::compile::outbound;
use crate::compile::route::Site;
use crate::index::Topic;
use crate::index::World;
use crate::index::mesh_id;
use crate::object::Kind;
use crate::object::Name;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::gateway::HttpRule;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServicePortSpec;
use crate::object::ours::EgressHost;
use crate::object::ours::InboundPolicy;
use crate::object::ours::Profile;
use crate::object::ours::ROOT_NAMESPACE;
use crate::object::ours::Strategy;
use crate::object::ours::Target;
use crate::object::ours::TrafficPolicy;

/// One place that policies attach to, and whose policies count there.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    pub(super) target: Target,
    pub(super) section: Section<'a>,
    /// The namespace that a policy must stand in.
    pub(super) author: &'a str,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Section<'a> {
    Whole,
    Port(&'a ServicePortSpec),
    Rule(&'a str),
}

/// What one field is worth, and who says so.
#[derive(Debug, Clone)]
pub struct Setting {
    pub field: &'static Field,
    /// `None`: unset, which is the field's default.
    pub value: Option<Value>,
    /// The policy, route or Mesh that set it, or put it back to its default; `None`: nobody.
    pub from: Option<ObjectId>,
}

/// Where no Service says otherwise.
pub(super) fn defaults(lens: &Lens<'_>) -> Arc<Traffic> {
    let mut fold = Fold::start(lens);
    fold.at(mesh());
    fold.end()
}

/// Of a Service's port, for clients of a view.
pub(super) fn of_port(lens: &Lens<'_>, service: &Service, port: &ServicePortSpec, view: Option<&str>) -> Arc<Traffic> {
    port_fold(lens, service, port, view).end()
}

/// As `of_port`, field by field.
pub(super) fn port_settings(
    lens: &Lens<'_>,
    service: &Service,
    port: &ServicePortSpec,
    view: Option<&str>,
) -> Vec<Setting> {
    port_fold(lens, service, port, view).settings()
}

/// Of a rule of a route: `http` brings the inline fields where the route's kind has any.
pub(super) fn of_rule(
    lens: &Lens<'_>,
    site: &Site<'_>,
    route: &Object,
    rule: &str,
    http: Option<&HttpRule>,
) -> Arc<Traffic> {
    rule_fold(lens, site, route, rule, http).end()
}

/// As `of_rule`, field by field.
pub(super) fn rule_settings(
    lens: &Lens<'_>,
    site: &Site<'_>,
    route: &Object,
    rule: &str,
    http: Option<&HttpRule>,
) -> Vec<Setting> {
    rule_fold(lens, site, route, rule, http).settings()
}

fn port_fold<'l, 'w>(
    lens: &'l Lens<'w>,
    service: &Service,
    port: &ServicePortSpec,
    view: Option<&str>,
) -> Fold<'l, 'w> {
    let mut fold = Fold::start(lens);
    fold.producer(service, port);
    fold.consumer(service, port, view);
    fold
}

fn rule_fold<'l, 'w>(
    lens: &'l Lens<'w>,
    site: &Site<'_>,
    route: &Object,
    rule: &str,
    http: Option<&HttpRule>,
) -> Fold<'l, 'w> {
    let mut fold = Fold::start(lens);
    fold.producer(site.service, site.port);
    let meta = route.meta();
    let target = Target::Route(route.kind(), meta.key());
    let place = |author, section| Place { target: target.clone(), section, author };
    fold.at(place(&meta.namespace, Section::Whole));
    fold.at(place(&meta.namespace, Section::Rule(rule)));
    if let Some(http) = http {
        fold.layers.push(Layer { from: Some(route.id()), body: inline(http) });
    }
    fold.consumer(site.service, site.port, site.view);
    if let Some(view) = site.view.filter(|view| !site.consumer && *view != meta.namespace) {
        fold.at(place(view, Section::Whole));
        fold.at(place(view, Section::Rule(rule)));
    }
    fold
}

pub(super) fn of_egress(lens: &Lens<'_>, host: &EgressHost) -> Arc<Traffic> {
    let mut fold = Fold::start(lens);
    // Farther away and not ours: a longer connect, and an idle time below what servers on the internet allow.
    let built_in = json!({"connection": {"connectTimeout": "5s", "idleTimeout": "30s"}});
    fold.layers.insert(0, Layer { from: None, body: built_in.as_object().cloned().unwrap_or_default() });
    let namespace = host.metadata.namespace.as_str();
    fold.at(mesh());
    fold.at(Place { target: Target::Namespace(namespace.to_owned()), section: Section::Whole, author: namespace });
    fold.at(Place { target: Target::EgressHost(host.metadata.key()), section: Section::Whole, author: namespace });
    fold.end()
}

/// True where `namespace` holds a route or a policy of its own for this Service of another namespace.
pub(super) fn has_consumer(world: &World, service: &ServiceName, namespace: &str) -> bool {
    let name = Name { namespace: Arc::clone(&service.namespace), name: Arc::clone(&service.name) };
    let by_policy =
        |target: Target| world.about(&Topic::PoliciesOn(target)).any(|policy| policy.meta().namespace == namespace);
    let topic = Topic::RoutesOf(name.clone());
    let mut routes = world.about(&topic);
    let by_route = routes
        .any(|route| route.meta().namespace == namespace || by_policy(Target::Route(route.kind(), route.meta().key())));
    by_route || by_policy(Target::Service(name))
}

/// What `has_consumer` asks of the world.
pub(super) fn ask_consumers(lens: &Lens<'_>, service: &ServiceName) {
    let name = Name { namespace: Arc::clone(&service.namespace), name: Arc::clone(&service.name) };
    for route in lens.about(Topic::RoutesOf(name.clone())) {
        lens.ask(Topic::PoliciesOn(Target::Route(route.kind(), route.meta().key())));
    }
    lens.ask(Topic::PoliciesOn(Target::Service(name)));
}

/// Of a port of a Pod: mesh, mesh-wide policies, the namespace's, those that select Pods, those that name the port.
pub(super) fn inbound_of_port(lens: &Lens<'_>, pod: &Pod, port: u16) -> Arc<InboundTraffic> {
    let mut body = Body::new();
    if let Some(mesh) = lens.mesh() {
        body = mesh.spec.profile.inbound();
        fields::merge(fields::INBOUND, &mut body, &mesh.spec.defaults.inbound);
    }
    let mut policies: Vec<&InboundPolicy> = Vec::new();
    for object in inbound::policies(lens, pod, Kind::InboundPolicy) {
        let Object::InboundPolicy(policy) = object else { continue };
        if policy.spec.workloads.select(&pod.metadata.labels, port)
            && fields::check(fields::INBOUND, &policy.spec.body).is_empty()
        {
            policies.push(policy);
        }
    }
    policies.sort_by_key(|policy| (inbound_rank(policy), policy.metadata.age()));
    for of_rank in policies.chunk_by(|one, other| inbound_rank(one) == inbound_rank(other)) {
        let (accepted, _) = established(fields::INBOUND, of_rank.iter().map(|policy| (*policy, &policy.spec.body)));
        for policy in accepted {
            lens.uses(&Object::InboundPolicy(Box::new(policy.clone())).id());
            fields::merge(fields::INBOUND, &mut body, &policy.spec.body);
        }
    }
    Arc::new(fields::inbound(&body))
}

/// The less specific first.
pub(super) fn inbound_rank(policy: &InboundPolicy) -> (bool, bool, bool) {
    let workloads = &policy.spec.workloads;
    let own = policy.metadata.namespace != ROOT_NAMESPACE;
    (own, !workloads.selector.match_labels.is_empty(), !workloads.ports.is_empty())
}

/// Oldest first in: those that apply, and for each that does not, the one that it contradicts.
pub(super) fn established<'p, P: Copy>(
    table: &[Field],
    policies: impl Iterator<Item = (P, &'p Body)>,
) -> (Vec<P>, Vec<(P, P)>) {
    let mut accepted: Vec<(P, &Body)> = Vec::new();
    let mut conflicted = Vec::new();
    for (policy, body) in policies {
        match accepted.iter().find(|(_, known)| !fields::are_disjoint(table, known, body)) {
            Some((older, _)) => conflicted.push((policy, *older)),
            None => accepted.push((policy, body)),
        }
    }
    (accepted.into_iter().map(|(policy, _)| policy).collect(), conflicted)
}

/// The valid policies at one place, oldest first; of those that contradict each other the older.
pub(super) fn at_place<'w>(
    lens: &Lens<'w>,
    place: &Place<'_>,
) -> (Vec<&'w TrafficPolicy>, Vec<(&'w TrafficPolicy, &'w TrafficPolicy)>) {
    let mut here: Vec<&TrafficPolicy> = Vec::new();
    for object in lens.about(Topic::PoliciesOn(place.target.clone())) {
        let Object::TrafficPolicy(policy) = object else { continue };
        if policy.metadata.namespace == place.author && attached(policy, place) && valid(policy) {
            here.push(policy);
        }
    }
    here.sort_by_key(|policy| policy.metadata.age());
    established(fields::TRAFFIC, here.into_iter().map(|policy| (policy, &policy.spec.body)))
}

pub(super) fn valid(policy: &TrafficPolicy) -> bool {
    fields::check(fields::TRAFFIC, &policy.spec.body).is_empty()
}

fn attached(policy: &TrafficPolicy, place: &Place<'_>) -> bool {
    policy.spec.target_refs.iter().any(|one| {
        let same = one.target(&policy.metadata.namespace).as_ref() == Some(&place.target);
        same && match (&place.section, &one.section_name) {
            (Section::Whole, None) => true,
            (Section::Port(port), Some(name)) => port.called(name),
            (Section::Rule(rule), Some(name)) => !rule.is_empty() && rule == name,
            (Section::Whole, Some(_)) | (Section::Port(_) | Section::Rule(_), None) => false,
        }
    })
}

pub(super) fn mesh() -> Place<'static> {
    Place { target: Target::Mesh, section: Section::Whole, author: ROOT_NAMESPACE }
}

/// One walk from the least specific to the most.
struct Fold<'l, 'w> {
    lens: &'l Lens<'w>,
    /// Each over those before it.
    layers: Vec<Layer>,
    /// `PatchOverrides`, least specific first: laid over everything at the end, so that the mesh's win.
    overrides: Vec<Layer>,
}

/// What one author says.
struct Layer {
    /// `None`: we do.
    from: Option<ObjectId>,
    body: Body,
}

impl<'l, 'w> Fold<'l, 'w> {
    fn start(lens: &'l Lens<'w>) -> Self {
        let mut layers = Vec::new();
        if let Some(mesh) = lens.mesh()
            && (!mesh.spec.defaults.traffic.is_empty() || mesh.spec.profile != Profile::default())
        {
            lens.uses(&mesh_id());
            layers.push(Layer { from: Some(mesh_id()), body: mesh.spec.profile.traffic() });
            layers.push(Layer { from: Some(mesh_id()), body: mesh.spec.defaults.traffic.clone() });
        }
        Fold { lens, layers, overrides: Vec::new() }
    }

    fn at(&mut self, place: Place<'_>) {
        let guard_rails = matches!(place.target, Target::Mesh | Target::Namespace(_));
        let (accepted, _) = at_place(self.lens, &place);
        for policy in accepted {
            let id = ObjectId { kind: Kind::TrafficPolicy, name: policy.metadata.key() };
            self.lens.uses(&id);
            // The rest belongs to Services; here it would only look as if it were in force.
            let body = match &place.target {
                Target::Route(kind, _) => kind.route().map(|kind| fields::on_route(kind, &policy.spec.body)),
                Target::Mesh | Target::Namespace(_) | Target::Service(_) | Target::EgressHost(_) => None,
            };
            let layer = Layer { from: Some(id), body: body.unwrap_or_else(|| policy.spec.body.clone()) };
            if policy.spec.strategy == Strategy::PatchOverrides && guard_rails {
                self.overrides.push(layer);
            } else {
                self.layers.push(layer);
            }
        }
    }

    /// Mesh, Namespace, the Service's own spec, Service, port.
    fn producer(&mut self, service: &Service, port: &ServicePortSpec) {
        let namespace = service.metadata.namespace.as_str();
        let target = Target::Service(service.metadata.key());
        self.at(mesh());
        self.at(Place { target: Target::Namespace(namespace.to_owned()), section: Section::Whole, author: namespace });
        let own = of_spec(service);
        if !own.is_empty() {
            let id = ObjectId { kind: Kind::Service, name: service.metadata.key() };
            self.layers.push(Layer { from: Some(id), body: own });
        }
        self.at(Place { target: target.clone(), section: Section::Whole, author: namespace });
        self.at(Place { target, section: Section::Port(port), author: namespace });
    }

    fn consumer(&mut self, service: &Service, port: &ServicePortSpec, view: Option<&str>) {
        let Some(author) = view.filter(|view| *view != service.metadata.namespace) else { return };
        let target = Target::Service(service.metadata.key());
        self.at(Place { target: target.clone(), section: Section::Whole, author });
        self.at(Place { target, section: Section::Port(port), author });
    }

    /// In the order in which they are laid over each other.
    fn in_order(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        self.layers.iter().chain(self.overrides.iter().rev())
    }

    fn body(&self) -> Body {
        let mut body = Body::new();
        self.in_order().for_each(|layer| fields::merge(fields::TRAFFIC, &mut body, &layer.body));
        body
    }

    fn end(self) -> Arc<Traffic> {
        Arc::new(fields::traffic(&self.body()))
    }

    fn settings(self) -> Vec<Setting> {
        let body = self.body();
        let said: Vec<(Vec<String>, &Option<ObjectId>)> =
            self.in_order().map(|layer| (fields::set_fields(fields::TRAFFIC, &layer.body), &layer.from)).collect();
        // What has members is told by them.
        let settable = fields::TRAFFIC.iter().filter(|f| !matches!(f.kind, fields::Kind::Part | fields::Kind::Union));
        let about = |path: &String, field: &Field| {
            let rest = field.path.strip_prefix(path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let author = |field: &Field| said.iter().rev().find(|(paths, _)| paths.iter().any(|path| about(path, field)));
        let setting = |field: &'static Field| Setting {
            field,
            value: at_path(&body, field.path).cloned(),
            from: author(field).and_then(|(_, from)| (*from).clone()),
        };
        settable.map(setting).collect()
    }
}

/// What Kubernetes' own fields of a Service say about balancing, as a policy would say it. kube-proxy, whose part this is, knows
/// Services with an address of their own alone.
fn of_spec(service: &Service) -> Body {
    let mut balancing = Body::new();
    if outbound::routable(service) && service.spec.session_affinity == "ClientIP" {
        balancing.insert("algorithm".to_owned(), json!("ConsistentHash"));
        balancing.insert("hash".to_owned(), json!({"sourceIP": true}));
    }
    let locality = match service.spec.traffic_distribution.as_str() {
        "PreferClose" | "PreferSameZone" => Some("Strict"),
        "PreferSameNode" => Some("Node"),
        _ => None,
    };
    if let Some(locality) = locality.filter(|_| outbound::routable(service)) {
        balancing.insert("locality".to_owned(), json!(locality));
    }
    match balancing.is_empty() {
        true => Body::new(),
        false => Body::from_iter([("loadBalancing".to_owned(), Value::Object(balancing))]),
    }
}

fn at_path<'b>(body: &'b Body, path: &str) -> Option<&'b Value> {
    let mut names = path.split('.');
    let first = body.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name)).filter(|value| !value.is_null())
}

/// HTTPRoute's `timeouts` (GEP-1742) and `retry` (GEP-1731) as a body of ours. "0s" disables a timeout there: `null` here.
fn inline(rule: &HttpRule) -> Body {
    // What is no duration says nothing; the route's condition tells its author.
    let time = |text: &str| match crate::object::duration(text)? {
        std::time::Duration::ZERO => Some(Value::Null),
        _ => Some(Value::String(text.to_owned())),
    };
    let mut timeouts = Body::new();
    let times = [("request", &rule.timeouts.request), ("perTry", &rule.timeouts.backend_request)];
    timeouts.extend(times.into_iter().filter_map(|(name, text)| Some((name.to_owned(), time(text.as_deref()?)?))));
    let mut retries = Body::new();
    if let Some(retry) = &rule.retry {
        retries.extend(retry.attempts.map(|n| ("attempts".to_owned(), json!(n.min(5)))));
        if !retry.codes.is_empty() {
            let mut on = vec![json!("ConnectFailure"), json!("RefusedStream"), json!("ResetBeforeRequest")];
            on.extend(retry.codes.iter().map(|code| json!(code)));
            retries.insert("retryOn".to_owned(), Value::Array(on));
        }
        retries.extend(retry.backoff.as_deref().map(|base| ("backoff".to_owned(), json!({"base": base}))));
    }
    let mut body = Body::new();
    for (name, part) in [("timeouts", timeouts), ("retries", retries)] {
        let part = Body::from_iter([(name.to_owned(), Value::Object(part))]);
        // Out of our bounds: it says nothing either.
        if fields::check(fields::TRAFFIC, &part).is_empty() {
            body.extend(part.into_iter().filter(|(_, part)| part.as_object().is_some_and(|part| !part.is_empty())));
        }
    }
    body
}
