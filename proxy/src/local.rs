//! What the connections of one worker have in common, and what all workers share. It must never be borrowed across an await.

mod apps;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;
use std::time::Instant;

use leno_proto::policy::InboundTraffic;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Workload;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::access_log::AccessLog;
use crate::balance::Ewma;
use crate::drain::Watch;
use crate::gate::Reclaim;
use crate::http::h2;
use crate::local::apps::APPLICATION;
pub use crate::local::apps::App;
pub use crate::local::apps::Apps;
use crate::metrics;
use crate::metrics::Direction;
use crate::metrics::Metrics;
use crate::metrics::Retry;
use crate::pool::Make;
use crate::pool::Pool;
use crate::quick::Table;
use crate::retry::Kind;
use crate::standing::Standing;
use crate::state::Snapshot;
use crate::state::State;
use crate::timer::Timers;
use crate::tls::Tls;
use crate::trace;
use crate::trace::export::Spans;
use crate::upstream::Context;
use crate::upstream::EndpointShared;
use crate::upstream::Here;
use crate::upstream::Target;

/// What every worker of the process has.
#[derive(Clone)]
pub struct Shared {
    pub state: Arc<State>,
    pub tls: Arc<Tls>,
    pub metrics: Arc<Metrics>,
    pub log: AccessLog,
    pub spans: Spans,
    pub tracing: trace::Rules,
    pub drain: Watch,
    pub ledger: h2::Ledger,
    /// Where we listen: what leads there leads back to us.
    pub listens: Arc<[SocketAddr]>,
    /// Addresses of this pod.
    pub own: Arc<[IpAddr]>,
    pub pods: Arc<Pods>,
    pub apps: Arc<Apps>,
}

/// Direction, service and route.
type Series = (Direction, Arc<str>, Arc<str>);

/// The counters that were asked for last, found by where their names lie: a request's names are its policy's own texts.
#[derive(Default)]
struct Recent([Option<(Series, Arc<metrics::Requests>)>; 16]);

impl Recent {
    fn slot(direction: Direction, service: &Arc<str>, route: &Arc<str>) -> usize {
        let spread = |text: &Arc<str>| text.as_ptr() as usize >> 4;
        (spread(service) ^ spread(route) ^ direction as usize) % 16
    }

    fn find(&self, direction: Direction, service: &Arc<str>, route: &Arc<str>) -> Option<&Arc<metrics::Requests>> {
        let ((d, s, r), found) = self.0[Self::slot(direction, service, route)].as_ref()?;
        (*d == direction && Arc::ptr_eq(s, service) && Arc::ptr_eq(r, route)).then_some(found)
    }

    fn keep(&mut self, direction: Direction, service: &Arc<str>, route: &Arc<str>, found: &Arc<metrics::Requests>) {
        let series = (direction, Arc::clone(service), Arc::clone(route));
        self.0[Self::slot(direction, service, route)] = Some((series, Arc::clone(found)));
    }
}

/// What one worker has for itself.
pub struct Local {
    pub worker: usize,
    pub shared: Shared,
    pub pool: Pool,
    pub timers: Timers,
    /// For ids, jitter and choices; no secret is made of it.
    pub dice: RefCell<Xoshiro256PlusPlus>,
    /// What runs here by a permission of our application's policy.
    pub standing: Rc<Standing>,
    turn: Cell<u64>,
    /// The policy of now, looked up anew when its version has moved.
    snapshot: RefCell<Arc<Snapshot>>,
    /// By the address of the record that all workers share, which `Weak` keeps from being another's.
    latencies: RefCell<Table<usize, (Weak<EndpointShared>, Ewma)>>,
    requests: RefCell<Table<Series, Arc<metrics::Requests>>>,
    recent: RefCell<Recent>,
    pools: RefCell<Table<Arc<str>, Arc<metrics::Pool>>>,
}

impl Local {
    /// On the worker's thread, inside its runtime.
    pub fn new(worker: usize, shared: Shared) -> Rc<Self> {
        let timers = Timers::new();
        let make = Make {
            tls: Arc::clone(&shared.tls),
            hop: h2::Settings::hop(shared.ledger.clone()),
            plaintext: h2::Settings { keep_alive: None, ..h2::Settings::plaintext(shared.ledger.clone()) },
            timers: timers.clone(),
        };
        Rc::new(Self {
            worker,
            pool: Pool::new(make),
            timers,
            dice: RefCell::new(Xoshiro256PlusPlus::from_rng(&mut rand::rng())),
            standing: Rc::default(),
            turn: Cell::new(0),
            snapshot: RefCell::new(shared.state.load()),
            latencies: RefCell::default(),
            requests: RefCell::default(),
            recent: RefCell::default(),
            pools: RefCell::default(),
            shared,
        })
    }

