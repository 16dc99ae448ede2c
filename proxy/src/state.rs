//! The proxy's index of policy: one immutable snapshot, swapped whole, and the wait for what it does not hold yet. `control` is
//! the only one that changes it; the stories only read. It must never be empty again once it held something.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;
use leno_proto::policy::Backend;
use leno_proto::policy::Destination;
use leno_proto::policy::EgressIndex;
use leno_proto::policy::Endpoint;
use leno_proto::policy::Inbound;
use leno_proto::policy::Outbound;
use leno_proto::policy::OutboundPort;
use leno_proto::policy::ProxyConfig;
use leno_proto::policy::Resource;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Share;
use leno_proto::policy::Traffic;
use leno_proto::policy::TrustBundle;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::aside::step_aside;
use crate::gate::Reclaim;
use crate::quick::Table;
use crate::upstream::Context;
use crate::upstream::Here;
use crate::upstream::Target;

/// Everything that a decision needs, as of one transaction.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts transactions of this process; workers compare it to know whether their copy is current.
    pub version: u64,
    pub config: Option<Arc<ProxyConfig>>,
    pub inbound: Option<Arc<Inbound>>,
    pub trust: Option<Arc<TrustBundle>>,
    pub egress: Arc<EgressIndex>,
    destinations: HashMap<SocketAddr, (Arc<Destination>, Mark)>,
    services: Table<ServiceName, (Arc<Service>, Mark)>,
    targets: HashMap<ServicePort, Arc<Target>>,
}

/// Set by whoever looks something up, taken back by `State::used`; carried from snapshot to snapshot. A flag and no time: a
/// lookup then costs no clock, and no write while the flag is up.
#[derive(Debug, Clone, Default)]
struct Mark(Arc<AtomicBool>);

impl Mark {
    fn set(&self) {
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A Service as this proxy's view has it.
#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    pub ports: Vec<Port>,
}

#[derive(Debug)]
pub struct Port {
    pub policy: Arc<OutboundPort>,
    /// The target of the Service's own endpoints.
    pub own: Arc<Target>,
    /// The targets of everything that routes and filters name, own included.
    targets: Vec<Arc<Target>>,
}

impl Service {
    pub fn port(&self, port: u16) -> Option<&Port> {
        self.ports.iter().find(|p| p.policy.port == port)
    }
}

impl Service {
    /// Something is under way to one of its endpoints: a long stream is a use, however long ago it began.
    fn is_busy(&self) -> bool {
        let members = self.ports.iter().flat_map(|port| &port.targets).flat_map(|target| &target.members);
        members.into_iter().any(|member| member.shared.in_flight.load(Ordering::Relaxed) > 0)
    }
}

impl Port {
    /// The target that a backend of this port's routes names.
    pub fn target(&self, backend: &Backend) -> Option<&Arc<Target>> {
        self.targets.iter().find(|t| t.name == backend.target)
    }
}

impl Snapshot {
    /// Looking it up counts as a use.
    pub fn destination(&self, address: SocketAddr) -> Option<&Arc<Destination>> {
        let (destination, mark) = self.destinations.get(&address)?;
        mark.set();
        Some(destination)
    }

    /// Looking it up counts as a use.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        let (service, mark) = self.services.get(name)?;
        mark.set();
        Some(service)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().map(|(service, _)| service)
    }

    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.values()
    }
}

/// One change of a transaction.
#[derive(Debug, Clone)]
pub enum Change {
    Put(Key, Arc<Resource>),
    /// The control plane says that this is no more, or not needed.
    Removed(Key),
}

/// What the stories miss: `control` subscribes to it.
pub type Wanted = mpsc::Receiver<Key>;

