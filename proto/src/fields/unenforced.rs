//! What a resource asks for that this build does not act on: what a proxy says of each resource that it took. It goes by the
//! resolved policy alone, so that a field counts where it changes something, whoever set it.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::fields::Body;
use crate::fields::INBOUND;
use crate::fields::TRAFFIC;
use crate::fields::inbound;
use crate::fields::traffic;
use crate::lead;
use crate::policy::InboundTraffic;
use crate::policy::Resource;
use crate::policy::Traffic;

/// What every resource is held against.
static TRAFFIC_DEFAULT: LazyLock<Traffic> = LazyLock::new(|| traffic(&Body::new()));
static INBOUND_DEFAULT: LazyLock<InboundTraffic> = LazyLock::new(|| inbound(&Body::new()));

/// Fields whose value differs from the default and that this build does not enforce, as `traffic.PATH` and `inbound.PATH`, sorted.
pub fn unenforced(resource: &Resource) -> Vec<String> {
    let mut found = BTreeSet::new();
    for policy in lead::policies(resource) {
        let later =
            TRAFFIC.iter().filter(|field| !field.enforced && traffic_differs(field.path, policy, &TRAFFIC_DEFAULT));
        found.extend(later.map(|field| format!("traffic.{}", field.path)));
    }
    if let Resource::Inbound(it) = resource {
        for port in it.ports.iter().chain([&it.other]) {
            let later = INBOUND
                .iter()
                .filter(|field| !field.enforced && inbound_differs(field.path, &port.policy, &INBOUND_DEFAULT));
            found.extend(later.map(|field| format!("inbound.{}", field.path)));
        }
    }
    found.into_iter().collect()
}

/// Of the fields that some release did not enforce; a test holds this against the table.
fn traffic_differs(path: &str, one: &Traffic, other: &Traffic) -> bool {
    match path {
        "mode" => one.mode != other.mode,
        "connection.minIdlePerEndpoint" => {
            one.connection.min_idle_per_endpoint != other.connection.min_idle_per_endpoint
        }
        "connection.warmup.connectRate" => one.connection.warmup.connect_rate != other.connection.warmup.connect_rate,
        "connection.warmup.burst" => one.connection.warmup.burst != other.connection.warmup.burst,
        "concurrency.adaptive" => one.concurrency.adaptive != other.concurrency.adaptive,
        "concurrency.priorityHeader" => one.concurrency.priority_header != other.concurrency.priority_header,
        "loadBalancing.subsetSize" => one.load_balancing.subset != other.load_balancing.subset,
        "loadBalancing.penalizeRateLimited" => {
            one.load_balancing.penalize_rate_limited != other.load_balancing.penalize_rate_limited
        }
        _ => false,
    }
}

fn inbound_differs(path: &str, one: &InboundTraffic, other: &InboundTraffic) -> bool {
    let client = |policy: &InboundTraffic| policy.per_client.clone();
    let rate = |policy: &InboundTraffic| policy.rate_limit.clone();
    match path {
        "connections.perClient.max" => client(one).and_then(|c| c.max) != client(other).and_then(|c| c.max),
        "connections.perClient.ratePerSecond" => {
            client(one).and_then(|c| c.rate_per_second) != client(other).and_then(|c| c.rate_per_second)
        }
        // A burst without a rate says nothing.
        "connections.perClient.burst" => client(one).is_some_and(|c| c.rate_per_second.is_some()),
        "rateLimit.perIdentity.requestsPerSecond" | "rateLimit.perIdentity.burst" => {
            rate(one).is_some_and(|rate| rate.per_identity.is_some())
        }
        "rateLimit.overrides" => rate(one).is_some_and(|rate| !rate.overrides.is_empty()),
        "overload.adaptive" => one.overload.adaptive != other.overload.adaptive,
        "overload.shedPercent" => one.overload.shed_percent != other.overload.shed_percent,
        "overload.refusePercent" => one.overload.refuse_percent != other.overload.refuse_percent,
        _ => false,
    }
}
