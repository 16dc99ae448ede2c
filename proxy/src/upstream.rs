//! What a proxy knows about those it calls, beyond policy: limits in use, failures seen, idle limits learned. Shared by all
//! workers, and carried from snapshot to snapshot by name, so that new policy never forgets it. It must never block.

#[cfg(test)]
pub(crate) mod fixtures;
mod idle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use leno_proto::identity::SpiffeId;
use leno_proto::policy::Endpoint;
use leno_proto::policy::Inbound;
use leno_proto::policy::Locality;
use leno_proto::policy::OnExceeded;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Traffic;

use crate::breaker::Breaker;
use crate::breaker::Ejection;
use crate::breaker::Quorum;
use crate::gate::Gate;
use crate::gate::Reclaim;
use crate::limit::TokenBucket;
use crate::retry::Budget;
pub use crate::upstream::idle::IdleLimit;

/// A Service's port as one snapshot sees it: policy and members of now, around what was learned.
#[derive(Debug)]
pub struct Target {
    pub name: ServicePort,
    /// `namespace/name:port`, as metrics and logs print it.
    pub label: Arc<str>,
    pub policy: Arc<Traffic>,
    pub members: Vec<Member>,
    pub shared: Arc<Shared>,
    here: Here,
    places: Places,
}

/// Where this pod runs; empty: not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Here {
    pub node: Arc<str>,
    pub zone: Arc<str>,
}

impl Here {
    /// As our own workload's policy says; before there is any, nowhere.
    pub fn of(own: Option<&Inbound>) -> Self {
        own.map(|own| Self { node: Arc::clone(&own.node), zone: Arc::clone(&own.zone) }).unwrap_or_default()
    }

    fn is_node_of(&self, endpoint: &Endpoint) -> bool {
        !self.node.is_empty() && self.node == endpoint.node
    }

    fn is_zone_of(&self, endpoint: &Endpoint) -> bool {
        !self.zone.is_empty() && self.zone == endpoint.zone
    }
}

/// Positions in `members`, sorted out once for all choices.
#[derive(Debug)]
struct Places {
    /// Those that new requests may go to.
    usable: Vec<usize>,
    /// The usable ones that are preferred; `None`: all alike.
    near: Option<Vec<usize>>,
}

impl Places {
    /// The ready ones; where there are none, those that still serve while they terminate (Kubernetes' rule for
    /// ProxyTerminatingEndpoints).
    fn of(members: &[Member], locality: Locality, here: &Here) -> Self {
        let any_ready = members.iter().any(|m| m.endpoint.ready);
        let may = |m: &Member| if any_ready { m.endpoint.ready } else { m.endpoint.serving };
        let usable: Vec<usize> = (0..members.len()).filter(|index| may(&members[*index])).collect();
        let near = nearest(&usable, members, locality, here);
        Self { usable, near }
    }
}

/// Endpoints of one zone that make it worth staying in, where policy does not insist.
const ZONE_MIN: usize = 3;

/// Those of a pool that are preferred; `None`: all alike. It is a preference: nobody is left without an endpoint.
fn nearest(pool: &[usize], members: &[Member], locality: Locality, here: &Here) -> Option<Vec<usize>> {
    let all = |is_near: fn(&Here, &Endpoint) -> bool, least: usize| {
        let near = pool.iter().copied().filter(|index| is_near(here, &members[*index].endpoint));
        Some(near.collect::<Vec<usize>>()).filter(|near| near.len() >= least)
    };
    match locality {
        Locality::Off => None,
        Locality::Prefer => all(Here::is_zone_of, ZONE_MIN),
        Locality::Strict => all(Here::is_zone_of, 1),
        Locality::Node => all(Here::is_node_of, 1).or_else(|| all(Here::is_zone_of, 1)),
    }
}

/// One endpoint of a target.
#[derive(Debug, Clone)]
pub struct Member {
    pub endpoint: Endpoint,
    pub shared: Arc<EndpointShared>,
}