    /// Whether any of it is being changed: where a panic begins now, it would stay half changed.
    pub fn is_borrowed(&self) -> bool {
        self.dice.try_borrow().is_err()
            || self.latencies.try_borrow().is_err()
            || self.requests.try_borrow().is_err()
            || self.pools.try_borrow().is_err()
            || self.recent.try_borrow().is_err()
            || self.snapshot.try_borrow().is_err()
            || self.standing.is_borrowed()
            || self.timers.is_borrowed()
            || self.pool.is_borrowed()
    }

    /// Keeps house until dropped.
    pub async fn keep_house(self: Rc<Self>) {
        tokio::select! {
            // Neither ever ends.
            biased;
            () = self.pool.watch() => {}
            () = self.sweep() => {}
        }
    }

    /// Once a second.
    async fn sweep(&self) {
        let (mut version, mut generation) = (0, 0);
        loop {
            self.timers.sleep(Duration::from_secs(1)).await;
            self.pool.sweep(Instant::now());
            // An idle worker holds no policy of the past either.
            self.snapshot();
            let now = (self.shared.state.version(), self.shared.tls.generation());
            if now.0 != version {
                self.evict_strangers();
            }
            if now.1 != generation && generation != 0 {
                // Proven under a certificate or anchors that are no more: what is under way ends, nothing new begins.
                self.pool.evict(|key| key.identity.is_none());
            }
            (version, generation) = now;
            self.latencies.borrow_mut().retain(|_, (endpoint, _)| endpoint.strong_count() > 0);
        }
    }

    /// Closes the connections to endpoints that policy does not name any more.
    fn evict_strangers(&self) {
        let snapshot = self.snapshot();
        let members = snapshot.targets().flat_map(|target| &target.members).map(|member| &member.shared.identity);
        let known: HashSet<(&str, SocketAddr)> = members.map(|key| (&*key.uid, key.address)).collect();
        self.pool.evict(|key| {
            let own = key.uid.starts_with(APPLICATION);
            own || known.contains(&(&*key.uid, key.address)) || self.shared.pods.knows(&key.uid)
        });
    }

    /// The policy of now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let mut held = self.snapshot.borrow_mut();
        if held.version != self.shared.state.version() {
            *held = self.shared.state.load();
        }
        Arc::clone(&held)
    }

    /// This worker's counters for a service and route. The names come from policy: the table is as large as policy is.
    pub fn requests(&self, direction: Direction, service: &Arc<str>, route: &Arc<str>) -> Arc<metrics::Requests> {
        if let Some(found) = self.recent.borrow().find(direction, service, route) {
            return Arc::clone(found);
        }
        let key = (direction, Arc::clone(service), Arc::clone(route));
        let mut table = self.requests.borrow_mut();
        let found =
            table.entry(key).or_insert_with(|| self.shared.metrics.requests(direction, service, route, self.worker));
        self.recent.borrow_mut().keep(direction, service, route, found);
        Arc::clone(found)
    }

    /// The limits of our own application on a port.
    pub fn app(&self, port: u16, policy: &Arc<InboundTraffic>) -> Arc<App> {
        self.shared.apps.port(port, policy, |name| self.shared.state.reclaim(name))
    }

    pub fn pool_metrics(&self, service: &Arc<str>) -> Arc<metrics::Pool> {
        let mut table = self.pools.borrow_mut();
        if let Some(found) = table.get(service) {
            return Arc::clone(found);
        }
        let found = table.entry(Arc::clone(service)).or_insert_with(|| self.shared.metrics.pool(service, self.worker));
        Arc::clone(found)
    }

    pub fn count_retry(&self, service: &Arc<str>, kind: Kind) -> Retry {
        let retry = match kind {
            Kind::NeverProcessed => Retry::NeverProcessed,
            Kind::IdleRace => Retry::IdleRace,
            Kind::IdleReset => Retry::IdleReset,
            Kind::Policy => Retry::Policy,
        };
        self.pool_metrics(service).retries[retry as usize].increment();
        retry
    }

    /// Counts the choices of this worker, for round robin.
    pub fn turn(&self) -> u64 {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// This worker's average for an endpoint, in nanoseconds.
    pub fn latency(&self, endpoint: &Arc<EndpointShared>, decay: Duration, now: Instant) -> f64 {
        match self.latencies.borrow().get(&(Arc::as_ptr(endpoint) as usize)) {
            Some((_, ewma)) => ewma.read(decay, now),
            None => Ewma::new(now).read(decay, now),
        }
    }

    pub fn observe(&self, endpoint: &Arc<EndpointShared>, took: Duration, decay: Duration, now: Instant) {
        let mut latencies = self.latencies.borrow_mut();
        let key = Arc::as_ptr(endpoint) as usize;
        let (_, ewma) = latencies.entry(key).or_insert_with(|| (Arc::downgrade(endpoint), Ewma::new(now)));
        ewma.observe(took, decay, now);
    }

    /// Whether dialling this address would come back to this proxy.
    pub fn leads_back(&self, address: SocketAddr) -> bool {
        self.shared.listens.iter().any(|listen| {
            let host = listen.ip() == address.ip() || (listen.ip().is_unspecified() && self.is_own(address.ip()));
            host && listen.port() == address.port()
        })
    }

    pub fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.shared.own.contains(&address)
    }
}