/// The one state of a proxy. Share it by `Arc`.
pub struct State {
    current: ArcSwap<Snapshot>,
    version: AtomicU64,
    changed: watch::Sender<u64>,
    /// Written by `apply` alone; the lock is never held while a request waits.
    book: Mutex<Book>,
    wanted: mpsc::Sender<Key>,
    /// Asked for, with how many wait for the answer, so that a thousand requests ask once. A key leaves with the last who waits,
    /// answered or not. Bounded by `ASKED_MAX`.
    asked: Mutex<HashMap<Key, usize>>,
    reclaim: Box<dyn Fn(&ServicePort) -> Reclaim + Send + Sync>,
}

#[derive(Default)]
struct Book {
    resources: BTreeMap<Key, Arc<Resource>>,
    /// Snapshots that a worker may still hold: freed here, on the control thread, when none does.
    retired: Vec<Arc<Snapshot>>,
}

/// Questions under way at once; above that a request waits for its deadline like any other that is not answered.
const ASKED_MAX: usize = 10_000;

/// What was asked for did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control plane did not answer in time")]
pub struct Unanswered;

impl State {
    /// `reclaim` makes, for a target, the hook that asks the workers to give up an idle connection.
    pub fn new(reclaim: impl Fn(&ServicePort) -> Reclaim + Send + Sync + 'static) -> (Arc<Self>, Wanted) {
        let (wanted, receiver) = mpsc::channel(1024);
        let state = Self {
            current: ArcSwap::default(),
            version: AtomicU64::new(0),
            changed: watch::channel(0).0,
            book: Mutex::default(),
            wanted,
            asked: Mutex::default(),
            reclaim: Box::new(reclaim),
        };
        (Arc::new(state), receiver)
    }

    /// The hook of a gate that is not a snapshot's: asks the workers to give up an idle connection to `target`.
    pub fn reclaim(&self, target: &ServicePort) -> Reclaim {
        (self.reclaim)(target)
    }

    /// The snapshot of now. A worker keeps it and calls again when `version` has moved.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Follows the versions, for those who wait rather than ask.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Everything held, for the last-known-good file and for resuming a session.
    pub fn resources(&self) -> Vec<(Key, Arc<Resource>)> {
        self.book.lock().resources.iter().map(|(k, r)| (k.clone(), r.clone())).collect()
    }

    /// Puts a whole transaction into force: builds a new snapshot aside and swaps it in.
    pub fn apply(&self, changes: Vec<Change>, now: Instant) {
        let mut book = self.book.lock();
        for change in changes {
            match change {
                Change::Put(key, resource) => drop(book.resources.insert(key, resource)),
                Change::Removed(key) => drop(book.resources.remove(&key)),
            }
        }
        let previous = self.current.load_full();
        let snapshot = Arc::new(self.build(&book.resources, &previous, now));
        let version = snapshot.version;
        self.current.store(snapshot);
        self.version.store(version, Ordering::Release);
        book.retired.push(previous);
        drop(book);
        self.changed.send_replace(version);
        self.sweep();
    }

    /// Frees snapshots that no worker holds any more. Called by `apply`, and by `control` every second.
    pub fn sweep(&self) {
        let mut book = self.book.lock();
        let (free, held) = std::mem::take(&mut book.retired).into_iter().partition(|s| Arc::strong_count(s) == 1);
        book.retired = held;
        drop(book);
        // Outside the lock: freeing a large snapshot takes its time.
        drop::<Vec<_>>(free);
    }

    /// What was looked up since the last call, or is busy now: Destinations, and Outbounds in the default view's name.
    pub fn used(&self) -> Vec<Key> {
        let snapshot = self.current.load();
        let mut used = Vec::new();
        let mut services = HashSet::new();
        for (name, (service, mark)) in &snapshot.services {
            // Both are asked: the mark must come down either way.
            if mark.take() | service.is_busy() {
                used.push(Key::Outbound { service: name.clone(), view: DEFAULT_VIEW.into() });
                services.insert(name);
            }
        }
        for (address, (destination, mark)) in &snapshot.destinations {
            // A connection that lasts looked its address up once, and its Service with each request.
            let through = match &**destination {
                Destination::Service(port) => services.contains(&port.service),
                Destination::Workload(_) | Destination::NotFound => false,
            };
            if mark.take() | through {
                used.push(Key::Destination(*address));
            }
        }
        used
    }