/// What all workers share about a target.
#[derive(Debug)]
pub struct Shared {
    /// `connection.maxConnections`: a permit is held by each connection, idle ones included.
    pub connections: Arc<Gate>,
    /// `concurrency.maxRequests`.
    pub requests: Arc<Gate>,
    pub quorum: Arc<Quorum>,
    /// Of retries that policy allows.
    pub retries: Budget,
    /// Of retries whose first try was never processed.
    pub transport_retries: Budget,
    /// With the rules it was made from: other rules make another one.
    pub breaker: Option<Arc<Breaker>>,
    pub rate: Option<Rate>,
}

#[derive(Debug)]
pub struct Rate {
    pub bucket: TokenBucket,
    /// How long a request may wait for its token.
    pub wait_max: Duration,
    rule: leno_proto::policy::RateLimit,
}

/// What all workers share about an endpoint: of one pod, at one address, with one identity.
#[derive(Debug)]
pub struct EndpointShared {
    pub identity: EndpointKey,
    /// Requests under way, over all workers.
    pub in_flight: AtomicU32,
    pub ejection: Arc<Ejection>,
    pub idle: Arc<IdleLimit>,
    /// When it first appeared, for slow start.
    pub since: Instant,
}

/// What makes an endpoint the same one: everything that matters to security, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    pub uid: Arc<str>,
    pub address: SocketAddr,
    /// Who must answer; `None`: plaintext.
    pub expected: Option<SpiffeId>,
}

impl EndpointKey {
    /// `None` where there is no address, which `convert` refuses.
    pub fn of(endpoint: &Endpoint) -> Option<Self> {
        let mut address = *endpoint.addresses.first()?;
        if let Some(port) = endpoint.hop_port {
            address.set_port(port);
        }
        Some(Self { uid: endpoint.uid.clone(), address, expected: endpoint.identity.clone() })
    }
}

impl EndpointShared {
    fn new(identity: EndpointKey, quorum: &Arc<Quorum>, now: Instant) -> Self {
        Self {
            identity,
            in_flight: AtomicU32::new(0),
            ejection: Arc::new(Ejection::new(quorum.clone(), now)),
            idle: Arc::default(),
            since: now,
        }
    }
}

/// So many requests under way on an endpoint; dropping it takes this one out again.
#[derive(Debug)]
pub struct InFlight(Arc<EndpointShared>);

