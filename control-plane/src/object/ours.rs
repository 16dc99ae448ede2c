//! Leno's own kinds (`policy.leno.dev/v1alpha1`). Unknown fields are refused: a misspelt limit must not be no limit.
//! What the fields of a policy's body mean, and their bounds, is `leno_proto::fields`; here is where they attach and to whom.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
pub use leno_proto::fields::Profile;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::SpiffeMatch;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::IgnoredAny;
use serde_json::Map;
use serde_json::Value;

use super::Name;
use super::kube::Meta;
use super::kube::or_default;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Meta,
    pub spec: TrafficPolicySpec,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TrafficPolicySpec {
    pub target_refs: Vec<TargetRef>,
    pub strategy: Strategy,
    /// The rest of the spec: what is to be done, as `leno_proto::fields` defines it.
    pub body: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Strategy {
    /// More specific policies override field by field (GEP-713 "Patch defaults").
    #[default]
    PatchDefaults,
    /// This one overrides more specific ones: guard-rails of the platform.
    PatchOverrides,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    #[serde(default)]
    pub group: String,
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub section_name: Option<String>,
}

/// What a TrafficPolicy may be attached to, without its section.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Mesh,
    Namespace(String),
    Service(Name),
    EgressHost(Name),
    Route(super::Kind, Name),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Meta,
    pub spec: InboundPolicySpec,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InboundPolicySpec {
    pub workloads: Workloads,
    pub body: Map<String, Value>,
}

/// Which Pods and which of their ports.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workloads {
    /// Empty: all Pods of the namespace; of the mesh where the policy stands in the root namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub selector: Selector,
    /// Empty: all ports.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    #[serde(default, deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Meta,
    pub spec: AccessPolicySpec,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicySpec {
    #[serde(default, deserialize_with = "or_default")]
    pub workloads: Workloads,
    pub action: Action,
    /// Empty: an Allow that grants nothing, a Deny or Audit that matches nothing.
    #[serde(default, deserialize_with = "or_default")]
    pub rules: Vec<AccessRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Action {
    Allow,
    Deny,
    Audit,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// Absent: anyone. Empty: no one.
    #[serde(default)]
    pub sources: Option<Vec<AccessSource>>,
    #[serde(default, deserialize_with = "or_default")]
    pub methods: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub paths: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<u16>,
}

/// All that is set must hold.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessSource {
    #[serde(default, deserialize_with = "or_default")]
    pub spiffe: Vec<String>,
    #[serde(default)]
    pub service_account: Option<AccountRef>,
    #[serde(default, deserialize_with = "or_default")]
    pub namespaces: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub cidrs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountRef {
    #[serde(default)]
    pub namespace: Option<String>,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressHost {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Meta,
    pub spec: EgressHostSpec,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressHostSpec {
    /// Exact names, or `*.suffix`.
    pub hostnames: Vec<String>,
    pub ports: Vec<EgressPort>,
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<IpAddr>,
    #[serde(default)]
    pub visibility: Visibility,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPort {
    pub port: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// As a Service's `appProtocol`.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(default)]
    pub tls: Option<EgressTls>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressTls {
    /// Absent: the first hostname.
    #[serde(default)]
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Visibility {
    #[default]
    Namespace,
    /// From the root namespace only.
    Cluster,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mesh {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: MeshSpec,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshSpec {
    /// Immutable. Absent: `cluster.local`.
    #[serde(default)]
    pub trust_domain: Option<String>,
    #[serde(default)]
    pub profile: Profile,
    /// Absent: the private ranges of RFC 1918, RFC 6598 and RFC 4193, and loopback.
    #[serde(default)]
    pub mesh_networks: Option<Vec<IpNet>>,
    #[serde(default, deserialize_with = "or_default")]
    pub outbound: MeshOutbound,
    #[serde(default)]
    pub default_access: Option<DefaultAccess>,
    #[serde(default, deserialize_with = "or_default")]
    pub tracing: MeshTracing,
    #[serde(default, deserialize_with = "or_default")]
    pub defaults: MeshDefaults,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshOutbound {
    #[serde(default)]
    pub discovery_timeout: Option<String>,
    #[serde(default)]
    pub on_discovery_timeout: OnDiscoveryTimeout,
    #[serde(default)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum OnDiscoveryTimeout {
    #[default]
    Fail,
    Passthrough,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Unknown {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DefaultAccess {
    Allow,
    Deny,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTracing {
    /// `http://` address of an OTLP receiver: gRPC, or HTTP where it has a path or port 4318.
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub sampling: Sampling,
}

/// Of root spans.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sampling {
    #[serde(default)]
    pub percent: Option<u8>,
    #[serde(default)]
    pub parts_per_million: Option<u32>,
}

/// Bodies of TrafficPolicy and InboundPolicy that hold wherever nothing says otherwise.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshDefaults {
    #[serde(default, deserialize_with = "or_default")]
    pub traffic: Map<String, Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub inbound: Map<String, Value>,
}

impl TrafficPolicy {
    /// What it is attached to; references to kinds that cannot be targets are left to the conditions.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        self.spec.target_refs.iter().filter_map(|target| target.target(&self.metadata.namespace))
    }
}

impl TargetRef {
    pub fn target(&self, namespace: &str) -> Option<Target> {
        let name = || Name::new(self.namespace.as_deref().unwrap_or(namespace), &self.name);
        Some(match (self.group.as_str(), self.kind.as_str()) {
            ("policy.leno.dev", "Mesh") => Target::Mesh,
            ("", "Namespace") => Target::Namespace(self.name.clone()),
            ("", "Service") => Target::Service(name()),
            ("policy.leno.dev", "EgressHost") => Target::EgressHost(name()),
            ("gateway.networking.k8s.io", "HTTPRoute") => Target::Route(super::Kind::HttpRoute, name()),
            ("gateway.networking.k8s.io", "GRPCRoute") => Target::Route(super::Kind::GrpcRoute, name()),
            ("gateway.networking.k8s.io", "TCPRoute") => Target::Route(super::Kind::TcpRoute, name()),
            _ => return None,
        })
    }
}

impl Workloads {
    /// `port` 0 stands for ports that nobody declared.
    pub fn select(&self, labels: &BTreeMap<String, String>, port: u16) -> bool {
        let pod = self.selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        pod && (self.ports.is_empty() || self.ports.contains(&port))
    }
}

// A spec is a few words about where, and a body. serde cannot flatten and refuse unknown fields at once, so that the body is kept as
// it stands and judged by `leno_proto::fields`, which knows every field.

impl<'de> Deserialize<'de> for TrafficPolicySpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut body = Map::deserialize(from)?;
        let target_refs = body.remove("targetRefs").ok_or_else(|| D::Error::missing_field("targetRefs"))?;
        let strategy = body.remove("strategy").unwrap_or(Value::Null);
        Ok(TrafficPolicySpec {
            target_refs: part("targetRefs", target_refs)?,
            strategy: part("strategy", strategy)?,
            body,
        })
    }
}

impl<'de> Deserialize<'de> for InboundPolicySpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut body = Map::deserialize(from)?;
        let workloads = body.remove("workloads").unwrap_or(Value::Null);
        Ok(InboundPolicySpec { workloads: part("workloads", workloads)?, body })
    }
}

fn part<T: for<'a> Deserialize<'a> + Default, E: serde::de::Error>(name: &str, value: Value) -> Result<T, E> {
    let read: Result<Option<T>, serde_json::Error> = serde_json::from_value(value);
    Ok(read.map_err(|error| E::custom(format_args!("spec.{name}: {error}")))?.unwrap_or_default())
}

/// The namespace of the control plane, whose objects may speak for the whole mesh.
pub const ROOT_NAMESPACE: &str = "leno-system";

/// An id, or a prefix that ends in `/*`.
pub(crate) fn spiffe_match(text: &str) -> Option<SpiffeMatch> {
    match text.strip_suffix("/*") {
        // Whatever stands before the star must begin an id: at least a trust domain.
        Some(prefix) => {
            let probe: Result<SpiffeId, _> = format!("{prefix}/x").parse();
            probe.ok().map(|_| SpiffeMatch::Prefix(text.into()))
        }
        None => text.parse().ok().map(SpiffeMatch::Exact),
    }
}

/// A network, or one address.
pub(crate) fn cidr(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
