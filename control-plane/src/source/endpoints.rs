//! The endpoint controller's part for a folder of manifests: EndpointSlices for Services that select Pods and have none by hand.
//! It never touches a Service whose slices the user wrote.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::object::Object;
use crate::object::ObjectId;
use crate::object::SERVICE_NAME;
use crate::object::kube::EndpointSlice;
use crate::object::kube::IntOrName;
use crate::object::kube::Meta;
use crate::object::kube::ObjectReference;
use crate::object::kube::Pod;
use crate::object::kube::Service;
use crate::object::kube::ServiceKind;
use crate::object::kube::SliceConditions;
use crate::object::kube::SliceEndpoint;
use crate::object::kube::SlicePort;
use crate::object::kube::Transport;

/// Family and resolved ports: Pods that differ in these stand in different slices, as in Kubernetes.
type Group = (bool, Vec<(String, u16, String)>);

pub(super) fn derive<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> BTreeMap<ObjectId, Arc<Object>> {
    let mut services = Vec::new();
    let mut pods: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    let mut by_hand = BTreeSet::new();
    for object in objects {
        match &**object {
            Object::Service(service) => services.push(service),
            Object::Pod(pod) => pods.entry(&pod.metadata.namespace).or_default().push(pod),
            Object::EndpointSlice(slice) => {
                if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
                    by_hand.insert((slice.metadata.namespace.as_str(), service.as_str()));
                }
            }
            _ => {}
        }
    }
    let mut derived = BTreeMap::new();
    for service in services {
        let meta = &service.metadata;
        let selects = !service.spec.selector.is_empty() && service.spec.kind != ServiceKind::ExternalName;
        if !selects || by_hand.contains(&(meta.namespace.as_str(), meta.name.as_str())) {
            continue;
        }
        let selected = pods.get(meta.namespace.as_str()).into_iter().flatten();
        for object in slices(service, selected.copied()) {
            derived.insert(object.id(), Arc::new(object));
        }
    }
    derived
}

fn slices<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Vec<Object> {
    let mut groups: BTreeMap<Group, Vec<SliceEndpoint>> = BTreeMap::new();
    for pod in pods {
        let matches = service.spec.selector.iter().all(|(k, v)| pod.metadata.labels.get(k) == Some(v));
        if !matches || pod.status.phase == "Succeeded" || pod.status.phase == "Failed" {
            continue;
        }
        let ports = resolved_ports(service, pod);
        for v6 in [false, true] {
            let addresses: Vec<String> =
                pod.addresses().into_iter().filter(|ip| ip.is_ipv6() == v6).map(|ip| ip.to_string()).collect();
            if !addresses.is_empty() {
                groups.entry((v6, ports.clone())).or_default().push(endpoint(service, pod, addresses));
            }
        }
    }
    groups.into_iter().enumerate().map(|(index, (group, endpoints))| slice(service, index, group, endpoints)).collect()
}

fn resolved_ports(service: &Service, pod: &Pod) -> Vec<(String, u16, String)> {
    let mut ports = Vec::new();
    for port in service.spec.ports.iter().filter(|p| p.protocol == Transport::Tcp) {
        let number = match &port.target_port {
            None | Some(IntOrName::Number(0)) => Some(port.port),
            Some(IntOrName::Number(number)) => Some(*number),
            Some(IntOrName::Name(name)) => pod.port_named(name).or_else(|| name.parse().ok()),
        };
        if let Some(number) = number {
            ports.push((port.name.clone(), number, port.app_protocol.clone()));
        }
    }
    ports
}

fn endpoint(service: &Service, pod: &Pod, addresses: Vec<String>) -> SliceEndpoint {
    let serving = pod.ready();
    let terminating = !pod.metadata.deletion_timestamp.is_empty();
    SliceEndpoint {
        addresses,
        conditions: SliceConditions {
            ready: Some(service.spec.publish_not_ready_addresses || (serving && !terminating)),
            serving: Some(service.spec.publish_not_ready_addresses || serving),
            terminating: Some(terminating),
        },
        target_ref: Some(ObjectReference {
            kind: "Pod".to_owned(),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
        }),
        node_name: pod.spec.node_name.clone(),
        zone: String::new(),
    }
}

fn slice(service: &Service, index: usize, (v6, ports): Group, endpoints: Vec<SliceEndpoint>) -> Object {
    let name = format!("{}-leno-{index}", service.metadata.name);
    Object::EndpointSlice(EndpointSlice {
        metadata: Meta {
            name,
            namespace: service.metadata.namespace.clone(),
            labels: [(SERVICE_NAME.to_owned(), service.metadata.name.clone())].into(),
            ..Meta::default()
        },
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        ports: ports
            .into_iter()
            .map(|(name, port, app_protocol)| SlicePort {
                name,
                port: Some(port),
                protocol: Transport::Tcp,
                app_protocol,
            })
            .collect(),
    })
}
