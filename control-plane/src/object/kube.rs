//! Kubernetes' own kinds, trimmed to the fields that Leno reads. Unknown fields are ignored: the API server has judged them,
//! and a newer cluster must not become unreadable. It never adds meaning to a field; that is `compile`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::Deserializer;

/// `metadata`, of every kind.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub name: String,
    /// Empty for cluster-scoped kinds; `default` is filled in at admission where a namespaced object says none.
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    pub generation: i64,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC, as the API server writes it, so that the text sorts as the time does. Empty where there is none.
    #[serde(default, deserialize_with = "or_default")]
    pub creation_timestamp: String,
    #[serde(default, deserialize_with = "or_default")]
    pub deletion_timestamp: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Namespace {
    pub metadata: Meta,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ServiceAccount {
    pub metadata: Meta,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Pod {
    pub metadata: Meta,
    /// It came through an API server, whose webhook has given it its sidecar or never will.
    #[serde(skip)]
    pub admitted: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "or_default")]
    pub status: PodStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub service_account_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub node_name: String,
    #[serde(default)]
    pub host_network: bool,
    #[serde(default)]
    pub termination_grace_period_seconds: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Container {
    #[serde(default)]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    pub container_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: Transport,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(default, deserialize_with = "or_default")]
    pub phase: String,
    #[serde(default, rename = "podIP")]
    pub pod_ip: Option<IpAddr>,
    #[serde(default, rename = "podIPs", deserialize_with = "or_default")]
    pub pod_ips: Vec<PodIp>,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<PodCondition>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PodIp {
    pub ip: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PodCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
}

/// A port's transport protocol. Leno carries TCP alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Transport {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Service {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: ServiceKind,
    /// `None` or `""` where there is none yet; `None` as text is a headless Service.
    #[serde(default, rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    #[serde(default, rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub external_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ServicePortSpec>,
    #[serde(default, deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub session_affinity: String,
    #[serde(default, deserialize_with = "or_default")]
    pub session_affinity_config: AffinityConfig,
    #[serde(default, deserialize_with = "or_default")]
    pub internal_traffic_policy: String,
    #[serde(default, deserialize_with = "or_default")]
    pub traffic_distribution: String,
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum ServiceKind {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    pub port: u16,
    #[serde(default)]
    pub target_port: Option<IntOrName>,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: Transport,
    #[serde(default, deserialize_with = "or_default")]
    pub app_protocol: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum IntOrName {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct AffinityConfig {
    #[serde(default, rename = "clientIP", deserialize_with = "or_default")]
    pub client_ip: ClientIpConfig,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub address_type: String,
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<SlicePort>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: SliceConditions,
    #[serde(default)]
    pub target_ref: Option<ObjectReference>,
    #[serde(default, deserialize_with = "or_default")]
    pub node_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub zone: String,
}

/// Absent means: as if true for `ready`, as `ready` for `serving`, false for `terminating` (EndpointConditions).
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct SliceConditions {
    #[serde(default)]
    pub ready: Option<bool>,
    #[serde(default)]
    pub serving: Option<bool>,
    #[serde(default)]
    pub terminating: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct ObjectReference {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlicePort {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: Transport,
    #[serde(default, deserialize_with = "or_default")]
    pub app_protocol: String,
}

impl Pod {
    /// `podIPs`, else `podIP`.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self.status.pod_ips.as_slice() {
            [] => self.status.pod_ip.into_iter().collect(),
            ips => ips.iter().map(|one| one.ip).collect(),
        }
    }

    /// A container's port by its name; native sidecars are init containers.
    pub fn port_named(&self, name: &str) -> Option<u16> {
        let containers = self.spec.containers.iter().chain(&self.spec.init_containers);
        containers.flat_map(|c| &c.ports).find(|p| p.name == name).map(|p| p.container_port)
    }

    /// The Ready condition; a manifest without conditions counts as ready once it has an address.
    pub fn ready(&self) -> bool {
        match self.status.conditions.iter().find(|c| c.kind == "Ready") {
            Some(condition) => condition.status == "True",
            None => matches!(self.status.phase.as_str(), "" | "Running"),
        }
    }
}

impl Service {
    /// The virtual addresses; none for a headless Service.
    pub fn cluster_addresses(&self) -> Vec<IpAddr> {
        let all = if self.spec.cluster_ips.is_empty() {
            std::slice::from_ref(&self.spec.cluster_ip)
        } else {
            &self.spec.cluster_ips
        };
        all.iter().filter_map(|text| text.parse().ok()).collect()
    }

    pub fn tcp_ports(&self) -> impl Iterator<Item = &ServicePortSpec> {
        self.spec.ports.iter().filter(|port| port.protocol == Transport::Tcp)
    }

    pub fn port(&self, number: u16) -> Option<&ServicePortSpec> {
        self.tcp_ports().find(|port| port.port == number)
    }

    pub fn headless(&self) -> bool {
        self.spec.cluster_ip == "None" && self.spec.kind != ServiceKind::ExternalName
    }
}

impl ServicePortSpec {
    /// By its name, or its number where it has none.
    pub fn called(&self, name: &str) -> bool {
        if self.name.is_empty() { name.parse() == Ok(self.port) } else { self.name == name }
    }
}

/// `null` and absence both mean the default, as the API server treats them.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
