//! The limits of our own application, by port, shared by the workers so that they are exact. It must never forget what is in
//! use because policy changed.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use leno_proto::identity::SpiffeId;
use leno_proto::policy::AppHop;
use leno_proto::policy::Connection;
use leno_proto::policy::Http2Ping;
use leno_proto::policy::InboundRateLimit;
use leno_proto::policy::InboundTraffic;
use leno_proto::policy::Keepalive;
use leno_proto::policy::Rate;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::SpiffeMatch;
use leno_proto::policy::Warmup;
use parking_lot::Mutex;

use crate::gate::Gate;
use crate::gate::Reclaim;
use crate::limit::TokenBucket;
use crate::quick::Table;
use crate::retry::Budget;
use crate::upstream::IdleLimit;

#[derive(Default)]
pub struct Apps(Mutex<Table<u16, Arc<App>>>);

/// One port of our own application.
pub struct App {
    pub name: ServicePort,
    pub label: Arc<str>,
    /// Connections of clients.
    pub clients: Arc<Gate>,
    /// Our connections to the application.
    pub connections: Arc<Gate>,
    pub requests: Arc<Gate>,
    pub limits: Arc<Connection>,
    /// Learns how long the application lets a connection idle.
    pub idle: Arc<IdleLimit>,
    /// Of requests that are sent again because the application never had them.
    pub retries: Arc<Budget>,
    rates: Option<Arc<Rates>>,
    policy: Arc<InboundTraffic>,
}

/// Requests a second, of all clients and of each identity.
struct Rates {
    rule: InboundRateLimit,
    total: Option<TokenBucket>,
    each: Mutex<HashMap<Option<SpiffeId>, Arc<TokenBucket>>>,
}

impl Apps {
    /// `reclaim` makes the hook that asks the workers to give up an idle connection to the application.
    pub fn port(
        &self,
        port: u16,
        policy: &Arc<InboundTraffic>,
        reclaim: impl FnOnce(&ServicePort) -> Reclaim,
    ) -> Arc<App> {
        let mut table = self.0.lock();
        let before = table.get(&port);
        if let Some(same) = before.filter(|app| Arc::ptr_eq(&app.policy, policy)) {
            return Arc::clone(same);
        }
        let hop = &policy.app;
        let name = ServicePort { service: ServiceName { namespace: "".into(), name: "application".into() }, port };
        let requests_max = hop.max_concurrency.unwrap_or(u32::MAX);
        let (clients, connections, requests) = match before {
            Some(before) => {
                before.clients.resize(policy.max_connections);
                before.connections.resize(hop.max_connections);
                before.requests.resize(requests_max);
                (Arc::clone(&before.clients), Arc::clone(&before.connections), Arc::clone(&before.requests))
            }
            None => (
                Gate::new(policy.max_connections),
                Gate::with_reclaim(hop.max_connections, reclaim(&name)),
                Gate::new(requests_max),
            ),
        };
        let known = before.and_then(|before| before.rates.clone());
        let rates = policy.rate_limit.as_ref().map(|rule| match known {
            Some(known) if known.rule == *rule => known,
            _ => Arc::new(Rates::new(rule, Instant::now())),
        });
        let (idle, retries) = match before {
            Some(before) => (Arc::clone(&before.idle), Arc::clone(&before.retries)),
            None => (Arc::default(), Arc::new(Budget::of_transport(Instant::now()))),
        };
        let app = Arc::new(App {
            name,
            label: format!("{APPLICATION}{port}").into(),
            clients,
            connections,
            requests,
            limits: Arc::new(towards_application(hop)),
            idle,
            retries,
            rates,
            policy: Arc::clone(policy),
        });
        table.insert(port, Arc::clone(&app));
        app
    }
}

impl App {
    /// Whether policy lets a request be sent again to the application that never had it.
    pub fn may_repeat(&self) -> bool {
        self.policy.app.retry_reset_before_request
    }

    /// Whether the rate limits let one more request in.
    pub fn admits(&self, identity: Option<&SpiffeId>, now: Instant) -> bool {
        self.rates.as_ref().is_none_or(|rates| rates.admits(identity, now))
    }
}

impl Rates {
    fn new(rule: &InboundRateLimit, now: Instant) -> Self {
        Self { rule: rule.clone(), total: rule.total.as_ref().map(|rate| bucket(rate, now)), each: Mutex::default() }
    }

    fn admits(&self, identity: Option<&SpiffeId>, now: Instant) -> bool {
        let own = self.own(identity);
        // The client's own first, so that one greedy client does not use up what is everybody's.
        if let Some(rate) = own {
            let bucket = {
                let mut each = self.each.lock();
                if each.len() >= IDENTITIES_MAX && !each.contains_key(&identity.cloned()) {
                    each.clear();
                }
                Arc::clone(each.entry(identity.cloned()).or_insert_with(|| Arc::new(bucket(rate, now))))
            };
            if bucket.take(now).is_err() {
                return false;
            }
        }
        self.total.as_ref().is_none_or(|total| total.take(now).is_ok())
    }

    /// The first override that names the identity, else the rate of every identity.
    fn own(&self, identity: Option<&SpiffeId>) -> Option<&Rate> {
        let named = identity.and_then(|identity| {
            self.rule.overrides.iter().find(|(matched, _)| match matched {
                SpiffeMatch::Exact(exact) => exact == identity,
                SpiffeMatch::Prefix(pattern) => {
                    let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
                    prefix.ends_with('/') && identity.as_str().starts_with(prefix)
                }
            })
        });
        named.map(|(_, rate)| rate).or(self.rule.per_identity.as_ref())
    }
}

fn bucket(rate: &Rate, now: Instant) -> TokenBucket {
    TokenBucket::new(rate.requests_per_second, rate.burst, now)
}

/// As a client's policy would say it. An application is on this node: what takes longer than two seconds is not there.
fn towards_application(hop: &AppHop) -> Connection {
    Connection {
        connect_timeout: Duration::from_secs(2),
        max_connections: hop.max_connections,
        max_connections_per_endpoint: None,
        min_idle_per_endpoint: 0,
        capacity: None,
        max_pending: hop.max_pending,
        acquire_timeout: hop.acquire_timeout,
        idle_timeout: hop.idle_timeout,
        max_lifetime: None,
        max_requests: None,
        keepalive: Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 3 },
        http2: Http2Ping { ping_interval: Duration::from_secs(30), ping_timeout: Duration::from_secs(10) },
        warmup: Warmup { connect_rate: 50, burst: 20 },
    }
}

/// No pod's uid begins like this.
pub(super) const APPLICATION: &str = "application:";
/// Identities with a bucket of their own; above that all begin anew, which lets a few too many through.
const IDENTITIES_MAX: usize = 4096;
