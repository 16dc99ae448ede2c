//! Every metric of the proxy, as a field with its sentence of help, and the Prometheus text they make. Counters of the
//! request path have one writer each, a worker, and are summed when scraped. It must never take a label from the network.

mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Reason;

/// A count that one thread writes and any may read: an increment is a plain load and store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub fn increment(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A count that any thread may write; for what happens seldom.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A level that one worker moves up and down; the sum over workers is what is shown.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, change: i64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
    }

    /// For levels that are set whole, by whichever thread knows them.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds in seconds: those of OpenTelemetry's semantic conventions for request durations, with four finer ones in
/// front, because a hop inside a cluster takes less than a millisecond.
pub const BOUNDS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Durations, written by one worker.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    sum_nanos: Counter,
}

impl Histogram {
    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.buckets[BOUNDS.partition_point(|bound| *bound < seconds)].increment();
        self.sum_nanos.add(duration.as_nanos() as u64);
    }
}

/// Which story: as seen from our application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// How the bytes of a request or connection travelled between the sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Mtls,
    Plaintext,
}

/// Why a pooled connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Unused for the policy's `idleTimeout`, or longer than the server was seen to allow.
    Idle,
    /// Reached its jittered `maxLifetime`, or `maxRequests`.
    Lifetime,
    /// The other end closed it while it was idle.
    Peer,
    /// It failed in use.
    Error,
    /// Its exchange or tunnel ended, and it carries no other.
    Done,
    /// HTTP/2 GOAWAY.
    Goaway,
    /// Its endpoint left, its identity or the trust bundle changed.
    Evicted,
    /// Given up so that a waiter could have its permit.
    Reclaimed,
    /// The exchange on it was cut short.
    Cancelled,
    /// The proxy drains.
    Drain,
}

impl Close {
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Lifetime,
        Self::Peer,
        Self::Error,
        Self::Done,
        Self::Goaway,
        Self::Evicted,
        Self::Reclaimed,
        Self::Cancelled,
        Self::Drain,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Peer => "peer",
            Self::Error => "error",
            Self::Done => "done",
            Self::Goaway => "goaway",
            Self::Evicted => "evicted",
            Self::Reclaimed => "reclaimed",
            Self::Cancelled => "cancelled",
            Self::Drain => "drain",
        }
    }
}

/// Which budget a retry drew on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The application provably never saw the request.
    NeverProcessed,
    /// The provable idle race: the server closed a kept connection as we used it.
    IdleRace,
    /// A kept connection was reset as we used it: repeated where the method allows.
    IdleReset,
    /// Allowed by the policy.
    Policy,
    /// Wanted by the policy and refused by the budget.
    Refused,
}

impl Retry {
    pub const ALL: [Self; 5] = [Self::NeverProcessed, Self::IdleRace, Self::IdleReset, Self::Policy, Self::Refused];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverProcessed => "never_processed",
            Self::IdleRace => "idle_race",
            Self::IdleReset => "idle_reset",
            Self::Policy => "policy",
            Self::Refused => "refused_by_budget",
        }
    }
}

/// What became of the copy of a request that a rule wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirror {
    /// It was answered, however.
    Sent,
    Failed,
    /// Its backend has no room, or the request switches protocols.
    Dropped,
}

impl Mirror {
    pub const ALL: [Self; 3] = [Self::Sent, Self::Failed, Self::Dropped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

const REASONS: usize = Reason::ALL.len();

/// What one worker counts for one service and route in one direction. Resolved once per snapshot, never per request.
#[derive(Debug)]
pub struct Requests {
    /// By status class: index 0 has no answer at all, 1 to 5 are 1xx to 5xx; and how they travelled.
    pub classes: [[Counter; 6]; 2],
    /// Requests that this proxy itself ended, by reason.
    pub failures: [Counter; REASONS],
    /// From the request's head to the last byte of its answer.
    pub duration: Histogram,
    /// Requests that are being served.
    pub active: Gauge,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            classes: Default::default(),
            failures: std::array::from_fn(|_| Counter::default()),
            duration: Histogram::default(),
            active: Gauge::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
        }
    }
}

impl Requests {
    /// Counts the end of one request. `status` 0: there was no answer.
    pub fn ended(&self, tls: Tls, status: u16, reason: Option<Reason>, duration: Duration) {
        let class = usize::from(status / 100).min(5);
        self.classes[tls as usize][class].increment();
        if let Some(reason) = reason {
            self.failures[reason as usize].increment();
        }
        self.duration.record(duration);
    }
}

/// What one worker counts for its connections to one service.
#[derive(Debug, Default)]
pub struct Pool {
    /// Connections that carry a request.
    pub active: Gauge,
    pub idle: Gauge,
    pub connecting: Gauge,
    /// Requests that wait for a connection.
    pub pending: Gauge,
    /// How long they waited, those that need not wait included.
    pub acquire: Histogram,
    /// TCP and TLS together.
    pub connect: Histogram,
    pub checkouts_reused: Counter,
    pub checkouts_new: Counter,
    pub closes: [Counter; Close::ALL.len()],
    /// Ages of closed connections, by the same reasons, for the mean age at close.
    pub closed_age_millis: [Counter; Close::ALL.len()],
    pub retries: [Counter; Retry::ALL.len()],
    pub ejections: Counter,
    pub mirrors: [Counter; Mirror::ALL.len()],
}