impl InFlight {
    pub fn begin(endpoint: &Arc<EndpointShared>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Target {
    /// The target of a new snapshot. What `previous` learned is kept: gates are resized, endpoints that are still there keep
    /// their record, breaker and rate start anew only where their rules changed.
    pub fn build(
        name: &ServicePort,
        policy: &Arc<Traffic>,
        endpoints: &[&Endpoint],
        previous: Option<&Self>,
        context: &Context<'_>,
    ) -> Self {
        let shared = match previous {
            Some(previous) => previous.shared.carry(policy, context),
            None => Arc::new(Shared::new(name, policy, context)),
        };
        let known = previous.map_or(&[][..], |p| &p.members);
        let known: HashMap<&EndpointKey, &Arc<EndpointShared>> =
            known.iter().map(|m| (&m.shared.identity, &m.shared)).collect();
        let member = |endpoint: &&Endpoint| {
            let key = EndpointKey::of(endpoint)?;
            let old = known.get(&key).map(|shared| Arc::clone(shared));
            let shared = old.unwrap_or_else(|| Arc::new(EndpointShared::new(key, &shared.quorum, context.now)));
            Some(Member { endpoint: (*endpoint).clone(), shared })
        };
        let members: Vec<Member> = endpoints.iter().filter_map(member).collect();
        shared.quorum.set_members(members.len() as u32);
        let (policy, here) = (policy.clone(), context.here.clone());
        let places = Places::of(&members, policy.load_balancing.locality, &here);
        Self { name: name.clone(), label: name.to_string().into(), policy, members, shared, here, places }
    }

    /// Whether `build` would only make the same again.
    pub fn is_of(&self, policy: &Traffic, endpoints: &[&Endpoint], share: Option<u32>, here: &Here) -> bool {
        self.shared.connections.limit() == connections_max(policy, share)
            && *self.policy == *policy
            && self.here == *here
            && self.members.iter().map(|m| &m.endpoint).eq(endpoints.iter().copied())
    }

    /// Members that new requests may go to, by position.
    pub fn usable(&self) -> &[usize] {
        &self.places.usable
    }

    /// Those of them that are preferred.
    pub fn near(&self) -> &[usize] {
        self.places.near.as_deref().unwrap_or(&self.places.usable)
    }

    /// What is preferred of a part of them.
    pub fn nearest(&self, pool: Vec<usize>) -> Vec<usize> {
        nearest(&pool, &self.members, self.policy.load_balancing.locality, &self.here).unwrap_or(pool)
    }
}

/// What building needs from outside.
pub struct Context<'a> {
    pub now: Instant,
    /// Makes the hook that asks the workers to give up an idle connection to a target.
    pub reclaim: &'a dyn Fn(&ServicePort) -> Reclaim,
    /// This proxy's part of the target's declared capacity.
    pub share: Option<u32>,
    pub here: &'a Here,
}

impl Shared {
    fn new(name: &ServicePort, policy: &Traffic, context: &Context<'_>) -> Self {
        Self {
            connections: Gate::with_reclaim(connections_max(policy, context.share), (context.reclaim)(name)),
            requests: Gate::new(policy.concurrency.max_requests),
            quorum: Arc::new(Quorum::default()),
            retries: Budget::of_policy(&policy.retries.budget, context.now),
            transport_retries: Budget::of_transport(context.now),
            breaker: policy.circuit_breaker.service.clone().map(|rules| Breaker::new(rules, context.now)),
            rate: Rate::new(policy, context.now),
        }
    }

    /// The same where nothing but limits changed; else new parts around the old gates and budgets' successors.
    fn carry(self: &Arc<Self>, policy: &Traffic, context: &Context<'_>) -> Arc<Self> {
        self.connections.resize(connections_max(policy, context.share));
        self.requests.resize(policy.concurrency.max_requests);
        let same_breaker = self.breaker.as_ref().map(|b| b.rules()) == policy.circuit_breaker.service.as_ref();
        let same_rate = self.rate.as_ref().map(|r| &r.rule) == policy.rate_limit.as_ref();
        if same_breaker && same_rate && self.retries.is_of(&policy.retries.budget) {
            return self.clone();
        }
        let breaker = match same_breaker {
            true => self.breaker.clone(),
            false => policy.circuit_breaker.service.clone().map(|rules| Breaker::new(rules, context.now)),
        };
        Arc::new(Self {
            connections: self.connections.clone(),
            requests: self.requests.clone(),
            quorum: self.quorum.clone(),
            retries: Budget::of_policy(&policy.retries.budget, context.now),
            transport_retries: Budget::of_transport(context.now),
            breaker,
            rate: Rate::new(policy, context.now),
        })
    }
}

fn connections_max(policy: &Traffic, share: Option<u32>) -> u32 {
    policy.connection.max_connections.min(share.unwrap_or(u32::MAX))
}

impl Rate {
    fn new(policy: &Traffic, now: Instant) -> Option<Self> {
        let rule = policy.rate_limit.clone()?;
        let wait_max = match rule.on_exceeded {
            OnExceeded::Reject => Duration::ZERO,
            OnExceeded::Queue { max_wait } => max_wait,
        };
        Some(Self { bucket: TokenBucket::new(rule.requests_per_second, rule.burst, now), wait_max, rule })
    }
}
