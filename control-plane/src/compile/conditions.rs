//! What we say of each object by itself: is it accepted, do its references resolve, what should its author know.
//! It judges with the functions that compile, so that a condition and a resource never disagree.

use std::cell::RefCell;

use leno_proto::fields;
use leno_proto::fields::Body;
use leno_proto::fields::Field;
use serde::Serialize;

use crate::compile::Lens;
use crate::compile::advice;
use crate::compile::parents;
use crate::compile::parents::ParentStatus;
use crate::compile::policy;
use crate::compile::policy::Place;
use crate::compile::policy::Section;
use crate::index::Topic;
use crate::index::World;
use crate::index::mesh_id;
use crate::lint;
use crate::lint::Finding;
use crate::lint::codes;
use crate::object::Kind;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::check;
use crate::object::ours::InboundPolicy;
use crate::object::ours::ROOT_NAMESPACE;
use crate::object::ours::Target;
use crate::object::ours::TargetRef;
use crate::object::ours::TrafficPolicy;

/// As Kubernetes writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
    pub observed_generation: i64,
}

/// What is wrong, as a reason and a sentence.
pub(super) type Fault = (&'static str, String);

/// One entry of a TrafficPolicy's `status.targets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    pub group: String,
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// What stands in the way; `None`: the policy is attached to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One object, judged by itself.
#[derive(Debug, Default)]
pub struct Judged {
    accepted: Option<Fault>,
    resolved: Option<Fault>,
    warnings: Vec<Finding>,
    /// Of a TrafficPolicy.
    pub targets: Vec<TargetStatus>,
    /// Of a route.
    route: Option<parents::Judged>,
    /// Fields that it sets, as proxies name them: `traffic.PATH` and `inbound.PATH`.
    pub fields: Vec<String>,
    /// Of these, what the proxies of our own release do not act on: what there is to say before a proxy has spoken.
    pub unsupported: Vec<String>,
}

/// Of one object; empty for kinds that are not ours to judge, and for routes that are no concern of ours.
pub fn conditions(world: &World, object: &Object) -> Vec<Condition> {
    let Some(judged) = judge(world, object) else { return Vec::new() };
    let unsupported = judged.unsupported.iter().map(|field| unsupported(field, "no proxy of this release acts on it"));
    let unsupported = unsupported.collect();
    judged.conditions(unsupported, object.meta().generation)
}

/// In words, for the Warnings; `whom` says who does not act on it.
pub fn unsupported(field: &str, whom: &str) -> String {
    let path = field.split_once('.').map_or(field, |(_, path)| path);
    format!("Unsupported: {path}: {whom} (remove it, or do not rely on it)")
}

/// `None` for kinds that are not ours to judge, and for routes without a Service parent, unless their status still names us.
pub fn judge(world: &World, object: &Object) -> Option<Judged> {
    let lens = Lens { world, asked: RefCell::default(), sources: RefCell::default() };
    let accepted = check::check(object).first().map(|flaw| ("Invalid", format!("{}: {}", flaw.field, flaw.message)));
    let mut judged = Judged { accepted, ..Judged::default() };
    match object {
        Object::TrafficPolicy(policy) => {
            let targets: Vec<_> =
                policy.spec.target_refs.iter().map(|one| (one, target_fault(&lens, policy, one))).collect();
            judged.targets = targets.iter().map(|(one, fault)| target_status(policy, one, fault.as_ref())).collect();
            let total = targets.len();
            let mut faults: Vec<Fault> = targets.into_iter().filter_map(|(_, fault)| fault).collect();
            let held = total - faults.len();
            // The reason of a section that is not there is ResolvedRefs' own.
            let section = faults.iter().position(|(reason, _)| *reason == SECTION).map(|at| faults.remove(at));
            judged.resolved = section;
            judged.accepted = judged.accepted.or_else(|| first_fault(faults, total, held));
            judged.sets("traffic", fields::TRAFFIC, &policy.spec.body);
            // What is not in force means nothing yet.
            if judged.accepted.is_none() {
                judged.warnings.extend(advice::of_traffic(&lens, policy));
            }
        }
        Object::InboundPolicy(policy) => {
            judged.accepted = judged.accepted.or_else(|| inbound_conflict(&lens, policy));
            judged.warnings.extend(idle_workloads(&lens, &policy.metadata.namespace, &policy.spec.workloads));
            judged.sets("inbound", fields::INBOUND, &policy.spec.body);
            if judged.accepted.is_none() {
                judged.warnings.extend(advice::of_inbound(&lens, policy));
            }
        }
        Object::AccessPolicy(policy) => {
            judged.warnings.extend(idle_workloads(&lens, &policy.metadata.namespace, &policy.spec.workloads));
        }
        Object::Mesh(mesh) => {
            judged.sets("traffic", fields::TRAFFIC, &mesh.spec.defaults.traffic);
            judged.sets("inbound", fields::INBOUND, &mesh.spec.defaults.inbound);
            judged.warnings.extend(advice::of_mesh(&lens, mesh));
        }
        Object::EgressHost(_) => judged.warnings.push(lint::egress(String::new())),
        Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TcpRoute(_) => {
            let route = parents::judge(&lens, object);
            if route.parents.is_empty() && !told(object) {
                return None;
            }
            judged.accepted = route.parents.iter().find_map(|parent| parent.accepted.as_ref().err().cloned());
            judged.resolved = route.resolved.clone();
            if let Object::HttpRoute(route) = object {
                judged.warnings.extend(advice::of_http_route(&lens, route));
            }
            judged.route = Some(route);
        }
        Object::Namespace(_)
        | Object::ServiceAccount(_)
        | Object::Pod(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::ReferenceGrant(_) => return None,
    }
    Some(judged)
}

impl Judged {
    /// `unsupported` in words.
    pub fn conditions(self, unsupported: Vec<String>, generation: i64) -> Vec<Condition> {
        let warnings =
            self.warnings.iter().chain(&self.partial()).map(ToString::to_string).chain(unsupported).collect::<Vec<_>>();
        vec![
            condition("Accepted", self.accepted, generation),
            condition("ResolvedRefs", self.resolved, generation),
            warnings_condition(&warnings, generation),
        ]
    }

    /// All that there is to say, with what is wrong first; before any proxy has spoken.
    pub fn findings(&self) -> Vec<Finding> {
        let fault = |(reason, message): &Fault| Finding {
            code: codes::of_reason(reason),
            field: String::new(),
            message: message.clone(),
            remedy: String::new(),
            place: String::new(),
        };
        let faults = self.accepted.iter().chain(&self.resolved).map(fault);
        let unsupported = self.unsupported.iter().map(|field| Finding {
            code: "UNSUPPORTED_FIELD",
            field: field.split_once('.').map_or(field.as_str(), |(_, path)| path).to_owned(),
            message: "no proxy of this release acts on it".to_owned(),
            remedy: "remove it, or do not rely on it".to_owned(),
            place: String::new(),
        });
        faults.chain(self.partial()).chain(self.warnings.iter().cloned()).chain(unsupported).collect()
    }

    /// Of a route, the rules that cannot be honoured where others are.
    fn partial(&self) -> Option<Finding> {
        let (reason, message) = self.route.as_ref()?.partial.as_ref()?;
        Some(Finding {
            code: codes::of_reason(reason),
            field: String::new(),
            message: message.clone(),
            remedy: String::new(),
            place: String::new(),
        })
    }

    /// Why it is in force nowhere, or not everywhere that it says.
    pub fn refused(&self) -> Option<&'static str> {
        let nowhere = !self.targets.is_empty() && self.targets.iter().all(|target| target.message.is_some());
        let fault = self.accepted.as_ref().or_else(|| self.resolved.as_ref().filter(|_| nowhere));
        fault.map(|(reason, _)| *reason)
    }

    /// One entry for each parent of a route that is ours; `programmed` as the whole route has it. Two of them may say different
    /// things: what stands in the way at one parent does not at another.
    pub fn parents(&self, programmed: &Condition, generation: i64) -> Vec<ParentStatus> {
        let Some(route) = &self.route else { return Vec::new() };
        let entry = |parent: &parents::Parent| {
            let (accepted, programmed) = match &parent.accepted {
                Ok(message) => (
                    Condition { message: message.clone(), ..condition("Accepted", None, generation) },
                    programmed.clone(),
                ),
                Err((reason, message)) => (
                    condition("Accepted", Some((reason, message.clone())), generation),
                    idle("the route is not accepted here", generation),
                ),
            };
            let mut conditions = vec![accepted, condition("ResolvedRefs", route.resolved.clone(), generation)];
            if let Some((reason, message)) = &route.partial {
                let (kind, status, message) = ("PartiallyInvalid", "True", message.clone());
                conditions.push(Condition { kind, status, reason, message, observed_generation: generation });
            }
            conditions.push(Condition { kind: "leno.dev/Programmed", ..programmed });
            // There is room for eight conditions at most, and none for saying that there is nothing to say.
            if !self.warnings.is_empty() {
                let words: Vec<String> = self.warnings.iter().map(ToString::to_string).collect();
                let warnings = warnings_condition(&words, generation);
                conditions.push(Condition { kind: "leno.dev/Warnings", ..warnings });
            }
            ParentStatus { parent_ref: parent.parent.clone(), conditions }
        };
        route.parents.iter().map(entry).collect()
    }

    fn sets(&mut self, prefix: &str, table: &[Field], body: &Body) {
        let named = |path: String| format!("{prefix}.{path}");
        self.fields.extend(fields::set_fields(table, body).into_iter().map(named));
        self.unsupported.extend(fields::unsupported(table, body).into_iter().map(named));
    }
}

/// Programmed, of what is not accepted.
pub fn idle(message: &str, observed_generation: i64) -> Condition {
    let (kind, status, reason) = ("Programmed", "False", "NotAccepted");
    Condition { kind, status, reason, message: message.to_owned(), observed_generation }
}

fn condition(kind: &'static str, fault: Option<Fault>, observed_generation: i64) -> Condition {
    match fault {
        None => Condition { kind, status: "True", reason: kind, message: String::new(), observed_generation },
        Some((reason, message)) => Condition { kind, status: "False", reason, message, observed_generation },
    }
}

fn warnings_condition(warnings: &[String], observed_generation: i64) -> Condition {
    let (status, reason) = if warnings.is_empty() { ("False", "NoWarnings") } else { ("True", "LintWarnings") };
    Condition { kind: "Warnings", status, reason, message: warnings.join("; "), observed_generation }
}

const SECTION: &str = "SectionNotFound";

fn target_fault(lens: &Lens<'_>, policy: &TrafficPolicy, one: &TargetRef) -> Option<Fault> {
    let target = one.target(&policy.metadata.namespace)?;
    permitted(&target, policy)
        .or_else(|| missing(lens, &target))
        .or_else(|| section_fault(lens, one, &target))
        .or_else(|| conflict(lens, policy, one, target))
}

fn target_status(policy: &TrafficPolicy, one: &TargetRef, fault: Option<&Fault>) -> TargetStatus {
    let wide = matches!(one.kind.as_str(), "Mesh" | "Namespace");
    let namespace = one.namespace.as_ref().unwrap_or(&policy.metadata.namespace);
    TargetStatus {
        group: one.group.clone(),
        kind: one.kind.clone(),
        namespace: if wide { String::new() } else { namespace.clone() },
        name: one.name.clone(),
        section_name: one.section_name.clone(),
        message: fault.map(|(reason, message)| format!("{reason}: {message}")),
    }
}

/// `held`: targets at which the policy is in force.
fn first_fault(faults: Vec<Fault>, total: usize, held: usize) -> Option<Fault> {
    let (reason, message) = faults.into_iter().next()?;
    let rest = if held > 0 { format!("; it is in force at {held} of {total} targets") } else { String::new() };
    Some((reason, format!("{message}{rest}")))
}

/// Its status holds an entry of ours.
fn told(route: &Object) -> bool {
    match route {
        Object::HttpRoute(route) => route.told,
        Object::GrpcRoute(route) => route.told,
        Object::TcpRoute(route) => route.told,
        _ => false,
    }
}

fn permitted(target: &Target, policy: &TrafficPolicy) -> Option<Fault> {
    let own = policy.metadata.namespace.as_str();
    match target {
        Target::Mesh if own != ROOT_NAMESPACE => {
            Some(("RefNotPermitted", format!("only policies in {ROOT_NAMESPACE} may target the Mesh")))
        }
        Target::Namespace(name) if name != own => {
            Some(("RefNotPermitted", format!("a policy may target its own namespace, {own}, not {name}")))
        }
        Target::EgressHost(name) if *name.namespace != *own => {
            Some(("RefNotPermitted", format!("a policy may target EgressHosts of its own namespace, {own}")))
        }
        Target::Mesh | Target::Namespace(_) | Target::Service(_) | Target::EgressHost(_) | Target::Route(..) => None,
    }
}

fn missing(lens: &Lens<'_>, target: &Target) -> Option<Fault> {
    let object =
        |kind: Kind, name: &crate::object::Name| lens.world.object(&ObjectId { kind, name: name.clone() }).is_some();
    let (there, shown) = match target {
        // The mesh is there even where nobody has written it down, and so is the namespace of a policy that exists.
        Target::Mesh | Target::Namespace(_) => (true, String::new()),
        Target::Service(name) => (object(Kind::Service, name), format!("Service {name}")),
        Target::EgressHost(name) => (object(Kind::EgressHost, name), format!("EgressHost {name}")),
        Target::Route(kind, name) => (object(*kind, name), format!("{kind} {name}")),
    };
    (!there).then(|| ("TargetNotFound", format!("there is no {shown}")))
}

fn conflict(lens: &Lens<'_>, policy: &TrafficPolicy, one: &TargetRef, target: Target) -> Option<Fault> {
    let author = policy.metadata.namespace.as_str();
    let service = if let Target::Service(name) = &target { lens.service(name) } else { None };
    let section = match (&one.section_name, service) {
        (None, _) => Section::Whole,
        (Some(name), Some(service)) => Section::Port(service.tcp_ports().find(|port| port.called(name))?),
        (Some(name), None) => Section::Rule(name),
    };
    let (_, conflicted) = policy::at_place(lens, &Place { target, section, author });
    let (_, older) = conflicted.into_iter().find(|(newer, _)| newer.metadata.key() == policy.metadata.key())?;
    Some((
        "Conflicted",
        format!("TrafficPolicy {} is older and sets the same fields of the same target", older.metadata.key()),
    ))
}

fn section_fault(lens: &Lens<'_>, one: &TargetRef, target: &Target) -> Option<Fault> {
    let section = one.section_name.as_deref()?;
    let found = match target {
        Target::Service(name) => {
            lens.service(name).is_none_or(|service| service.tcp_ports().any(|port| port.called(section)))
        }
        Target::Route(kind, name) => {
            let route = lens.world.object(&ObjectId { kind: *kind, name: name.clone() });
            route.is_none_or(|route| rule_names(route).contains(&section))
        }
        Target::Mesh | Target::Namespace(_) | Target::EgressHost(_) => false,
    };
    (!found).then(|| (SECTION, format!("{} {} has no section {section}", one.kind, one.name)))
}

fn rule_names(route: &Object) -> Vec<&str> {
    match route {
        Object::HttpRoute(route) => route.spec.rules.iter().map(|rule| rule.name.as_str()).collect(),
        Object::GrpcRoute(route) => route.spec.rules.iter().map(|rule| rule.name.as_str()).collect(),
        Object::TcpRoute(route) => route.spec.rules.iter().map(|rule| rule.name.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Policies that select alike. Two that overlap on some Pods only are settled Pod by Pod, the older first.
fn inbound_conflict(lens: &Lens<'_>, policy: &InboundPolicy) -> Option<Fault> {
    let mut alike: Vec<&InboundPolicy> = Vec::new();
    for object in lens.about(Topic::In(Kind::InboundPolicy, policy.metadata.namespace.as_str().into())) {
        let Object::InboundPolicy(other) = object else { continue };
        if other.spec.workloads == policy.spec.workloads && fields::check(fields::INBOUND, &other.spec.body).is_empty()
        {
            alike.push(other);
        }
    }
    alike.sort_by_key(|policy| policy.metadata.age());
    let (_, conflicted) =
        policy::established(fields::INBOUND, alike.into_iter().map(|policy| (policy, &policy.spec.body)));
    let (_, older) = conflicted.into_iter().find(|(newer, _)| newer.metadata.key() == policy.metadata.key())?;
    Some((
        "Conflicted",
        format!("InboundPolicy {} is older and sets the same fields of the same workloads", older.metadata.key()),
    ))
}

fn idle_workloads(lens: &Lens<'_>, namespace: &str, workloads: &crate::object::ours::Workloads) -> Option<Finding> {
    let topic =
        if namespace == ROOT_NAMESPACE { Topic::All(Kind::Pod) } else { Topic::In(Kind::Pod, namespace.into()) };
    let selects =
        |object: &&Object| workloads.selector.match_labels.iter().all(|(k, v)| object.meta().labels.get(k) == Some(v));
    (!lens.about(topic).iter().any(selects)).then(|| Finding {
        code: "NO_WORKLOADS",
        field: "workloads".to_owned(),
        message: "it selects no Pod".to_owned(),
        remedy: "compare its labels with the Pods'".to_owned(),
        place: String::new(),
    })
}

/// Every object that is ours to judge.
pub fn judged(world: &World) -> impl Iterator<Item = (&ObjectId, &Object)> {
    world.objects().filter(|(id, _)| id.kind.judged() || **id == mesh_id()).map(|(id, object)| (id, &**object))
}
