//! The world: every object in force, and for each thing one may ask about, the objects that bear on it.
//! Pure tables. It never interprets a policy, and it never forgets an object without an event that says so.

mod sorted;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use leno_proto::identity::TrustDomain;

use crate::index::sorted::Sorted;
use crate::object::Event;
use crate::object::Kind;
use crate::object::Name;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::SERVICE_NAME;
use crate::object::gateway::ParentRef;
use crate::object::kube::Namespace;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::ours::Mesh;
use crate::object::ours::Target;

/// A question about the world. Objects are filed under every question that they bear on; what compiled a resource remembers
/// which it asked, and so an event dirties exactly the resources whose questions it touches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    Object(ObjectId),
    /// All of a kind in a namespace.
    In(Kind, Arc<str>),
    /// All of a kind.
    All(Kind),
    /// Services with this ClusterIP, Pods with this address.
    Address(IpAddr),
    /// The Pod with this uid.
    PodUid(Arc<str>),
    SlicesOf(Name),
    /// EndpointSlices that name this Pod.
    SlicesWith(Name),
    /// Routes with this Service as a parent.
    RoutesOf(Name),
    /// TrafficPolicies on this target, whatever its section.
    PoliciesOn(Target),
}

/// What the operator set at start, which holds where the Mesh says nothing. It is the same on every replica, and never changes
/// while a world lives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Base {
    pub trust_domain: Option<TrustDomain>,
    pub mesh_networks: Option<Vec<IpNet>>,
    pub tracing_endpoint: Option<String>,
    pub sampling_ppm: Option<u32>,
}

/// A copy costs little beside what is in it.
#[derive(Debug, Clone, Default)]
pub struct World {
    base: Arc<Base>,
    objects: Sorted<ObjectId, Arc<Object>>,
    topics: Sorted<Topic, Filed>,
}

/// The objects of a topic: nearly always one.
#[derive(Debug, Clone)]
enum Filed {
    One(ObjectId),
    Many(Sorted<ObjectId, ()>),
}

/// What a batch of events touched.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dirty {
    pub topics: BTreeSet<Topic>,
    pub objects: BTreeSet<ObjectId>,
}

impl World {
    pub fn with(base: Base) -> World {
        World { base: Arc::new(base), ..World::default() }
    }

    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Takes a batch in. The order of events about different objects does not matter; the last about one object counts.
    pub fn apply(&mut self, events: Vec<Event>) -> Dirty {
        let mut dirty = Dirty::default();
        for event in events {
            match event {
                Event::Applied(object) => self.put(object, &mut dirty),
                Event::Deleted(id) => self.remove(&id, &mut dirty),
            }
        }
        dirty
    }

    pub fn object(&self, id: &ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(id)
    }