/// Targets of pods that are called by their own address, shared by the workers so that their limits are exact.
#[derive(Default)]
pub struct Pods(Mutex<HashMap<SocketAddr, Arc<Target>>>);

impl Pods {
    fn knows(&self, uid: &str) -> bool {
        self.0.lock().values().flat_map(|target| &target.members).any(|member| *member.endpoint.uid == *uid)
    }

    /// `reclaim` makes the hook that asks the workers to give up an idle connection to the pod.
    pub fn target(
        &self,
        workload: &Workload,
        address: SocketAddr,
        reclaim: &dyn Fn(&ServicePort) -> Reclaim,
    ) -> Arc<Target> {
        let mut table = self.0.lock();
        let endpoint = &workload.endpoint;
        let before = table.get(&address);
        let same = before.filter(|target| {
            Arc::ptr_eq(&target.policy, &workload.policy)
                && target.members.first().is_some_and(|member| member.endpoint == *endpoint)
        });
        if let Some(target) = same {
            return Arc::clone(target);
        }
        let (namespace, name) = endpoint.pod.split_once('/').unwrap_or(("", &endpoint.uid));
        let service = ServiceName { namespace: namespace.into(), name: name.into() };
        let name = ServicePort { service, port: address.port() };
        let context = Context { now: Instant::now(), reclaim, share: None, here: &Here::default() };
        let target = Arc::new(Target::build(&name, &workload.policy, &[endpoint], before.map(|b| &**b), &context));
        if table.len() >= PODS_MAX {
            table.retain(|_, target| Arc::strong_count(target) > 1);
        }
        table.insert(address, Arc::clone(&target));
        target
    }
}

/// Pods that one application calls by their addresses.
const PODS_MAX: usize = 4096;

#[cfg(test)]
pub mod fixtures {
    //! A worker's own things without a worker.

    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Instant;

    use super::Local;
    use super::Shared;
    use crate::access_log::AccessLog;
    use crate::access_log::Mode;
    use crate::drain;
    use crate::http::h2::Ledger;
    use crate::metrics::Metrics;
    use crate::state::State;
    use crate::tls::Tls;
    use crate::trace;

    /// Inside a local runtime.
    pub fn local() -> Rc<Local> {
        let metrics = Arc::new(Metrics::default());
        let (state, _wanted) = State::new(|_| Box::new(|| ()));
        let shared = Shared {
            state,
            tls: Tls::new(),
            log: AccessLog::new(Mode::Off, metrics.clone()).0,
            spans: trace::export::queue(metrics.clone(), Instant::now()).0,
            tracing: trace::Rules::default(),
            drain: drain::channel().1,
            ledger: Ledger::new(1 << 20),
            listens: Arc::new([]),
            own: Arc::new([]),
            pods: Arc::default(),
            apps: Arc::default(),
            metrics,
        };
        Local::new(0, shared)
    }
}
