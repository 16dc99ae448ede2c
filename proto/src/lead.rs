//! What a resource leads to, and the policies that stand in it: the control plane closes over the one, and a proxy that serves from
//! its file does the same. It never looks a name up.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::policy::Backend;
use crate::policy::Destination;
use crate::policy::Filter;
use crate::policy::OnOpen;
use crate::policy::Outbound;
use crate::policy::Resource;
use crate::policy::ServiceName;
use crate::policy::ServicePort;
use crate::policy::Traffic;

/// What a resource leads to, before views and buckets are known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lead {
    /// The Outbound of a Service, in the view of whoever asks.
    Outbound(ServiceName),
    /// All buckets of a service port.
    Endpoints(ServicePort),
}

/// What a proxy needs beside it.
pub fn leads(resource: &Resource) -> BTreeSet<Lead> {
    let mut found = BTreeSet::new();
    match resource {
        Resource::Destination(Destination::Service(port)) => drop(found.insert(Lead::Outbound(port.service.clone()))),
        Resource::Outbound(outbound) => outbound_leads(outbound, &mut found),
        Resource::EgressIndex(index) => index.hosts.iter().for_each(|host| traffic_leads(&host.policy, &mut found)),
        Resource::Destination(Destination::Workload(workload)) => traffic_leads(&workload.policy, &mut found),
        Resource::Destination(Destination::NotFound) => {}
        Resource::Endpoints(_)
        | Resource::Inbound(_)
        | Resource::TrustBundle(_)
        | Resource::ProxyConfig(_)
        | Resource::Share(_) => {}
    }
    found
}

fn outbound_leads(outbound: &Outbound, found: &mut BTreeSet<Lead>) {
    for port in &outbound.ports {
        backend_leads(&port.backend, found);
        traffic_leads(&port.policy, found);
        for rule in port.routes.iter().flat_map(|route| &route.rules) {
            traffic_leads(&rule.policy, found);
            rule.backends.iter().for_each(|backend| backend_leads(backend, found));
            filter_leads(&rule.filters, found);
        }
    }
}

fn backend_leads(backend: &Backend, found: &mut BTreeSet<Lead>) {
    if backend.resolved {
        found.insert(Lead::Endpoints(backend.target.clone()));
    }
    traffic_leads(&backend.policy, found);
    filter_leads(&backend.filters, found);
}

fn filter_leads(filters: &[Filter], found: &mut BTreeSet<Lead>) {
    for filter in filters {
        if let Filter::Mirror { backend, .. } = filter {
            backend_leads(backend, found);
        }
    }
}

/// A breaker's fallback. Its own policy holds no further fallback (`policy` cuts the chain), so this ends.
fn traffic_leads(traffic: &Traffic, found: &mut BTreeSet<Lead>) {
    if let Some(service) = &traffic.circuit_breaker.service
        && let OnOpen::Fallback(backend) = &service.on_open
    {
        backend_leads(backend, found);
    }
}

/// The client-side policies that a resource carries, those of the Service first.
pub fn policies(resource: &Resource) -> Vec<&Arc<Traffic>> {
    match resource {
        Resource::Destination(Destination::Workload(workload)) => vec![&workload.policy],
        Resource::EgressIndex(index) => index.hosts.iter().map(|host| &host.policy).collect(),
        Resource::Outbound(outbound) => {
            let ports = outbound.ports.iter();
            ports
                .flat_map(|port| {
                    let rules = port.routes.iter().flat_map(|route| &route.rules);
                    let routed = rules.flat_map(|rule| {
                        std::iter::once(&rule.policy).chain(rule.backends.iter().map(|backend| &backend.policy))
                    });
                    [&port.policy, &port.backend.policy].into_iter().chain(routed)
                })
                .collect()
        }
        Resource::Destination(Destination::Service(_) | Destination::NotFound)
        | Resource::Endpoints(_)
        | Resource::Inbound(_)
        | Resource::TrustBundle(_)
        | Resource::ProxyConfig(_)
        | Resource::Share(_) => Vec::new(),
    }
}
