//! The objects that users and Kubernetes declare, as Leno reads them, and how they are named.
//! It never decides what they mean for a proxy: that is `compile`.

pub mod check;
pub mod gateway;
pub mod kube;
pub mod ours;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use leno_proto::policy::RouteKind;

use crate::object::gateway::GrpcRoute;
use crate::object::gateway::HttpRoute;
use crate::object::gateway::ReferenceGrant;
use crate::object::gateway::TcpRoute;
use crate::object::kube::EndpointSlice;
use crate::object::kube::Meta;
use crate::object::kube::Namespace;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServiceAccount;
use crate::object::ours::AccessPolicy;
use crate::object::ours::EgressHost;
use crate::object::ours::InboundPolicy;
use crate::object::ours::Mesh;
use crate::object::ours::TrafficPolicy;

/// The group and version of our own kinds.
pub const POLICY_VERSION: &str = "policy.leno.dev/v1alpha1";
/// What `controllerName` says in statuses.
pub const CONTROLLER: &str = "leno.dev/control-plane";
/// Namespace label, or pod label or annotation, that puts a pod into the mesh.
pub const INJECT: &str = "leno.dev/inject";
/// Pod annotation: where the sidecar listens for each of the application's ports when nothing redirects.
pub const INBOUND_PORTS: &str = "leno.dev/inbound-ports";
/// Label by which an EndpointSlice names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Namespace(Namespace),
    ServiceAccount(ServiceAccount),
    Pod(Box<Pod>),
    Service(Box<Service>),
    EndpointSlice(EndpointSlice),
    HttpRoute(HttpRoute),
    GrpcRoute(GrpcRoute),
    TcpRoute(TcpRoute),
    ReferenceGrant(ReferenceGrant),
    TrafficPolicy(Box<TrafficPolicy>),
    InboundPolicy(Box<InboundPolicy>),
    AccessPolicy(AccessPolicy),
    EgressHost(EgressHost),
    Mesh(Box<Mesh>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    ServiceAccount,
    Pod,
    Service,
    EndpointSlice,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    ReferenceGrant,
    TrafficPolicy,
    InboundPolicy,
    AccessPolicy,
    EgressHost,
    Mesh,
}

/// `namespace/name`; the namespace is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Names one object of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    pub kind: Kind,
    pub name: Name,
}

/// Something happened to an object.
#[derive(Debug, Clone)]
pub enum Event {
    Applied(Arc<Object>),
    Deleted(ObjectId),
}

impl Kind {
    pub const ALL: [Kind; 14] = [
        Kind::Namespace,
        Kind::ServiceAccount,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::TcpRoute,
        Kind::ReferenceGrant,
        Kind::TrafficPolicy,
        Kind::InboundPolicy,
        Kind::AccessPolicy,
        Kind::EgressHost,
        Kind::Mesh,
    ];

    /// As manifests spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::HttpRoute => "HTTPRoute",
            Kind::GrpcRoute => "GRPCRoute",
            Kind::TcpRoute => "TCPRoute",
            Kind::ReferenceGrant => "ReferenceGrant",
            Kind::TrafficPolicy => "TrafficPolicy",
            Kind::InboundPolicy => "InboundPolicy",
            Kind::AccessPolicy => "AccessPolicy",
            Kind::EgressHost => "EgressHost",
            Kind::Mesh => "Mesh",
        }
    }

    /// `None`: it is no route.
    pub fn route(self) -> Option<RouteKind> {
        match self {
            Kind::HttpRoute => Some(RouteKind::Http),
            Kind::GrpcRoute => Some(RouteKind::Grpc),
            Kind::TcpRoute => Some(RouteKind::Tcp),
            Kind::Namespace
            | Kind::ServiceAccount
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::ReferenceGrant
            | Kind::TrafficPolicy
            | Kind::InboundPolicy
            | Kind::AccessPolicy
            | Kind::EgressHost
            | Kind::Mesh => None,
        }
    }

    /// The API group; empty for Kubernetes' core.
    pub fn group(self) -> &'static str {
        match self {
            Kind::Namespace | Kind::ServiceAccount | Kind::Pod | Kind::Service => "",
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::ReferenceGrant => "gateway.networking.k8s.io",
            Kind::TrafficPolicy | Kind::InboundPolicy | Kind::AccessPolicy | Kind::EgressHost | Kind::Mesh => {
                "policy.leno.dev"
            }
        }
    }

    pub fn namespaced(self) -> bool {
        !matches!(self, Kind::Namespace | Kind::Mesh)
    }

    /// Kinds whose conditions are ours to tell.
    pub fn judged(self) -> bool {
        match self {
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => true,
            Kind::TrafficPolicy | Kind::InboundPolicy | Kind::AccessPolicy | Kind::EgressHost | Kind::Mesh => true,
            Kind::Namespace
            | Kind::ServiceAccount
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::ReferenceGrant => false,
        }
    }

    /// The kind that `apiVersion` and `kind` name, whatever the version in Kubernetes' own groups.
    pub fn named(api_version: &str, kind: &str) -> Option<Kind> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        Kind::ALL.into_iter().find(|k| k.as_str() == kind && k.group() == group)
    }
}

