//! Connections to endpoints, one pool per worker: what is kept, what is opened, who waits. It must never lend a connection to
//! a request that differs in anything that matters for security, nor open one without its destination's permit.

mod idle;
mod lane;
pub mod shelf;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use leno_proto::identity::SpiffeId;

use leno_proto::policy::Connection;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Traffic;
use tokio::sync::Notify;

use crate::error::Error;
use crate::gate::Gate;
use crate::gate::Permit;
use crate::gate::Refused;
use crate::http::body;
use crate::http::body::Body;
use crate::http::h1;
use crate::http::h2;
use crate::metrics;
use crate::metrics::Close;
use crate::net;
use crate::net::Io;
use crate::pool::lane::Lane;
pub use crate::pool::lane::Stream;
use crate::quick::Table;
use crate::timer::Timers;
use crate::tls::Alpn;
use crate::tls::Tls;
use crate::upstream::IdleLimit;

/// Everything that two requests must agree on to share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The endpoint's: an address alone may have changed hands.
    pub uid: Arc<str>,
    pub address: SocketAddr,
    /// Who must answer. `None`: plaintext.
    pub identity: Option<SpiffeId>,
    pub wire: Wire,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/1 in plaintext, to an application or out of the mesh.
    Http1,
    /// HTTP/2 with prior knowledge, in plaintext.
    Http2,
    /// `leno/h2`: requests between sidecars.
    Hop,
    /// `leno/h1`: one upgrade between sidecars.
    HopUpgrade,
    /// `leno/tcp`: one opaque connection between sidecars.
    HopOpaque,
    /// Bytes in plaintext.
    Opaque,
}

/// How one endpoint is reached, and under which limits.
#[derive(Clone)]
pub struct Way {
    pub key: Key,
    /// Whose limits these are, for messages.
    pub target: ServicePort,
    /// One permit is one open connection, idle or not, on any worker.
    pub gate: Arc<Gate>,
    pub limits: Limits,
    /// Learns how long the server lets a connection idle.
    pub idle: Arc<IdleLimit>,
    pub parallelism: u32,
    pub metrics: Arc<metrics::Pool>,
}

/// The policy that the pool obeys.
#[derive(Clone)]
pub enum Limits {
    Traffic(Arc<Traffic>),
    /// Towards our own application.
    Application(Arc<Connection>),
}

impl Limits {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Traffic(ours), Self::Traffic(theirs)) => Arc::ptr_eq(ours, theirs),
            (Self::Application(ours), Self::Application(theirs)) => Arc::ptr_eq(ours, theirs),
            (Self::Traffic(_), Self::Application(_)) | (Self::Application(_), Self::Traffic(_)) => false,
        }
    }

    pub fn connection(&self) -> &Connection {
        match self {
            Self::Traffic(traffic) => &traffic.connection,
            Self::Application(connection) => connection,
        }
    }
}

/// What all of one worker's connections are made with.
pub struct Make {
    pub tls: Arc<Tls>,
    pub hop: h2::Settings,
    pub plaintext: h2::Settings,
    pub timers: Timers,
}

/// One worker's connections.
pub struct Pool {
    lanes: RefCell<Table<Key, Rc<Lane>>>,
    make: Rc<Make>,
    /// Rings when something happens to an idle connection.
    bell: Arc<Notify>,
}

/// Which connection a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// For what can be sent again whole.
    Any,
    /// For what can not: none that has idled long enough for a server to be closing it. A connection is cheaper than a
    /// request that nobody knows the fate of.
    Recent,
    /// None that has idled: that is what has just failed.
    Fresh,
}

/// An HTTP/1 connection to send one request on, and its way home.
pub struct Http1 {
    pub client: h1::Client,
    pub home: Box<dyn h1::Home>,
    /// Used before: the server may be closing it as we speak.
    pub reused: bool,
}

/// A connection of its own, for one tunnel; dropped with its permit.
pub struct Opened {
    pub io: Io,
    pub guard: OpenGuard,
}

