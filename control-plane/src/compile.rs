//! The world into resources, one key at a time, and into conditions, one object at a time. Pure: it depends on the objects and
//! on nothing that a replica remembers, so that every replica and every restart gives the same bytes.

mod access;
mod advice;
pub mod conditions;
mod destination;
mod endpoints;
mod filter;
mod inbound;
mod mesh;
mod outbound;
pub mod parents;
mod policy;
mod route;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use leno_proto::identity::SpiffeId;
use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;
use leno_proto::lead::Lead;
use leno_proto::lead::leads;
use leno_proto::policy::Resource;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;

pub use crate::compile::policy::Setting;
use crate::index::Topic;
use crate::index::World;
use crate::index::mesh_id;
use crate::object::INJECT;
use crate::object::Kind;
use crate::object::Name;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServicePortSpec;
use crate::object::ours::Mesh;

/// The sidecar's container, by which a Pod that the injector has seen is known.
pub const SIDECAR: &str = "leno-proxy";

/// A resource with what it was made from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compiled {
    /// `None`: there is no such thing now. Somebody may still wait for it.
    pub resource: Option<Resource>,
    /// What was asked of the world: when one of these is touched, the resource must be made again.
    pub asked: BTreeSet<Topic>,
    /// Policies and routes that are in it: its provenance.
    pub sources: BTreeSet<ObjectId>,
    /// What a proxy needs beside it.
    pub leads_to: BTreeSet<Lead>,
}

/// Compiles one key. Keys that are not made from the world (`TrustBundle`) give nothing.
pub fn compile(world: &World, key: &Key) -> Compiled {
    let lens = Lens::new(world);
    let resource = match key {
        Key::Destination(address) => Some(Resource::Destination(destination::destination(&lens, *address))),
        Key::Outbound { service, view } => {
            // Who holds the resource of one view must hear when it becomes another's.
            policy::ask_consumers(&lens, service);
            let view = (**view != *DEFAULT_VIEW).then_some(&**view);
            Some(Resource::Outbound(outbound::outbound(&lens, service, view)))
        }
        Key::Endpoints { target, bucket } => endpoints::bucket(&lens, target, *bucket).map(Resource::Endpoints),
        Key::Inbound(uid) => inbound::inbound(&lens, uid).map(Resource::Inbound),
        Key::ProxyConfig => Some(Resource::ProxyConfig(mesh::proxy_config(&lens))),
        // The session asks for its own namespace's; see `egress_index`.
        Key::EgressIndex => Some(Resource::EgressIndex(mesh::egress_index(&lens, ""))),
        Key::Share => Some(Resource::Share(mesh::share(&lens))),
        Key::TrustBundle => None,
    };
    let leads_to = resource.as_ref().map(leads).unwrap_or_default();
    Compiled { resource, asked: lens.asked.into_inner(), sources: lens.sources.into_inner(), leads_to }
}

/// The EgressIndex as proxies in `namespace` see it.
pub fn egress_index(world: &World, namespace: &str) -> Compiled {
    let lens = Lens::new(world);
    let resource = Some(Resource::EgressIndex(mesh::egress_index(&lens, namespace)));
    Compiled { resource, asked: lens.asked.into_inner(), sources: lens.sources.into_inner(), leads_to: BTreeSet::new() }
}

/// The view in which clients of `namespace` see a Service: their own where they hold a consumer object for it.
pub fn view(world: &World, service: &ServiceName, namespace: &str) -> Arc<str> {
    let own = *namespace != *service.namespace
        && namespace != DEFAULT_VIEW
        && policy::has_consumer(world, service, namespace);
    if own { namespace.into() } else { DEFAULT_VIEW.into() }
}

/// What the policy of a Service's port says field by field, and who says it, for clients of a view (`None`: the default one).
/// `None`: there is no such port.
pub fn port_settings(world: &World, target: &ServicePort, view: Option<&str>) -> Option<Vec<Setting>> {
    let lens = Lens::new(world);
    let (service, port) = lens.port(target)?;
    Some(policy::port_settings(&lens, service, port, view))
}