impl Object {
    /// An object as the API server sends it.
    ///
    /// # Errors
    /// Where and why it does not decode.
    pub fn decode(kind: Kind, value: serde_json::Value) -> Result<Object, serde_json::Error> {
        use serde_json::from_value;
        Ok(match kind {
            Kind::Namespace => Object::Namespace(from_value(value)?),
            Kind::ServiceAccount => Object::ServiceAccount(from_value(value)?),
            Kind::Pod => Object::Pod(from_value(value)?),
            Kind::Service => Object::Service(from_value(value)?),
            Kind::EndpointSlice => Object::EndpointSlice(from_value(value)?),
            Kind::HttpRoute => Object::HttpRoute(from_value(value)?),
            Kind::GrpcRoute => Object::GrpcRoute(from_value(value)?),
            Kind::TcpRoute => Object::TcpRoute(from_value(value)?),
            Kind::ReferenceGrant => Object::ReferenceGrant(from_value(value)?),
            Kind::TrafficPolicy => Object::TrafficPolicy(from_value(value)?),
            Kind::InboundPolicy => Object::InboundPolicy(from_value(value)?),
            Kind::AccessPolicy => Object::AccessPolicy(from_value(value)?),
            Kind::EgressHost => Object::EgressHost(from_value(value)?),
            Kind::Mesh => Object::Mesh(from_value(value)?),
        })
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Object::Namespace(o) => &o.metadata,
            Object::ServiceAccount(o) => &o.metadata,
            Object::Pod(o) => &o.metadata,
            Object::Service(o) => &o.metadata,
            Object::EndpointSlice(o) => &o.metadata,
            Object::HttpRoute(o) => &o.metadata,
            Object::GrpcRoute(o) => &o.metadata,
            Object::TcpRoute(o) => &o.metadata,
            Object::ReferenceGrant(o) => &o.metadata,
            Object::TrafficPolicy(o) => &o.metadata,
            Object::InboundPolicy(o) => &o.metadata,
            Object::AccessPolicy(o) => &o.metadata,
            Object::EgressHost(o) => &o.metadata,
            Object::Mesh(o) => &o.metadata,
        }
    }

    pub fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Object::Namespace(o) => &mut o.metadata,
            Object::ServiceAccount(o) => &mut o.metadata,
            Object::Pod(o) => &mut o.metadata,
            Object::Service(o) => &mut o.metadata,
            Object::EndpointSlice(o) => &mut o.metadata,
            Object::HttpRoute(o) => &mut o.metadata,
            Object::GrpcRoute(o) => &mut o.metadata,
            Object::TcpRoute(o) => &mut o.metadata,
            Object::ReferenceGrant(o) => &mut o.metadata,
            Object::TrafficPolicy(o) => &mut o.metadata,
            Object::InboundPolicy(o) => &mut o.metadata,
            Object::AccessPolicy(o) => &mut o.metadata,
            Object::EgressHost(o) => &mut o.metadata,
            Object::Mesh(o) => &mut o.metadata,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::ServiceAccount(_) => Kind::ServiceAccount,
            Object::Pod(_) => Kind::Pod,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::HttpRoute(_) => Kind::HttpRoute,
            Object::GrpcRoute(_) => Kind::GrpcRoute,
            Object::TcpRoute(_) => Kind::TcpRoute,
            Object::ReferenceGrant(_) => Kind::ReferenceGrant,
            Object::TrafficPolicy(_) => Kind::TrafficPolicy,
            Object::InboundPolicy(_) => Kind::InboundPolicy,
            Object::AccessPolicy(_) => Kind::AccessPolicy,
            Object::EgressHost(_) => Kind::EgressHost,
            Object::Mesh(_) => Kind::Mesh,
        }
    }

    pub fn id(&self) -> ObjectId {
        let kind = self.kind();
        let meta = self.meta();
        let namespace = if kind.namespaced() { meta.namespace.as_str() } else { "" };
        ObjectId { kind, name: Name::new(namespace, &meta.name) }
    }
}

impl Meta {
    /// What orders objects of one rank: the older first, then by name (CONTRACTS section 4).
    pub fn age(&self) -> (&str, &str, &str) {
        (&self.creation_timestamp, &self.namespace, &self.name)
    }

    pub fn key(&self) -> Name {
        Name::new(&self.namespace, &self.name)
    }
}

impl Name {
    pub fn new(namespace: &str, name: &str) -> Self {
        Name { namespace: namespace.into(), name: name.into() }
    }
}

/// A Gateway API duration (GEP-2257). `None`: it is none.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    leno_proto::fields::duration::parse(text).ok()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