    /// What an address is: at once where it is known, else after one bounded wait for the control plane.
    pub async fn destination(&self, address: SocketAddr, wait_max: Duration) -> Result<Arc<Destination>, Unanswered> {
        self.wait(Key::Destination(address), wait_max, |snapshot| snapshot.destination(address).cloned()).await
    }

    /// A Service by name, for explicit listeners; as `destination`.
    pub async fn service(&self, name: &ServiceName, wait_max: Duration) -> Result<Arc<Service>, Unanswered> {
        let key = Key::Outbound { service: name.clone(), view: DEFAULT_VIEW.into() };
        self.wait(key, wait_max, |snapshot| snapshot.service(name).cloned()).await
    }

    async fn wait<T>(
        &self,
        key: Key,
        wait_max: Duration,
        find: impl Fn(&Snapshot) -> Option<T>,
    ) -> Result<T, Unanswered> {
        if let Some(found) = find(&self.current.load()) {
            return Ok(found);
        }
        // Subscribed before the second look, so that an answer between the two is not missed.
        let mut changes = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + wait_max;
        let _asked = self.ask(key);
        loop {
            if let Some(found) = find(&self.current.load()) {
                return Ok(found);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Unanswered),
            }
        }
    }

    /// Dropping what it returns ends the wait for this key.
    fn ask(&self, key: Key) -> Asked<'_> {
        let mut asked = self.asked.lock();
        let is_new = !asked.contains_key(&key);
        if is_new && (asked.len() >= ASKED_MAX || self.wanted.try_send(key.clone()).is_err()) {
            // Nobody took it; the next request may ask again.
            return Asked { state: self, key: None };
        }
        *asked.entry(key.clone()).or_default() += 1;
        Asked { state: self, key: Some(key) }
    }

    fn build(&self, resources: &BTreeMap<Key, Arc<Resource>>, previous: &Snapshot, now: Instant) -> Snapshot {
        let mut snapshot = Snapshot { version: previous.version + 1, ..Snapshot::default() };
        let mut share = Arc::new(Share::default());
        let own = resources.values().find_map(|resource| match &**resource {
            Resource::Inbound(own) => Some(own),
            _ => None,
        });
        let here = Here::of(own);
        let mut endpoints: HashMap<ServicePort, Vec<&Endpoint>> = HashMap::new();
        for (key, resource) in resources {
            step_aside();
            match (key, &**resource) {
                (Key::Destination(address), Resource::Destination(it)) => {
                    let before = previous.destinations.get(address);
                    let mark = before.map(|(_, mark)| mark.clone()).unwrap_or_default();
                    drop(snapshot.destinations.insert(*address, (kept(before.map(|(it, _)| it), it), mark)));
                }
                (_, Resource::Endpoints(it)) => {
                    // As kube-proxy: where there is none on the own node, there is none.
                    let may = |one: &&Endpoint| !it.own_node_only || one.node == here.node;
                    endpoints.entry(it.target.clone()).or_default().extend(it.endpoints.iter().filter(may));
                }
                (_, Resource::Inbound(it)) => snapshot.inbound = Some(kept(previous.inbound.as_ref(), it)),
                (_, Resource::TrustBundle(it)) => snapshot.trust = Some(kept(previous.trust.as_ref(), it)),
                (_, Resource::ProxyConfig(it)) => snapshot.config = Some(kept(previous.config.as_ref(), it)),
                (_, Resource::EgressIndex(it)) => snapshot.egress = kept(Some(&previous.egress), it),
                (_, Resource::Share(it)) => share = Arc::new(it.clone()),
                _ => {}
            }
        }
        let shares: HashMap<&ServicePort, u32> =
            share.max_connections.iter().map(|(name, part)| (name, *part)).collect();
        for resource in resources.values() {
            step_aside();
            if let Resource::Outbound(outbound) = &**resource {
                let mut builder =
                    Builder { state: self, previous, endpoints: &endpoints, shares: &shares, here: &here, now };
                let service = builder.service(&mut snapshot.targets, outbound);
                let mark = previous.services.get(&outbound.service).map(|(_, mark)| mark.clone()).unwrap_or_default();
                snapshot.services.insert(outbound.service.clone(), (Arc::new(service), mark));
            }
        }
        snapshot
    }
}