impl Pool {
    pub fn closed(&self, why: Close, age: Duration) {
        self.closes[why as usize].increment();
        self.closed_age_millis[why as usize].add(age.as_millis() as u64);
    }
}

/// What happens seldom, and belongs to no worker.
#[derive(Debug, Default)]
pub struct Proxy {
    pub certificate_renewals: SharedCounter,
    pub certificate_failures: SharedCounter,
    /// End of the leaf's life, seconds since 1970.
    pub certificate_expires: Gauge,
    /// 1 while a session with the control plane is open.
    pub control_connected: Gauge,
    pub control_connects: SharedCounter,
    pub resources_applied: SharedCounter,
    pub resources_rejected: SharedCounter,
    pub resources_unchanged: SharedCounter,
    pub resources_evicted: SharedCounter,
    pub resources_revived: SharedCounter,
    pub resources_held: Gauge,
    /// Connections that ended before there was a request, by reason.
    pub connection_failures: ConnectionFailures,
    pub connections: Gauge,
    pub handshakes: SharedCounter,
    pub log_lines_dropped: SharedCounter,
    pub spans_exported: SharedCounter,
    pub spans_dropped: SharedCounter,
    pub panics: SharedCounter,
    /// Of the application, performed for the kubelet.
    pub probes: SharedCounter,
    pub probe_failures: SharedCounter,
}

#[derive(Debug)]
pub struct ConnectionFailures([SharedCounter; REASONS]);

impl Default for ConnectionFailures {
    fn default() -> Self {
        Self(std::array::from_fn(|_| SharedCounter::default()))
    }
}

impl ConnectionFailures {
    pub fn increment(&self, reason: Reason) {
        self.0[reason as usize].increment();
    }

    pub fn value(&self, reason: Reason) -> u64 {
        self.0[reason as usize].value()
    }
}

/// Names a set of request series. `service` is `namespace/name:port` outbound and the port's number inbound; `route` is the
/// route's origin or empty: all from policy, none from the network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RequestsKey {
    direction: Direction,
    service: Arc<str>,
    route: Arc<str>,
}

/// Sets of series that one family may have; what comes after them is counted together as `other`.
const SERIES_MAX: usize = 1000;

/// What policy allows towards a destination, and whether its breaker lets anything through: read when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    pub service: Arc<str>,
    /// `connection.maxConnections`.
    pub connections_max: u32,
    /// `None`: it has no breaker.
    pub breaker_open: Option<bool>,
}

/// All metrics of this process. Workers ask for their handles when they take a new snapshot.
#[derive(Default)]
pub struct Metrics {
    pub proxy: Proxy,
    requests: Mutex<BTreeMap<RequestsKey, Vec<Arc<Requests>>>>,
    pools: Mutex<BTreeMap<Arc<str>, Vec<Arc<Pool>>>>,
}

impl Metrics {
    /// The handle of `worker` (counted from 0). Two calls with the same arguments give the same handle.
    pub fn requests(&self, direction: Direction, service: &str, route: &str, worker: usize) -> Arc<Requests> {
        let mut table = self.requests.lock();
        let mut key = RequestsKey { direction, service: service.into(), route: route.into() };
        if table.len() >= SERIES_MAX && !table.contains_key(&key) {
            (key.service, key.route) = ("other".into(), "".into());
        }
        of_worker(table.entry(key).or_default(), worker)
    }

    /// As `requests`, for the connections to a service.
    pub fn pool(&self, service: &str, worker: usize) -> Arc<Pool> {
        let mut table = self.pools.lock();
        let name: Arc<str> = match table.len() >= SERIES_MAX && !table.contains_key(service) {
            true => "other".into(),
            false => service.into(),
        };
        of_worker(table.entry(name).or_default(), worker)
    }

    /// Prometheus text format 0.0.4.
    pub fn render(&self) -> String {
        self.render_with(&[])
    }

    /// With what is known of destinations beside what has been counted.
    pub fn render_with(&self, levels: &[Level]) -> String {
        let mut text = text::Text::default();
        text::proxy(&mut text, &self.proxy);
        // Copies of the handles, so that no lock is held while text is made.
        let requests: Vec<_> = self.requests.lock().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        text::requests(&mut text, &requests);
        let pools: Vec<_> = self.pools.lock().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        text::pools(&mut text, &pools);
        text::levels(&mut text, &levels[..levels.len().min(SERIES_MAX)]);
        text.finish()
    }
}

fn of_worker<T: Default>(handles: &mut Vec<Arc<T>>, worker: usize) -> Arc<T> {
    while handles.len() <= worker {
        handles.push(Arc::default());
    }
    handles[worker].clone()
}