    pub fn objects(&self) -> impl Iterator<Item = (&ObjectId, &Arc<Object>)> {
        self.objects.iter()
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects filed under a topic, in the order of their ids.
    pub fn about(&self, topic: &Topic) -> impl Iterator<Item = &Object> {
        let ids = self.topics.get(topic).into_iter().flat_map(Filed::ids);
        ids.filter_map(|id| self.objects.get(id)).map(|object| &**object)
    }

    pub fn service(&self, name: &Name) -> Option<&Service> {
        match &**self.objects.get(&ObjectId { kind: Kind::Service, name: name.clone() })? {
            Object::Service(service) => Some(service),
            _ => None,
        }
    }

    pub fn pod(&self, name: &Name) -> Option<&Pod> {
        match &**self.objects.get(&ObjectId { kind: Kind::Pod, name: name.clone() })? {
            Object::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    pub fn pod_by_uid(&self, uid: &str) -> Option<&Pod> {
        self.about(&Topic::PodUid(uid.into())).find_map(|object| match object {
            Object::Pod(pod) => Some(&**pod),
            _ => None,
        })
    }

    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        match &**self.objects.get(&ObjectId { kind: Kind::Namespace, name: Name::new("", name) })? {
            Object::Namespace(namespace) => Some(namespace),
            _ => None,
        }
    }

    /// The singleton `default`.
    pub fn mesh(&self) -> Option<&Mesh> {
        match &**self.objects.get(&mesh_id())? {
            Object::Mesh(mesh) => Some(mesh),
            _ => None,
        }
    }

    fn put(&mut self, object: Arc<Object>, dirty: &mut Dirty) {
        let id = object.id();
        if self.objects.get(&id).is_some_and(|old| *old == object) {
            return;
        }
        self.remove(&id, dirty);
        for topic in topics(&object) {
            match self.topics.get_mut(&topic) {
                Some(filed) => filed.insert(id.clone()),
                None => self.topics.insert(topic.clone(), Filed::One(id.clone())),
            }
            dirty.topics.insert(topic);
        }
        dirty.objects.insert(id.clone());
        self.objects.insert(id, object);
    }

    fn remove(&mut self, id: &ObjectId, dirty: &mut Dirty) {
        let Some(old) = self.objects.remove(id) else { return };
        for topic in topics(&old) {
            if self.topics.get_mut(&topic).is_some_and(|filed| filed.remove(id) == Left::Nothing) {
                self.topics.remove(&topic);
            }
            dirty.topics.insert(topic);
        }
        dirty.objects.insert(id.clone());
    }
}

/// What a topic has after one object has gone from it.
#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    Some,
}

impl Filed {
    fn ids(&self) -> impl Iterator<Item = &ObjectId> {
        let (one, many) = match self {
            Filed::One(id) => (Some(id), None),
            Filed::Many(ids) => (None, Some(ids.iter().map(|(id, ())| id))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, id: ObjectId) {
        match self {
            Filed::One(one) if *one == id => {}
            Filed::One(one) => {
                let mut ids = Sorted::default();
                ids.insert(one.clone(), ());
                ids.insert(id, ());
                *self = Filed::Many(ids);
            }
            Filed::Many(ids) => ids.insert(id, ()),
        }
    }

    fn remove(&mut self, id: &ObjectId) -> Left {
        match self {
            Filed::One(one) if one == id => Left::Nothing,
            Filed::One(_) => Left::Some,
            Filed::Many(ids) => {
                ids.remove(id);
                if ids.is_empty() { Left::Nothing } else { Left::Some }
            }
        }
    }
}

pub fn mesh_id() -> ObjectId {
    ObjectId { kind: Kind::Mesh, name: Name::new("", "default") }
}

/// Every question that the object bears on.
fn topics(object: &Object) -> BTreeSet<Topic> {
    let id = object.id();
    let meta = object.meta();
    let mut topics = BTreeSet::from([
        Topic::In(id.kind, Arc::clone(&id.name.namespace)),
        Topic::All(id.kind),
        Topic::Object(id.clone()),
    ]);
    match object {
        Object::Pod(pod) => {
            topics.insert(Topic::PodUid(meta.uid.as_str().into()));
            // A host's address is every such Pod's, and so names none of them.
            if !pod.spec.host_network {
                topics.extend(pod.addresses().into_iter().map(Topic::Address));
            }
        }
        Object::Service(service) => topics.extend(service.cluster_addresses().into_iter().map(Topic::Address)),
        Object::EndpointSlice(slice) => {
            if let Some(service) = meta.labels.get(SERVICE_NAME) {
                topics.insert(Topic::SlicesOf(Name::new(&meta.namespace, service)));
            }
            let pods = slice
                .endpoints
                .iter()
                .filter_map(|endpoint| endpoint.target_ref.as_ref())
                .filter(|target| target.kind == "Pod");
            topics.extend(pods.map(|target| Topic::SlicesWith(Name::new(&meta.namespace, &target.name))));
        }
        Object::HttpRoute(route) => topics.extend(parents(&route.spec.parent_refs, &meta.namespace)),
        Object::GrpcRoute(route) => topics.extend(parents(&route.spec.parent_refs, &meta.namespace)),
        Object::TcpRoute(route) => topics.extend(parents(&route.spec.parent_refs, &meta.namespace)),
        Object::TrafficPolicy(policy) => topics.extend(policy.targets().map(Topic::PoliciesOn)),
        Object::Namespace(_)
        | Object::ServiceAccount(_)
        | Object::ReferenceGrant(_)
        | Object::InboundPolicy(_)
        | Object::AccessPolicy(_)
        | Object::EgressHost(_)
        | Object::Mesh(_) => {}
    }
    topics
}

fn parents(refs: &[ParentRef], namespace: &str) -> impl Iterator<Item = Topic> {
    refs.iter().filter_map(move |parent| parent.service(namespace)).map(Topic::RoutesOf)
}