/// Counts a connection that is not shared, and holds its permit.
pub struct OpenGuard {
    metrics: Arc<metrics::Pool>,
    born: Instant,
    _permit: Permit,
}

impl Pool {
    pub fn new(make: Make) -> Self {
        Self { lanes: RefCell::default(), make: Rc::new(make), bell: Arc::default() }
    }

    /// An idle connection, else a new one, else the next that comes back before `deadline`. It is `now`.
    pub async fn http1(&self, way: &Way, take: Take, now: Instant, deadline: Instant) -> Result<Http1, Error> {
        let lane = self.lane(way);
        if let Some(kept) = lane.take_idle(now, take) {
            way.metrics.acquire.record(Duration::ZERO);
            return Ok(lane.lend(kept, way, Reused::Yes, now));
        }
        let started = now;
        let mut free = way.gate.try_acquire();
        if free.is_none() && take == Take::Fresh && lane.give_up() {
            free = way.gate.try_acquire();
        }
        let permit = match free {
            Some(permit) => permit,
            None => {
                let _waiting = Waiting::new(&way.metrics);
                let returned = lane.wait();
                let until = tokio::time::Instant::from_std(deadline);
                tokio::select! {
                    // A connection that comes back saves a handshake.
                    biased;
                    Ok(kept) = returned => {
                        way.metrics.acquire.record(started.elapsed());
                        return Ok(lane.lend(kept, way, Reused::Yes, Instant::now()));
                    }
                    permit = way.gate.acquire(way.limits.connection().max_pending) => way.granted(permit, started)?,
                    () = tokio::time::sleep_until(until) => return Err(way.late(started)),
                }
            }
        };
        way.metrics.acquire.record(started.elapsed());
        // Boxed: seldom, and as large as a handshake.
        let io = Box::pin(way.connect(&self.make)).await?;
        Ok(lane.lend_new(io, permit, way, &self.bell))
    }

    /// A stream's place on a connection that is shared by many.
    pub async fn http2(&self, way: &Way, now: Instant, deadline: Instant) -> Result<Stream, Error> {
        let lane = self.lane(way);
        // As nearly always.
        if let Some(stream) = lane.stream_at_once(self, way, now) {
            way.metrics.acquire.record(Duration::ZERO);
            return Ok(stream);
        }
        let started = now;
        match self.make.timers.timeout_at(deadline.into(), pin!(lane.stream(self, way))).await {
            Some(stream) => {
                way.metrics.acquire.record(started.elapsed());
                stream
            }
            None => Err(way.late(started)),
        }
    }

    /// A connection for one tunnel.
    pub async fn open(&self, way: &Way, deadline: Instant) -> Result<Opened, Error> {
        let permit = self.permit(way, deadline).await?;
        // Boxed: seldom, and as large as a handshake.
        let io = Box::pin(way.connect(&self.make)).await?;
        let metrics = Arc::clone(&way.metrics);
        metrics.active.add(1);
        metrics.checkouts_new.increment();
        Ok(Opened { io, guard: OpenGuard { metrics, born: Instant::now(), _permit: permit } })
    }

    /// Lets go of idle connections as their servers close them. Never ready.
    pub async fn watch(&self) {
        loop {
            self.bell.notified().await;
            self.notice(Instant::now());
        }
    }

    fn notice(&self, now: Instant) {
        self.lanes.borrow().values().for_each(|lane| lane.notice(now));
    }

    /// Closes what idled or lived too long. Once a second is enough: checkout looks again.
    pub fn sweep(&self, now: Instant) {
        self.lanes.borrow_mut().retain(|_, lane| {
            lane.sweep(now);
            !lane.is_empty() || Rc::strong_count(lane) > 1
        });
    }

    /// Gives up one idle connection of `target`; says whether there was one.
    pub fn give_up(&self, target: &ServicePort) -> bool {
        self.lanes.borrow().values().any(|lane| lane.target() == target && lane.give_up())
    }