/// As `port_settings`, for requests to the port that take a rule of a route. The rule is named as in `Outbound`.
pub fn rule_settings(
    world: &World,
    target: &ServicePort,
    view: Option<&str>,
    route: &ObjectId,
    rule: &str,
) -> Option<Vec<Setting>> {
    let lens = Lens::new(world);
    let (service, port) = lens.port(target)?;
    let route = world.object(route)?;
    let consumer =
        view == Some(route.meta().namespace.as_str()) && route.meta().namespace != service.metadata.namespace;
    let site = route::Site { service, port, view, consumer };
    let (name, inline) = route::rule(route, rule)?;
    Some(policy::rule_settings(&lens, &site, route, name, inline))
}

/// Whether the Pod has, or is about to have, a sidecar.
pub fn meshed(world: &World, pod: &Pod) -> bool {
    Lens::new(world).meshed(pod)
}

/// Whether the Pod, or else its namespace, asks for a sidecar that it does not have.
pub fn lacks_sidecar(world: &World, pod: &Pod) -> bool {
    !has_sidecar(pod) && Lens::new(world).asks(pod)
}

fn has_sidecar(pod: &Pod) -> bool {
    pod.spec.init_containers.iter().chain(&pod.spec.containers).any(|container| container.name == SIDECAR)
}

/// The world, seen so that every question is written down.
pub(crate) struct Lens<'w> {
    world: &'w World,
    asked: RefCell<BTreeSet<Topic>>,
    sources: RefCell<BTreeSet<ObjectId>>,
}

impl<'w> Lens<'w> {
    fn new(world: &'w World) -> Self {
        Lens { world, asked: RefCell::default(), sources: RefCell::default() }
    }

    fn port(&self, target: &ServicePort) -> Option<(&'w Service, &'w ServicePortSpec)> {
        let ServiceName { namespace, name } = &target.service;
        let service = self.service(&Name { namespace: Arc::clone(namespace), name: Arc::clone(name) })?;
        Some((service, service.port(target.port)?))
    }

    fn ask(&self, topic: Topic) {
        self.asked.borrow_mut().insert(topic);
    }

    /// The object is part of what is being made.
    fn uses(&self, id: &ObjectId) {
        self.ask(Topic::Object(id.clone()));
        self.sources.borrow_mut().insert(id.clone());
    }

    fn about(&self, topic: Topic) -> Vec<&'w Object> {
        let found = self.world.about(&topic).collect();
        self.ask(topic);
        found
    }

    fn service(&self, name: &Name) -> Option<&'w Service> {
        self.ask(Topic::Object(ObjectId { kind: Kind::Service, name: name.clone() }));
        self.world.service(name)
    }

    fn pod(&self, name: &Name) -> Option<&'w Pod> {
        self.ask(Topic::Object(ObjectId { kind: Kind::Pod, name: name.clone() }));
        self.world.pod(name)
    }

    fn mesh(&self) -> Option<&'w Mesh> {
        self.ask(Topic::Object(mesh_id()));
        self.world.mesh()
    }

    /// Whether the Pod has a sidecar: it carries the container; or, in a folder, where no webhook adds one, it asks for one.
    /// Host network is never meshed: its sidecar would own the node's traffic.
    fn meshed(&self, pod: &Pod) -> bool {
        if pod.spec.host_network {
            return false;
        }
        // A Pod that was there before its namespace asked has none, and mTLS to it would fail.
        has_sidecar(pod) || (!pod.admitted && self.asks(pod))
    }

    /// Whether the Pod, or else its namespace, asks for a sidecar.
    fn asks(&self, pod: &Pod) -> bool {
        let own = pod.metadata.labels.get(INJECT).or_else(|| pod.metadata.annotations.get(INJECT));
        match own.map(String::as_str) {
            Some(word) => enabled(word),
            None => {
                let namespace = &pod.metadata.namespace;
                self.ask(Topic::Object(ObjectId { kind: Kind::Namespace, name: Name::new("", namespace) }));
                let labels = self.world.namespace(namespace).map(|namespace| &namespace.metadata.labels);
                labels.and_then(|labels| labels.get(INJECT)).is_some_and(|word| enabled(word))
            }
        }
    }

    /// `None` where the Pod's names make no SPIFFE id: then it is treated as outside the mesh, never as somebody else.
    fn identity(&self, pod: &Pod) -> Option<SpiffeId> {
        let account = if pod.spec.service_account_name.is_empty() { "default" } else { &pod.spec.service_account_name };
        SpiffeId::workload(&mesh::trust_domain(self), &pod.metadata.namespace, account).ok()
    }
}

fn enabled(word: &str) -> bool {
    word == "enabled" || word == "true"
}