/// One who waits for an answer.
struct Asked<'a> {
    state: &'a State,
    key: Option<Key>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut asked = self.state.asked.lock();
        if let Some(waiting) = asked.get_mut(&key) {
            *waiting -= 1;
            if *waiting == 0 {
                asked.remove(&key);
            }
        }
    }
}

/// The same allocation where nothing changed, so that those who hold it see that.
fn kept<T: Clone + PartialEq>(previous: Option<&Arc<T>>, new: &T) -> Arc<T> {
    previous.filter(|old| ***old == *new).cloned().unwrap_or_else(|| Arc::new(new.clone()))
}

struct Builder<'a> {
    state: &'a State,
    previous: &'a Snapshot,
    endpoints: &'a HashMap<ServicePort, Vec<&'a Endpoint>>,
    shares: &'a HashMap<&'a ServicePort, u32>,
    here: &'a Here,
    now: Instant,
}

impl Builder<'_> {
    fn service(&mut self, targets: &mut HashMap<ServicePort, Arc<Target>>, outbound: &Outbound) -> Service {
        let previous = self.previous.services.get(&outbound.service);
        let ports = outbound.ports.iter().map(|port| {
            let own = self.target(targets, &port.backend.target, &port.backend.policy);
            let mut named = vec![own.clone()];
            for backend in backends(port) {
                let target = self.target(targets, &backend.target, &backend.policy);
                if !named.iter().any(|t| t.name == target.name) {
                    named.push(target);
                }
            }
            let before = previous.and_then(|(service, _)| service.port(port.port)).map(|before| &before.policy);
            Port { policy: kept(before, port), own, targets: named }
        });
        Service { name: outbound.service.clone(), ports: ports.collect() }
    }

    /// One target for a name within a snapshot: limits are per destination, whichever route leads there.
    fn target(
        &self,
        targets: &mut HashMap<ServicePort, Arc<Target>>,
        name: &ServicePort,
        policy: &Arc<Traffic>,
    ) -> Arc<Target> {
        if let Some(target) = targets.get(name) {
            return target.clone();
        }
        let none = Vec::new();
        let share = self.shares.get(name).copied();
        let endpoints = self.endpoints.get(name).unwrap_or(&none);
        let previous = self.previous.targets.get(name);
        let target = match previous {
            // Most transactions change one target of many.
            Some(previous) if previous.is_of(policy, endpoints, share, self.here) => previous.clone(),
            Some(_) | None => {
                let context = Context { now: self.now, reclaim: &*self.state.reclaim, share, here: self.here };
                Arc::new(Target::build(name, policy, endpoints, previous.map(|p| &**p), &context))
            }
        };
        targets.insert(name.clone(), target.clone());
        target
    }
}

/// Every backend that a port's routes name, mirrors included.
fn backends(port: &OutboundPort) -> impl Iterator<Item = &Backend> {
    let rules = port.routes.iter().flat_map(|route| &route.rules);
    rules.flat_map(|rule| {
        let mirrors =
            rule.filters.iter().chain(rule.backends.iter().flat_map(|b| &b.filters)).filter_map(|f| match f {
                leno_proto::policy::Filter::Mirror { backend, .. } => Some(backend),
                _ => None,
            });
        rule.backends.iter().chain(mirrors)
    })
}