    /// Closes the idle connections to endpoints that are not to be called any more.
    pub fn evict(&self, mut keep: impl FnMut(&Key) -> bool) {
        self.lanes.borrow_mut().retain(|key, lane| {
            let kept = keep(key);
            if !kept {
                lane.close_idle(Close::Evicted);
            }
            kept || Rc::strong_count(lane) > 1
        });
    }

    pub fn is_borrowed(&self) -> bool {
        self.lanes.try_borrow().map_or(true, |lanes| lanes.values().any(|lane| lane.is_borrowed()))
    }

    fn lane(&self, way: &Way) -> Rc<Lane> {
        if let Some(lane) = self.lanes.borrow().get(&way.key) {
            lane.obey(way);
            return Rc::clone(lane);
        }
        let lane = Rc::new(Lane::new(way));
        self.lanes.borrow_mut().insert(way.key.clone(), Rc::clone(&lane));
        lane
    }

    async fn permit(&self, way: &Way, deadline: Instant) -> Result<Permit, Error> {
        if let Some(permit) = way.gate.try_acquire() {
            return Ok(permit);
        }
        let started = Instant::now();
        let _waiting = Waiting::new(&way.metrics);
        let granted = way.gate.acquire_until(way.limits.connection().max_pending, deadline).await;
        way.granted(granted, started)
    }
}

impl Take {
    /// For a first attempt. `idempotent`: it may be repeated once it may have been processed (`retry::is_idempotent`).
    pub fn of(idempotent: bool, body: &Body<'_>) -> Self {
        let whole = body.length().is_some_and(|length| length <= body::KEPT_MAX as u64);
        if idempotent && whole { Self::Any } else { Self::Recent }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reused {
    Yes,
    No,
}

impl Way {
    fn granted(&self, granted: Result<Permit, Refused>, started: Instant) -> Result<Permit, Error> {
        granted.map_err(|refused| match refused {
            Refused::QueueFull => Error::QueueFull(self.target.clone()),
            Refused::Timeout => self.late(started),
        })
    }

    fn late(&self, started: Instant) -> Error {
        Error::AcquireTimeout { target: self.target.clone(), after: started.elapsed() }
    }

    /// TCP and, where an identity is expected, TLS, within the policy's connect timeout.
    async fn connect(&self, make: &Make) -> Result<Io, Error> {
        let (address, within) = (self.key.address, self.limits.connection().connect_timeout);
        let _connecting = Connecting::new(&self.metrics);
        let started = Instant::now();
        let io = tokio::time::timeout(within, self.dial(make))
            .await
            .unwrap_or(Err(Error::ConnectTimeout { address, after: within }))?;
        self.metrics.connect.record(started.elapsed());
        Ok(io)
    }

    async fn dial(&self, make: &Make) -> Result<Io, Error> {
        let address = self.key.address;
        let stream = net::connect(address, &self.limits.connection().keepalive)
            .await
            .map_err(|source| Error::Connect { address, source })?;
        let Some(expected) = &self.key.identity else { return Ok(Io::Tcp(stream)) };
        let alpn = match self.key.wire {
            Wire::Hop | Wire::Http1 | Wire::Http2 => Alpn::H2,
            Wire::HopUpgrade => Alpn::H1,
            Wire::HopOpaque | Wire::Opaque => Alpn::Tcp,
        };
        let (io, _) = make.tls.connect(stream, expected, alpn).await.map_err(|error| Error::Tls {
            address,
            reason: error.reason,
            detail: error.message,
        })?;
        Ok(io)
    }
}

/// A gauge that is down again when the guard is gone.
struct Waiting(Arc<metrics::Pool>);

impl Waiting {
    fn new(metrics: &Arc<metrics::Pool>) -> Self {
        metrics.pending.add(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.pending.add(-1);
    }
}

struct Connecting(Arc<metrics::Pool>);

impl Connecting {
    fn new(metrics: &Arc<metrics::Pool>) -> Self {
        metrics.connecting.add(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.add(-1);
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.metrics.active.add(-1);
        self.metrics.closed(Close::Done, self.born.elapsed());
    }
}
